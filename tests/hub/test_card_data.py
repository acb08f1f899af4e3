"""What a card says of the data of a training."""

from robust_clip.hub import DataFacts, Origin, render_card


def test_data_of_a_local_copy_are_not_said_to_be_those_of_the_hub() -> None:
    read = [
        {"data": "tiny_imagenet/train", "images": 900, "from": "a local copy"},
        {"data": "cifar10/train", "images": 50000, "from": "uoft-cs/cifar10 on the Hub", "hub id": "uoft-cs/cifar10"},
    ]
    record = {"data": "tiny_imagenet/train, cifar10/train", "data read": read, "steps": 200, "batch size": 32}
    facts = {"tiny_imagenet": DataFacts("zh-plus/tiny-imagenet"), "cifar10": DataFacts("uoft-cs/cifar10")}
    card = render_card("nano", Origin(record=record), datasets=facts)
    assert card.data.to_dict()["datasets"] == ["uoft-cs/cifar10"]
    assert "zh-plus" not in str(card)
    told = "tiny_imagenet/train, 900 images, read from a local copy; "
    told += "cifar10/train, 50000 images, read from uoft-cs/cifar10 on the Hub"
    for line in (f"- data: {told}", "- steps: 200", "- batch size: 32", "- tiny_imagenet (trained on): none stated"):
        assert f"\n{line}\n" in str(card)
    assert "data read" not in str(card)

"""`robust-clip retrieve` as a user meets it."""

import json

import datasets
import pytest
from transformers import BertTokenizer

from paired_clip import CAPTIONS, build_paired_clip, captioned_rows
from robust_clip.cli import main, retrieve
from tests.data.mirror import build


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "paired"
    for part in build_paired_clip():
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "squares"
    folder.mkdir()
    captioned_rows().to_parquet(folder / "test.parquet")
    return folder


@pytest.fixture
def command(checkpoint, squares, capsys):
    """Run the command; gives its exit code, what it printed, and its complaints."""

    def run(*arguments):
        code = main(["retrieve", "--model", str(checkpoint), "--datasets", str(squares), *arguments])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_a_line_for_each_mode(command):
    options = ["--epsilon", "12/255", "--steps", "3", "--text_attack", "leaf", "--batch_size", "5"]
    code, out, _ = command("--attack", "both", *options)
    assert code == 0
    title, _, header, *lines = out.split("\n\nattacked: nothing, which is clean recall")[0].splitlines()
    assert title.startswith("paired (sha256:")
    assert header.split("  ")[0] == "data set"
    assert header.index("image->text R@1") < header.index("image->text R@10") < header.index("text->image R@5")
    place = header.index("attacked")
    assert [line[place:].split()[0] for line in lines] == ["nothing", "images", "captions", "both"]
    assert all("pgd+leaf-gallery linf 12/255  16      20" in line for line in lines)


def test_a_radius_that_changes_nothing_is_refused(command):
    code, _, complaint = command("--attack", "image", "--epsilon", "0")
    assert (code, "linf 0 leaves every image as it is" in complaint) == (2, True)


def test_a_model_that_is_not_there_is_refused_before_data_are_read(command, monkeypatch):
    monkeypatch.setattr(retrieve, "load_image_datasets", lambda *_, **__: pytest.fail("data were read"))
    code, _, complaint = command("--model", "./nowhere")
    assert (code, "No checkpoint './nowhere': no such folder" in complaint) == (2, True)


@pytest.mark.parametrize(
    ("attack", "told"),
    [
        (["image", "--epsilon", "4/255"], "pgd-gallery: pgd on images, climbing how much likelier the rest of"),
        (["text", "--text_attack", "leaf", "--aim", "self"], "leaf-self: leaf on captions, climbing the distance fro"),
        (
            ["both", "--epsilon", "4/255", "--text_attack", "leaf", "--aim", "pair"],
            "pgd+leaf-pair: pgd on images and leaf on captions, climbing the distance from what belongs to it",
        ),
        (
            ["sga", "--epsilon", "4/255", "--text_attack", "leaf"],
            "sga-leaf: sga on images and captions together, with leaf as its search for captions",
        ),
    ],
)
def test_the_names_of_attacks_are_explained(attack, told, command):
    steps = [] if attack[0] == "text" else ["--steps", "1"]
    _, out, _ = command("--samples", "2", "--attack", *attack, *steps)
    assert out.split("\n\nattacked: nothing, which is clean recall")[1].count(told) == 1


def test_a_recall_that_every_model_has_is_left_out(command):
    """Ten images with thirteen captions: R@10 says something of captions, and nothing of images."""
    _, out, _ = command("--samples", "10", "--captions_per_image", "2")
    _, _, header, line, _, _, note = out.splitlines()
    (row,) = json.loads(command("--samples", "10", "--captions_per_image", "2", "--format", "json")[1])
    assert row["n_captions"] > row["n_images"] == 10
    cells = [line[header.index(f"{way} R@10") :].split()[0] for way in ("image->text", "text->image")]
    assert [cell == "-" for cell in cells] == [False, True]
    reason = "the gallery has only 10 entries, so that every query finds its own"
    assert note == f"squares, text->image: R@10 left out: {reason}"
    assert row["recalls"]["clean"]["text_to_image"]["R@10"]["recall"] == 1


def test_help_explains_names(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        main(["retrieve", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "such as pgd-gallery" in told
    assert "nothing, which is clean recall" in told


@pytest.mark.parametrize(
    ("options", "attack", "modes"),
    [
        ([], "none", ["clean"]),
        (["--attack", "image", "--epsilon", "1", "--norm", "l2", "--aim", "pair"], "pgd-pair", ["clean", "images"]),
        (["--attack", "image", "--epsilon", "4/255", "--image_attack", "fgsm"], "fgsm-gallery", ["clean", "images"]),
        (["--attack", "text", "--text_attack", "leaf", "--changes", "2"], "leaf-gallery", ["clean", "captions"]),
        (
            ["--attack", "sga", "--epsilon", "4/255", "--text_attack", "leaf", "--steps", "1"],
            "sga-leaf",
            ["clean", "images", "captions", "both"],
        ),
        (
            ["--attack", "co_attack", "--epsilon", "4/255", "--text_attack", "leaf", "--captions_per_image", "1"],
            "co_attack-leaf",
            ["clean", "images", "captions", "both"],
        ),
    ],
)
def test_json_is_the_rows(options, attack, modes, command):
    code, out, _ = command(*options, "--samples", "6", "--format", "json")
    assert code == 0
    (row,) = json.loads(out)
    assert (row["n_images"], row["attack"], list(row["recalls"])) == (6, attack, modes)
    if attack == "leaf-gallery":
        assert row["protocol"]["text_attack"]["parameters"]["edits"] == 2
    if attack == "co_attack-leaf":
        assert row["protocol"]["joint_attack"]["parameters"]["image_attack"]["parameters"]["steps"] == 10
    if attack == "pgd-pair":
        assert row["protocol"]["image_attack"]["parameters"]["steps"] == 20


@pytest.mark.parametrize("name", ["coco", "flickr30k", "flickr8k"])
def test_captioned_rows_of_the_table(name, command, tmp_path):
    """Laid out as the repositories are, with two captions an image; here all images share them, so none is found."""
    build(name, tmp_path)
    code, out, _ = command("--datasets", name, "--root", str(tmp_path), "--format", "json")
    assert code == 0
    (row,) = json.loads(out)
    assert (row["dataset"]["name"], row["n_images"], row["n_captions"]) == (name, 3, 6)
    assert row["recalls"]["clean"]["image_to_text"]["R@1"]["recall"] == 0


def test_words_are_changed_as_often_as_asked(command):
    options = ["--attack", "text", "--text_attack", "word_list", "--changes", "2", "--samples", "2"]
    _, out, _ = command(*options, "--format", "json")
    assert json.loads(out)[0]["protocol"]["text_attack"]["parameters"]["words"] == 2


def test_records_are_refused_before_any_work_and_resumed(command, tmp_path, monkeypatch):
    arguments = ["--attack", "text", "--text_attack", "leaf", "--records", str(tmp_path), "--format", "json"]
    _, first, _ = command(*arguments)
    assert len(list(tmp_path.glob("squares-test/retrieval-v1-leaf-gallery/retrieval.json"))) == 1
    with monkeypatch.context() as patched:
        patched.setattr(retrieve, "load_checkpoint", None)
        code, _, complaint = command(*arguments)
    assert code == 2
    assert "holds a finished run: go on from it with --resume" in complaint
    _, again, _ = command(*arguments, "--resume")
    assert again == first


def test_mistakes_are_answered_before_the_model_is_loaded(command, coloured_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(retrieve, "load_checkpoint", None)
    BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}, mask_token=None).save_pretrained(tmp_path)
    empty = datasets.Dataset.from_dict({"image": captioned_rows()["image"], "text": ["a dog"] * 15 + [" "]})
    empty.cast_column("image", datasets.Image()).to_parquet(tmp_path / "empty.parquet")
    leaf = ["--text_attack", "leaf"]
    for arguments, message in (
        (["--datasets", str(coloured_folder)], "coloured0 has no captions"),
        (["--datasets", str(tmp_path / "empty.parquet")], "row 15: the caption ' ' in column 'text'"),
        (["--datasets", ","], "give what to measure on"),
        (["--datasets", "nowhere"], "No data set 'nowhere'"),
        (["--split", "train"], "has no split 'train'"),
        (["--samples", "0"], "samples must be at least 1"),
        (["--samples", "1"], "needs at least 2 images"),
        (["--captions_per_image", "0"], "captions_per_image must be at least 1"),
        (["--records", "/dev/null/records"], "cannot write to /dev/null/records"),
        (["--attack", "image"], "attack image needs the radius of its change to images, such as --epsilon 4/255"),
        (["--attack", "image", "--epsilon", "4"], "did you mean 4/255"),
        (["--attack", "image", "--epsilon", "4/255", "--image_attack", "nope"], "known: apgd, auto_attack"),
        (["--attack", "image", "--epsilon", "4/255", "--image_attack", "auto_attack"], "looks for another class"),
        (["--attack", "text", "--text_attack", "nope"], "Unknown text_attack 'nope'; known: bert_attack"),
        (["--attack", "text", "--masked_lm", str(tmp_path)], "has no mask token"),
        (["--attack", "text", "--masked_lm", "nowhere"], "use the attack word_list or leaf, which need none"),
        (["--attack", "text", *leaf, "--masked_lm", "x"], "--masked_lm is for bert_attack, and the text attack is le"),
        (["--attack", "text", *leaf, "--changes", "0"], "LEAF edits must be an integer >= 1, got 0"),
        (["--attack", "text", *leaf, "--epsilon", "4/255"], "--epsilon is for an attack on images, and the attack is"),
        (["--text_attack", "leaf"], "--text_attack is for an attack on captions, and the attack is none"),
        (["--attack", "sga", "--epsilon", "4/255", *leaf, "--aim", "pair"], "--aim is for attack image, text or both"),
        (["--attack", "co_attack", "--epsilon", "4/255", *leaf], "row 0 has 3 captions, and co_attack takes one"),
    ):
        code, out, complaint = command(*arguments)
        assert (code, out) == (2, ""), arguments
        assert message in complaint[complaint.index("robust-clip retrieve: ") :]


def test_captions_that_are_cut_are_told_below_the_table(command, tmp_path):
    captioned_rows([*CAPTIONS[:15], ["a cat " * 60]]).to_parquet(tmp_path / "test.parquet")
    _, out, _ = command("--datasets", str(tmp_path))
    assert out.splitlines()[-1].endswith(": 1 captions are cut")

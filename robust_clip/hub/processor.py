"""The processor that belongs to a checkpoint: its tokenizer cannot be made from weights, it has to be found."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import CLIPImageProcessorPil, CLIPProcessor, CLIPTokenizer, ImageProcessingMixin

from .checkpoint_files import look_for

# A place: a folder or Hub id, and how to reach it there.
Place = tuple[str, Mapping[str, Any]]


def image_statistics(place: Place) -> dict[str, list[float]]:
    """`image_mean` and `image_std` of the image processor in a folder or Hub repository; empty if there is none."""
    name, download = place
    try:
        processor, _ = ImageProcessingMixin.get_image_processor_dict(name, **download)
    except OSError:
        return {}
    return {key: list(processor[key]) for key in ("image_mean", "image_std") if key in processor}


def load_processor(config: Mapping[str, Any], places: Sequence[Place], source: str) -> CLIPProcessor:
    """A processor with the first tokenizer that is found, and an image processor that fits the config.

    Args:
        config: Of the CLIP, with `image_mean` and `image_std`.
        places: Where a tokenizer may be, best first.
        source: Named in errors.

    Raises:
        ValueError: If no place has a tokenizer, or it has more tokens than the text tower.
    """
    tokenizer = next((found for place in places if (found := _tokenizer(place)) is not None), None)
    if tokenizer is None:
        looked = ", ".join(name for name, _ in places) or "nowhere"
        raise ValueError(
            f"No tokenizer for {source} (looked in {looked}). Give a base, a folder or Hub id of a CLIP with the same "
            "vocabulary, such as openai/clip-vit-base-patch32 for OpenAI's and LAION's models."
        )
    text, side = config["text_config"], config["vision_config"]["image_size"]
    if len(tokenizer) > text["vocab_size"]:
        raise ValueError(
            f"The tokenizer found for {source} has {len(tokenizer)} tokens, and its text tower {text['vocab_size']}: "
            "give a base with the same vocabulary."
        )
    tokenizer.model_max_length = text["max_position_embeddings"]
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=config["image_mean"],
        image_std=config["image_std"],
    )
    return CLIPProcessor(image_processor, tokenizer)


def _tokenizer(place: Place) -> CLIPTokenizer | None:
    name, download = place
    try:
        # CLIPTokenizer makes an empty one of a folder without these.
        if look_for(name, "tokenizer.json", download) or look_for(name, "merges.txt", download):
            return CLIPTokenizer.from_pretrained(name, **download)
    except OSError:
        return None
    return None

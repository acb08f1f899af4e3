"""CLIP that is handed pixels in [0, 1], so that an attack can differentiate through all that comes after them."""

import os
from collections.abc import Callable
from typing import Any

import torch
from peft import get_peft_model_state_dict
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel
from transformers.utils.hub import extract_commit_hash

from . import adapters
from .configuration import RobustCLIPConfig
from .packaged import packaged_checkpoint
from .presence import require_checkpoint
from .prompt_files import find_file, refuse_prompts_alone, where_on_hub

# Names of CLIP's parts by tower; the temperature belongs to neither.
TOWERS = {"vision": ("vision_model", "visual_projection"), "text": ("text_model", "text_projection")}


class RobustCLIPModel(CLIPModel):
    """A `CLIPModel` whose resizing and normalising are part of the differentiable forward pass.

    The weights, their names and the saved directory are those of stock CLIP: `CLIPModel.from_pretrained(directory)`
    loads what this class saves, and this class loads any stock CLIP checkpoint, and published ones of other formats.
    """

    config_class = RobustCLIPConfig
    config: RobustCLIPConfig

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *args: Any,
        base: str | None = None,
        hidden_act: str | None = None,
        unchecked: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As transformers', and for checkpoints of other formats: open_clip's, OpenAI's, an image tower alone.

        Those are converted in memory, and `config.conversion` says how; `robust-clip convert` writes them to disk. For
        an adapter of peft its base is loaded first; one trained on other weights is warned of, with both digests.

        Args:
            pretrained_model_name_or_path: Folder, file, Hub id, or `OWNER/NAME/FILE` for one file of a repository.
            *args: As transformers'.
            base: The clean CLIP that a checkpoint of another format was trained from, as a folder or Hub id; an image
                tower alone takes its text tower from there. For an adapter: what to put it on; by default what it
                names.
            hidden_act: Its activation, `quick_gelu` or `gelu`, where neither it nor the registry says.
            unchecked: Take `base` and `hidden_act` at their word, whatever contradicts them.
            **kwargs: As transformers'.

        Raises:
            ValueError: If it is not there, no CLIP, damaged, or cannot be converted, and why.
        """
        # Not at the top: the room of the Hub is built on this one.
        from robust_clip.hub.convert import load_published, needs_conversion

        where = where_on_hub(kwargs)
        # transformers' own calls have no name: a configuration and weights are given then.
        name: Any = pretrained_model_name_or_path and packaged_checkpoint(str(pretrained_model_name_or_path))
        base = packaged_checkpoint(str(base)) if base else base
        if name:
            require_checkpoint(name, **where)
        if name and (settings := adapters.read_settings(name, **where)):
            kwargs |= {"hidden_act": hidden_act, "unchecked": unchecked}
            return cls._with_adapter(name, settings, base, args, kwargs)
        if not (base or hidden_act or unchecked) and not (name and needs_conversion(name, **where)):
            try:
                loaded = super().from_pretrained(name, *args, **kwargs)
                model = loaded[0] if isinstance(loaded, tuple) else loaded
                # Of what was just downloaded, so without another call to the Hub.
                here = where | {"local_files_only": True, "force_download": False}
                file = find_file(str(name), "config.json", **here)
                model.config._commit_hash = extract_commit_hash(file, None)
                return loaded
            except (OSError, ValueError):
                if not name or not needs_conversion(name, ask_hub=True, **where):
                    raise
        refuse_prompts_alone(name, **where)
        converted = load_published(name, base=base, hidden_act=hidden_act, unchecked=unchecked, **where)
        rest = {key: value for key, value in kwargs.items() if key not in where_on_hub(kwargs)}
        if taken := sorted({"config", "state_dict"} & rest.keys()):
            raise ValueError(f"{name} has to be converted, which gives its own {taken[0]}; leave that out.")
        config, rest = cls.config_class.from_dict(converted.config, return_unused_kwargs=True, **rest)
        loaded = super().from_pretrained(None, *args, config=config, state_dict=converted.weights, **rest)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.config.name_or_path = model.name_or_path = str(name)
        model.config._commit_hash = converted.commit
        return loaded

    @classmethod
    def _with_adapter(
        cls, name: str, settings: dict[str, Any], base: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if kwargs.get("output_loading_info"):
            raise ValueError("output_loading_info tells nothing of an adapter; leave it out.")
        where = where_on_hub(kwargs)
        rest = {key: value for key, value in kwargs.items() if key not in ("revision", "subfolder", "dtype")}
        source, rest["revision"] = adapters.base_of(name, settings, base)
        model = cls.from_pretrained(source, *args, **rest)
        adapters.put_on(model, name, **where)
        dtype = kwargs.get("dtype") or "auto"
        if dtype != "auto":
            # Only now: what identifies the base are its weights as they are stored.
            model.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
        return model

    def load_adapter(  # type: ignore[override]
        self, peft_model_id: str | None = None, adapter_name: str | None = None, **kwargs: Any
    ) -> Any:
        """Loads an adapter beside those that there are and makes it the active one; see `set_adapter`.

        Args:
            peft_model_id: Folder or Hub id. One trained on another base is warned of, with both digests.
            adapter_name: What it is called here, `default` if not given.
            **kwargs: As transformers'; with any but `adapter_kwargs` and those of the Hub it is transformers' own.

        Raises:
            ValueError: If there is no adapter, or it does not fit.
        """
        where = {**(kwargs.get("adapter_kwargs") or {}), **where_on_hub(kwargs)}
        if peft_model_id is None or kwargs.keys() - {"adapter_kwargs"} - where_on_hub(kwargs).keys():
            return super().load_adapter(peft_model_id, adapter_name, **kwargs)
        return adapters.put_on(self, peft_model_id, adapter_name or "default", **where)

    def merge_and_unload(self) -> "RobustCLIPModel":
        """Adds the active adapters to the weights, in place, and gives back the model, which then has none.

        Raises:
            ValueError: If there is no adapter, or its method cannot be merged.
        """
        adapters.merge_and_unload(self)
        return self

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As transformers'; of a model with an adapter only that, with the base that it belongs to on record."""
        if not getattr(self, "peft_config", None):
            return super().save_pretrained(save_directory, *args, **kwargs)
        adapters.name_base(self)
        # First, since saving may go on to upload the folder.
        adapters.write_record(self, save_directory)
        return super().save_pretrained(save_directory, *args, **kwargs)

    def get_adapter_state_dict(
        self, adapter_name: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """As transformers', without asking the Hub whether the base has another vocabulary.

        Peft looks for one to save grown embeddings beside the adapter, and warns where it cannot reach the base. For
        CLIP it finds none: the size of the vocabulary stands in the text tower's part of the configuration.
        """
        name = self.active_adapters()[0] if adapter_name is None else adapter_name
        return get_peft_model_state_dict(self, state_dict, name, save_embedding_layers=False)

    @property
    def image_size(self) -> int:
        """Side of the square that the vision tower takes, in pixels."""
        size = self.config.vision_config.image_size
        return size if isinstance(size, int) else size[0]  # type: ignore[index]  # only a model without size has None

    def preprocess(self, pixels: Tensor) -> Tensor:
        """Resizes `pixels` to the tower's input and normalises them, differentiably.

        This is what Pillow computes, hence what the checkpoint's image processor does, up to Pillow's rounding to 8
        bits: bicubic with antialiasing, first along rows, then along columns, and each result clipped to [0, 1], since
        bicubic interpolation overshoots beside edges.

        Args:
            pixels: `(B, 3, H, W)` float in [0, 1], on the images' own grid.

        Returns:
            `pixel_values` of shape `(B, 3, image_size, image_size)`.

        Raises:
            ValueError: If `pixels` is not a batch of square three-channel images: crop first, since squashing an
                image to a square would change what the attacker perturbs.
        """
        if pixels.dim() != 4 or pixels.shape[1] != 3 or pixels.shape[2] != pixels.shape[3]:
            raise ValueError(
                f"pixels must have shape (batch, 3, side, side), got {tuple(pixels.shape)}; "
                "crop images to squares first, as PixelCollator does."
            )
        if pixels.shape[-1] != self.image_size:
            for size in ((pixels.shape[-2], self.image_size), (self.image_size, self.image_size)):
                pixels = F.interpolate(pixels.float(), size, mode="bicubic", antialias=True).clamp(0, 1)
        mean = pixels.new_tensor(self.config.image_mean).view(1, 3, 1, 1)
        std = pixels.new_tensor(self.config.image_std).view(1, 3, 1, 1)
        return ((pixels - mean) / std).to(self.dtype)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Projected, un-normalised image features, `(B, D)`, of `pixels` `(B, 3, H, W)` in [0, 1]."""
        return self.get_image_features(pixel_values=self.preprocess(pixels)).pooler_output

    def encode_image_tokens(self, pixels: Tensor) -> Tensor:
        """Every token of the vision tower in the joint space, `(B, 1 + N, D)`; row 0 is `encode_image(pixels)`.

        `post_layernorm` and the projection, which CLIP applies to the class token alone, are applied to all tokens
        (TGA-ZSR, https://huggingface.co/papers/2410.21802, section 3.2).

        Raises:
            ValueError: If the vision tower yields no tokens.
        """
        tokens = self.vision_model(pixel_values=self.preprocess(pixels)).last_hidden_state
        if tokens is None:
            raise ValueError(f"{type(self.vision_model).__name__} yields no tokens, as a vision transformer does.")
        return self.visual_projection(self.vision_model.post_layernorm(tokens))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Projected, un-normalised text features, `(N, D)`, of `input_ids` `(N, L)`."""
        return self.get_text_features(input_ids=input_ids, attention_mask=attention_mask).pooler_output

    def forward(self, *args: Any, compute: Callable[["RobustCLIPModel"], Any] | None = None, **kwargs: Any) -> Any:
        """Stock CLIP's forward, or `compute(self)` when `compute` is given.

        Distributed wrappers (DDP, DeepSpeed) hook gradients around `forward` alone. An objective calls the towers in
        its own order, so it is run from inside `forward`.
        """
        if compute is not None:
            return compute(self)
        return super().forward(*args, **kwargs)

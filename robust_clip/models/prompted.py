"""CLIP with learned prompts: a pixel frame, visual tokens, a text context, or residuals of class embeddings."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoTokenizer, CLIPTokenizer
from transformers.utils.generic import can_return_tuple

from .class_residuals import ClassResiduals
from .configuration import PromptedCLIPConfig, RobustCLIPConfig
from .modeling import RobustCLIPModel
from .packaged import packaged_checkpoint, public_name
from .prompt_files import ADAPTER_FOLDER, PromptFiles, base_digest, weights_digest, where_on_hub
from .prompt_sizes import PromptSizes
from .sharing import built_around
from .text_context import PromptedTextEmbeddings
from .visual_prompts import PromptedEncoder, PromptedVisionEmbeddings

# What CoOp and its successors write after the context.
CONTEXT_TEMPLATE = "{}."


class PromptedCLIPModel(RobustCLIPModel):
    """A `RobustCLIPModel` with prompts in its vision tower, its text tower or both.

    The prompts are parameters of the towers (`vision_model.embeddings.frame.up`, `text_model.embeddings.context`), so
    every method sees them: `encode_image`, `encode_text`, stock CLIP's forward, and attacks, which differentiate
    through them. With a context every text should be a bare class name, as `{}.`: see `class_templates`; with
    residuals of class embeddings one of those in training. Tokens that `encode_image_tokens` gives are the image's.

    `save_pretrained` saves what learns: all weights, prompts alone, or prompts and adapter; `save_prompts` saves
    prompts alone; `from_pretrained` loads any of it.
    """

    config_class = PromptedCLIPConfig
    config: PromptedCLIPConfig

    def __init__(self, config: PromptedCLIPConfig) -> None:
        super().__init__(config)
        sizes = config.sizes
        sizes.check_fits(config)
        base = set(self.state_dict())
        vision, text = self.vision_model, self.text_model
        if "vision" in sizes.towers:
            vision.embeddings = PromptedVisionEmbeddings(vision.config, sizes)
        if sizes.tokens:
            vision.encoder = PromptedEncoder(vision.config, sizes.tokens, sizes.depth, at_end=True)
        if sizes.context:
            text.embeddings = PromptedTextEmbeddings(text.config, sizes)
        if sizes.context and sizes.depth > 1:
            text.encoder = PromptedEncoder(text.config, sizes.context, sizes.depth, at_end=False)
        if sizes.class_residuals:
            text.class_residuals = ClassResiduals(config, sizes)
        self._base_names = frozenset(base)
        self._prompt_names = tuple(name for name, _ in self.named_parameters() if name not in base)
        # The modules that were put in place are new.
        self.post_init()

    @classmethod
    def around(cls, base: RobustCLIPModel, sizes: PromptSizes, seed: int = 0) -> "PromptedCLIPModel":
        """A model with fresh prompts around `base`, whose parameters it shares; `base` itself is left as it was.

        Args:
            base: Of which no weight is copied.
            sizes: Of the prompts.
            seed: Of their initial values.

        Raises:
            ValueError: If the prompts do not fit the towers, or `base` has prompts or an adapter already.
        """
        if isinstance(base, PromptedCLIPModel) or getattr(base, "peft_config", None):
            raise ValueError("The model has prompts or an adapter already; put prompts around a plain model first.")
        record = {
            "name": public_name(base.name_or_path or "") or None,
            "revision": getattr(base.config, "_commit_hash", None),
            "weights": weights_digest(base.state_dict().items()),
        }
        changes = {"model_type": cls.config_class.model_type, "prompts": sizes.to_dict(), "base": record}
        model = built_around(cls, cls.config_class.from_dict(base.config.to_dict() | changes), base)
        for name in model._prompt_names:
            module, _, leaf = name.rpartition(".")
            empty = torch.empty_like(model.get_parameter(name), dtype=base.dtype, device=base.device)
            setattr(model.get_submodule(module), leaf, nn.Parameter(empty))
        model.reset_prompts(seed)
        return model

    def as_base(self) -> RobustCLIPModel:
        """The model without its prompts, around the same weights.

        Raises:
            ValueError: If it has an adapter.
        """
        if getattr(self, "peft_config", None):
            raise ValueError("The model has an adapter; merge or delete it first.")
        config = self.config.to_dict() | {"model_type": RobustCLIPConfig.model_type}
        config = {key: value for key, value in config.items() if key not in ("prompts", "base")}
        return built_around(RobustCLIPModel, RobustCLIPConfig.from_dict(config), self)

    @torch.no_grad()
    def reset_prompts(self, seed: int = 0) -> None:
        """Draws all prompts anew: pixels and shallow visual tokens at deviation 1, as TeCoA's code, others at 0.02.

        0.02 is CoOp's for the context, and MaPLe's for the prompts of all layers. Residuals begin at 0.
        """
        small = ("_model.encoder.prompts", ".context") + (".tokens",) * (self.config.sizes.depth > 1)
        generator = torch.Generator().manual_seed(seed)
        for name, prompt in self.prompts():
            deviation = 0.02 if name.endswith(small) else float("class_residuals" not in name)
            prompt.copy_(deviation * torch.randn(prompt.shape, generator=generator))

    def prompts(self, tower: str | None = None) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and values of what is learned besides the base, of one tower or of both."""
        for name in self._prompt_names:
            if tower is None or name.startswith(f"{tower}_model."):
                yield name, self.get_parameter(name)

    @property
    def learns_prompts_alone(self) -> bool:
        """Whether every weight besides the prompts is frozen."""
        prompts = set(self._prompt_names)
        return not any(p.requires_grad for name, p in self.named_parameters() if name not in prompts)

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As stock CLIP's, of texts with the learned context in them or the residuals of their classes added.

        Raises:
            ValueError: If positions are given with a context, or each class has its own and a text is of none.
        """
        given, embeddings = input_ids, self.text_model.embeddings
        if isinstance(embeddings, PromptedTextEmbeddings):
            if position_ids is not None:
                raise ValueError("The learned context shifts positions; leave out position_ids.")
            input_ids, attention_mask = embeddings.insert(input_ids, attention_mask)
        outputs: Any = super().get_text_features(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, return_dict=True, **kwargs
        )
        if residuals := getattr(self.text_model, "class_residuals", None):
            outputs.pooler_output = residuals(outputs.pooler_output, given)
        return outputs

    def base_digest(self) -> str:
        """`weights_digest` of the base as it is now, without prompts and adapters."""
        return base_digest(self, self._base_names)

    def save_prompts(self, folder: str | os.PathLike[str]) -> None:
        """Writes the prompts, and what they were learned on, into `folder`: kilobytes instead of the whole model.

        Raises:
            ValueError: If the base has changed since the prompts were put around it: they mean nothing without it.
        """
        self._write_prompts(folder, adapter=False)

    def load_prompts(self, folder: str | Path, **where: Any) -> None:
        """Replaces the prompts by those of a folder or Hub id with nothing but prompts.

        A base other than the one that they were learned on is warned of, with both digests.

        Raises:
            ValueError: If there are none, they are damaged, or they are of other sizes or for a base of other widths.
        """
        files = PromptFiles.read(str(folder), **where)
        if files is None:
            raise ValueError(f"{folder} holds no prompts alone; PromptedCLIPModel.from_pretrained loads whole models.")
        if PromptSizes.of(files.settings["prompts"]) != self.config.sizes:
            raise ValueError(
                f"{folder} holds prompts {files.settings['prompts']}, but this model has {self.config.prompts}; load "
                "it by from_pretrained."
            )
        self._fill(files)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, whole: bool = False, **kwargs: Any
    ) -> None:
        """Saves the model; where prompts alone learn, as after training them, those alone, as peft does with adapters.

        Args:
            save_directory: Folder.
            *args: As transformers'.
            whole: Save the base, too, in any case.
            **kwargs: As transformers'.
        """
        if getattr(self, "peft_config", None):
            # In a folder of its own: whoever loads an adapter alone must not lose the prompts without a word.
            super().save_pretrained(Path(save_directory) / ADAPTER_FOLDER, *args, **kwargs)
            self._write_prompts(save_directory, adapter=True)
        elif self.learns_prompts_alone and not whole:
            if kwargs.get("push_to_hub"):
                raise ValueError("push_to_hub sends whole models; for prompts there is robust-clip push FOLDER REPO.")
            self.save_prompts(save_directory)
        else:
            super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *args: Any,
        base: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Loads what `save_pretrained` or `save_prompts` wrote.

        Args:
            pretrained_model_name_or_path: Folder or Hub id of a whole model or of prompts.
            *args: As transformers'.
            base: What to put prompts around: a `RobustCLIPModel`, whose weights are shared, a folder or a Hub id; by
                default the one on record, at the recorded revision.
            **kwargs: As transformers'.

        Raises:
            ValueError: If prompts are missing, damaged, or for a base of other widths.
        """
        name = packaged_checkpoint(str(pretrained_model_name_or_path))
        files = PromptFiles.read(name, **where_on_hub(kwargs))
        if files is not None:
            return cls._around_recorded(files, base, kwargs)
        if base is not None:
            raise ValueError(f"{name} is a whole model, which has its own base; leave out base.")
        wants_report = kwargs.pop("output_loading_info", False)
        loaded: Any = super(RobustCLIPModel, cls).from_pretrained(name, *args, output_loading_info=True, **kwargs)
        model, report = loaded
        missing = sorted(set(report["missing_keys"]))
        if missing:
            raise ValueError(f"{name} lacks the weights {missing[:3]}; download or save the model again.")
        return loaded if wants_report else model

    @classmethod
    def _around_recorded(cls, files: PromptFiles, base: Any, kwargs: dict[str, Any]) -> "PromptedCLIPModel":
        where = where_on_hub(kwargs)
        kwargs = {key: value for key, value in kwargs.items() if key not in ("revision", "subfolder")}
        dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
        recorded = files.settings["base"]
        own = not isinstance(base, RobustCLIPModel)
        if own:
            source = base or recorded["name"]
            if not source:
                raise ValueError(f"{files.source} does not say what base its prompts belong to; give it as base.")
            if base is None and recorded["revision"]:
                kwargs["revision"] = recorded["revision"]
            base = RobustCLIPModel.from_pretrained(packaged_checkpoint(str(source)), **kwargs)
        model = cls.around(base, PromptSizes.of(files.settings["prompts"]))
        if own:
            base.requires_grad_(False)
        model._fill(files)
        model.config.robustness = files.settings.get("robustness")
        model.config.name_or_path = model.name_or_path = files.source
        if files.settings.get("adapter"):
            model.load_adapter(files.source, adapter_kwargs={**where, "subfolder": ADAPTER_FOLDER})
        if isinstance(dtype, str) and dtype != "auto":
            dtype = getattr(torch, dtype)
        if isinstance(dtype, torch.dtype):
            nn.Module.to(model, dtype)
        return model.eval()

    def _write_prompts(self, folder: str | os.PathLike[str], adapter: bool) -> None:
        """`adapter` says whether whoever loads them must look for one beside them."""
        now, recorded = self.base_digest(), (self.config.base or {}).get("weights")
        if now != recorded:
            raise ValueError(
                f"The base has changed since the prompts were put around it ({recorded} then, {now} now), so prompts "
                "alone would not restore this model; use save_pretrained."
            )
        settings = {key: getattr(self.config, key) for key in ("prompts", "base", "robustness")}
        settings["adapter"] = adapter
        PromptFiles(str(folder), settings, {name: prompt.detach() for name, prompt in self.prompts()}).write(folder)

    @torch.no_grad()
    def _fill(self, files: PromptFiles) -> None:
        """Takes the values of `files`, and refuses or warns of what does not fit."""
        ours = dict(self.prompts())
        files.check_fits(ours, self.config.base or {})
        for name, prompt in ours.items():
            prompt.copy_(files.tensors[name])


def class_templates(model: nn.Module, templates: Sequence[str]) -> Sequence[str]:
    """The templates that class names stand in: `templates`, or `{}.` for a model with a learned context.

    The context takes the place of the words around a name (CoOp, https://huggingface.co/papers/2109.01134, Eq. 2), so
    one that was learned with `{}.` is measured with it whatever sentence a data set brings.
    """
    learned = isinstance(model, PromptedCLIPModel) and model.config.sizes.context
    return (CONTEXT_TEMPLATE,) if learned else templates


AutoConfig.register(PromptedCLIPConfig.model_type, PromptedCLIPConfig)
AutoModel.register(PromptedCLIPConfig, PromptedCLIPModel)
AutoModelForZeroShotImageClassification.register(PromptedCLIPConfig, PromptedCLIPModel)
AutoTokenizer.register(PromptedCLIPConfig, CLIPTokenizer)

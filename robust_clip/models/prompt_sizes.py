"""How many prompts a model learns, of which kinds, and where they stand."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from transformers import CLIPConfig

from robust_clip.suggestions import instead

ClassPosition = Literal["end", "middle"]


@dataclass(frozen=True)
class PromptSizes:
    """Kinds and sizes of the prompts of a `PromptedCLIPModel`; 0 leaves a kind out.

    Args:
        frame: Width in pixels of the frame that is added to the normalised image (TeCoA, section 3.3).
        patch: Side in pixels of the square that is added to its top left corner instead or besides.
        tokens: Visual tokens, appended to the image's own.
        context: Vectors put before or around every text (CoOp, https://huggingface.co/papers/2109.01134).
        depth: Layers whose input has tokens and context of its own: 1 is shallow, and from the second layer on what
            the layer before made of them is replaced (VPT-deep, https://huggingface.co/papers/2203.12119, Eq. 5).
        class_position: Whether the text stands at the `end`, after the context, or in the `middle` of it.
        class_tokens: Classes that have a context each instead of one for all, or a residual: pairs of a name and the
            lists of token ids, without start and end, that stand for it. Not a mapping, since transformers sorts what
            it saves.
        class_residuals: Whether the embedding of each class gets a learned vector added; see `ClassResiduals`. No
            prompts, but kept and saved like those.

    Raises:
        ValueError: If a size is negative or no whole number, or sizes contradict each other.
    """

    frame: int = 0
    patch: int = 0
    tokens: int = 0
    context: int = 0
    depth: int = 1
    class_position: ClassPosition = "end"
    class_tokens: Sequence[Sequence[Any]] = ()
    class_residuals: bool = False

    def __post_init__(self) -> None:
        named = [[name, [list(ids) for ids in forms]] for name, forms in self.class_tokens]
        object.__setattr__(self, "class_tokens", named)
        for name in ("frame", "patch", "tokens", "context", "depth"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < (name == "depth"):
                raise ValueError(f"{name} must be a whole number from {int(name == 'depth')} on, got {value!r}.")
        if self.class_position not in get_args(ClassPosition):
            raise ValueError(f"class_position must be end or middle, got {self.class_position!r}.")
        if self.depth > 1 and not (self.tokens or self.context):
            raise ValueError(f"depth {self.depth} repeats tokens or context, but there are neither; set one of them.")
        if self.depth > 1 and self.context and (self.class_position == "middle" or self.class_tokens):
            raise ValueError("A context deeper than 1 must be one for all classes, with class_position end.")
        if self.class_residuals and (self.context or not self.class_tokens):
            raise ValueError("class_residuals belong to whole prompts of classes: give class_tokens, and no context.")
        if not self.context and (self.class_position == "middle" or (self.class_tokens and not self.class_residuals)):
            raise ValueError("class_position and contexts per class need a context; set context, such as 16.")

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None) -> "PromptSizes":
        """Those that a saved configuration names.

        Raises:
            ValueError: If a key is unknown, or as the constructor.
        """
        unknown = [key for key in settings or {} if key not in cls.__dataclass_fields__]
        if unknown:
            raise ValueError(f"Unknown key {unknown[0]!r} in prompts{instead(unknown[0], cls.__dataclass_fields__)}")
        return cls(**(settings or {}))

    def to_dict(self) -> dict[str, Any]:
        """What a configuration saves, and `of` reads: sizes that are not the default.

        >>> PromptSizes(frame=30, tokens=10).to_dict()
        {'frame': 30, 'tokens': 10}
        """
        defaults = asdict(PromptSizes())
        return {name: value for name, value in asdict(self).items() if value != defaults[name]}

    @property
    def towers(self) -> tuple[str, ...]:
        """Towers that the prompts belong to.

        >>> PromptSizes(frame=8).towers, PromptSizes(tokens=2, context=2).towers
        (('vision',), ('vision', 'text'))
        """
        vision, text = self.frame or self.patch or self.tokens, self.context or self.class_residuals
        return ("vision",) * bool(vision) + ("text",) * bool(text)

    def check_fits(self, config: CLIPConfig) -> None:
        """Refuses prompts that the towers of `config` have no room for.

        Raises:
            ValueError: If frame or patch are larger than the image, depth larger than a tower, or the context leaves
                no room for a text.
        """
        side: Any = config.vision_config.image_size
        if 2 * self.frame >= side:
            raise ValueError(f"A frame {self.frame} wide leaves nothing of an image of {side} pixels; take less.")
        if self.patch > side:
            raise ValueError(f"A patch of {self.patch} pixels is larger than the image, which has {side}.")
        for tower, used in (("vision", self.tokens), ("text", self.context)):
            layers = getattr(config, f"{tower}_config").num_hidden_layers
            if used and self.depth > layers:
                raise ValueError(f"depth is {self.depth}, but the {tower} tower has {layers} layers.")
        longest = config.text_config.max_position_embeddings
        if self.context > longest - 3:
            raise ValueError(f"A context of {self.context} leaves no room for texts: {longest} tokens are all.")

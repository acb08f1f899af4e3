"""How retrieval is measured: everything that a number depends on besides the model and the data."""

from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, ClassVar, Literal, get_args

from robust_clip.attacks import FAB, Attack, AutoAttack, CarliniWagner, CoAttack, MultimodalAttack, TextAttack
from robust_clip.threat_model import ThreatModel

from .protocol import Precision, Protocol

Aim = Literal["gallery", "pair", "self"]
Mode = Literal["clean", "images", "captions", "both"]
Grid = Literal["native", "model"]

_NEED_CLASSES = (AutoAttack, CarliniWagner, FAB)


@dataclass(frozen=True, kw_only=True)
class RetrievalProtocol:
    """A versioned way to measure retrieval; whoever changes what it computes raises its version.

    Either `joint_attack` attacks images and captions together, or there are `image_attack` and `text_attack`, one of
    them or both. Recalls are measured in these modes, over all queries, found when clean or not:

    - `clean`: nothing is attacked.
    - `images`: every image is attacked, whether it is a query or in the gallery; all captions are clean.
    - `captions`: every caption is attacked, as a query and in the gallery; all images are clean.
    - `both`: attacked images and attacked captions meet each other.

    A single attack is measured in `clean` and its own mode. With both of them there is an attack for each mode: in
    `both` the images are those of `images`, and the captions are attacked anew, against these images. (Sides that are
    attacked without a look at each other may end up nearer than one attacked side and one clean.) A joint attack is
    measured in all four; `images` and `captions` are then halves of a search for the two together, and an attack made
    for the mode may find more.

    Args:
        image_attack: Search for images.
        text_attack: Search for captions.
        joint_attack: Search for both, with a loss of its own.
        aim: What `image_attack` and `text_attack` climb. `gallery` (ours; of the three it lowers the recalls of
            `nano_clip` most): the log of how much likelier all that does not belong to an image or caption is than
            what does, in the gallery of the other side, at the model's temperature. `pair`: minus the cosine with its
            own captions or image, as SGA (https://huggingface.co/papers/2307.14061). `self`: the distance from its own
            clean embedding, squared for images and the text attack's for captions; knows nothing of the other side.
        threat_model: What may be done to an image; `None` if and only if no image is attacked. How far captions may
            go is the text attack's affair.
        samples: How many images, drawn by the seed; `None` for all, as is any number above the size of the split.
        captions_per_image: Only the first so many captions of each image, such as the 5 of the Flickr and COCO
            protocols; an image that has fewer keeps those. `None` for all.
        seed: Of the choice of images and of all attacks.
        resolution: Grid of the perturbation, see `Protocol`.
        precision: `fp32`, with TF32 and autocast off, or `bf16` autocast, in which attacks are weaker.

    Raises:
        ValueError: If a field has no such value, attacks or threat model do not fit together, or an attack needs
            classes.
    """

    name: ClassVar[str] = "retrieval"
    version: ClassVar[int] = 1

    image_attack: Attack | None = None
    text_attack: TextAttack | None = None
    joint_attack: MultimodalAttack | None = None
    aim: Aim = "gallery"
    threat_model: ThreatModel | None = None
    samples: int | None = None
    captions_per_image: int | None = None
    seed: int = 0
    resolution: Grid = "native"
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        """Check every field against what it may be, and the attacks against each other."""
        for field, allowed in {"aim": Aim, "resolution": Grid, "precision": Precision}.items():
            if getattr(self, field) not in get_args(allowed):
                raise ValueError(f"{field} must be one of {get_args(allowed)}, got {getattr(self, field)!r}")
        for field in ("samples", "captions_per_image"):
            count = getattr(self, field)
            if count is not None and count < 1:
                raise ValueError(f"{field} must be at least 1, or left out for all, got {count}")
        one_sided = [attack for attack in (self.image_attack, self.text_attack) if attack is not None]
        if self.joint_attack is not None and one_sided:
            raise ValueError("a joint attack searches images and captions together: give it alone, or the other two")
        if self.aim != "gallery" and not one_sided:
            raise ValueError(f"aim {self.aim!r} is for image_attack and text_attack, and there is neither")
        if (self._image_search is not None) != (self.threat_model is not None):
            raise ValueError(
                "a threat model is needed where images are attacked and means nothing elsewhere: the image attack is "
                f"{self._image_search} and the threat model {self.threat_model}"
            )
        if isinstance(self._image_search, _NEED_CLASSES):
            name = type(self._image_search).__name__
            raise ValueError(f"{name} looks for another class, and pairs have none; use pgd, apgd, square or fgsm")

    @property
    def modes(self) -> tuple[Mode, ...]:
        """What recalls are measured in."""
        images, captions = self._image_search is not None, self._text_search is not None
        attacked: dict[Mode, bool] = {"images": images, "captions": captions, "both": images and captions}
        return ("clean", *(mode for mode, measured in attacked.items() if measured))

    @property
    def stages(self) -> tuple[Mode, ...]:
        """Modes that have a search of their own, in the order in which they need each other."""
        if self.joint_attack:
            return ("both",)
        order: tuple[Mode, ...] = ("captions", "images", "both")
        # Captions that know nothing of images are the same whichever these are.
        return tuple(mode for mode in order if mode in self.modes and (mode != "both" or self.aim != "self"))

    @property
    def attack_name(self) -> str:
        """What tables call the attack: `pgd-gallery`, `pgd+leaf-pair`, `sga-leaf`, or `none`."""
        if self.joint_attack:
            return f"{self.joint_attack.short_name}-{self.joint_attack.text_attack.short_name}"
        names = [attack.short_name for attack in (self.image_attack, self.text_attack) if attack]
        return f"{'+'.join(names)}-{self.aim}" if names else "none"

    @property
    def one_caption_each(self) -> bool:
        """Whether the attack can only deal with images of one caption."""
        return isinstance(self.joint_attack, CoAttack)

    @property
    def folder(self) -> str:
        """Readable name for a folder of records: `retrieval-v1-sga-leaf-linf-4_255-random1000`."""
        parts = [self.name, f"v{self.version}", self.attack_name]
        if self.threat_model:
            parts += str(self.threat_model).replace("/", "_").split()
        if self.samples is not None:
            parts.append(f"random{self.samples}")
        if self.captions_per_image is not None:
            parts.append(f"captions{self.captions_per_image}")
        return "-".join(parts)

    def require_packages(self) -> None:
        """Refuse to begin without the packages and models that the attacks need.

        Raises:
            ImportError: If a package is not installed.
            ValueError: If a model cannot be loaded.
        """
        for search in (self._image_search, self._text_search):
            if search:
                search.require_packages()

    def choose(self, size: int) -> list[int]:
        """Positions of the images to measure, ascending, in a split of `size` images."""
        return Protocol(self.name, self.version, (), None, samples=self.samples).choose(size, self.seed)

    def as_dict(self) -> dict[str, Any]:
        """What a row says about the protocol, in the types of JSON."""
        attacks = {name: getattr(self, name) for name in ("image_attack", "text_attack", "joint_attack")}
        told = {name: _describe(attack) for name, attack in attacks.items() if attack}
        return {
            "name": self.name,
            "version": self.version,
            **told,
            **({"aim": self.aim} if told and not self.joint_attack else {}),
            "threat_model": asdict(self.threat_model) if self.threat_model else None,
            "samples": self.samples,
            "captions_per_image": self.captions_per_image,
            "resolution": self.resolution,
            "precision": self.precision,
        }

    @property
    def _image_search(self) -> Attack | None:
        return self.joint_attack.image_attack if self.joint_attack else self.image_attack

    @property
    def _text_search(self) -> TextAttack | None:
        return self.joint_attack.text_attack if self.joint_attack else self.text_attack


def _describe(attack: Any) -> dict[str, Any]:
    """An attack and those within it, by name and parameters."""
    if isinstance(attack, TextAttack):
        return attack.as_dict()
    values = {field.name: getattr(attack, field.name) for field in fields(attack)}
    parameters = {
        name: _describe(value) if is_dataclass(value) else list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
    }
    return {"attack": type(attack).__name__, "parameters": parameters}

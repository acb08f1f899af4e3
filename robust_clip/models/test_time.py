"""Defences at test time: wrappers of the zero-shot classifier, and where their random numbers come from."""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robust_clip.paper import Paper

from .zero_shot import ZeroShotClassifier


@dataclass(frozen=True)
class Passes:
    """What one prediction costs, in passes of the towers.

    Args:
        image_forward: Images through the image tower.
        image_backward: Gradients from there to the pixels.
        text_forward: Texts through the text tower; class prompts that are encoded once for all images do not count.
        text_backward: Gradients from there to what is learned.
    """

    image_forward: int = 1
    image_backward: int = 0
    text_forward: int = 0
    text_backward: int = 0


class Draws:
    """The random numbers of a defence: for each image by what it is, and not by where it stands.

    The generator of an image is seeded by a key and a digest of its pixels. So an answer depends neither on the batch
    nor on the order of images, and the defence gives the same answer whenever it is asked. Papers draw anew each time,
    so that an attacker cannot know what will be drawn. That stays so as long as the key is the defender's own: an
    attacker gets `fresh` draws under another key and has to take the mean over several, which is expectation over
    transformation. Whoever had the key could try images until one is unlucky.

    Args:
        key: The seed, and who draws.
        fresh: Whether an image that is seen again since `restart` gets other numbers than before.
    """

    def __init__(self, key: str, fresh: bool = False) -> None:
        self.key, self.fresh = key, fresh
        self._seen: Counter[bytes] = Counter()

    def __call__(self, pixels: Tensor) -> list[torch.Generator]:
        """One CPU generator for each image of `pixels` `(B, 3, H, W)`."""
        return [self._generator(image.numpy().tobytes()) for image in pixels.detach().cpu().contiguous()]

    def restart(self) -> None:
        """Forget what was seen: what follows does not depend on what was asked before."""
        self._seen.clear()

    def _generator(self, image: bytes) -> torch.Generator:
        name = hashlib.blake2b(image, key=self.key.encode()[:64], digest_size=8).digest()
        if self.fresh:
            self._seen[name] += 1
            name = hashlib.blake2b(name + str(self._seen[name]).encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(name, "big"))


class DefendedClassifier(nn.Module, ABC):
    """A zero-shot classifier behind a defence: pixels in [0, 1] to logits, as before, at a higher cost.

    Gradients reach the pixels, so that an attack can know of the defence; each defence says what it holds constant
    meanwhile. Parameters and flags of the model are left as they are.

    Args:
        classifier: What is defended; called, never changed.
        draws: Random numbers.
    """

    def __init__(self, classifier: ZeroShotClassifier, draws: Draws) -> None:
        super().__init__()
        self.classifier = classifier
        self.draws = draws

    @abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """Logits `(B, C)` in fp32 of `pixels` `(B, 3, H, W)` in [0, 1]."""


class TestTimeDefence(ABC):
    """What is done to an image, or to the prompts, while it is classified; subclasses are frozen dataclasses.

    Attributes:
        paper: Where it comes from.
        short_name: What protocols call it, as in `TEST_TIME_DEFENCES`.
    """

    __test__: ClassVar[bool] = False  # its name is not that of a test case
    paper: ClassVar[Paper]
    short_name: ClassVar[str]

    @property
    @abstractmethod
    def random(self) -> bool:
        """Whether it draws lots, so that an attack has to take the mean over several draws."""

    @abstractmethod
    def passes(self, n_classes: int) -> Passes:
        """What one prediction among `n_classes` costs."""

    @abstractmethod
    def wrap(
        self, classifier: ZeroShotClassifier, tokenizer: Any, class_names: Sequence[str], draws: Draws
    ) -> DefendedClassifier:
        """The classifier behind the defence.

        Args:
            classifier: With the class embeddings of the undefended classifier.
            tokenizer: Of its model.
            class_names: C names, for a defence that writes prompts of its own.
            draws: Random numbers.

        Raises:
            ValueError: If the defence does not fit the model.
        """

    def as_dict(self) -> dict[str, Any]:
        """What a row says about the defence."""
        defence: Any = self
        return {"defence": type(self).__name__, "parameters": asdict(defence)}

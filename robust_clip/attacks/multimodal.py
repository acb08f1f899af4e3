"""Attacks on images together with their captions: Co-Attack, which is MMCoA's joint attack too, and SGA."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional

from robust_clip.attacks.base import Attack, Forward, eval_mode, sample_generators
from robust_clip.attacks.bert_attack import BERTAttack
from robust_clip.attacks.embedding import JointDivergence, SetDissimilarity
from robust_clip.attacks.pgd import PGD
from robust_clip.attacks.scaled_views import ScaledViews
from robust_clip.attacks.text import Encode, Score, TextAttack, check_texts, features_of
from robust_clip.paper import Paper
from robust_clip.threat_model import ThreatModel


@dataclass(frozen=True, eq=False)
class Pairs:
    """What a multimodal search works on.

    Args:
        encode_image: Differentiable, gives un-normalised features `(B, D)` of pixels `(B, 3, H, W)`.
        encode_text: Gives un-normalised features `(N, D)` of N texts.
        pixels: Clean images, `(B, 3, H, W)` in [0, 1].
        captions: N of them, those of one image beside each other.
        image_of: `(N,)`, the image that each caption belongs to.
        threat_model: Ball and box that hold the images.
        generators: One CPU generator per image.
        seed: Of the text attack's random numbers.
        batch_size: Most images in one forward pass; SGA's views of an image count as one.
    """

    encode_image: Forward
    encode_text: Encode
    pixels: Tensor
    captions: list[str]
    image_of: Tensor
    threat_model: ThreatModel
    generators: Sequence[torch.Generator]
    seed: int
    batch_size: int | None

    def batches(self) -> tuple[Tensor, ...]:
        """Positions of all images, at most `batch_size` at once."""
        positions = torch.arange(len(self.pixels), device=self.pixels.device)
        return torch.split(positions, self.batch_size or len(positions))

    def image_features(self, pixels: Tensor) -> Tensor:
        """Features `(B, D)` of images, without gradient."""
        return torch.cat([self.encode_image(pixels[rows]) for rows in self.batches()]).detach()


@dataclass(frozen=True, kw_only=True)
class MultimodalAttack(ABC):
    """A search for adversarial images and captions; subclasses are frozen dataclasses and define `search`.

    Args:
        text_attack: Search for captions.
        image_attack: Search for images. Its loss knows no labels, so one that stops when a label is missed is refused.

    Attributes:
        paper: Where the search comes from.
        short_name: What records call it.
    """

    paper: ClassVar[Paper]
    short_name: ClassVar[str]

    text_attack: TextAttack = BERTAttack()
    image_attack: Attack = PGD()

    def __call__(
        self,
        encode_image: Forward,
        encode_text: Encode,
        pixels: Tensor,
        texts: Sequence[Sequence[str]],
        threat_model: ThreatModel,
        generators: Sequence[torch.Generator] | None = None,
        *,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> tuple[Tensor, list[list[str]]]:
        """Search for images and captions that no longer match.

        A module given as an encoder, or whose method it is, is in eval mode meanwhile.

        Args:
            encode_image: Differentiable function of pixels giving un-normalised features `(B, D)`.
            encode_text: Gives un-normalised features `(N, D)` of N texts; see `TextAttack`.
            pixels: Clean images, `(B, 3, H, W)` in [0, 1], float32 or float64.
            texts: For each image its captions, at least one.
            threat_model: Ball and box that hold the images; how far captions may go is the text attack's affair.
            generators: One CPU generator per image, see `sample_generators`; by default of `seed` and the positions.
            seed: Of the text attack's random numbers.
            batch_size: Most images in one forward pass, the views of an image counted as one; all at once by default.

        Returns:
            Adversarial images as `Attack` returns them, and captions, for each image as many as were given.

        Raises:
            ValueError: If images, captions and generators are not equally many, or anything else is not as above.
            FloatingPointError: If a loss, score or gradient is not finite.
        """
        generators = sample_generators(seed, range(len(pixels))) if generators is None else generators
        if not len(pixels) == len(texts) == len(generators):
            raise ValueError(
                "each image needs its captions and its generator, got "
                f"{len(pixels)} images, {len(texts)} sets of captions and {len(generators)} generators"
            )
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        for image, captions in enumerate(texts):
            if isinstance(captions, str) or not len(captions):
                raise ValueError(f"each image needs a list of captions, at least one, got {captions!r} for {image}")
        flat = [caption for captions in texts for caption in captions]
        check_texts(flat)
        counts = [len(captions) for captions in texts]
        image_of = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        pairs = Pairs(encode_image, encode_text, pixels, flat, image_of, threat_model, generators, seed, batch_size)
        # Inference tensors cannot take part in the gradient of the image attack.
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            eval_mode(encode_image),
            eval_mode(cast(Forward, encode_text)),
        ):
            images, found = self.search(pairs)
        remaining = iter(found)
        return images, [[next(remaining) for _ in range(count)] for count in counts]

    @abstractmethod
    def search(self, pairs: Pairs) -> tuple[Tensor, list[str]]:
        """Find adversarial images, `(B, 3, H, W)`, and as many captions as there are; runs under `no_grad`."""


@dataclass(frozen=True, kw_only=True)
class CoAttack(MultimodalAttack):
    """Captions first, by their own distance; then images, away from their clean selves and from those captions.

    https://huggingface.co/papers/2206.09391, for models with aligned embeddings such as CLIP. The text attack looks at
    no image. The image attack climbs `KL(clean image) + weight * KL(attacked caption)`, see `JointDivergence`.

    MMCoA's joint attack (https://huggingface.co/papers/2404.19287, `both2` in its code) is this one, with the prompt
    of an image's class as its caption and `PGD(steps=100, step_size="1/255")` at linf 1/255; the protocols
    `mmcoa_joint` measure zero-shot accuracy under it.

    The authors' steps are 1.25 * epsilon / steps long; those of the default image attack are epsilon / 4. Theirs
    begins at changes from 0 to epsilon, the image attack here at changes of either sign.

    Args:
        weight: Of the divergence from the attacked caption, the paper's alpha.

    Raises:
        ValueError: If the weight is negative.
    """

    paper: ClassVar[Paper] = Paper(
        title="Towards Adversarial Attack on Vision-Language Pre-training Models",
        arxiv_id="2206.09391",
        bibtex="""@inproceedings{zhang2022towards,
  title = {Towards Adversarial Attack on Vision-Language Pre-training Models},
  author = {Zhang, Jiaming and Yi, Qi and Sang, Jitao},
  booktitle = {ACM International Conference on Multimedia},
  year = {2022},
  eprint = {2206.09391},
  archivePrefix = {arXiv}
}""",
    )
    short_name: ClassVar[str] = "co_attack"

    weight: float = 3.0

    def __post_init__(self) -> None:
        """Check the weight."""
        if not self.weight >= 0:
            raise ValueError(f"CoAttack weight must be at least 0, got {self.weight!r}")

    def search(self, pairs: Pairs) -> tuple[Tensor, list[str]]:
        """Attack the captions, then the images."""
        if len(pairs.captions) != len(pairs.pixels):
            raise ValueError(
                f"CoAttack takes one caption per image, got {len(pairs.captions)} for {len(pairs.pixels)} images; "
                "SGA takes sets of captions"
            )
        captions = self.text_attack(pairs.encode_text, pairs.captions, seed=pairs.seed)
        image = pairs.image_features(pairs.pixels)
        loss = JointDivergence(image, features_of(pairs.encode_text, captions).to(image.device), self.weight)
        images = self.image_attack(
            pairs.encode_image, pairs.pixels, loss, pairs.threat_model, pairs.generators, batch_size=pairs.batch_size
        )
        return images, captions


@dataclass(frozen=True, kw_only=True)
class SGA(MultimodalAttack):
    """Set-level guidance: captions away from the image, the image at several scales away from all its captions.

    https://huggingface.co/papers/2307.14061. Three steps, each of which lowers cosines: captions against the clean
    image; the image, itself and its rescaled views, against these captions; then the clean captions once more, against
    the adversarial image. The paper has 10 steps of epsilon / 4 at linf 2/255, and BERT-Attack on one word.

    Differs from the authors' code: BERT-Attack ranks words by the cosine that is climbed, theirs by how far a word's
    absence moves the caption. An image's noise is drawn from its own generator.

    Args:
        scales: Of the views that join the image, in its size; each is resized there and back.
        noise: Standard deviation, in pixel units, of the Gaussian noise that each view gets at each step; 0 for none.

    Raises:
        ValueError: If a scale is not positive or the noise is negative.
    """

    paper: ClassVar[Paper] = Paper(
        title="Set-level Guidance Attack: Boosting Adversarial Transferability of Vision-Language Pre-training Models",
        arxiv_id="2307.14061",
        bibtex="""@inproceedings{lu2023setlevel,
  title = {Set-level Guidance Attack: Boosting Adversarial Transferability of Vision-Language Pre-training Models},
  author = {Lu, Dong and Wang, Zhiqiang and Wang, Teng and Guan, Weili and Gao, Hongchang and Zheng, Feng},
  booktitle = {International Conference on Computer Vision},
  year = {2023},
  eprint = {2307.14061},
  archivePrefix = {arXiv}
}""",
    )
    short_name: ClassVar[str] = "sga"

    scales: tuple[float, ...] = (0.5, 0.75, 1.25, 1.5)
    noise: float = 0.05

    def __post_init__(self) -> None:
        """Check the fields, and make a list from a recipe a tuple."""
        object.__setattr__(self, "scales", tuple(self.scales))
        if not all(scale > 0 for scale in self.scales):
            raise ValueError(f"SGA scales must be positive, got {self.scales}")
        if not self.noise >= 0:
            raise ValueError(f"SGA noise must be at least 0, got {self.noise!r}")

    def search(self, pairs: Pairs) -> tuple[Tensor, list[str]]:
        """Attack captions, images, and captions again."""
        captions = self._captions(pairs, pairs.pixels)
        images = self._images(pairs, captions)
        return images, self._captions(pairs, images)

    def _captions(self, pairs: Pairs, pixels: Tensor) -> list[str]:
        """The clean captions, attacked so that their cosines with these images fall."""
        score = dissimilarity(pairs.image_features(pixels)[pairs.image_of.to(pixels.device)])
        return self.text_attack(pairs.encode_text, pairs.captions, seed=pairs.seed, score=score)

    def _images(self, pairs: Pairs, captions: list[str]) -> Tensor:
        """Images whose views are far from all of their captions."""
        units = functional.normalize(features_of(pairs.encode_text, captions).float(), dim=-1).to(pairs.pixels.device)
        sums = torch.stack([units[pairs.image_of == image].sum(dim=0) for image in range(len(pairs.pixels))])
        found = []
        # Batch by batch, and not by the attack itself: the views must know whose generators they draw from.
        for rows in pairs.batches():
            generators = [pairs.generators[row] for row in rows.tolist()]
            views = ScaledViews(pairs.encode_image, self.scales, self.noise, generators)
            loss = SetDissimilarity(sums[rows])
            found.append(self.image_attack(views, pairs.pixels[rows], loss, pairs.threat_model, generators))
        return torch.cat(found)


def dissimilarity(images: Tensor) -> Score:
    """Score of captions that rises as their cosine with given images falls.

    Args:
        images: `(N, D)`, features of the image of each owner, of any length.

    Returns:
        Minus the cosine, `(C,)`, of features `(C, D)` with the images of their owners `(C,)`.

    Example:
        >>> score = dissimilarity(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        >>> score(torch.tensor([[3.0, 4.0], [3.0, 4.0]]), torch.tensor([0, 1])).tolist()
        [-0.6000000238418579, -0.800000011920929]
    """
    units = functional.normalize(images.float(), dim=-1)

    def score(features: Tensor, owner: Tensor) -> Tensor:
        captions = functional.normalize(features.float(), dim=-1)
        return -(captions * units.to(captions.device)[owner]).sum(dim=1)

    return score


MULTIMODAL_ATTACKS: dict[str, type[MultimodalAttack]] = {"co_attack": CoAttack, "sga": SGA}

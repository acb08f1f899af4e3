"""Attacks on images and captions that should find each other, and the embeddings of both."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from robust_clip.attacks import EmbeddingDistance, SetDissimilarity, sample_generators
from robust_clip.attacks.base import Forward
from robust_clip.attacks.losses import AttackLoss
from robust_clip.attacks.multimodal import dissimilarity
from robust_clip.attacks.text import Score
from robust_clip.models import RobustCLIPModel, ZeroShotClassifier, embed_texts

from .recall import caption_owners
from .retrieval_protocol import Mode, RetrievalProtocol

# Pairs that are attacked in one go. Candidate texts are encoded together, padded to one length, which moves their last
# bits: who keeps them company may not depend on the batch size.
TOGETHER = 32
# Captions compared with all images at once while they are attacked.
_CAPTIONS = 1024


@dataclass(frozen=True)
class Pair:
    """An image with its captions.

    Args:
        row: Of the image in its split.
        captions: At least one.
    """

    row: int
    captions: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Attacked:
    """What an attack made of some pairs.

    Args:
        images: For each pair its image, `(3, H, W)`, on the CPU; empty if no image is attacked.
        captions: For each pair its captions; empty if no caption is attacked.
    """

    images: list[Tensor]
    captions: list[list[str]]


@dataclass(frozen=True, eq=False)
class GalleryOdds(AttackLoss):
    """Log of the odds against what belongs to a query: how much likelier all the rest of the gallery is.

    `logsumexp(others) - logsumexp(own)`. On one sample its gradient points where that of the contrastive loss does,
    `log(1 + exp(odds))`, and unlike that it does not fade while the own entry is far ahead.

    Args:
        own: `(B, C)`, boolean, which entries belong to each query: some, and not all.

    Example:
        >>> loss = GalleryOdds(torch.tensor([[True, False, False]]))
        >>> round(loss(torch.tensor([[2.0, 0.0, 0.0]])).item(), 4)
        -1.3069
    """

    own: Tensor

    def __call__(self, outputs: Tensor) -> Tensor:
        """Log-odds of logits `(B, C)`, `(B,)`."""
        logits = outputs.float()
        others, own = (logits.masked_fill(mask, -torch.inf).logsumexp(dim=1) for mask in (self.own, ~self.own))
        return others - own


class PairSearch:
    """The clean embeddings of all pairs, and what attacks some of them.

    What becomes of a pair depends on the seed, its row and the gallery. It does not depend on `batch_size`, nor, but
    for candidate texts whose scores tie, on which other pairs are attacked in the same call.

    Args:
        model: In eval mode.
        tokenizer: The tokenizer of the model.
        pairs: All that are measured, n of them with N captions.
        protocol: The attacks and what they may do.
        load: Gives the pixels of a pair's image, `(3, H, W)` in [0, 1].
        batch_size: Most images in one forward pass.

    Attributes:
        clean_images: `(n, D)`, features of all images.
        images: `(n, D)`, features that captions are attacked against, those of the clean images to begin with.
        clean_captions: `(N, D)`, features of all captions.
        image_of: `(N,)`, the image that each caption belongs to.
    """

    def __init__(
        self,
        model: RobustCLIPModel,
        tokenizer: Any,
        pairs: Sequence[Pair],
        protocol: RetrievalProtocol,
        load: Callable[[Pair], Tensor],
        batch_size: int,
    ) -> None:
        self.pairs, self.protocol, self.load, self.batch_size = pairs, protocol, load, batch_size
        self.device = model.device
        self.encode_text = partial(embed_texts, model, tokenizer)
        captions = [list(pair.captions) for pair in pairs]
        self.image_of = caption_owners(captions).to(self.device)
        self.clean_captions = self.embed_captions(captions)
        # An image finds its caption as it finds its class: the captions are the classes.
        units = functional.normalize(self.clean_captions, dim=-1)
        self.classifier = ZeroShotClassifier(model, units, batch_multiple=8)
        self.scale = model.logit_scale.detach().float().exp()
        together = torch.arange(len(pairs)).split(TOGETHER)
        self.clean_images = torch.cat([self.embed_images(self._pixels(chunk.tolist())) for chunk in together])
        self.images = self.clean_images
        self._known: dict[str, str] = {}

    def embed_captions(self, captions: Iterable[Sequence[str]]) -> Tensor:
        """Features `(N, D)` in fp32 of the captions of images; equal captions have equal features."""
        flat = [caption for texts in captions for caption in texts]
        position = {caption: place for place, caption in enumerate(dict.fromkeys(flat))}
        features = self.encode_text(list(position)).float()
        return features[torch.tensor([position[caption] for caption in flat], device=features.device)]

    def embed_images(self, images: Sequence[Tensor]) -> Tensor:
        """Features `(B, D)` in fp32 of images `(3, H, W)`, which may be of several sizes."""
        found: dict[int, Tensor] = {}
        for places in _of_one_size(images):
            for batch in torch.tensor(places).split(self.batch_size):
                pixels = torch.stack([images[place] for place in batch.tolist()]).to(self.device)
                found |= dict(zip(batch.tolist(), self.classifier.embed(pixels), strict=True))
        return torch.stack([found[place] for place in range(len(images))])

    def attack(self, stage: Mode, positions: Sequence[int]) -> Attacked:
        """What the attacks of a stage make of some of the pairs.

        Args:
            stage: One of the protocol's. Captions of the stage `both` are attacked against the images that
                `show_images` was given.
            positions: Of the pairs among all.

        Raises:
            ValueError: If an attack refuses its task.
            FloatingPointError: If a loss, score or gradient is not finite; the rows of the images are named.
        """
        try:
            if self.protocol.joint_attack is None and stage != "images":
                return Attacked([], self._attack_captions(positions))
            return self._attack_images(positions)
        except FloatingPointError as error:
            rows = [self.pairs[position].row for position in positions]
            raise FloatingPointError(f"{error}; the samples are among rows {rows} of the split") from error

    def show_images(self, features: Tensor) -> None:
        """Let captions be attacked against these features of all images, `(n, D)`, instead of the clean ones."""
        self.images = features

    def remember(self, positions: Sequence[int], attacked: Attacked) -> None:
        """Take in what an earlier run made of some pairs, as if it had been made here."""
        for position, texts in zip(positions if attacked.captions else (), attacked.captions, strict=True):
            self._known |= dict(zip(self.pairs[position].captions, texts, strict=True))

    def _pixels(self, positions: Iterable[int]) -> list[Tensor]:
        return [self.load(self.pairs[position]) for position in positions]

    def _attack_images(self, positions: Sequence[int]) -> Attacked:
        """Attacked images of pairs, and by a joint attack captions, those of one size together."""
        pixels, protocol = self._pixels(positions), self.protocol
        images: dict[int, Tensor] = {}
        captions: dict[int, list[str]] = {}
        for places in _of_one_size(pixels):
            group = [positions[place] for place in places]
            stacked = torch.stack([pixels[place] for place in places]).to(self.device)
            generators = sample_generators(protocol.seed, [self.pairs[position].row for position in group])
            how: dict[str, Any] = {"generators": generators, "batch_size": self.batch_size}
            how["threat_model"] = protocol.threat_model
            if protocol.joint_attack:
                texts = [list(self.pairs[position].captions) for position in group]
                encoders = self.classifier.embed, self.encode_text
                found, changed = protocol.joint_attack(*encoders, stacked, texts, seed=protocol.seed, **how)
                captions |= dict(zip(group, changed, strict=True))
            elif protocol.image_attack:
                forward, loss = self._image_aim(stacked, group)
                found = protocol.image_attack(forward, stacked, loss, **how)
            images |= dict(zip(group, found.cpu(), strict=True))
        return Attacked([images[place] for place in positions], [captions[place] for place in positions if captions])

    def _image_aim(self, pixels: Tensor, positions: list[int]) -> tuple[Forward, AttackLoss]:
        """The function that an attack on images sees, and the loss that it climbs."""
        if self.protocol.aim == "self":
            return self.classifier.embed, EmbeddingDistance(self.classifier.embed(pixels))
        own = self.image_of == torch.tensor(positions, device=self.device).unsqueeze(1)
        if self.protocol.aim == "gallery":
            return self.classifier, GalleryOdds(own)
        sums = torch.stack([self.classifier.class_embeds[mask].sum(dim=0) for mask in own])
        return lambda batch: self.classifier.embed(batch).unsqueeze(1), SetDissimilarity(sums)

    def _attack_captions(self, positions: Sequence[int]) -> list[list[str]]:
        """Attacked captions of pairs; an attack that knows nothing but a caption itself is made once for each."""
        captions = [list(self.pairs[position].captions) for position in positions]
        flat = [caption for texts in captions for caption in texts]
        attack, seed = self.protocol.text_attack, self.protocol.seed
        if attack is None:
            return captions
        if self.protocol.aim == "self":
            if unknown := [caption for caption in dict.fromkeys(flat) if caption not in self._known]:
                self._known |= dict(zip(unknown, attack(self.encode_text, unknown, seed=seed), strict=True))
            found = [self._known[caption] for caption in flat]
        else:
            image_of = torch.tensor(positions, device=self.device)[caption_owners(captions).to(self.device)]
            found = attack(self.encode_text, flat, seed=seed, score=self._caption_score(image_of))
        remaining = iter(found)
        return [[next(remaining) for _ in texts] for texts in captions]

    def _caption_score(self, image_of: Tensor) -> Score:
        """What an attack on captions climbs, given the image of each."""
        if self.protocol.aim == "pair":
            return dissimilarity(self.images[image_of])
        images = functional.normalize(self.images, dim=-1)
        places = torch.arange(len(images), device=self.device)

        def score(features: Tensor, owner: Tensor) -> Tensor:
            parts = []
            for captions, owners in zip(features.split(_CAPTIONS), owner.split(_CAPTIONS), strict=True):
                logits = self.scale * functional.normalize(captions.float(), dim=-1) @ images.T
                parts.append(GalleryOdds(image_of[owners].unsqueeze(1) == places)(logits))
            return torch.cat(parts)

        return score


def _of_one_size(images: Sequence[Tensor]) -> list[list[int]]:
    """Places of the images, those of one size together."""
    found: dict[torch.Size, list[int]] = defaultdict(list)
    for place, image in enumerate(images):
        found[image.shape].append(place)
    return list(found.values())

"""What judges images by a protocol: the classifier that attacks see, and the one for attacked prompts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robust_clip.attacks import AttackRun, InnerProblem, Victim
from robust_clip.models import (
    DefendedClassifier,
    Draws,
    RobustCLIPModel,
    ZeroShotClassifier,
    embed_texts,
    fill_templates,
    pool_templates,
)
from robust_clip.models.zero_shot import warn_of_cut_texts
from robust_clip.threat_model import ThreatModel

from .adaptive import InnerProblemMaker, judged
from .protocol import Precision, Protocol, UndefendedRun


@dataclass(frozen=True)
class Bench:
    """What judges the images, and how.

    Args:
        classifier: From pixels to logits by clean class prompts, in eval mode: what attacks on images see.
        protocol: The attacks, what they may do, and the precision.
        device: Of the classifier.
        attacked_prompts: From pixels to logits by attacked class prompts, for a protocol that attacks texts: what
            judges the attacked images then.
        inner_problem: What attacks with the loss `objective` see and climb.
        prompts: Class prompts, each with what an attack on texts made of it.
        defended: The classifier behind a test-time defence: what judges then, clean images and attacked ones.
        seen: The same with draws of its own, for attacks that know of the defence.
    """

    classifier: ZeroShotClassifier
    protocol: Protocol
    device: torch.device
    attacked_prompts: ZeroShotClassifier | None = None
    inner_problem: InnerProblem | None = None
    prompts: Sequence[tuple[str, str]] = ()
    defended: DefendedClassifier | None = None
    seen: DefendedClassifier | None = None

    def attack(
        self, run: AttackRun, threat_model: ThreatModel, pixels: Tensor, labels: Tensor, **how: Any
    ) -> Tensor:
        """Adversarial images of a batch."""
        forward, loss = run.aim(self.victim(run), pixels, labels)
        return run.attack(forward, pixels, loss, threat_model, eot_samples=run.eot_samples, **how)

    def victim(self, run: AttackRun | None) -> Victim:
        """What an attack on images sees; a random defence begins its draws anew, whatever was attacked before."""
        if self.seen is None or isinstance(run, UndefendedRun):
            texts = self.attacked_prompts.class_embeds if self.attacked_prompts else None
            return Victim(self.classifier, self.classifier.embed, self.inner_problem, texts)
        self.seen.draws.restart()
        return Victim(self.seen)

    def logits(self, pixels: Tensor, attacked: bool) -> Tensor:
        """By clean prompts, or by attacked ones if the images have been attacked and the protocol attacks texts.

        A test-time defence, if there is one, has its say either way.
        """
        judge: nn.Module = self.classifier if self.defended is None else self.defended
        if attacked and self.attacked_prompts:
            judge = self.attacked_prompts
        logits: Tensor = judge(pixels)
        return logits


def set_up(
    model: RobustCLIPModel,
    tokenizer: Any,
    class_names: Sequence[str],
    templates: Sequence[str],
    protocol: Protocol,
    seed: int,
    inner_problem: InnerProblemMaker | None = None,
) -> Bench:
    """The bench of a model: class embeddings are computed here, once, and class prompts attacked once.

    Args:
        model: In eval mode.
        tokenizer: The tokenizer of the model.
        class_names: C names.
        templates: Sentences with `{}` for the name.
        protocol: What is measured.
        seed: Of the attack on texts, and of a random defence.
        inner_problem: Makes what attacks with the loss `objective` see and climb.

    Raises:
        ValueError: If the weights have not the precision of the protocol, or the defence does not fit the model.
    """
    if protocol.precision == "fp32" and model.dtype != torch.float32:
        raise ValueError(f"protocol {protocol.name!r} asks for fp32, the weights are {model.dtype}: use model.float()")
    prompts = fill_templates(class_names, templates)
    warn_of_cut_texts(tokenizer, prompts, "class prompts")
    encode = partial(embed_texts, model, tokenizer)

    def classifier(texts: Sequence[str]) -> ZeroShotClassifier:
        class_embeds = pool_templates(encode(texts), len(class_names))
        return ZeroShotClassifier(model, class_embeds, batch_multiple=8, temperature=protocol.temperature)

    with numerics(protocol.precision, model.device.type):
        clean = classifier(prompts)
        if protocol.test_time_defence:
            wrap = partial(protocol.test_time_defence.wrap, clean, tokenizer, class_names)
            seen = wrap(Draws(f"{seed}:attacker", fresh=True)) if protocol.attacks_know else None
            return Bench(clean, protocol, model.device, defended=wrap(Draws(f"{seed}:defender")), seen=seen)
        inner = judged(inner_problem(class_names, templates), clean, len(class_names)) if inner_problem else None
        if protocol.text_attack is None:
            return Bench(clean, protocol, model.device, inner_problem=inner)
        attacked = protocol.text_attack(encode, prompts, seed=seed)
        pairs = list(zip(prompts, attacked, strict=True))
        return Bench(clean, protocol, model.device, classifier(attacked), inner, pairs)


def require_batch_size(batch_size: int) -> None:
    """Refuses what is no number of images.

    Raises:
        ValueError: If it is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")


@contextmanager
def compiled_tower(model: RobustCLIPModel, wanted: bool) -> Iterator[None]:
    """Run the vision tower through `torch.compile` meanwhile, for batches of any size; afterwards it is as before.

    Resizing stays outside, since the backward pass of bicubic interpolation does not compile for sizes that vary
    (PyTorch 2.13). Gradients reach the pixels and no parameter: a compiled backward pass computes all gradients that
    it could be asked for.

    Args:
        model: Of the classifier.
        wanted: Whether to compile; else nothing is done.
    """
    if not wanted:
        yield
        return
    tower: Any = model.vision_model
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    own = vars(tower).get("forward")  # a forward of the instance, as hooks of other libraries set it
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        tower.forward = torch.compile(tower.forward, dynamic=True)
        yield
    finally:
        if own is None:
            vars(tower).pop("forward", None)
        else:
            tower.forward = own
        for parameter in learning:
            parameter.requires_grad_(True)


@contextmanager
def numerics(precision: Precision, device_type: str) -> Iterator[None]:
    """Compute in the precision of a protocol, whatever the caller's settings; they are put back afterwards."""
    # cuDNN convolves in TF32 unless told otherwise. Recurrent nets are listed only because PyTorch complains about
    # reading its older flag while its parts differ.
    cudnn: Any = torch.backends.cudnn
    backends: list[Any] = [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device_type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        for backend, setting in zip(backends, before, strict=True):
            backend.fp32_precision = setting

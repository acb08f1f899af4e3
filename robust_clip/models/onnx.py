"""Export to ONNX: towers and zero-shot classifiers from pixels on, each compared with its model on the way out."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .modeling import RobustCLIPModel
from .prompted import PromptedCLIPModel
from .zero_shot import ZeroShotClassifier

# Largest difference between the exported graph and the model, as a share of the largest output.
TOLERANCE = 1e-4
# A protobuf file ends at 2 GiB; weights of a larger model go into a file beside it.
_LARGEST_FILE = 2**31 - 2**24
# Of torch, where it looks which operators it can export.
_OPERATORS = "torch.onnx._internal.exporter._registration"


class _ImageTower(nn.Module):
    def __init__(self, model: RobustCLIPModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels)


class _TextTower(nn.Module):
    def __init__(self, model: RobustCLIPModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.encode_text(input_ids, attention_mask)


class _Logits(_ImageTower):
    """`ZeroShotClassifier` with the temperature in its rows and without the steps that depend on the batch size."""

    def __init__(self, classifier: ZeroShotClassifier) -> None:
        model: Any = classifier.model
        super().__init__(model)
        scale = 1 / classifier.temperature if classifier.temperature else model.logit_scale.detach().exp()
        self.rows = nn.Buffer(scale * classifier.class_embeds)

    def forward(self, pixels: Tensor) -> Tensor:
        return F.normalize(super().forward(pixels), dim=-1) @ self.rows.T


def export_image_tower(model: RobustCLIPModel, file: str | Path, side: int | None = None) -> float:
    """Writes `pixels` `(batch, 3, side, side)` in [0, 1] to un-normalised `image_features` `(batch, D)`.

    Resizing and normalising are part of the graph.

    Args:
        model: In fp32.
        file: The ONNX file to write.
        side: Of the images, in pixels; the model's own by default. It is fixed in the file; the batch size is not.

    Returns:
        Largest difference from the model on random images, as a share of the largest output.

    Raises:
        ValueError: If `side` is not positive or the weights are not in fp32.
        FloatingPointError: If the difference exceeds `TOLERANCE`; the file is removed.
    """
    return _export(_ImageTower(model), model.encode_image, "image_features", _pixels(model, side), file)


def export_text_tower(model: RobustCLIPModel, file: str | Path) -> float:
    """Writes `input_ids` and `attention_mask` `(batch, length)` to un-normalised `text_features` `(batch, D)`.

    Returns and errors as those of `export_image_tower`, on random tokens.

    Raises:
        ValueError: If the model has a learned context, which is put in at places that depend on the tokens, or
            residuals of class embeddings, which are looked up by them.
    """
    if isinstance(model, PromptedCLIPModel) and "text" in model.config.sizes.towers:
        raise ValueError(
            "A text tower with learned context or class residuals cannot be exported; export_classifier (--classes on "
            "the command line) exports the image tower with the class embeddings that they give."
        )
    return _export(_TextTower(model), model.encode_text, "text_features", _tokens(model), file)


def export_classifier(classifier: ZeroShotClassifier, file: str | Path, side: int | None = None) -> float:
    """Writes `pixels` `(batch, 3, side, side)` in [0, 1] to `logits` `(batch, C)`, class embeddings in the graph.

    Arguments, returns and errors as those of `export_image_tower`.
    """
    graph = _Logits(classifier)
    return _export(graph, classifier, "logits", _pixels(graph.model, side), file)


def _pixels(model: RobustCLIPModel, side: int | None) -> Callable[[int], dict[str, Tensor]]:
    if side is not None and side < 1:
        raise ValueError(f"side must be a positive number of pixels, got {side}.")
    size = (3, side or model.image_size, side or model.image_size)
    generator = torch.Generator().manual_seed(0)
    return lambda n: {"pixels": torch.rand(n, *size, generator=generator).to(model.device)}


def _tokens(model: RobustCLIPModel) -> Callable[[int], dict[str, Tensor]]:
    """Texts of random tokens, of which each but the first ends one token before the one before it."""
    config: Any = model.config.text_config
    generator = torch.Generator().manual_seed(0)

    def draw(n: int) -> dict[str, Tensor]:
        # Each number of texts has a length of its own, so that a length fixed in the graph is noticed.
        ids = torch.randint(3, config.vocab_size, (n, n + 3), generator=generator)
        mask = torch.ones_like(ids)
        for row in range(n):
            end = n + 2 - row
            ids[row, ids[row] == config.eos_token_id] = 3
            ids[row, end], ids[row, end + 1 :], mask[row, end + 1 :] = config.eos_token_id, config.pad_token_id or 0, 0
        return {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}

    return draw


def _export(
    graph: nn.Module,
    model: Callable[..., Tensor],
    output: str,
    draw: Callable[[int], dict[str, Tensor]],
    file: str | Path,
) -> float:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError("Export needs onnx and onnxruntime: pip install 'robust-clip[onnx]'.") from error
    other = {weight.dtype for weight in graph.parameters() if weight.dtype != torch.float32}
    if other:
        raise ValueError(f"Only fp32 weights are exported, got {other.pop()}; load with dtype=torch.float32.")
    # torch takes a dimension of size 1 for one that is always 1.
    example = draw(2)
    axes = {0: "batch"} if "pixels" in example else {0: "batch", 1: "length"}
    modes = [(module, module.training) for module in graph.modules()]
    graph.eval()
    try:
        with _without_idle_words():
            torch.onnx.export(
                graph,
                kwargs=example,
                f=str(file),
                input_names=list(example),
                output_names=[output],
                dynamic_shapes={name: axes for name in example},
                external_data=sum(weight.nbytes for weight in graph.state_dict().values()) > _LARGEST_FILE,
                verbose=False,
            )
        difference = max(_difference(file, model, draw(n)) for n in (1, 3))
    finally:
        for module, mode in modes:
            module.training = mode
    if not difference <= TOLERANCE:
        Path(file).unlink()
        raise FloatingPointError(
            f"The exported graph differs from the model by {difference:.1e} of its largest output, more than "
            f"{TOLERANCE}; try another version of torch or onnxruntime."
        )
    return difference


@contextmanager
def _without_idle_words() -> Iterator[None]:
    """Keeps back what torch says at every export and nobody can act on: of torchvision, and of its own `copyreg`."""

    def tells(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("torchvision is not installed. Skipping")

    logger = logging.getLogger(_OPERATORS)
    logger.addFilter(tells)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        logger.removeFilter(tells)


@torch.no_grad()
def _difference(file: str | Path, model: Callable[..., Tensor], inputs: dict[str, Tensor]) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (exported,) = session.run(None, {name: value.cpu().numpy() for name, value in inputs.items()})
    expected = model(**inputs).cpu()
    return ((torch.from_numpy(exported) - expected).abs().max() / expected.abs().max()).item()

"""Square Attack: random search over squares of pixels, by forward passes alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robust_clip.attacks.base import Attack, Problem
from robust_clip.attacks.counts import check_counts
from robust_clip.attacks.restarts import best_of_restarts
from robust_clip.paper import Paper
from robust_clip.threat_model import ThreatModel

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
BLOCK = 100  # queries whose random numbers are drawn at once
NUMBERS = {"linf": 5, "l2": 8}  # uniform random numbers that a proposal takes


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Square Attack: repaint a random square of the image, keep the change if the loss rises.

    https://huggingface.co/papers/1912.00049, Algorithm 1, with Algorithm 2 for linf and Algorithm 3 for l2. It sees
    the loss and no gradient, so that a model which hides its gradients is found out. The defaults are those of
    AutoAttack (https://huggingface.co/papers/2003.01690), which climbs the logit margin (`Margin`). For a loss
    without labels all queries are spent.

    Differs from the authors' code: each sample has its own squares and colours, where theirs share them in a batch,
    and a square may touch the last row and column, as in the paper. Images may be smaller than the 5 x 5 tiles that
    the l2 search starts from: tiles are then single pixels.

    Args:
        queries: Proposals per sample and restart, each one forward pass; the start costs one more.
        p_init: Share of the pixels that the first squares cover. It is halved after 10, 50, 200, 500, 1000, 2000,
            4000, 6000 and 8000 proposals, however many `queries` there are.
        restarts: Searches from fresh random starts, for the samples that stand. Of their ends each sample keeps the
            first that fools the loss, else the one of highest loss.

    Raises:
        ValueError: If a count is not a positive integer, or `p_init` is not in (0, 1].
    """

    paper: ClassVar[Paper] = Paper(
        title="Square Attack: a query-efficient black-box adversarial attack via random search",
        arxiv_id="1912.00049",
        bibtex="""@inproceedings{andriushchenko2020square,
  title = {Square Attack: a query-efficient black-box adversarial attack via random search},
  author = {Andriushchenko, Maksym and Croce, Francesco and Flammarion, Nicolas and Hein, Matthias},
  booktitle = {European Conference on Computer Vision},
  year = {2020},
  eprint = {1912.00049},
  archivePrefix = {arXiv}
}""",
    )

    queries: int = 5000
    p_init: float = 0.8
    restarts: int = 1

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(self, "queries", "restarts")
        if not 0 < self.p_init <= 1:
            raise ValueError(f"Square p_init is a share of the pixels, above 0 and at most 1, got {self.p_init!r}")

    @property
    def gradient_passes(self) -> int:
        """None: only forward passes, `restarts * (queries + 1)` at most and one more where a sample seems fooled."""
        return 0

    def search(self, problem: Problem) -> Tensor:
        """Search `restarts` times, keeping the best end of each sample."""
        return best_of_restarts(problem, self.restarts, self._climb)[0]

    def _climb(self, problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
        """One search: best images `(B, 3, H, W)`, their losses `(B,)` and whether they fool, `(B,)`."""
        norm = problem.threat_model.norm
        best = start(problem)
        losses, fooled = _judge(problem, best, 0)
        ends, highest, broken = best.clone(), losses.clone(), fooled.clone()
        active, kept = problem, torch.arange(len(best), device=best.device)
        draws = best.new_empty(len(best), 0)
        for query in range(self.queries):
            if fooled.any():
                standing = (~fooled).nonzero().flatten()
                ends[kept], highest[kept], broken[kept] = best, losses, fooled
                active, kept = active[standing], kept[standing]
                best, losses, draws = best[standing], losses[standing], draws[standing]
                if not len(kept):
                    break
            place = query % BLOCK
            if place == 0:
                draws = uniform(active.generators, (min(BLOCK, self.queries - query), NUMBERS[norm])).to(best.device)
            side = window_side(query, self.p_init, best.shape[2], best.shape[3], norm)
            tried = propose(best, active.pixels, active.threat_model, side, draws[:, place])
            tried_losses, fooled = _judge(active, tried, query + 1)
            better = (tried_losses > losses) | fooled
            best = torch.where(better.view(-1, 1, 1, 1), tried, best)
            losses = torch.where(better, tried_losses, losses)
        if len(kept):
            ends[kept], highest[kept], broken[kept] = best, losses, fooled
        return ends, highest, broken


def window_side(query: int, p_init: float, height: int, width: int, norm: str) -> int:
    """Side of the square proposed at a query, in pixels: it covers a share `p` of the image, Section 3.2 and A.1.

    Args:
        query: Proposals before this one.
        p_init: Share `p` at first.
        height: Of the image.
        width: Of the image.
        norm: For `"l2"` the side is odd and at least 3, wherever the image has room for that.

    Returns:
        At least 1, at most the shorter side of the image.

    Example:
        >>> [window_side(query, 0.8, 224, 224, "linf") for query in (0, 10, 11, 60, 4999)]
        [200, 200, 142, 100, 18]
        >>> window_side(0, 0.8, 224, 224, "l2"), window_side(4999, 0.8, 8, 8, "l2"), window_side(0, 0.8, 1, 9, "l2")
        (201, 3, 1)
    """
    share = p_init / 2 ** sum(query > halving for halving in HALVINGS)
    side = round(math.sqrt(share * height * width))
    side = max(side, 1) if norm == "linf" else max(side, 3) // 2 * 2 + 1
    return min(side, height, width)


def start(problem: Problem) -> Tensor:
    """First images, `(B, 3, H, W)`: vertical stripes of +-epsilon for linf, tiles of the square pattern for l2."""
    pixels, threat_model = problem.pixels, problem.threat_model
    batch, channels, height, width = pixels.shape
    if threat_model.norm == "linf":
        stripes = _signs(uniform(problem.generators, (channels, 1, width))).to(pixels)
        return threat_model.project(pixels + threat_model.epsilon * stripes, pixels)
    side = max(1, min(height, width) // 5)
    rows, columns = height // side, width // side
    draws = uniform(problem.generators, (channels + 1, rows, columns)).to(pixels.device)
    # (B, 3, rows, columns, side, side): each tile turned and signed by itself, then laid side by side.
    tiles = _turned(square_pattern(side).to(pixels), draws[:, :1]) * _signs(draws[:, 1:])[..., None, None]
    tiled = tiles.transpose(3, 4).reshape(batch, channels, rows * side, columns * side)
    change = torch.zeros_like(pixels)
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    change[:, :, top : top + rows * side, left : left + columns * side] = tiled
    length = math.sqrt(channels * rows * columns)  # each tile of each channel has the norm 1
    return threat_model.project(pixels + change * (threat_model.epsilon / length), pixels)


def propose(best: Tensor, pixels: Tensor, threat_model: ThreatModel, side: int, draws: Tensor) -> Tensor:
    """Images with one more square changed in each, inside ball and box.

    linf, Algorithm 2: a square of one colour, +-2 epsilon in each channel, is added and clipped.
    l2, Algorithm 3: the change of one square goes to another, where the pattern is mixed in; the squared length that
    clipping to the box left unused goes there too, a third to each channel.

    Args:
        best: Images so far, `(B, 3, H, W)`.
        pixels: Clean images, `(B, 3, H, W)`.
        threat_model: Ball and box.
        side: Of the squares, in pixels.
        draws: `(B, 5)` for linf and `(B, 8)` for l2, uniform in [0, 1).

    Returns:
        `(B, 3, H, W)`.
    """
    if threat_model.norm == "linf":
        inside = _mask(_corner(draws[:, :2], side, best), side, best)
        colour = 2 * threat_model.epsilon * _signs(draws[:, 2:]).to(best)
        return threat_model.project(best + colour[..., None, None] * inside, pixels)
    change = (best - pixels).flatten(2)
    target, source = (_places(_corner(draws[:, part], side, best), side, best) for part in (slice(0, 2), slice(2, 4)))
    unused = (threat_model.epsilon**2 - _lengths(change.flatten(1)).square()).clamp_min(0).unsqueeze(2)
    there = change.gather(2, target)
    change = change.scatter(2, target, 0)
    there_length, source_length = _lengths(there), _lengths(change.gather(2, source))
    length = (there_length.square() + source_length.square() + unused / best.shape[1]).sqrt()
    pattern = _turned(square_pattern(side).to(best), draws[:, 4:5]).flatten(2)
    tiny = torch.finfo(best.dtype).tiny
    mixed = _signs(draws[:, 5:]).to(best).unsqueeze(2) * pattern + there / there_length.clamp_min(tiny)
    mixed = mixed / _lengths(mixed).clamp_min(tiny) * length
    change = change.scatter(2, source, 0).scatter(2, target, mixed)
    # Its length is at most epsilon but for rounding, which must not build up from query to query.
    shrink = threat_model.epsilon / _lengths(change.flatten(1)).clamp_min(tiny)
    return (pixels + (change * shrink.clamp_max(1).unsqueeze(2)).view_as(best)).clamp(0, 1)


def square_pattern(side: int) -> Tensor:
    """Shape of an l2 change, Equation 2: mass around the middles of two halves, of opposite signs.

    Half of the rows make a rectangle, whose pixel at the distance `d` (in the maximum norm) from its middle has the
    value `1 / (d + 1)^2 + 1 / (d + 2)^2 + ...`, up to the distance of the farthest side. As in the authors' code both
    halves are equally long as vectors.

    Args:
        side: Of the square, in pixels.

    Returns:
        `(side, side)`, float64, of Euclidean norm 1.

    Example:
        >>> (square_pattern(2) / square_pattern(2)[0, 1]).tolist()
        [[0.2, 1.0], [-0.2, -1.0]]
    """
    halves = []
    for rows in (side // 2, side - side // 2):
        from_middle = [(torch.arange(length) - length // 2).abs() for length in (rows, side)]
        distance = torch.maximum(from_middle[0].unsqueeze(1), from_middle[1].unsqueeze(0))
        weights = 1 / torch.arange(1, side // 2 + 2, dtype=torch.float64).square()
        half = weights.flip(0).cumsum(0).flip(0)[distance]
        halves.append(half / half.square().sum().sqrt())
    pattern = torch.cat([halves[0], -halves[1]])
    return pattern / pattern.square().sum().sqrt()


def uniform(generators: Sequence[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    """Numbers in [0, 1), `(B, *shape)` on the CPU, each sample's from its own generator."""
    return torch.stack([torch.rand(shape, generator=generator) for generator in generators])


def _judge(problem: Problem, images: Tensor, query: int) -> tuple[Tensor, Tensor]:
    """Losses `(B,)` and who is fooled, twice over, `(B,)`: nobody by a loss without labels."""
    losses, fooled = problem.judge(images)
    problem.require_finite(losses.isfinite(), f"the loss is not finite at query {query}")
    return losses, torch.zeros_like(losses, dtype=torch.bool) if fooled is None else fooled


def _signs(draws: Tensor) -> Tensor:
    """-1 or 1 of uniform numbers."""
    return torch.where(draws < 0.5, -1.0, 1.0)


def _turned(pattern: Tensor, draws: Tensor) -> Tensor:
    """The pattern `(side, side)` or its transpose for each uniform number: `(*draws.shape, side, side)`."""
    return torch.where((draws < 0.5)[..., None, None], pattern, pattern.T)


def _corner(draws: Tensor, side: int, images: Tensor) -> tuple[Tensor, Tensor]:
    """First row and first column of each sample's square, both `(B,)`, from uniform numbers `(B, 2)`."""
    height, width = images.shape[2:]
    return (draws[:, 0] * (height - side + 1)).long(), (draws[:, 1] * (width - side + 1)).long()


def _mask(corner: tuple[Tensor, Tensor], side: int, images: Tensor) -> Tensor:
    """Whether each pixel is in the square, `(B, 1, H, W)`."""
    from_corner = [
        torch.arange(length, device=images.device) - first.unsqueeze(1)
        for first, length in zip(corner, images.shape[2:], strict=True)
    ]
    rows, columns = ((offset >= 0) & (offset < side) for offset in from_corner)
    return (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)


def _places(corner: tuple[Tensor, Tensor], side: int, images: Tensor) -> Tensor:
    """Places of the square's pixels in each flattened channel, `(B, 3, side * side)`."""
    top, left = (first.view(-1, 1, 1) for first in corner)
    offsets = torch.arange(side, device=images.device)
    places = (top + offsets.unsqueeze(1)) * images.shape[3] + left + offsets
    return places.flatten(1).unsqueeze(1).expand(-1, images.shape[1], -1)


def _lengths(rows: Tensor) -> Tensor:
    """Euclidean norms along the last dimension, which is kept with length 1."""
    squares = rows.square()
    # Summed by adding the second half to the first: a library's sum may run in another order in other company.
    while (size := squares.shape[-1]) > 1:
        half = (size + 1) // 2
        squares = torch.cat([squares[..., : size - half] + squares[..., half:], squares[..., size - half : half]], -1)
    return squares.sqrt()

"""Random views of one image, as test-time methods take them: crops and flips, mixed as AugMix mixes.

TPT (https://huggingface.co/papers/2209.07511) and what follows it view an image through torchvision's random resized
crop and flip, and then through AugMix (https://huggingface.co/papers/1912.02781) at severity 1. The distributions and
sizes here are those of that code. It works on 8-bit pictures and is not differentiable; what is ours is that all of it
is done on tensors, so that gradients reach the pixels. Hence values are not rounded between operations, a bilinear
crop may look one pixel past its edge, and equalising and posterising, whose derivative is zero or jumps, pass
gradients straight through.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

AREA, RATIO, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # torchvision's random resized crop
CHAINS, LONGEST = 3, 3  # AugMix's width, and the most operations in a chain
LEVEL = (0.1, 1.0)  # AugMix at severity 1, of 10
# Operations, in the order of their numbers; those from `ROTATE` on move pixels.
AUTOCONTRAST, EQUALIZE, POSTERIZE, SOLARIZE, ROTATE, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y = range(9)


def random_views(image: Tensor, count: int, side: int, generator: torch.Generator, mixed: bool = True) -> Tensor:
    """Random views of an image, differentiably.

    Args:
        image: `(3, S, S)` in [0, 1], no larger than `side`, since crops are not smoothed before they are made smaller.
        count: V, how many.
        side: Of the views, the model's input.
        generator: On the CPU.
        mixed: Whether AugMix follows crop and flip.

    Returns:
        `(V, 3, side, side)` in [0, 1].
    """
    crops = _resampled(image.expand(count, -1, -1, -1), random_crops(count, image.shape[-1], generator), side)
    if not mixed:
        return crops
    chains = crops.repeat_interleave(CHAINS, dim=0)
    lengths = torch.randint(1, LONGEST + 1, (len(chains),), generator=generator)
    for place in range(LONGEST):
        numbers = torch.randint(TRANSLATE_Y + 1, (len(chains),), generator=generator)
        levels = LEVEL[0] + (LEVEL[1] - LEVEL[0]) * torch.rand(len(chains), generator=generator)
        signs = 1.0 - 2.0 * torch.randint(2, (len(chains),), generator=generator)
        chains = operate(chains, numbers.masked_fill(lengths <= place, -1), levels, signs)
    # Dirichlet(1, 1, 1) is three exponentials over their sum, and Beta(1, 1) is uniform.
    shares = torch.empty(count, CHAINS).exponential_(generator=generator)
    shares = (shares / shares.sum(dim=1, keepdim=True)).view(count, CHAINS, 1, 1, 1).to(image)
    kept = torch.rand(count, 1, 1, 1, generator=generator).to(image)
    return kept * crops + (1 - kept) * (shares * chains.unflatten(0, (count, CHAINS))).sum(dim=1)


def random_crops(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Affine maps from views to an image of `side` pixels, `(V, 2, 3)`: a random resized crop, every other flipped."""
    area = AREA[0] + (AREA[1] - AREA[0]) * torch.rand(count, TRIES, generator=generator)
    low, high = map(math.log, RATIO)
    ratio = (low + (high - low) * torch.rand(count, TRIES, generator=generator)).exp()
    sizes = side * torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=-1)
    sizes = sizes.round().clamp(min=1)
    # The first try that fits; a square image of which none does is taken whole.
    fits = torch.cat([(sizes <= side).all(dim=-1), torch.ones(count, 1, dtype=torch.bool)], dim=1)
    sizes = torch.cat([sizes, torch.full((count, 1, 2), float(side))], dim=1)
    size = sizes[torch.arange(count), fits.int().argmax(dim=1)]
    corner = (torch.rand(count, 2, generator=generator) * (side - size + 1)).floor()
    flip = 1.0 - 2.0 * torch.randint(2, (count,), generator=generator)
    maps = torch.zeros(count, 2, 3)
    maps[:, 0, 0], maps[:, 1, 1] = flip * size[:, 0] / side, size[:, 1] / side
    maps[:, :, 2] = (2 * corner + size) / side - 1
    return maps


def operate(images: Tensor, numbers: Tensor, levels: Tensor, signs: Tensor) -> Tensor:
    """One of AugMix's operations on each image.

    Args:
        images: `(N, 3, S, S)` in [0, 1].
        numbers: `(N,)`, which operation; -1 for none.
        levels: `(N,)`, how much, of 10.
        signs: `(N,)`, 1 or -1, in which direction pixels move.
    """
    changed = images.clone()
    for number, operation in ((AUTOCONTRAST, autocontrast), (EQUALIZE, equalize), (POSTERIZE, posterize)):
        rows = (numbers == number).nonzero().flatten().to(images.device)
        if len(rows):
            changed[rows] = operation(images[rows])
    rows = (numbers == SOLARIZE).nonzero().flatten()
    if len(rows):
        changed[rows.to(images.device)] = solarize(images[rows.to(images.device)], levels[rows])
    rows = (numbers >= ROTATE).nonzero().flatten()
    if len(rows):
        maps = _maps(numbers[rows], levels[rows], signs[rows], images.shape[-1])
        changed[rows.to(images.device)] = _resampled(images[rows.to(images.device)], maps, images.shape[-1], "zeros")
    return changed


def autocontrast(images: Tensor) -> Tensor:
    """Each channel stretched to [0, 1]; one of a single value is left as it is."""
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    flat = high == low
    return torch.where(flat, images, (images - low) / torch.where(flat, torch.ones_like(high), high - low))


def equalize(images: Tensor) -> Tensor:
    """Each channel's 8-bit histogram made level, as Pillow does; gradients pass straight through."""
    values = (images.detach() * 255).round().long().flatten(2).flatten(0, 1)
    counts = torch.zeros(len(values), 256, dtype=torch.long, device=values.device)
    counts.scatter_add_(1, values, torch.ones_like(values))
    last = counts.gather(1, values.amax(dim=1, keepdim=True))
    step = (values.shape[1] - last) // 255
    table = (step // 2 + counts.cumsum(dim=1) - counts) // step.clamp(min=1)
    table = torch.where(step > 0, table, torch.arange(256, device=values.device)).clamp(max=255)
    level = (table.gather(1, values).to(images) / 255).view(images.shape)
    return images + (level - images).detach()


def posterize(images: Tensor) -> Tensor:
    """The upper 4 of 8 bits, which is all that severity 1 comes to; gradients pass straight through."""
    coarse = torch.div((images.detach() * 255).round(), 16, rounding_mode="floor") * 16 / 255
    return images + (coarse - images).detach()


def solarize(images: Tensor, levels: Tensor) -> Tensor:
    """Values from 256 - 25.6 * level on, of 255, inverted; `levels` is `(N,)`."""
    threshold = (256 - (levels * 25.6).floor()).view(-1, 1, 1, 1).to(images)
    return torch.where(images * 255 < threshold, images, 1 - images)


def _maps(numbers: Tensor, levels: Tensor, signs: Tensor, side: int) -> Tensor:
    """Affine maps `(N, 2, 3)` of operations that move pixels: at most 3 degrees, 3 % of shear, 1/30 of the side."""
    maps = torch.eye(2, 3).repeat(len(numbers), 1, 1)
    angle = signs * (levels * 3).floor() * math.pi / 180 * (numbers == ROTATE)
    maps[:, 0, 0] = maps[:, 1, 1] = angle.cos()
    maps[:, 0, 1], maps[:, 1, 0] = -angle.sin(), angle.sin()
    shear, shift = signs * levels * 0.03, 2 * signs * (levels * side / 30).floor() / side
    for row, (shears, shifts) in enumerate(((SHEAR_X, TRANSLATE_X), (SHEAR_Y, TRANSLATE_Y))):
        maps[:, row, 1 - row] += shear * (numbers == shears)
        maps[:, row, 2] += shear * (numbers == shears) + shift * (numbers == shifts)
    return maps


def _resampled(images: Tensor, maps: Tensor, side: int, beyond: str = "border") -> Tensor:
    """Views `(N, 3, side, side)` of images by affine maps, bilinear; `beyond` the edge as in `grid_sample`."""
    grid = F.affine_grid(maps.to(images), [len(images), 3, side, side], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=beyond, align_corners=False)

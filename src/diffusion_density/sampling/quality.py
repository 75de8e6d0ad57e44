r"""Sliced Wasserstein distance of two sets of images on each level of a Laplacian pyramid: quality without a network.

Karras et al. 2018 (arXiv 1710.10196), section 5. With the binomial filter b = (1, 4, 6, 4, 1)/16 along both axes,

.. math:: g_{l+1} = (b * g_l)\!\downarrow_2, \qquad \ell_l = g_l - 4\, b * (g_{l+1}\!\uparrow_2), \qquad \ell_L = g_L,

so that each level has the details of one octave. A *descriptor* is a patch of a level with all its channels, x ∈ R^d.
The distance of two sets of m descriptors is the mean over unit directions u of that of their projections,

.. math:: E_u \frac1m \sum_{i=1}^m \big|\, (u \cdot x)_{(i)} - (u \cdot y)_{(i)} \big|,

the mean difference of sorted values (Wasserstein-1). Karras et al. normalise each set by itself, so a wrong brightness
or contrast does not count. Here both sets are normalised by the first one, the reference: the unit is its standard
deviation in each channel. For finite sets of the same distribution the distance is not 0: compare it with that of two
reference sets.
"""

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import conv2d, pad

from diffusion_density.machine.errors import InputError

SMALLEST_SIDE = 8  # pixels on the shorter side of the coarsest level, by default
PROJECTIONS_AT_ONCE = 1 << 24  # in memory


def sliced_wasserstein(
    first: Shaped[Tensor, "n c h w"],
    second: Shaped[Tensor, "m _ _ _"],
    *,
    generator: torch.Generator,
    patches: int = 128,
    patch: int = 7,
    directions: int = 512,
    levels: int | None = None,
) -> dict[int, float]:
    """Distance of two sets of N images at each level of detail.

    Args:
        first: (N, C, H, W) the reference, numbers of any type; its descriptors normalise both sets.
        second: (N, C, H, W), on the device of the first.
        generator: draws the places of the patches and the directions. Image i has the same places in both sets.
        patches: descriptors per image and level, drawn with replacement.
        patch: side of a descriptor in pixels; on levels that are not larger, one less than the side of the level.
        directions: unit vectors for the average of the distance.
        levels: of the pyramid; by default as many as possible with even sides and at least 8 pixels on the coarsest.

    Returns:
        The distance in standard deviations of the reference for each level, the finest first. Keys are the shorter
        sides of the levels in pixels.

    Raises:
        InputError: for sets of different shapes, images that are not finite, settings out of range, or a reference
            without variation in a channel of a level.
    """
    if first.shape != second.shape or not first.numel():
        raise InputError(f"quality: two sets of one shape expected, got {tuple(first.shape)}, {tuple(second.shape)}")
    if min(patches, patch, directions) < 1:
        raise InputError(f"quality: patches, patch, directions >= 1, got {patches}, {patch} and {directions}")
    dtype = torch.float64 if torch.float64 in (first.dtype, second.dtype) else torch.float32
    sets = first.to(dtype), second.to(dtype)
    if not all(bool(images.isfinite().all()) for images in sets):
        raise InputError("quality: images have numbers that are not finite")
    depth = _levels(*first.shape[2:]) if levels is None else levels
    if depth < 1 or any(side % 2 ** (depth - 1) or side < 2**depth for side in first.shape[2:]):
        raise InputError(f"quality: {depth} levels need sides of at least {2**depth}, divisible by {2 ** (depth - 1)}")
    distances = {}
    for reference, other in zip(*(laplacian_pyramid(images, depth) for images in sets), strict=True):
        side = min(reference.shape[2:])
        places = _places(reference, patches, min(patch, side - 1), generator)
        x, y = _patches(reference, places), _patches(other, places)  # (N, C, patches, pixels)
        std, mean = torch.std_mean(x, dim=(0, 2, 3), keepdim=True, correction=0)
        if not bool((std > 0).all()):
            raise InputError(f"quality: the reference does not vary in some channel at the level of {side} pixels")
        x, y = (_descriptors((values - mean) / std) for values in (x, y))
        distances[side] = sliced_distance(x, y, directions=directions, generator=generator)
    return distances


def sliced_distance(
    first: Float[Tensor, "m d"], second: Float[Tensor, "m d"], *, directions: int, generator: torch.Generator
) -> float:
    """Mean Wasserstein-1 distance of the projections of two (M, D) sets on random unit directions."""
    unit = torch.randn(directions, first.shape[1], generator=generator, device=generator.device).to(first)
    unit = unit / unit.norm(dim=1, keepdim=True)
    total = 0.0
    for some in unit.split(max(1, PROJECTIONS_AT_ONCE // len(first))):
        x, y = ((some @ values.T).sort(dim=1).values for values in (first, second))
        total += (x - y).abs().mean(1).double().sum().item()
    return total / directions


def laplacian_pyramid(images: Float[Tensor, "n c h w"], levels: int) -> list[Tensor]:
    """Bands of detail (N, C, H/2^l, W/2^l), the finest first, the rest last; sides must divide by 2^(levels − 1)."""
    bands, current = [], images
    for _ in range(levels - 1):
        coarse = _blurred(current)[:, :, ::2, ::2]
        spread = torch.zeros_like(current)
        spread[:, :, ::2, ::2] = coarse
        bands.append(current - 4 * _blurred(spread))
        current = coarse
    return [*bands, current]


def _blurred(images: Tensor) -> Tensor:
    """Each channel after the binomial filter, with images mirrored at the borders."""
    weights = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]).to(images) / 16
    rows = images.flatten(0, 1)[:, None]
    filtered = conv2d(pad(rows, (2, 2, 2, 2), mode="reflect"), torch.outer(weights, weights)[None, None])
    return filtered.reshape(images.shape)


def _levels(height: int, width: int) -> int:
    """One level more than both sides can be halved without a side below SMALLEST_SIDE."""
    halvings = int(math.log2(max(1.0, min(height, width) / SMALLEST_SIDE)))
    while height % 2**halvings or width % 2**halvings:
        halvings -= 1
    return halvings + 1


def _places(level: Tensor, patches: int, patch: int, generator: torch.Generator) -> Tensor:
    """Indices into H W of the pixels of random patches, (N, patches, patch²)."""
    n, _, height, width = level.shape
    top, left = (
        torch.randint(side - patch + 1, (n, patches, 1), generator=generator, device=generator.device).to(level.device)
        for side in (height, width)
    )
    offset = torch.arange(patch, device=level.device)
    return (top * width + left) + (offset[:, None] * width + offset).flatten()


def _patches(level: Tensor, places: Tensor) -> Tensor:
    """The pixels at these places, (N, C, patches, patch²)."""
    n, channels = level.shape[:2]
    pixels = level.flatten(2).gather(2, places.flatten(1)[:, None].expand(-1, channels, -1))
    return pixels.reshape(n, channels, *places.shape[1:])


def _descriptors(patches: Tensor) -> Float[Tensor, "m d"]:
    """(N, C, patches, pixels) with one row per patch."""
    return patches.transpose(1, 2).flatten(2).flatten(0, 1)

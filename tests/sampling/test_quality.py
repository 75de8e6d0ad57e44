"""The sliced Wasserstein distance against Gaussians and shifts, and as a judge of damaged images."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from diffusion_density.data.images import load
from diffusion_density.machine.errors import InputError
from diffusion_density.sampling.quality import laplacian_pyramid, sliced_distance, sliced_wasserstein
from truths import seeded


def photos(n: int = 88) -> Tensor:
    return load("photos32", Path("unused")).test[:n].double()


def noise(n: int, channels: int, side: int, seed: int = 0) -> Tensor:
    return torch.randn(n, channels, side, side, generator=seeded(seed), dtype=torch.float64)


def distances(first: Tensor, second: Tensor, seed: int = 1, patch: int = 7) -> list[float]:
    found = sliced_wasserstein(first, second, generator=seeded(seed), patches=16, patch=patch, directions=64)
    return list(found.values())


def mean_projection(dimension: int) -> float:
    """E|u₁| of a random unit vector."""
    return math.exp(math.lgamma(dimension / 2) - math.lgamma((dimension + 1) / 2)) / math.pi**0.5


# Descriptors


@pytest.mark.parametrize("dimension", [1, 2, 10])
def test_a_shift_moves_every_projection_by_its_own(dimension: int) -> None:
    x = torch.randn(50, dimension, generator=seeded(0), dtype=torch.float64)
    shift = torch.randn(dimension, generator=seeded(1), dtype=torch.float64)
    n = 20_000
    distance = sliced_distance(x, x[torch.randperm(50)] + shift, directions=n, generator=seeded(2))
    mean = shift.norm().item() * mean_projection(dimension)
    stderr = (max(0.0, shift.square().sum().item() / dimension - mean**2) / n) ** 0.5
    assert abs(distance - mean) < 4 * stderr + 1e-9


@pytest.mark.parametrize("dimension", [1, 10])
@pytest.mark.parametrize(("shift", "scale"), [(0.7, 1.0), (0.0, 2.0), (0.0, 0.25)])
def test_two_gaussians(dimension: int, shift: float, scale: float) -> None:
    """Along u the distributions N(0, 1) and N(a, t²) are |a| apart where t = 1, and |t − 1| √(2/π) where a = 0."""
    m = 5000
    x = torch.randn(m, dimension, generator=seeded(3), dtype=torch.float64)
    y = scale * torch.randn(m, dimension, generator=seeded(4), dtype=torch.float64)
    y[:, 0] += shift
    distance = sliced_distance(x, y, directions=400, generator=seeded(5))
    truth = abs(shift) * mean_projection(dimension) + abs(scale - 1) * (2 / math.pi) ** 0.5
    assert abs(distance - truth) < 0.04


def test_directions_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = noise(2, 1, 40).reshape(2, 100, 16)
    whole = sliced_distance(x, y, directions=64, generator=seeded(0))
    monkeypatch.setattr("diffusion_density.sampling.quality.PROJECTIONS_AT_ONCE", 700)
    assert sliced_distance(x, y, directions=64, generator=seeded(0)) == pytest.approx(whole, rel=1e-12)
    assert sliced_distance(3 * x, 3 * y, directions=64, generator=seeded(0)) == pytest.approx(3 * whole, rel=1e-12)


# The pyramid


def test_the_pyramid_is_complete_and_its_bands_hold_no_constant() -> None:
    images = noise(2, 3, 32)
    bands = laplacian_pyramid(images, 3)
    assert [band.shape[-1] for band in bands] == [32, 16, 8]
    assert torch.equal(laplacian_pyramid(images, 1)[0], images)
    constant = laplacian_pyramid(torch.full((1, 1, 16, 16), 5.0, dtype=torch.float64), 2)
    assert constant[0].abs().max() < 1e-12
    assert torch.allclose(constant[1], torch.tensor(5.0, dtype=torch.float64))


def test_an_impulse_is_spread_by_the_binomial_filter() -> None:
    image = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    image[0, 0, 6, 8] = 1
    fine, coarse = laplacian_pyramid(image, 2)
    weights = torch.tensor([1, 6, 1], dtype=torch.float64) / 16  # every second of 1, 4, 6, 4, 1
    expected = torch.zeros(8, 8, dtype=torch.float64)
    expected[2:5, 3:6] = torch.outer(weights, weights)
    assert torch.allclose(coarse[0, 0], expected)
    # at the impulse: coarse neighbours 1, 6, 1 back through 2·(1, 6, 1)/16 along each axis
    assert fine[0, 0, 6, 8].item() == pytest.approx(1 - (2 * (1 + 36 + 1) / 256) ** 2)


def test_a_slow_wave_is_coarse_and_a_checkerboard_is_fine() -> None:
    grid = torch.arange(32, dtype=torch.float64)
    wave = torch.cos(2 * math.pi * grid / 32).expand(1, 1, 32, 32)
    board = ((-1) ** (grid[:, None] + grid)).expand(1, 1, 32, 32)
    powers = [[band.square().mean().item() for band in laplacian_pyramid(image, 3)] for image in (wave, board)]
    assert powers[0][2] > 20 * (powers[0][0] + powers[0][1])
    assert powers[1][0] == pytest.approx(1)
    assert powers[1][1] + powers[1][2] < 1e-20


# Images


@pytest.mark.parametrize("shape", [(40, 3, 32, 32), (40, 1, 8, 8), (40, 1, 5, 5), (40, 2, 16, 24)])
def test_identical_sets_have_no_distance(shape: tuple[int, ...]) -> None:
    images = torch.randint(17, shape, generator=seeded(0), dtype=torch.uint8)
    found = sliced_wasserstein(images, images.clone(), generator=seeded(1))
    sides = {32: [32, 16, 8], 16: [16, 8]}.get(shape[2], [shape[2]])
    assert found == dict.fromkeys(sides, 0.0)


def test_a_brighter_set_is_its_shift_apart() -> None:
    """A constant shifts all D numbers of a descriptor by c/std: the reference's statistics do not forgive it."""
    images = noise(50, 1, 8)
    shifted = sliced_wasserstein(images, images + 0.5, generator=seeded(1), patches=8, patch=4, directions=5000)
    spread = images.std().item()
    expected = 0.5 / spread * 16**0.5 * mean_projection(16)
    assert shifted[8] == pytest.approx(expected, rel=0.03)  # of std and directions


def test_more_contrast_is_a_scale_of_normal_descriptors() -> None:
    images = noise(400, 3, 8)
    found = sliced_wasserstein(images, 1.5 * images, generator=seeded(1), patches=16, patch=3, directions=128)
    assert found[8] == pytest.approx(0.5 * (2 / math.pi) ** 0.5, rel=0.02)


def test_units_of_the_pixels_do_not_matter() -> None:
    first, second = photos(44), photos()[44:]
    plain = distances(first, second)
    assert plain == pytest.approx(distances(first / 127.5 - 1, second / 127.5 - 1), rel=1e-9)
    channels = torch.tensor([1.0, 10.0, 0.1], dtype=torch.float64)[:, None, None]
    assert plain == pytest.approx(distances(first * channels, second * channels), rel=1e-9)
    assert plain == pytest.approx(distances(first.to(torch.uint8), second.to(torch.uint8)), rel=1e-3)


def test_more_noise_is_further_and_worst_in_the_fine_detail() -> None:
    images = photos()
    white = noise(len(images), 3, 32, seed=2)
    found = [distances(images, images + amount * white) for amount in (2, 5, 10, 20)]
    for less, more in pairwise(found):
        assert all(a < b for a, b in zip(less, more, strict=True))
    assert all(level[0] > 2 * level[1] > 4 * level[2] for level in found)


def test_more_blur_is_further() -> None:
    images = photos()
    found = [images]
    for _ in range(3):
        found.append(avg_pool2d(found[-1], 3, stride=1, padding=1, count_include_pad=False))
    fine = [distances(images, blurred) for blurred in found]
    assert fine[0] == [0, 0, 0]
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(fine))


def test_halves_of_one_law_are_near_and_either_may_be_the_reference() -> None:
    first, second = noise(300, 1, 16, seed=1), noise(300, 1, 16, seed=2)
    there, back = distances(first, second), distances(second, first)
    assert there == pytest.approx(back, rel=0.02)
    assert max(there) < 0.1  # of 300 images
    assert min(distances(first, 1.5 * second)) > 0.3


def test_the_generator_decides() -> None:
    first, second = noise(20, 1, 16, seed=1), noise(20, 1, 16, seed=2)
    assert distances(first, second, seed=3) == distances(first, second, seed=3)
    assert distances(first, second, seed=3) != distances(first, second, seed=4)


def test_patches_reach_every_pixel_and_stay_inside() -> None:
    """Exactly the reference's own pixels count: a set that differs in one corner differs, however small the patch."""
    images = noise(200, 1, 8)
    for corner in ((0, 0), (0, 7), (7, 0), (7, 7)):
        other = images.clone()
        other[:, :, corner[0], corner[1]] += 100
        assert distances(images, other, patch=1)[0] > 0.5
        assert distances(images, other)[0] > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"second": torch.zeros(3, 1, 16, 16)}, r"two sets of one shape expected, got \(4, 1, 16, 16\), \(3"),
        ({"first": torch.zeros(0, 1, 16, 16), "second": torch.zeros(0, 1, 16, 16)}, "two sets of one shape"),
        ({"second": torch.full((4, 1, 16, 16), math.nan)}, "not finite"),
        ({"first": torch.zeros(4, 1, 16, 16)}, "does not vary in some channel at the level of 16 pixels"),
        ({"patches": 0}, "patches, patch, directions >= 1"),
        ({"patch": 0}, "patches, patch, directions >= 1"),
        ({"directions": 0}, "patches, patch, directions >= 1"),
        ({"levels": 0}, "0 levels need"),
        ({"levels": 5}, "5 levels need sides of at least 32, divisible by 16"),
    ],
)
def test_what_cannot_be_compared_is_refused(change: dict[str, Any], message: str) -> None:
    sets = {"first": noise(4, 1, 16), "second": noise(4, 1, 16, seed=1)}
    with pytest.raises(InputError, match=message):
        sliced_wasserstein(**sets | {"generator": seeded(0)} | change)

"""Randomised point sets: uniform points, even sets, draws that do not depend on other points of a batch."""

import pytest
import torch
from scipy import stats

from diffusion_density.density.path_integral.quasi_random import BITS, POINT_SETS, draw
from truths import seeded


def test_every_point_of_a_net_is_uniform() -> None:
    """Over the shifts: each coordinate of the first and of the last point."""
    u, z = draw(torch.zeros(4000, 2, dtype=torch.float64), 8, seeded(0))
    for place in (0, -1):
        assert stats.kstest(u[:, 3, place].numpy(), "uniform").pvalue > 1e-3
        for coordinate in range(2):
            assert stats.kstest(z[:, 3, place, coordinate].numpy(), "norm").pvalue > 1e-3
    assert u.min() > 0
    assert u.max() < 1


def test_a_net_has_one_point_in_every_interval() -> None:
    """In one dimension and in each of several: stratified, after any shift."""
    u, z = draw(torch.zeros(5, 3, dtype=torch.float64), 64, seeded(0))
    for coordinate in (u, *torch.special.ndtr(z).unbind(-1)):
        strata = (64 * coordinate).long().sort(-1).values
        assert (strata == torch.arange(64)).all()


def test_nets_of_a_point_and_of_points_are_independent() -> None:
    u, _ = draw(torch.zeros(3000, 1, dtype=torch.float64), 4, seeded(0))
    first = u[:, :, 0]
    across = torch.corrcoef(first.T) - torch.eye(POINT_SETS)
    assert across.abs().max() < 5 / 3000**0.5
    assert abs(torch.corrcoef(torch.stack([first[:-1, 0], first[1:, 0]]))[0, 1]) < 5 / 3000**0.5


@pytest.mark.parametrize("size", [3, 100, 101])
def test_a_batch_draws_what_its_points_draw(size: int) -> None:
    x = torch.zeros(3, size, dtype=torch.float64)
    u, z = draw(x, 16, seeded(0))
    generator = seeded(0)
    for index in range(3):
        one, noise = draw(x[:1], 16, generator)
        assert torch.equal(u[index], one[0])
        assert torch.equal(z[index], noise[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("event", [(2, 1, 3), (1, 101)])
def test_noise_is_like_the_points(dtype: torch.dtype, event: tuple[int, ...]) -> None:
    u, z = draw(torch.zeros(2, *event, dtype=dtype), 32, seeded(0))
    assert u.dtype == torch.float64
    assert z.dtype == dtype
    assert z.shape == (2, POINT_SETS, 32, *event)
    assert z.isfinite().all()
    assert abs(z.std() - 1) < 0.1
    assert (u * 2 ** (BITS + 1) % 2 == 1).all()  # the middles of a grid: nothing was rounded

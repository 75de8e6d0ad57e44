r"""Three distributions in the plane whose density is known, for networks to learn.

* ``moons``: two half circles of radius 1 in the usual interlocking places, each point with normal noise of 0.1. The
  distribution is a mixture of 256 normals, whose spacing along the circles is a quarter of their width.
* ``eight``: eight normals of width 0.15 on a circle of radius 1.5, of unequal weights.
* ``checkerboard``: uniform on the eight dark squares of a board of side 3: log p = −log 4.5 there.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.process.mixtures import GaussianMixture

NAMES = ("moons", "eight", "checkerboard")


def distribution(name: str) -> "GaussianMixture | Checkerboard":
    """The distribution of one of :data:`NAMES`."""
    known: dict[str, Callable[[], GaussianMixture | Checkerboard]] = {
        "moons": _moons,
        "eight": _eight,
        "checkerboard": Checkerboard,
    }
    return known[name]()


class Checkerboard:
    """Uniform on the eight dark squares, of side ¾, of a board of four by four."""

    side = 0.75

    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n 2"]:
        """(n, 2) independent draws in double precision."""
        column = torch.randint(4, (n,), generator=generator)
        row = 2 * torch.randint(2, (n,), generator=generator) + column % 2
        corner = torch.stack([column, row], dim=1) - 2
        return self.side * (corner + torch.rand(n, 2, generator=generator, dtype=torch.float64))

    def log_prob(self, x: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        """(n,) log density in nats."""
        square = (x / self.side + 2).floor()
        dark = (square.sum(1) % 2 == 0) & ((square >= 0) & (square < 4)).all(1)
        inside = torch.full_like(x[:, 0], -math.log(8 * self.side**2))
        return inside.masked_fill(~dark, -math.inf)


def _mixture(weights: Tensor, means: Tensor, scale: float) -> GaussianMixture:
    identity = torch.eye(2, dtype=torch.float64)
    return GaussianMixture(weights / weights.sum(), means, scale**2 * identity.expand(len(means), 2, 2))


def _moons() -> GaussianMixture:
    angle = math.pi * (torch.arange(128, dtype=torch.float64) + 0.5) / 128
    upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], dim=1)
    means = torch.cat([upper, -upper])
    return _mixture(torch.ones(len(means), dtype=torch.float64), means, 0.1)


def _eight() -> GaussianMixture:
    angle = 2 * math.pi * torch.arange(8, dtype=torch.float64) / 8
    means = 1.5 * torch.stack([angle.cos(), angle.sin()], dim=1)
    return _mixture(1.0 + torch.arange(8, dtype=torch.float64), means, 0.15)

r"""Three pairs (x, c) whose conditional density p(x | c) is known.

* ``linear_gaussian``: a normal distribution: x ~ N(0, BBᵀ/D + 0.01 I) in D = 3
  dimensions, and c = A x + z in two, with random A and B and z ~ N(0, I).
* ``mixture``: the first two dimensions of a random mixture of four normals, given the other two.
* ``two_moons``: the simulator of simulation-based inference (Greenberg et al. 2019). Parameters x are uniform on the
  square [−1, 1]², and with an angle a uniform on (−π/2, π/2) and a radius r ~ N(0.1, 0.01²) one observes

.. math:: c = m - (|q|, t), \qquad m = (r \cos a + \tfrac14,\; r \sin a), \qquad
          q = (x_1 + x_2)/\sqrt2, \quad t = (x_1 - x_2)/\sqrt2.

  The posterior p(x | c) is a pair of thin moons, at ±q. As x ↦ (q, t) is a rotation, m has the density
  N(r; 0.1, 0.01²)/(π r) in the plane, and the square is |q| + |t| ≤ √2, Bayes' rule is

.. math:: p(x | c) = \frac{N(r; 0.1, 0.01^2)}{\pi r}\Big/\, 2\,P(m \text{ lies within the square}), \qquad
          m = c + (|q|, t).

  The probability is that of m with m₁ ≥ c₁ and (m₁ − c₁) + |m₂ − c₂| ≤ √2: for each angle an interval of radii, whose
  probability is known; the mean over angles is by quadrature. It's one where no moon touches an edge.
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.studies.shared.seeds import seeded

NAMES = ("linear_gaussian", "mixture", "two_moons")
SEED = 21
ANGLES = 512  # of the quadrature
CENTRE = torch.tensor([0.25, 0.0], dtype=torch.float64)  # of the moons' circle


class Problem(ABC):
    """A distribution of pairs (x, c).

    Attributes:
        dimension: D, of x.
        context: C, of c.
    """

    dimension: int
    context: int

    @abstractmethod
    def sample(self, n: int, *, generator: torch.Generator) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """n independent pairs in double precision."""

    @abstractmethod
    def log_prob(self, x: Float[Tensor, "n d"], context: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """(n,) log p(x | c) in nats."""


def problem(name: str) -> Problem:
    """The problem of one of :data:`NAMES`."""
    generator = seeded(SEED)
    if name == "linear_gaussian":
        return MixturePair(_linear_gaussian(3, 2, generator), 3)
    if name == "mixture":
        return MixturePair(GaussianMixture.random(4, 4, generator, full=True), 2)
    return TwoMoons()


class MixturePair(Problem):
    """The first D numbers of a Gaussian mixture given the others: log p(x | c) = log p(x, c) − log p(c)."""

    def __init__(self, joint: GaussianMixture, dimension: int) -> None:
        rest = slice(dimension, None)
        self.joint = joint
        self.given = GaussianMixture(joint.weights, joint.means[:, rest], joint.covariances[:, rest, rest])
        self.dimension = dimension
        self.context = joint.dimension - dimension

    def sample(self, n: int, *, generator: torch.Generator) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        pairs = self.joint.sample(n, generator=generator)
        return pairs[:, : self.dimension], pairs[:, self.dimension :]

    def log_prob(self, x: Float[Tensor, "n d"], context: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        return self.joint.log_prob(torch.cat([x, context], dim=1)) - self.given.log_prob(context)


def _linear_gaussian(dimension: int, context: int, generator: torch.Generator) -> GaussianMixture:
    """(x, A x + z) as a mixture of one."""
    b = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    a = torch.randn(context, dimension, generator=generator, dtype=torch.float64)
    prior = b @ b.mT / dimension + 0.01 * torch.eye(dimension).double()
    cross = prior @ a.mT
    top = torch.cat([prior, cross], dim=1)
    bottom = torch.cat([cross.mT, a @ cross + torch.eye(context).double()], dim=1)
    covariance = torch.cat([top, bottom])
    mean = torch.zeros(1, dimension + context)
    return GaussianMixture(torch.ones(1), mean, 0.5 * (covariance + covariance.mT)[None])


class TwoMoons(Problem):
    """The parameters of the two-moons simulator given what is observed."""

    dimension = context = 2
    radius = Normal(torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.01, dtype=torch.float64))

    def sample(self, n: int, *, generator: torch.Generator) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        u = torch.rand(n, 3, generator=generator, dtype=torch.float64)
        noise = torch.randn(n, generator=generator, dtype=torch.float64)
        radius = self.radius.mean + self.radius.stddev * noise
        x = 2 * u[:, :2] - 1
        return x, _moon(radius, math.pi * (u[:, 2] - 0.5)) - _folded(x)

    def log_prob(self, x: Float[Tensor, "n d"], context: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        from_centre = context + _folded(x) - CENTRE
        radius = from_centre.norm(dim=1)
        density = self.radius.log_prob(radius) - (math.pi * radius).log()
        impossible = (from_centre[:, 0] <= 0) | (x.abs() > 1).any(1)
        return (density - (2 * self.inside(context)).log()).masked_fill(impossible, -math.inf)

    def inside(self, context: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """(n,) probability that a moon's point comes from the square of parameters, of which p(c) is half."""
        angle = math.pi * ((torch.arange(ANGLES, dtype=torch.float64) + 0.5) / ANGLES - 0.5)
        along, across = angle.cos(), angle.sin()
        first, second = (CENTRE - context)[:, None].unbind(2)
        low = -first / along
        high = torch.full_like(low, math.inf)
        for side in (1, -1):  # r (cos a ± sin a) ≤ √2 − (1/4 − c₁) ± c₂
            slope = along + side * across
            bound = (math.sqrt(2) - first - side * second) / slope
            high = torch.where(slope > 0, torch.minimum(high, bound), high)
            low = torch.where(slope > 0, low, torch.maximum(low, bound))
        return (self.radius.cdf(high) - self.radius.cdf(low)).clamp_min(0).mean(1)


def _folded(x: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
    """(|q|, t)."""
    return torch.stack([x.sum(1).abs(), x[:, 0] - x[:, 1]], dim=1) / math.sqrt(2)


def _moon(radius: Float[Tensor, " n"], angle: Float[Tensor, " n"]) -> Float[Tensor, "n 2"]:
    """The point m of a moon."""
    return CENTRE + radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)

r"""The optimum of the regularised adversarial game of Li and Yan 2024 in closed form.

The game min_G max_D E_p log D + E_q log(1 − D) − λ E_q log p, with q the distribution of the generator and p that of
the data, has D = p/(p + q) and a convex functional of q, stationary where log(q/(p + q)) − λ log p is constant:

.. math:: q = \frac{p}{z_c\, p^{-\lambda} - 1} = \sum_{k \ge 1} z_c^{-k}\, p^{1 + k\lambda},
          \qquad \int q = 1, \qquad z_c \ge \sup p^\lambda.

At the least normaliser z_c = sup p^λ the mass of q is finite where p^{-λ} is integrable about the mode, so that a
density solves the game only for λ up to some critical weight. For N(0, I_d) that mass is

.. math:: \sum_{k \ge 1} (1 + k\lambda)^{-d/2} = \lambda^{-d/2}\, \zeta(d/2,\ 1 + 1/\lambda),

infinite for d ≤ 2. Beyond the critical weight, where it is below 1, the rest is an atom at the mode: it costs nothing
in log(q/(p + q)) and gains the most from λ log p, so that the constant is the same. Everything is double precision.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import brentq
from scipy.special import gamma
from scipy.stats import binom

from diffusion_density.machine.errors import InputError

Numbers = Float[np.ndarray, " n"]
NODES = 12  # of Gauss–Legendre, per bin and axis
LEAST = 1e-12  # of log(z_c / sup p^λ): mass that is still missing there is an atom


@dataclass(frozen=True)
class Grid:
    """The bins of a histogram, each with Gauss–Legendre nodes on which densities are known.

    Attributes:
        edges: (m + 1,) of the bins of one axis.
        coordinates: (N, D) positions of the nodes; for a radial grid D = 1, the radius.
        volumes: (N,) what sums over the nodes weight a density with, the sphere's area included.
        bins: (N,) the bin of each node.
        count: number of bins, m for each axis.
    """

    edges: Float[np.ndarray, " m"]
    coordinates: Float[np.ndarray, "n d"]
    volumes: Numbers
    bins: Int[np.ndarray, " n"]
    count: int

    @classmethod
    def box(cls, low: float, high: float, bins: int, dimension: int) -> "Grid":
        """The cube [low, high]^D with ``bins`` bins on each axis."""
        edges, places, weights, index = _axis(low, high, bins)
        axes = [np.stack(np.meshgrid(*[values] * dimension, indexing="ij"), -1) for values in (places, weights, index)]
        position, weight, bin_ = (values.reshape(-1, dimension) for values in axes)
        flat = np.ravel_multi_index(tuple(bin_.T), (bins,) * dimension)
        return cls(edges, position, weight.prod(1), flat, bins**dimension)

    @classmethod
    def radial(cls, high: float, bins: int, dimension: int) -> "Grid":
        """Shells of the ball of radius ``high`` in D dimensions, for densities of the radius alone."""
        edges, places, weights, index = _axis(0.0, high, bins)
        area = 2 * math.pi ** (dimension / 2) / gamma(dimension / 2)
        return cls(edges, places[:, None], weights * area * places ** (dimension - 1), index, bins)

    def masses(self, density: Numbers) -> Float[np.ndarray, " k"]:
        """(count,) the integral of a density, known at the nodes, over each bin."""
        return np.bincount(self.bins, density * self.volumes, minlength=self.count)

    def frequencies(self, coordinates: Float[np.ndarray, "r d"]) -> Float[np.ndarray, " k"]:
        """(count,) the fraction of points in each bin; points beyond the grid are in the nearest one."""
        axes = len(self.edges) - 1
        index = np.clip(np.searchsorted(self.edges, coordinates, side="right") - 1, 0, axes - 1)
        flat = np.ravel_multi_index(tuple(index.T), (axes,) * coordinates.shape[1])
        return np.bincount(flat, minlength=self.count) / len(coordinates)


def _axis(low: float, high: float, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Edges of the bins, and places, weights and bins of the nodes."""
    edges = np.linspace(low, high, bins + 1)
    place, weight = np.polynomial.legendre.leggauss(NODES)
    half = (high - low) / bins / 2
    places = (edges[:-1, None] + half * (1 + place)).ravel()
    return edges, places, np.tile(half * weight, bins), np.repeat(np.arange(bins), NODES)


@dataclass(frozen=True)
class Optimum:
    """The distribution of the best generator.

    Attributes:
        normaliser: z_c.
        density: (N,) of its absolutely continuous part at the nodes.
        atom: its mass at the mode of the data, 0 up to the critical weight.
    """

    normaliser: float
    density: Numbers
    atom: float


def optimum(log_prob: Numbers, volumes: Numbers, weight: float, peak: float | None = None) -> Optimum:
    """The optimum p/(z_c p^{-λ} − 1) of data with a known density.

    Args:
        log_prob: (N,) log p in nats at nodes that carry all its mass.
        volumes: (N,) of the nodes.
        weight: λ.
        peak: sup log p in nats; the largest of ``log_prob`` if it is not given.

    Raises:
        InputError: if the weight is negative, or the nodes do not carry the mass of p.
    """
    if not weight >= 0:
        raise InputError(f"optimum: the weight must not be negative, got {weight}")
    mass = float(np.exp(log_prob) @ volumes)
    if abs(mass - 1) > 1e-3:
        raise InputError(f"optimum: the density has mass {mass:.6g} on these nodes, not 1")
    highest = float(log_prob.max()) if peak is None else peak

    def density(level: float) -> Numbers:
        """At z_c = e^level sup p^λ."""
        return np.exp(log_prob) / np.expm1(level + weight * (highest - log_prob))

    def excess(level: float) -> float:
        return float(density(level) @ volumes) - 1

    if excess(LEAST) > 0:
        level, atom = brentq(excess, LEAST, 1.0, xtol=1e-15, rtol=1e-14), 0.0  # at λ = 0 the root is log 2
    else:
        level, atom = LEAST, -excess(LEAST)
    return Optimum(math.exp(level + weight * highest), density(level), atom)


def distance(first: Float[np.ndarray, " k"], second: Float[np.ndarray, " k"]) -> float:
    """The total variation ½ Σ |p_k − q_k| between the masses of two histograms."""
    return 0.5 * float(np.abs(first - second).sum())


def sampling_distance(masses: Float[np.ndarray, " k"], samples: int) -> float:
    """The expected total variation between a distribution and the frequencies of n draws from it, exactly.

    De Moivre's mean absolute deviation of a binomial count, E|X − n p| = 2 ν (1 − p) P(X = ν) with ν = ⌊n p⌋ + 1.
    """
    p = np.clip(masses, 0, 1)
    above = np.floor(samples * p) + 1
    return float((above * (1 - p) * binom.pmf(above, samples, p)).sum() / samples)

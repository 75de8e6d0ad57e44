r"""Polynomials on Chebyshev points: integrals, derivatives and values elsewhere, as matrices.

A smooth function f on [0, 1] is known by its values at the N + 1 points t_j = ½ (1 − cos(π j/N)), through which one
polynomial of degree N goes. Where f is analytic, its coefficients a_k in the Chebyshev polynomials T_k(2 t − 1) fall
geometrically, and so does the error of every operation with them: Trefethen, *Approximation Theory and Approximation
Practice*, chapters 8 and 19. The points crowd at both ends, with intervals there of the order of N⁻².

All matrices are in double precision and act on the values at the points, in their order. They are computed once a size.
"""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """N + 1 Chebyshev points and what can be done with values at them.

    Attributes:
        points: (N + 1,) increasing from 0 to 1.
        weights: (N + 1,) of the integral over [0, 1] (Clenshaw and Curtis).
        integral: (N + 1, N + 1), values to integrals from 0 to each point.
        derivative: (N + 1, N + 1), values to derivatives.
        coefficients: (N + 1, N + 1), values to coefficients a_k.
    """

    points: Tensor
    weights: Tensor
    integral: Tensor
    derivative: Tensor
    coefficients: Tensor


@functools.lru_cache(maxsize=64)
def grid(intervals: int) -> Grid:
    """The grid of N >= 2 intervals."""
    angles = math.pi * torch.arange(intervals + 1, dtype=torch.float64) / intervals
    halves = torch.ones_like(angles)
    halves[[0, -1]] = 0.5
    signs = (-1.0) ** torch.arange(intervals + 1, dtype=torch.float64)
    # T_k(z_j) = (−1)^k cos(k π j/N), since z = 2 t − 1 = −cos(π j/N): a cosine transform and its inverse
    coefficients = (2 / intervals) * halves[:, None] * signs[:, None] * _cosines(intervals) * halves
    points = 0.5 * (1 - angles.cos())
    integral = _integrals(points, intervals) @ coefficients
    gaps = points[:, None] - points
    gaps.fill_diagonal_(1.0)
    derivative = (signs[:, None] * signs) * halves / (halves[:, None] * gaps)
    derivative.fill_diagonal_(0.0)
    derivative.diagonal().copy_(-derivative.sum(1))  # constants have no derivative
    return Grid(points, integral[-1], integral, derivative, coefficients)


def _cosines(intervals: int) -> Tensor:
    index = torch.arange(intervals + 1)
    return (math.pi / intervals * torch.outer(index, index).remainder(2 * intervals).double()).cos()


def _chebyshev(t: Tensor, degree: int) -> Tensor:
    """T_k(2 t − 1) for k up to the degree, (n, degree + 1)."""
    angles = (2 * t - 1).clamp(-1, 1).arccos()
    return (angles[:, None] * torch.arange(degree + 1, dtype=torch.float64)).cos()


def _integrals(t: Tensor, degree: int) -> Tensor:
    """The integral of T_k(2 t − 1) from 0 to t for k up to the degree, (n, degree + 1)."""
    values = _chebyshev(t, degree + 1)
    k = torch.arange(2, degree + 1, dtype=torch.float64)
    primitive = torch.cat(
        [
            values[:, 1:2],
            0.5 * values[:, 1:2].square(),
            0.5 * (values[:, 3:] / (k + 1) - values[:, 1:-2] / (k - 1)),
        ],
        dim=1,
    )
    start = torch.cat([values.new_tensor([-1.0, 0.5]), (-1.0) ** k / (k * k - 1)])  # of the primitives at t = 0
    return 0.5 * (primitive - start)


@functools.lru_cache(maxsize=64)
def resample(intervals: int, finer: int) -> Tensor:
    """(M + 1, N + 1) from values on the grid of N intervals to those of its polynomial on the grid of M."""
    return _chebyshev(grid(finer).points, intervals) @ grid(intervals).coefficients


@functools.lru_cache(maxsize=64)
def adams(intervals: int, order: int) -> Tensor:
    """(N, order) weights of Adams and Bashforth: the step from t_j is Σ_i w_{j,i} f(t_{j − i}).

    They integrate the polynomial through the last ``order`` points, or through as many as there are since t_0.
    """
    points = grid(intervals).points
    weights = points.new_zeros(intervals, order)
    for j in range(intervals):
        step = points[j + 1] - points[j]
        known = (points[max(0, j - order + 1) : j + 1].flip(0) - points[j]) / step
        degrees = torch.arange(len(known), dtype=torch.float64)
        weights[j, : len(known)] = step * torch.linalg.solve(known ** degrees[:, None], 1 / (degrees + 1))
    return weights

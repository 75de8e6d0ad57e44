r"""Polynomials on Gauss–Legendre nodes: integrals, derivatives and values at other times, as matrices.

A grid of M nodes on [0, 1] has the M points of Gauss's rule, which integrates polynomials up to degree 2 M − 1 exactly,
and before them the point 0, where a trajectory starts. The values at these M + 1 *times* determine one polynomial of
degree M. For an analytic function the Legendre coefficients decay geometrically, and so does the error of every
operation with them: Trefethen, *Approximation Theory and Approximation Practice*, chapters 8 and 19.

All matrices are in double precision and act on the values at the times, in order. They are computed once per size.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.polynomial import legendre
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """The time 0 and M Gauss nodes, and operations on values there.

    Attributes:
        times: (M + 1,) increasing from 0, all below 1.
        weights: (M,) of Gauss's rule over [0, 1], of the values at the nodes only.
        integral: (M + 2, M + 1), values at the times to integrals from 0 to each time, and to 1.
        derivative: (M + 1, M + 1), values at the times to derivatives.
        coefficients: (M, M), values at the nodes to the coefficients of P_k(2 t − 1), k < M.
    """

    times: Tensor
    weights: Tensor
    integral: Tensor
    derivative: Tensor
    coefficients: Tensor


@functools.lru_cache(maxsize=64)
def grid(nodes: int) -> Grid:
    """The grid of M >= 2 nodes."""
    z, weights = legendre.leggauss(nodes)
    places = np.append(-1.0, z)
    basis = np.eye(nodes + 1)
    inverse = np.linalg.inv(legendre.legvander(places, nodes))
    integral = 0.5 * legendre.legval(np.append(places, 1.0), legendre.legint(basis, lbnd=-1)).T @ inverse
    derivative = 2 * legendre.legval(places, legendre.legder(basis)).T @ inverse
    degrees = 2 * np.arange(nodes) + 1
    coefficients = degrees[:, None] * legendre.legvander(z, nodes - 1).T * (0.5 * weights)
    arrays = (0.5 * (1 + places), 0.5 * weights, integral, derivative, coefficients)
    return Grid(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))


@functools.lru_cache(maxsize=64)
def resample(nodes: int, finer: int) -> Tensor:
    """(N + 1, M + 1) from values at the times of M nodes to those of their polynomial at the times of N nodes."""
    inverse = np.linalg.inv(legendre.legvander(2 * grid(nodes).times.numpy() - 1, nodes))
    return torch.from_numpy(legendre.legvander(2 * grid(finer).times.numpy() - 1, nodes) @ inverse)

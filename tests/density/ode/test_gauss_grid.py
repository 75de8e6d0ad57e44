"""Matrices on Gauss grids against polynomials and functions whose integrals are known."""

import math

import pytest
import torch
from numpy.polynomial.legendre import legval

from diffusion_density.density.ode.gauss_grid import grid, resample


@pytest.mark.parametrize("nodes", [2, 3, 8, 21, 60])
def test_polynomials_are_exact(nodes: int) -> None:
    on = grid(nodes)
    t = on.times
    assert t[0].item() == 0
    assert t[-1].item() < 1
    finer = grid(2 * nodes + 1).times
    for degree in range(nodes + 1):
        values = t**degree
        integral = torch.cat([t, torch.ones(1)]) ** (degree + 1) / (degree + 1)
        torch.testing.assert_close(on.integral @ values, integral, rtol=0, atol=1e-13)
        slope = degree * t ** max(degree - 1, 0)
        torch.testing.assert_close(on.derivative @ values, slope, rtol=0, atol=1e-12 * nodes**3)
        torch.testing.assert_close(resample(nodes, 2 * nodes + 1) @ values, finer**degree, rtol=0, atol=1e-12)


@pytest.mark.parametrize("nodes", [2, 3, 8, 21])
def test_the_rule_is_exact_to_the_degree_of_gauss(nodes: int) -> None:
    on = grid(nodes)
    errors = [abs((on.weights @ on.times[1:] ** k).item() - 1 / (k + 1)) for k in range(2 * nodes + 1)]
    assert max(errors[:-1]) < 1e-14
    assert nodes > 8 or errors[-1] > 1e-14


def test_coefficients_are_those_of_the_polynomials() -> None:
    on = grid(9)
    z = (2 * on.times[1:] - 1).numpy()
    for k in range(9):
        unit = torch.eye(9, dtype=torch.float64)[k]
        torch.testing.assert_close(
            on.coefficients @ torch.from_numpy(legval(z, unit.numpy())), unit, rtol=0, atol=1e-13
        )


def test_analytic_functions_converge_geometrically() -> None:
    errors = [abs((grid(n).weights @ grid(n).times[1:].exp()).item() - (math.e - 1)) for n in (2, 3, 4, 6)]
    for error, bound in zip(errors, (1e-3, 1e-5, 1e-7, 1e-12), strict=True):
        assert error < bound

"""Matrices on Chebyshev grids against polynomials and functions whose integrals are known."""

import pytest
import torch

from diffusion_density.density.chebyshev import adams, grid, resample


@pytest.mark.parametrize("intervals", [2, 3, 8, 21])
def test_polynomials_are_exact(intervals: int) -> None:
    nodes = grid(intervals)
    t = nodes.points
    assert (t[0].item(), t[-1].item()) == (0.0, 1.0)
    for degree in range(intervals + 1):
        values = t**degree
        torch.testing.assert_close(nodes.weights @ values, t.new_tensor(1 / (degree + 1)), rtol=0, atol=1e-14)
        torch.testing.assert_close(nodes.integral @ values, t ** (degree + 1) / (degree + 1), rtol=0, atol=1e-14)
        slope = degree * t ** max(degree - 1, 0)
        torch.testing.assert_close(nodes.derivative @ values, slope, rtol=0, atol=1e-11)
        finer = grid(2 * intervals + 1).points
        torch.testing.assert_close(resample(intervals, 2 * intervals + 1) @ values, finer**degree, rtol=0, atol=1e-13)


def test_coefficients_are_those_of_the_polynomials() -> None:
    nodes = grid(9)
    angles = (2 * nodes.points - 1).clamp(-1, 1).arccos()
    for k in range(10):
        expected = torch.eye(10, dtype=torch.float64)[k]
        torch.testing.assert_close(nodes.coefficients @ (k * angles).cos(), expected, rtol=0, atol=1e-14)


def test_analytic_functions_converge_geometrically() -> None:
    errors = [abs((grid(n).weights @ grid(n).points.exp()).item() - (torch.e - 1)) for n in (2, 4, 8)]
    assert errors[0] < 1e-3
    assert errors[1] < 1e-6
    assert errors[2] < 1e-13


@pytest.mark.parametrize("order", [1, 2, 3])
def test_adams_steps_are_exact_for_polynomials_of_their_order(order: int) -> None:
    t = grid(7).points
    steps = adams(7, order)
    for degree in range(order + 1):
        exact = (t ** (degree + 1)).diff() / (degree + 1)
        for j in range(order - 1, 7):
            value = sum(steps[j, lag] * t[j - lag] ** degree for lag in range(order))
            assert (abs(value - exact[j]) < 1e-15) == (degree < order)
    assert steps[0, 0] == pytest.approx(t[1].item())  # the first step knows one value
    assert steps[0, 1:].abs().sum() == 0

"""The divergence of fields with known Jacobians, exact and by probes."""

import itertools
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor

from diffusion_density.density.ode.divergence import rademacher, with_divergence
from truths import seeded

MATRIX = torch.randn(4, 4, generator=seeded(0), dtype=torch.float64)


def linear(x: Tensor) -> Tensor:
    return (x.flatten(1) @ MATRIX.T).reshape(x.shape)


def curved(x: Tensor) -> Tensor:
    return linear(x).sin() * x.square().flatten(1).sum(1).reshape(-1, *[1] * (x.ndim - 1))


def points(*event: int) -> Tensor:
    return torch.randn(5, *event, generator=seeded(1), dtype=torch.float64)


def jacobians(x: Tensor) -> Tensor:
    return torch.stack([torch.func.jacrev(lambda y: curved(y[None])[0])(row) for row in x])


def test_the_divergence_of_a_linear_field_is_its_trace() -> None:
    value, divergence = with_divergence(linear, points(4))
    torch.testing.assert_close(value, linear(points(4)), rtol=0, atol=0)
    torch.testing.assert_close(divergence, MATRIX.trace().expand(5, 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("event", [(4,), (1, 2, 2)])
def test_the_divergence_of_a_curved_field(event: tuple[int, ...]) -> None:
    x = points(4)
    _, divergence = with_divergence(curved, x.reshape(5, *event))
    traces = jacobians(x).diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(divergence[:, 0], traces, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("event", [(4,), (1, 2, 2)])
def test_probes_are_quadratic_forms_and_average_to_the_divergence(event: tuple[int, ...]) -> None:
    x = points(4)
    signs = torch.tensor([*itertools.product((-1.0, 1.0), repeat=4)], dtype=torch.float64).expand(5, 16, 4)
    _, estimates = with_divergence(curved, x.reshape(5, *event), signs.reshape(5, 16, *event))
    forms = torch.einsum("bki,bij,bkj->bk", signs, jacobians(x), signs)
    torch.testing.assert_close(estimates, forms, rtol=1e-11, atol=1e-11)
    exact = with_divergence(curved, x)[1]
    torch.testing.assert_close(estimates.mean(1, keepdim=True), exact, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("probes", [None, torch.ones(5, 2, 4, dtype=torch.float64)])
def test_fields_that_do_not_depend_on_the_point_have_no_divergence(probes: Tensor | None) -> None:
    weight = torch.ones(4, dtype=torch.float64, requires_grad=True)
    for field in (torch.ones_like, lambda x: weight.expand(len(x), 4)):
        _, divergence = with_divergence(field, points(4), probes)
        assert divergence.shape == (5, 1 if probes is None else 2)
        assert divergence.abs().max() == 0


@pytest.mark.parametrize("mode", [nullcontext(), torch.no_grad(), torch.inference_mode()])
def test_any_mode_of_autograd_will_do_and_none_is_left_behind(mode: AbstractContextManager[None]) -> None:
    expected = with_divergence(curved, points(4))
    with mode:
        x = points(4)
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        found = with_divergence(curved, x)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
    for value, other in zip(found, expected, strict=True):
        assert not value.requires_grad
        torch.testing.assert_close(value, other, rtol=0, atol=0)
    assert not x.requires_grad


def test_points_that_need_gradients_are_left_alone() -> None:
    x = points(4).requires_grad_()
    value, divergence = with_divergence(curved, x)
    assert not value.requires_grad
    assert not divergence.requires_grad
    assert x.grad is None


def test_rademacher_probes() -> None:
    x = torch.zeros(1000, 2, 3)
    probes = rademacher(x, 4, seeded(0))
    assert probes.shape == (1000, 4, 2, 3)
    assert probes.dtype == x.dtype
    assert set(probes.unique().tolist()) == {-1.0, 1.0}
    assert abs(probes.mean().item()) < 5 / 24_000**0.5
    flat = probes.reshape(-1, 6)
    correlation = flat.T @ flat / len(flat) - torch.eye(6)
    assert correlation.abs().max().item() < 5 / 4000**0.5
    torch.testing.assert_close(rademacher(x[:10], 4, seeded(0)), probes[:10], rtol=0, atol=0)

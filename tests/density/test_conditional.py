"""Estimators of p(x | c): against exact conditionals, and a batch in parts as its points alone."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffusion_density.density.chain import chain
from diffusion_density.density.formula import formula
from diffusion_density.density.images.bits import bits_per_dim
from diffusion_density.density.ode.flow import flow
from diffusion_density.density.path_integral.plain import path_integral
from diffusion_density.density.result import LogDensity
from diffusion_density.machine.errors import InputError
from diffusion_density.process.batches import per_row
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.schedules import LogLinear, VariancePreserving
from truths import ExactConditional, random_mixture, seeded

Estimate = Callable[[DiffusionModel, Tensor, torch.Generator], LogDensity]

LONG = VariancePreserving(beta_min=0.1, beta_max=40.0)  # α(1) = 4e-5: the normal prior is as good as exact
PARTS_OF_TWO: dict[str, Estimate] = {  # estimators that take two of these points at once, or one
    "plain": lambda model, x, g: path_integral(model, x, throws=8192, generator=g),
    "reduced": lambda model, x, g: path_integral(model, x, throws=8192, method="reduced", generator=g),
    "formula": lambda model, x, g: formula(model, x, rule="quadrature", steps=128, throws=64, generator=g),
    "chain": lambda model, x, g: chain(model, x, steps=3, paths=8193, generator=g),
}


@pytest.mark.parametrize(("dimension", "context", "components"), [(2, 2, 1), (1, 2, 3)])
@pytest.mark.parametrize("name", ["plain", "reduced", "formula"])
def test_the_sde_density_of_an_exact_conditional(name: str, dimension: int, context: int, components: int) -> None:
    exact = ExactConditional(random_mixture(dimension + context, components), dimension, LONG)
    z = exact.joint.sample(6, generator=seeded(1))
    x, c = z[:, :dimension], z[:, dimension:]
    found = PARTS_OF_TWO[name](DiffusionModel(exact, LONG, "score").given(c), x, seeded(2))
    assert found.stderr is not None
    bias = 2e-3 if name == "formula" else 0.0  # it speaks of the density at s_start
    assert ((found.value - exact.log_prob(x, c)).abs() < 5 * found.stderr + bias).all()
    assert ((found.value - exact.log_prob(x, c.roll(1, 0))).abs() > 10 * found.stderr).any()


def test_rounds_to_a_target_keep_contexts_with_their_points() -> None:
    exact = ExactConditional(random_mixture(4, 3), 2, LONG)
    z = exact.joint.sample(30, generator=seeded(1))
    x, c = z[:, :2], z[:, 2:]
    model = DiffusionModel(exact, LONG, "score").given(c)
    found = path_integral(model, x, throws=64, method="reduced", target_stderr=0.05, generator=seeded(2))
    assert found.stderr is not None
    assert found.network_evaluations > 64  # some points went on without the others
    assert ((found.value - exact.log_prob(x, c)).abs() < 6 * found.stderr).all()


@pytest.mark.parametrize(("dimension", "context", "components"), [(2, 2, 1), (1, 2, 3)])
def test_the_flow_of_an_exact_conditional(dimension: int, context: int, components: int) -> None:
    exact = ExactConditional(random_mixture(dimension + context, components), dimension, LONG)
    z = exact.joint.sample(6, generator=seeded(1))
    x, c = z[:, :dimension], z[:, dimension:]
    model = DiffusionModel(exact, LONG, "score")
    found = flow(model.given(c), x, rtol=1e-7, atol=1e-7).value
    torch.testing.assert_close(found, exact.log_prob(x, c), rtol=0, atol=1e-3)
    one = flow(model.given(c[:1]), x, rtol=1e-7, atol=1e-7).value
    torch.testing.assert_close(one, exact.log_prob(x, c[:1].expand(6, -1)), rtol=0, atol=1e-3)


def wavy(x: Tensor, s: Tensor, context: Tensor) -> Tensor:
    """Some network that depends on its context."""
    tilt, shift = (per_row(value, x) for value in context.unbind(1))
    return (tilt * x + shift).sin() + per_row(s, x) * x


@pytest.mark.parametrize("name", PARTS_OF_TWO)
def test_a_batch_in_parts_is_its_points_one_by_one(name: str) -> None:
    """Contexts that did not follow their points would be those of others."""
    model, estimate = DiffusionModel(wavy, LONG, "entropy"), PARTS_OF_TWO[name]
    x, c = (torch.randn(4, 2, generator=seeded(i), dtype=torch.float64) for i in (3, 4))
    together = estimate(model.given(c), x, seeded(5)).value
    one = seeded(5)
    alone = [estimate(model.given(c[i : i + 1]), x[i : i + 1], one).value for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-9)
    wrong = estimate(model.given(c.roll(2, 0)), x, seeded(5)).value
    assert (together - wrong).abs().min() > 1e-3


@pytest.mark.parametrize("estimator", ["flow", "bound"])
def test_images_in_parts_are_the_images_one_by_one(estimator: str) -> None:
    schedule = LogLinear(-8.0, 5.0)
    model = DiffusionModel(wavy, schedule, "noise")
    images = torch.randint(0, 16, (4, 1, 2, 2), generator=seeded(6)).byte()
    c = torch.randn(4, 2, generator=seeded(7), dtype=torch.float64)

    def score(contexts: Tensor, batch: Tensor, g: torch.Generator) -> Tensor:
        exact = {"draws": 4, "divergence": "exact", "rtol": 1e-6, "atol": 1e-6}
        options = {"throws": 4} if estimator == "bound" else exact
        return bits_per_dim(
            model.given(contexts),
            batch,
            levels=16,
            estimator=estimator,
            generator=g,
            chunk=8,
            dtype=torch.float64,
            **options,
        ).value

    one = seeded(8)
    alone = torch.cat([score(c[i : i + 1], images[i : i + 1], one) for i in range(4)])
    torch.testing.assert_close(score(c, images, seeded(8)), alone, rtol=1e-5, atol=1e-5)
    assert (score(c.roll(2, 0), images, seeded(8)) - alone).abs().min() > 1e-3


def test_points_share_contexts_in_order() -> None:
    model = DiffusionModel(wavy, LONG, "entropy")
    x, c = (torch.randn(n, 2, generator=seeded(9), dtype=torch.float64) for n in (6, 3))
    for estimate in (PARTS_OF_TWO["plain"], lambda m, y, _g: flow(m, y)):
        shared = estimate(model.given(c), x, seeded(1)).value
        torch.testing.assert_close(shared, estimate(model.given(c.repeat_interleave(2, 0)), x, seeded(1)).value)
        with pytest.raises(InputError, match="can't be shared equally among 3 contexts"):
            estimate(model.given(c), x[:5], seeded(1))

"""The predicted gap of the DDPM sum: closed forms, and the gap that the sum itself has."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffusion_density.density.formula import expectation
from diffusion_density.machine.errors import InputError
from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.process.schedules import Discrete
from diffusion_density.process.schedules import discrete as discrete_schedules
from diffusion_density.studies.density_formula.formula_gap import Gap, mixture_nodes, predicted_gap
from diffusion_density.studies.shared.targets import normal, one_dimensional_mixture
from truths import doubles, gaussian

CHAINS: dict[str, Discrete] = {
    "paper": discrete_schedules.paper(60),
    "linear": discrete_schedules.linear(40),
    "cosine": discrete_schedules.cosine(50),
    "uniform": discrete_schedules.uniform_log_snr(30),
}
each_chain = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())


def of_normal(chain: Discrete, variance: float) -> tuple[float, float]:
    """Both predictions for N(0, variance) by arithmetic on the betas."""
    square = sharp = 0.0
    before = 1.0
    for index, beta in enumerate(chain.betas.tolist()):
        bar = before * (1 - beta)
        if index:
            covariance = variance * (1 - bar) / (bar * variance + 1 - bar)
            eigenvalue = before * beta / ((1 - bar) * (1 - before)) * covariance
            square += 0.25 * eigenvalue**2
            sharp += 0.5 * (eigenvalue - math.log1p(eigenvalue))
        before = bar
    return square, sharp


@each_chain
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_a_normal_law_has_a_closed_form(chain: Discrete, scale: float) -> None:
    found, (square, sharp) = predicted_gap(normal(1, scale), chain), of_normal(chain, scale**2)
    assert (found.quadratic, found.sharp) == pytest.approx((square, sharp), rel=1e-8)
    assert found.sharp < 0.97 * found.quadratic


def mean_gap(mixture: GaussianMixture, chain: Discrete) -> float:
    """E[log p̄ at the start − sum] by quadrature over data and noise: what the truncation leaves of the gap."""
    x, weight = mixture_nodes(mixture, torch.ones(1).double(), torch.zeros(1).double(), 24)
    s = chain.steps[:1]
    noisy, _ = mixture_nodes(mixture, chain.alpha(s), chain.sigma(s), 24)
    start = mixture.diffused(chain).log_prob(noisy.T, chain.s_start)
    return (weight @ (start - expectation(mixture.diffused(chain), x.T, rule="sum", points=40))).item()


@each_chain
def test_it_is_the_gap_of_the_sum_for_normal_data(chain: Discrete) -> None:
    data = gaussian(0.7, 0.36)
    assert predicted_gap(data, chain).sharp == pytest.approx(mean_gap(data, chain), rel=1e-6)


@pytest.mark.parametrize("name", ["paper", "linear", "cosine", "uniform_log_snr"])
def test_it_is_the_gap_of_the_sum_for_a_mixture_at_many_steps(name: str) -> None:
    """Its error falls with T: the posterior of a step becomes normal."""
    errors = []
    for steps in (40, 120, 480):
        chain = getattr(discrete_schedules, name)(steps)
        gap = mean_gap(one_dimensional_mixture(), chain)
        errors.append(abs(predicted_gap(one_dimensional_mixture(), chain).sharp / gap - 1))
    assert errors[2] < 0.005
    assert errors[2] < 0.3 * errors[1] < 0.3 * errors[0] or errors[0] < 0.01


def test_few_nodes_are_enough() -> None:
    chain = CHAINS["paper"]
    fine, coarse = (predicted_gap(one_dimensional_mixture(), chain, points=n) for n in (150, 20))
    assert coarse.quadratic == pytest.approx(fine.quadratic, rel=1e-3)
    default = predicted_gap(one_dimensional_mixture(), chain)
    assert default.quadratic == pytest.approx(fine.quadratic, rel=1e-4)
    assert default.sharp == pytest.approx(fine.sharp, rel=1e-4)


def test_nodes_have_the_moments_of_the_diffused_mixture() -> None:
    mixture = one_dimensional_mixture()
    alpha, sigma = doubles(1.0, 0.6), doubles(0.0, 0.8)
    y, weight = mixture_nodes(mixture, alpha, sigma, 5)
    mean = (mixture.weights * mixture.means[:, 0]).sum()
    square = (mixture.weights * (mixture.means[:, 0].square() + mixture.eigenvalues[:, 0])).sum()
    assert y.shape == (2, 10)
    torch.testing.assert_close(y @ weight, alpha * mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(y.square() @ weight, alpha.square() * square + sigma.square(), rtol=1e-12, atol=1e-12)


Call = Callable[[], Gap | tuple[Tensor, Tensor]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: predicted_gap(normal(2), CHAINS["paper"]), "one dimension expected, the mixture has 2"),
        (lambda: predicted_gap(normal(1), CHAINS["paper"], points=1), "points must be at least 2, got 1"),
    ],
)
def test_wrong_settings_are_named(call: Call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()

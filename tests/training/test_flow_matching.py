"""The likelihood objective against quadrature, closed forms and finite differences (Zheng et al. 2023)."""

import math
from itertools import product
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from diffusion_density.machine.errors import InputError
from diffusion_density.process.batches import per_row
from diffusion_density.process.mixtures import ExactModel, GaussianMixture
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.predictions import PREDICTIONS, Prediction
from diffusion_density.process.schedules import LogLinear
from diffusion_density.training.flow_matching import FlowMatching, TimeDensity
from truths import network_of, seeded

DIMS = 64
PATHS = ("vp", "straight")
Path = Literal["vp", "straight"]


def spectrum(dims: int = DIMS) -> Tensor:
    """Variances like those of images: λ_k ∝ k^-1.5, of mean ¼."""
    values = torch.arange(1, dims + 1, dtype=torch.float64) ** -1.5
    return 0.25 * values / values.mean()


def distribution(dims: int = DIMS) -> GaussianMixture:
    return GaussianMixture(
        torch.ones(1, dtype=torch.float64), torch.zeros(1, dims, dtype=torch.float64), spectrum(dims).diag()[None]
    )


def exact(path: Path) -> ExactModel:
    return distribution().diffused(LogLinear(path=path))


def oracle(model: ExactModel, prediction: Prediction) -> DiffusionModel:
    return network_of(model, prediction)


def losses(model: ExactModel, objective: FlowMatching, n: int, seed: int = 0) -> Tensor:
    """The losses of n independent throws at data from the distribution, under the exact model."""
    g = seeded(seed)
    x = torch.randn(n, DIMS, generator=g, dtype=torch.float64) * spectrum().sqrt()
    u = torch.rand(n, generator=g, dtype=torch.float64)
    noise = torch.randn(n, DIMS, generator=g, dtype=torch.float64)
    network = oracle(model, objective.prediction).network
    return objective(network, x, u, noise, objective.probe(x, g))


def truth(schedule: LogLinear) -> float:
    """½ ∫ E‖ε − ε̂‖² dγ by quadrature: the posterior variance of ε is α²λ/(α²λ + σ²) in each direction."""
    s = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    signal = schedule.alpha(s).square()[:, None] * spectrum()
    error = (signal / (signal + schedule.sigma(s).square()[:, None])).sum(1)
    return 0.5 * (schedule.gamma_max - schedule.gamma_min) * torch.trapezoid(error, s).item()


@pytest.mark.parametrize(("path", "prediction", "times"), [*product(PATHS, PREDICTIONS, ("uniform", "importance"))])
def test_every_variant_has_the_expectation_of_the_quadrature(
    path: Path, prediction: Prediction, times: TimeDensity
) -> None:
    model = exact(path)
    schedule = LogLinear(path=path)
    values = losses(model, FlowMatching(schedule, prediction, times), 20_000)
    assert abs(values.mean().item() - truth(schedule)) < 4 * values.std().item() / len(values) ** 0.5


@pytest.mark.parametrize(
    ("path", "times", "low", "high"),
    [
        ("vp", "uniform", 0.57, 0.66),
        ("straight", "uniform", 0.57, 0.66),
        ("vp", "importance", 0.16, 0.20),
        ("straight", "importance", 0.06, 0.09),
    ],
)
def test_importance_sampling_reduces_the_variance_as_published(
    path: Path, times: TimeDensity, low: float, high: float
) -> None:
    values = losses(exact(path), FlowMatching(LogLinear(path=path), "velocity", times), 40_000)
    assert low < (values.var() / values.mean().square()).item() < high


@pytest.mark.parametrize(
    ("path", "prediction", "times", "constant"),
    [
        ("vp", "noise", "uniform", 9.15),
        ("vp", "velocity", "importance", 6.6466),
        ("straight", "velocity", "importance", 11.2991),
    ],
)
def test_the_constant_weights_are_the_published_ones(
    path: Path, prediction: Prediction, times: TimeDensity, constant: float
) -> None:
    _, weight = FlowMatching(LogLinear(path=path), prediction, times).throw(torch.rand(99, dtype=torch.float64))
    torch.testing.assert_close(weight, torch.full_like(weight, constant), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("path", "gamma"), [*product(PATHS, (-8.0, -2.0, 1.0))])
def test_the_trace_identity_holds_at_the_optimum(path: Path, gamma: float) -> None:
    schedule = LogLinear(path=path)
    model = exact(path)
    s = schedule.inverse(torch.tensor([-gamma], dtype=torch.float64))
    alpha, sigma = schedule.alpha(s), schedule.sigma(s)
    signal = alpha.square() * spectrum()
    # ε − ε* has variance α²λ/(α²λ + σ²) in each direction, and F − F* is that over c
    factor = 2 * alpha.square() if path == "straight" else alpha.square()
    error = (signal / (signal + sigma.square())).sum() / factor
    jacobian = torch.func.jacrev(lambda y: model.velocity(y[None], s)[0])(torch.zeros(DIMS, dtype=torch.float64))
    expected = FlowMatching(schedule).expected_trace(s, error, DIMS)
    torch.testing.assert_close(sigma * jacobian.trace(), expected, rtol=1e-9, atol=1e-9)


class Tiny(nn.Module):
    """A smooth network in four dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)).double()
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.6, generator=seeded(parameter.numel()))

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        return self.layers(torch.cat([x, per_row(s, x)], dim=1))


@pytest.mark.parametrize("path", PATHS)
def test_the_gradient_of_the_trace_term_is_that_of_finite_differences(path: Path) -> None:
    network = Tiny()
    g = seeded(1)
    x, noise = (torch.randn(8, 4, generator=g, dtype=torch.float64) for _ in range(2))
    u = torch.rand(8, generator=g, dtype=torch.float64)
    weight = 0.7
    objective = FlowMatching(LogLinear(path=path), trace_weight=weight)
    probe = objective.probe(x, g)
    assert probe is not None
    plain = FlowMatching(LogLinear(path=path))
    plain(network, x, u, noise).sum().backward()
    first = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    objective(network, x, u, noise, probe).sum().backward()

    s, scale = plain.throw(u)
    alpha, sigma = plain.schedule.alpha(s), plain.schedule.sigma(s)
    y = alpha[:, None] * x + sigma[:, None] * noise
    with torch.no_grad():
        frozen = plain(network, x, u, noise) / scale  # the residual that the gradient doesn't see

    def trace_term() -> float:
        with torch.no_grad():
            step = 1e-6
            change = (network(y + step * probe, s) - network(y - step * probe, s)) / (2 * step)
            miss = sigma * (probe * change).sum(1) - plain.expected_trace(s, frozen, 4)
            return (weight / 4 * scale * miss.square()).sum().item()

    for parameter, without in zip(network.parameters(), first, strict=True):
        assert parameter.grad is not None
        measured = torch.empty_like(parameter)
        for i in range(parameter.numel()):
            value = parameter.data.view(-1)[i].item()
            sides = []
            for shifted in (value + 1e-5, value - 1e-5):
                parameter.data.view(-1)[i] = shifted
                sides.append(trace_term())
            parameter.data.view(-1)[i] = value
            measured.view(-1)[i] = (sides[0] - sides[1]) / 2e-5
        torch.testing.assert_close(parameter.grad - without, measured, rtol=1e-3, atol=1e-3)


def test_the_loss_works_on_images_in_single_precision() -> None:
    objective = FlowMatching(LogLinear(), trace_weight=0.1)
    g = seeded(0)
    x, noise = torch.rand(3, 1, 4, 4, generator=g), torch.randn(3, 1, 4, 4, generator=g)
    u = torch.rand(3, generator=g, dtype=torch.float64)
    loss = objective(lambda y, s: y * s[:, None, None, None], x, u, noise, objective.probe(x, g))
    assert loss.shape == (3,)
    assert loss.dtype == torch.float32
    assert math.isfinite(loss.sum().item())


def test_what_is_no_objective_is_refused() -> None:
    schedule = LogLinear()
    with pytest.raises(InputError, match="for predictions of velocity, not of noise"):
        FlowMatching(schedule, "noise", trace_weight=0.1)
    with pytest.raises(InputError, match="at least 0"):
        FlowMatching(schedule, trace_weight=-1.0)
    x = torch.zeros(1, 2)
    with pytest.raises(InputError, match="needs a probe"):
        FlowMatching(schedule, trace_weight=1.0)(lambda y, _: y, x, torch.zeros(1, dtype=torch.float64), x)

"""Tracked densities against the exact ones of a mixture, the excess that a wrong score must show, and the samples."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from diffusion_density.density import tracking
from diffusion_density.density.result import LogDensity
from diffusion_density.density.tracking import track
from diffusion_density.machine.errors import InputError
from diffusion_density.process.fokker_planck import marginals
from diffusion_density.process.model import DiffusionModel
from diffusion_density.sampling.samplers import sample
from diffusion_density.studies.shared.perturbation import SCHEDULE, Perturbed, reverse_gap
from diffusion_density.studies.shared.targets import one_dimensional_mixture
from truths import PAPER_A, Altered, Counting, ScaledGaussian, doubles, gaussian, random_mixture, scaled, seeded

EXACT = one_dimensional_mixture().diffused(SCHEDULE)


def six_dimensional() -> DiffusionModel:
    """A mixture in six dimensions behind a network, started from the normal prior."""
    return DiffusionModel(random_mixture(6).diffused(PAPER_A).score, PAPER_A, "score")


def tracked(size: float, n: int, steps: int, stochasticity: float = 1.0, seed: int = 1) -> tuple[Tensor, LogDensity]:
    """Samples (n,) and their densities under the mixture with an error of some size in its score."""
    x, found = track(
        Perturbed(EXACT, size),
        n,
        event=(1,),
        steps=steps,
        stochasticity=stochasticity,
        divergence="exact",
        generator=seeded(seed),
        dtype=torch.float64,
    )
    return x[:, 0], found


def excess(stochasticity: float, steps: int, n: int) -> Tensor:
    """Tracked minus true log density of samples from the exact score."""
    x, found = tracked(0.0, n, steps, stochasticity)
    return found.value - EXACT.log_prob(x[:, None], SCHEDULE.s_start)


@pytest.mark.parametrize(
    ("stochasticity", "steps", "spread", "bias"),
    [(0.0, 500, 0.012, 0.003), (0.5, 500, 0.120, 0.02), (1.0, 1000, 0.169, 0.02), (2.0, 500, 0.481, 0.1)],
)
def test_the_exact_score_tracks_the_density_of_each_sample(
    stochasticity: float, steps: int, spread: float, bias: float
) -> None:
    """The spread is ∝ √(κ/steps); the floor of κ = 0 is the prior, which is not the end of the mixture."""
    error = excess(stochasticity, steps, n=800)
    assert error.std() == pytest.approx(spread, rel=0.06)
    assert abs(error.mean()) < bias


@pytest.mark.parametrize("stochasticity", [0.5, 1.0, 2.0])
def test_the_noise_falls_with_the_root_of_the_steps(stochasticity: float) -> None:
    coarse, fine = (excess(stochasticity, steps, n=4000).std() for steps in (100, 400))
    assert coarse / fine == pytest.approx(2, abs=0.15)


def test_a_wrong_score_is_over_estimated_by_the_gap_to_the_score_of_its_own_density() -> None:
    n, steps = 8192, 300
    model = Perturbed(EXACT, 0.3)
    density = marginals(model)
    x, found = tracked(0.3, n, steps)
    error = found.value - density.log_prob_at(x, SCHEDULE.s_start)
    measured = (error - excess(1.0, steps, n)).mean()
    predicted = reverse_gap(model, density)
    assert predicted == pytest.approx(0.170, abs=0.001)
    assert abs(measured - predicted) < 3 * error.std() / n**0.5


def linear_excess(truth: ScaledGaussian, stochasticity: float) -> tuple[float, float]:
    """The variance of the process at s = 0, and ½ κ ∫ g² E‖s_θ − ∇log p^κ‖² ds: both scores are linear in x."""

    def rates(s: float, state: np.ndarray) -> list[float]:
        _, _, marginal, drift, diffusion = (value.item() for value in truth._terms(doubles(s)))
        pull = truth.factor / marginal
        growth = 2 * (drift + 0.5 * (1 + stochasticity) * diffusion * pull)
        loss = 0.5 * stochasticity * diffusion * (1 / state[0] - pull) ** 2 * state[0]
        return [growth * state[0] - stochasticity * diffusion, -loss]

    end = solve_ivp(rates, (1.0, 0.0), [truth.prior_variance, 0.0], rtol=1e-10, atol=1e-12).y[:, -1]
    return float(end[0]), float(end[1])


@pytest.mark.parametrize("stochasticity", [0.5, 1.0, 2.0])
def test_the_excess_of_every_stochasticity(stochasticity: float) -> None:
    truth, n, steps = ScaledGaussian(0.0, 0.25, 0.7), 10_000, 400
    variance, predicted = linear_excess(truth, stochasticity)
    end = torch.distributions.Normal(0.0, variance**0.5)
    means, errors = [], []
    for count in (steps, steps // 2):
        x, found = track(
            truth.model,
            n,
            event=(1,),
            steps=count,
            stochasticity=stochasticity,
            divergence="exact",
            generator=seeded(2),
            dtype=torch.float64,
        )
        error = found.value - end.log_prob(x[:, 0])
        means.append(error.mean().item())
        errors.append(error.std().item() / n**0.5)
    extrapolated = 2 * means[0] - means[1]
    assert predicted > 0.03
    assert abs(extrapolated - predicted) < 3 * math.hypot(2 * errors[0], errors[1])


def test_the_flow_of_a_wrong_score_is_exact_up_to_first_order_in_the_steps() -> None:
    truth = ScaledGaussian(0.3, 0.25, 0.7)
    errors = []
    for steps in (200, 400):
        x, found = track(
            truth.model,
            200,
            event=(1,),
            steps=steps,
            stochasticity=0,
            divergence="exact",
            generator=seeded(0),
            dtype=torch.float64,
        )
        errors.append((found.value - truth.flow.log_prob(x[:, 0])).abs().mean())
    assert errors[1] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("stochasticity", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_samples_are_those_of_the_sampler(stochasticity: float, dtype: torch.dtype) -> None:
    settings = {"steps": 30, "stochasticity": stochasticity, "dtype": dtype}
    x, found = track(six_dimensional(), 20, event=(2, 3), divergence="exact", generator=seeded(4), **settings)
    assert torch.equal(x, sample(six_dimensional(), 20, (2, 3), generator=seeded(4), **settings))
    assert x.dtype == dtype
    assert found.value.dtype == torch.float64
    assert [x.is_inference(), found.value.is_inference()] == [False, False]


def test_samples_come_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "ROWS_PER_CALL", 16)
    generator = seeded(5)
    x, found = track(six_dimensional(), 40, event=(6,), steps=5, generator=seeded(5))
    parts = [track(six_dimensional(), n, event=(6,), steps=5, generator=generator) for n in (16, 16, 8)]
    assert torch.equal(x, torch.cat([part[0] for part in parts]))
    assert torch.equal(found.value, torch.cat([part[1].value for part in parts]))


def test_hutchinson_is_unbiased_with_an_honest_error() -> None:
    n = 1000
    settings = {"event": (6,), "steps": 40, "stochasticity": 0.0, "dtype": torch.float64}
    x, exact = track(six_dimensional(), n, divergence="exact", generator=seeded(6), **settings)
    same, found = track(six_dimensional(), n, divergence="hutchinson", probes=32, generator=seeded(6), **settings)
    assert torch.equal(x, same)
    assert found.stderr is not None
    z = (found.value - exact.value) / found.stderr
    assert abs(z.mean()) < 4 / n**0.5
    assert z.std() == pytest.approx(1, abs=0.12)
    assert (exact.kind, found.kind, exact.density, found.density) == ("exact", "unbiased", "flow", "flow")


def test_a_divergence_in_inference_mode_is_the_same() -> None:
    def value() -> Tensor:
        return track(six_dimensional(), 3, event=(6,), steps=5, stochasticity=0.5, generator=seeded(7))[1].value

    outside = value()
    with torch.inference_mode():
        assert torch.equal(value(), outside)


@pytest.mark.parametrize(
    ("stochasticity", "divergence", "probes", "a_step"),
    [(1.0, "exact", 1, 1), (1.0, "hutchinson", 2, 1), (2.0, "hutchinson", 2, 3), (0.0, "exact", 5, 7)],
)
def test_what_is_counted_and_promised(stochasticity: float, divergence: str, probes: int, a_step: int) -> None:
    """No derivative for κ = 1. The network has a parameter, so that a derivative would be seen."""
    bias = torch.zeros(1, requires_grad=True)
    network = Counting(lambda x, _s: bias - x)
    model = DiffusionModel(network, PAPER_A, "score")
    _, found = track(
        model,
        4,
        event=(6,),
        steps=9,
        stochasticity=stochasticity,
        divergence=divergence,
        probes=probes,
        generator=seeded(0),
    )
    assert (network.calls, network.rows) == (9, 36)
    assert network.calls + network.backward == found.network_evaluations == 9 * a_step
    assert (found.kind, found.density) == (("upper", "sde") if stochasticity else ("exact", "flow"))
    assert (found.stderr is not None) == (divergence == "hutchinson" and probes > 1 and stochasticity != 1)
    assert found.failures() is None


def test_samples_that_are_lost_say_so() -> None:
    broken = Altered(EXACT, lambda score, x, _s: score.masked_fill(x > 2.5, math.nan))
    x, found = track(broken, 200, event=(1,), steps=20, generator=seeded(0))
    lost = ~x[:, 0].isfinite()
    assert 0 < lost.sum() < 100
    assert torch.equal(found.value.isnan(), lost)
    assert found.failures() == f"{int(lost.sum())} of 200 points: the field was not finite"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n": 0}, "n, steps, probes >= 1"),
        ({"steps": 0}, "n, steps, probes >= 1"),
        ({"probes": 0}, "n, steps, probes >= 1"),
        ({"stochasticity": -0.1}, "stochasticity >= 0"),
        ({"stochasticity": math.nan}, "stochasticity >= 0"),
        ({"stochasticity": math.inf}, "stochasticity >= 0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        track(scaled(gaussian(0.0, 1.0), 1.0), event=(1,), generator=seeded(0), **({"n": 2, "steps": 3} | wrong))


def test_a_prior_that_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(InputError, match="prior is not Gaussian"):
        track(EXACT, 2, event=(1,), generator=seeded(0))

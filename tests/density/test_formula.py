"""The density formula against exact mixtures, known discretisation errors, closed forms, and its own promises."""

import math
from collections.abc import Callable
from functools import cache
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from scipy.integrate import solve_ivp
from torch import Tensor

import diffusion_density as dd
from diffusion_density.density.formula import Rule, expectation, formula, squared_errors, time_nodes
from diffusion_density.density.path_integral.plain import ROWS_PER_CALL
from diffusion_density.machine.errors import InputError
from diffusion_density.process.batches import per_row
from diffusion_density.process.mixtures import ExactModel, GaussianMixture
from diffusion_density.process.model import DiffusionModel, GaussianPrior, Model
from diffusion_density.process.predictions import PREDICTIONS, Prediction
from diffusion_density.process.schedules import Discrete, LogLinear, Schedule
from diffusion_density.process.schedules import discrete as discrete_schedules
from diffusion_density.studies.density_formula.formula_gap import predicted_gap
from truths import (
    PAPER_A,
    SCHEDULES,
    Altered,
    Counting,
    ScaledGaussian,
    doubles,
    gaussian,
    network_of,
    random_mixture,
    seeded,
)

RULES: tuple[Rule, ...] = get_args(Rule)
WIDE = LogLinear(-20.0, 9.0)  # from t = 2e-9: the truncation at the data end is below 1e-6 nats
POINTS = doubles(-2.5, -1.5, -0.5, 0.0, 0.5, 1.0, 2.0)[
    :, None
]  # where the largest errors of the table below are measured
STEP = 0.25
GRID = torch.arange(-4.2, 2.9, STEP, dtype=torch.float64)[:, None]  # means over the mixture to 1e-6

each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
each_rule = pytest.mark.parametrize("rule", RULES)


def two_modes() -> GaussianMixture:
    """A mixture in one dimension with two modes."""
    return GaussianMixture(doubles(0.3, 0.7), doubles(-1.5, 1.0)[:, None], doubles(0.5**2, 0.35**2)[:, None, None])


def mean_over(mixture: GaussianMixture, values: Tensor) -> float:
    """Over the density, of values at GRID."""
    return (mixture.log_prob(GRID).exp() * values).sum().item() * STEP


def at_the_start(exact: ExactModel, x: Tensor) -> Tensor:
    """E log p̄ of the noised point at s_start, in the variance-preserving scale, by Gauss–Hermite; D = 1."""
    place, weight = (torch.from_numpy(a) for a in hermegauss(80))
    alpha, sigma = exact.schedule.at(exact.schedule.s_start)
    log_prob = exact.log_prob((alpha * x + sigma * place).reshape(-1, 1), exact.schedule.s_start)
    return (log_prob.reshape(len(x), -1) @ weight) / weight.sum() + 0.5 * math.log(alpha**2 + sigma**2)


@cache
def errors(name: str, steps: int) -> dict[str, Tensor]:
    """log p − formula on a chain, with exact expectations, at POINTS and then on GRID; and that of E log p_{β₁}."""
    mixture = two_modes()
    exact = mixture.diffused(getattr(discrete_schedules, name)(steps))
    x = torch.cat([POINTS, GRID])
    truth = mixture.log_prob(x)
    found = {rule: truth - expectation(exact, x, rule=rule, points=60) for rule in ("sum", "trapezoid")}
    return {**found, "start": truth - at_the_start(exact, x)}


# --- the continuous formula -------------------------------------------------------------------------------------------


def test_quadrature_with_32_nodes_is_exact_to_2e_6() -> None:
    mixture = two_modes()
    found = expectation(mixture.diffused(WIDE), POINTS, rule="quadrature", steps=32)
    assert (found - mixture.log_prob(POINTS)).abs().max() < 2e-6
    few = expectation(mixture.diffused(WIDE), POINTS, rule="quadrature", steps=8)
    assert (few - mixture.log_prob(POINTS)).abs().max() > 1e-3  # the nodes matter


@each_schedule
def test_every_schedule_has_its_own_density_at_the_start(schedule: Schedule) -> None:
    """The exact score and its own end: equality, whatever the range of log-SNR and the path."""
    exact = two_modes().diffused(schedule)
    found = expectation(exact, POINTS, rule="quadrature", steps=128)
    torch.testing.assert_close(found, at_the_start(exact, POINTS), rtol=0, atol=2e-6)


@pytest.mark.parametrize("gamma_min", [-7.0, -9.0])
def test_the_truncation_at_the_data_end(gamma_min: float) -> None:
    """½ t₁ (d + 2 Δ log p + ‖∇log p‖²)."""
    mixture = two_modes()
    clean = mixture.diffused(PAPER_A)
    found = expectation(mixture.diffused(LogLinear(gamma_min, 9.0)), POINTS, rule="quadrature", steps=64)
    t1 = 1 / (1 + math.exp(-gamma_min))
    curvature = 1 + 2 * clean.score_divergence(POINTS, 0.0) + clean.score(POINTS, 0.0)[:, 0].square()
    predicted = 0.5 * t1 * curvature
    error = found - mixture.log_prob(POINTS)
    assert (error - predicted).abs().max() < 100 * t1 * predicted.abs().max()
    assert error.abs().max() > 1e-3


def test_small_scales_need_more_nodes() -> None:
    """What the documentation says of the nodes."""
    for scale, nodes in ((0.03, 64), (0.003, 256)):
        mixture = GaussianMixture(
            doubles(0.3, 0.7), doubles(-1.5, 1.0)[:, None], torch.full((2, 1, 1), scale**2, dtype=torch.float64)
        )
        x = doubles(1.0, 1 + scale, -1.5 - 2 * scale)[:, None]
        exact = mixture.diffused(LogLinear(-26.0, 9.0))
        found = [expectation(exact, x, rule="quadrature", steps=n, points=200) for n in (nodes, nodes // 4)]
        assert (found[0] - mixture.log_prob(x)).abs().max() < 2e-5
        assert (found[1] - mixture.log_prob(x)).abs().max() > 2e-3


# --- the discrete formulas --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "steps", "mean_gap", "largest", "trapezoid"),
    [
        ("paper", 30, 0.738, 1.50, 0.0301),
        ("paper", 100, 0.3757, 0.680, 0.0025),
        ("paper", 300, 0.193, 0.320, 0.00023),
        ("paper", 1000, 0.0865, 0.133, 0.000021),
        ("linear", 30, 2.80, 8.45, 0.0719),
        ("linear", 100, 1.24, 2.28, 0.0189),
        ("linear", 1000, 0.456, 0.547, 0.00307),
        ("uniform_log_snr", 100, 0.353, 0.66, 0.00466),
        ("uniform_log_snr", 300, 0.1127, 0.208, 0.00465),
        ("uniform_log_snr", 1000, 0.0335, 0.059, 0.00465),
    ],
)
def test_the_table_of_discretisation_errors(
    name: str, steps: int, mean_gap: float, largest: float, trapezoid: float
) -> None:
    found = errors(name, steps)
    assert mean_over(two_modes(), found["sum"][len(POINTS) :]) == pytest.approx(mean_gap, rel=0.02)
    assert found["sum"][: len(POINTS)].abs().max().item() == pytest.approx(largest, rel=0.02)
    rel = 0.02 if trapezoid > 1e-4 else 0.1
    assert found["trapezoid"][: len(POINTS)].abs().max().item() == pytest.approx(trapezoid, rel=rel)


def slope(small: float, large: float, ratio: float) -> float:
    return math.log(large / small) / math.log(ratio)


def test_the_slope_of_the_sum_is_first_order() -> None:
    """T · gap / log² T is nearly constant for the paper's schedule; T · gap for equal steps in log-SNR."""
    mixture = two_modes()
    gaps = {T: mean_over(mixture, errors("paper", T)["sum"][len(POINTS) :]) for T in (100, 300, 1000)}
    uniform = {T: mean_over(mixture, errors("uniform_log_snr", T)["sum"][len(POINTS) :]) for T in (300, 1000)}
    free = {T: gap / math.log(T) ** 2 for T, gap in gaps.items()}
    assert slope(free[300], free[1000], 1000 / 300) == pytest.approx(-1, abs=0.2)
    assert slope(free[100], free[1000], 10) == pytest.approx(-1, abs=0.2)
    assert slope(uniform[300], uniform[1000], 1000 / 300) == pytest.approx(-1, abs=0.05)


def test_the_slope_of_the_trapezoid_is_second_order() -> None:
    """With β₁ = T⁻² both the rule and the truncation are of second order."""
    found = {T: errors("paper", T)["trapezoid"][: len(POINTS)].abs().max().item() for T in (100, 300, 1000)}
    assert slope(found[100], found[300], 3) == pytest.approx(-2, abs=0.25)
    assert slope(found[300], found[1000], 1000 / 300) == pytest.approx(-2, abs=0.25)


def test_the_trapezoid_of_the_linear_schedule_keeps_the_truncation() -> None:
    """β₁ = 0.1/T leaves an error of first order, that of the start: without it the rule converges faster."""
    part = slice(0, len(POINTS))
    whole, rule = {}, {}
    for T in (100, 1000):
        found = errors("linear", T)
        whole[T] = found["trapezoid"][part].abs().max().item()
        rule[T] = (found["trapezoid"] - found["start"])[part].abs().max().item()
    assert -1.2 < slope(whole[100], whole[1000], 10) < -0.6
    assert rule[1000] < 0.3 * whole[1000]


@pytest.mark.parametrize("steps", [300, 1000])
@pytest.mark.parametrize("name", ["paper", "uniform_log_snr", "linear", "cosine"])
def test_the_predicted_gap(name: str, steps: int) -> None:
    """The mean gap of the sum beyond that of the truncation at β₁ is the one derived from posterior covariances."""
    found = errors(name, steps)
    gap = mean_over(two_modes(), found["sum"][len(POINTS) :])
    truncation = mean_over(two_modes(), found["start"][len(POINTS) :])
    predicted = predicted_gap(two_modes(), getattr(discrete_schedules, name)(steps))
    assert gap > 0
    assert gap - truncation == pytest.approx(predicted.sharp, rel=0.01)
    if name in ("paper", "uniform_log_snr"):
        assert gap == pytest.approx(predicted.quadratic, rel=0.05)
    else:  # early steps with β_t of the order of 1 − ᾱ_t: the square overestimates
        assert predicted.quadratic > 1.05 * gap


class Closed:
    """Data N(mean, variance) in one dimension: E‖ε − ε̂‖² in closed form, and the paper's sums by plain arithmetic."""

    def __init__(self, mean: float, variance: float) -> None:
        self.mean, self.variance = mean, variance
        self.mixture = gaussian(mean, variance)

    def error(self, x: float, alpha_bar: float) -> float:
        """ε − ε̂ = (α² v ε − α σ (x − m))/(α² v + σ²)."""
        marginal = alpha_bar * self.variance + 1 - alpha_bar
        square = alpha_bar * (1 - alpha_bar) * (x - self.mean) ** 2
        return ((alpha_bar * self.variance) ** 2 + square) / marginal**2

    def divergence(self, x: float, alpha_bar: float) -> float:
        """KL of N(√ᾱ x, 1 − ᾱ) from N(√ᾱ m, ᾱ v + 1 − ᾱ)."""
        marginal, square = alpha_bar * self.variance + 1 - alpha_bar, alpha_bar * (x - self.mean) ** 2
        return 0.5 * ((1 - alpha_bar + square) / marginal - 1 - math.log((1 - alpha_bar) / marginal))

    def ddpm(self, x: float, betas: list[float], rule: str) -> float:
        """The published sum, term by term, minus the KL at the end, which it neglects."""
        bars: list[float] = []
        errors: list[float] = []
        for beta in betas:
            bars.append((bars[-1] if bars else 1.0) * (1 - beta))
            errors.append(self.error(x, bars[-1]))
        total = -0.5 * (1 + math.log(2 * math.pi * betas[0])) - self.divergence(x, bars[-1])
        for t in range(1, len(betas)):
            alpha, bar = 1 - betas[t], bars[t]
            if rule == "sum":
                total -= (1 - alpha) / (2 * (alpha - bar)) * errors[t]
            else:
                fall = math.log(bars[t - 1] / (1 - bars[t - 1])) - math.log(bar / (1 - bar))
                total -= 0.25 * fall * (errors[t - 1] + errors[t])
        return total


@pytest.mark.parametrize("rule", ["sum", "trapezoid"])
@pytest.mark.parametrize("betas", [doubles(0.1, 0.2, 0.4, 0.3), torch.linspace(0.001, 0.3, 40).double()])
def test_the_chain_is_the_papers_to_the_letter(rule: Rule, betas: Tensor) -> None:
    closed = Closed(0.7, 0.36)
    x = doubles(-1.0, 0.7, 2.0)
    found = expectation(closed.mixture.diffused(Discrete(betas)), x[:, None], rule=rule, points=20)
    torch.testing.assert_close(
        found, doubles(*(closed.ddpm(v, betas.tolist(), rule) for v in x.tolist())), rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize(("mean", "variance"), [(0.7, 0.36), (-2.0, 4.0), (0.0, 1.0)])
def test_the_gaussian_closed_form(mean: float, variance: float) -> None:
    mixture = gaussian(mean, variance)
    x = doubles(mean, mean + 1.5, mean - 2.5)[:, None]
    found = expectation(mixture.diffused(WIDE), x, rule="quadrature", steps=48, points=20)
    torch.testing.assert_close(found, mixture.log_prob(x), rtol=0, atol=1e-7)


@each_rule
def test_the_prior_enters_as_its_divergence(rule: Rule) -> None:
    """The difference of two priors is that of their expected log densities at the noise end."""
    exact = gaussian(0.5, 0.64).diffused(SCHEDULES["vp-constant"])
    alpha, sigma = exact.schedule.at(1.0)
    x = doubles(-1.0, 0.3, 1.8)[:, None]
    normal = Altered(exact, lambda score, _x, _s: score, GaussianPrior(2.0))
    own, other = (expectation(model, x, rule=rule, steps=40) for model in (exact, normal))
    marginal = sigma**2 + alpha**2 * 0.64
    at_end = -0.5 * (math.log(2 * math.pi * 2) + ((alpha * x[:, 0]).square() + sigma**2) / 2)
    at_own = -0.5 * (math.log(2 * math.pi * marginal) + ((alpha * (x[:, 0] - 0.5)).square() + sigma**2) / marginal)
    torch.testing.assert_close(other - own, at_end - at_own, rtol=1e-9, atol=1e-9)


def test_a_chain_keeps_its_own_steps_and_another_schedule_gets_equal_ones_in_log_snr() -> None:
    chain = SCHEDULES["discrete-short"]
    assert isinstance(chain, Discrete)
    assert torch.equal(time_nodes(chain, "trapezoid", 1000).times, chain.steps)
    assert torch.equal(time_nodes(chain, "sum", 7).times, chain.steps[1:])
    nodes = time_nodes(PAPER_A, "trapezoid", 50)
    log_snr = PAPER_A.log_snr(nodes.times)
    assert len(log_snr) == nodes.steps == 50
    torch.testing.assert_close(log_snr.diff(), log_snr.diff().mean().expand(49), rtol=1e-6, atol=0)
    assert nodes.times[[0, -1]].tolist() == pytest.approx([PAPER_A.s_start, 1.0], rel=1e-6)
    assert nodes.weights.sum().item() == pytest.approx(0.5 * (log_snr[0] - log_snr[-1]).item(), rel=1e-9)


def test_weights_of_the_sum_are_those_of_the_paper() -> None:
    betas = torch.linspace(0.001, 0.4, 30, dtype=torch.float64)
    alpha, bar = 1 - betas, (1 - betas).cumprod(0)
    expected = ((1 - alpha) / (2 * (alpha - bar)))[1:]
    torch.testing.assert_close(time_nodes(Discrete(betas), "sum", 2).weights, expected, rtol=1e-10, atol=0)


# --- Monte Carlo ------------------------------------------------------------------------------------------------------


@each_rule
@pytest.mark.parametrize("name", ["vp-constant", "log-linear-straight", "discrete-short"])
def test_monte_carlo_is_unbiased_and_its_error_honest(name: str, rule: Rule) -> None:
    exact = two_modes().diffused(SCHEDULES[name])
    x = POINTS[[0, 3, 5]]
    result = formula(exact, x.repeat(400, 1), rule=rule, steps=20, throws=6, generator=seeded(2))
    assert result.stderr is not None
    truth = expectation(exact, x, rule=rule, steps=20)
    values = result.value.reshape(400, 3)
    mean_error = values.std(0) / 20
    assert ((values.mean(0) - truth).abs() < 4 * mean_error).all()
    squares = result.stderr.reshape(400, 3).square().mean(0)
    assert ((squares / values.var(0) - 1).abs() < 0.4).all()
    assert (result.kind, result.density) == ("lower", "sde")


@pytest.mark.parametrize("dimension", [1, 2, 10, 50])
def test_exact_mixtures(dimension: int) -> None:
    mixture = random_mixture(dimension)
    x = mixture.sample(60, generator=seeded(3))
    result = formula(mixture.diffused(WIDE), x, rule="quadrature", steps=32, throws=8, generator=seeded(5))
    assert result.stderr is not None
    z = (result.value - mixture.log_prob(x)) / result.stderr
    assert z.abs().max() < 4
    assert abs(z.mean()) < 4 / 60**0.5
    assert 0.4 < z.square().mean() < 2
    assert result.stderr.mean() < 0.1 * dimension + 0.4
    assert result.failures() is None


class Steep:
    """A prior that is known by its log density alone, far from the normal reference."""

    def log_prob(self, x: Tensor) -> Tensor:
        return GaussianPrior(0.1).log_prob(x)


def test_a_prior_of_any_kind_enters_as_its_mean_with_its_error() -> None:
    exact = gaussian(0.0, 1.0).diffused(SCHEDULES["vp-constant"])
    closed, opaque = (Altered(exact, lambda score, _x, _s: score, prior) for prior in (GaussianPrior(0.1), Steep()))
    x = doubles(1.5)[:, None]
    truth = expectation(closed, x, rule="quadrature", steps=8)
    torch.testing.assert_close(expectation(opaque, x, rule="quadrature", steps=8), truth, rtol=1e-9, atol=1e-9)
    result = formula(opaque, x.expand(500, 1), rule="quadrature", steps=8, throws=8, generator=seeded(0))
    without = formula(closed, x.expand(500, 1), rule="quadrature", steps=8, throws=8, generator=seeded(0))
    assert result.stderr is not None
    assert without.stderr is not None
    assert abs(result.value.mean() - truth.item()) < 4 * result.value.std() / 500**0.5
    assert result.stderr.square().mean().item() == pytest.approx(result.value.var().item(), rel=0.25)
    assert result.stderr.mean() > 2 * without.stderr.mean()  # the end is most of the error here


def test_the_standard_error_falls_as_the_square_root() -> None:
    exact = two_modes().diffused(WIDE)
    results = [
        formula(exact, POINTS, rule="quadrature", steps=32, throws=throws, generator=seeded(throws))
        for throws in (32, 128, 512)
    ]
    squares = [result.stderr.square().mean().item() for result in results if result.stderr is not None]
    assert squares[0] / squares[1] == pytest.approx(4, rel=0.25)
    assert squares[1] / squares[2] == pytest.approx(4, rel=0.25)


def uniform_in_t(exact: ExactModel, x: Tensor, n: int, repeats: int) -> Tensor:
    """(repeats, B) the raw estimator: eq. 3.1 as it stands, n draws of t uniform on the schedule's range."""
    schedule, generator = exact.schedule, seeded(11)
    ends = schedule.log_snr(doubles(schedule.s_start, schedule.s_max)).neg().sigmoid()
    shape = (repeats * len(x), n)
    t = ends[0] + (ends[1] - ends[0]) * torch.rand(shape, generator=generator, dtype=torch.float64)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    start = x.repeat(repeats, 1)
    total = torch.empty(shape, dtype=torch.float64)
    for i in range(0, len(start), 16):
        y = (1 - t[i : i + 16]).sqrt() * start[i : i + 16] + t[i : i + 16].sqrt() * noise[i : i + 16]
        s = schedule.inverse(torch.log1p(-t[i : i + 16]) - t[i : i + 16].log())
        error = noise[i : i + 16] - exact.noise(y.reshape(-1, 1), s.reshape(-1)).reshape(y.shape)
        total[i : i + 16] = error.square() / (2 * t[i : i + 16] * (1 - t[i : i + 16])) - 0.5 / t[i : i + 16]
    return -0.5 * (1 + math.log(2 * math.pi)) - (ends[1] - ends[0]) * total.mean(1).reshape(repeats, len(x))


def plain(exact: ExactModel, x: Tensor, repeats: int, steps: int, each: int, antithetic: bool) -> Tensor:
    """(repeats, B) sums over the nodes of squared errors without control variate, ``each`` draws at a node."""
    nodes = time_nodes(exact.schedule, "quadrature", steps)
    s = nodes.times.repeat_interleave(each)
    noise = torch.randn(repeats * len(x), len(s), 1, generator=seeded(12), dtype=torch.float64)
    if antithetic:
        noise[:, 1::2] = -noise[:, ::2]
    rows = x.repeat(repeats, 1)
    squares = [squared_errors(exact, a, s, b) for a, b in zip(rows.split(16), noise.split(16), strict=True)]
    return (torch.cat(squares).unflatten(1, (steps, each)).mean(2) @ nodes.weights).reshape(repeats, len(x))


def test_the_variance_at_1024_draws() -> None:
    """At least ten times below the raw estimator with uniform times; below strata without control or antithesis."""
    exact = two_modes().diffused(LogLinear(-13.3, 9.0))
    x, repeats = doubles(0.0, 1.0, -2.5)[:, None], 100
    found = formula(exact, x.repeat(repeats, 1), rule="quadrature", steps=64, throws=16, generator=seeded(10))
    assert found.network_evaluations == 1024
    values = found.value.reshape(repeats, 3)
    raw = uniform_in_t(exact, x, 1024, repeats)
    assert (raw.var(0) > 10 * values.var(0)).all()
    strata = plain(exact, x, repeats, 64, 16, antithetic=False)
    mirrored = plain(exact, x, repeats, 64, 16, antithetic=True)
    assert (strata.var(0) > 2 * values.var(0)).all()
    assert (mirrored.var(0) > 2 * values.var(0)).all()
    assert values.std(0).max() < 0.17


def elementwise(prior: GaussianPrior | None) -> Model:
    """A model of elementwise arithmetic only, so that the size of a batch cannot change its rounding."""
    exact = random_mixture(3).diffused(PAPER_A)
    model = DiffusionModel(lambda x, s: (2 * x).tanh() * (1 + per_row(s, x)), PAPER_A, "noise", prior)
    if prior is None:
        model.prior = exact.prior
    return model


@pytest.mark.parametrize("prior", [GaussianPrior(1.0), None])
@pytest.mark.parametrize(("steps", "throws"), [(2, 4), (3, 6), (30, 10), (7, 800), (300, 60)])
def test_a_point_alone_is_a_point_among_others(prior: GaussianPrior | None, steps: int, throws: int) -> None:
    model = elementwise(prior)
    for event in ((3,), (1, 3, 1)):
        x = torch.randn(6, *event, generator=seeded(0))
        many = formula(model, x, steps=steps, throws=throws, generator=seeded(4))
        generator = seeded(4)
        ones = [formula(model, row[None], steps=steps, throws=throws, generator=generator) for row in x]
        values = torch.cat([one.value for one in ones])
        tolerance = 1e-6 if prior else 1e-4  # a mixture's prior has matrix products, whose rounding a batch may change
        torch.testing.assert_close(many.value, values, rtol=tolerance, atol=tolerance)
        assert len(values.unique()) == len(x)


@pytest.mark.parametrize("chunk", [32, 100, 400])
@pytest.mark.parametrize("rule", ["trapezoid", "quadrature"])
def test_the_chunk_changes_nothing_but_the_calls(chunk: int, rule: Rule) -> None:
    counter = Counting(lambda x, s: (2 * x).tanh() * (1 + per_row(s, x)))
    model = DiffusionModel(counter, PAPER_A, "noise")
    x = torch.randn(5, 2, generator=seeded(0), dtype=torch.float64)
    whole = formula(model, x, steps=13, throws=10, rule=rule, generator=seeded(1))
    calls = counter.calls
    parts = formula(model, x, steps=13, throws=10, rule=rule, generator=seeded(1), chunk=chunk)
    torch.testing.assert_close(parts.value, whole.value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.stderr, whole.stderr, rtol=1e-12, atol=1e-12)
    assert counter.calls - calls > calls


def test_the_same_generator_gives_the_same_and_another_another() -> None:
    exact = two_modes().diffused(WIDE)
    values = [formula(exact, POINTS, steps=20, throws=4, generator=seeded(seed)).value for seed in (0, 0, 1)]
    assert torch.equal(values[0], values[1])
    assert (values[0] - values[2]).abs().min() > 0


@pytest.mark.parametrize(
    ("rule", "schedule", "evaluations"),
    [("sum", "discrete-short", 11 * 6), ("trapezoid", "discrete-short", 12 * 6), ("quadrature", "vp", 9 * 6)],
)
def test_network_evaluations_and_settings(rule: Rule, schedule: str, evaluations: int) -> None:
    rows: list[int] = []

    def network(x: Tensor, _s: Tensor) -> Tensor:
        rows.append(len(x))
        return x

    x = torch.randn(5, 2, generator=seeded(0))
    model = DiffusionModel(network, SCHEDULES[schedule], "noise")
    result = formula(model, x, steps=9, rule=rule, throws=6, generator=seeded(1))
    assert sum(rows) == 5 * evaluations == 5 * result.network_evaluations
    assert max(rows) <= ROWS_PER_CALL
    steps = 9 if rule == "quadrature" else 12
    assert result.settings == {"estimator": "formula", "rule": rule, "steps": steps, "throws": 6}


# --- wrong scores -----------------------------------------------------------------------------------------------------


def sde_gap(truth: ScaledGaussian, x: Tensor) -> Tensor:
    """½ ∫ g² E‖s_θ − ∇log p_s^SDE‖² ds, p_s^SDE normal with the moments of the reverse SDE from the prior."""
    s = torch.linspace(1, 0, 2001, dtype=torch.float64)

    def rates(time: float, moments: np.ndarray) -> list[float]:
        alpha, _, marginal, drift, diffusion = (value.item() for value in truth._terms(doubles(time)))
        mean, variance = moments
        pull = diffusion * truth.factor / marginal
        return [drift * mean + pull * (mean - alpha * truth.mean), 2 * (drift + pull) * variance - diffusion]

    found = solve_ivp(rates, (1.0, 0.0), [0.0, truth.prior_variance], t_eval=s.tolist(), rtol=1e-10, atol=1e-12)
    mean, variance = (torch.from_numpy(row.copy()) for row in found.y)
    alpha, sigma2, marginal, _, diffusion = truth._terms(s)
    slope = 1 / variance - truth.factor / marginal  # s_θ − ∇log p = slope x_s + level
    level = truth.factor * alpha * truth.mean / marginal - mean / variance
    square = (slope * alpha * x[:, None] + level).square() + slope.square() * sigma2
    return -torch.trapezoid(0.5 * diffusion * square, s)


@pytest.mark.parametrize("factor", [1.2, 0.7, 1.0])
def test_a_wrong_score_is_below_its_sde_by_the_predicted_amount(factor: float) -> None:
    truth = ScaledGaussian(1.3, 0.36, factor)
    x = doubles(0.0, 0.6, 1.3, 2.0, 3.0)
    found = expectation(truth.model, x[:, None], rule="quadrature", steps=64, points=20)
    gap = truth.sde.log_prob(x) - found
    torch.testing.assert_close(gap, sde_gap(truth, x), rtol=2e-4, atol=2e-5)
    torch.testing.assert_close(found, truth.bound(x), rtol=0, atol=2e-4)  # the path-integral bound is the same number
    assert (gap > (0.02 if factor != 1 else -1e-5)).all()


def test_a_wrong_score_by_monte_carlo() -> None:
    truth = ScaledGaussian(1.3, 0.36, 1.2)
    x = torch.linspace(-0.5, 3.0, 15, dtype=torch.float64)
    result = formula(truth.model, x[:, None], rule="quadrature", steps=48, throws=64, generator=seeded(1))
    assert result.stderr is not None
    assert ((result.value - truth.bound(x)).abs() < 4 * result.stderr).all()
    assert (result.value - truth.sde.log_prob(x)).mean() < -0.05


@pytest.mark.parametrize("size", [0.05, 0.1, 0.4])
def test_an_offset_noise_prediction_costs_its_square(size: float) -> None:
    """In the mean over the data, ½ c² for every unit of log-SNR; the quadrature knows the end marginals exactly."""
    mixture = two_modes()
    exact = mixture.diffused(LogLinear(-20.0, 5.0))

    def shifted(score: Tensor, _x: Tensor, s: Tensor) -> Tensor:
        return score - size / exact.schedule.sigma(s)

    model = Altered(exact, shifted, exact.prior)
    right, wrong = (expectation(m, GRID, rule="quadrature", steps=400) for m in (exact, model))
    assert mean_over(mixture, right - wrong) == pytest.approx(0.5 * size**2 * 25, rel=1e-3)


# --- points, precision, failures, refusals ----------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_prediction_of_one_function_gives_the_same(prediction: Prediction) -> None:
    exact = random_mixture(2).diffused(PAPER_A)
    x = exact.mixture.sample(5, generator=seeded(0))
    expected, found = (
        formula(model, x, steps=30, throws=4, generator=seeded(0)) for model in (exact, network_of(exact, prediction))
    )
    torch.testing.assert_close(found.value, expected.value, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found.stderr, expected.stderr, rtol=1e-7, atol=1e-7)


def test_images_are_points() -> None:
    exact = random_mixture(4).diffused(PAPER_A)
    x = exact.mixture.sample(6, generator=seeded(0))
    flat, image = (formula(exact, v, steps=20, throws=4, generator=seeded(0)) for v in (x, x.reshape(6, 1, 2, 2)))
    torch.testing.assert_close(image.value, flat.value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(image.stderr, flat.stderr, rtol=1e-12, atol=1e-12)


@each_rule
def test_single_precision(rule: Rule) -> None:
    """Against the same expectation in double precision."""
    exact = two_modes().diffused(PAPER_A)
    result = formula(exact, POINTS.float().repeat(200, 1), rule=rule, steps=40, throws=4, generator=seeded(0))
    assert result.value.dtype == torch.float64
    truth = expectation(exact, POINTS, rule=rule, steps=40)
    values = result.value.reshape(200, -1)
    assert ((values.mean(0) - truth).abs() < 4 * values.std(0) / 200**0.5).all()
    single = expectation(exact, POINTS.float(), rule=rule, steps=40)
    torch.testing.assert_close(single, truth, rtol=0, atol=1e-4)


def test_results_are_ordinary_tensors_without_gradients() -> None:
    exact = two_modes().diffused(PAPER_A)
    weight = torch.nn.Parameter(doubles(1.0))
    model = DiffusionModel(lambda y, s: weight * exact.noise(y, s), PAPER_A)
    result = formula(model, POINTS.clone().requires_grad_(), steps=5, throws=4, generator=seeded(0))
    for value in (result.value, result.stderr, result.status, expectation(model, POINTS, steps=5)):
        assert value is not None
        assert not value.requires_grad
        assert not value.is_inference()
        value += 0  # an inference tensor would refuse
    assert weight.grad is None
    assert torch.is_grad_enabled()


def test_a_score_that_is_not_finite_is_told() -> None:
    exact = two_modes().diffused(PAPER_A)
    model = DiffusionModel(lambda y, s: exact.noise(y, s).masked_fill(y > 100, torch.nan), PAPER_A, prior=exact.prior)
    far = torch.cat([POINTS, doubles(500.0)[None]])
    result = formula(model, far, steps=9, throws=4, generator=seeded(0))
    assert result.status is not None
    assert result.stderr is not None
    assert result.status.tolist() == [0] * 7 + [1]
    assert result.value.isnan().tolist() == result.stderr.isnan().tolist() == [False] * 7 + [True]
    expected = formula(exact, POINTS, steps=9, throws=4, generator=seeded(0)).value
    torch.testing.assert_close(result.value[:7], expected, rtol=1e-10, atol=1e-10)
    assert result.failures() == "1 of 8 points: the field was not finite"


Call = Callable[..., object]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"throws": 2}, "throws come in pairs, an even number of at least 4, got 2"),
        ({"throws": 7}, "got 7"),
        ({"steps": 1}, "steps must be at least 2, got 1"),
        ({"chunk": 31}, "chunk must be at least 32, got 31"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, int], message: str) -> None:
    call: Call = formula
    with pytest.raises(InputError, match=message) as caught:
        call(two_modes().diffused(PAPER_A), POINTS, generator=seeded(0), **options)
    assert "\n" not in str(caught.value)


def test_a_rule_without_a_name_and_too_few_noise_points_are_named() -> None:
    unchecked: Call = getattr(time_nodes, "__wrapped__", time_nodes)  # beartype would refuse the name before it does
    with pytest.raises(InputError, match="rule is one of sum, trapezoid, quadrature, not 'simpson'"):
        unchecked(PAPER_A, "simpson", 10)
    with pytest.raises(InputError, match="points must be at least 2, got 1"):
        expectation(two_modes().diffused(PAPER_A), POINTS, points=1)


def test_points_that_are_not_finite_are_named() -> None:
    x = POINTS.clone()
    x[2] = torch.nan
    exact = two_modes().diffused(PAPER_A)
    with pytest.raises(InputError, match="point 2 has numbers that are not finite"):
        formula(exact, x, generator=seeded(0))
    with pytest.raises(InputError, match="point 2 has numbers that are not finite"):
        expectation(exact, x)


def test_the_package_exports_it() -> None:
    assert dd.density.formula is formula

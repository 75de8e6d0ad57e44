"""The regularised game of paper B: its optimum in closed form, its regulariser, and generators on their way there."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import zeta
from scipy.stats import chi
from torch.distributions import Normal

from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError, NumericalError
from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.studies.density_formula.experiments import gan
from diffusion_density.studies.density_formula.optimum import Grid, Optimum, distance, optimum, sampling_distance
from diffusion_density.studies.density_formula.sizes import Gan, GanRun
from diffusion_density.studies.shared.targets import one_dimensional_mixture
from truths import doubles, random_mixture, seeded

LINE = Grid.box(-4.5, 3.5, 80, 1)
WIDE = Grid.box(-8, 8, 160, 1)
TINY = Gan(
    weights=(0.0, 1.0),
    collapse_dimension=5,
    collapse_weights=(0.4, 1.6),
    width=8,
    steps=4,
    batch_size=16,
    learning_rate=5e-3,
    ema=0.9,
    samples=1000,
)


def continuous_mass(dimension: int, weight: float) -> float:
    """What the density of the optimum for N(0, I_d) can hold, with d > 2 and λ > 0: beyond it there is an atom."""
    return float(weight ** (-dimension / 2) * zeta(dimension / 2, 1 + 1 / weight))


def log_prob_on(grid: Grid, mixture: GaussianMixture) -> np.ndarray:
    return mixture.log_prob(torch.from_numpy(grid.coordinates)).numpy()


def normal_on(grid: Grid, dimension: int) -> np.ndarray:
    return -0.5 * (grid.coordinates[:, 0] ** 2 + dimension * math.log(2 * math.pi))


def normal_optimum(dimension: int, weight: float) -> tuple[Grid, Optimum]:
    grid = Grid.radial(4 * math.sqrt(dimension) + 4, 64, dimension)
    peak = -0.5 * dimension * math.log(2 * math.pi)
    return grid, optimum(normal_on(grid, dimension), grid.volumes, weight, peak)


# --- the optimum ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.05, 0.2, 0.5, 1.0])
def test_the_optimum_is_a_law_and_stationary(weight: float) -> None:
    log_prob = log_prob_on(LINE, one_dimensional_mixture())
    best = optimum(log_prob, LINE.volumes, weight)
    assert best.density @ LINE.volumes == pytest.approx(1, abs=1e-12)
    assert best.atom == 0
    constant = np.log(best.density / (np.exp(log_prob) + best.density)) - weight * log_prob
    assert np.ptp(constant) < 1e-12
    assert constant.mean() == pytest.approx(-math.log(best.normaliser), abs=1e-12)


@pytest.mark.parametrize(
    ("weight", "normaliser", "ratio"), [(0.05, 1.836, 1.08), (0.2, 1.446, 1.36), (0.5, 0.950, 1.98), (1.0, 0.525, 3.17)]
)
def test_the_normalisers_of_the_sheet(weight: float, normaliser: float, ratio: float) -> None:
    """Its section 6 is about ½ N(−2, ½²) + ½ N(2, 1), not the mixture of its section 2."""
    scales = doubles(0.5, 1.0).square()[:, None, None]
    log_prob = log_prob_on(WIDE, GaussianMixture(doubles(0.5, 0.5), doubles(-2.0, 2.0)[:, None], scales))
    best = optimum(log_prob, WIDE.volumes, weight)
    assert best.normaliser == pytest.approx(normaliser, abs=6e-4)
    assert (best.density / np.exp(log_prob)).max() == pytest.approx(ratio, abs=6e-3)


@pytest.mark.parametrize("weight", [0.2, 1.0])
def test_no_other_law_is_better(weight: float) -> None:
    """The value of the game at D's best answer, over its perturbations; the data themselves are worse too."""
    log_prob = log_prob_on(LINE, one_dimensional_mixture())
    p = np.exp(log_prob)

    def value(q: np.ndarray) -> float:
        terms = p * np.log(p / (p + q)) + q * np.log(q / (p + q)) - weight * q * log_prob
        return float(terms @ LINE.volumes)

    best = optimum(log_prob, LINE.volumes, weight).density
    least = value(best)
    for seed in range(20):
        wave = torch.randn(3, generator=seeded(seed)).numpy()
        other = best * np.exp(0.3 * wave[0] * np.sin((1 + abs(wave[1])) * LINE.coordinates[:, 0] + wave[2]))
        assert value(other / (other @ LINE.volumes)) > least
    assert value(p) > least + 1e-3


def test_the_normaliser_by_another_way() -> None:
    """∫ p/(z_c p^{-λ} − 1) = Σ_k z_c^{-k} (2π)^{-kλ/2} (1 + kλ)^{-1/2} for N(0, 1)."""
    for weight in (0.05, 0.5, 2.0):
        _, best = normal_optimum(1, weight)
        k = np.arange(1, 20_000)
        terms = -k * (math.log(best.normaliser) + 0.5 * weight * math.log(2 * math.pi)) - 0.5 * np.log1p(k * weight)
        assert np.exp(terms).sum() == pytest.approx(1, abs=1e-10)


def test_the_optimum_tends_to_the_data() -> None:
    log_prob = log_prob_on(LINE, one_dimensional_mixture())
    p = np.exp(log_prob)
    distances = []
    for weight in (0.0, 1e-4, 1e-2, 0.1):
        best = optimum(log_prob, LINE.volumes, weight)
        distances.append(distance(best.density * LINE.volumes, p * LINE.volumes))
        if weight == 0:
            assert best.normaliser == pytest.approx(2, abs=1e-9)
    assert distances[0] < 1e-9
    assert distances[2] / distances[1] == pytest.approx(100, rel=0.05)  # linear in λ
    assert 5 < distances[3] / distances[2] < 10


def test_the_optimum_in_the_plane_and_by_radius_agree() -> None:
    box, radial = Grid.box(-6, 6, 24, 2), Grid.radial(8, 40, 2)
    plane = -0.5 * (box.coordinates**2).sum(1) - math.log(2 * math.pi)
    found = [optimum(log_prob, grid.volumes, 0.7) for log_prob, grid in ((plane, box), (normal_on(radial, 2), radial))]
    assert found[0].normaliser == pytest.approx(found[1].normaliser, rel=1e-6)


@pytest.mark.parametrize(("dimension", "expected"), [(3, 1.485), (5, 0.474), (10, 0.175)])
def test_the_critical_weight(dimension: int, expected: float) -> None:
    critical = brentq(lambda weight: continuous_mass(dimension, weight) - 1, 0.1, 10)
    assert critical == pytest.approx(expected, abs=5e-4)
    assert normal_optimum(dimension, 0.99 * critical)[1].atom == 0
    assert normal_optimum(dimension, 1.01 * critical)[1].atom > 0


@pytest.mark.parametrize("dimension", [1, 2])
def test_no_critical_weight_in_one_and_two_dimensions(dimension: int) -> None:
    assert normal_optimum(dimension, 5.0)[1].atom == 0


@pytest.mark.parametrize("weight", [0.8, 1.6])
def test_the_atom_is_what_the_density_lacks(weight: float) -> None:
    """Quadrature against Σ_k (1 + kλ)^{-5/2}, summed here; the constant of stationarity is the one at the mode."""
    grid, best = normal_optimum(5, weight)
    partial = (1 + weight * np.arange(1, 200_000)) ** -2.5
    assert continuous_mass(5, weight) == pytest.approx(partial.sum(), abs=1e-6)
    assert best.atom == pytest.approx(1 - partial.sum(), abs=1e-6)
    assert best.density @ grid.volumes + best.atom == pytest.approx(1, abs=1e-9)
    assert best.normaliser == pytest.approx((2 * math.pi) ** (-2.5 * weight), rel=1e-9)


def test_what_the_optimum_rejects() -> None:
    log_prob = log_prob_on(LINE, one_dimensional_mixture())
    with pytest.raises(InputError, match="negative"):
        optimum(log_prob, LINE.volumes, -0.1)
    with pytest.raises(InputError, match="mass"):
        optimum(log_prob + 0.1, LINE.volumes, 0.1)


def test_histograms_of_points_and_of_densities_agree() -> None:
    mixture = random_mixture(2)
    grid = Grid.box(-6, 6, 12, 2)
    masses = grid.masses(np.exp(log_prob_on(grid, mixture)))
    assert masses.sum() == pytest.approx(1, abs=1e-4)
    found = grid.frequencies(mixture.sample(40_000, generator=seeded(0)).numpy())
    assert distance(found, masses) < 1.3 * sampling_distance(masses, 40_000)
    radial = Grid.radial(6, 12, 3)
    expected = np.diff(chi(3).cdf(radial.edges))
    np.testing.assert_allclose(radial.masses(np.exp(normal_on(radial, 3))), expected, atol=1e-9)


def test_the_sampling_distance_is_that_of_multinomial_draws() -> None:
    masses = doubles(0.5, 0.3, 0.15, 0.049, 0.001)
    draws = torch.multinomial(masses, 200 * 4000, replacement=True, generator=seeded(1)).reshape(4000, 200)
    counts = torch.nn.functional.one_hot(draws, 5).sum(1)
    found = 0.5 * (counts / 200 - masses).abs().sum(1)
    expected = sampling_distance(masses.numpy(), 200)
    assert abs(found.mean().item() - expected) < 4 * found.std().item() / 4000**0.5
    assert sampling_distance(doubles(1.0, 0.0).numpy(), 10) == 0


# --- the regulariser --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", [1, 3])
def test_the_gradient_of_the_regulariser_is_minus_the_score(dimension: int) -> None:
    mixture = one_dimensional_mixture() if dimension == 1 else random_mixture(dimension)
    exact = mixture.diffused(gan.SCHEDULE)
    points = mixture.sample(5, generator=seeded(3))
    draws, generator = 20_000, seeded(4)
    x = points.repeat(draws, 1).requires_grad_()
    u = torch.rand(len(x), generator=generator, dtype=torch.float64)
    gan.diffusion_loss(exact, x, u, generator).sum().backward()
    assert x.grad is not None
    gradient = x.grad.unflatten(0, (draws, 5))
    stderr = gradient.std(0) / draws**0.5
    score = exact.score(points, 0.0)
    assert ((gradient.mean(0) + score).abs() < 4 * stderr + 1e-3 * score.abs().max()).all()
    assert stderr.max() < 0.03 * score.abs().max()
    strata = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    x = points.repeat(draws, 1).requires_grad_()
    gan.diffusion_loss(exact, x, strata.repeat_interleave(5), generator).sum().backward()
    assert x.grad is not None
    assert ((x.grad.unflatten(0, (draws, 5)).mean(0) + score).abs() < 4 * stderr).all()


# --- the discriminator ------------------------------------------------------------------------------------------------


def test_discriminators_learn_the_log_ratio_of_the_laws() -> None:
    """Against N(½, 0.8²) and N(0, 1.2²) the best answer to N(0, 1) is a quadratic: among what the features span."""
    generator = seeded(5)
    stack = gan.Discriminators(1, [generator, generator], 1)
    shift, scale = torch.tensor([0.5, 0.0])[:, None, None], torch.tensor([0.8, 1.2])[:, None, None]
    for step in range(300):
        real = torch.randn(2, 512, 1, generator=generator)
        fake = shift + scale * torch.randn(2, 512, 1, generator=generator)
        stack.ascend(stack.features(real), stack.features(fake), 0.3 * (1 - step / 300))
    x = torch.linspace(-1.5, 1.5, 31)[:, None].repeat(2, 1, 1)
    expected = Normal(0.0, 1.0).log_prob(x) - Normal(shift, scale).log_prob(x)
    assert (stack.logit(stack.features(x)) - expected[..., 0]).abs().max() < 0.15
    assert expected[0].abs().max() > 1.5


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_moves_towards_the_optimum() -> None:
    """In the plane the start, near N(0, I), is far from data and optimum: each weight ends nearer to its own."""
    sizes = TINY.model_copy(update={"steps": 150, "batch_size": 64, "width": 16, "learning_rate": 2e-2, "ema": 0.95})
    target = gan.targets(sizes)[1]
    start, end = (
        [
            gan.compare(target, weight, points)[0]
            for weight, points in zip(target.weights, gan.samples(generators, 20_000, (0,)), strict=True)
        ]
        for steps in (1, 150)
        for generators in [gan.train(target.mixture, target.weights, (0,), sizes.model_copy(update={"steps": steps}))]
    )
    for before, after in zip(start, end, strict=True):
        assert after["distance_optimum"] < 0.75 * before["distance_optimum"]
    plain, weighted = end
    assert weighted["distance_optimum"] < 0.8 * weighted["distance_data"]
    assert weighted["mean_log_prob_nats"] > plain["mean_log_prob_nats"] + 0.3


def test_a_training_that_diverges_is_named() -> None:
    sizes = TINY.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(NumericalError, match="gan: a gradient is not finite at step"):
        gan.train(one_dimensional_mixture(), (0.5,), (0,), sizes)


def test_the_tables_of_a_tiny_run(tmp_path: Path) -> None:
    out, histogram = tmp_path / "gan.csv", tmp_path / "histogram.csv"
    gan.run(GanRun(**dict(TINY), seeds=(0, 1)), {}, {"gan": out, "gan_histogram": histogram})
    table = artifacts.read_csv(out)
    assert list(table.columns) == [
        "target",
        "weight",
        "seed",
        "distance_data",
        "distance_optimum",
        "distance_floor",
        "mean_log_prob_nats",
        "mean_log_prob_stderr_nats",
        "optimum_mean_log_prob_nats",
        "optimum_atom",
        "mass_core",
        "optimum_mass_core",
    ]
    assert len(table) == 3 * 2 * 2
    assert set(table["target"]) == {"mixture_1d", "mixture_2d", "normal_5d"}
    assert (table["distance_optimum"] > 0.3 * table["distance_floor"]).all()
    plain = table[table["weight"] == 0]
    np.testing.assert_allclose(plain["distance_data"], plain["distance_optimum"], atol=1e-6)
    assert ((table["optimum_atom"] > 0) == (table["weight"] == 1.6)).all()
    assert (table["mass_core"].notna() == (table["target"] == "normal_5d")).all()
    bins = artifacts.read_csv(histogram)
    assert list(bins.columns) == ["target", "weight", "seed", "bin_left", "bin_right", "generated", "data", "optimum"]
    assert set(bins["target"]) == {"mixture_1d", "normal_5d"}
    width = bins["bin_right"] - bins["bin_left"]
    for column in ("generated", "data", "optimum"):
        total = (bins[column] * width).groupby([bins["target"], bins["weight"], bins["seed"]]).sum()
        np.testing.assert_allclose(total, 1, atol=1e-3)
    again = tmp_path / "again.csv"
    tables = {"gan": again, "gan_histogram": tmp_path / "again-histogram.csv"}
    gan.run(GanRun(**dict(TINY), seeds=(0, 1)), {}, tables)
    assert again.read_bytes() == out.read_bytes()

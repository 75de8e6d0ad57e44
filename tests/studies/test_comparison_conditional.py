"""The study of conditional densities: exact distributions, calibration ranks, and its job end to end when tiny."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torch.distributions import MultivariateNormal

from diffusion_density.networks.sizes import MLPSize
from diffusion_density.studies.comparison.conditional_problems import NAMES, MixturePair, TwoMoons, problem
from diffusion_density.studies.comparison.experiments import conditional
from diffusion_density.studies.comparison.experiments.conditional import rank_deviation, ranks_among
from diffusion_density.studies.comparison.figures_conditional import FIGURES
from diffusion_density.studies.comparison.sizes import CONDITIONAL_TABLES, ConditionalRun
from diffusion_density.studies.density_formula.sizes import Training
from truths import ExactConditional, seeded

NETWORK = MLPSize(widths=(24, 24), frequencies=0, time_frequencies=4, frequency_scale=0.5)
TINY = ConditionalRun(
    samples=2048,
    training=Training(network=NETWORK, steps=150, batch_size=128, throws=2, learning_rate=1e-2, ema=0.9),
    pairs=64,
    throws=64,
    tolerance=1e-3,
    calibrated=32,
    draws=15,
    classified=16,
    classes=3,
    class_throws=(16, 64),
    repeats=2,
    seeds=(0, 1),
)


def linear() -> tuple[MixturePair, Tensor, MultivariateNormal]:
    """The linear-Gaussian pair, its gain, and the distribution of x − gain c."""
    pair = problem("linear_gaussian")
    assert isinstance(pair, MixturePair)
    covariance = pair.joint.covariances[0]
    gain = torch.linalg.solve(covariance[3:, 3:], covariance[3:, :3]).mT
    rest = covariance[:3, :3] - gain @ covariance[3:, :3]
    return pair, gain, MultivariateNormal(torch.zeros(3, dtype=torch.float64), rest)


def test_the_linear_gaussian_pair_is_the_authors() -> None:
    """c = A x + z with z ~ N(0, I): given x, whatever x is."""
    covariance = linear()[0].joint.covariances[0]
    back = torch.linalg.solve(covariance[:3, :3], covariance[:3, 3:]).mT
    noise = covariance[3:, 3:] - back @ covariance[:3, 3:]
    torch.testing.assert_close(noise, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-10)
    assert torch.linalg.eigvalsh(covariance[:3, :3]).min() >= 0.01


def test_the_conditional_of_a_normal_pair() -> None:
    pair, gain, rest = linear()
    x, c = pair.sample(50, generator=seeded(0))
    torch.testing.assert_close(pair.log_prob(x, c), rest.log_prob(x - c @ gain.mT), rtol=1e-9, atol=1e-9)


def test_the_conditional_of_a_mixture_is_that_of_its_components() -> None:
    pair = problem("mixture")
    assert isinstance(pair, MixturePair)
    x, c = pair.sample(50, generator=seeded(0))
    exact = ExactConditional(pair.joint, 2, conditional.SCHEDULE)
    torch.testing.assert_close(pair.log_prob(x, c), exact.log_prob(x, c), rtol=1e-9, atol=1e-9)


def test_the_moons_posterior_integrates_to_one() -> None:
    """By quadrature around both moons, for contexts in the middle and where a corner or an edge cuts them."""
    moons = TwoMoons()
    c = moons.sample(500, generator=seeded(1))[1]
    inside = moons.inside(c)
    cut = inside.argsort()[[5, 40]]
    chosen = torch.cat([c[cut], c[inside > 1 - 1e-9][:1]])
    assert inside[cut].tolist() == sorted(inside[cut].tolist())
    assert inside[cut[-1]] < 0.9
    size = 0.0015
    grid = size * (torch.arange(200, dtype=torch.float64) - 99.5)
    around = torch.cartesian_prod(grid, grid)
    around = around[(around.norm(dim=1) - 0.1).abs() < 0.04]
    for context in chosen:
        place = around + torch.tensor([0.25, 0.0], dtype=torch.float64) - context  # (|q|, t) of points around the moon
        q, t = place[place[:, 0] > 0].unbind(1)
        x = torch.stack([q + t, q - t], dim=1) / 2**0.5
        density = [moons.log_prob(part, context.expand(len(part), 2)).exp().sum() for part in x.split(1024)]
        assert 2 * size**2 * sum(density) == pytest.approx(1, abs=0.01)  # both sides, ±q


def test_moons_are_simulated_as_their_posterior_says() -> None:
    """E[1/p(x | c) over the support] is the area of the support: samples lie where the density is."""
    moons = TwoMoons()
    x, c = moons.sample(4000, generator=seeded(2))
    log_prob = moons.log_prob(x, c)
    assert log_prob.isfinite().all()
    radius = torch.distributions.Normal(
        0.0, 0.01
    )  # −E log p: of the radius, of its place on the half circle, of the side
    entropy = radius.entropy().item() + torch.tensor(torch.pi * 0.1).log().item()
    expected = -(entropy + (2 * moons.inside(c)).log().mean().item())
    error = log_prob.std().item() / 4000**0.5
    assert abs(log_prob.mean().item() - expected) < 5 * error + 0.01


def test_a_point_outside_the_square_or_off_the_moons_is_impossible() -> None:
    moons = TwoMoons()
    x, c = moons.sample(20, generator=seeded(3))
    assert (moons.log_prob(x + 2, c) == -torch.inf).all()
    assert (moons.log_prob(-x.flip(1), c) - moons.log_prob(x, c)).abs().max() < 1e-6  # the other moon: q ↦ −q
    off = moons.log_prob(x, c + torch.tensor([-0.3, 0.0], dtype=torch.float64))
    assert (off == -torch.inf).all()


def test_ranks_of_the_exact_posterior_are_uniform_and_of_a_wrong_one_not() -> None:
    pair, gain, rest = linear()
    x, c = pair.sample(2000, generator=seeded(4))
    noise = torch.randn(2000, 15, 3, generator=seeded(5), dtype=torch.float64)
    mean, spread = (c @ gain.mT)[:, None], noise @ rest.scale_tril.mT
    levels = torch.arange(16)
    for factor, shift, right in ((1.0, 0.0, True), (0.7, 0.0, False), (1.0, 0.1, False)):
        ranks = ranks_among(x, mean + factor * spread + shift)
        counts = (ranks[..., None] == levels).sum(0)
        p = [chisquare(row.numpy()).pvalue for row in counts]
        assert bool(min(p) > 1e-3) is right
        deviation = rank_deviation(ranks, 15)
        assert bool((deviation < 1.63 / 2000**0.5).all()) is right  # Kolmogorov at 1%
        assert deviation.shape == (3,)


def test_ranks_count_the_samples_below() -> None:
    x = torch.tensor([[0.5, 2.0]])
    samples = torch.tensor([[[0.0, 1.0], [1.0, 3.0], [0.2, 0.0]]])
    assert ranks_among(x, samples).tolist() == [[2, 2]]
    everyone = torch.arange(4)[:, None]
    assert rank_deviation(everyone, 3).item() == 0
    assert rank_deviation(0 * everyone, 3).item() == pytest.approx(0.75)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    conditional.run(TINY, {}, {name: folder / f"{name}.csv" for name in CONDITIONAL_TABLES})
    return folder


def test_the_job_end_to_end(tables: Path) -> None:
    found = {name: pd.read_csv(tables / f"{name}.csv") for name in CONDITIONAL_TABLES}
    divergences = found["conditional"]
    assert len(divergences) == len(NAMES) * 3 * 2
    assert (divergences.kl_stderr_nats > 0).all()
    assert set(divergences[divergences.estimator == "flow"].density) == {"flow"}
    assert (divergences[divergences.estimator != "flow"].network_evaluations == 64).all()
    points = found["conditional_log_probs"]
    excess = (points.log_prob_nats - points.estimate_nats).groupby([points.problem, points.estimator, points.seed])
    means = divergences.set_index(["problem", "estimator", "seed"]).kl_nats
    assert (excess.mean() - means).abs().max() < 1e-9
    learned = divergences[(divergences.problem == "mixture") & (divergences.estimator == "flow")]
    assert (learned.kl_nats < 0.6).all()  # it uses c: the mutual information of x and c is larger
    ranks = found["conditional_ranks"]
    assert len(ranks) == 2 * 32 * (3 + 2 + 2)
    assert ranks["rank"].between(0, 15).all()
    calibration = found["conditional_calibration"]
    assert len(calibration) == 2 * (3 + 2 + 2)
    assert calibration.p_value.between(0, 1).all()
    classes = found["conditional_classes"]
    assert len(classes) == 2 * 2 * (1 + 2 * 2 * 2 * 2)
    reduced = classes[classes.method == "reduced"].groupby("noise").posterior_error.mean()
    assert reduced["common"] < reduced["independent"]


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn(name: str, tables: Path) -> None:
    figure = FIGURES[name](tables)
    figure.canvas.draw()
    axes = figure.axes
    assert len(axes) == (2 if name == "conditional_classes" else 3)
    assert all(axis.get_title("center") and axis.lines for axis in axes)

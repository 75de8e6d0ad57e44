"""Paper B's jobs on wrong scores and on the diffusion classifier: the sheets' numbers, identities, and their tables."""

import math
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from diffusion_density.density.formula import expectation
from diffusion_density.machine import artifacts
from diffusion_density.process.fokker_planck import Marginals, marginals
from diffusion_density.process.schedules import LogLinear
from diffusion_density.process.schedules import discrete as discrete_schedules
from diffusion_density.studies.density_formula.experiments import classifier, score_error
from diffusion_density.studies.density_formula.sizes import Classifier, ScoreErrors
from diffusion_density.studies.shared.perturbation import (
    SCHEDULE,
    Perturbed,
    expected_log_prob,
    forward_gap,
    reverse_gap,
)
from diffusion_density.studies.shared.targets import normal, one_dimensional_mixture
from truths import doubles, seeded

# Score errors


@cache
def solved(size: float) -> tuple[Perturbed, Marginals]:
    model = Perturbed(one_dimensional_mixture().diffused(SCHEDULE), size)
    return model, marginals(model, cells=600, steps=500)


def test_the_perturbation_is_the_sheets() -> None:
    model, _ = solved(0.3)
    x, s = doubles(-1.2, 0.4)[:, None], doubles(0.2, 0.9)
    expected = 0.3 * ((1.5 * x + 0.5).sin() + 0.3 * x * s[:, None])
    torch.testing.assert_close(model.score(x, s) - model.exact.score(x, s), expected, rtol=1e-12, atol=1e-12)
    assert model.prior.variance == pytest.approx(1 - math.exp(-6.05))


@pytest.mark.parametrize(("size", "expected"), [(0.3, 0.1701), (0.15, 0.0417)])
def test_the_reverse_gap_of_the_sheet(size: float, expected: float) -> None:
    assert reverse_gap(*solved(size)) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("size", "expected"), [(0.3, (0.1821, 0.1339, 0.1611)), (0.15, (0.0456, 0.0337, 0.0403))])
def test_the_forward_gaps_of_the_sheet(size: float, expected: tuple[float, ...]) -> None:
    assert forward_gap(*solved(size), doubles(-1.5, 0.0, 1.0)).tolist() == pytest.approx(expected, rel=0.03)


def test_the_mean_of_the_forward_gap_is_the_bound_that_is_missed() -> None:
    """Over the SDE's own density at the data end: E log p − E formula, both by sums over its cells."""
    model, density = solved(0.3)
    x = torch.linspace(-3.4, 3.0, 65, dtype=torch.float64)
    probability = density.log_prob_at(x, density.schedule.s_start).exp() * 0.1
    assert probability.sum().item() == pytest.approx(1, abs=2e-3)
    difference = expected_log_prob(density, x) - expectation(model, x[:, None], rule="quadrature", steps=64)
    predicted = forward_gap(model, density, x)
    assert (probability @ difference).item() == pytest.approx((probability @ predicted).item(), rel=0.01)


@pytest.fixture(scope="module")
def gaps(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    out = tmp_path_factory.mktemp("gaps") / "gaps.csv"
    score_error.run(ScoreErrors(sizes=(0.0, 0.15, 0.3), cells=800, steps=700), {}, {"score_error": out})
    return artifacts.read_csv(out)


def test_the_gap_is_the_predicted_one(gaps: pd.DataFrame) -> None:
    assert len(gaps) == 3 * 25
    assert gaps["gap_nats"].min() > -1e-3
    large = gaps[gaps["predicted_gap_nats"] > 1e-3]
    assert set(large["size"]) == {0.15, 0.3}
    assert ((large["gap_nats"] / large["predicted_gap_nats"]) - 1).abs().max() < 0.03
    none = gaps[gaps["size"] == 0]
    assert none[["gap_nats", "predicted_gap_nats"]].abs().max().max() < 1e-3
    assert (none["formula_nats"] - none["log_prob_data_nats"]).abs().max() < 5e-3


def test_the_gap_is_of_second_order(gaps: pd.DataFrame) -> None:
    mean = gaps.groupby("size")["gap_nats"].mean()
    assert mean[0.3] / mean[0.15] == pytest.approx(4, rel=0.1)


# The classifier


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("classifier")
    sizes = Classifier(points=4096, steps=400, throws=(4, 16), repeats=2)
    tables = {"classifier": folder / "weights.csv", "classifier_noise": folder / "sweep.csv"}
    classifier.run(sizes, {}, tables)
    return artifacts.read_csv(folder / "weights.csv"), artifacts.read_csv(folder / "sweep.csv")


def test_the_closed_form_of_the_errors() -> None:
    chain = discrete_schedules.uniform_log_snr(12)
    x = torch.randn(5, 1, generator=seeded(0), dtype=torch.float64)
    exact = normal(1, 1.6).diffused(chain)
    nodes = {chain.steps[t].item(): t for t in (0, 5, 11)}
    found = classifier.expected_errors(x, 1.6, chain)
    noise = torch.randn(200_000, 1, generator=seeded(1), dtype=torch.float64)
    for s, t in nodes.items():
        alpha, sigma = chain.at(s)
        for point, value in zip(x, found[:, t], strict=True):
            error = (noise - exact.noise(alpha * point + sigma * noise, s)).square()
            assert abs(error.mean() - value) < 4.5 * error.std() / 200_000**0.5


def test_the_closed_form_adds_up_to_the_formula_in_eight_dimensions() -> None:
    """The trapezoid over a long chain is the log density."""
    chain = discrete_schedules.uniform_log_snr(3000, 14.0, -14.0)
    x = 1.3 * torch.randn(5, 8, generator=seeded(0), dtype=torch.float64)
    nodes = classifier.time_nodes(chain, "trapezoid", 3000)
    found = 8 * nodes.offset - classifier.expected_errors(x, 1.6, chain) @ nodes.weights
    torch.testing.assert_close(found, normal(8, 1.6).log_prob(x), rtol=0, atol=1e-4)


def expected_bayes() -> tuple[float, float]:
    """Accuracy and cross-entropy in nats of Bayes' rule: ‖x‖²/c² is chi-square with 8 degrees of freedom."""
    square = np.linspace(0, 250, 250_001)
    odds = 8 * math.log(1.6) - 0.5 * square * (1 - 1 / 1.6**2)  # log p(x | 0) − log p(x | 1)
    densities = 0.5 * stats.chi2.pdf(square, 8), 0.5 * stats.chi2.pdf(square / 1.6**2, 8) / 1.6**2
    accuracy = densities[0] * (odds > 0) + densities[1] * (odds < 0)
    cross_entropy = densities[0] * np.logaddexp(0, -odds) + densities[1] * np.logaddexp(0, odds)
    return np.trapezoid(accuracy, square), np.trapezoid(cross_entropy, square)


def test_the_weights(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    table = tables[0].set_index("weights")
    assert list(table.index) == ["exact", "elbo_trapezoid", "elbo_sum", "uniform_mean", "uniform_sum"]
    exact, trapezoid, total, mean, heuristic = (row for _, row in table.iterrows())
    accuracy, cross_entropy = expected_bayes()
    assert exact["agreement"] == 1
    assert exact["max_posterior_error"] == 0
    assert abs(exact["accuracy"] - accuracy) < 3 * exact["accuracy_stderr"]
    assert abs(exact["cross_entropy_nats"] - cross_entropy) < 3 * exact["cross_entropy_stderr_nats"]
    assert trapezoid["agreement"] >= 0.999
    assert trapezoid["max_posterior_error"] < 2e-4
    assert abs(trapezoid["cross_entropy_nats"] - exact["cross_entropy_nats"]) < 1e-4
    assert 2e-3 < total["max_posterior_error"] < 8e-3
    assert abs(total["cross_entropy_nats"] - exact["cross_entropy_nats"]) < 2e-3
    assert mean["agreement"] > 0.99
    assert mean["cross_entropy_nats"] == pytest.approx(0.553, rel=0.05)
    assert mean["max_posterior_error"] == pytest.approx(0.35, rel=0.05)
    assert heuristic["cross_entropy_nats"] > 4
    assert exact["calibration_error"] < 0.02
    assert min(mean["calibration_error"], heuristic["calibration_error"]) > 0.1


def test_the_calibration_error() -> None:
    confidence, right = doubles(0.9, 0.9, 0.9, 0.9, 1.0, 0.52), doubles(1, 1, 1, 0, 1, 0)
    expected = (4 * abs(0.75 - 0.9) + 0 + 0.52) / 6
    assert classifier.calibration_error(confidence, right) == pytest.approx(expected)


def test_the_networks_are_the_exact_models() -> None:
    schedule = LogLinear(-9.0, 9.0)
    x, s = torch.randn(6, 8, generator=seeded(0), dtype=torch.float64), torch.rand(6, generator=seeded(1)).double()
    exact = normal(8, 1.6).diffused(schedule)
    torch.testing.assert_close(classifier.network(1.6, schedule).noise(x, s), exact.noise(x, s))


def test_the_noise(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    """Common noise helps where nothing else has; the error falls as the root of the throws."""
    error = tables[1].groupby(["estimator", "noise", "throws"])["posterior_error"].mean()
    assert len(tables[1]) == 2 * 2 * 2 * 2
    for throws in (4, 16):
        assert error["plain", "common", throws] < 0.3 * error["plain", "independent", throws]
        assert error["controlled", "independent", throws] < 0.3 * error["plain", "independent", throws]
        assert error["controlled", "common", throws] == pytest.approx(
            error["controlled", "independent", throws], rel=0.1
        )
    assert error["controlled", "common", 16] / error["controlled", "common", 4] == pytest.approx(0.5, abs=0.1)
    assert (tables[1]["agreement"] > 0.6).all()

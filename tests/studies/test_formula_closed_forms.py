"""The study of paper B where everything is known: discretisation, exactness and noise, the misspecified toy."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor

from diffusion_density.density.formula import expectation, formula, squared_errors
from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError
from diffusion_density.process.mixtures import ExactModel
from diffusion_density.process.schedules import LogLinear
from diffusion_density.process.schedules.discrete import linear, uniform_log_snr
from diffusion_density.studies.density_formula.experiments import discretisation, exactness, toy
from diffusion_density.studies.density_formula.formula_gap import mixture_nodes
from diffusion_density.studies.density_formula.sizes import Discretisation, Exactness, Toy
from diffusion_density.studies.shared.targets import one_dimensional_mixture
from truths import random_mixture, seeded

# --- discretisation ---------------------------------------------------------------------------------------------------

EXPECTED = {  # schedule, steps: mean gap, predicted ¼ Σ l², largest error of the sum and of the trapezoid
    ("paper", 30): (0.738, 1.01, 1.50, 0.030),
    ("paper", 100): (0.376, 0.422, 0.680, 0.00249),
    ("paper", 300): (0.193, 0.203, 0.320, 0.000229),
    ("linear", 30): (2.80, 12.3, 8.45, 0.072),
    ("linear", 100): (1.24, 2.84, 2.28, 0.019),
    ("uniform_log_snr", 100): (0.353, 0.396, 0.66, 0.00466),
    ("uniform_log_snr", 300): (0.113, 0.1167, 0.208, 0.00465),
}


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    out = tmp_path_factory.mktemp("discretisation") / "discretisation.csv"
    tables = {"discretisation": out, "slopes": out.with_name("slopes.csv")}
    discretisation.run(Discretisation(steps=(30, 100, 200, 300)), {}, tables)
    return artifacts.read_csv(out)


def test_the_table_of_discretisation(chains: pd.DataFrame) -> None:
    assert [*chains.columns] == [
        "schedule",
        "steps",
        "rule",
        "mean_gap_nats",
        "max_error_nats",
        "predicted_quadratic_nats",
        "predicted_sharp_nats",
        "truncation_nats",
    ]
    assert len(chains) == len(chains[["schedule", "steps", "rule"]].drop_duplicates()) == 4 * 4 * 2
    predicted = chains[["predicted_quadratic_nats", "predicted_sharp_nats"]]
    assert (predicted.notna().all(axis=1) == (chains["rule"] == "sum")).all()
    assert (predicted.isna().all(axis=1) == (chains["rule"] == "trapezoid")).all()


@pytest.mark.parametrize(("schedule", "steps"), EXPECTED)
def test_the_numbers_of_the_sheet(chains: pd.DataFrame, schedule: str, steps: int) -> None:
    rows = chains[(chains["schedule"] == schedule) & (chains["steps"] == steps)].set_index("rule")
    mean_gap, predicted, largest, trapezoid = EXPECTED[schedule, steps]
    assert rows.loc["sum", "mean_gap_nats"] == pytest.approx(mean_gap, rel=0.01)
    assert rows.loc["sum", "predicted_quadratic_nats"] == pytest.approx(predicted, rel=0.01)
    assert rows.loc["sum", "max_error_nats"] == pytest.approx(largest, rel=0.01)
    assert rows.loc["trapezoid", "max_error_nats"] == pytest.approx(trapezoid, rel=0.02)


def test_the_sum_lies_below_by_the_predicted_gap(chains: pd.DataFrame) -> None:
    rows = chains[chains["rule"] == "sum"]
    assert (rows["mean_gap_nats"] > rows["truncation_nats"]).all()
    many = rows[rows["steps"] >= 200]
    assert (many["predicted_sharp_nats"] / many["mean_gap_nats"] - 1).abs().max() < 0.01
    plain = many[many["schedule"].isin(["paper", "uniform_log_snr"])]
    assert (plain["predicted_quadratic_nats"] / plain["mean_gap_nats"] - 1).abs().max() < 0.1
    assert (many["predicted_sharp_nats"] - many["truncation_nats"] < many["predicted_quadratic_nats"]).all()


@pytest.mark.parametrize("schedule", discretisation.SCHEDULES)
def test_quadrature_over_the_data_has_converged(schedule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = pd.DataFrame(discretisation._rows(schedule, 60))
    monkeypatch.setattr(discretisation, "DATA_NODES", 120)
    other = pd.DataFrame(discretisation._rows(schedule, 60))
    for column in ("mean_gap_nats", "truncation_nats"):
        assert (found[column] - other[column]).abs().max() < 5e-6


def test_the_slopes_of_the_rules(chains: pd.DataFrame) -> None:
    fits = discretisation.slopes(chains).set_index(["schedule", "rule", "quantity", "per_log_squared"])
    assert len(fits) == 4 * (2 * 2 + 1)
    assert fits.loc[("paper", "sum", "mean_gap", True), "slope"] == pytest.approx(-1, abs=0.15)
    assert fits.loc[("paper", "sum", "mean_gap", False), "slope"] > -0.75
    assert fits.loc[("uniform_log_snr", "sum", "mean_gap", False), "slope"] == pytest.approx(-1, abs=0.1)
    assert fits.loc[("paper", "trapezoid", "max_error", False), "slope"] == pytest.approx(-2, abs=0.25)
    assert abs(fits.loc[("uniform_log_snr", "trapezoid", "max_error", False), "slope"]) < 0.05  # the truncation stays
    assert (fits["slope_stderr"] > 0).all()


def synthetic(steps: tuple[int, ...], errors: np.ndarray) -> pd.DataFrame:
    columns = {"schedule": "paper", "steps": steps, "rule": "sum"}
    return pd.DataFrame(columns | {"mean_gap_nats": errors, "max_error_nats": 3 * errors})


def test_slopes_of_a_power_law() -> None:
    steps = (30, 100, 200, 400, 800)
    T = np.array(steps, dtype=float)
    errors = 2 * np.log(T) ** 2 / T
    errors[0] = 77.0  # below 100 steps nothing counts
    fits = discretisation.slopes(synthetic(steps, errors)).set_index(["quantity", "per_log_squared"])
    assert len(fits) == 4
    for quantity in ("mean_gap", "max_error"):
        assert fits.loc[(quantity, True), "slope"] == pytest.approx(-1, abs=1e-9)
        assert fits.loc[(quantity, True), "slope_stderr"] == pytest.approx(0, abs=1e-6)
        assert fits.loc[(quantity, False), "slope"] > -0.75


def test_the_standard_error_of_a_slope() -> None:
    """Residuals ±δ at equal distances in log T: s.e. √(Σ r²/(n − 2)/Σ (log T − mean)²)."""
    steps = (100, 200, 400, 800)
    pattern = 0.01 * np.array([1, -1, -1, 1])  # orthogonal to lines
    errors = np.exp(pattern) / np.array(steps, dtype=float)
    fits = discretisation.slopes(synthetic(steps, errors)).set_index(["quantity", "per_log_squared"])
    expected = math.sqrt(4e-4 / 2 / (5 * math.log(2) ** 2))
    assert fits.loc[("mean_gap", False), "slope"] == pytest.approx(-1, abs=1e-9)
    assert fits.loc[("mean_gap", False), "slope_stderr"] == pytest.approx(expected, rel=1e-9)
    half = 4.302653 * expected  # Student's t of two degrees of freedom
    low, high = fits.loc[("mean_gap", False), ["ci_low", "ci_high"]]
    assert (low, high) == pytest.approx((-1 - half, -1 + half), rel=1e-6)


def test_few_steps_give_no_slope_or_no_error() -> None:
    two = discretisation.slopes(synthetic((100, 1000), np.array([1.0, 0.1])))
    assert two["slope"].notna().all()
    assert two["slope_stderr"].isna().all()
    one = discretisation.slopes(synthetic((30, 100), np.array([1.0, 0.1])))
    assert one["slope"].isna().all()


# --- exactness and noise ----------------------------------------------------------------------------------------------

SIZES = Exactness(dimensions=(1, 2, 10), points=24, nodes=64, throws=8, draws=1024, repeats=100)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("exactness")
    exactness.run(SIZES, {}, {name: folder / f"{name}.csv" for name in ("exactness", "variance")})
    return artifacts.read_csv(folder / "exactness.csv"), artifacts.read_csv(folder / "variance.csv")


def test_the_formula_is_exact(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    table, _ = tables
    assert [*table.columns] == ["target", "dimension", "rule", "point", "truth_nats", "value_nats", "stderr_nats"]
    counts = table.groupby(["target", "dimension", "rule"]).size()
    assert len(counts) == 2 * (3 + 1)
    assert (counts == SIZES.points).all()
    error = table["value_nats"] - table["truth_nats"]
    quadrature, closed = table["rule"] == "quadrature", table["rule"] == "expectation"
    assert (table["stderr_nats"][closed] == 0).all()
    assert error[closed].abs().max() < 1e-6
    z = error[quadrature] / table["stderr_nats"][quadrature]
    assert z.abs().max() < 4.3  # of 144 points
    assert 0.6 < z.pow(2).mean() < 1.6
    assert abs(z.mean()) < 4 / len(z) ** 0.5


def start_by_quadrature(exact: ExactModel, x: Tensor) -> Tensor:
    """E log p_{s_start} of the noised point by Gauss–Hermite; D = 1."""
    place, weight = (torch.from_numpy(a) for a in hermegauss(80))
    alpha, sigma = exact.schedule.at(exact.schedule.s_start)
    log_prob = exact.log_prob((alpha * x + sigma * place).reshape(-1, 1), exact.schedule.s_start)
    return (log_prob.reshape(len(x), -1) @ weight) / weight.sum()


def test_the_truth_is_the_density_at_the_start_and_next_to_log_p() -> None:
    exact = random_mixture(1).diffused(exactness.SCHEDULE)
    x = exact.mixture.sample(50, generator=seeded(0))
    truth, clean = exactness.at_start(exact, x), exact.mixture.log_prob(x)
    expected = start_by_quadrature(exact, x)
    assert (truth - expected).abs().max() < 1e-9
    assert (clean - expected).abs().max() > 1e-7  # the correction matters to the quadrature's rows


def test_the_truth_differs_from_log_p_by_far_less_than_a_standard_error() -> None:
    for dimension in (1, 10, 50):
        exact = random_mixture(dimension, components=5).diffused(exactness.SCHEDULE)
        x = exact.mixture.sample(12, generator=seeded(0))
        result = formula(exact, x, rule="quadrature", steps=64, throws=16, generator=seeded(1))
        assert result.stderr is not None
        difference = (exactness.at_start(exact, x) - exact.mixture.log_prob(x)).abs()
        assert (difference < 0.01 * result.stderr).all()
        assert difference.max() < 1e-4


def test_the_formulas_noise_is_far_below_the_others(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    _, table = tables
    assert [*table.columns] == ["x", "method", "repeat", "value_nats", "truth_nats"]
    assert len(table) == 3 * 3 * SIZES.repeats
    groups = table.groupby(["method", "x"])
    assert (groups["repeat"].nunique() == SIZES.repeats).all()
    variance = table.pivot_table(index="x", columns="method", values="value_nats", aggfunc="var")
    assert (variance["uniform_time"] > 10 * variance["formula"]).all()
    assert (variance["log_snr"] > 2 * variance["formula"]).all()
    assert (variance["formula"] < 0.17**2).all()
    truth = one_dimensional_mixture().log_prob(torch.tensor(exactness.PLACES, dtype=torch.float64)[:, None])
    for x, expected in zip(exactness.PLACES, truth.tolist(), strict=True):
        assert table.loc[table["x"] == x, "truth_nats"].to_numpy() == pytest.approx(expected, abs=1e-4)
        for method in ("log_snr", "formula"):
            values = table.loc[(table["x"] == x) & (table["method"] == method), "value_nats"]
            assert abs(values.mean() - expected) < 4 * values.std() / SIZES.repeats**0.5


@pytest.mark.parametrize("method", [exactness.uniform_time, exactness.log_snr])
def test_both_estimators_are_unbiased_where_their_variance_is_moderate(method: Callable[..., Tensor]) -> None:
    """From t₁ = 0.02 on, where the raw integrand has no rare draws."""
    exact = one_dimensional_mixture().diffused(LogLinear(math.log(0.02 / 0.98), 11.0))
    x = torch.tensor(exactness.PLACES, dtype=torch.float64)[:, None]
    values = method(exact, x.repeat(400, 1), 256, seeded(4)).reshape(400, 3)
    errors = (values.mean(0) - start_by_quadrature(exact, x)).abs()
    assert (errors < 4 * values.std(0) / 20).all()
    assert (values.std(0) / 20 < 0.06).all()
    assert (values.mean(0) - exact.mixture.log_prob(x)).abs().max() > 8 * (values.std(0) / 20).min()  # and not of log p


def test_estimators_in_more_dimensions() -> None:
    mixture = random_mixture(3)
    exact = mixture.diffused(LogLinear(math.log(0.02 / 0.98), 11.0))
    x = mixture.sample(2, generator=seeded(1))
    first, second = (
        method(exact, x.repeat(200, 1), 256, seeded(5)).reshape(200, 2)
        for method in (exactness.uniform_time, exactness.log_snr)
    )
    error = (first.var(0) / 200 + second.var(0) / 200).sqrt()
    assert ((first.mean(0) - second.mean(0)).abs() < 4 * error).all()
    assert error.max() < 0.2


def test_the_raw_noise_comes_from_the_data_end() -> None:
    x = torch.zeros(200, 1, dtype=torch.float64)
    spreads = [
        exactness.uniform_time(one_dimensional_mixture().diffused(LogLinear(gamma, 11.0)), x, 64, seeded(1))
        .var()
        .item()
        for gamma in (-4.0, -7.0)
    ]
    assert spreads[1] > 3 * spreads[0]


def test_draws_that_the_nodes_do_not_divide_are_named(tmp_path: Path) -> None:
    sizes = SIZES.model_copy(update={"draws": 1000})
    with pytest.raises(InputError, match="1000 draws are not a multiple of 64 nodes"):
        exactness.run(sizes, {}, {"exactness": tmp_path / "a.csv", "variance": tmp_path / "b.csv"})


# --- the toy ----------------------------------------------------------------------------------------------------------

SHEET_OPTIMA = {"log_prob": 0.990, "sum": 0.990, "trapezoid": 0.990, "uniform": 0.960}
OPTIMA = {"log_prob": 0.9864, "sum": 0.9864, "trapezoid": 0.9864, "uniform": 0.9598, "sigmoid": 0.9573}


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    out = tmp_path_factory.mktemp("toy") / "toy.csv"
    toy.run(Toy(places=31), {}, {"toy": out})
    return artifacts.read_csv(out)


@pytest.mark.parametrize("weighting", OPTIMA)
def test_the_optima_of_the_toy(curves: pd.DataFrame, weighting: str) -> None:
    """To 0.005 the expected values, and sharper than their digits."""
    rows = curves[curves["weighting"] == weighting]
    optimum = rows["optimum"].iloc[0]
    assert (rows["optimum"] == optimum).all()
    assert optimum == pytest.approx(OPTIMA[weighting], abs=2e-4)
    assert optimum == pytest.approx(SHEET_OPTIMA.get(weighting, optimum), abs=0.005)
    assert abs(rows["m"][rows["objective_nats"].idxmin()] - optimum) < 0.0051


def test_the_bound_of_the_toy_is_nearly_tight() -> None:
    """1.1782 for a likelihood of 1.1780 nats at the optimum, with 20 steps (sheet B, section 5)."""
    x, weight = mixture_nodes(toy.pair(1.0, 0.25), torch.ones(1).double(), torch.zeros(1).double(), 40)
    model = toy.pair(OPTIMA["log_prob"], 0.6)
    assert -(weight @ model.log_prob(x.T)).item() == pytest.approx(1.1780, abs=5e-5)
    assert -(weight @ expectation(model.diffused(toy.CHAIN), x.T)).item() == pytest.approx(1.1782, abs=5e-5)


@pytest.mark.parametrize("weighting", ["uniform", "sigmoid"])
def test_the_weighted_objectives_are_losses_of_the_noise(curves: pd.DataFrame, weighting: str) -> None:
    """Against E‖ε − ε_m‖² itself, over nodes of the clean points and of the noise."""
    chain = {"uniform": linear(200), "sigmoid": uniform_log_snr(400)}[weighting]
    log_snr = chain.log_snr_steps
    step = {"uniform": torch.full((200,), 1 / 200), "sigmoid": 0.5 * 18 / 399 * (2 - log_snr).sigmoid()}[weighting]
    place, weight = (torch.from_numpy(a) for a in hermegauss(32))
    weight = weight / weight.sum()
    x = (torch.tensor([[-1.0], [1.0]], dtype=torch.float64) + 0.25 * place).reshape(-1, 1)
    values = {}
    for m in (0.9, 1.0, 1.1):
        model = toy.pair(m, 0.6).diffused(chain)
        noise = place.repeat(len(log_snr))[None, :, None].expand(len(x), -1, 1)
        errors = squared_errors(model, x, chain.steps.repeat_interleave(32), noise).unflatten(1, (-1, 32)) @ weight
        values[m] = (0.5 * weight.repeat(2) @ errors @ step.double()).item()
    rows = curves[curves["weighting"] == weighting]
    found = {m: rows["objective_nats"][(rows["m"] - m).abs() < 1e-9].item() for m in values}
    assert found[0.9] - found[1.0] == pytest.approx(values[0.9] - values[1.0], abs=2e-5)
    assert found[1.1] - found[1.0] == pytest.approx(values[1.1] - values[1.0], abs=2e-5)
    assert abs(values[1.1] - values[1.0]) > 2e-3


def test_the_curves_of_the_toy(curves: pd.DataFrame) -> None:
    assert [*curves.columns] == ["weighting", "m", "objective_nats", "optimum"]
    wide = curves.pivot_table(index="m", columns="weighting", values="objective_nats")
    assert {*wide.columns} == {*OPTIMA}
    assert (wide.min() == 0).all()
    assert (wide.iloc[[0, -1]] > 0).all(axis=None)
    assert (wide.diff().diff().iloc[2:] > 0).all(axis=None)  # convex: one optimum each
    assert (wide["trapezoid"] - wide["log_prob"]).abs().max() < 2e-4  # an equality but for the rule

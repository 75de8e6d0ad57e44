"""The study of all estimators: every one against the truth, what is made of its tables, its figures."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from diffusion_density.data.images import load
from diffusion_density.density.estimators import ESTIMATORS
from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.studies.comparison.experiments import estimators, findings, images, trained, variance
from diffusion_density.studies.comparison.figures import FIGURES
from diffusion_density.studies.comparison.sizes import ComparisonSizes, ImagesJob, TrainedJob
from diffusion_density.studies.density_estimators.experiments import dataset, train
from diffusion_density.studies.density_estimators.sizes import DensityEstimatorsSizes
from diffusion_density.studies.fields import Strict
from diffusion_density.studies.shared.inputs import ImageInputs
from truths import seeded
from untrained import save_untrained

ROOT = Path(__file__).parents[2]


def scale() -> dict[str, dict[str, object]]:
    values: dict[str, dict[str, object]] = yaml.safe_load((ROOT / "workflow/scales/smoke.yaml").read_text())
    return values


@pytest.fixture(scope="module")
def sizes() -> ComparisonSizes:
    return ComparisonSizes.model_validate(scale()["comparison"])


@pytest.fixture(scope="module")
def folder(sizes: ComparisonSizes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of all jobs when tiny."""
    out = tmp_path_factory.mktemp("comparison")
    parts = [{"estimators": out / f"e{i}.csv", "variance": out / f"v{i}.csv"} for i in range(3)]
    estimators.run(sizes.estimators, {}, parts[0])
    variance.run(sizes.variance, {}, parts[0])
    study = DensityEstimatorsSizes.model_validate(scale()["density_estimators"])
    run = study.runs((0,))[study.detailed]
    files = {"dataset": out / "data.safetensors", "models": out / "stack.safetensors"}
    dataset.run(study.datasets()[run.dimension], {}, files)
    train.run(run, files, files)
    trained.run(TrainedJob(run=run, trained=sizes.trained), files, parts[1])
    digits = load("digits", Path())
    of = save_untrained(digits, out / "unet.safetensors")
    inputs = ImageInputs(digits, {"models": out / "unet.safetensors"})
    images.run(ImagesJob(name="digits", run=of, images=sizes.images), inputs, parts[2])
    pd.concat([pd.read_csv(out / f"e{i}.csv") for i in range(3)]).to_csv(out / "estimators.csv", index=False)
    tables = {"estimators": out / "estimators.csv"} | {f"v{i}": out / f"v{i}.csv" for i in range(3)}
    findings.run(Strict(), tables, {name: out / f"{name}.csv" for name in ("findings", "decision")})
    return out


def test_every_estimator_is_right_on_a_mixture(sizes: ComparisonSizes) -> None:
    """At the most expensive setting: within four standard errors, bounds and steps on their own side."""
    mixture = GaussianMixture.random(2, 3, seeded(0))
    exact = mixture.diffused(estimators.SCHEDULE)
    x = mixture.sample(64, generator=seeded(1))
    budgets = sizes.estimators.budgets.model_copy(
        update={"tolerances": (1e-5,), "probes": (16,), "throws": (1024,), "noises": (64,), "steps": (400,)}
    )
    table = estimators.score(
        exact, x, mixture.log_prob(x), lambda y: exact.log_prob(y, estimators.SCHEDULE.s_start), budgets, {}
    )
    error = (table.value_nats - table.reference_nats).groupby(table.estimator)
    assert set(error.groups) == set(ESTIMATORS) - {"bound"}
    for row in table.drop_duplicates("estimator").itertuples():
        registered = ESTIMATORS[str(row.estimator)]
        assert (row.density, row.kind) == (registered.density, registered.kind)
    for candidate in estimators.candidates(budgets, False, 64):
        assert candidate.samples == ESTIMATORS[candidate.name].samples
    mean, sem = error.mean(), error.sem()
    assert error.max()["flow"] < 1e-3
    for name in ("flow_hutchinson", "path_integral", "reduced", "formula", "trapezoid", "tracking"):
        assert abs(mean[name]) < 4 * sem[name] + 0.02, name
    for name, sign in (("ddpm_sum", -1), ("chain", -1), ("reverse_chain", 1)):
        assert sign * mean[name] > -4 * sem[name], name
        assert abs(mean[name]) < 0.6, name
    assert error.std()["reduced"] < 0.3 * error.std()["path_integral"]


def test_tables_have_a_row_for_every_point_and_setting(folder: Path, sizes: ComparisonSizes) -> None:
    table = pd.read_csv(folder / "e0.csv")
    settings = len(list(estimators.candidates(sizes.estimators.budgets, False, 64)))
    assert len(table) == settings * sizes.estimators.points * len(sizes.estimators.dimensions)
    assert table.value_nats.notna().all()
    images = pd.read_csv(folder / "e2.csv")
    assert "flow" not in set(images.estimator)
    assert images.value_nats.notna().all()


def test_the_findings_are_those_of_the_rows(folder: Path) -> None:
    table = pd.read_csv(folder / "v0.csv")
    part = table[(table.dimension == 3) & (table["index"] == 1)]
    square = part.groupby("method").square_error_nats2.mean()
    found = pd.read_csv(folder / "findings.csv")
    row = found[
        (found.finding == "variance ratio") & (found.target == "sharp mixture 1") & (found.dimension == 3)
    ].iloc[0]
    assert row.value == pytest.approx(square["plain"] / square["reduced"])
    assert row.ci_low <= row.value <= row.ci_high
    coverage = found[(found.finding == "coverage of reduced") & (found.target == "sharp mixture")].iloc[0]
    rows = table[(table.method == "reduced") & (table.target == "sharp mixture")]
    assert coverage.value == rows.covered.sum() / rows.repeats.sum()


def test_the_cost_of_an_accuracy_is_interpolated() -> None:
    assert findings.crossing([10, 1000], [1.0, 0.01]) == pytest.approx(100)
    assert findings.crossing([10, 1000], [0.05, 0.01]) == 10
    assert math.isnan(findings.crossing([10, 1000], [2.0, 0.2]))


def decided(scale: float, costs: tuple[int, int] = (100, 1000)) -> dict[str, Any]:
    """The decision on an estimator whose normal errors, of a standard deviation √10 apart, end at ``scale`` nats."""
    noise = scale * np.random.default_rng(0).standard_normal(400)
    columns = {
        "target": "mixture",
        "dimension": 1,
        "estimator": "e",
        "density": "sde",
        "kind": "lower",
        "reference_nats": 0.0,
    }
    parts = [
        pd.DataFrame(columns | {"value_nats": factor * noise, "point": range(400), "network_evaluations": cost})
        for cost, factor in zip(costs, (10**0.5, 1.0), strict=True)
    ]
    settings = [part.assign(setting=index) for index, part in enumerate(parts)]
    [row] = findings._decisions(pd.concat(settings).assign(seconds_per_point=1.0))
    return row


def test_two_settings_may_cost_the_same() -> None:
    """Such as two tolerances of the flow that a smooth field meets with the same steps."""
    row = decided(0.05, costs=(1000, 1000))
    assert row["evaluations"] == pytest.approx(1000)
    assert row["rms_error_nats"] == pytest.approx(decided(0.05)["rms_error_nats"])


def test_a_decision_is_as_sure_as_its_points() -> None:
    """The cost goes as error⁻²; of n errors the root mean square is known to a share of 1/√(2n)."""
    row = decided(0.05)
    assert row["rms_error_ci_low"] < row["rms_error_nats"] < row["rms_error_ci_high"]
    half = math.log(row["evaluations_ci_high"] / row["evaluations_ci_low"]) / 2
    assert half == pytest.approx(2 * 1.96 / math.sqrt(2 * 400), rel=0.15)
    assert math.log(row["rms_error_ci_high"] / row["rms_error_ci_low"]) == pytest.approx(half, rel=0.1)
    near = decided(0.0995)
    assert near["evaluations_ci_low"] < 1000
    assert math.isnan(near["evaluations_ci_high"]), "some draws of the points do not reach 0.1 nats"
    never = decided(0.5)
    assert math.isnan(never["evaluations_ci_low"])
    assert math.isnan(never["evaluations_ci_high"])


def test_coverage_counts_intervals_that_hold_the_truth() -> None:
    """Of an exact mixture nearly all; of a truth that is wrong none."""
    mixture = GaussianMixture.random(2, 3, seeded(0))
    x = mixture.sample(6, generator=seeded(1))
    exact, truth = mixture.diffused(variance.SCHEDULE), mixture.log_prob(x)
    right, wrong = (variance.compare(exact, x, t, 64, 10, {}) for t in (truth, truth + 100))
    assert right.covered.sum() / right.repeats.sum() > 0.85
    assert wrong.covered.sum() == 0
    assert np.allclose(wrong.mean_error_nats + 100, right.mean_error_nats)


@pytest.mark.parametrize("name", ["accuracy", "bias", "variance"])
def test_figures_are_drawn(name: str, folder: Path) -> None:
    figure = FIGURES[name](folder)
    assert all(axis.get_xlabel() for axis in figure.axes)

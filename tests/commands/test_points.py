"""The verbs for tables of points, run as a user runs them, against the library and closed forms."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from diffusion_density.commands.cli import app
from diffusion_density.commands.score import inputs, models
from diffusion_density.density.estimators import ESTIMATORS
from diffusion_density.density.ode.flow import flow
from diffusion_density.density.path_integral.plain import path_integral
from diffusion_density.machine.errors import InputError
from diffusion_density.networks.sizes import MLPSize
from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.process.schedules import VariancePreserving
from diffusion_density.training import saved

MIXTURE = {
    "weights": [0.3, 0.7],
    "means": [[-1.5, 0.0], [1.0, 0.0]],
    "covariances": [[[0.25, 0.0], [0.0, 0.3]], [[0.2, 0.1], [0.1, 0.4]]],
}
XY = [[0.0, 0.0], [1.0, 0.5], [-1.5, 0.2]]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "points.csv"
    pd.DataFrame(XY, columns=["a", "b"]).to_csv(path, index=False)
    return path


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    path = tmp_path / "mixture.json"
    path.write_text(json.dumps(MIXTURE))
    return path


def run(*arguments: object) -> None:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def truth() -> GaussianMixture:
    return GaussianMixture(*(torch.tensor(MIXTURE[key]) for key in ("weights", "means", "covariances")))


def test_score_by_the_flow_is_the_truth(table: Path, mixture: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    run("score", table, "--mixture", mixture, "--out", out, "--tolerance", 1e-8)
    scores = pd.read_csv(out)
    x = torch.tensor(XY, dtype=torch.float64)
    model = truth().diffused(VariancePreserving())
    assert np.allclose(scores.log_prob_nats, model.log_prob(x, model.schedule.s_start), atol=1e-6)
    assert (scores.density == "flow").all()
    assert (scores.kind == "exact").all()
    assert (scores.status == "ok").all()
    record = json.loads((tmp_path / "scores.csv.provenance.json").read_text())
    assert record["settings"]["estimators"] == ["flow"]


def test_score_gives_what_the_library_gives(table: Path, mixture: Path, tmp_path: Path) -> None:
    x = torch.tensor(XY, dtype=torch.float64)
    model = truth().diffused(VariancePreserving())
    out = tmp_path / "scores.csv"
    run(
        "score", table, "--mixture", mixture, "--out", out, "--estimator", "path_integral", "--throws", 500, "--seed", 3
    )
    scores = pd.read_csv(out)
    direct = path_integral(model, x, throws=500, generator=torch.Generator().manual_seed(3))
    assert np.allclose(scores.log_prob_nats, direct.value, atol=1e-12)
    assert np.allclose(scores.stderr_nats, direct.stderr, atol=1e-12)
    assert np.allclose(scores.ci_high_nats - scores.log_prob_nats, 1.959964 * scores.stderr_nats, rtol=1e-6)
    run(
        "score", table, "--mixture", mixture, "--out", out, "--estimator", "flow_hutchinson", "--probes", 3, "--seed", 3
    )
    hutchinson = flow(
        model, x, rtol=1e-6, atol=1e-6, divergence="hutchinson", probes=3, generator=torch.Generator().manual_seed(3)
    )
    assert np.allclose(pd.read_csv(out).log_prob_nats, hutchinson.value, atol=1e-12)


def test_every_estimator_scores_points_and_a_figure_shows_them(table: Path, mixture: Path, tmp_path: Path) -> None:
    out, figure = tmp_path / "scores.csv", tmp_path / "scores.svg"
    run("score", table, "--mixture", mixture, "--out", out, "--estimator", "all", "--figure", figure)
    scores = pd.read_csv(out)
    assert list(dict.fromkeys(scores.estimator)) == [name for name, one in ESTIMATORS.items() if one.points]
    assert (scores.status == "ok").all()
    for name, rows in scores.groupby("estimator"):
        assert (rows.density == ESTIMATORS[name].density).all()
        assert (rows.kind == ESTIMATORS[name].kind).all()
        model = truth().diffused(VariancePreserving())
        error = rows.log_prob_nats.to_numpy() - model.log_prob(torch.tensor(XY, dtype=torch.float64), 1e-5).numpy()
        allowed = 5 * rows.stderr_nats.to_numpy() + (0.5 if name == "chain" else 0.01)
        assert (np.abs(error) < allowed).all(), name
    exact = scores[scores.estimator == "flow"]
    assert (exact.ci_low_nats == exact.ci_high_nats).all()
    reduced = scores[scores.estimator == "reduced"]
    half = reduced.ci_high_nats - reduced.log_prob_nats
    assert np.allclose(half, 2.364624 * reduced.stderr_nats, rtol=1e-6)  # Student's t of 7 degrees of freedom
    text = figure.read_text()
    assert "log p (nats)" in text
    assert "path integral, reduced: SDE, lower" in text
    assert figure.with_suffix(".png").stat().st_size > 10_000


def test_an_unknown_estimator_is_named(table: Path, mixture: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'bound' is no estimator of points; one of flow, flow_hutchinson"):
        run("score", table, "--mixture", mixture, "--out", tmp_path / "s.csv", "--estimator", "bound")
    assert not (tmp_path / "s.csv").exists()


def test_train_sample_and_score_a_model(tmp_path: Path) -> None:
    data, model, out = tmp_path / "data.csv", tmp_path / "model.safetensors", tmp_path / "samples.csv"
    mixture = truth()
    x = mixture.sample(512, generator=torch.Generator().manual_seed(0))
    pd.DataFrame(x.numpy(), columns=["a", "b"]).to_csv(data, index=False)
    run("train", data, "--out", model, "--epochs", 30, "--throws", 5, "--width", 32, "--learning-rate", 0.01)
    x, few = x[:128], tmp_path / "few.csv"
    pd.DataFrame(x.numpy(), columns=["a", "b"]).to_csv(few, index=False)
    run("score", few, "--model", model, "--out", tmp_path / "scores.csv", "--tolerance", 1e-4)
    scores = pd.read_csv(tmp_path / "scores.csv")
    gap = mixture.log_prob(x).mean().item() - scores.log_prob_nats.mean()
    untrained = (mixture.log_prob(x) - torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)).mean().item()
    assert abs(gap) < 0.25 * untrained
    run("sample", model, "--out", out, "--number", 400, "--steps", 50)
    samples = pd.read_csv(out)
    assert list(samples) == ["x1", "x2"]
    assert np.allclose(samples.mean(), x.mean(0), atol=0.25)
    assert np.allclose(samples.std(), x.std(0), atol=0.25)


def test_a_saved_model_comes_back(tmp_path: Path) -> None:
    size = MLPSize(widths=(8,), frequencies=1, time_frequencies=1, frequency_scale=0.1)
    schedule = saved.LogLinearSettings(gamma_min=-8.0, gamma_max=5.0, path="straight")
    settings = saved.ModelSettings(dimension=2, prediction="velocity", schedule=schedule, network=size)
    network = settings.build(torch.Generator().manual_seed(0))
    saved.save(tmp_path / "model.safetensors", network, settings)
    model, again = saved.load(tmp_path / "model.safetensors")
    assert again == settings
    assert model.schedule.at(0.3) == settings.schedule.build().at(0.3)
    x, s = torch.randn(3, 2), torch.rand(3)
    assert torch.equal(model.velocity(x, s), network(x, s))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n0,0\n1,nan\n", r"points\.csv: row 2, column 'b': nan is not a finite number"),
        ("a,b\n0,inf\n", r"row 1, column 'b': inf is not"),
        ("a,b\n0,x\n", r"row 1, column 'b': x is not"),
        ("a,b\n", "holds no points"),
        ("a,b\n1,2", "ends in the middle of a line"),
    ],
)
def test_bad_points_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "points.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        inputs.read_points(path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weights": [0.3, 0.6]}, "weights must sum to 1, they sum to 0.9"),
        ({"weights": [0.3]}, "means"),
        ({"means": [[0.0, "x"], [0.0, 1.0]]}, r"mixture\.json"),
        ({"covariance": []}, "the keys weights, means and covariances are expected"),
    ],
)
def test_bad_mixtures_are_named(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    path = tmp_path / "mixture.json"
    path.write_text(json.dumps(MIXTURE | changed))
    with pytest.raises(InputError, match=message):
        models.read_mixture(path)


def test_a_model_that_does_not_fit_is_refused(mixture: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 2 dimensions, the points have 3 columns"):
        models.ModelChoice(mixture=mixture).for_points(3)
    with pytest.raises(InputError, match="give either --model or --mixture"):
        models.ModelChoice().for_points(2)
    with pytest.raises(InputError, match="truncated, or is not a safetensors file"):
        models.ModelChoice(model=str(mixture)).for_points(2)
    few = tmp_path / "few.csv"
    few.write_text("a,b\n" + "0,0\n" * 5)
    with pytest.raises(InputError, match=r"few\.csv: training needs at least 32 points, got 5"):
        run("train", few, "--out", tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()

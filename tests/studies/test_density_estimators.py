"""The study of paper A: its divergences against closed forms, its jobs end to end at a tiny size, its sizes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from pydantic import ValidationError
from torch.distributions import MultivariateNormal, kl_divergence

from diffusion_density.density.ode.flow import flow
from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError
from diffusion_density.process.mixtures import ExactModel, GaussianMixture
from diffusion_density.process.model import DiffusionModel, Model
from diffusion_density.process.schedules import VariancePreserving
from diffusion_density.studies.density_estimators import divergences, models
from diffusion_density.studies.density_estimators.divergences import Diffused, Mean
from diffusion_density.studies.density_estimators.experiments import agreement, evaluate, timing, train
from diffusion_density.studies.density_estimators.experiments import dataset as data
from diffusion_density.studies.density_estimators.sizes import (
    Agreement,
    AgreementJob,
    Dataset,
    DensityEstimatorsSizes,
    Evaluation,
    EvaluationJob,
    Timing,
    TimingJob,
    TrainingRun,
)
from truths import PAPER_A, Altered, ScaledGaussian, doubles, random_mixture, seeded

ROOT = Path(__file__).parents[2]


def three_sides(model: Model, exact: ExactModel, n: int, seed: int) -> dict[str, Mean]:
    """Path integral, score error and loss difference, by draws of their own."""
    generator = seeded(seed)
    prior = divergences.prior_mismatch(exact, n, generator)
    x = exact.mixture.sample(n // 2, generator=generator, dtype=torch.float32)
    draws = [Diffused.draw(exact.mixture, exact.schedule, n, generator) for _ in range(2)]
    return {
        "path_integral": divergences.by_path_integral(model, x, exact.mixture.log_prob(x.double()), 2, generator),
        "score_error": prior + divergences.score_error(model, draws[0]),
        "loss_difference": prior + divergences.loss_difference(model, draws[1]),
    }


def z_score(first: Mean, second: Mean) -> float:
    return abs(first.value - second.value) / (first.stderr**2 + second.stderr**2) ** 0.5


def test_the_three_sides_are_the_gap_of_a_closed_form() -> None:
    truth = ScaledGaussian(1.3, 0.36, 1.2)
    assert isinstance(truth.model, Altered)
    sides = three_sides(truth.model, truth.model.exact, 100_000, seed=1)
    for side in sides.values():
        assert abs(side.value - truth.gap()) < 4.2 * side.stderr
    assert sides["score_error"].stderr < 0.005
    assert sides["path_integral"].stderr < 0.2 * truth.gap()


def test_the_three_sides_agree_for_a_perturbed_mixture() -> None:
    exact = random_mixture(3).diffused(PAPER_A)
    model = Altered(exact, lambda score, x, s: score + (2 * x).sin() * (1 - 0.5 * s))
    sides = three_sides(model, exact, 80_000, seed=2)
    assert z_score(sides["path_integral"], sides["score_error"]) < 4.2
    assert z_score(sides["path_integral"], sides["loss_difference"]) < 4.2
    assert z_score(sides["score_error"], sides["loss_difference"]) < 4.2
    for side in sides.values():  # each far from nothing, and sharp
        assert side.value > 1
        assert side.stderr < 0.05 * side.value


def test_an_exact_model_has_no_divergence() -> None:
    exact = random_mixture(2).diffused(PAPER_A)
    draws = Diffused.draw(exact.mixture, PAPER_A, 1000, seeded(0))
    assert divergences.score_error(exact, draws).value < 1e-6
    assert abs(divergences.loss_difference(exact, draws).value) < 1e-4


@pytest.mark.parametrize("schedule", [PAPER_A, VariancePreserving(0.5, 1.0)])
def test_the_prior_mismatch_of_a_gaussian(schedule: VariancePreserving) -> None:
    covariance = torch.tensor([[0.5, 0.2], [0.2, 0.9]], dtype=torch.float64)
    mixture = GaussianMixture(doubles(1.0), doubles(1.3, -2.0)[None], covariance[None])
    alpha, sigma = schedule.at(1.0)
    eye = torch.eye(2, dtype=torch.float64)
    end = MultivariateNormal(alpha * mixture.means[0], alpha**2 * covariance + sigma**2 * eye)
    expected = kl_divergence(end, MultivariateNormal(torch.zeros(2, dtype=torch.float64), sigma**2 * eye)).item()
    found = divergences.prior_mismatch(mixture.diffused(schedule), 100_000, seeded(1))
    assert abs(found.value - expected) < 4.5 * found.stderr
    assert found.stderr < 0.3 * expected


def test_draws_are_those_of_the_forward_process() -> None:
    mixture = random_mixture(2)
    draws = Diffused.draw(mixture, PAPER_A, 20_000, seeded(0))
    exact = mixture.diffused(PAPER_A)
    torch.testing.assert_close(draws.exact, exact.score(draws.y, draws.s), rtol=1e-4, atol=1e-4)
    clean = (draws.y - PAPER_A.sigma(draws.s)[:, None] * draws.noise) / PAPER_A.alpha(draws.s)[:, None]
    mean = mixture.weights @ mixture.means
    early = clean[draws.s < 0.5].double()
    assert ((early.mean(0) - mean).abs() / (early.std(0) / len(early) ** 0.5)).max() < 5
    # ∫ g²/(2σ²)·σ² ds = ½ ∫ β = 4.025: the weights and their density together
    integral = Mean.of(draws.likelihood * PAPER_A.sigma(draws.s).square())
    assert abs(integral.value - 4.025) < 4.5 * integral.stderr


def test_means_and_their_errors() -> None:
    mean = Mean.of(doubles(1.0, 2.0, 3.0, 6.0))
    assert mean.value == 3
    assert mean.stderr == pytest.approx((14 / 3 / 4) ** 0.5)
    both = Mean(1.0, 3.0) + Mean(2.0, 4.0)
    assert (both.value, both.stderr) == (3.0, 5.0)


RUN = TrainingRun.model_validate(
    {
        "experiment": "throws",
        "dimension": 2,
        "samples": 64,
        "throws": 2,
        "checkpoints": [0.5, 4],
        "arms": [{"prediction": "entropy"}, {"prediction": "score", "skip": True}, {"prediction": "noise"}],
        "mixtures": 2,
        "seeds": [0, 5],
        "network": {"widths": [8, 8], "frequencies": 2, "time_frequencies": 2, "frequency_scale": 0.1},
        "optimiser": {"batch_size": 32, "learning_rate": 1e-2, "ema": 0.5},
    }
)
EVALUATION = Evaluation(points=32, throws=4, flow_points=8, tolerance=1e-3, score_error_throws=4)
DATASET = Dataset(dimension=2, mixtures=3, samples=100, components=2)
NETWORKS = 3 * 2 * 2
PLACE = ["prediction", "weighting", "skip", "mixture", "seed"]


@dataclass(frozen=True)
class Study:
    """The files of a tiny study."""

    dataset: Path
    models: Path
    table: Path

    @property
    def files(self) -> dict[str, Path]:
        return {"dataset": self.dataset, "models": self.models}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    made = Study(folder / "data.safetensors", folder / "models.safetensors", folder / "kl.csv")
    data.run(DATASET, {}, {"dataset": made.dataset})
    train.run(RUN, made.files, {"models": made.models})
    evaluate.run(EvaluationJob(run=RUN, evaluation=EVALUATION), made.files, {"table": made.table})
    return made


def test_the_table_of_an_evaluation(study: Study) -> None:
    table = pd.read_csv(study.table)
    assert list(table) == [
        *("experiment", "dimension", "samples", "throws", "epochs", "training_evaluations"),
        *PLACE,
        *("untrained_kl_nats", "estimator", "density", "kind", "kl_nats", "kl_stderr_nats"),
        *("network_evaluations", "failed_points"),
    ]
    assert len(table) == 2 * NETWORKS * 3
    assert not table.isna().any().any()
    assert (table.failed_points == 0).all()
    assert set(table.experiment) == {"throws"}
    assert dict(table.groupby("epochs").training_evaluations.first()) == {0.5: 64, 4: 512}
    kinds = table.groupby("estimator")[["density", "kind"]].agg(["nunique", "first"])
    assert kinds.xs("first", axis=1, level=1).T.to_dict("list") == {
        "flow": ["flow", "exact"],
        "path_integral": ["sde", "upper"],
        "score_error": ["sde", "upper"],
    }
    assert table.groupby([*PLACE, "epochs"]).size().eq(3).all()
    assert (table.kl_stderr_nats > 0).all()
    assert set(table[table.estimator == "path_integral"].network_evaluations) == {4}
    pairs = table.pivot_table("kl_nats", [*PLACE, "epochs"], "estimator")
    errors = table.pivot_table("kl_stderr_nats", [*PLACE, "epochs"], "estimator")
    z = (pairs.path_integral - pairs.score_error) / (errors.path_integral**2 + errors.score_error**2) ** 0.5
    assert z.abs().max() < 5
    trained = table[table.estimator == "score_error"].groupby(["prediction", "epochs"]).kl_nats.mean()
    for prediction in ("entropy", "noise"):
        assert trained[prediction, 4.0] < trained[prediction, 0.5]


def test_entropy_and_the_skip_control_have_the_same_rows(study: Study) -> None:
    table = pd.read_csv(study.table)
    entropy, control = (table[table.prediction == name] for name in ("entropy", "score"))
    numbers = ["mixture", "seed", "epochs", "kl_nats", "kl_stderr_nats", "untrained_kl_nats"]
    deterministic = [part[part.estimator != "path_integral"][numbers].to_numpy() for part in (entropy, control)]
    torch.testing.assert_close(*(torch.tensor(part) for part in deterministic), rtol=1e-3, atol=1e-4)


def test_jobs_give_the_same_bytes_again(study: Study, tmp_path: Path) -> None:
    data.run(DATASET, {}, {"dataset": tmp_path / "data"})
    assert (tmp_path / "data").read_bytes() == study.dataset.read_bytes()
    train.run(RUN, study.files, {"models": tmp_path / "models"})
    assert (tmp_path / "models").read_bytes() == study.models.read_bytes()
    evaluate.run(EvaluationJob(run=RUN, evaluation=EVALUATION), study.files, {"table": tmp_path / "table"})
    assert (tmp_path / "table").read_bytes() == study.table.read_bytes()


def test_the_points_of_a_data_set(study: Study, tmp_path: Path) -> None:
    mixtures, points = data.load(study.dataset, RUN)
    assert len(mixtures) == 2
    assert points.shape == (2, 64, 2)
    assert points.dtype == torch.float32
    for mixture, part in zip(mixtures, points, strict=True):
        z = (part.mean(0) - mixture.weights @ mixture.means) / (part.std(0) / 64**0.5)
        assert z.abs().max() < 5
    assert not torch.equal(points[0], points[1])
    data.run(Dataset(dimension=2, mixtures=1, samples=70, components=2), {}, {"dataset": tmp_path / "small"})
    same = data.load(tmp_path / "small", changed(mixtures=1))[0][0]
    assert torch.equal(same.covariances, mixtures[0].covariances)
    assert torch.equal(same.means, mixtures[0].means)


def test_networks_come_back_in_their_places(study: Study) -> None:
    first, last = models.load(study.models, RUN)
    assert (first.epochs, last.epochs) == (0.5, 4)
    order = models.places(RUN)
    assert [(p.arm.prediction, p.mixture, p.seed) for p in order[:5]] == [
        *(("entropy", mixture, seed) for mixture in (0, 1) for seed in (0, 5)),
        ("score", 0, 0),
    ]
    x = torch.randn(8, 2, generator=seeded(0))
    for arm, prediction in enumerate(("entropy", "score", "noise")):
        together = last.together(arm)
        assert together.prediction == prediction
        each = [last.model(4 * arm + i) for i in range(4)]
        expected = torch.cat([model.score(x[2 * i : 2 * i + 2], 0.3) for i, model in enumerate(each)])
        torch.testing.assert_close(together.score(x, 0.3), expected, rtol=1e-5, atol=1e-5)
        assert {model.prediction for model in each} == {prediction}
    assert not last.networks[0].skip
    assert last.networks[4].skip


def test_the_flow_of_all_networks_is_that_of_each(study: Study) -> None:
    checkpoint = models.load(study.models, RUN)[-1]
    mixtures, _ = data.load(study.dataset, RUN)
    tests = [evaluate._Test(mixture, index, EVALUATION) for index, mixture in enumerate(mixtures)]
    rows = evaluate._flows(checkpoint.together(0), [tests[0], tests[0], tests[1], tests[1]], EVALUATION)
    for index, row in enumerate(rows):
        test = tests[index // 2]
        values = flow(checkpoint.model(index), test.x[:8], rtol=1e-3, atol=1e-3).value
        assert row["kl_nats"] == pytest.approx((test.truth[:8] - values).mean().item(), abs=0.02)


def test_points_without_a_flow_are_counted() -> None:
    test = evaluate._Test(random_mixture(2), 0, EVALUATION)

    def network(x: torch.Tensor, _s: torch.Tensor) -> torch.Tensor:
        return (0 * x).masked_fill((x[:, :1] > 50), torch.nan)

    test.x[:2] = 100.0
    row = evaluate._flows(DiffusionModel(network, PAPER_A, "entropy"), [test], EVALUATION)[0]
    assert row["failed_points"] == 2
    assert isinstance(row["kl_nats"], float)
    assert math.isfinite(row["kl_nats"])


def test_the_tables_of_the_timing(study: Study, tmp_path: Path) -> None:
    sizes = Timing(points=2, batch=8, throws=(4, 16), tolerances=(1e-2, 1e-7), repeats=2)
    tables = {"timing": tmp_path / "seconds.csv", "tradeoff": tmp_path / "tradeoff.csv"}
    timing.run(TimingJob(run=RUN, timing=sizes), study.files, tables)
    seconds, tradeoff = (pd.read_csv(tmp_path / name) for name in ("seconds.csv", "tradeoff.csv"))
    assert list(seconds) == ["estimator", "mode", "index", "points", "seconds_per_point", "network_evaluations"]
    assert seconds.groupby(["estimator", "mode"]).size().to_dict() == {
        (name, mode): 2 for name in ("flow", "path_integral") for mode in ("batch", "single")
    }
    assert (seconds.seconds_per_point > 0).all()
    assert (seconds.points == seconds["mode"].map({"single": 1, "batch": 8})).all()
    assert list(tradeoff) == [
        *("field", "estimator", "setting", "points", "seconds_per_point", "network_evaluations"),
        *("rms_error_nats", "rms_error_stderr_nats"),
    ]
    assert len(tradeoff) == 2 * (2 + 2)
    flows = tradeoff[tradeoff.estimator == "flow"].set_index(["field", "setting"]).rms_error_nats
    for field in ("exact", "trained"):
        assert flows[field, 1e-7] < 1e-4
        assert flows[field, 1e-7] < flows[field, 1e-2]
    integrals = tradeoff[tradeoff.estimator == "path_integral"]
    assert set(integrals.network_evaluations) == {4, 16}
    assert (integrals.rms_error_nats > 0.01).all()


def test_the_tables_of_the_agreement(study: Study, tmp_path: Path) -> None:
    sizes = Agreement(points=6, throws=64, identity_draws=4000)
    tables = {"agreement": tmp_path / "points.csv", "identity": tmp_path / "identity.csv"}
    agreement.run(AgreementJob(run=RUN, agreement=sizes), study.files, tables)
    points, identity = (pd.read_csv(tmp_path / name) for name in ("points.csv", "identity.csv"))
    assert list(points) == [
        *("point", "log_prob_nats", "flow_nats", "path_integral_nats", "path_integral_stderr_nats"),
        *PLACE,
    ]
    assert len(points) == 6 * 3 * 2  # of the first seed
    assert set(points.seed) == {0}
    assert points.notna().all().all()
    assert list(identity) == [*PLACE, "side", "kl_nats", "kl_stderr_nats"]
    assert len(identity) == 3 * NETWORKS
    kl, error = (identity.pivot_table(name, PLACE, "side") for name in ("kl_nats", "kl_stderr_nats"))
    for first, second in (("path_integral", "score_error"), ("score_error", "loss_difference")):
        z = (kl[first] - kl[second]) / (error[first] ** 2 + error[second] ** 2) ** 0.5
        assert z.abs().max() < 5
    assert (kl > 0).all().all()


def changed(**values: object) -> TrainingRun:
    return TrainingRun.model_validate(RUN.model_dump() | values)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (changed(samples=101), "holds 100 samples of 3 mixtures, 101 of 2 are needed"),
        (changed(mixtures=4), "holds 100 samples of 3 mixtures, 64 of 4 are needed"),
        (changed(dimension=3), "holds points of 2 dimensions, the run has 3"),
    ],
)
def test_data_that_does_not_fit_a_run_is_refused(study: Study, tmp_path: Path, run: TrainingRun, message: str) -> None:
    evaluation, out = EvaluationJob(run=run, evaluation=EVALUATION), tmp_path / "out"
    for job in (
        lambda: train.run(run, study.files, {"models": out}),
        lambda: evaluate.run(evaluation, study.files, {"table": out}),
    ):
        with pytest.raises(InputError, match=message) as error:
            job()
        assert str(study.dataset) in str(error.value)
        assert not list(tmp_path.iterdir())


def test_networks_of_another_run_are_refused(study: Study) -> None:
    with pytest.raises(InputError, match=r"models.safetensors: holds the networks of other settings"):
        models.load(study.models, changed(throws=3))


def test_files_of_another_kind_are_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"models.safetensors: lacks the tensor weights"):
        data.load(study.models, RUN)
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(InputError, match=r"text: is truncated, or is not a safetensors file"):
        models.load(tmp_path / "text", RUN)
    with pytest.raises(InputError, match=r"absent: cannot be read"):
        data.load(tmp_path / "absent", RUN)


def test_data_with_a_broken_mixture_is_refused(study: Study, tmp_path: Path) -> None:
    tensors, settings = artifacts.read_safetensors(study.dataset)
    artifacts.write_safetensors(tmp_path / "bad", tensors | {"weights": 2 * tensors["weights"]}, settings)
    with pytest.raises(InputError, match="weights must sum to 1, they sum to 2"):
        data.load(tmp_path / "bad", RUN)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"throws": -1}, "throws"),
        ({"throws": 0}, "throws"),
        ({"throws": 2.5}, "throws"),
        ({"trows": 3}, "trows"),
        ({"checkpoints": []}, "checkpoints"),
        ({"checkpoints": [-1]}, "checkpoints"),
        ({"checkpoints": [float("inf")]}, "checkpoints"),
        ({"arms": [{"prediction": "velocities"}]}, "prediction"),
        ({"network": RUN.network.model_dump() | {"widths": [0]}}, "widths"),
        ({"network": RUN.network.model_dump() | {"depth": 3}}, "depth"),
        ({"optimiser": RUN.optimiser.model_dump() | {"ema": 1.0}}, "ema"),
        ({"seeds": []}, "seeds"),
    ],
)
def test_wrong_sizes_are_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        changed(**change)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Evaluation.model_validate(EVALUATION.model_dump() | {"throws": -4}), "throws"),
        (lambda: Evaluation.model_validate(EVALUATION.model_dump() | {"tolerance": 1e-7}), "tolerance"),
        (lambda: Evaluation.model_validate(EVALUATION.model_dump() | {"throws": 1}), "throws"),
        (lambda: Agreement(points=1, throws=1, identity_draws=10), "throws"),
        (lambda: Timing(points=1, batch=1, throws=(4, 1), tolerances=(0.1,), repeats=1), "throws"),
        (lambda: Timing(points=1, batch=1, throws=(4,), tolerances=(0.0,), repeats=1), "tolerances"),
        (lambda: Dataset(dimension=0, mixtures=1, samples=1, components=1), "dimension"),
    ],
)
def test_wrong_sizes_of_the_other_jobs_are_named(make: Callable[[], object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        make()


@pytest.mark.parametrize("scale", ["smoke", "desk", "paper"])
def test_the_runs_of_every_scale(scale: str) -> None:
    text = (ROOT / "workflow" / "scales" / f"{scale}.yaml").read_text()
    sizes = DensityEstimatorsSizes.model_validate(yaml.safe_load(text)["density_estimators"])
    runs, datasets = sizes.runs((1, 2, 3)), sizes.datasets()
    for name, run in runs.items():
        held = datasets[run.dimension]
        assert held.samples >= run.samples, name
        assert held.mixtures >= run.mixtures, name
        assert run.samples % run.optimiser.batch_size == 0, name
        assert run.seeds == (1, 2, 3)
        assert list(run.checkpoints) == sorted(set(run.checkpoints))
        if run.experiment == "throws":
            assert run.throws == int(name.split("-")[1])
            assert sizes.throws.equal_epochs in run.checkpoints
            assert any(
                run.throws * epochs == pytest.approx(sizes.throws.equal_evaluations) for epochs in run.checkpoints
            )
            for epochs in set(run.checkpoints) & set(sizes.throws.grid) - {sizes.throws.equal_epochs}:
                assert run.throws * epochs <= max(sizes.throws.budget, sizes.throws.equal_evaluations)
    assert {run.throws for run in runs.values()} >= set(sizes.throws.values)
    assert {run.dimension for run in runs.values()} == {sizes.dimension} | set(sizes.dimensions_sweep.values)
    # what the sweeps and the objectives leave out must be there as the run of the default throws
    default = runs[sizes.detailed]
    assert (default.dimension, default.samples) == (sizes.dimension, sizes.samples)
    assert {arm.prediction for arm in default.arms} == {"entropy", "score"}

"""The study of paper D: its measurements against closed forms, its jobs end to end at a tiny size, its sizes."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from pydantic import ValidationError
from scipy import stats
from torch import Tensor, nn

from diffusion_density.commands import config
from diffusion_density.data.images import ImageSet, load
from diffusion_density.density.images.bits import bits_per_dim
from diffusion_density.density.images.dequantization import SCHEMES
from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError
from diffusion_density.networks.cost import flops
from diffusion_density.networks.unet import SmallUNet
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.schedules import LogLinear
from diffusion_density.studies.fields import Strict
from diffusion_density.studies.max_likelihood import costs, models, runs
from diffusion_density.studies.max_likelihood.experiments import (
    curves,
    dataset,
    datasets,
    findings,
    gaps,
    likelihood,
    lossless,
    samples,
    trace,
    train,
    variance,
)
from diffusion_density.studies.max_likelihood.plan import Plan
from diffusion_density.studies.max_likelihood.runs import Arm, Evaluation, Likelihood, Optimiser, Run, TrainingJob
from diffusion_density.studies.max_likelihood.sizes import MaxLikelihoodSizes, arms
from diffusion_density.studies.shared import intervals
from diffusion_density.studies.shared.inputs import ImageInputs
from diffusion_density.training.averaged_adamw import AveragedAdamW
from diffusion_density.training.cost import FIRST_ORDER, SECOND_ORDER, step_flops
from diffusion_density.training.flow_matching import FlowMatching

ROOT = Path(__file__).parents[2]
ARM = Arm(prediction="velocity", path="vp", times="importance")


def sizes(scale: str = "smoke") -> MaxLikelihoodSizes:
    text = (ROOT / "workflow" / "scales" / f"{scale}.yaml").read_text()
    return MaxLikelihoodSizes.model_validate(yaml.safe_load(text)["max_likelihood"])


def run_of(**changed: object) -> Run:
    settings = {
        "dataset": "digits",
        "arm": ARM,
        "seeds": (0, 1),
        "network": {"kind": "small", "widths": (8, 8), "contrasts": 2, "time_width": 8},
        "optimiser": Optimiser(batch_size=8, learning_rate=1e-3, warmup=2, cosine=False, ema=0.5),
        "snapshots": (2, 4),
    }
    return Run.model_validate(settings | changed)


def trained(folder: Path, run: Run, origin: tuple[Path, Run] | None = None) -> Path:
    out = folder / "models" / "run.safetensors"
    job = TrainingJob(name="run", run=run, origin=origin and origin[1])
    files = {"origin": origin[0]} if origin else {}
    shutil.rmtree(train.run(job, ImageInputs(load(run.dataset, folder), files, work=folder / "work"), {"models": out}))
    return out


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load("digits", Path())


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("networks"), run_of())


# Sizes


def test_the_runs_of_a_scale() -> None:
    found = sizes().runs((0, 1, 2), {"photos32": "photos32", "mine": "npz:x/mine.npz", "digits": "digits"})
    names = {"main-photos32", "main-mine", *(f"ablation-{arm.name}" for arm in arms())}
    names |= {f"predictions-{name}" for name in ("velocity", "noise", "entropy", "score")}
    names |= {f"finetuning-{weight}" for weight in ("0", "0.1", "1")}
    assert found.keys() == names
    assert all(name.split("-")[0] == run.kind for name, run in found.items())
    assert len(arms()) == 10
    assert found["main-mine"].dataset == "npz:x/mine.npz"
    assert found["main-mine"].seeds == (0,)
    assert found["ablation-noise-vp-uniform"].seeds == (0, 1, 2)
    assert found["finetuning-0.1"].origin == "ablation-velocity-vp-importance"
    assert [found[f"finetuning-{weight}"].equal_compute for weight in ("0", "0.1", "1")] == [True, False, False]


def test_the_paper_scale_is_the_papers() -> None:
    found = sizes("paper").runs((0,), {name: name for name in ("cifar10", "imagenet32", "imagenet32-old")})
    small, large = (costs.cost(found[f"main-{name}"], Path()) for name in ("cifar10", "imagenet32"))
    assert small.parameters == 30_577_667
    assert small.image_flops / 2 == pytest.approx(26.3e9, rel=0.02)
    assert large.parameters == 122_136_579
    assert large.image_flops / 2 == pytest.approx(105e9, rel=0.02)
    assert small.total_flops / 2 == pytest.approx(6e6 * 128 * 3 * 26.3e9, rel=0.02)
    assert small.gpu_hours == pytest.approx(small.total_flops / 93.6e12 / 3600)
    assert found["tuned-cifar10"].snapshots == (200_000,)
    assert found["main-imagenet32-old"].optimiser.batch_size == 512
    assert found["tuned-imagenet32"].origin == "main-imagenet32"


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"snapshots": (4, 2)}, "snapshots must rise"), ({"trace_weight": -1}, "greater than or equal to 0")],
)
def test_runs_that_make_no_sense_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        run_of(**changed)


def test_the_main_arm_must_predict_velocity() -> None:
    values = sizes().model_dump()
    values["main"]["arm"]["prediction"] = "noise"
    with pytest.raises(ValidationError, match=r"main\.arm\.prediction must be velocity"):
        MaxLikelihoodSizes.model_validate(values)


# Training


def test_a_run_is_the_same_again_and_leaves_no_work(networks: Path, tmp_path: Path) -> None:
    again = trained(tmp_path, run_of())
    assert again.read_bytes() == networks.read_bytes()
    assert list((tmp_path / "work").iterdir()) == []


def test_networks_of_another_run_are_refused(networks: Path, digits: ImageSet) -> None:
    assert models.load(networks, run_of(), digits).keys() == {(0, 2), (0, 4), (1, 2), (1, 4)}
    with pytest.raises(InputError, match="holds the networks of another run"):
        models.load(networks, run_of(snapshots=(2, 5)), digits)


def test_fine_tuning_goes_on_from_the_last_weights(networks: Path, tmp_path: Path, digits: ImageSet) -> None:
    optimiser = run_of().optimiser.model_copy(update={"learning_rate": 1e-12, "weight_decay": 0.0, "ema": 0.0})
    run = run_of(origin="run", snapshots=(1,), trace_weight=0.1, optimiser=optimiser)
    tuned = models.load_weights(trained(tmp_path, run, origin=(networks, run_of())), run, digits)
    before = models.load_weights(networks, run_of(), digits)
    for seed in run.seeds:
        for name, value in tuned[seed, 1].items():
            torch.testing.assert_close(value, before[seed, 4][name], rtol=0, atol=1e-7)


def test_the_control_of_fine_tuning_trains_for_as_many_operations(digits: ImageSet) -> None:
    run = run_of(equal_compute=True, snapshots=(10,))
    network = models.build(run, digits, 0)
    ratio = train.second_order_cost(run, digits, network)
    assert ratio == pytest.approx(SECOND_ORDER / FIRST_ORDER, rel=0.15)
    assert train.snapshot_steps(run, digits, network) == [10, round(10 * ratio)]


def test_the_operations_of_a_step_are_those_of_its_passes() -> None:
    network = SmallUNet(3, generator=torch.Generator().manual_seed(0))
    once = flops(network, (1, 3, 32, 32))
    first = step_flops(network, FlowMatching(LogLinear()), (3, 32, 32))
    assert FIRST_ORDER - 0.1 < first / once < FIRST_ORDER  # the stem needs no gradient of its input
    second = step_flops(network, FlowMatching(LogLinear(), trace_weight=1.0), (3, 32, 32))
    assert second / once == pytest.approx(SECOND_ORDER, rel=0.1)


@pytest.mark.slow
def test_a_job_killed_at_random_ends_with_the_same_networks_and_table(tmp_path: Path, digits: ImageSet) -> None:
    run = run_of(seeds=(0,), snapshots=(20, 60))

    def command(folder: Path) -> list[str]:
        job = TrainingJob(name="run", run=run, checkpoint_every=7).model_dump_json()
        start = [sys.executable, "-m", "diffusion_density", "job", "max_likelihood", "train", "--sizes", job]
        return [*start, "--work", str(folder / "work"), "--output", f"models={folder}/models.safetensors"]

    def table(folder: Path) -> bytes:
        evaluation = Evaluation(likelihood=Likelihood(images=3, tolerance=1e-3, throws=4), dequantized=2)
        job = runs.LikelihoodJob(name="run", run=run, evaluation=evaluation)
        inputs = ImageInputs(digits, {"models": folder / "models.safetensors"}, work=folder / "work")
        likelihood.run(job, inputs, {"table": folder / "t.csv"})
        return (folder / "t.csv").read_bytes()

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole), check=True)
    chance = np.random.default_rng(0)
    kills = 0
    while kills < 3:
        job = subprocess.Popen(command(killed), stderr=subprocess.DEVNULL, start_new_session=True)
        before = set((killed / "work").rglob("step-*"))
        deadline = time.monotonic() + 60
        while set((killed / "work").rglob("step-*")) <= before:  # it got on since the last time
            assert job.poll() is None, "the job ended before it could be killed three times"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.15))
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
        kills += 1
        assert not (killed / "models.safetensors").exists()
    subprocess.run(command(killed), check=True)
    assert (killed / "models.safetensors").read_bytes() == (whole / "models.safetensors").read_bytes()
    assert table(killed) == table(whole)


@pytest.mark.slow
def test_one_step_of_the_full_network_of_the_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, backward, averaged weights, checkpoint; a second step after a resume is that of a run without a stop."""
    run = sizes("paper").runs((0,), {"photos32": "photos32"})["main-photos32"]
    optimiser = run.optimiser.model_copy(update={"batch_size": 1})
    short = run.model_copy(update={"optimiser": optimiser, "snapshots": (2,)})
    images = load("photos32", tmp_path)

    def go(folder: Path) -> Path:
        out = folder / "models.safetensors"
        job = TrainingJob(name="main", run=short, checkpoint_every=1)
        train.run(job, ImageInputs(images, work=folder / "work"), {"models": out})
        return out

    whole = models.load_weights(go(tmp_path / "whole"), short, images)[0, 2]
    assert sum(value.numel() for value in whole.values()) == 30_577_667
    start = models.build(short, images, 0).state_dict()
    assert sum(not torch.equal(value, start[name]) for name, value in whole.items()) > 0.5 * len(
        whole
    )  # the first step moves the last layer alone

    taken: list[int] = []
    step = AveragedAdamW.step

    def stop_at_the_second(self: AveragedAdamW, learning_rate: float, clip: float | None) -> float:
        taken.append(self.steps)
        if taken == [0, 1]:
            raise KeyboardInterrupt
        return step(self, learning_rate, clip)

    monkeypatch.setattr(AveragedAdamW, "step", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "stopped")
    resumed = models.load_weights(go(tmp_path / "stopped"), short, images)[0, 2]
    assert taken == [0, 1, 1]
    for name, value in resumed.items():
        assert torch.equal(value, whole[name]), name


# Measurements


def test_curves_hold_every_network_and_the_mean_of_the_bound(networks: Path, tmp_path: Path, digits: ImageSet) -> None:
    out = tmp_path / "curves.csv"
    job = runs.CurvesJob(runs={"run": run_of()}, curve=runs.Curve(images=5, throws=3))
    curves.run(job, ImageInputs(digits, {"run": networks}), {"table": out})
    table = artifacts.read_csv(out)
    assert list(zip(table.seed, table.step, strict=True)) == [(0, 2), (0, 4), (1, 2), (1, 4)]
    model = models.load(networks, run_of(), digits)[1, 4]
    generator = torch.Generator().manual_seed(curves._SEED + 1)  # every seed has throws of its own
    direct = bits_per_dim(model, digits.test[:5], levels=17, estimator="bound", throws=3, generator=generator)
    assert table.bits_per_dim.iloc[3] == pytest.approx(direct.value.mean().item(), rel=1e-6)
    assert table.stderr_bits_per_dim.iloc[3] == pytest.approx(direct.value.std().item() / 5**0.5, rel=1e-5)


def test_likelihoods_are_those_of_the_estimator_image_by_image(
    networks: Path, tmp_path: Path, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In shards of two images, each with random numbers of its own."""
    monkeypatch.setattr(likelihood, "IMAGES_PER_CALL", 2)
    evaluation = Evaluation(likelihood=Likelihood(images=3, tolerance=1e-2, throws=4), dequantized=2, draws=2)
    out = tmp_path / "likelihood.csv"
    job = runs.LikelihoodJob(name="run", run=run_of(), evaluation=evaluation)
    likelihood.run(job, ImageInputs(digits, {"models": networks}, work=tmp_path / "work"), {"table": out})
    table = artifacts.read_csv(out)
    kinds = table.groupby(["estimator", "dequantization", "late_start", "draws"]).size() / 2
    assert kinds.to_dict() == {
        ("bound", "variational", False, 1): 3,
        ("flow", "truncated_normal", False, 1): 3,
        ("flow", "truncated_normal", False, 2): 2,
        ("flow", "uniform", False, 1): 2,
        ("flow", "uniform", True, 1): 2,
        ("flow", "variational", False, 1): 2,
    }
    model = models.load(networks, run_of(), digits)[0, 4]
    direct = []
    for first, part in ((0, digits.test[:2]), (2, digits.test[2:3])):
        generator = torch.Generator().manual_seed(likelihood._SEED + first)
        direct += bits_per_dim(model, part, levels=17, generator=generator, rtol=1e-2, atol=1e-2).value.tolist()
    first = (table.seed == 0) & (table.estimator == "flow") & (table.dequantization == "truncated_normal")
    ours = table[first & (table.draws == 1)].bits_per_dim
    np.testing.assert_allclose(ours, direct, rtol=1e-6)
    assert set(table.status) == {0}


def test_late_uniform_dequantization_starts_where_the_paper_has_it(networks: Path, digits: ImageSet) -> None:
    model = models.load(networks, run_of(), digits)[0, 4]
    starts = []
    for test in likelihood.tests(Evaluation(likelihood=Likelihood(images=2, tolerance=1e-2, throws=2), dequantized=2)):
        settings = Evaluation(likelihood=Likelihood(images=2, tolerance=1e-2, throws=2), dequantized=2)
        result = likelihood._result(model, digits, test, settings, "cpu", 0, 2)
        start = torch.tensor(result.settings["start"], dtype=torch.float64)
        starts.append((test.late, -model.schedule.log_snr(start).item()))
    assert [gamma for late, gamma in starts if not late] == pytest.approx([-7.876] * 5, abs=1e-3)
    assert [gamma for late, gamma in starts if late] == pytest.approx([-6.376], abs=1e-3)


class Linear(nn.Module):
    """An exact velocity of N(0, variances) data, times a factor."""

    def __init__(self, variances: Tensor, factor: float = 1.0) -> None:
        super().__init__()
        self.variances = variances
        self.factor = nn.Parameter(torch.tensor(factor))
        self.schedule = LogLinear()

    def forward(self, y: Tensor, s: Tensor) -> Tensor:
        alpha, sigma = self.schedule.alpha(s), self.schedule.sigma(s)
        alpha, sigma = alpha[:, None, None, None], sigma[:, None, None, None]
        total = alpha**2 * self.variances + sigma**2  # E[α ε − σ x | y] = α σ (1 − v)/total · y
        return self.factor * alpha * sigma * (1 - self.variances) / total * y


def test_the_trace_of_an_exact_velocity_misses_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    variances = (torch.arange(1, 65, dtype=torch.float32) ** -1.5).view(1, 8, 8)
    x = variances.sqrt() * torch.randn(2000, 1, 8, 8, generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    for s in (0.3, 0.6, 0.9):
        for factor in (1.0, 0.8):
            model = DiffusionModel(Linear(variances, factor), LogLinear(), "velocity")
            misses = trace.miss(model, FlowMatching(LogLinear()), x, noise, s)
            z = misses.mean().item() / (misses.std().item() / len(misses) ** 0.5)
            assert abs(z) < 4 or factor != 1
            assert abs(z) > 8 or factor == 1 or s == 0.3  # at little noise the trace is nearly nothing


def test_traces_are_measured_at_the_end(networks: Path, tmp_path: Path, digits: ImageSet) -> None:
    out = tmp_path / "trace.csv"
    job = runs.TraceJob(runs={"run": run_of()}, trace=runs.Trace(times=3, images=2))
    trace.run(job, ImageInputs(digits, {"run": networks}), {"trace": out})
    table = artifacts.read_csv(out)
    assert len(table) == 2 * 3
    assert set(table.step) == {4}
    assert table.gamma.between(-7.876, 5).all()


def test_the_noise_of_batches_is_what_its_definition_says(networks: Path, tmp_path: Path, digits: ImageSet) -> None:
    out = tmp_path / "variance.csv"
    job = runs.VarianceJob(runs={"run": run_of()}, variance=runs.Variance(batches=4, batch_size=8))
    variance.run(job, ImageInputs(digits, {"run": networks}), {"variance": out})
    table = artifacts.read_csv(out)
    assert len(table) == 2 * 2 * 2 * 4  # seeds, densities, stratified or not, batches
    assert (table.gradient_norm2 > 0).all()
    largest = table.gradient_norm2.groupby(table.index // 4).transform("max")
    assert (table.gradient_next.abs() <= np.sqrt(table.gradient_norm2 * largest) * 1.001).all()


def test_the_noise_of_known_numbers() -> None:
    random = np.random.default_rng(0)
    batch, count, d = 16, 4000, 50
    losses = random.normal(3.0, 0.5 / batch**0.5, count)
    gradients = 2 + random.normal(0, 1.5, (count, d))
    rows = pd.DataFrame(
        {
            "loss_nats": losses,
            "gradient_norm2": (gradients**2).sum(1),
            "gradient_next": (gradients * np.roll(gradients, -1, 0)).sum(1),
        }
    )
    loss, gradient = findings.noise_of(rows, batch)
    assert loss == pytest.approx((0.5 / 3) ** 2, rel=0.1)
    assert gradient == pytest.approx(d * 1.5**2, rel=0.05)


def test_samples_are_images_with_a_distance_and_a_cost(networks: Path, tmp_path: Path, digits: ImageSet) -> None:
    grid, out = tmp_path / "grid.safetensors", tmp_path / "samples.csv"
    job = runs.SamplesJob(name="run", run=run_of(), samples=runs.Samples(number=9, tolerance=1e-2))
    samples.run(job, ImageInputs(digits, {"models": networks}), {"table": out, "samples": grid})
    images, header = artifacts.read_safetensors(grid)
    assert images["samples"].dtype == torch.uint8
    assert images["samples"].shape == images["test"].shape == (9, 1, 8, 8)
    assert int(images["samples"].max()) <= 16
    assert header == {"levels": 17}
    table = artifacts.read_csv(out)
    assert set(table.images) == {"samples", "training images"}
    assert table[table.images == "samples"].network_evaluations.gt(10).all()


def test_images_are_nearer_to_images_than_noise_is(digits: ImageSet) -> None:
    noise = torch.randint(0, 17, (64, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    near, far = (samples.distances(digits.test, of, 17)[8] for of in (digits.train[:64], noise))
    assert 0 < 3 * near < far
    assert samples.distances(digits.test[:64], digits.test[:64], 17)[8] == 0


# Closed forms and findings


def test_the_table_of_gaps(tmp_path: Path) -> None:
    """Section 2.5 of the sheet, whose own Monte Carlo errs by about 0.01."""
    gaps.run(Strict(), {}, {"gaps": tmp_path / "gaps.csv"})
    table = artifacts.read_csv(tmp_path / "gaps.csv")
    assert len(table) == 6 * 2 * len(SCHEMES)
    table = table.set_index(["width_levels", "dequantization", "late_start"]).gap_bits_per_dim
    assert table[1.0, "uniform", False] == pytest.approx(0.866, abs=0.01)
    assert table[1.0, "uniform", True] == pytest.approx(0.038, abs=0.01)
    assert table[math.inf, "truncated_normal", False] == pytest.approx(0.0005, abs=0.0005)
    assert table[0.0, "variational", True] == pytest.approx(0.548, abs=0.01)
    assert (table > -5e-4).all()  # the quadrature's own error


def test_intervals_are_students() -> None:
    values = [1.0, 2.0, 4.0]
    mean, low, high, n = intervals.mean([*values, math.nan])
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (mean, n) == (pytest.approx(7 / 3), 3)
    assert (low, high) == (pytest.approx(expected[0]), pytest.approx(expected[1]))
    assert intervals.mean([5.0])[1:] == (None, None, 1)


def test_step_ratios() -> None:
    steps = [10, 20, 40, 80]
    theirs = [8.0, 6.0, 5.0, 4.0]
    assert findings.step_ratio(steps, [6.0, 4.0, 3.0, 2.0], theirs) == pytest.approx(4)
    assert findings.step_ratio(steps, [7.0, 5.0, 3.0, 2.0], theirs) == pytest.approx(80 / math.sqrt(20 * 40))
    assert findings.step_ratio(steps, theirs, [6.0, 4.0, 3.0, 2.0]) == pytest.approx(1 / 4)
    assert findings.step_ratio(steps, [3.0, 2.5, 2.2, 2.0], theirs) == 8  # there before the first snapshot
    assert findings.step_ratio(steps, theirs, theirs) == pytest.approx(1)


def test_image_sets_are_described_and_absent_ones_named(tmp_path: Path) -> None:
    description, coders = tmp_path / "digits.json", tmp_path / "coders.csv"
    inputs = ImageInputs(load("digits", tmp_path))
    dataset.run(runs.DatasetJob(dataset="digits"), inputs, {"description": description})
    lossless.run(runs.LosslessJob(dataset="digits", count=3), inputs, {"table": coders})
    assert artifacts.read_csv(coders).groupby("coder").size().to_dict() == {"png": 3, "webp": 3}
    plan = Plan(sizes(), (0,), ("photos32", "cifar10"), tmp_path)
    assert plan.present == {"photos32": "photos32"}
    out = {"datasets": tmp_path / "sets.csv"}
    datasets.run(runs.DatasetsJob(absent=plan.absent), {"set-digits": description}, out)
    table = artifacts.read_csv(tmp_path / "sets.csv")
    assert table.present.tolist() == [True, False]
    assert table.test_images.iloc[0] == 359
    assert "cifar-10-binary.tar.gz" in table.to_have_it.iloc[1]
    assert "sha256 c4a38c50" in table.to_have_it.iloc[1]


def test_image_sets_must_have_names_of_their_own() -> None:
    with pytest.raises(InputError, match="holds two image sets of the same name"):
        config.read_config({"datasets": ["npz:a/x.npz", "npz:b/x.npz"]})
    with pytest.raises(InputError, match="no image set 'mnist'"):
        config.read_config({"datasets": ["mnist"]})

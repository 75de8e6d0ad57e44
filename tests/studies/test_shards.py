"""Measurements in shards: what a stopped job measures again, and image files that change under a run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffusion_density.data import images as sources
from diffusion_density.data.images import ImageSet, load
from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError
from diffusion_density.studies.max_likelihood import models
from diffusion_density.studies.max_likelihood.experiments import likelihood, train
from diffusion_density.studies.max_likelihood.runs import (
    Arm,
    Evaluation,
    Likelihood,
    LikelihoodJob,
    Optimiser,
    Run,
    TrainingJob,
)
from diffusion_density.studies.shared.inputs import ImageInputs
from diffusion_density.studies.shared.shards import Shards
from untrained import save_untrained

MODULE = "diffusion_density.studies.shared.shards"
EVALUATION = Evaluation(likelihood=Likelihood(images=3, tolerance=1e-2, throws=4), dequantized=2)


def table(value: float) -> Callable[[], pd.DataFrame]:
    return lambda: pd.DataFrame({"image": [0, 1], "value": [value, value / 3]})


def never() -> pd.DataFrame:
    pytest.fail("measured again")


def test_what_was_measured_is_not_measured_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = Shards(tmp_path, "run", MODULE, {"a": 1})
    first.add("0", table(0.1))
    again = Shards(tmp_path, "run", MODULE, {"a": 1})
    again.add("0", never)
    again.add("1", table(0.7))
    again.write(tmp_path / "t.csv")
    whole = pd.concat([table(0.1)(), table(0.7)()])
    pd.testing.assert_frame_equal(artifacts.read_csv(tmp_path / "t.csv"), whole.reset_index(drop=True), rtol=1e-15)
    assert "t.csv: 1 of 2 shards were there already" in caplog.text


def test_a_broken_shard_is_measured_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shards = Shards(tmp_path, "run", MODULE, {})
    shards.add("0", table(0.1))
    (shards.folder / "0.csv").write_bytes(b"")
    again = Shards(tmp_path, "run", MODULE, {})
    again.add("0", table(0.2))
    assert again.reused == 0
    assert "it is measured again" in caplog.text
    assert artifacts.read_csv(shards.folder / "0.csv").value[0] == 0.2


def test_shards_of_other_settings_or_other_code_are_not_used(tmp_path: Path) -> None:
    folders = {
        Shards(tmp_path, "run", module, {"a": a}).folder
        for module in (MODULE, "diffusion_density.machine.artifacts")
        for a in (1, 2)
    }
    assert len(folders) == 4


def test_a_measurement_that_is_stopped_twice_goes_on_by_shard_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = load("digits", tmp_path)
    networks = tmp_path / "networks.safetensors"
    run = save_untrained(digits, networks)
    monkeypatch.setattr(likelihood, "IMAGES_PER_CALL", 2)
    measured, stops = 0, [1, 4]
    inner = likelihood._result

    def counted(*arguments: object) -> object:
        nonlocal measured
        if stops and measured == stops[0]:
            stops.pop(0)
            raise KeyboardInterrupt
        measured += 1
        return inner(*arguments)  # type: ignore[arg-type]

    def evaluate(folder: Path) -> bytes:
        out = folder / "t.csv"
        job = LikelihoodJob(name="run", run=run, evaluation=EVALUATION)
        likelihood.run(job, ImageInputs(digits, {"models": networks}, work=folder / "work"), {"table": out})
        return out.read_bytes()

    whole = evaluate(tmp_path / "whole")
    monkeypatch.setattr(likelihood, "_result", counted)
    for shards in tuple(stops):
        with pytest.raises(KeyboardInterrupt):
            evaluate(tmp_path / "stopped")
        assert not (tmp_path / "stopped" / "t.csv").exists()
        assert len(list((tmp_path / "stopped").rglob("*.csv"))) == shards
    assert evaluate(tmp_path / "stopped") == whole
    assert measured == len(list((tmp_path / "whole" / "work").rglob("*.csv"))), "each shard was measured once"


# Image files that change


def written(path: Path, seed: int) -> ImageSet:
    chance = np.random.default_rng(seed)
    pixels = {key: chance.integers(0, 256, (n, 8, 8, 1), np.uint8) for key, n in (("train", 16), ("test", 3))}
    np.savez(path, **pixels)
    return load(f"npz:{path}", path.parent)


def run_on(path: Path) -> Run:
    return Run(
        dataset=f"npz:{path}",
        arm=Arm(prediction="velocity", path="vp", times="importance"),
        seeds=(0,),
        network={"kind": "small", "widths": (8, 8), "contrasts": 2, "time_width": 8},
        optimiser=Optimiser(batch_size=8, learning_rate=1e-3, warmup=2, cosine=False, ema=0.5),
        snapshots=(4,),
    )


def test_images_that_change_between_training_and_measuring_are_refused(tmp_path: Path) -> None:
    path, out = tmp_path / "mine.npz", tmp_path / "networks.safetensors"
    before, run = written(path, 0), run_on(path)
    train.run(TrainingJob(name="run", run=run), ImageInputs(before, work=tmp_path / "work"), {"models": out})
    models.load(out, run, before)
    after = written(path, 1)
    job = LikelihoodJob(name="run", run=run, evaluation=EVALUATION)
    with pytest.raises(InputError, match=r"trained on other images than those of mine now .* run the workflow again"):
        likelihood.run(job, ImageInputs(after, {"models": out}, work=tmp_path), {"table": tmp_path / "t.csv"})
    assert not (tmp_path / "t.csv").exists()


def test_a_stopped_run_whose_images_changed_starts_again(tmp_path: Path) -> None:
    path, work, out = tmp_path / "mine.npz", tmp_path / "work", tmp_path / "networks.safetensors"
    job = TrainingJob(name="run", run=run_on(path), checkpoint_every=2)
    spent = train.run(job, ImageInputs(written(path, 0), work=work), {"models": out})
    out.unlink()  # stopped before the result was written
    after = written(path, 1)
    other = train.run(job, ImageInputs(after, work=work), {"models": out})
    assert other != spent
    shutil.rmtree(work)
    alone = tmp_path / "alone.safetensors"
    train.run(job, ImageInputs(after, work=work), {"models": alone})
    assert out.read_bytes() == alone.read_bytes()


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.npz"
    written(path, 0)
    inner = sources.arrays_of

    def disturbed(*arguments: object, **options: object) -> dict[str, np.ndarray]:
        arrays = inner(*arguments, **options)  # type: ignore[arg-type]
        path.write_bytes(path.read_bytes() + b"x")
        return arrays

    monkeypatch.setattr(sources, "arrays_of", disturbed)
    with pytest.raises(InputError, match=r"mine\.npz: changed while it was read; run again"):
        load(f"npz:{path}", tmp_path)

"""The command `score` on images of an npz with a network of the study max_likelihood; every wrong file is one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from diffusion_density.commands.cli import app
from diffusion_density.data.images import ImageSet, load
from diffusion_density.density.estimators import ESTIMATORS
from diffusion_density.density.images.bits import bits_per_dim
from diffusion_density.density.images.dequantized import dequantized_bits, formula_bits
from diffusion_density.density.path_integral.plain import path_integral
from diffusion_density.density.result import LogDensity
from diffusion_density.machine.errors import InputError
from diffusion_density.process.model import Model
from diffusion_density.process.schedules import LogLinear
from diffusion_density.studies.max_likelihood import models
from diffusion_density.studies.max_likelihood.runs import Run
from untrained import save_untrained

NUMBER = 3
SMALL = ("--throws", "64", "--draws", "2", "--seed", "5")


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load("digits", Path())


@pytest.fixture(scope="module")
def pictures(digits: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "mine.npz"
    np.savez(path, test=digits.test[:NUMBER].permute(0, 2, 3, 1).numpy(), levels=17)
    return path


@pytest.fixture(scope="module")
def network(digits: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    path = tmp_path_factory.mktemp("network") / "run.safetensors"
    return path, save_untrained(digits, path)


def score(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["score", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_score_gives_what_the_library_gives(
    pictures: Path, network: tuple[Path, Run], digits: ImageSet, tmp_path: Path
) -> None:
    path, run = network
    out, figure = tmp_path / "scores.csv", tmp_path / "scores.svg"
    names = ("flow_hutchinson", "bound", "path_integral", "formula")
    chosen = [part for name in names for part in ("--estimator", name)]
    printed = score(f"npz:{pictures}", "--model", path, "--out", out, *chosen, *SMALL, "--figure", figure)
    table = pd.read_csv(out)
    model, x = models.load(path, run, digits)[0, 1], digits.test[:NUMBER]
    common: dict[str, Any] = {"levels": 17}

    def at_points(their: Model, z: torch.Tensor) -> LogDensity:
        return path_integral(their, z, throws=32, generator=shared, chunk=64)

    shared = generator()
    direct = {
        "flow_hutchinson": bits_per_dim(model, x, draws=2, rtol=1e-4, atol=1e-4, generator=generator(), **common),
        "bound": bits_per_dim(model, x, estimator="bound", throws=64, generator=generator(), **common),
        "path_integral": dequantized_bits(model, x, at_points, draws=2, generator=shared, **common),
        "formula": formula_bits(model, x, steps=16, throws=4, generator=generator(), **common),
    }
    for name, result in direct.items():
        rows = table[table.estimator == name]
        assert result.stderr is not None
        assert np.allclose(rows.bits_per_dim, result.value, rtol=1e-6), name
        assert np.allclose(rows.stderr_bits_per_dim, result.stderr, rtol=1e-5), name
        assert (rows.density == result.density).all()
        assert result.density == ESTIMATORS[name].density
        assert (rows.kind == "upper").all()
        assert (rows.network_evaluations == result.network_evaluations).all()
        assert list(rows.image) == [1, 2, 3]
        assert f"{name}: mean {rows.bits_per_dim.mean():.4f}" in printed
    half = table.ci_high_bits_per_dim - table.bits_per_dim
    two = table.estimator.isin(["flow_hutchinson", "path_integral"])  # two versions: Student's t of one degree
    assert np.allclose(half, np.where(two, 12.7062, 1.95996) * table.stderr_bits_per_dim, rtol=1e-5)
    assert "variational bound: SDE, upper" in figure.read_text()
    record = json.loads((tmp_path / "scores.csv.provenance.json").read_text())
    assert record["settings"]["throws"] == 64
    assert list(record["settings"]["sha256"]) == ["mine.npz"]


def test_the_formula_is_the_bound(network: tuple[Path, Run], digits: ImageSet) -> None:
    """Both estimate the same number, by different times and decoders in closed form."""
    path, run = network
    model, x = models.load(path, run, digits)[0, 1], digits.test[:NUMBER]
    bound = bits_per_dim(model, x, levels=17, estimator="bound", throws=4096, generator=generator())
    found = formula_bits(model, x, levels=17, steps=512, throws=8, generator=generator())
    assert bound.stderr is not None
    assert found.stderr is not None
    error = (found.value - bound.value).abs()
    assert (error < 4 * torch.hypot(found.stderr, bound.stderr) + 1e-3 * bound.value).all()


@pytest.mark.parametrize("path", ["vp", "straight"])
def test_all_estimators_of_the_sde_agree_for_an_exact_score(path: str) -> None:
    """Pixels with a normal distribution: every bound is near the same number, on paths of either scale."""
    schedule = LogLinear(-7.876, 5.0, path)  # type: ignore[arg-type]
    from diffusion_density.process.model import DiffusionModel, GaussianPrior

    def noise(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        alpha, sigma = (f(s)[:, None, None, None] for f in (schedule.alpha, schedule.sigma))
        return sigma * x / (0.3 * alpha**2 + sigma**2)

    alpha, sigma = schedule.at(1.0)
    model = DiffusionModel(noise, schedule, "noise", GaussianPrior(0.3 * alpha**2 + sigma**2))
    x = torch.randint(0, 17, (4, 1, 4, 4), dtype=torch.uint8, generator=generator())
    drawn = generator()
    found = {
        "flow": bits_per_dim(
            model, x, levels=17, dequantization="variational", draws=64, divergence="exact", generator=generator()
        ),
        "bound": bits_per_dim(model, x, levels=17, estimator="bound", throws=4096, generator=generator()),
        "formula": formula_bits(model, x, levels=17, steps=1000, throws=16, generator=generator()),
        "path_integral": dequantized_bits(
            model,
            x,
            lambda of, z: path_integral(of, z, throws=1024, method="reduced", generator=drawn),
            levels=17,
            dequantization="variational",
            draws=64,
            generator=drawn,
        ),
    }
    for name, result in found.items():
        assert result.stderr is not None
        reference = found["flow"]
        assert reference.stderr is not None
        allowed = 5 * torch.hypot(result.stderr, reference.stderr) + 5e-3
        assert ((result.value - reference.value).abs() < allowed).all(), name


def test_the_network_and_the_images_are_chosen(pictures: Path, network: tuple[Path, Run], tmp_path: Path) -> None:
    few = ("--estimator", "bound", "--throws", "8", "--out")
    score(pictures, "--model", network[0], "--number", 2, *few, tmp_path / "a.csv", "--step", 1, "--network-seed", 0)
    assert len(pd.read_csv(tmp_path / "a.csv")) == 2
    score("digits", "--model", network[0], "--number", 2, *few, tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    with pytest.raises(InputError, match="has no network of seed 3; it has 0"):
        score("digits", "--model", network[0], *few, tmp_path / "c.csv", "--network-seed", 3)
    with pytest.raises(InputError, match="seed 0 was kept after 1 steps, not after 2"):
        score("digits", "--model", network[0], *few, tmp_path / "c.csv", "--step", 2)


def test_one_version_of_an_image_has_no_interval(pictures: Path, network: tuple[Path, Run], tmp_path: Path) -> None:
    score(pictures, "--model", network[0], "--out", tmp_path / "a.csv", "--number", 1, "--draws", 1)
    row = pd.read_csv(tmp_path / "a.csv").iloc[0]
    assert np.isfinite(row.bits_per_dim)
    assert np.isnan(row.stderr_bits_per_dim)
    assert np.isnan(row.ci_low_bits_per_dim)


GREY = np.zeros((2, 8, 8, 1), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"test": GREY, "levels": 16}, (), r"of 16 levels; .* is a model of \(1, 8, 8\) of 17"),
        ({"test": GREY[:, :4, :4], "levels": 17}, (), r"images are \(1, 4, 4\) .*\(1, 8, 8\)"),
        ({"test": np.zeros((2, 8, 8, 3), np.uint8), "levels": 17}, (), r"images are \(3, 8, 8\)"),
        ({"test": np.zeros((2, 8, 8, 2), np.uint8), "levels": 17}, (), "1 or 3 channels"),
        ({"test": GREY[0], "levels": 17}, (), r"test is uint8 \(8, 8, 1\); need uint8 images of shape \(N, H, W, C\)"),
        ({"test": GREY.astype(np.float32), "levels": 17}, (), "test is float32"),
        ({"test": GREY + 17, "levels": 17}, (), "values reach beyond the 17 levels"),
        ({"test": GREY[:0], "levels": 17}, (), "no images"),
        ({"a": GREY, "b": GREY}, (), r"holds a, b; name the images by --key"),
        ({"a": GREY, "levels": 17}, ("--key", "c"), "lacks the key c; it has a"),
        ({"test": GREY, "levels": 1}, (), "levels must be one integer from 2 to 256"),
        ({"test": np.array([[None]]), "levels": 17}, (), "cannot be read: Object arrays cannot be loaded"),
    ],
)
def test_wrong_images_are_one_line(
    tmp_path: Path, network: tuple[Path, Run], arrays: dict[str, Any], options: tuple[str, ...], message: str
) -> None:
    np.savez(tmp_path / "wrong.npz", **arrays)
    with pytest.raises(InputError, match=message) as caught:
        score(tmp_path / "wrong.npz", "--model", network[0], "--out", tmp_path / "s.csv", *options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s.csv").exists()


def test_damaged_files_are_one_line(tmp_path: Path, pictures: Path, network: tuple[Path, Run]) -> None:
    path, out = network[0], ("--out", tmp_path / "s.csv")
    cut = tmp_path / "cut.npz"
    cut.write_bytes(pictures.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cut\.npz cannot be read"):
        score(cut, "--model", path, *out)
    with pytest.raises(InputError, match=r"absent\.npz cannot be read: .*No such file"):
        score(tmp_path / "absent.npz", "--model", path, *out)
    weights = tmp_path / "cut.safetensors"
    weights.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="is truncated, or is not a safetensors file"):
        score(pictures, "--model", weights, *out)
    with pytest.raises(InputError, match="images need --model"):
        score(pictures, *out)
    with pytest.raises(InputError, match="holds no model of diffusers"):
        score(pictures, "--model", tmp_path, *out)
    with pytest.raises(InputError, match="is no folder"):
        score(pictures, "--model", f"diffusers:{tmp_path / 'absent'}", *out)

"""The study of paper C end to end when tiny, with what its tables must show."""

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from diffusion_density.data.images import ImageSet, load
from diffusion_density.machine import artifacts
from diffusion_density.studies.fields import Strict
from diffusion_density.studies.high_density.experiments import bias, cost, findings, guidance, images, modes, tracking
from diffusion_density.studies.high_density.sizes import Bias, Guidance, HighDensitySizes, ImagesJob, Modes, Tracking
from diffusion_density.studies.shared import intervals
from diffusion_density.studies.shared.inputs import ImageInputs
from untrained import save_untrained

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sizes() -> HighDensitySizes:
    text = (ROOT / "workflow/scales/smoke.yaml").read_text()
    return HighDensitySizes.model_validate(yaml.safe_load(text)["high_density"])


def test_tracked_densities_tend_to_the_truth(tmp_path: Path) -> None:
    sizes = Tracking(samples=512, stochasticities=(0.0, 1.0), steps=(100, 400))
    tracking.run(sizes, {}, {"tracking": tmp_path / "t.csv"})
    table = pd.read_csv(tmp_path / "t.csv").set_index(["stochasticity", "steps"])
    ratio = table.deviation_nats[1.0, 100] / table.deviation_nats[1.0, 400]
    assert ratio == pytest.approx(2, rel=0.2)
    assert table.deviation_nats[0.0, 100] < 0.03
    assert abs(table.mean_excess_nats[1.0, 400]) < 4 * table.mean_stderr_nats[1.0, 400] + 0.03


def test_the_bias_is_the_predicted_one_and_the_chain_is_bracketed(tmp_path: Path) -> None:
    sizes = Bias(
        sizes=(0.0, 0.3),
        samples=2048,
        steps=200,
        cells=500,
        grid_steps=400,
        chain_steps=(30,),
        chain_samples=512,
        paths=2,
    )
    bias.run(sizes, {}, {"bias": tmp_path / "b.csv", "sandwich": tmp_path / "s.csv"})
    table = pd.read_csv(tmp_path / "b.csv").set_index("size")
    net = table.excess_nats[0.3] - table.excess_nats[0.0]
    error = (table.excess_stderr_nats**2).sum() ** 0.5
    assert abs(net - table.predicted_nats[0.3]) < 4 * error
    assert net > 5 * error
    bounds = pd.read_csv(tmp_path / "s.csv").set_index(["size", "estimate"])
    for size in (0.0, 0.3):
        assert bounds.mean_nats[size, "lower"] < bounds.mean_nats[size, "sde"] < bounds.mean_nats[size, "upper"]
    assert bounds.mean_nats[0.3, "flow"] < bounds.mean_nats[0.3, "sde"] - 5 * bounds.stderr_nats[0.3, "flow"]


def test_modes_are_those_of_the_grid_and_high_density_rises(tmp_path: Path) -> None:
    sizes = Modes(log_snrs=(2, 0), places=(-1, 0.8), steps=30, dimension=50, thresholds=(4, 0, -4), samples=32)
    modes.run(sizes, {}, {"modes": tmp_path / "m.csv", "mode_densities": tmp_path / "d.csv"})
    curves = pd.read_csv(tmp_path / "m.csv")
    assert (curves["mode"] - curves.mode_on_grid).abs().max() < 1e-3
    assert (curves.mode_without_h - curves.mode_on_grid).abs().max() > 1e-2
    means = pd.read_csv(tmp_path / "d.csv").groupby(["method", "threshold"], dropna=False).log_prob_nats.mean()
    dense = [means["high_density", t] for t in (4.0, 0.0, -4.0)]
    assert dense == sorted(dense)
    assert dense[-1] > means["sde"].iloc[0] + 15


def test_guidance_reaches_its_target_and_the_published_drift_misses(tmp_path: Path) -> None:
    sizes = Guidance(dimensions=(20,), quantiles=(0.45, 0.55), stochasticity=0.5, samples=64, steps=100)
    guidance.run(sizes, {}, {"guidance": tmp_path / "g.csv"})
    table = pd.read_csv(tmp_path / "g.csv")
    error = (table.log_prob_nats - table.target_nats).groupby(table.method)
    assert abs(error.mean()["deterministic"]) < 0.1
    assert abs(error.mean()["stochastic"]) < 4 * error.sem()["stochastic"] + 0.1
    assert error.mean()["stochastic_published"] > 0.8
    wanted = table[table.method == "deterministic"].groupby("quantile").target_nats.mean()
    assert wanted[0.55] > wanted[0.45] + 5


def test_costs_are_counted(sizes: HighDensitySizes, tmp_path: Path) -> None:
    cost.run(sizes.cost, {}, {"cost": tmp_path / "c.csv"})
    table = pd.read_csv(tmp_path / "c.csv").set_index(["dimension", "method", "steps"]).network_evaluations
    assert table[3, "sde", 10] == 10
    assert table[3, "flow", 10] == 40
    assert table[3, "flow_hutchinson", 10] == 20


def photographs() -> ImageSet:
    return load("photos32", Path())


@pytest.fixture(scope="module")
def scored(sizes: HighDensitySizes, tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    """The table of an untrained network on photographs, and the pictures kept."""
    folder = tmp_path_factory.mktemp("images")
    run = save_untrained(photographs(), folder / "models.safetensors")
    table, grid = folder / "images.csv", folder / "grid.safetensors"
    job = ImagesJob(name="main-photos32", run=run, images=sizes.images)
    inputs = ImageInputs(photographs(), {"models": folder / "models.safetensors"})
    images.run(job, inputs, {"table": table, "samples": grid})
    return pd.read_csv(table), grid


def test_every_group_is_scored(scored: tuple[pd.DataFrame, Path], sizes: HighDensitySizes) -> None:
    table, grid = scored
    counts = table.groupby("group").image.count()
    assert counts["test"] == counts["blurred"] == sizes.images.images
    assert set(table.group) == {
        "test",
        "blurred",
        "shuffled",
        "grey",
        "stripes",
        "sde",
        "flow",
        "high_density",
        "guided",
    }
    assert table.bits_per_dim.between(0, 100).all()
    kept, settings = artifacts.read_safetensors(grid, ["test nan", "blurred 1", "high_density 0", "guided 0.55"])
    assert settings == {"levels": 256}
    assert kept["sde nan"].shape == (2, 3, 32, 32)
    assert kept["sde nan"].dtype == torch.uint8


def test_flat_images_have_small_files(scored: tuple[pd.DataFrame, Path]) -> None:
    sizes = scored[0].groupby("group").png_bytes.mean()
    assert sizes["grey"] < sizes["stripes"] < sizes["blurred"] < sizes["test"]


def test_blurring_keeps_what_is_flat_and_spreads_a_point_as_a_normal_law() -> None:
    flat = torch.full((1, 1, 8, 8), 77, dtype=torch.uint8)
    assert torch.equal(images.blurred(flat, 1.0, 256), flat)
    point = torch.zeros(1, 1, 31, 31, dtype=torch.uint8)
    point[..., 15, 15] = 255
    spread = images.blurred(point, 2.0, 256)[0, 0].double()
    assert spread[15, 15] == pytest.approx(255 / (2 * math.pi * 4), abs=0.6)
    assert spread[15, 17] == pytest.approx(255 / (2 * math.pi * 4) * math.exp(-0.5), abs=0.6)
    assert torch.equal(spread, spread.T)


def test_shuffled_images_keep_their_pixels(sizes: HighDensitySizes) -> None:
    made = {group: pictures for group, _, pictures in images.real_groups(photographs(), sizes.images)}
    few = made["test"][: sizes.images.samples]
    assert not torch.equal(made["shuffled"], few)
    torch.testing.assert_close(made["shuffled"].flatten(2).sort(2).values, few.flatten(2).sort(2).values)


def scores_of(group: str, bits: list[float], parameter: float = math.nan, png: list[int] | None = None) -> pd.DataFrame:
    columns = {"image": range(len(bits)), "bits_per_dim": bits, "png_bytes": png or [1] * len(bits)}
    return pd.DataFrame({"dataset": "d", "run": "r", "group": group, "parameter": parameter} | columns)


def test_findings_are_judged_from_the_table(tmp_path: Path) -> None:
    n = 20
    bits = [3 + 0.1 * i for i in range(n)]
    monotone = [b - 0.2 for b in bits]
    monotone[0] = bits[0] + 1  # one image of twenty is not likelier when blurred
    table = pd.concat(
        [
            scores_of("test", bits, png=[100 + 7 * i for i in range(n)]),
            scores_of("blurred", monotone, 1.0),
            scores_of("blurred", [b - 0.5 for b in bits], 2.0),
            scores_of("sde", [5.0, 6.0]),
            scores_of("flow", [5.5, 6.5]),
            scores_of("high_density", [9.0, 9.0], 3.0),
            scores_of("high_density", [4.0, 5.2], 0.0),
            *(scores_of(group, [2.0, 9.0]) for group in ("grey", "stripes", "shuffled")),
        ]
    )
    artifacts.write_csv(tmp_path / "images.csv", table)
    findings.run(Strict(), {"images": tmp_path / "images.csv"}, {"image_findings": tmp_path / "findings.csv"})
    found = pd.read_csv(tmp_path / "findings.csv").set_index("finding")
    assert found.value["rank correlation"] == pytest.approx(-1)
    assert found.value["blurring makes likelier"] == pytest.approx(0.95)
    assert found.ci_low["blurring makes likelier"] < 0.95 < found.ci_high["blurring makes likelier"]
    assert found.value["denser than ordinary"] == pytest.approx(7 / 8)
    assert (found.loc["likelier than test images", "value"] == 0.5).all()


def test_the_interval_of_a_rank_correlation() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 200, generator=generator).double()
    y = 0.6 * x + 0.8 * torch.randn(500, 200, generator=generator).double()
    truth = 6 / math.pi * math.asin(0.3)  # Spearman's ρ of a normal distribution with correlation 0.6
    inside = [low < truth < high for a, b in zip(x.numpy(), y.numpy(), strict=True)
              for _, low, high, _ in [intervals.rank_correlation(pd.Series(a), pd.Series(b))]]  # fmt: skip
    assert 0.92 < sum(inside) / len(inside) < 0.98

"""The study of paper C end to end when tiny, with what its tables must show."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from diffusion_density.studies.high_density import bias, cost, guidance, modes, tracking
from diffusion_density.studies.high_density.sizes import Bias, Guidance, HighDensitySizes, Modes, Tracking

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sizes() -> HighDensitySizes:
    text = (ROOT / "workflow/scales/smoke.yaml").read_text()
    return HighDensitySizes.model_validate(yaml.safe_load(text)["high_density"])


def test_tracked_densities_tend_to_the_truth(tmp_path: Path) -> None:
    tracking.measure(Tracking(samples=512, stochasticities=(0.0, 1.0), steps=(100, 400)), tmp_path / "t.csv")
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
    bias.measure(sizes, tmp_path / "b.csv", tmp_path / "s.csv")
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
    modes.measure(sizes, tmp_path / "m.csv", tmp_path / "d.csv")
    curves = pd.read_csv(tmp_path / "m.csv")
    assert (curves["mode"] - curves.mode_on_grid).abs().max() < 1e-3
    assert (curves.mode_without_h - curves.mode_on_grid).abs().max() > 1e-2
    means = pd.read_csv(tmp_path / "d.csv").groupby(["method", "threshold"], dropna=False).log_prob_nats.mean()
    dense = [means["high_density", t] for t in (4.0, 0.0, -4.0)]
    assert dense == sorted(dense)
    assert dense[-1] > means["sde"].iloc[0] + 15


def test_guidance_reaches_its_target_and_the_published_drift_misses(tmp_path: Path) -> None:
    sizes = Guidance(dimensions=(20,), quantiles=(0.45, 0.55), stochasticity=0.5, samples=64, steps=100)
    guidance.measure(sizes, tmp_path / "g.csv")
    table = pd.read_csv(tmp_path / "g.csv")
    error = (table.log_prob_nats - table.target_nats).groupby(table.method)
    assert abs(error.mean()["deterministic"]) < 0.1
    assert abs(error.mean()["stochastic"]) < 4 * error.sem()["stochastic"] + 0.1
    assert error.mean()["stochastic_published"] > 0.8
    wanted = table[table.method == "deterministic"].groupby("quantile").target_nats.mean()
    assert wanted[0.55] > wanted[0.45] + 5


def test_costs_are_counted(sizes: HighDensitySizes, tmp_path: Path) -> None:
    cost.measure(sizes.cost, tmp_path / "c.csv")
    table = pd.read_csv(tmp_path / "c.csv").set_index(["dimension", "method", "steps"]).network_evaluations
    assert table[3, "sde", 10] == 10
    assert table[3, "flow_exact", 10] == 40
    assert table[3, "flow_hutchinson", 10] == 20

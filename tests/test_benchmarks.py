"""The benchmarks run, at sizes that time nothing; peers that are not installed are skipped by name."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import __main__, fields, flow_peers, growth, peers, stacked_training, timing, unet_training
from diffusion_density.studies.shared import style

pytestmark = pytest.mark.usefixtures("settings_put_back")


@pytest.mark.parametrize("name", peers.SOLVERS)
def test_every_library_finds_the_same_density(name: str, generator: torch.Generator) -> None:
    if name in peers.absent():
        pytest.skip(f"{name} is not installed")
    exact = fields.mixture(3).diffused(fields.SCHEDULE)
    x = exact.mixture.sample(16, generator=generator)
    value, evaluations = peers.SOLVERS[name](exact, x, 1e-7)
    torch.testing.assert_close(value, exact.log_prob(x, fields.SCHEDULE.s_start), rtol=0, atol=1e-4)
    assert evaluations > 0
    if name != "ours":  # of ours it is a mean over points
        assert evaluations % (5 if name == "scipy" else 4) == 0


def test_flow_peers(tmp_path: Path) -> None:
    sizes = flow_peers.Sizes(points=8, widths=(16, 16), frequencies=4, steps=20, tolerances=(1e-2, 1e-4), repeats=1)
    torch.set_float32_matmul_precision("medium")
    result = flow_peers.run(sizes)
    names = set(peers.SOLVERS) - set(peers.absent())
    precisions = {row["precision"] for row in result["best"]}
    assert {(row["field"], row["library"]) for row in result["sweep"]} == {
        (field, name) for field in ("trained network", "analytic mixture") for name in names
    }
    assert len(result["best"]) == 2 * 2 * len(names), "every library reaches the target on both fields"
    assert precisions == {"medium", "highest"}
    assert torch.get_float32_matmul_precision() == "medium"
    for row in result["best"]:
        assert row["median_error"] <= sizes.target
        cheaper = [
            other
            for other in result["sweep"]
            if (other["field"], other["library"]) == (row["field"], row["library"])
            and other["evaluations"] < row["evaluations"]
        ]
        assert all(other["median_error"] > sizes.target for other in cheaper)
        assert ("times_floor" in row) == (row["field"] == "trained network")
        if row["library"] == "ours" and row["precision"] == "medium":
            assert row["times_ours"] == {"median": 1, "min": 1, "max": 1}
    text = flow_peers.report(result)
    assert all(name in text for name in peers.SOLVERS)
    style.save(flow_peers.draw(json.loads(json.dumps(result))), tmp_path / "figure.svg")


def test_operations_of_one_evaluation_are_counted() -> None:
    sizes = flow_peers.Sizes(points=64, widths=(16, 16), frequencies=4, steps=1)
    network, mixture = flow_peers.cases(sizes)
    features = 3 + 2 * 4
    assert mixture.operations is None
    assert network.operations == 2 * (3 * 4 + features * 16 + 16 * 16 + 16 * 3)


def test_stacked_training() -> None:
    result = stacked_training.run(stacked_training.Sizes(networks=2, widths=(8,), throws=(1, 2), steps=2, repeats=1))
    assert [row["throws"] for row in result] == [1, 2]
    assert all(row["threads"] == 1 and row["speedup"]["median"] > 0 for row in result)
    assert "speedup" in stacked_training.report(result)


def test_unet_training() -> None:
    result = unet_training.run(unet_training.Sizes(batch=2, steps=1, repeats=1))
    assert result["times_ours"]["ours"] == {"median": 1, "min": 1, "max": 1}
    assert ("diffusers" in result["parameters"]) != ("not installed: diffusers" in unet_training.report(result))


def test_one_command_writes_results_with_their_provenance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = growth.Sizes(
        base=growth.Base(points=4, throws=16, width=8),
        points=(4, 8),
        dimension=(1, 3),
        throws=(16, 32),
        width=(8, 16),
        steps=2,
        tolerance=1e-2,
        repeats=1,
    )
    monkeypatch.setitem(__main__.BENCHMARKS, "growth", (growth, tiny))
    __main__.main(["growth", "--out", str(tmp_path), "--threads", "1"])
    names = {"growth.json", "growth.json.provenance.json", "growth.svg", "growth.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert "slope" in capsys.readouterr().out
    result = json.loads((tmp_path / "growth.json").read_text())
    assert len(result["rows"]) == 3 * 2 * 3 + 2 * 2, "the flow has no throws"
    assert len(result["slopes"]) == 3 * 3 + 2
    for row in result["rows"]:
        if row["estimator"] != "flow":
            assert row["evaluations"] == (row["value"] if row["varied"] == "throws" else 16)


def test_an_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        __main__.main(["nonsense"])
    assert "'nonsense' is not one of flow_peers, growth" in capsys.readouterr().err


def test_things_take_turns() -> None:
    order = []
    times = timing.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b", "a", "b"]
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}
    assert timing.ratios([2.0, 9.0], [1.0, 3.0]) == {"median": 2.5, "min": 2.0, "max": 3.0}

"""A wrong configuration is one line that names the file and the key."""

from pathlib import Path

import pytest
import yaml

from diffusion_density.commands import config
from diffusion_density.machine.errors import InputError
from diffusion_density.machine.validation import parse, read_yaml
from diffusion_density.studies.density_estimators.sizes import TrainingRun

ROOT = Path(__file__).parents[2]
SCALES = ROOT / "workflow" / "scales"
NAMES = ("smoke", "desk", "paper")


def test_the_configuration_in_the_repository_is_right() -> None:
    values = config.read_config(read_yaml(ROOT / "config.yaml"))
    assert values.scale == "desk"
    assert len(values.seeds) >= 3


@pytest.mark.parametrize("name", NAMES)
def test_every_scale_has_its_runs(name: str) -> None:
    scale = config.read_scale(name, SCALES)
    runs = scale.density_estimators.runs((0, 1, 2))
    assert scale.density_estimators.detailed in runs
    assert {run.experiment for run in runs.values()} == {"throws", "objectives", "samples", "dimensions"}
    assert all(name.startswith(f"{run.experiment}-") for name, run in runs.items())
    datasets = scale.density_estimators.datasets()
    for run in runs.values():
        assert run.samples <= datasets[run.dimension].samples
        assert run.mixtures <= datasets[run.dimension].mixtures


def test_the_scales_differ_in_values_only() -> None:
    optional = {"threads", "second_order", "exceptions"}  # of the largest networks for images

    def keys(node: object) -> object:
        """Every key, but of a network of some kind: each kind has its own."""
        if not isinstance(node, dict) or "kind" in node:
            return None
        return {key: keys(value) for key, value in node.items() if key not in optional | {"flips"}}

    smoke, desk, paper = (keys(yaml.safe_load((SCALES / f"{name}.yaml").read_text())) for name in NAMES)
    assert smoke == desk == paper


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sedes": [1]}, "config.yaml: sedes: unknown key"),
        ({"scale": "huge"}, "config.yaml: scale: input should be 'smoke', 'desk' or 'paper' (got 'huge')"),
        ({"seeds": []}, "config.yaml: seeds: must not be empty"),
        ({"seeds": [-1]}, "config.yaml: seeds.0: input should be greater than or equal to 0 (got -1)"),
        ({"seeds": [3, 3]}, "config.yaml: seeds: holds the same seed twice (got [3, 3])"),
    ],
)
def test_wrong_values_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        config.read_config(values)
    assert str(caught.value) == message


def test_a_value_from_the_command_line_is_not_blamed_on_the_file() -> None:
    with pytest.raises(InputError, match="--config: scale: "):
        config.read_config({"scale": "huge", "seeds": [1]}, overridden={"scale"})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("samples: 64", "samples: -64", "samples: input should be greater than 0 (got -64)"),
        ("samples: 64", "sample: 64", "samples: is missing; density_estimators.sample: unknown key"),
        ("values: [2, 4]", "values: [2, -4]", "throws.values.1: input should be greater than 0 (got -4)"),
        ("throws_default: 2", "throws_default: 4", "throws_default must be among"),
        ("throws_default: 2", "throws_default: 3", "throws_default must be among"),
        ("tolerance: 1.0e-2", "tolerance: .inf", "evaluation.tolerance: input should be less than 1 (got inf)"),
    ],
)
def test_wrong_sizes_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (SCALES / "smoke.yaml").read_text()
    assert text.count(old) >= 1
    (tmp_path / "smoke.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        config.read_scale("smoke", tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/smoke.yaml: density_estimators")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_configuration_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"desk\.yaml: cannot be read"):
        config.read_scale("desk", tmp_path)
    (tmp_path / "desk.yaml").write_text("a: [1,\nb: 2")
    with pytest.raises(InputError, match=r"desk\.yaml: line 2: is not YAML"):
        config.read_scale("desk", tmp_path)
    (tmp_path / "desk.yaml").write_text("- 1")
    with pytest.raises(InputError, match=r"desk\.yaml: must hold keys with values"):
        config.read_scale("desk", tmp_path)
    (tmp_path / "desk.yaml").write_bytes("a: ü".encode("latin-1"))
    with pytest.raises(InputError, match=r"desk\.yaml: is not UTF-8 text"):
        config.read_scale("desk", tmp_path)


def test_a_run_survives_its_way_through_the_command_line() -> None:
    run = config.read_scale("desk", SCALES).density_estimators.runs(config.Config().seeds)["objectives-all"]
    assert parse(TrainingRun, run.model_dump_json(), "--sizes") == run

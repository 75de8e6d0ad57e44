"""Results are written whole or not at all, with equal bytes for equal numbers, and read with clear errors."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError

TABLE = pd.DataFrame(
    {"kl_nats": [0.1, 1 / 3, 1e-300], "estimator": ["flow", "path_integral", "flow"], "seed": [0, 1, 2]}
)
TENSORS = {"weights": torch.arange(6.0).reshape(2, 3).T, "half": torch.ones(2, dtype=torch.float16)}


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    artifacts.write_text(target, "old\n")

    def write_half() -> None:
        with artifacts.replacing(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_half()
    assert target.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [target]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    artifacts.write_text(target, "old\n")
    with artifacts.replacing(target) as temporary:
        temporary.write_text("new\n")
        assert target.read_text() == "old\n"
    assert target.read_text() == "new\n"


def test_folders_are_made_and_an_unwritable_one_is_named(tmp_path: Path) -> None:
    artifacts.write_text(tmp_path / "a" / "b" / "c.txt", "text")
    with pytest.raises(InputError, match=r"c\.txt/d\.csv: cannot be written"):
        artifacts.write_text(tmp_path / "a" / "b" / "c.txt" / "d.csv", "text")


def test_a_table_keeps_every_digit(tmp_path: Path) -> None:
    artifacts.write_csv(tmp_path / "table.csv", TABLE)
    pd.testing.assert_frame_equal(artifacts.read_csv(tmp_path / "table.csv", ["kl_nats"]), TABLE, check_exact=True)


def test_tensors_and_settings_survive(tmp_path: Path) -> None:
    path = tmp_path / "models.safetensors"
    settings = {"seeds": [0, 1], "network": {"widths": [8], "scale": 0.1}}
    artifacts.write_safetensors(path, TENSORS, settings)
    tensors, header = artifacts.read_safetensors(path, ["weights"])
    assert header == settings
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0)


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        artifacts.write_safetensors(tmp_path / f"{name}.safetensors", TENSORS, {"a": 1, "b": 2, "c": 3})
        artifacts.write_csv(tmp_path / f"{name}.csv", TABLE)
        artifacts.write_json(tmp_path / f"{name}.json", {"x": [1, 2.5], "y": "ü"})
    for suffix in ("safetensors", "csv", "json"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifacts.write_json(tmp_path / "x.json", {"kl_nats": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("read", [artifacts.read_csv, artifacts.read_json, artifacts.read_safetensors])
def test_a_missing_file_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(InputError, match="absent"):
        read(tmp_path / "absent")


def test_truncated_files_are_told(tmp_path: Path) -> None:
    artifacts.write_safetensors(tmp_path / "m.safetensors", TENSORS)
    artifacts.write_csv(tmp_path / "t.csv", TABLE)
    artifacts.write_json(tmp_path / "j.json", {"a": 1})
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"m\.safetensors: is truncated"):
        artifacts.read_safetensors(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"t\.csv: ends in the middle of a line"):
        artifacts.read_csv(tmp_path / "t.csv")
    with pytest.raises(InputError, match=r"j\.json: line 2: is not JSON"):
        artifacts.read_json(tmp_path / "j.json")


def test_wrong_content_is_told(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    artifacts.write_csv(tmp_path / "t.csv", TABLE)
    with pytest.raises(InputError, match="lacks the column bits_per_dim; it has kl_nats, estimator, seed"):
        artifacts.read_csv(tmp_path / "t.csv", ["seed", "bits_per_dim"])
    artifacts.write_safetensors(tmp_path / "m.safetensors", TENSORS)
    with pytest.raises(InputError, match="lacks the tensor means; it has half, weights"):
        artifacts.read_safetensors(tmp_path / "m.safetensors", ["means", "half"])
    save_file({"a": torch.ones(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match="was not written by this package"):
        artifacts.read_safetensors(tmp_path / "foreign.safetensors")
    (tmp_path / "ragged.csv").write_text("a,b\n1,2\n1,2,3\n")
    with pytest.raises(InputError, match=r"ragged\.csv: is not a table"):
        artifacts.read_csv(tmp_path / "ragged.csv")

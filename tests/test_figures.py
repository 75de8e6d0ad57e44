"""Figures, drawn from the reference's tables, are the same to the byte in every process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DRAW = """
import hashlib, importlib, json, sys
from pathlib import Path
from diffusion_density.machine.errors import InputError
from diffusion_density.studies.declaration import studies
from diffusion_density.studies.shared import style
found, reference, out = {}, Path(sys.argv[1]), Path(sys.argv[2])
for study in studies():
    for name, draw in importlib.import_module(f"diffusion_density.studies.{study}.figures").FIGURES.items():
        try:
            figure = draw(reference / study / "tables")
        except InputError:  # of images and large tables, which the reference has not
            continue
        style.save(figure, out / f"{name}.svg")
        found[f"{study}/{name}"] = hashlib.sha256((out / f"{name}.svg").read_bytes()).hexdigest()
print(json.dumps(found))
"""


@pytest.mark.slow
def test_no_figure_depends_on_the_order_of_sets(tmp_path: Path) -> None:
    """Strings hash otherwise in every process, so that sets of them are in another order."""
    found = []
    for seed in ("1", "2"):
        command = [sys.executable, "-c", DRAW, str(ROOT / "results/reference"), str(tmp_path)]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        drawn = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(drawn.stdout))
    first, second = found
    assert len(first) > 25
    assert first == second

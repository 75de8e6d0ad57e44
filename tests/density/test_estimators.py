"""The list of estimators; other tests compare it with what the library returns and with the documentation."""

import subprocess
import sys

from diffusion_density.density.estimators import ESTIMATORS
from diffusion_density.studies.shared.style import ESTIMATOR_LOOKS


def test_the_list_needs_no_heavy_package() -> None:
    heavy = "{'torch', 'numpy', 'pandas', 'matplotlib'}"
    code = f"import sys, diffusion_density.density.estimators; print(*{heavy} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert found.stdout.strip() == ""


def test_no_two_estimators_look_alike() -> None:
    looks = {(look["color"], look["ls"], look["marker"]) for look in ESTIMATOR_LOOKS.values()}
    labels = {estimator.label for estimator in ESTIMATORS.values()}
    assert len(looks) == len(labels) == len(ESTIMATORS)

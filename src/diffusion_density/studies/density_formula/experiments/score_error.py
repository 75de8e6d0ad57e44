r"""How far a wrong score puts the formula below the density of its own reverse SDE.

For perturbed scores of several sizes (`studies.shared.perturbation`), at points along x: the log densities of the data
and of the reverse SDE, the formula, and the gap between the last two with its prediction. Both sides of the gap are of
the noised point at s_start: log p^SDE is averaged over x_s given x there.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch

from diffusion_density.density.formula import expectation
from diffusion_density.machine import artifacts
from diffusion_density.process.fokker_planck import marginals
from diffusion_density.studies.density_formula.sizes import ScoreErrors
from diffusion_density.studies.shared.perturbation import NODES, SCHEDULE, Perturbed, expected_log_prob, forward_gap
from diffusion_density.studies.shared.targets import one_dimensional_mixture

POINTS = torch.linspace(-3.0, 2.5, 25, dtype=torch.float64)


def run(sizes: ScoreErrors, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Write one row for every size of the error and point: the densities, the formula, the gap and its prediction."""
    mixture = one_dimensional_mixture()
    exact = mixture.diffused(SCHEDULE)
    tables = []
    for size in sizes.sizes:
        model = Perturbed(exact, size)
        density = marginals(model, cells=sizes.cells, steps=sizes.steps)
        log_prob = expected_log_prob(density, POINTS)
        formula = expectation(model, POINTS[:, None], rule="quadrature", steps=NODES)
        columns = {
            "x": POINTS,
            "log_prob_data_nats": mixture.log_prob(POINTS[:, None]),
            "log_prob_sde_nats": log_prob,
            "formula_nats": formula,
            "gap_nats": log_prob - formula,
            "predicted_gap_nats": forward_gap(model, density, POINTS),
        }
        tables.append(pd.DataFrame({"size": size} | {name: value.numpy() for name, value in columns.items()}))
    artifacts.write_csv(outputs["score_error"], pd.concat(tables))

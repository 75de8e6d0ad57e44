r"""Estimates of log p side by side, image by image, on networks trained on digits.

For one noise prediction, at each image x and in nats:

* ``formula``: the density formula by quadrature in log-SNR, in expectation below the log density of the reverse SDE;
* ``sum``: the paper's DDPM sum of T steps, below the former in the mean by what the steps lose;
* ``chain``: log of the mean weight of several paths of the chain of the same T steps, whose ELBO the sum is: between
  the sum and the log density of the chain, the reverse SDE in T steps;
* ``flow``: the log density of the probability-flow ODE, exact up to its solver, of which nothing is promised here;
* ``rows``: the sum over rows of the formula for p(row | rows above), with the network of rows: another model's bound.

The same images with the same dequantization noise serve all of them.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from diffusion_density.density.chain import chain
from diffusion_density.density.formula import formula
from diffusion_density.density.ode.flow import flow
from diffusion_density.density.result import LogDensity
from diffusion_density.machine import artifacts
from diffusion_density.networks.mlp import MLP
from diffusion_density.process.model import DiffusionModel
from diffusion_density.studies.density_formula.experiments import train_digits as digits
from diffusion_density.studies.density_formula.networks import PREDICTION, SCHEDULE, WEIGHTINGS
from diffusion_density.studies.density_formula.sizes import DigitsEvaluation, DigitsJob
from diffusion_density.studies.shared.seeds import seeded

_STREAM = 15_485_863


def run(sizes: DigitsJob, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Write the table: one row per network, image and estimator.

    Raises:
        InputError: if the file of networks does not fit the run, or there are fewer test images.
    """
    evaluation, seeds = sizes.evaluation, sizes.run.seeds
    networks = digits.load(inputs["models"], sizes.run)
    x = digits.held_out(evaluation.points).x
    parts = []
    places = [(weighting, seed) for weighting in WEIGHTINGS for seed in seeds]
    flows = _flows(networks["images"], x, evaluation)
    with tqdm(total=len(places) + len(seeds), desc="digits", unit="network") as bar:
        for index, (weighting, seed) in enumerate(places):
            model = DiffusionModel(networks["images"][index], SCHEDULE, PREDICTION)
            for name, result in (_estimates(model, x, evaluation) | {"flow": flows[index]}).items():
                parts.append(_rows(name, weighting, seed, result))
            bar.update()
        for index, seed in enumerate(seeds):
            model = DiffusionModel(networks["rows"][index], SCHEDULE, PREDICTION)
            parts.append(_rows("rows", "likelihood", seed, by_rows(model, x, evaluation)))
            bar.update()
    artifacts.write_csv(outputs["digit_estimates"], pd.concat(parts))


def _estimates(model: DiffusionModel, x: Tensor, sizes: DigitsEvaluation) -> dict[str, LogDensity]:
    generator = seeded(_STREAM)
    return {
        "formula": formula(model, x, rule="quadrature", steps=sizes.nodes, throws=sizes.throws, generator=generator),
        "sum": formula(model, x, rule="sum", steps=sizes.steps, throws=sizes.throws, generator=generator),
        "chain": chain(model, x, steps=sizes.steps, paths=sizes.paths, generator=generator),
    }


def _flows(networks: MLP, x: Tensor, sizes: DigitsEvaluation) -> list[LogDensity]:
    """The flow of every network of a stack, by one solve of all of them."""
    count = len(networks.skip)
    model = DiffusionModel(networks.side_by_side(), SCHEDULE, PREDICTION)
    result = flow(model, x.repeat(count, 1), rtol=sizes.tolerance, atol=sizes.tolerance)
    return [
        LogDensity(value, None, result.kind, result.density, result.network_evaluations)
        for value in result.value.split(len(x))
    ]


def by_rows(model: DiffusionModel, x: Tensor, sizes: DigitsEvaluation) -> LogDensity:
    """The formula of every row given those above it, summed over the rows of an image."""
    generator = seeded(_STREAM)
    row, above = digits.row_points(x)
    result = formula(
        model.given(above), row, rule="quadrature", steps=sizes.nodes, throws=sizes.throws, generator=generator
    )
    assert result.stderr is not None
    value = result.value.reshape(-1, digits.ROWS).sum(1)
    stderr = result.stderr.square().reshape(-1, digits.ROWS).sum(1).sqrt()
    return LogDensity(value, stderr, "lower", "sde", result.network_evaluations * digits.ROWS)


def _rows(estimator: str, weighting: str, seed: int, result: LogDensity) -> pd.DataFrame:
    count = len(result.value)
    stderr = torch.full((count,), torch.nan) if result.stderr is None else result.stderr
    return pd.DataFrame(
        {
            "estimator": estimator,
            "weighting": weighting,
            "seed": seed,
            "image": range(count),
            "density": result.density,
            "kind": result.kind,
            "log_prob_nats": result.value.double().numpy(),
            "stderr_nats": stderr.double().numpy(),
            "network_evaluations": result.network_evaluations,
        }
    )

"""What the command line does with tables of points: score them, train on them, sample more of them."""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from diffusion_density import artifacts, saved
from diffusion_density.density.flow import flow
from diffusion_density.density.path_integral import path_integral
from diffusion_density.density.result import STATUS, LogDensity
from diffusion_density.errors import InputError
from diffusion_density.mixtures import GaussianMixture
from diffusion_density.model import Model
from diffusion_density.sampling.samplers import sample as draw
from diffusion_density.schedules import VariancePreserving
from diffusion_density.training.stack import Member, train_stack

Estimator = Literal["flow", "flow_hutchinson", "path_integral"]


def read_points(path: Path) -> Tensor:
    """The points of a CSV with a header, one a row, every column a coordinate: (N, D) in double precision.

    Raises:
        InputError: naming the row and column of the first cell that is no finite number.
    """
    table = artifacts.read_csv(path)
    if table.empty:
        raise InputError(f"{path}: holds no points")
    values = table.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    rows, columns = np.nonzero(~np.isfinite(values))
    if len(rows):
        cell = table.iloc[rows[0], columns[0]]
        column = table.columns[columns[0]]
        raise InputError(f"{path}: row {rows[0] + 1}, column {column!r}: {cell!s} is not a finite number")
    return torch.tensor(values)


def read_mixture(path: Path) -> GaussianMixture:
    """A mixture from JSON with the keys weights (K), means (K×D) and covariances (K×D×D).

    Raises:
        InputError: naming the key that is missing, unknown or wrong.
    """
    value = artifacts.read_json(path)
    keys = {"weights", "means", "covariances"}
    if not isinstance(value, dict) or set(value) != keys:
        got = ", ".join(sorted(map(str, value))) if isinstance(value, dict) else type(value).__name__
        raise InputError(f"{path}: the keys weights, means and covariances are expected, got {got}")
    try:
        return GaussianMixture(**{key: torch.tensor(value[key], dtype=torch.float64) for key in keys})
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}") from None


def score(
    model: Model, points: Tensor, estimator: Estimator, *, tolerance: float, throws: int, probes: int, seed: int
) -> pd.DataFrame:
    """log p of every point, with its standard error and what it promises: one row a point.

    Raises:
        InputError: for settings that the estimator refuses.
    """
    result = _estimate(model, points, estimator, tolerance, throws, probes, torch.Generator().manual_seed(seed))
    status = result.status if result.status is not None else torch.zeros(len(points), dtype=torch.long)
    return pd.DataFrame(
        {
            "point": range(1, len(points) + 1),
            "log_prob_nats": result.value.double().numpy(),
            "stderr_nats": np.nan if result.stderr is None else result.stderr.double().numpy(),
            "estimator": estimator,
            "kind": result.kind,
            "of": result.of,
            "network_evaluations": result.network_evaluations,
            "status": [STATUS[code] for code in status.tolist()],
        }
    )


def _estimate(
    model: Model, points: Tensor, estimator: Estimator, tolerance: float, throws: int, probes: int, g: torch.Generator
) -> LogDensity:
    if estimator == "path_integral":
        return path_integral(model, points, throws=throws, generator=g)
    if estimator == "flow_hutchinson":
        return flow(model, points, rtol=tolerance, atol=tolerance, divergence="hutchinson", probes=probes, generator=g)
    return flow(model, points, rtol=tolerance, atol=tolerance)


def load(model: Path | None, mixture: Path | None, dimension: int) -> Model:
    """The model of a file that `train` wrote, or the exact diffusion of a mixture, for points of ``dimension`` numbers.

    Raises:
        InputError: if not exactly one is given, or it has another dimension.
    """
    if (model is None) == (mixture is None):
        raise InputError("give either --model or --mixture")
    chosen: Model
    if mixture is not None:
        exact = read_mixture(mixture)
        found, chosen = exact.dimension, exact.diffused(VariancePreserving())
    else:
        assert model is not None
        trained, settings = saved.load(model)
        assert isinstance(trained.network, torch.nn.Module)
        trained.network.double()
        found, chosen = settings.dimension, trained
    if found != dimension:
        raise InputError(f"{model or mixture}: has {found} dimensions, the points have {dimension} columns")
    return chosen


def train(
    points: Tensor,
    settings: saved.ModelSettings,
    out: Path,
    *,
    throws: int,
    epochs: int,
    learning_rate: float,
    seed: int,
) -> None:
    """Train one network on points (N, D) and write it.

    Raises:
        InputError: if there are fewer points than a minibatch holds.
        NumericalError: if the loss is not finite.
    """
    batch = 32
    data = points[: len(points) // batch * batch].float()
    if not len(data):
        raise InputError(f"training needs at least {batch} points, got {len(points)}")
    network = settings.build(torch.Generator().manual_seed(seed))
    steps = epochs * len(data) // batch
    training = train_stack(
        [Member(network, settings.prediction, "unit", data, seed)],
        settings.schedule.build(),
        throws=throws,
        batch_size=batch,
        learning_rate=learning_rate,
        ema=0.99,
        checkpoints=[steps],
    )
    for _, stack in tqdm(training, total=steps, desc="training", unit="step"):
        if stack is not None:
            saved.save(out, stack[0], settings)


def sample(model: Path, n: int, *, steps: int, stochasticity: float, seed: int) -> pd.DataFrame:
    """n samples of a saved model, one a row.

    Raises:
        InputError: for a file that is no model, or counts that make no sense.
    """
    trained, settings = saved.load(model)
    generator = torch.Generator().manual_seed(seed)
    x = draw(trained, n, (settings.dimension,), steps=steps, stochasticity=stochasticity, generator=generator)
    return pd.DataFrame(x.numpy(), columns=[f"x{i + 1}" for i in range(settings.dimension)])

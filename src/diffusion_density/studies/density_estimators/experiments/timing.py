"""What one sample costs by each estimator, and which accuracy it has for that.

*Seconds* (one row per measurement): one ODE solve per point and one path integral per point, as in Premkumar 2024 (the
shortest of several of the same point), and both for a whole batch, the fair comparison on parallel hardware.
*Trade-off* (one row per setting): root-mean-square error against seconds per point, on the exact score of a mixture,
where the truth is known, and on a trained network, where the error is that against the estimator's own limit (a
double-precision solve at a tolerance of 1e-9; for the path integral, which is unbiased for its limit, its standard
error).
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from diffusion_density.density.ode.flow import flow
from diffusion_density.density.path_integral.plain import path_integral
from diffusion_density.density.result import LogDensity
from diffusion_density.machine import artifacts
from diffusion_density.process.model import Model
from diffusion_density.studies.density_estimators.experiments import dataset as data
from diffusion_density.studies.density_estimators.models import SCHEDULE, load
from diffusion_density.studies.density_estimators.sizes import Timing, TimingJob
from diffusion_density.studies.shared.double import in_double
from diffusion_density.studies.shared.seeds import seeded

TOLERANCE = 1e-5  # of the timed solves
REFERENCE = 1e-9  # of the solve that stands for the limit
Estimate = Callable[[Tensor], LogDensity]
ROUNDING = 1e-6  # tolerances below need double precision


def run(sizes: TimingJob, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Time the estimators on the first trained network of a run, and on its mixture, and write both tables.

    Raises:
        InputError: if a file does not fit the run.
    """
    timing = sizes.timing
    mixtures, _ = data.load(inputs["dataset"], sizes.run)
    trained = load(inputs["models"], sizes.run)[-1].model(0)
    exact = mixtures[0].diffused(SCHEDULE)
    generator = seeded(len(mixtures[0].weights))
    x = mixtures[0].sample(timing.batch, generator=generator, dtype=torch.float32)
    truth = mixtures[0].log_prob(x.double())
    artifacts.write_csv(outputs["timing"], pd.DataFrame(_seconds(trained, x, timing, generator)))
    fine = in_double(trained)
    limit = flow(fine, x.double(), rtol=REFERENCE, atol=REFERENCE).value
    rows = _tradeoff("exact", exact, exact, x, truth, truth, timing, generator)
    rows += _tradeoff("trained", trained, fine, x, limit, None, timing, generator)
    artifacts.write_csv(outputs["tradeoff"], pd.DataFrame(rows))


def _timed(estimate: Estimate, points: Tensor) -> tuple[LogDensity, float]:
    begin = time.perf_counter()
    result = estimate(points)
    return result, time.perf_counter() - begin


def _seconds(model: Model, x: Tensor, timing: Timing, generator: torch.Generator) -> list[dict[str, object]]:
    throws = timing.throws[len(timing.throws) // 2]
    estimators: dict[str, Estimate] = {
        "flow": partial(flow, model, rtol=TOLERANCE, atol=TOLERANCE),
        "path_integral": partial(path_integral, model, throws=throws, generator=generator),
    }
    rows = []
    for name, estimate in estimators.items():
        estimate(x[:1])  # the first call pays for set-up
        modes = [("single", i, x[i : i + 1]) for i in range(timing.points)]
        modes += [("batch", i, x) for i in range(timing.repeats)]
        for mode, index, points in tqdm(modes, desc=f"{name}, seconds", mininterval=2):
            # a point's shortest of several times is its own: the others hold what else the machine did
            result, elapsed = _best(estimate, points, timing.repeats if mode == "single" else 1)
            rows.append(
                {
                    "estimator": name,
                    "mode": mode,
                    "index": index,
                    "points": len(points),
                    "seconds_per_point": elapsed / len(points),
                    "network_evaluations": result.network_evaluations,
                }
            )
    return rows


def _tradeoff(
    field: str,
    model: Model,
    fine: Model,
    x: Tensor,
    flow_limit: Tensor,
    integral_limit: Tensor | None,
    timing: Timing,
    generator: torch.Generator,
) -> list[dict[str, object]]:
    """Error against seconds; where the path integral's limit is unknown its error is its standard error.

    ``fine`` is the model for points in double precision.
    """
    rows = []
    for tolerance in tqdm(timing.tolerances, desc=f"flow, {field}"):
        coarse = tolerance >= ROUNDING
        points = x if coarse else x.double()
        solve = partial(flow, model if coarse else fine, rtol=tolerance, atol=tolerance)
        result, elapsed = _best(solve, points, timing.repeats)
        rows.append(_row(field, "flow", tolerance, elapsed / len(x), result, result.value - flow_limit))
    for throws in tqdm(timing.throws, desc=f"path integral, {field}"):
        # a bounded number of points, so that large throw counts do not take the whole study's time
        few = x[: max(1, min(len(x), timing.batch * timing.throws[0] * 10 // throws))]
        result, elapsed = _timed(partial(path_integral, model, throws=throws, generator=generator), few)
        assert result.stderr is not None
        error = result.stderr if integral_limit is None else result.value - integral_limit[: len(few)]
        rows.append(_row(field, "path_integral", float(throws), elapsed / len(few), result, error))
    return rows


def _best(estimate: Estimate, points: Tensor, repeats: int) -> tuple[LogDensity, float]:
    """The result and the shortest of several times."""
    runs = [_timed(estimate, points) for _ in range(repeats)]
    return runs[0][0], min(elapsed for _, elapsed in runs)


def _row(
    field: str, estimator: str, setting: float, seconds: float, result: LogDensity, error: Tensor
) -> dict[str, object]:
    square = error.double().square()
    rms = square.mean().sqrt().item()
    return {
        "field": field,
        "estimator": estimator,
        "setting": setting,
        "points": len(error),
        "seconds_per_point": seconds,
        "network_evaluations": result.network_evaluations,
        "rms_error_nats": rms,
        "rms_error_stderr_nats": (square.std() / len(square) ** 0.5).item() / (2 * rms) if len(square) > 1 else None,
    }

"""Log p of points in nats, or bits/dim of images, by estimators named in the registry: a table with 95 % intervals.

The flow has a tolerance. All other estimators get the same budget, a number of network evaluations per point or image.
Every value of an image is an upper bound, see `density.images`; the dequantized versions of an image share its budget.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import inf

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from scipy.special import stdtrit
from torch import Tensor
from tqdm import tqdm

from diffusion_density.commands.score.settings import Settings
from diffusion_density.commands.score.summary import columns
from diffusion_density.density.chain import chain
from diffusion_density.density.estimators import ESTIMATORS
from diffusion_density.density.formula import formula
from diffusion_density.density.images.bits import bits_per_dim
from diffusion_density.density.images.bound import IMAGES_PER_CALL
from diffusion_density.density.images.dequantized import dequantized_bits, formula_bits
from diffusion_density.density.ode.flow import flow
from diffusion_density.density.path_integral.plain import path_integral
from diffusion_density.density.path_integral.quasi_random import POINT_SETS
from diffusion_density.density.result import STATUS, LogDensity
from diffusion_density.machine.errors import InputError
from diffusion_density.process.batches import ROWS_PER_CALL
from diffusion_density.process.model import Model

TIMES = 64  # times of the formula's quadrature, for points
PATHS = 8  # paths of the chain
EXACT_TRACE_LIMIT = 256  # dimensions up to which `all` contains the flow with the exact trace
ALL = "all"


def chosen(names: Sequence[str], images: bool, dimension: int) -> list[str]:
    """The names of the estimators, in the order given. ``all`` is every one that is cheap enough; none is the flow.

    Raises:
        InputError: for a name that is not known, or that has no meaning for points.
    """
    known = [name for name, one in ESTIMATORS.items() if (one.images if images else one.points)]
    if ALL in names:
        return [name for name in known if name != "flow" or dimension <= EXACT_TRACE_LIMIT]
    if wrong := [name for name in names if name not in known]:
        raise InputError(
            f"score: {wrong[0]!r} is no estimator of {'images' if images else 'points'};"
            f" one of {', '.join([*known, ALL])} is expected"
        )
    return list(dict.fromkeys(names)) or ["flow_hutchinson" if images else "flow"]


def log_prob(
    name: str,
    model: Model,
    x: Float[Tensor, "b *event"],
    settings: Settings,
    generator: torch.Generator,
    rows: int = ROWS_PER_CALL,
) -> LogDensity:
    """Log p of points in nats by one estimator.

    Args:
        name: in the registry.
        model: the score and its schedule.
        x: (B, *) points.
        settings: tolerance, throws and probes.
        generator: draws all random numbers.
        rows: the largest number of rows of one network call, of the path integral.
    """
    throws = settings.throws
    match name:
        case "path_integral":
            return path_integral(model, x, throws=throws, generator=generator, chunk=rows)
        case "reduced":
            return path_integral(model, x, throws=throws, method="reduced", generator=generator, chunk=rows)
        case "formula":
            noises = max(4, throws // TIMES // 2 * 2)
            return formula(model, x, rule="quadrature", steps=TIMES, throws=noises, generator=generator)
        case "chain":
            return chain(model, x, steps=throws // PATHS + 1, paths=PATHS, generator=generator)
        case "flow":
            return flow(model, x, rtol=settings.tolerance, atol=settings.tolerance)
    return flow(
        model,
        x,
        rtol=settings.tolerance,
        atol=settings.tolerance,
        divergence="hutchinson",
        probes=settings.probes,
        generator=generator,
    )


def bits(
    name: str,
    model: Model,
    x: UInt8[Tensor, "b c h w"],
    levels: int,
    settings: Settings,
    generator: torch.Generator,
) -> LogDensity:
    """Bits/dim of images of ``levels`` levels by one estimator; arguments as of :func:`log_prob`."""
    throws, draws = settings.throws, settings.draws
    match name:
        case "bound":
            return bits_per_dim(model, x, levels=levels, estimator="bound", throws=throws, generator=generator)
        case "formula":
            return formula_bits(model, x, levels=levels, steps=throws // 4, throws=4, generator=generator)
        case "flow" | "flow_hutchinson":
            return bits_per_dim(
                model,
                x,
                levels=levels,
                dequantization=settings.dequantization,
                draws=draws,
                divergence="exact" if name == "flow" else "hutchinson",
                probes=settings.probes,
                rtol=settings.tolerance,
                atol=settings.tolerance,
                generator=generator,
            )
    each = replace(settings, throws=throws // draws)
    return dequantized_bits(
        model,
        x,
        lambda model, z: log_prob(name, model, z, each, generator, IMAGES_PER_CALL),
        levels=levels,
        dequantization=settings.dequantization,
        draws=draws,
        generator=generator,
    )


def score_table(
    model: Model, x: Tensor, names: Sequence[str], settings: Settings, levels: int | None = None
) -> pd.DataFrame:
    """One row per estimator and point, or image where their number of levels is given.

    Args:
        model: the score and its schedule.
        x: (B, D) points, or (B, C, H, W) uint8 images.
        names: estimators, from :func:`chosen`.
        settings: of all of them.
        levels: of the images.

    Raises:
        InputError: for settings that an estimator refuses.
    """
    parts = []
    for name in tqdm(names, desc="score", unit="estimator", disable=len(names) < 2):
        generator = torch.Generator(x.device).manual_seed(settings.seed)
        if levels is None:
            result = log_prob(name, model, x, settings, generator)
        else:
            result = bits(name, model, x, levels, settings, generator)
        parts.append(_rows(name, result, _repeats(name, levels is not None, settings), levels is not None))
    return pd.concat(parts, ignore_index=True)


def _repeats(name: str, images: bool, settings: Settings) -> float:
    """The number of independent repeats that the standard error comes from, infinite where they are many."""
    estimator = ESTIMATORS[name]
    if images:
        return settings.draws if estimator.images == "versions" else inf
    return {"probes": settings.probes, "point sets": POINT_SETS, "paths": PATHS}.get(estimator.repeats, inf)


def _rows(name: str, result: LogDensity, repeats: float, images: bool) -> pd.DataFrame:
    """The rows of one estimator. The error is 0 where nothing is random, and missing where it can't be estimated."""
    number, column, unit = columns(images)
    value = result.value.double().cpu().numpy()
    if result.stderr is not None:
        stderr = result.stderr.double().cpu().numpy()
    else:
        stderr = np.where(np.isfinite(value) & (result.kind == "exact"), 0.0, np.nan)
    half = stderr * stdtrit(repeats - 1, 0.975) if repeats > 1 else np.full_like(stderr, np.nan)
    status = [0] * len(value) if result.status is None else result.status.tolist()
    return pd.DataFrame(
        {
            number: range(1, len(value) + 1),
            "estimator": name,
            "density": result.density,
            "kind": result.kind,
            column: value,
            f"stderr_{unit}": stderr,
            f"ci_low_{unit}": value - half,
            f"ci_high_{unit}": value + half,
            "network_evaluations": result.network_evaluations,
            "status": [STATUS[code] for code in status],
        }
    )

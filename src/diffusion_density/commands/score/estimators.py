"""The estimators of the verb `score` by name, for points and for images, and their tables.

All but the flow get the same budget, network evaluations a point; the flow has a tolerance. Points are scored in nats.
Of images the unit is bits/dim, and every value an upper bound: see `density.bits` and `density.dequantized`. There the
tolerance is per dimension, and the budget is shared by the dequantized versions.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from scipy.special import stdtrit
from torch import Tensor
from tqdm import tqdm

from diffusion_density.density.chain import chain
from diffusion_density.density.formula import formula
from diffusion_density.density.images.bits import bits_per_dim
from diffusion_density.density.images.bound import IMAGES_PER_CALL
from diffusion_density.density.images.dequantization import Scheme
from diffusion_density.density.images.dequantized import Estimate, dequantized_bits, formula_bits
from diffusion_density.density.ode.flow import flow
from diffusion_density.density.path_integral.plain import path_integral
from diffusion_density.density.path_integral.quasi_random import POINT_SETS
from diffusion_density.density.result import STATUS, LogDensity
from diffusion_density.machine.errors import InputError
from diffusion_density.process.batches import ROWS_PER_CALL
from diffusion_density.process.model import Model

NODES = 64  # times of the formula's quadrature, at points
PATHS = 8  # of the chain's weights
MOST = 256  # dimensions, beyond which `all` leaves out the exact trace
ALL = "all"


@dataclass(frozen=True)
class Settings:
    """What the estimators are run with.

    Attributes:
        tolerance: of the flow, relative and absolute.
        throws: network evaluations a point or image of all other estimators.
        probes: Rademacher probes of a flow without the exact trace, for each point or version.
        draws: dequantized versions of an image.
        dequantization: their law.
        seed: of everything random; each estimator starts from it.
    """

    tolerance: float = 1e-6
    throws: int = 8192
    probes: int = 16
    draws: int = 4
    dequantization: Scheme = "truncated_normal"
    seed: int = 0


@dataclass(frozen=True)
class Estimator:
    """One estimator of the table.

    Attributes:
        run: from model, points or images with their levels, settings and generator to the estimate.
        freedom: degrees of freedom of its standard error, infinite for many independent terms.
    """

    run: Callable[..., LogDensity]
    freedom: Callable[[Settings], float] = lambda _: np.inf


def _at_points(name: str, settings: Settings, generator: torch.Generator, budget: int, rows: int) -> Estimate:
    """An estimator of log p at points, with ``budget`` network evaluations a point and calls of ``rows`` rows."""
    match name:
        case "path_integral":
            return partial(path_integral, throws=budget, generator=generator, chunk=rows)
        case "reduced":
            return partial(path_integral, throws=budget, method="reduced", generator=generator, chunk=rows)
        case "chain":
            return partial(chain, steps=budget // PATHS + 1, paths=PATHS, generator=generator)
    solve = partial(flow, rtol=settings.tolerance, atol=settings.tolerance)
    if name == "flow":
        return solve
    return partial(solve, divergence="hutchinson", probes=settings.probes, generator=generator)


def _points(name: str) -> Callable[..., LogDensity]:
    def run(model: Model, x: Float[Tensor, "b d"], settings: Settings, generator: torch.Generator) -> LogDensity:
        if name == "formula":
            noises = max(4, settings.throws // NODES // 2 * 2)
            return formula(model, x, rule="quadrature", steps=NODES, throws=noises, generator=generator)
        return _at_points(name, settings, generator, settings.throws, ROWS_PER_CALL)(model, x)

    return run


def _images(name: str) -> Callable[..., LogDensity]:
    def run(
        model: Model, x: UInt8[Tensor, "b c h w"], levels: int, settings: Settings, generator: torch.Generator
    ) -> LogDensity:
        if name == "bound":
            return bits_per_dim(model, x, levels=levels, estimator="bound", throws=settings.throws, generator=generator)
        if name == "formula":
            return formula_bits(model, x, levels=levels, steps=settings.throws // 4, throws=4, generator=generator)
        if name in ("flow", "flow_hutchinson"):
            return bits_per_dim(
                model,
                x,
                levels=levels,
                dequantization=settings.dequantization,
                draws=settings.draws,
                divergence="exact" if name == "flow" else "hutchinson",
                probes=settings.probes,
                rtol=settings.tolerance,
                atol=settings.tolerance,
                generator=generator,
            )
        estimate = _at_points(name, settings, generator, settings.throws // settings.draws, IMAGES_PER_CALL)
        return dequantized_bits(
            model,
            x,
            estimate,
            levels=levels,
            dequantization=settings.dequantization,
            draws=settings.draws,
            generator=generator,
        )

    return run


POINTS = {
    "flow": Estimator(_points("flow")),
    "flow_hutchinson": Estimator(_points("flow_hutchinson"), lambda s: s.probes - 1),
    "path_integral": Estimator(_points("path_integral")),
    "reduced": Estimator(_points("reduced"), lambda _: POINT_SETS - 1),
    "formula": Estimator(_points("formula")),
    "chain": Estimator(_points("chain"), lambda _: PATHS - 1),
}
PICTURES = {
    name: Estimator(_images(name), lambda s: s.draws - 1)
    for name in ("flow", "flow_hutchinson", "path_integral", "reduced", "chain")
} | {name: Estimator(_images(name)) for name in ("formula", "bound")}


def chosen(names: Sequence[str], images: bool, dimension: int) -> list[str]:
    """The names of the estimators, in the order given; ``all`` is every one that is cheap enough.

    Raises:
        InputError: for a name that is not known, or has no meaning for points.
    """
    known = list(PICTURES if images else POINTS)
    if ALL in names:
        return [name for name in known if name != "flow" or dimension <= MOST]
    if wrong := [name for name in names if name not in known]:
        raise InputError(
            f"score: {wrong[0]!r} is no estimator of {'images' if images else 'points'};"
            f" one of {', '.join([*known, ALL])} is expected"
        )
    return list(dict.fromkeys(names)) or ["flow_hutchinson" if images else "flow"]


def score_points(model: Model, x: Float[Tensor, "b d"], names: Sequence[str], settings: Settings) -> pd.DataFrame:
    """log p of every point in nats by every estimator named, with 95 % intervals: one row an estimator and point.

    Raises:
        InputError: for settings that an estimator refuses.
    """
    parts = _estimates(POINTS, names, settings, model, x)
    return pd.concat([_rows("point", "log_prob_nats", "nats", *part) for part in parts], ignore_index=True)


def score_images(
    model: Model, x: UInt8[Tensor, "b c h w"], levels: int, names: Sequence[str], settings: Settings
) -> pd.DataFrame:
    """bits/dim of every image by every estimator named, with 95 % intervals: one row an estimator and image.

    Raises:
        InputError: for settings that an estimator refuses.
    """
    unit = "bits_per_dim"
    parts = _estimates(PICTURES, names, settings, model, x, levels)
    return pd.concat([_rows("image", unit, unit, *part) for part in parts], ignore_index=True)


def _estimates(
    estimators: Mapping[str, Estimator], names: Sequence[str], settings: Settings, model: Model, x: Tensor, *levels: int
) -> Iterator[tuple[str, float, LogDensity]]:
    """Each estimator's name, the degrees of freedom of its standard error, and its estimate."""
    for name in tqdm(names, desc="score", unit="estimator", disable=len(names) < 2):
        estimator = estimators[name]
        generator = torch.Generator(x.device).manual_seed(settings.seed)
        yield name, estimator.freedom(settings), estimator.run(model, x, *levels, settings, generator)


def _rows(label: str, column: str, unit: str, name: str, freedom: float, result: LogDensity) -> pd.DataFrame:
    """The rows of one estimator. Where nothing is random the error is 0; where it can't be told it is missing."""
    value = result.value.double().cpu().numpy()
    if result.stderr is not None:
        stderr = result.stderr.double().cpu().numpy()
    else:
        stderr = np.where(np.isfinite(value) & (result.kind == "exact"), 0.0, np.nan)
    half = stderr * stdtrit(freedom, 0.975) if freedom > 0 else np.full_like(stderr, np.nan)
    status = [0] * len(value) if result.status is None else result.status.tolist()
    return pd.DataFrame(
        {
            label: range(1, len(value) + 1),
            "estimator": name,
            "of": result.density,
            "kind": result.kind,
            column: value,
            f"stderr_{unit}": stderr,
            f"ci_low_{unit}": value - half,
            f"ci_high_{unit}": value + half,
            "network_evaluations": result.network_evaluations,
            "status": [STATUS[code] for code in status],
        }
    )

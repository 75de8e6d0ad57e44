"""How the cost of an estimate grows with points, dimension, throws and the width of the network.

One of the four varies at a time; the others keep their base value. The networks are trained briefly on mixtures of five
Gaussians, so that the field is realistic for an adaptive solver, whose tolerance never changes. The slope is that of
log seconds on log size over the larger half of the sizes: a slope of 1 means a cost in proportion to the size.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

import diffusion_density as dd
from benchmarks import fields
from benchmarks.timing import interleaved, spread
from diffusion_density.density.path_integral.plain import Method
from diffusion_density.density.result import LogDensity
from diffusion_density.process.model import Model
from diffusion_density.studies.shared import style

LABELS = {
    "points": "points",
    "dimension": "dimension",
    "throws": "throws per point",
    "width": "units of a hidden layer",
}
MARKS = {
    "flow": (style.COLOURS["flow"], "o"),
    "plain path integral": (style.COLOURS["score"], "s"),
    "reduced path integral": (style.COLOURS["path_integral"], "^"),
}


@dataclass(frozen=True)
class Base:
    """The values of the sizes that do not vary."""

    points: int = 512
    dimension: int = 3
    throws: int = 256
    width: int = 128


@dataclass(frozen=True)
class Sizes:
    """What is run."""

    base: Base = Base()
    points: tuple[int, ...] = (64, 256, 1024, 4096)
    dimension: tuple[int, ...] = (1, 3, 10, 30)
    throws: tuple[int, ...] = (16, 64, 256, 1024)
    width: tuple[int, ...] = (32, 64, 128, 256, 512)
    steps: int = 200
    tolerance: float = 1e-3
    repeats: int = 3


def run(sizes: Sizes) -> dict[str, Any]:
    """All measurements, for JSON."""
    model = cache(lambda dimension, width: fields.trained(fields.mixture(dimension), (width,) * 3, 16, sizes.steps))
    rows = []
    for varied in LABELS:
        for value in getattr(sizes, varied):
            at = replace(sizes.base, **{varied: value})
            rows += _timed(varied, at, model(at.dimension, at.width), sizes)
    return {
        "base": vars(sizes.base),
        "tolerance": sizes.tolerance,
        "threads": torch.get_num_threads(),
        "rows": rows,
        "slopes": _slopes(rows),
    }


def _estimates(at: Base, model: Model, x: Tensor, tolerance: float) -> dict[str, Callable[[], LogDensity]]:
    def integral(method: Method) -> LogDensity:
        generator = torch.Generator().manual_seed(5)
        return dd.density.path_integral(model, x, throws=at.throws, method=method, generator=generator)

    return {
        "flow": lambda: dd.density.flow(model, x, rtol=tolerance, atol=tolerance),
        "plain path integral": lambda: integral("plain"),
        "reduced path integral": lambda: integral("reduced"),
    }


def _timed(varied: str, at: Base, model: Model, sizes: Sizes) -> list[dict[str, Any]]:
    x = fields.mixture(at.dimension).sample(at.points, generator=torch.Generator().manual_seed(6), dtype=torch.float32)
    calls = _estimates(at, model, x, sizes.tolerance)
    if varied == "throws":
        del calls["flow"]  # it has none
    evaluations = {name: call().network_evaluations for name, call in calls.items()}
    times = interleaved(calls, sizes.repeats)
    return [
        {
            "varied": varied,
            "value": getattr(at, varied),
            "estimator": name,
            "evaluations": evaluations[name],
            "seconds": spread(times[name]),
        }
        for name in calls
    ]


def _slopes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    table = pd.DataFrame(rows).assign(median=[row["seconds"]["median"] for row in rows])
    slopes = []
    for (varied, estimator), part in table.groupby(["varied", "estimator"], sort=False):
        upper = part.tail(max(2, (len(part) + 1) // 2))
        slope = np.polyfit(np.log(upper["value"]), np.log(upper["median"]), 1)[0]
        slopes.append({"varied": varied, "estimator": estimator, "slope": float(slope)})
    return slopes


def report(result: dict[str, Any]) -> str:
    """A table of the slopes, with the seconds at the smallest and largest size."""
    rows = pd.DataFrame(result["rows"])
    lines = []
    for slope in result["slopes"]:
        part = rows[(rows["varied"] == slope["varied"]) & (rows["estimator"] == slope["estimator"])]
        first, last = part.iloc[0], part.iloc[-1]
        lines.append(
            {
                "varied": slope["varied"],
                "estimator": slope["estimator"],
                "from": f"{first['seconds']['median']:.3f} s at {first['value']}",
                "to": f"{last['seconds']['median']:.3f} s at {last['value']}",
                "slope": f"{slope['slope']:.2f}",
            }
        )
    return pd.DataFrame(lines).to_string(index=False)


def draw(result: dict[str, Any]) -> Figure:
    """Median and range of the seconds against each size: one line per estimator."""
    figure, axes = style.canvas(len(LABELS), height=2.6, share_y=True)
    for axis, (varied, label) in zip(axes, LABELS.items(), strict=True):
        for name, (colour, marker) in MARKS.items():
            rows = [row for row in result["rows"] if (row["varied"], row["estimator"]) == (varied, name)]
            sizes = [row["value"] for row in rows]
            middle, low, high = ([row["seconds"][key] for row in rows] for key in ("median", "min", "max"))
            axis.plot(sizes, middle, color=colour, marker=marker, markerfacecolor="w", label=name)
            axis.fill_between(sizes, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.set(xscale="log", yscale="log", xlabel=label)
        style.plain_log_ticks(axis, "x", sizes)
    axes[0].set_ylabel("seconds")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(MARKS))
    return figure

"""log p of points under one flow: this library and others, each at its cheapest tolerance with the required accuracy.

There are two fields in three dimensions, in single precision: a trained network and an analytic mixture. Every library
runs at several tolerances. Among those with a median error of at most the target, the one with the fewest evaluations
is its best. The best runs are timed again, in turns, with the precision of float32 matrix products that this library
sets (``medium``) and with torch's default (``highest``). Ratios compare with this library's seconds at its own setting
in the same turn. Errors are differences from torchdiffeq's dopri8 at 1e-9 in double precision, or from the closed form
of the mixture.

The floor of the network is the time of its matrix products only: operations per evaluation × evaluations, divided by
the measured rate of a product with the shape of the hidden layers. The rate is measured in the same turn, by repeating
the product until it has as many operations as this library needs.
"""

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks import fields, peers
from benchmarks.timing import interleaved, ratios, shown, spread
from diffusion_density.machine.runtime import matmul_error
from diffusion_density.networks.mlp import MLP
from diffusion_density.process.model import Model
from diffusion_density.studies.shared import style

MARKS = {  # a colour and a marker each
    "ours": (style.COLOURS["entropy"], "o"),
    "torchdiffeq": (style.COLOURS["score"], "s"),
    "flow_matching": (style.COLOURS["noise"], "^"),
    "zuko": (style.COLOURS["flow"], "D"),
    "scipy": (style.COLOURS["velocity"], "v"),
}
PRODUCTS = "products"  # their turn among the libraries'


@dataclass(frozen=True)
class Sizes:
    """What is run; errors in nats."""

    points: int = 4096
    widths: tuple[int, ...] = (256, 256, 256)
    frequencies: int = 64
    steps: int = 1500
    tolerances: tuple[float, ...] = tuple(10 ** (-k / 2) for k in range(2, 11))
    target: float = 1e-3
    repeats: int = 5


@dataclass(frozen=True)
class Case:
    """A field, its points and their true log density."""

    name: str
    model: Model
    x: Tensor
    truth: Tensor
    operations: int | None  # floating-point operations of the matrix products, per evaluation and point


def cases(sizes: Sizes) -> list[Case]:
    """The trained network, and the mixture that it was trained on, at samples of that mixture."""
    mixture = fields.mixture(3)
    x = mixture.sample(sizes.points, generator=torch.Generator().manual_seed(4), dtype=torch.float32)
    exact = mixture.diffused(fields.SCHEDULE)
    trained = fields.trained(mixture, sizes.widths, sizes.frequencies, sizes.steps)
    network = trained.network
    assert isinstance(network, MLP)
    weights = (value for name, value in network.layers.named_parameters() if name.endswith("weight"))
    operations = 2 * sum(matrix.numel() for matrix in (network.embed_point.frequencies, *weights))
    network.double()
    truth = peers.torchdiffeq(trained, x.double(), 1e-9, method="dopri8")[0]
    network.float()
    return [
        Case("trained network", trained, x, truth, operations),
        Case("analytic mixture", exact, x, exact.log_prob(x.double(), fields.SCHEDULE.s_start), None),
    ]


def run(sizes: Sizes) -> dict[str, Any]:
    """All measurements, for JSON."""
    solvers = [name for name in peers.SOLVERS if name not in peers.absent()]
    sweep, best = [], []
    for case in cases(sizes):
        rows = _swept(case, solvers, sizes)
        chosen: dict[str, dict[str, Any]] = {}
        for row in sorted(rows, key=lambda row: row["evaluations"], reverse=True):
            if _within(row, sizes.target):
                chosen[row["library"]] = row
        sweep += rows
        best += _timed(case, {name: chosen[name] for name in solvers if name in chosen}, sizes)
    return {
        "points": sizes.points,
        "dimension": 3,
        "dtype": "float32",
        "target_median_error_nats": sizes.target,
        "threads": torch.get_num_threads(),
        "versions": peers.versions(),
        "absent": peers.absent(),
        "sweep": sweep,
        "best": best,
    }


def _swept(case: Case, solvers: list[str], sizes: Sizes) -> list[dict[str, Any]]:
    """Run every library from loose to tight tolerances, until its error is a tenth of the target."""
    active, rows = list(solvers), []
    for name in solvers:
        _solve(case, name, sizes.tolerances[0])  # without timing: some libraries do work only in the first call
    for tolerance in sizes.tolerances:
        found = [_solve(case, name, tolerance) for name in active]
        active = [row["library"] for row in found if not _within(row, sizes.target / 10)]
        rows += found
    return rows


def _within(row: dict[str, Any], error: float) -> bool:
    return row["median_error"] is not None and row["median_error"] <= error


def _solve(case: Case, name: str, tolerance: float) -> dict[str, Any]:
    """One solve: its cost and its errors (None if a value is not finite)."""
    begin = time.perf_counter()
    value, evaluations = peers.SOLVERS[name](case.model, case.x, tolerance)
    elapsed = time.perf_counter() - begin
    error = (value.double() - case.truth).abs()
    errors = {"median_error": error.median(), "error_99": error.quantile(0.99), "max_error": error.max()}
    finite = bool(error.isfinite().all())
    return {
        "field": case.name,
        "library": name,
        "tolerance": tolerance,
        "seconds": elapsed,
        "evaluations": evaluations,
        **{key: number.item() if finite else None for key, number in errors.items()},
    }


def _timed(case: Case, chosen: dict[str, dict[str, Any]], sizes: Sizes) -> list[dict[str, Any]]:
    """Time the best run of each library in turns, at the current precision of products and at torch's default."""
    present = torch.get_float32_matmul_precision()
    precisions = dict.fromkeys((present, "highest"))
    calls = {
        (p, name): partial(_under, case, p, name, chosen[name]["tolerance"]) for p in precisions for name in chosen
    }
    repeated = 2 * sizes.points * sizes.widths[0] ** 2  # operations of one repeated product
    count = 0
    if case.operations is not None:
        count = math.ceil(case.operations * chosen["ours"]["evaluations"] * sizes.points / repeated)
        calls |= {(p, PRODUCTS): partial(_products, p, sizes.points, sizes.widths[0], count) for p in precisions}
    times = interleaved(calls, sizes.repeats)
    found = []
    for precision in precisions:
        torch.set_float32_matmul_precision(precision)
        machine = {"precision": precision, "product_error": matmul_error()}
        for name, row in chosen.items():
            taken = times[precision, name]
            result = row | machine | {"seconds": spread(taken), "times_ours": ratios(taken, times[present, "ours"])}
            if case.operations is not None:
                rates = [repeated * count / value for value in times[precision, PRODUCTS]]
                floor = [case.operations * row["evaluations"] * sizes.points / rate for rate in rates]
                result |= {"product_rate": spread(rates), "times_floor": ratios(taken, floor)}
            found.append(result)
    torch.set_float32_matmul_precision(present)
    return found


def _under(case: Case, precision: str, name: str, tolerance: float) -> None:
    torch.set_float32_matmul_precision(precision)
    peers.SOLVERS[name](case.model, case.x, tolerance)


def _products(precision: str, rows: int, width: int, count: int) -> None:
    torch.set_float32_matmul_precision(precision)
    sides, out = (torch.randn(rows, width), torch.randn(width, width)), torch.empty(rows, width)
    for _ in range(count):
        torch.mm(*sides, out=out)


def report(result: dict[str, Any]) -> str:
    """A table of the best runs."""
    lines = [
        f"{result['points']} points in R^{result['dimension']}, {result['dtype']}, {result['threads']} threads; "
        f"median error at most {result['target_median_error_nats']:g} nats",
        *(f"not installed: {name}" for name in result["absent"]),
    ]
    table = pd.DataFrame(
        {
            "field": row["field"],
            "products": row["precision"],
            "library": row["library"],
            "tolerance": f"{row['tolerance']:.0e}",
            "evaluations": row["evaluations"],
            "median, 99%, max error": f"{row['median_error']:.0e}, {row['error_99']:.0e}, {row['max_error']:.0e}",
            "seconds": shown(row["seconds"]),
            "times ours": shown(row["times_ours"]),
            "times floor": shown(row["times_floor"]) if "times_floor" in row else "",
        }
        for row in result["best"]
    )
    reached = {(row["field"], row["library"]) for row in result["best"]}
    missed = dict.fromkeys((row["field"], row["library"]) for row in result["sweep"])
    lines += [f"{name} does not reach it: {field}" for field, name in missed if (field, name) not in reached]
    return "\n".join([*lines, table.to_string(index=False)])


def draw(result: dict[str, Any]) -> Figure:
    """Median error against seconds: one line per library, with a filled marker at its best run."""
    names = list(dict.fromkeys(row["field"] for row in result["sweep"]))
    figure, axes = style.canvas(len(names), height=3.0, share_y=True)
    for axis, field in zip(axes, names, strict=True):
        for name, (colour, marker) in MARKS.items():
            rows = [row for row in result["sweep"] if (row["field"], row["library"]) == (field, name)]
            best = [row for row in result["best"] if (row["field"], row["library"]) == (field, name)][:1]
            seconds, errors = ([row[key] for row in rows] for key in ("seconds", "median_error"))
            axis.plot(seconds, errors, color=colour, marker=marker, markerfacecolor="w", label=name)
            if best:
                axis.plot(best[0]["seconds"]["median"], best[0]["median_error"], color=colour, marker=marker)
        axis.axhline(result["target_median_error_nats"], color=style.GREY, linestyle=":", linewidth=0.8)
        axis.set(xscale="log", yscale="log", xlabel=f"seconds for {result['points']:,} points", title=field)
        low, high = axis.get_xlim()
        ticks = (digit * 10.0**power for power in range(-6, 6) for digit in (1, 2, 5))
        style.plain_log_ticks(axis, "x", [tick for tick in ticks if low <= tick <= high])
    axes[0].set_ylabel("median error (nats)")
    axes[-1].legend()
    return figure

"""Every estimator of log p by its one name: what it estimates, what it promises, what it costs, how figures show it.

The command `score`, all figures and the table in the documentation read this list. It imports no torch. No job that
measures imports it, so that a new colour or label runs no measurement again; tests compare the list with what the
library returns. Colours are names of the palette of Okabe and Ito, see ``studies.shared.style``.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Estimator:
    """One estimator.

    Attributes:
        name: its name in tables and on the command line.
        call: how the library calls it.
        label: its name in figures.
        density: which of the two densities of a model it estimates.
        kind: what it promises for log p of a point. For bits/dim of an image every estimator gives an upper bound.
        cost: network evaluations per point. D is the dimension; capital letters and n are arguments of the call.
        repeats: the independent repeats that the standard error comes from; its degrees of freedom are one less than
            their number. Empty where nothing is random, or where they are many, so that the error is nearly normal.
        colour: of its lines and markers in figures.
        line: of its lines.
        marker: of its values.
        points: whether `score` uses it for points.
        images: how `score` uses it for images: on several dequantized ``versions`` of each image, whose spread then
            gives the standard error; on the image ``itself``; or not at all.
        samples: whether it draws its own points instead of taking given ones.
    """

    name: str
    call: str
    label: str
    density: Literal["flow", "sde"]
    kind: Literal["exact", "unbiased", "lower", "upper"]
    cost: str
    colour: str
    line: str
    marker: str
    repeats: Literal["probes", "point sets", "paths", ""] = ""
    points: bool = False
    images: Literal["versions", "itself", ""] = ""
    samples: bool = False


_ALL = (
    Estimator(
        "flow", 'flow(divergence="exact")', "flow, exact trace", "flow", "exact", "(1 + D) × solver calls",
        "purple", "-", "o", points=True, images="versions",
    ),
    Estimator(
        "flow_hutchinson", 'flow(divergence="hutchinson", probes=K)', "flow, Hutchinson", "flow", "unbiased",
        "(1 + K) × solver calls", "purple", "--", "o", "probes", points=True, images="versions",
    ),
    Estimator(
        "path_integral", "path_integral(throws=n)", "path integral, plain", "sde", "lower", "n",
        "blue", "--", "s", points=True, images="versions",
    ),
    Estimator(
        "reduced", 'path_integral(throws=n, method="reduced")', "path integral, reduced", "sde", "lower", "n",
        "blue", "-", "s", "point sets", points=True, images="versions",
    ),
    Estimator(
        "formula", 'formula(rule="quadrature", steps=T, throws=n)', "formula, quadrature", "sde", "lower", "T × n",
        "green", "-", "D", points=True, images="itself",
    ),
    Estimator(
        "trapezoid", 'formula(rule="trapezoid", steps=T, throws=n)', "formula, trapezoid", "sde", "lower", "T × n",
        "green", "--", "D",
    ),
    Estimator(
        "ddpm_sum", 'formula(rule="sum", steps=T, throws=n)', "formula, DDPM sum", "sde", "lower", "T × n",
        "orange", "-", "D",
    ),
    Estimator(
        "chain", "chain(steps=T, paths=K)", "chain, forward", "sde", "lower", "T × K",
        "vermillion", "-", "^", "paths", points=True, images="versions",
    ),
    Estimator(
        "reverse_chain", "reverse_chain(n, steps=T)", "chain, backward", "sde", "upper", "T",
        "vermillion", "--", "v", samples=True,
    ),
    Estimator(
        "tracking", "track(n, steps=N, stochasticity=1)", "tracking", "sde", "upper", "N",
        "black", "-", "X", samples=True,
    ),
    Estimator(
        "bound", 'bits_per_dim(estimator="bound", throws=n)', "variational bound", "sde", "lower", "n",
        "black", "-", "P", images="itself",
    ),
)  # fmt: skip
ESTIMATORS = {estimator.name: estimator for estimator in _ALL}


def page() -> str:
    """The list as a table in Markdown, for the documentation."""
    rows = [("name", "`dd.density.…`", "density", "log p", "network evaluations per point", "`score`")]
    for one in _ALL:
        scored = ", ".join(what for what, offered in (("points", one.points), ("images", one.images)) if offered)
        density = {"flow": "flow", "sde": "reverse SDE"}[one.density]
        promise = f"{one.kind} bound" if one.kind in ("lower", "upper") else one.kind
        own = ", at its own samples" if one.samples else ""
        rows.append((f"`{one.name}`", f"`{one.call}`", density, promise + own, one.cost, scored or "no"))
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])

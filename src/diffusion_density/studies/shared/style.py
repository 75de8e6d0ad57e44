"""One look for every figure: column widths, colours that colour-blind readers tell apart, the same bytes every time."""

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from diffusion_density.machine import artifacts

COLUMN, PAGE = 3.4, 7.0  # widths in inches: one column, and two
COLOURS = {  # of Okabe and Ito's palette
    "entropy": "#0072B2",
    "score": "#D55E00",
    "noise": "#009E73",
    "velocity": "#E69F00",
    "skip": "#000000",
    "flow": "#CC79A7",
    "path_integral": "#0072B2",
    "bound": "#0072B2",
    "uniform": "#D55E00",
    "truncated_normal": "#009E73",
    "variational": "#56B4E9",
}
GREY = "0.45"
_STYLE: dict[Any, Any] = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "figure.constrained_layout.use": True,
    "font.size": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "svg.fonttype": "none",
    "svg.hashsalt": "diffusion-density",
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}


def canvas(
    panels: int, width: float = PAGE, height: float = 2.6, *, columns: int | None = None, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, in rows of at most ``columns`` where given, each of that height."""
    mpl.use("agg")
    mpl.rcParams.update(_STYLE)
    columns = min(panels, columns or panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(width, rows * height))
    axes = figure.subplots(rows, columns, sharey=share_y, squeeze=False).flatten().tolist()
    for empty in axes[panels:]:
        empty.remove()
    for letter, axis in zip(ascii_lowercase, axes[:panels], strict=False):
        axis.set_title(letter, loc="left", fontweight="bold")
    return figure, axes[:panels]


def save(figure: Figure, path: Path) -> None:
    """Write ``path`` (.svg) and its .png twin at 200 dpi, atomically, the same bytes for the same figure."""
    with mpl.rc_context(_STYLE):
        for suffix, metadata in ((".svg", {"Date": None}), (".png", {"Software": None})):
            buffer = BytesIO()
            figure.savefig(buffer, format=suffix[1:], dpi=200, metadata=metadata)
            artifacts.write_bytes(path.with_suffix(suffix), buffer.getvalue())


def summarise(table: pd.DataFrame, by: Iterable[str], value: str) -> pd.DataFrame:
    """Mean of ``value`` in each group, and its standard error over the rows (networks of all mixtures and seeds)."""
    groups = table.groupby(list(by), sort=True)[value]
    return groups.agg(["mean", "sem"]).reset_index()


def curve(axis: Axes, x: ArrayLike, summary: pd.DataFrame, **style: Any) -> None:  # noqa: ANN401 (matplotlib's own keywords)
    """Means and standard errors against x."""
    axis.errorbar(x, summary["mean"], yerr=summary["sem"], capsize=1.5, elinewidth=0.8, **style)


def plain_log_ticks(axis: Axes, which: str, values: Iterable[float]) -> None:
    """Label the given values, and no others, on a logarithmic axis."""
    target = axis.xaxis if which == "x" else axis.yaxis
    values = list(values)
    target.set_major_locator(mpl.ticker.FixedLocator(values))
    target.set_major_formatter(mpl.ticker.FixedFormatter([f"{value:g}" for value in values]))
    target.set_minor_locator(mpl.ticker.NullLocator())

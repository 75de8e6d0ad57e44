"""One look for all figures: seaborn's theme, colours that colour-blind readers tell apart, the same bytes every time.

Seaborn computes means and standard errors from raw rows. It does so on the scale of the axis, so an axis is made
logarithmic after it is drawn on. Nothing is bootstrapped, and the jitter of strip plots is always the same.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from string import ascii_lowercase
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from diffusion_density.density.estimators import ESTIMATORS
from diffusion_density.machine import artifacts

COLUMN, PAGE = 3.4, 7.0  # widths in inches: one column, and two
PALETTE = {  # of Okabe and Ito, "Color universal design" (2008)
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
}
COLOURS = {name: PALETTE[estimator.colour] for name, estimator in ESTIMATORS.items()} | {
    "entropy": PALETTE["blue"],
    "score": PALETTE["vermillion"],
    "noise": PALETTE["green"],
    "velocity": PALETTE["orange"],
    "uniform": PALETTE["vermillion"],
    "truncated_normal": PALETTE["green"],
    "variational": PALETTE["sky"],
}
GREY = "0.45"
Look = dict[str, Any]
"""Keywords of matplotlib that a line or marker is drawn with."""
THEME: dict[Any, Any] = {
    **sns.axes_style("ticks"),
    **sns.plotting_context("paper"),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "figure.constrained_layout.use": True,
    "font.sans-serif": ["DejaVu Sans"],  # it comes with matplotlib, so that figures are the same everywhere
    "font.size": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.title_fontsize": 7,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "svg.fonttype": "none",
    "svg.hashsalt": "diffusion-density",
    "xtick.labelsize": 7,
    "xtick.major.size": 3.5,
    "xtick.minor.size": 2,
    "ytick.labelsize": 7,
    "ytick.major.size": 3.5,
    "ytick.minor.size": 2,
}
_BARS: Look = {"capsize": 1.5, "elinewidth": 0.8}
ESTIMATOR_LOOKS: dict[str, Look] = {  # lines and markers of the estimators in every figure
    name: {"color": COLOURS[name], "ls": one.line, "marker": one.marker, "label": one.label, "ms": 3.5}
    | {"mfc": COLOURS[name] if one.line == "-" else "w"}
    for name, one in ESTIMATORS.items()
}


class Dot(NamedTuple):
    """A value with an interval (NaN for none) in a row of its own; see :func:`dots`."""

    label: str
    value: float
    low: float
    high: float
    colour: str = GREY
    marker: str = "o"


def canvas(
    panels: int, width: float = PAGE, height: float = 2.6, *, columns: int | None = None, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with lettered panels next to each other, in rows of at most ``columns`` where given, each that high.

    The theme is set for the process: a figure reads it while it is drawn, and all figures have the same.
    """
    mpl.use("agg")
    mpl.rcParams.update(THEME)
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
    with mpl.rc_context(THEME):
        for suffix, metadata in ((".svg", {"Date": None}), (".png", {"Software": None})):
            buffer = BytesIO()
            figure.savefig(buffer, format=suffix[1:], dpi=200, metadata=metadata)
            artifacts.write_bytes(path.with_suffix(suffix), buffer.getvalue())


def plot(kind: Callable[..., Any], axis: Axes, table: pd.DataFrame, **options: Any) -> None:  # noqa: ANN401 (seaborn's)
    """Draw columns of a table by a function of seaborn, without a legend; the labels of the axis stay as they were."""
    if table.empty:  # seaborn warns of colours without a value
        return
    labels = {"xlabel": axis.get_xlabel(), "ylabel": axis.get_ylabel()}
    state = np.random.get_state()  # noqa: NPY002 (seaborn draws the jitter of strip plots from it)
    np.random.seed(0)  # noqa: NPY002
    kind(table, ax=axis, legend=False, **options)
    np.random.set_state(state)  # noqa: NPY002
    axis.set(**labels)


def lines(axis: Axes, table: pd.DataFrame, x: str, y: str, **options: Any) -> None:  # noqa: ANN401
    """Means of ``y`` against ``x`` with one standard error over the rows, by `seaborn.lineplot`."""
    if table.empty:
        return
    options = {"mec": "auto", "err_kws": _BARS | {"zorder": 1}} | options
    plot(sns.lineplot, axis, table, x=x, y=y, errorbar=("se", 1), err_style="bars", **options)


def dots(axis: Axes, rows: Sequence[Dot], numbers: str = "") -> None:
    """Values with intervals, from the top down, each labelled; and with its number above it where a format is given."""
    for place, row in enumerate(reversed(rows)):
        bars = None if np.isnan(row.low) else [[row.value - row.low], [row.high - row.value]]
        axis.errorbar(row.value, place, xerr=bars, fmt=row.marker, color=row.colour, **_BARS)
        if numbers:
            text = numbers.format(row.value)
            box = {"facecolor": "w", "edgecolor": "none", "pad": 0.5}
            axis.annotate(text, (row.value, place), (0, 4), textcoords="offset points", ha="center", size=6, bbox=box)
    axis.set_yticks(range(len(rows)), [row.label for row in reversed(rows)])
    axis.set_ylim(-0.5, len(rows) - 0.3)
    axis.margins(x=0.2)


def legend(
    target: Figure | Axes,
    colours: Mapping[str, str] | None = None,
    lines: Mapping[str, Look] | None = None,
    **options: Any,  # noqa: ANN401
) -> None:
    """A legend of colours by label, and of lines and markers by label (grey where they have no colour of their own)."""
    handles: list[Patch | Line2D] = [Patch(color=colour, label=label) for label, colour in (colours or {}).items()]
    handles += [Line2D([], [], **{"color": GREY, "label": label, **look}) for label, look in (lines or {}).items()]
    target.legend(handles=handles, **options)


def mosaic(axis: Axes, images: NDArray[np.floating[Any]], columns: int, gap: int = 1) -> None:
    """Draw images (N, C, H, W) with values in [0, 1] in rows of ``columns`` with white gaps, without axes."""
    count, _, height, width = images.shape
    rows = -(-count // columns)
    whole = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3))
    for index, image in enumerate(images):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        whole[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    axis.imshow(whole, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def plain_log_ticks(axis: Axes, which: str, values: Iterable[float]) -> None:
    """Make an axis logarithmic with the given values as its only ticks."""
    axis.set(**{f"{which}scale": "log"})
    target = axis.xaxis if which == "x" else axis.yaxis
    values = list(values)
    target.set_major_locator(mpl.ticker.FixedLocator(values))
    target.set_major_formatter(mpl.ticker.FixedFormatter([f"{value:g}" for value in values]))
    target.set_minor_locator(mpl.ticker.NullLocator())

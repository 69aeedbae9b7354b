"""One look for every plot: without a display or global state, frames open to the top and right."""

import warnings
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

OURS, BEST, REPORT, FAINT = "#1f5fa8", "#c0392b", "#8a8a8a", "#777777"
LINE = {"color": "#b5b5b5", "linewidth": 1, "zorder": 1}  # a thin one behind points
MOST = 40
"""Characters of a name in a figure; longer ones would leave the axes no room."""

# matplotlib's own font lacks Chinese and emoji, and it would say so once for every character. A box stands for each;
# the tables beside the figures have the names.
warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)


def build_axes(width: float, height: float, grid: str = "both", dpi: int = 110, **rows) -> tuple[Figure, Axes]:
    """An empty figure.

    Args:
        width, height: In inches.
        grid: Lines for "x", "y" or "both".
        rows: For several axes under each other, what `Figure.subplots` takes.

    Returns:
        The figure and its axes, an array of them for several.
    """
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    FigureCanvasAgg(figure)
    drawn = figure.subplots(**rows)
    for axes in np.ravel(drawn):
        axes.grid(axis=grid, alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, drawn


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes the picture: a PNG in half of `savefig`'s time, which draws everything once more to arrange it."""
    if Path(path).suffix == ".png":
        figure.canvas.print_png(path)
    else:
        figure.savefig(path)

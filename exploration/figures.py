"""Figures of many runs: learning curves with bands, matched differences."""

from itertools import cycle
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from toolbox.plotting import (
    BLUE,
    LABEL_PT,
    LINE_COLOURS,
    TICK_PT,
    VERMILION,
    label_axes,
    save_figure,
    set_title,
)


class Band(NamedTuple):
    """A learning curve over several runs; NaN in `low` and `high` draws no band."""

    iterations: list
    mean: list  # development frame error (fraction) at these iterations
    low: list
    high: list


def plot_learning_curve_bands(path, panels, majority_error=None, title=""):
    """Write development errors over training iterations, a line with its band a condition.

    The panels share their axes. The errors of the first fifth of the training may lie above them:
    what is to be compared is near the lower end.

    Args:
        path: the PNG file to write.
        panels: dict panel title -> dict line label -> Band; a label has one colour in all panels.
        majority_error: frame error (fraction) of always answering the commonest phone.
        title: one line.

    Raises:
        ValueError: nothing to draw.
    """
    save_figure(_learning_curve_bands_figure(panels, majority_error, title), path)


class Difference(NamedTuple):
    """Matched differences between a condition and its baseline; NaN in `low` draws no interval."""

    label: str
    values: list  # a difference each seed
    mean: float
    low: float
    high: float


def plot_differences(path, panels, title=""):
    """Write matched differences as dots, their means and intervals, a row each condition.

    Args:
        path: the PNG file to write.
        panels: dict panel title -> list of Difference, of the same conditions in each panel.
        title: one line.

    Raises:
        ValueError: nothing to draw, or the panels differ in their conditions.
    """
    save_figure(_differences_figure(panels, title), path)


def _learning_curve_bands_figure(panels, majority_error, title):
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    if not labels:
        raise ValueError("no learning curves to draw")
    n_columns = min(2, len(panels))
    n_rows = -(-len(panels) // n_columns)
    legend_in = 0.25 * -(-len(labels) // 2)
    size_in = (5.2 * n_columns + (2 if n_columns == 1 else 0), 3.4 * n_rows + 0.8 + legend_in)
    figure = Figure(figsize=size_in, layout="constrained")
    set_title(figure, title)
    grid = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    styles = ["-"] * len(LINE_COLOURS) + ["--"] * len(LINE_COLOURS)
    style_of = dict(zip(labels, cycle(zip(cycle(LINE_COLOURS), styles))))
    shown, handles = [], {}
    for axes, (panel, lines) in zip(grid.flat, panels.items()):
        for label, band in lines.items():
            iterations, mean, low, high = (np.asarray(part, np.float64) for part in band)
            colour, style = style_of[label]
            (handles[label],) = axes.plot(
                iterations, mean, style, color=colour, linewidth=1.4, label=label
            )
            axes.fill_between(iterations, low, high, color=colour, alpha=0.15, linewidth=0)
            late = iterations >= iterations.max() / 5
            shown += [np.where(np.isfinite(low), low, mean)[late]]
            shown += [np.where(np.isfinite(high), high, mean)[late]]
        axes.set_title(panel.replace("$", r"\$"), fontsize=LABEL_PT)
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        label_axes(axes)
    shown = np.concatenate(shown)
    margin = 0.05 * max(np.ptp(shown), 0.01)
    lowest, highest = max(0, shown.min() - margin), min(1, shown.max() + margin)
    grid[0, 0].set_ylim(lowest, highest)
    if majority_error is not None and lowest < majority_error < highest:
        for axes in grid.flat[: len(panels)]:
            line = axes.axhline(majority_error, color="0.4", linestyle=":", linewidth=1)
        handles["commonest phone only"] = line
    grid[0, 0].xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    for axes in grid[:, 0]:
        label_axes(axes, y="development frame error\n(fraction)")
    for axes in grid[-1]:
        label_axes(axes, x="iteration")
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    figure.legend(
        handles.values(),
        [label.replace("$", r"\$") for label in handles],
        loc="outside lower center",
        ncols=2 if n_columns == 1 else 3,
        fontsize=TICK_PT,
        frameon=False,
    )
    return figure


def _differences_figure(panels, title):
    labels = {tuple(difference.label for difference in rows) for rows in panels.values()}
    if len(labels) != 1 or not all(panels.values()):
        raise ValueError(f"no differences, or of unequal conditions, to draw: {sorted(labels)}")
    (labels,) = labels
    figure = Figure(figsize=(2.8 + 3 * len(panels), 1.1 + 0.22 * len(labels)), layout="constrained")
    set_title(figure, title)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (panel, rows) in zip(grid, panels.items()):
        axes.axvline(0, color="0.4", linewidth=1)
        for place, (_, values, mean, low, high) in enumerate(rows):
            # NaN compares as false: no interval, no verdict.
            colour = BLUE if high < 0 else VERMILION if low > 0 else "0.35"
            axes.plot([low, high], [place, place], color=colour, linewidth=1.6)
            axes.plot(values, [place] * len(values), ".", color=colour, alpha=0.4, markersize=5)
            axes.plot(mean, place, "D", color=colour, markersize=4)
        axes.set_title(panel, fontsize=LABEL_PT)
        axes.grid(axis="x", color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        label_axes(axes, x="difference (fraction)")
    grid[0].set_yticks(range(len(labels)), [label.replace("$", r"\$") for label in labels])
    grid[0].set_ylim(len(labels) - 0.5, -0.5)
    return figure

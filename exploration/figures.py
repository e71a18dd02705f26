"""Figures of many runs: learning curves with bands, matched differences."""

import functools
from itertools import cycle
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from exploration.plan import spoken
from exploration.statistics import LATE, TEST, interval_over_seeds
from exploration.tables import TITLES
from toolbox.plotting import (
    BLUE,
    LABEL_PT,
    LINE_COLOURS,
    TICK_PT,
    VERMILION,
    label_axes,
    set_title,
    written,
)

written_small = functools.partial(written, is_small=True)  # reports are kept with the code


class Band(NamedTuple):
    """A learning curve over several runs; NaN in `low` and `high` draws no band."""

    iterations: list
    mean: list  # development error at these iterations
    low: list
    high: list


def curve_panels(experiment):
    """Panels of `plot_learning_curves`: lines are the first baseline's axes, panels those of the others.

    Without a baseline the first axis makes the lines.
    """
    axes, baselines = experiment.axes, experiment.plan.baselines
    of_lines = list(baselines[0]) if baselines else axes[:1]
    panels = {}
    for labels, runs in experiment.conditions():
        point = dict(zip(axes, labels))
        panel = spoken({axis: label for axis, label in point.items() if axis not in of_lines})
        line = ", ".join(point[axis] for axis in of_lines) or "all runs"
        panels.setdefault(panel, {})[line] = _band([experiment.curves[d] for d in runs["digest"]])
    return panels


def _band(curves):
    """Mean and interval over curves at the iterations that all have evaluated."""
    iterations = sorted(set.intersection(*map(set, curves)))
    intervals = [interval_over_seeds([curve[i] for curve in curves]) for i in iterations]
    return Band(iterations, *([i[name] for i in intervals] for name in ("mean", "low", "high")))


@written_small
def plot_learning_curves(panels, constant_error=None, title=""):
    """Draw development errors over training iterations, a line with its band a condition.

    The panels share their axes. The errors of the first fifth of the training may lie above them:
    what is to be compared is near the lower end.

    `panels` is a dict panel title -> dict line label -> Band; a label has one colour in all panels.
    `constant_error` is that of the best constant answer.

    Raises:
        ValueError: nothing to draw.
    """
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
    handles = _draw_bands(grid.flat, panels, labels)
    _limit_errors(grid[0, 0], panels)
    lowest, highest = grid[0, 0].get_ylim()
    if constant_error is not None and lowest < constant_error < highest:
        for axes in grid.flat[: len(panels)]:
            line = axes.axhline(constant_error, color="0.4", linestyle=":", linewidth=1)
        handles["best constant answer"] = line
    grid[0, 0].xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    for axes in grid[:, 0]:
        label_axes(axes, y="development error\n(fraction)")
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


def _draw_bands(grid, panels, labels):
    """Draw each panel's lines with their bands; returns label -> line."""
    styles = ["-"] * len(LINE_COLOURS) + ["--"] * len(LINE_COLOURS)
    style_of = dict(zip(labels, cycle(zip(cycle(LINE_COLOURS), styles))))
    handles = {}
    for axes, (panel, lines) in zip(grid, panels.items()):
        for label, (iterations, mean, low, high) in lines.items():
            colour, style = style_of[label]
            (handles[label],) = axes.plot(
                iterations, mean, style, color=colour, linewidth=1.4, label=label
            )
            axes.fill_between(iterations, low, high, color=colour, alpha=0.15, linewidth=0)
        _finish_panel(axes, panel, "both")
    return handles


def _limit_errors(axes, panels):
    """Limit the errors' axis to what is shown after the first fifth of the training."""
    shown = []
    for lines in panels.values():
        for band in lines.values():
            iterations, *curves = (np.asarray(part, np.float64) for part in band)
            shown += [curve[iterations >= iterations.max() / 5] for curve in curves]
    lowest, highest = np.nanmin(np.concatenate(shown)), np.nanmax(np.concatenate(shown))
    margin = 0.05 * max(highest - lowest, 0.01)
    axes.set_ylim(max(0, lowest - margin), min(1, highest + margin))


@written_small
def plot_differences(experiment, baseline):
    """Draw matched differences from a baseline as dots, with their means and intervals."""
    pairs_of = {", ".join(labels): pairs for labels, pairs in experiment.pairs(baseline)}
    figure = Figure(figsize=(8.8, 1.1 + 0.22 * len(pairs_of)), layout="constrained")
    name = experiment.plan.name
    set_title(figure, f"{name}: minus {spoken(baseline)}, seed by seed, and intervals")
    grid = figure.subplots(1, 2, sharey=True)
    for axes, metric in zip(grid, (LATE, TEST)):
        axes.axvline(0, color="0.4", linewidth=1)
        for place, pairs in enumerate(pairs_of.values()):
            values = pairs[metric] - pairs[f"{metric}_baseline"]
            found = experiment.difference(pairs, metric)
            colour = {"lower": BLUE, "higher": VERMILION}.get(found["verdict"], "0.35")
            interval = [found["low"], found["high"]]  # NaN draws nothing
            axes.plot(interval, [place, place], color=colour, linewidth=1.6)
            axes.plot(values, [place] * len(values), ".", color=colour, alpha=0.4, markersize=5)
            axes.plot(found["mean"], place, "D", color=colour, markersize=4)
        _finish_panel(axes, TITLES[metric], "x")
        label_axes(axes, x="difference (fraction)")
    grid[0].set_yticks(range(len(pairs_of)), [label.replace("$", r"\$") for label in pairs_of])
    grid[0].set_ylim(len(pairs_of) - 0.5, -0.5)
    return figure


def _finish_panel(axes, title, lines):
    axes.set_title(title.replace("$", r"\$"), fontsize=LABEL_PT)
    axes.grid(axis=lines, color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    label_axes(axes)

"""Figures of a run."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from toolbox.plotting import (
    BLUE,
    LABEL_PT,
    ORANGE,
    TICK_PT,
    VERMILION,
    label_axes,
    stacked_panels,
    written,
)


@written
def plot_learning_curve(evaluations, metric, constant_error=None, constant_answer="", title=""):
    """Draw error, loss and, where there are any, firing rates over training iterations.

    Args:
        evaluations: a dict for every evaluation, in order, with `iteration`,
            `develop_<metric>` (fraction), `develop_loss` (nats, with penalties) and, where known
            (missing or None leaves a gap), `train_loss`, `rate_hz_mean` and `rate_hz_max` (spikes
            per simulated second).
        metric: name of the error that selects.
        constant_error: what always giving one answer errs (fraction); None draws none.
        constant_answer: what that answer is called.
        title: one line.

    Raises:
        ValueError: no evaluations.
    """
    if not evaluations:
        raise ValueError("no evaluations to draw")

    def series(key):
        values = [evaluation.get(key) for evaluation in evaluations]
        return np.array([np.nan if value is None else value for value in values], np.float64)

    iterations = series("iteration")
    rates_hz = {"mean over neurons": series("rate_hz_mean"), "fastest": series("rate_hz_max")}
    spiking = any(np.isfinite(rates).any() for rates in rates_hz.values())
    n_panels = 3 if spiking else 2
    figure, _, panels = stacked_panels(7, (2.6,) + (1.9,) * (n_panels - 1), title)
    margin = 0.04 * max(1, np.ptp(iterations))  # a lone evaluation, too, gets whole-number ticks
    panels[0].set_xlim(iterations.min() - margin, max(iterations.max(), 1) + margin)
    line = {"marker": ".", "linewidth": 1.4}

    error_axes, loss_axes = panels[:2]
    errors = series(f"develop_{metric}")
    error_axes.plot(iterations, errors, color=BLUE, label="develop", **line)
    if constant_error is not None:
        error_axes.axhline(
            constant_error,
            color="black",
            linestyle="--",
            linewidth=1,
            label=f"{constant_answer} only",
        )
    _mark_best(error_axes, iterations, errors)
    error_axes.set_ylim(0, 1)
    label_axes(error_axes, y=f"{metric.replace('_', ' ')} (fraction)")

    losses = {"develop": series("develop_loss"), "train": series("train_loss")}
    for (name, values), colour in zip(losses.items(), (BLUE, ORANGE)):
        loss_axes.plot(iterations, values, color=colour, label=name, **line)
    values = np.concatenate(list(losses.values()))
    values = values[np.isfinite(values)]
    # A rate regulariser starts orders of magnitude above the cross entropy that is of interest.
    if values.size and 0 < 20 * values.min() < values.max():
        loss_axes.set_yscale("log")
    label_axes(loss_axes, y="loss (nats,\nwith penalties)")

    if spiking:
        for (name, values), colour in zip(rates_hz.items(), (BLUE, ORANGE)):
            panels[2].plot(iterations, values, color=colour, label=name, **line)
        panels[2].set_ylim(bottom=0)
        label_axes(panels[2], y="firing rate (Hz,\nsimulated time)")

    for axes in panels:
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.legend(fontsize=TICK_PT, frameon=False)
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    label_axes(panels[-1], x="iteration")
    return figure


def _mark_best(axes, iterations, errors):
    """Mark the smallest error, if there is any."""
    if not np.isfinite(errors).any():
        return
    best = np.nanargmin(errors)
    point = (iterations[best], errors[best])
    axes.plot(*point, "*", color=VERMILION, markersize=12, label=f"best, iteration {point[0]:.0f}")
    axes.annotate(
        f"{point[1]:.3f}",
        point,
        (0, -15 if point[1] > 0.15 else 9),
        textcoords="offset points",
        ha="center",
        fontsize=LABEL_PT,
        color=VERMILION,
    )

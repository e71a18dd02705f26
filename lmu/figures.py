"""Figures of memories in spikes."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from speech.figures import FRAME_HOP_MS, width_for_in
from toolbox.plotting import (
    BLUE,
    ORANGE,
    TICK_PT,
    VERMILION,
    draw_raster,
    label_axes,
    set_title,
    stacked_panels,
    written,
)


@written
def plot_memory(r2_by_start, theta_ms=None, title="", floor=None):
    """Draw how much of the input of some frames ago the spikes of layers hold.

    Args:
        r2_by_start: R2 of delays 0, 1, ... frames for each kind of initial weights, at most four.
        theta_ms: window of the LMU, ms of speech; None draws none.
        title: one line.
        floor: R2 of the same readout of the present features; None draws none.

    Raises:
        ValueError: nothing to draw, or more kinds than line styles.
    """
    styles = list(zip((BLUE, VERMILION, "black", ORANGE), ("-", "--", ":", "-."), "os^D"))
    if not 0 < len(r2_by_start) <= len(styles):
        raise ValueError(f"{len(r2_by_start)} kinds of weights, 1 to {len(styles)} expected")
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    set_title(figure, title)
    axes = figure.add_subplot()
    for (name, r2), (colour, line, marker) in zip(r2_by_start.items(), styles):
        axes.plot(
            np.arange(len(r2)),
            r2,
            color=colour,
            linestyle=line,
            marker=marker,
            markersize=3,
            linewidth=1.4,
            label=f"{name.replace('_', ' ')}, sum {np.sum(r2):.1f}",
        )
    if floor is not None:
        label = f"present features, sum {np.sum(floor):.1f}"
        axes.plot(np.arange(len(floor)), floor, color="0.5", linestyle="--", label=label)
    if theta_ms is not None:
        axes.axvline(theta_ms / FRAME_HOP_MS, color="0.5", linewidth=1, label="window of the LMU")
    lowest = min(np.min(r2) for r2 in r2_by_start.values())
    axes.set_ylim(min(0, lowest), 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(fontsize=TICK_PT, frameon=False)
    label_axes(axes, x=f"delay (frames of {FRAME_HOP_MS:g} ms)", y="R² of the delayed input")
    return figure


@written
def plot_memory_utterance(signal, ideal, decoded, spikes, theta_steps, n_repeat, n_regular, title):
    """Draw what a memory of `theta_steps` makes of a signal: delayed signals and spikes.

    Args:
        signal: [steps], the channel that is remembered.
        ideal: [steps], what the linear memory says the signal was `theta_steps` ago.
        decoded: [steps], what is decoded from the spikes.
        spikes: 0 or 1, [steps, neurons], as for `plot_lsnn_utterance`.
        theta_steps: window of the memory, simulated steps.
        n_repeat: simulated steps per frame.
        n_regular: regular neurons per direction.
        title: one line.

    Raises:
        ValueError: the arrays do not fit each other.
    """
    signal, ideal, decoded, spikes = map(np.asarray, (signal, ideal, decoded, spikes))
    n_steps = len(signal)
    if not n_steps or not len(ideal) == len(decoded) == len(spikes) == n_steps:
        raise ValueError(
            f"signal, ideal, decoded and spikes have {n_steps}, {len(ideal)}, {len(decoded)} and "
            f"{len(spikes)} steps: the same number expected, not 0"
        )
    steps = np.arange(n_steps) + 0.5
    width_in = width_for_in(n_steps / n_repeat * FRAME_HOP_MS / 1000)
    figure, _, panels = stacked_panels(width_in, (2.6, 3.6), title)
    signal_axes, raster_axes = panels
    signal_axes.set_xlim(0, n_steps / n_repeat)
    signal_axes.plot(
        (steps + theta_steps) / n_repeat,
        signal,
        color="0.65",
        linewidth=1,
        label="input, shifted by the window",
    )
    signal_axes.plot(
        steps / n_repeat, decoded, color=VERMILION, linewidth=0.8, label="decoded from spikes"
    )
    signal_axes.plot(steps / n_repeat, ideal, color=BLUE, linewidth=1.4, label="ideal memory")
    lowest, highest = signal_axes.get_ylim()
    signal_axes.set_ylim(lowest, highest + 0.2 * (highest - lowest))  # room for the legend
    signal_axes.legend(fontsize=TICK_PT, frameon=False, ncols=3, loc="upper right")
    label_axes(signal_axes, y="channel (deviations)")
    draw_raster(raster_axes, spikes, n_repeat, n_regular, 2)
    label_axes(
        raster_axes, x=f"frame (one: {FRAME_HOP_MS:g} ms of speech, {n_repeat} simulated steps)"
    )
    return figure


@written
def plot_eigenvalues(ideal, loop, theta_steps, title=""):
    """Draw the eigenvalues of a memory's loop of neurons against those of the ideal memory.

    Args:
        ideal: complex [order], eigenvalues a step of one channel's memory.
        loop: complex [channels * order], of what the decoded states do.
        theta_steps: window of the memory, steps.
        title: one line.
    """
    figure = Figure(figsize=(5.2, 5), layout="constrained")
    set_title(figure, title)
    axes = figure.add_subplot()
    # The logarithm makes a decay a step, near 1 for every slow system, a rate.
    for values, marker, size, colour, label in (
        (ideal, "x", 9, BLUE, "ideal memory"),
        (loop, "o", 5, VERMILION, "loop of neurons"),
    ):
        rates = np.log(np.asarray(values, complex)) * theta_steps
        axes.plot(
            rates.real,
            rates.imag,
            marker,
            markersize=size,
            markeredgewidth=1.5,
            markerfacecolor="none",
            color=colour,
            label=label,
        )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(fontsize=TICK_PT, frameon=False)
    label_axes(axes, x="growth (1/θ; decay is left of 0)", y="frequency (radians in θ)")
    return figure

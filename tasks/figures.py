"""Figures of what a trained network answers."""

from itertools import pairwise

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from speech.figures import (
    FRAME_HOP_MS,
    PHONE_FILL,
    WRONG_FILL,
    draw_phones,
    phone_fill,
    width_for_in,
)
from toolbox.plotting import (
    BLUE,
    CLASS_PT,
    LABEL_PT,
    TICK_PT,
    VERMILION,
    colour_bar,
    draw_raster,
    label_axes,
    set_title,
    stacked_panels,
    written,
)

NAMED_PROBABILITY = 0.2  # phones that never reach it have no line
ANNOTATED_SHARE = 0.05  # confusions below this stay a tint without a number


@written
def plot_lsnn_utterance(
    features,
    spikes,
    phns,
    predictions,
    logits,
    class_names,
    n_repeat,
    n_regular,
    title,
    n_directions=2,
):
    """Draw what an LSNN does with one utterance: features, spikes, class probabilities, answers.

    Args:
        features: [frames, features], as the network is given them.
        spikes: 0 or 1, [frames * n_repeat, neurons], first layer, all in the order of the
            audio: forward regular, forward adaptive and, with two directions, backward regular,
            backward adaptive neurons, as many backward as forward.
        phns: int [frames], true class.
        predictions: int [frames], the network's answer.
        logits: [frames, classes]; one column more than `class_names` is the "blank" that the
            reference's readout has.
        class_names: name of every class.
        n_repeat: simulated steps per frame.
        n_regular: regular neurons per direction; the rest of a direction is adaptive.
        title: one line.
        n_directions: 1 or 2.

    Raises:
        ValueError: the arrays do not fit each other.
    """
    features, spikes, logits = (np.asarray(array) for array in (features, spikes, logits))
    phns, predictions, class_names = np.asarray(phns), np.asarray(predictions), list(class_names)
    n_frames = len(features)
    if not n_frames or not len(phns) == len(predictions) == len(logits) == n_frames:
        raise ValueError(
            f"features, phns, predictions and logits have {n_frames}, {len(phns)}, "
            f"{len(predictions)} and {len(logits)} frames: the same number expected, not 0"
        )
    if len(spikes) != n_frames * n_repeat:
        raise ValueError(f"{len(spikes)} steps of spikes, {n_frames} * {n_repeat} expected")
    n_neurons, left_over = divmod(spikes.shape[1], n_directions)
    if left_over or not 0 <= n_regular <= n_neurons:
        raise ValueError(
            f"{spikes.shape[1]} neurons are not {n_directions} direction(s) of {n_regular} or more"
        )
    if logits.shape[1] == len(class_names) + 1:
        class_names.append("blank")
    if logits.shape[1] != len(class_names):
        raise ValueError(f"{logits.shape[1]} logits for {len(class_names)} classes")

    width_in = width_for_in(n_frames * FRAME_HOP_MS / 1000)
    heights_in = (1.6, 0.55, 4.0, 0.55, 0.4 + 0.105 * len(class_names))
    figure, grid, panels = stacked_panels(width_in, heights_in, title)
    panels[0].set_xlim(0, n_frames)
    feature_axes, true_axes, raster_axes, answer_axes, class_axes = panels

    limit = np.percentile(np.abs(features), 99)
    image = feature_axes.imshow(
        features.T,
        extent=(0, n_frames, -0.5, features.shape[1] - 0.5),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap="PuOr_r",
        vmin=-limit,
        vmax=limit,
    )
    feature_axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    label_axes(feature_axes, y="feature")
    colour_bar(figure, grid[0, 1], image, "value\n(as given)")

    true_runs = _runs(phns)
    spans = [(start, end, class_names[phn]) for start, end, phn in true_runs]
    draw_phones(true_axes, spans, [phone_fill(name) for _, _, name in spans])
    label_axes(true_axes, y="true\nphones")

    draw_raster(raster_axes, spikes, n_repeat, n_regular, n_directions)

    # An answer's run may be right for a part of its length only: cut it where that changes.
    cut = _runs(np.stack([predictions, phns == predictions], axis=1))
    spans = [(start, end, class_names[answer]) for start, end, (answer, _) in cut]
    fills = [PHONE_FILL if right else WRONG_FILL for *_, (_, right) in cut]
    draw_phones(answer_axes, spans, fills, name_all=False)
    label_axes(answer_axes, y="answers\n(orange:\nwrong)")

    image = draw_probabilities(class_axes, logits, class_names, true_runs)
    label_axes(
        class_axes,
        x=f"frame (one: {FRAME_HOP_MS:g} ms of speech, {n_repeat} simulated steps)",
        y="class (boxes: true phone)",
    )
    class_axes.tick_params(axis="y", labelsize=CLASS_PT)
    colour_bar(figure, grid[4, 1], image, "probability")
    return figure


@written
def plot_confusion_matrix(counts, class_names, title, what="phone", counted="frames"):
    """Draw which share of each true class was taken for which class.

    Args:
        counts: [true class, answered class]; a class that never was true is shown empty.
        class_names: name of every class, in the order of `counts`.
        title: one line.
        what, counted: what a class is, and what `counts` counts.

    Raises:
        ValueError: `counts` is not square, or its size is not that of `class_names`.
    """
    counts = np.asarray(counts, np.float64)
    n_classes = len(class_names)
    if counts.shape != (n_classes, n_classes):
        raise ValueError(f"counts are {counts.shape}, {(n_classes, n_classes)} expected")
    totals = counts.sum(axis=1, keepdims=True)
    # A class that never occurred has no shares: NaN, drawn grey.
    shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)

    matrix_in = max(1 + 0.2 * n_classes, 5)  # its bar is lettered
    figure = Figure(figsize=(matrix_in + 2.2, matrix_in + 1), layout="compressed")
    set_title(figure, title)
    axes = figure.add_subplot()
    axes.set_facecolor("0.85")
    # The square root gives confusions of a few per cent a visible tint beside the diagonal.
    image = axes.pcolormesh(
        shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), edgecolors="0.92", linewidth=0.4
    )
    for true, answer in np.argwhere(shares >= ANNOTATED_SHARE):
        axes.text(
            answer + 0.5,
            true + 0.5,
            f"{100 * shares[true, answer]:.0f}",
            ha="center",
            va="center",
            fontsize=6,
            color="white" if shares[true, answer] > 0.35 else "black",
        )
    axes.set(xlim=(0, n_classes), ylim=(n_classes, 0), aspect="equal")
    axes.set_xticks(np.arange(n_classes) + 0.5, class_names, rotation=90)
    axes.set_yticks(np.arange(n_classes) + 0.5, class_names)
    label_axes(axes, x=f"answered {what}", y=f"true {what}")

    right = axes.secondary_yaxis("right")
    right.set_yticks(axes.get_yticks(), [f"{total:,.0f}" for total in totals[:, 0]])
    label_axes(right, y=f"{counted} of the true {what}")

    bar = figure.colorbar(
        image, ax=axes, shrink=0.6, aspect=40, ticks=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 1]
    )
    bar.ax.set_yticklabels(["0", "1", "5", "10", "25", "50", "100"])
    bar.ax.tick_params(labelsize=TICK_PT)
    bar.set_label(
        f"share of the true {what}'s {counted} (%; numbers from {100 * ANNOTATED_SHARE:.0f} on)",
        fontsize=LABEL_PT,
    )
    return figure


def draw_probabilities(axes, logits, class_names, true_runs):
    """Draw softmax(logits) with a box around the true class of every run; returns the image."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    image = axes.imshow(
        probabilities.T,
        extent=(0, len(logits), len(class_names) - 0.5, -0.5),
        aspect="auto",
        interpolation="nearest",
        cmap="Greys",
        vmin=0,
        vmax=1,
    )
    for start, end, phn in true_runs:
        box = Rectangle((start, phn - 0.5), end - start, 1, fill=False, edgecolor=VERMILION)
        box.set_linewidth(0.8)
        axes.add_patch(box)
    axes.set_yticks(range(len(class_names)), class_names)
    return image


def _runs(values):
    """(start, end, value) of every stretch of equal rows of `values` [frames] or [frames, k]."""
    rows = values.reshape(len(values), -1)  # [frames, k]
    changed = (rows[1:] != rows[:-1]).any(axis=1)
    edges = [0, *(np.flatnonzero(changed) + 1), len(values)]
    return [(start, end, values[start]) for start, end in pairwise(edges)]


@written
def plot_confusions(counts, title):
    """Draw the commonest confusions as bars.

    Args:
        counts: dict "true → answered" -> how often, the commonest first; may be empty.
        title: one line.
    """
    figure = Figure(figsize=(6.5, 1.4 + 0.19 * len(counts)), layout="constrained")
    set_title(figure, title)
    axes = figure.add_subplot()
    axes.barh(range(len(counts)), list(counts.values()), color=BLUE)
    axes.set_yticks(range(len(counts)), list(counts))
    axes.set_ylim(len(counts) - 0.5, -0.5)
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    label_axes(axes, x="how often", y="true → answered")
    return figure


@written
def plot_phone_probabilities(probabilities, labels, class_names, title):
    """Draw the probability of every class over time, above the true phones.

    Args:
        probabilities: [frames, classes]; the last is the blank.
        labels: int [frames], the class that is spoken.
        class_names: name of every class.
        title: one line.
    """
    n_frames = len(probabilities)
    width_in = width_for_in(n_frames * FRAME_HOP_MS / 1000)
    figure, _, (lines, phones) = stacked_panels(width_in, (2.6, 0.55), title)
    lines.set_xlim(0, n_frames)
    frames = np.arange(n_frames) + 0.5
    lines.plot(frames, probabilities[:, -1], color="0.7", linewidth=1, label="blank")
    for phone in np.flatnonzero(probabilities[:, :-1].max(axis=0) > NAMED_PROBABILITY):
        (line,) = lines.plot(frames, probabilities[:, phone], linewidth=1)
        peak = probabilities[:, phone].argmax()
        lines.annotate(
            class_names[phone],
            (peak + 0.5, probabilities[peak, phone]),
            fontsize=CLASS_PT,
            color=line.get_color(),
            ha="center",
        )
    lines.set_ylim(0, 1.08)
    lines.legend(fontsize=TICK_PT, frameon=False, loc="upper right")
    label_axes(lines, y="probability")
    spans = [(start, end, class_names[phone]) for start, end, phone in _runs(np.asarray(labels))]
    draw_phones(phones, spans, [phone_fill(name) for _, _, name in spans])
    label_axes(phones, x=f"frame ({FRAME_HOP_MS:g} ms)", y="true\nphones")
    return figure


@written
def plot_lsnn_digit(pixels, spikes, logits, label, n_repeat, n_regular, n_directions=1):
    """Draw what an LSNN does with one digit: its pixels as they come, spikes, probabilities.

    Args:
        pixels: [frames], 0 to 1, in the order of reading.
        spikes: 0 or 1, [frames * n_repeat, neurons], as `plot_lsnn_utterance` takes them.
        logits: [frames, 10].
        label: the true digit.
        n_repeat, n_regular, n_directions: as there.
    """
    n_frames = len(pixels)
    title = f"a {label}, answered {np.argmax(logits[-1])} (after the last pixel)"
    figure, grid, panels = stacked_panels(9, (0.8, 3.0, 1.6), title)
    pixel_axes, raster_axes, class_axes = panels
    pixel_axes.set_xlim(0, n_frames)
    pixel_axes.bar(np.arange(n_frames) + 0.5, pixels, width=1, color="black")
    pixel_axes.set_ylim(0, 1)
    label_axes(pixel_axes, y="pixel")
    draw_raster(raster_axes, spikes, n_repeat, n_regular, n_directions)
    names = [str(digit) for digit in range(logits.shape[1])]
    image = draw_probabilities(class_axes, logits, names, [(0, n_frames, label)])
    label_axes(class_axes, x="pixels read", y="digit\n(box: true)")
    colour_bar(figure, grid[2, 1], image, "probability")
    return figure

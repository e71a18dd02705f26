"""Figures of an utterance, of training and of what a trained network does, written as PNG.

Each `plot_*` function builds one figure in memory and then writes it whole: after an error the
file that stood at `path` before is still there, or none. Nothing global of matplotlib is touched
and `pyplot` is never imported, so the functions work without a display and beside a notebook.

Line colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/); colour maps differ in
lightness from end to end or, diverging, from the middle: both serve colour-blind readers.
"""

from itertools import cycle, pairwise
from typing import NamedTuple

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from scipy import signal

from speech.facts import FOLD_61_TO_39, FRAME_HOP_SAMPLES, SAMPLE_RATE_HZ
from toolbox.durable_files import write_whole

BLUE, ORANGE, VERMILION = "#0072B2", "#E69F00", "#D55E00"
GREEN, PURPLE, SKY_BLUE = "#009E73", "#CC79A7", "#56B4E9"
LINE_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY_BLUE, "black")
SILENCE_FILL, PHONE_FILL, WRONG_FILL = "#E5E5E5", "#CFE6F5", "#F6C68B"

DPI = 200
PANEL_SHARE = 0.87  # of a figure's width, beside tick names and colour bar
LABEL_PT, TICK_PT, PHONE_PT, CLASS_PT = 9, 8, 7, 6.5

FRAME_HOP_MS = 1000 * FRAME_HOP_SAMPLES / SAMPLE_RATE_HZ
SPECTRUM_WINDOW_MS = 8  # short enough to show bursts and pitch pulses, formants still apart
SPECTRUM_HOP_MS = 1
SPECTRUM_RANGE_DB = 70
RASTER_NEURONS = 80  # more rows than this cannot be told apart on a page
ANNOTATED_SHARE = 0.05  # confusions below this stay a tint without a number


def plot_utterance(path, audio, sample_rate_hz, filter_banks, phone_spans, title):
    """Write waveform, spectrogram, filter banks and phones of one utterance over a time axis.

    Args:
        path: the PNG file to write.
        audio: int16 [samples].
        sample_rate_hz: samples a second.
        filter_banks: [frames, 41], 40 mel filters and, last, the energy; a row every 10 ms.
        phone_spans: (start_sample, end_sample, phone) of every phone.
        title: one line.

    Raises:
        ValueError: no audio or no frames.
    """
    _save(_utterance_figure(audio, sample_rate_hz, filter_banks, phone_spans, title), path)


def plot_learning_curve(path, evaluations, majority_error=None, title=""):
    """Write frame error, loss and, where there are any, firing rates over training iterations.

    Args:
        path: the PNG file to write.
        evaluations: a dict for every evaluation, in order, with `iteration`,
            `develop_frame_error` (fraction), `develop_loss` (cross entropy in nats plus
            penalties) and, where known (missing or None leaves a gap), `train_loss`,
            `rate_hz_mean` and `rate_hz_max` (spikes per simulated second).
        majority_error: frame error (fraction) of always answering the commonest phone.
        title: one line.

    Raises:
        ValueError: no evaluations.
    """
    _save(_learning_curve_figure(evaluations, majority_error, title), path)


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
    _save(_learning_curve_bands_figure(panels, majority_error, title), path)


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
    _save(_differences_figure(panels, title), path)


def plot_lsnn_utterance(
    path,
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
    """Write what an LSNN does with one utterance: features, spikes, class probabilities, answers.

    Args:
        path: the PNG file to write.
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
    _save(
        _lsnn_utterance_figure(
            features,
            spikes,
            phns,
            predictions,
            logits,
            class_names,
            n_repeat,
            n_regular,
            title,
            n_directions,
        ),
        path,
    )


def plot_confusion_matrix(path, counts, class_names, title):
    """Write which share of each true phone's frames was taken for which phone.

    Args:
        path: the PNG file to write.
        counts: frames, [true class, answered class]; a class without frames is shown empty.
        class_names: name of every class, in the order of `counts`.
        title: one line.

    Raises:
        ValueError: `counts` is not square, or its size is not that of `class_names`.
    """
    _save(_confusion_matrix_figure(counts, class_names, title), path)


def plot_memory(path, r2_by_start, theta_ms=None, title=""):
    """Write how much of the input of some frames ago the spikes of layers hold.

    Args:
        path: the PNG file to write.
        r2_by_start: R2 of delays 0, 1, ... frames for each kind of initial weights, at most four.
        theta_ms: window of the LMU, ms of speech; None draws none.
        title: one line.

    Raises:
        ValueError: nothing to draw, or more kinds than line styles.
    """
    _save(_memory_figure(r2_by_start, theta_ms, title), path)


def plot_memory_utterance(
    path, signal, ideal, decoded, spikes, theta_steps, n_repeat, n_regular, title
):
    """Write what a memory of `theta_steps` makes of a signal: delayed signals and spikes.

    Args:
        path: the PNG file to write.
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
    _save(
        _memory_utterance_figure(
            signal, ideal, decoded, spikes, theta_steps, n_repeat, n_regular, title
        ),
        path,
    )


def plot_eigenvalues(path, ideal, loop, theta_steps, title=""):
    """Write the eigenvalues of a memory's loop of neurons against those of the ideal memory.

    Args:
        path: the PNG file to write.
        ideal: complex [order], eigenvalues a step of one channel's memory.
        loop: complex [channels * order], of what the decoded states do.
        theta_steps: window of the memory, steps.
        title: one line.
    """
    _save(_eigenvalue_figure(ideal, loop, theta_steps, title), path)


def _save(figure, path):
    with write_whole(path) as file:
        figure.savefig(file, format="png", dpi=DPI)


def _utterance_figure(audio, sample_rate_hz, filter_banks, phone_spans, title):
    audio = np.asarray(audio, np.float64) / 2**15
    filter_banks = np.asarray(filter_banks, np.float64)
    if audio.ndim != 1 or filter_banks.ndim != 2 or not audio.size or not filter_banks.size:
        raise ValueError(
            f"audio {audio.shape} and filter banks {filter_banks.shape} cannot be drawn: "
            "[samples] and [frames, filters] expected"
        )
    duration_s = len(audio) / sample_rate_hz

    figure, grid, panels = _stacked_panels(_width_in(duration_s), (1.2, 2.2, 2.2, 0.6), title)
    panels[0].set_xlim(0, duration_s)
    waveform, spectrum, filters, phones = panels

    waveform.plot(np.arange(len(audio)) / sample_rate_hz, audio, color=BLUE, linewidth=0.4)
    _label(waveform, y="amplitude\n(of full scale)")

    power_db, extent = _spectrogram_db(audio, sample_rate_hz)
    image = spectrum.imshow(
        power_db,
        extent=extent,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=-SPECTRUM_RANGE_DB,
        vmax=0,
    )
    _label(spectrum, y="frequency (kHz)")
    _colour_bar(figure, grid[1, 1], image, "power\n(dB re peak)")

    # Frame k is drawn over the 10 ms that its label is taken from; its 25-ms window is longer.
    n_frames, n_filters = filter_banks.shape
    lowest, highest = np.percentile(filter_banks, (1, 99))
    image = filters.imshow(
        filter_banks.T,
        extent=(0, n_frames * FRAME_HOP_MS / 1000, 0.5, n_filters + 0.5),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap="viridis",
        vmin=lowest,
        vmax=highest,
    )
    ticks = [1, *range(10, n_filters - 3, 10)]  # nearer to the last row, two names would touch
    filters.set_yticks([*ticks, n_filters], [*map(str, ticks), "energy"])
    _label(filters, y="mel filter")
    _colour_bar(figure, grid[2, 1], image, "output\n(as given)")

    spans_s = [(start / sample_rate_hz, end / sample_rate_hz, p) for start, end, p in phone_spans]
    _draw_phones(phones, spans_s, [_fill(phone) for _, _, phone in spans_s])
    _label(phones, x="time (s)", y="phones")
    return figure


def _spectrogram_db(audio, sample_rate_hz):
    """Power in dB re its peak, [frequencies, times], and its image extent in s and kHz."""
    window = min(len(audio), round(SPECTRUM_WINDOW_MS / 1000 * sample_rate_hz))
    hop = round(SPECTRUM_HOP_MS / 1000 * sample_rate_hz)
    frequencies_hz, times_s, power = signal.spectrogram(
        audio,
        sample_rate_hz,
        window=signal.windows.hann(window, sym=False),
        noverlap=max(0, window - hop),
        nfft=max(512, window),
        detrend=False,
    )
    peak = power.max() or 1.0  # digital silence has neither a peak nor a logarithm
    power_db = 10 * np.log10(np.maximum(power / peak, 1e-30))
    half_hop_s = hop / sample_rate_hz / 2
    return power_db, (
        times_s[0] - half_hop_s,
        times_s[-1] + half_hop_s,
        0,
        frequencies_hz[-1] / 1000,
    )


def _learning_curve_figure(evaluations, majority_error, title):
    if not evaluations:
        raise ValueError("no evaluations to draw")

    def series(key):
        values = [evaluation.get(key) for evaluation in evaluations]
        return np.array([np.nan if value is None else value for value in values], np.float64)

    iterations = series("iteration")
    rates_hz = {"mean over neurons": series("rate_hz_mean"), "fastest": series("rate_hz_max")}
    spiking = any(np.isfinite(rates).any() for rates in rates_hz.values())
    n_panels = 3 if spiking else 2
    figure, _, panels = _stacked_panels(7, (2.6,) + (1.9,) * (n_panels - 1), title)
    margin = 0.04 * max(1, np.ptp(iterations))  # a lone evaluation, too, gets whole-number ticks
    panels[0].set_xlim(iterations.min() - margin, max(iterations.max(), 1) + margin)
    line = {"marker": ".", "linewidth": 1.4}

    error_axes, loss_axes = panels[:2]
    errors = series("develop_frame_error")
    error_axes.plot(iterations, errors, color=BLUE, label="develop", **line)
    if majority_error is not None:
        error_axes.axhline(
            majority_error, color="black", linestyle="--", linewidth=1, label="commonest phone only"
        )
    if np.isfinite(errors).any():
        best = np.nanargmin(errors)
        point = (iterations[best], errors[best])
        error_axes.plot(
            *point, "*", color=VERMILION, markersize=12, label=f"best, iteration {point[0]:.0f}"
        )
        error_axes.annotate(
            f"{point[1]:.3f}",
            point,
            (0, -15 if point[1] > 0.15 else 9),
            textcoords="offset points",
            ha="center",
            fontsize=LABEL_PT,
            color=VERMILION,
        )
    error_axes.set_ylim(0, 1)
    _label(error_axes, y="frame error (fraction)")

    losses = {"develop": series("develop_loss"), "train": series("train_loss")}
    for (name, values), colour in zip(losses.items(), (BLUE, ORANGE)):
        loss_axes.plot(iterations, values, color=colour, label=name, **line)
    values = np.concatenate(list(losses.values()))
    values = values[np.isfinite(values)]
    # A rate regulariser starts orders of magnitude above the cross entropy that is of interest.
    if values.size and 0 < 20 * values.min() < values.max():
        loss_axes.set_yscale("log")
    _label(loss_axes, y="loss (nats,\nwith penalties)")

    if spiking:
        for (name, values), colour in zip(rates_hz.items(), (BLUE, ORANGE)):
            panels[2].plot(iterations, values, color=colour, label=name, **line)
        panels[2].set_ylim(bottom=0)
        _label(panels[2], y="firing rate (Hz,\nsimulated time)")

    for axes in panels:
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.legend(fontsize=TICK_PT, frameon=False)
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    _label(panels[-1], x="iteration")
    return figure


def _learning_curve_bands_figure(panels, majority_error, title):
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    if not labels:
        raise ValueError("no learning curves to draw")
    n_columns = min(2, len(panels))
    n_rows = -(-len(panels) // n_columns)
    legend_in = 0.25 * -(-len(labels) // 2)
    size_in = (5.2 * n_columns + (2 if n_columns == 1 else 0), 3.4 * n_rows + 0.8 + legend_in)
    figure = Figure(figsize=size_in, layout="constrained")
    _title(figure, title)
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
        _label(axes)
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
        _label(axes, y="development frame error\n(fraction)")
    for axes in grid[-1]:
        _label(axes, x="iteration")
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
    _title(figure, title)
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
        _label(axes, x="difference (fraction)")
    grid[0].set_yticks(range(len(labels)), [label.replace("$", r"\$") for label in labels])
    grid[0].set_ylim(len(labels) - 0.5, -0.5)
    return figure


def _lsnn_utterance_figure(
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

    width_in = _width_in(n_frames * FRAME_HOP_MS / 1000)
    heights_in = (1.6, 0.55, 4.0, 0.55, 0.4 + 0.105 * len(class_names))
    figure, grid, panels = _stacked_panels(width_in, heights_in, title)
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
    _label(feature_axes, y="feature")
    _colour_bar(figure, grid[0, 1], image, "value\n(as given)")

    true_runs = _runs(phns)
    spans = [(start, end, class_names[phn]) for start, end, phn in true_runs]
    _draw_phones(true_axes, spans, [_fill(name) for _, _, name in spans])
    _label(true_axes, y="true\nphones")

    _draw_raster(raster_axes, spikes, n_repeat, n_regular, n_directions)

    # An answer's run may be right for a part of its length only: cut it where that changes.
    cut = _runs(np.stack([predictions, phns == predictions], axis=1))
    spans = [(start, end, class_names[answer]) for start, end, (answer, _) in cut]
    fills = [PHONE_FILL if right else WRONG_FILL for *_, (_, right) in cut]
    _draw_phones(answer_axes, spans, fills, name_all=False)
    _label(answer_axes, y="answers\n(orange:\nwrong)")

    image = _draw_probabilities(class_axes, logits, class_names, true_runs)
    _label(
        class_axes,
        x=f"frame (one: {FRAME_HOP_MS:g} ms of speech, {n_repeat} simulated steps)",
        y="class (boxes: true phone)",
    )
    class_axes.tick_params(axis="y", labelsize=CLASS_PT)
    _colour_bar(figure, grid[4, 1], image, "probability")
    return figure


def _draw_raster(axes, spikes, n_repeat, n_regular, n_directions):
    """Draw evenly chosen neurons of each group, spikes at their time in frames."""
    n_neurons = spikes.shape[1]
    n_shown = min(n_neurons, RASTER_NEURONS)
    shown = np.linspace(0, n_neurons - 1, n_shown).round().astype(int)
    per_direction = n_neurons // n_directions
    names = ("forward\nregular", "forward\nadaptive", "backward\nregular", "backward\nadaptive")
    ticks = {}
    for group, name in enumerate(names[: 2 * n_directions]):
        direction, is_adaptive = divmod(group, 2)
        first, last = (n_regular, per_direction) if is_adaptive else (0, n_regular)
        places = shown - direction * per_direction
        rows = np.flatnonzero((places >= first) & (places < last))
        if not rows.size:
            continue
        steps, columns = np.nonzero(spikes[:, shown[rows]])
        axes.vlines(
            (steps + 0.5) / n_repeat,
            rows[columns] - 0.42,
            rows[columns] + 0.42,
            color=VERMILION if "adaptive" in name else BLUE,
            linewidth=0.5,
        )
        if rows[0]:
            axes.axhline(rows[0] - 0.5, color="black", linewidth=0.8, zorder=3)
        ticks[rows.mean()] = name
    axes.set_ylim(n_shown - 0.5, -0.5)
    axes.set_yticks(list(ticks), list(ticks.values()))
    _label(axes, y=f"{n_shown} of the layer's {n_neurons} neurons")


def _draw_probabilities(axes, logits, class_names, true_runs):
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


def _confusion_matrix_figure(counts, class_names, title):
    counts = np.asarray(counts, np.float64)
    n_classes = len(class_names)
    if counts.shape != (n_classes, n_classes):
        raise ValueError(f"counts are {counts.shape}, {(n_classes, n_classes)} expected")
    totals = counts.sum(axis=1, keepdims=True)
    # A phone that never occurred has no shares: NaN, drawn grey.
    shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)

    matrix_in = 1 + 0.2 * n_classes
    figure = Figure(figsize=(matrix_in + 2.2, matrix_in + 1), layout="compressed")
    _title(figure, title)
    axes = figure.add_subplot()
    axes.set_facecolor("0.85")
    # The square root gives confusions of a few per cent a visible tint beside the diagonal.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    for true, answer in np.argwhere(shares >= ANNOTATED_SHARE):
        axes.text(
            answer,
            true,
            f"{100 * shares[true, answer]:.0f}",
            ha="center",
            va="center",
            fontsize=6,
            color="white" if shares[true, answer] > 0.35 else "black",
        )
    axes.set_xticks(range(n_classes), class_names, rotation=90)
    axes.set_yticks(range(n_classes), class_names)
    axes.set_xticks(np.arange(n_classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n_classes + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.92", linewidth=0.4)
    axes.tick_params(which="minor", length=0)
    _label(axes, x="answered phone", y="true phone")

    right = axes.secondary_yaxis("right")
    right.set_yticks(range(n_classes), [f"{total:,.0f}" for total in totals[:, 0]])
    _label(right, y="frames of the true phone")

    bar = figure.colorbar(
        image, ax=axes, shrink=0.6, aspect=40, ticks=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 1]
    )
    bar.ax.set_yticklabels(["0", "1", "5", "10", "25", "50", "100"])
    bar.ax.tick_params(labelsize=TICK_PT)
    bar.set_label(
        f"share of the true phone's frames (%; numbers from {100 * ANNOTATED_SHARE:.0f} on)",
        fontsize=LABEL_PT,
    )
    return figure


def _memory_figure(r2_by_start, theta_ms, title):
    styles = list(zip((BLUE, VERMILION, "black", ORANGE), ("-", "--", ":", "-."), "os^D"))
    if not 0 < len(r2_by_start) <= len(styles):
        raise ValueError(f"{len(r2_by_start)} kinds of weights, 1 to {len(styles)} expected")
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    _title(figure, title)
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
    if theta_ms is not None:
        axes.axvline(theta_ms / FRAME_HOP_MS, color="0.5", linewidth=1, label="window of the LMU")
    lowest = min(np.min(r2) for r2 in r2_by_start.values())
    axes.set_ylim(min(0, lowest), 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(fontsize=TICK_PT, frameon=False)
    _label(axes, x=f"delay (frames of {FRAME_HOP_MS:g} ms)", y="R² of the delayed input")
    return figure


def _memory_utterance_figure(
    signal, ideal, decoded, spikes, theta_steps, n_repeat, n_regular, title
):
    signal, ideal, decoded, spikes = map(np.asarray, (signal, ideal, decoded, spikes))
    n_steps = len(signal)
    if not n_steps or not len(ideal) == len(decoded) == len(spikes) == n_steps:
        raise ValueError(
            f"signal, ideal, decoded and spikes have {n_steps}, {len(ideal)}, {len(decoded)} and "
            f"{len(spikes)} steps: the same number expected, not 0"
        )
    steps = np.arange(n_steps) + 0.5
    width_in = _width_in(n_steps / n_repeat * FRAME_HOP_MS / 1000)
    figure, _, panels = _stacked_panels(width_in, (2.6, 3.6), title)
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
    _label(signal_axes, y="channel (deviations)")
    _draw_raster(raster_axes, spikes, n_repeat, n_regular, 2)
    _label(
        raster_axes,
        x=f"frame (one: {FRAME_HOP_MS:g} ms of speech, {n_repeat} simulated steps)",
    )
    return figure


def _eigenvalue_figure(ideal, loop, theta_steps, title):
    figure = Figure(figsize=(5.2, 5), layout="constrained")
    _title(figure, title)
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
    _label(axes, x="growth (1/θ; decay is left of 0)", y="frequency (radians in θ)")
    return figure


def _stacked_panels(width_in, heights_in, title):
    """Figure, its grid (second column: colour bars) and panels that share a horizontal axis."""
    figure = Figure(figsize=(width_in, sum(heights_in) + 0.9), layout="constrained")
    _title(figure, title)
    grid = figure.add_gridspec(
        len(heights_in), 2, width_ratios=(1, 0.012), height_ratios=heights_in
    )
    panels = []
    for row in range(len(heights_in)):
        panels.append(figure.add_subplot(grid[row, 0], sharex=panels[0] if panels else None))
    for axes in panels[:-1]:
        axes.tick_params(labelbottom=False)
    figure.align_ylabels(panels)
    return figure, grid, panels


def _width_in(duration_s):
    """Inches for an utterance, so many a second that a phone of 50 ms has room for its name."""
    return float(np.clip(3.6 * duration_s, 8, 28))


def _title(figure, title):
    # A title may hold a user's comment, where "$" is no mathematics. Escaped, because wrapping
    # measures the text as mathematics whatever `parse_math` says.
    figure.suptitle(title.replace("$", r"\$"), fontsize=11, wrap=True)


def _label(axes, x=None, y=None):
    if x is not None:
        axes.set_xlabel(x, fontsize=LABEL_PT)
    if y is not None:
        axes.set_ylabel(y, fontsize=LABEL_PT)
    axes.tick_params(labelsize=TICK_PT)


def _colour_bar(figure, cell, image, label):
    bar = figure.colorbar(image, cax=figure.add_subplot(cell))
    bar.set_label(label, fontsize=LABEL_PT)
    bar.ax.tick_params(labelsize=TICK_PT)


def _runs(values):
    """(start, end, value) of every stretch of equal rows of `values` [frames] or [frames, k]."""
    rows = values.reshape(len(values), -1)  # [frames, k]
    changed = (rows[1:] != rows[:-1]).any(axis=1)
    edges = [0, *(np.flatnonzero(changed) + 1), len(values)]
    return [(start, end, values[start]) for start, end in pairwise(edges)]


def _fill(phone):
    return SILENCE_FILL if FOLD_61_TO_39.get(phone, phone) == "sil" else PHONE_FILL


def _draw_phones(axes, spans, fills, name_all=True):
    """Draw (start, end, name) spans as blocks with their names, if need be upright.

    Names of blocks too narrow even for that alternate between a lower and a higher place, or
    are left out if not `name_all`. The horizontal limits must have been set.
    """
    left, right = axes.get_xlim()
    points_per_unit = 72 * PANEL_SHARE * axes.figure.get_figwidth() / (right - left)
    low = True
    for (start, end, name), fill in zip(spans, fills):
        axes.axvspan(start, end, facecolor=fill, edgecolor="0.4", linewidth=0.5)
        width_pt = (end - start) * points_per_unit
        lies = width_pt > PHONE_PT * (0.3 + 0.62 * len(name))  # 0.62: mean width of a letter
        stands = width_pt > 0.9 * PHONE_PT
        if not (lies or stands or name_all):
            continue
        height = 0.5
        if not (lies or stands):
            height = 0.27 if low else 0.73
            low = not low
        text = axes.text(
            (start + end) / 2,
            height,
            name,
            ha="center",
            va="center",
            fontsize=PHONE_PT,
            rotation=0 if lies else 90,
            clip_on=True,
        )
        text.set_in_layout(False)  # a name at the edge must not push the panels aside
    axes.set_ylim(0, 1)
    axes.set_yticks([])

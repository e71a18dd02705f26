"""Figure of an utterance: sound, features and phones."""

import numpy as np
import scipy

from speech.facts import FOLD_61_TO_39, FRAME_HOP_MS
from toolbox.plotting import BLUE, colour_bar, label_axes, stacked_panels, written

SILENCE_FILL, PHONE_FILL, WRONG_FILL = "#E5E5E5", "#CFE6F5", "#F6C68B"
PANEL_SHARE = 0.87  # of a figure's width, beside tick names and colour bar
PHONE_PT = 7
SPECTRUM_WINDOW_MS = 8  # short enough to show bursts and pitch pulses, formants still apart
SPECTRUM_HOP_MS = 1
SPECTRUM_RANGE_DB = 70


@written
def plot_utterance(audio, sample_rate_hz, filter_banks, phone_spans, title):
    """Draw waveform, spectrogram, filter banks and phones of one utterance over a time axis.

    Args:
        audio: int16 [samples].
        sample_rate_hz: samples a second.
        filter_banks: [frames, 41], 40 mel filters and, last, the energy; a row every 10 ms.
        phone_spans: (start_sample, end_sample, phone) of every phone.
        title: one line.

    Raises:
        ValueError: no audio or no frames.
    """
    audio = np.asarray(audio, np.float64) / 2**15
    filter_banks = np.asarray(filter_banks, np.float64)
    if audio.ndim != 1 or filter_banks.ndim != 2 or not audio.size or not filter_banks.size:
        raise ValueError(
            f"audio {audio.shape} and filter banks {filter_banks.shape} cannot be drawn: "
            "[samples] and [frames, filters] expected"
        )
    duration_s = len(audio) / sample_rate_hz

    figure, grid, panels = stacked_panels(width_for_in(duration_s), (1.2, 2.2, 2.2, 0.6), title)
    panels[0].set_xlim(0, duration_s)
    waveform, spectrum, filters, phones = panels

    waveform.plot(np.arange(len(audio)) / sample_rate_hz, audio, color=BLUE, linewidth=0.4)
    label_axes(waveform, y="amplitude\n(of full scale)")

    image = draw_spectrogram(spectrum, audio, sample_rate_hz)
    colour_bar(figure, grid[1, 1], image, "power\n(dB re peak)")

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
    label_axes(filters, y="mel filter")
    colour_bar(figure, grid[2, 1], image, "output\n(as given)")

    spans_s = [(start / sample_rate_hz, end / sample_rate_hz, p) for start, end, p in phone_spans]
    draw_phones(phones, spans_s, [phone_fill(phone) for _, _, phone in spans_s])
    label_axes(phones, x="time (s)", y="phones")
    return figure


def draw_spectrogram(axes, audio, sample_rate_hz, units_per_s=1):
    """Draw the spectrogram of audio [samples] over a time axis with so many units a second.

    Returns:
        The image.
    """
    power_db, (left_s, right_s, *frequencies_khz) = _spectrogram_db(audio, sample_rate_hz)
    label_axes(axes, y="frequency (kHz)")
    return axes.imshow(
        power_db,
        extent=(left_s * units_per_s, right_s * units_per_s, *frequencies_khz),
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=-SPECTRUM_RANGE_DB,
        vmax=0,
    )


def _spectrogram_db(audio, sample_rate_hz):
    """Power in dB re its peak, [frequencies, times], and its image extent in s and kHz."""
    window = min(len(audio), round(SPECTRUM_WINDOW_MS / 1000 * sample_rate_hz))
    hop = round(SPECTRUM_HOP_MS / 1000 * sample_rate_hz)
    frequencies_hz, times_s, power = scipy.signal.spectrogram(
        audio,
        sample_rate_hz,
        window=scipy.signal.windows.hann(window, sym=False),
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


def width_for_in(duration_s):
    """Inches for an utterance, so many a second that a phone of 50 ms has room for its name."""
    return float(np.clip(3.6 * duration_s, 8, 28))


def phone_fill(phone):
    return SILENCE_FILL if FOLD_61_TO_39.get(phone, phone) == "sil" else PHONE_FILL


def draw_phones(axes, spans, fills, name_all=True):
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

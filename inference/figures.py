"""Figure of a transcription."""

import numpy as np
from matplotlib.ticker import FuncFormatter

from speech.facts import FRAME_HOP_MS, FRAME_HOP_SAMPLES, SAMPLE_RATE_HZ
from speech.figures import draw_phones, draw_spectrogram, phone_fill, width_for_in
from tasks.figures import draw_probabilities
from toolbox.plotting import CLASS_PT, colour_bar, draw_raster, label_axes, stacked_panels, written


@written
def plot_transcription(sound, heard, segments, class_names, network, reference, title):
    """Draw a sound's spectrogram, an LSNN's spikes, the phones' probabilities, answers, labels.

    Args:
        sound: transcription.Sound.
        heard: transcription.Heard.
        segments: list of transcription.Segment.
        class_names: name of every class.
        network: models.Network.
        reference: (start_sample, end_sample, phone) of the true phones; empty if not known.
        title: one line.
    """
    frames_per_s = 1000 / FRAME_HOP_MS
    heights_in = [1.6, *([3.0] if network.is_spiking else []), 0.4 + 0.105 * len(class_names), 0.45]
    heights_in += [0.45] if reference else []
    figure, grid, panels = stacked_panels(width_for_in(sound.duration_s), heights_in, title)
    spectrum, *raster, class_axes, answers = panels if not reference else panels[:-1]
    spectrum.set_xlim(0, sound.duration_s * frames_per_s)

    image = draw_spectrogram(spectrum, sound.samples, SAMPLE_RATE_HZ, frames_per_s)
    colour_bar(figure, grid[0, 1], image, "power\n(dB re peak)")
    if network.is_spiking:
        sizes = network.parameters.n_repeat, network.n_regular, network.layers[0].n_directions
        draw_raster(raster[0], heard.spikes > 0, *sizes)

    true_runs = []
    if reference:
        true_runs = [
            (start / FRAME_HOP_SAMPLES, end / FRAME_HOP_SAMPLES, phone)
            for start, end, phone in reference
        ]
        draw_phones(panels[-1], true_runs, [phone_fill(phone) for _, _, phone in true_runs])
        label_axes(panels[-1], y="labels")
    image = draw_probabilities(class_axes, np.log(heard.probabilities), class_names, [])
    label_axes(class_axes, y="class")
    class_axes.tick_params(axis="y", labelsize=CLASS_PT)
    colour_bar(figure, grid[len(raster) + 1, 1], image, "probability")
    spans = [(s.start_s * frames_per_s, s.end_s * frames_per_s, s.phone) for s in segments]
    draw_phones(answers, spans, [phone_fill(s.phone) for s in segments], name_all=False)
    label_axes(answers, y="answers")
    label_axes(panels[-1], x="time (s)")
    panels[-1].xaxis.set_major_formatter(
        FuncFormatter(lambda frame, _: f"{frame / frames_per_s:g}")
    )
    return figure

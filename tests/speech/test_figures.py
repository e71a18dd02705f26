"""The figure of an utterance shows the given numbers at the right places."""

import os

import numpy as np
import pytest
import soundfile

from helpers import assert_draws, axis_names, fills, texts, y_labels
from speech import figures
from speech.facts import SAMPLE_RATE_HZ


def tone(frequency_hz=1000, duration_s=0.5):
    """A sine of half full scale, int16 [samples]."""
    times_s = np.arange(round(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return (2**14 * np.sin(2 * np.pi * frequency_hz * times_s)).astype(np.int16)


def utterance_arguments(audio=None):
    audio = tone() if audio is None else audio
    n_frames = len(audio) // 160
    return {
        "audio": audio,
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "filter_banks": np.random.default_rng(0).normal(size=(n_frames, 41)),
        "phone_spans": [(0, 1600, "h#"), (1600, 4000, "ax-h"), (4000, len(audio), "s")],
        "title": "dr1/fvmh0/si1466",
    }


def test_file_is_a_png_of_the_figures_size(tmp_path):
    assert_draws(figures.plot_utterance, utterance_arguments(), (1600, 1420), tmp_path)


def test_utterance_panels_share_the_time_axis():
    figure = figures.plot_utterance.draw(**utterance_arguments())
    waveform, spectrum, filters, phones = figure.axes[:4]
    assert y_labels(figure)[:4] == [
        "amplitude (of full scale)",
        "frequency (kHz)",
        "mel filter",
        "phones",
    ]
    assert phones.get_xlabel() == "time (s)"
    for axes in (waveform, spectrum, filters, phones):
        assert axes.get_xlim() == (0, 0.5)
    assert np.abs(waveform.lines[0].get_ydata()).max() == pytest.approx(0.5, abs=1e-4)
    assert filters.images[0].get_array().shape == (41, 50)
    assert filters.images[0].get_extent() == [0, 0.5, 0.5, 41.5]
    assert axis_names(filters)[-1] == "energy"


def test_utterance_names_every_phone_where_it_is():
    phones = figures.plot_utterance.draw(**utterance_arguments()).axes[3]
    assert texts(phones) == ["h#", "ax-h", "s"]
    assert [text.get_position()[0] for text in phones.texts] == pytest.approx([0.05, 0.175, 0.375])
    assert [patch.get_x() for patch in phones.patches] == pytest.approx([0, 0.1, 0.25])
    assert fills(phones) == [figures.SILENCE_FILL, figures.PHONE_FILL, figures.PHONE_FILL]


def test_names_of_narrow_phones_stand_apart():
    audio = tone(duration_s=3)
    edges = range(0, 160 * 16, 160)  # 10-ms phones, each narrower than a letter
    arguments = utterance_arguments(audio)
    arguments["phone_spans"] = [(start, start + 160, "ix") for start in edges]
    phones = figures.plot_utterance.draw(**arguments).axes[3]
    assert [text.get_rotation() for text in phones.texts] == [90] * 16
    heights = [text.get_position()[1] for text in phones.texts]
    assert heights[::2] == [heights[0]] * 8
    assert heights[1::2] == [heights[1]] * 8
    assert abs(heights[0] - heights[1]) > 0.3


def test_spectrogram_of_a_click_in_a_tone():
    audio = tone(2000, 1) / 2**15
    audio[1600] = 1
    power_db, (first_s, last_s, lowest_khz, highest_khz) = figures._spectrogram_db(
        audio, SAMPLE_RATE_HZ
    )
    frequencies_khz = np.linspace(lowest_khz, highest_khz, power_db.shape[0])
    times_s = first_s + (np.arange(power_db.shape[1]) + 0.5) * (last_s - first_s) / len(power_db.T)
    assert highest_khz == 8
    assert power_db.max() == pytest.approx(0)
    assert frequencies_khz[power_db[:, 500].argmax()] == pytest.approx(2, abs=0.04)
    high = power_db[frequencies_khz > 6].mean(axis=0)  # where the tone has no power
    assert times_s[high.argmax()] == pytest.approx(0.1, abs=0.001)


def test_spectrogram_of_silence_is_dark():
    arguments = utterance_arguments(np.zeros(8000, np.int16))
    arguments["filter_banks"] = np.zeros((50, 41))
    figure = figures.plot_utterance.draw(**arguments)
    assert figure.axes[1].images[0].get_array().max() < -figures.SPECTRUM_RANGE_DB
    figure.draw_without_rendering()


def test_utterance_shorter_than_a_window(tmp_path):
    arguments = utterance_arguments(tone(duration_s=0.005))
    arguments.update(filter_banks=np.ones((1, 41)), phone_spans=[(0, 80, "b")])
    figures.plot_utterance(tmp_path / "figure.png", **arguments)
    assert os.listdir(tmp_path) == ["figure.png"]


@pytest.mark.parametrize(
    "change", [{"audio": []}, {"filter_banks": np.ones((0, 41))}, {"filter_banks": np.ones(41)}]
)
def test_utterance_of_nothing_is_refused(change):
    with pytest.raises(ValueError, match="expected"):
        figures.plot_utterance.draw(**{**utterance_arguments(), **change})


def test_utterance_of_the_speech_sample(timit_sample):
    stem = os.path.join(timit_sample, "dr1-mcpm0", "sa1")
    audio, sample_rate_hz = soundfile.read(f"{stem}.wav", dtype="int16")
    with open(f"{stem}.phn", encoding="ascii") as file:
        rows = [line.split() for line in file]
    spans = [(int(start), int(end), phone) for start, end, phone in rows]
    filter_banks = np.zeros((len(audio) // 160, 41))
    figure = figures.plot_utterance.draw(audio, sample_rate_hz, filter_banks, spans, "")
    assert texts(figure.axes[3]) == [phone for _, _, phone in spans]
    # Speech lies within the drawn range: less than half of the picture is black, little is white.
    power_db = figure.axes[1].images[0].get_array()
    assert (power_db < -figures.SPECTRUM_RANGE_DB).mean() < 0.5
    assert (power_db > -10).mean() < 0.05

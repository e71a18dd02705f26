"""The figures show the given numbers at the right places and are written whole or not at all."""

import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

from helpers import REPOSITORY
from lmu import figures as lmu_figures
from speech import figures as speech_figures
from speech.facts import PHONES_39, PHONES_61, SAMPLE_RATE_HZ
from tasks import figures as tasks_figures
from toolbox import plotting
from training import figures as training_figures

# A division by zero, an empty legend or a colour scale of no width would show as a warning.
pytestmark = pytest.mark.filterwarnings("error")

N_REPEAT = 5


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


def evaluations(n=6):
    """Errors fall to the least, 0.5, at iteration 80; the first evaluation has no train loss."""
    errors = [0.9, 0.8, 0.7, 0.6, 0.5, 0.55][:n]
    return [
        {
            "iteration": 20 * i,
            "develop_frame_error": error,
            "develop_loss": 4 * error,
            "train_loss": None if i == 0 else 3 * error,
            "learning_rate": 0.01,
        }
        for i, error in enumerate(errors)
    ]


def lsnn_arguments(n_frames=40, n_regular=60, n_adaptive=40, class_names=PHONES_39, n_logits=None):
    """Eight-frame phones, of which the last two frames are answered wrongly."""
    rng = np.random.default_rng(1)
    phns = np.arange(n_frames) // 8
    predictions = np.where(np.arange(n_frames) % 8 < 6, phns, 20)
    logits = rng.normal(size=(n_frames, n_logits or len(class_names)))
    logits[np.arange(n_frames), predictions] += 6
    return {
        "features": rng.normal(size=(n_frames, 39)),
        "spikes": rng.random((n_frames * N_REPEAT, 2 * (n_regular + n_adaptive))) < 0.05,
        "phns": phns,
        "predictions": predictions,
        "logits": logits,
        "class_names": class_names,
        "n_repeat": N_REPEAT,
        "n_regular": n_regular,
        "title": "one utterance",
    }


def confusion_arguments(class_names=PHONES_39):
    """Half of each phone's frames right, the rest answered as the next phone; `ch` is missing."""
    n = len(class_names)
    counts = 50 * (np.eye(n, dtype=int) + np.roll(np.eye(n, dtype=int), 1, axis=1))
    counts[class_names.index("ch")] = 0
    return {"counts": counts, "class_names": class_names, "title": "test set"}


def memory_arguments():
    r2 = np.linspace(0.9, 0.1, 21)
    names = ("lmu", "shuffled", "random", "random_scaled")
    return {"r2_by_start": {name: r2 - 0.02 * i for i, name in enumerate(names)}, "theta_ms": 100}


def memory_utterance_arguments(n_frames=60, theta_steps=50):
    """A sine, delayed exactly; the decoded signal is half as large."""
    rng = np.random.default_rng(2)
    times = np.arange(n_frames * N_REPEAT)
    delayed = np.sin((times - theta_steps) / 30)
    return {
        "signal": np.sin(times / 30),
        "ideal": delayed,
        "decoded": 0.5 * delayed,
        "spikes": rng.random((len(times), 200)) < 0.05,
        "theta_steps": theta_steps,
        "n_repeat": N_REPEAT,
        "n_regular": 60,
        "title": "one utterance",
    }


EIGENVALUES = {
    "ideal": np.exp([(-3 + 4j) / 50, (-3 - 4j) / 50]),
    "loop": np.exp([(-2 + 1j) / 50, (-2 - 1j) / 50]),
    "theta_steps": 50,
}


def y_labels(figure):
    return [axes.get_ylabel().replace("\n", " ") for axes in figure.axes]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def fills(axes):
    return [to_hex(patch.get_facecolor()).upper() for patch in axes.patches]


# Files


@pytest.mark.parametrize(
    "plot, arguments, size_px",
    [
        (speech_figures.plot_utterance, utterance_arguments(), (1600, 1420)),
        (training_figures.plot_learning_curve, {"evaluations": evaluations()}, (1400, 1080)),
        (tasks_figures.plot_lsnn_utterance, lsnn_arguments(), (1600, 2419)),
        (tasks_figures.plot_confusion_matrix, confusion_arguments(), (2200, 1960)),
        (lmu_figures.plot_memory, memory_arguments(), (1400, 840)),
        (lmu_figures.plot_memory_utterance, memory_utterance_arguments(), (1600, 1420)),
        (lmu_figures.plot_eigenvalues, EIGENVALUES, (1040, 1000)),
    ],
)
def test_file_is_a_png_of_the_figures_size(tmp_path, plot, arguments, size_px):
    path = tmp_path / "figure.png"
    plot(path, **arguments)
    image = imread(path, format="png")  # [height, width, 4], decodes every pixel
    assert image.shape[:2] == size_px[::-1]
    ink = (image[..., :3] < 0.99).any(axis=-1)
    assert 0.02 < ink.mean() < 0.98
    assert os.listdir(tmp_path) == ["figure.png"]


@pytest.mark.parametrize("before", [None, b"an older figure"])
def test_error_while_writing_leaves_the_old_file_or_none(tmp_path, monkeypatch, before):
    path = tmp_path / "figure.png"
    if before is not None:
        path.write_bytes(before)

    def run_out_of_space(self, file, **options):
        file.write(b"\x89PNG half a figure")
        raise OSError("no space left on device")

    monkeypatch.setattr(Figure, "savefig", run_out_of_space)
    with pytest.raises(OSError, match="no space left"):
        training_figures.plot_learning_curve(path, evaluations())
    assert os.listdir(tmp_path) == ([] if before is None else ["figure.png"])
    assert before is None or path.read_bytes() == before


def test_arrays_that_do_not_fit_leave_no_file(tmp_path):
    with pytest.raises(ValueError):
        tasks_figures.plot_confusion_matrix(tmp_path / "figure.png", np.ones((3, 4)), "abc", "")
    assert os.listdir(tmp_path) == []


def test_title_is_no_mathematics(tmp_path):
    path = tmp_path / "figure.png"
    training_figures.plot_learning_curve(path, evaluations(), title=r"costs $5_{x, not $6 \frac")
    assert imread(path, format="png").size > 0


def test_needs_neither_pyplot_nor_tensorflow():
    check = (
        "import sys; from training import figures; figures._learning_curve_figure([{'iteration': 0}], None, ''); "
        "sys.exit(sum(name in sys.modules for name in ('matplotlib.pyplot', 'tensorflow')))"
    )
    process = subprocess.run([sys.executable, "-c", check], cwd=REPOSITORY, timeout=120)
    assert process.returncode == 0


# Utterance


def test_utterance_panels_share_the_time_axis():
    figure = speech_figures._utterance_figure(**utterance_arguments())
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
    assert [label.get_text() for label in filters.get_yticklabels()][-1] == "energy"


def test_utterance_names_every_phone_where_it_is():
    phones = speech_figures._utterance_figure(**utterance_arguments()).axes[3]
    assert texts(phones) == ["h#", "ax-h", "s"]
    assert [text.get_position()[0] for text in phones.texts] == pytest.approx([0.05, 0.175, 0.375])
    assert [patch.get_x() for patch in phones.patches] == pytest.approx([0, 0.1, 0.25])
    assert fills(phones) == [
        speech_figures.SILENCE_FILL,
        speech_figures.PHONE_FILL,
        speech_figures.PHONE_FILL,
    ]


def test_names_of_narrow_phones_stand_apart():
    audio = tone(duration_s=3)
    edges = range(0, 160 * 16, 160)  # 10-ms phones, each narrower than a letter
    arguments = utterance_arguments(audio)
    arguments["phone_spans"] = [(start, start + 160, "ix") for start in edges]
    phones = speech_figures._utterance_figure(**arguments).axes[3]
    assert [text.get_rotation() for text in phones.texts] == [90] * 16
    heights = [text.get_position()[1] for text in phones.texts]
    assert heights[::2] == [heights[0]] * 8
    assert heights[1::2] == [heights[1]] * 8
    assert abs(heights[0] - heights[1]) > 0.3


def test_spectrogram_of_a_click_in_a_tone():
    audio = tone(2000, 1) / 2**15
    audio[1600] = 1
    power_db, (first_s, last_s, lowest_khz, highest_khz) = speech_figures._spectrogram_db(
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
    figure = speech_figures._utterance_figure(**arguments)
    assert figure.axes[1].images[0].get_array().max() < -speech_figures.SPECTRUM_RANGE_DB
    figure.draw_without_rendering()


def test_utterance_shorter_than_a_window(tmp_path):
    arguments = utterance_arguments(tone(duration_s=0.005))
    arguments.update(filter_banks=np.ones((1, 41)), phone_spans=[(0, 80, "b")])
    speech_figures.plot_utterance(tmp_path / "figure.png", **arguments)
    assert os.listdir(tmp_path) == ["figure.png"]


@pytest.mark.parametrize(
    "change", [{"audio": []}, {"filter_banks": np.ones((0, 41))}, {"filter_banks": np.ones(41)}]
)
def test_utterance_of_nothing_is_refused(change):
    with pytest.raises(ValueError, match="expected"):
        speech_figures._utterance_figure(**{**utterance_arguments(), **change})


def test_utterance_of_the_speech_sample(timit_sample):
    stem = os.path.join(timit_sample, "dr1-mcpm0", "sa1")
    audio, sample_rate_hz = soundfile.read(f"{stem}.wav", dtype="int16")
    with open(f"{stem}.phn", encoding="ascii") as file:
        rows = [line.split() for line in file]
    spans = [(int(start), int(end), phone) for start, end, phone in rows]
    filter_banks = np.zeros((len(audio) // 160, 41))
    figure = speech_figures._utterance_figure(audio, sample_rate_hz, filter_banks, spans, "")
    assert texts(figure.axes[3]) == [phone for _, _, phone in spans]
    # Speech lies within the drawn range: less than half of the picture is black, little is white.
    power_db = figure.axes[1].images[0].get_array()
    assert (power_db < -speech_figures.SPECTRUM_RANGE_DB).mean() < 0.5
    assert (power_db > -10).mean() < 0.05


# Learning curve


def test_learning_curve_marks_the_best_and_the_majority():
    figure = training_figures._learning_curve_figure(evaluations(), 0.78, "run")
    errors, losses = figure.axes
    assert y_labels(figure) == ["frame error (fraction)", "loss (nats, with penalties)"]
    assert losses.get_xlabel() == "iteration"
    assert errors.get_ylim() == (0, 1)
    curve, majority, best = errors.lines
    assert curve.get_xydata().tolist() == [
        [20 * i, e["develop_frame_error"]] for i, e in enumerate(evaluations())
    ]
    assert set(majority.get_ydata()) == {0.78} and majority.get_linestyle() == "--"
    assert best.get_xydata().tolist() == [[80, 0.5]]
    assert texts(errors) == ["0.500"]
    names = [text.get_text() for text in errors.get_legend().get_texts()]
    assert names == ["develop", "commonest phone only", "best, iteration 80"]
    assert figure.get_suptitle() == "run"


def test_learning_curve_leaves_gaps_where_a_loss_is_missing():
    rows = evaluations()
    del rows[3]["train_loss"]
    develop, train = training_figures._learning_curve_figure(rows, None, "").axes[1].lines
    assert develop.get_ydata().tolist() == [row["develop_loss"] for row in rows]
    assert np.isnan(train.get_ydata()).tolist() == [True, False, False, True, False, False]


def test_learning_curve_shows_rates_where_there_are_any():
    rows = [dict(row, rate_hz_mean=20.0, rate_hz_max=120.0) for row in evaluations()]
    rows[0].pop("rate_hz_max")
    figure = training_figures._learning_curve_figure(rows, 0.78, "")
    assert y_labels(figure)[2] == "firing rate (Hz, simulated time)"
    mean, fastest = figure.axes[2].lines
    assert mean.get_ydata().tolist() == [20.0] * 6
    assert fastest.get_ydata()[1:].tolist() == [120.0] * 5 and np.isnan(fastest.get_ydata()[0])
    assert figure.axes[2].get_ylim()[0] == 0
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "iteration"]


@pytest.mark.parametrize("first_loss, scale", [(8.0, "linear"), (500.0, "log")])
def test_loss_scale_follows_its_range(first_loss, scale):
    rows = evaluations()
    rows[0]["develop_loss"] = first_loss
    assert training_figures._learning_curve_figure(rows, None, "").axes[1].get_yscale() == scale


def test_learning_curve_of_one_evaluation(tmp_path):
    training_figures.plot_learning_curve(tmp_path / "figure.png", evaluations(1), 0.78)
    figure = training_figures._learning_curve_figure(evaluations(1), None, "")
    figure.draw_without_rendering()
    assert figure.axes[0].lines[-1].get_xydata().tolist() == [[0, 0.9]]
    ticks = figure.axes[1].get_xticks()
    assert ticks.tolist() == np.round(ticks).tolist()


def test_learning_curve_of_a_diverged_run():
    rows = [dict(row, develop_loss=np.nan, train_loss=np.inf) for row in evaluations(2)]
    rows[1]["develop_frame_error"] = np.nan
    figure = training_figures._learning_curve_figure(rows, 0.78, "")
    figure.draw_without_rendering()
    assert texts(figure.axes[0]) == ["0.900"]


def test_learning_curve_of_no_evaluations_is_refused():
    with pytest.raises(ValueError, match="no evaluations"):
        training_figures._learning_curve_figure([], 0.78, "")


# LSNN utterance


def test_lsnn_panels_share_the_frame_axis():
    figure = tasks_figures._lsnn_utterance_figure(**lsnn_arguments())
    assert y_labels(figure)[:5] == [
        "feature",
        "true phones",
        "80 of the layer's 200 neurons",
        "answers (orange: wrong)",
        "class (boxes: true phone)",
    ]
    label = "frame (one: 10 ms of speech, 5 simulated steps)"
    assert figure.axes[4].get_xlabel() == label
    for axes in figure.axes[:5]:
        assert axes.get_xlim() == (0, 40)
    assert figure.axes[0].images[0].get_array().shape == (39, 40)


def test_raster_draws_the_spikes_of_evenly_chosen_neurons():
    arguments = lsnn_arguments()
    raster = tasks_figures._lsnn_utterance_figure(**arguments).axes[2]
    shown = np.linspace(0, 199, 80).round().astype(int)  # 0-59, 60-99, 100-159, 160-199 are groups
    rows = [
        np.flatnonzero((shown >= a) & (shown < b))
        for a, b in ((0, 60), (60, 100), (100, 160), (160, 200))
    ]
    assert len(raster.collections) == 4
    drawn = np.zeros((200, 80), int)
    for group, spikes in enumerate(raster.collections):
        colour = plotting.VERMILION if group % 2 else plotting.BLUE
        assert to_hex(spikes.get_color()[0]).upper() == colour
        for (time_frames, low), (_, high) in spikes.get_segments():
            row = round((low + high) / 2)
            assert row in rows[group]
            drawn[int(time_frames * N_REPEAT), row] += 1
    assert np.array_equal(drawn, arguments["spikes"][:, shown])
    assert [label.get_text().replace("\n", " ") for label in raster.get_yticklabels()] == [
        "forward regular",
        "forward adaptive",
        "backward regular",
        "backward adaptive",
    ]
    assert raster.yaxis_inverted()


def test_true_phones_and_answers_are_blocks():
    figure = tasks_figures._lsnn_utterance_figure(**lsnn_arguments())
    true_phones, answers = figure.axes[1], figure.axes[3]
    assert texts(true_phones) == list(PHONES_39[:5])
    assert [patch.get_x() for patch in true_phones.patches] == [0, 8, 16, 24, 32]
    assert fills(true_phones) == [speech_figures.SILENCE_FILL] + [speech_figures.PHONE_FILL] * 4
    assert [patch.get_x() for patch in answers.patches] == [0, 6, 8, 14, 16, 22, 24, 30, 32, 38]
    assert fills(answers) == [speech_figures.PHONE_FILL, speech_figures.WRONG_FILL] * 5
    assert texts(answers)[:2] == [PHONES_39[0], PHONES_39[20]]


def test_probabilities_are_the_softmax_with_boxes_on_the_true_path():
    arguments = lsnn_arguments()
    classes = tasks_figures._lsnn_utterance_figure(**arguments).axes[4]
    drawn = np.asarray(classes.images[0].get_array())  # [classes, frames]
    assert drawn.sum(axis=0) == pytest.approx(np.ones(40))
    ratio = np.log(drawn[3, 7] / drawn[5, 7])
    assert ratio == pytest.approx(arguments["logits"][7, 3] - arguments["logits"][7, 5])
    boxes = [box.get_bbox().bounds for box in classes.patches]
    assert boxes == [(8 * i, i - 0.5, 8, 1) for i in range(5)]
    assert [label.get_text() for label in classes.get_yticklabels()] == list(PHONES_39)


def test_realistic_size_with_61_phones_and_a_blank(tmp_path):
    arguments = lsnn_arguments(350, 300, 100, PHONES_61, n_logits=62)
    path = tmp_path / "figure.png"
    tasks_figures.plot_lsnn_utterance(path, **arguments)
    height, width, _ = imread(path, format="png").shape
    assert width == 2520 and 2500 < height < 3000
    classes = tasks_figures._lsnn_utterance_figure(**arguments).axes[4]
    assert [label.get_text() for label in classes.get_yticklabels()] == [*PHONES_61, "blank"]


@pytest.mark.parametrize(
    "n_regular, n_adaptive, groups",
    [
        (20, 0, ["forward regular", "backward regular"]),
        (0, 1, ["forward adaptive", "backward adaptive"]),
    ],
)
def test_networks_of_one_kind_of_neuron(n_regular, n_adaptive, groups):
    arguments = lsnn_arguments(n_regular=n_regular, n_adaptive=n_adaptive)
    raster = tasks_figures._lsnn_utterance_figure(**arguments).axes[2]
    names = [label.get_text().replace("\n", " ") for label in raster.get_yticklabels()]
    assert names == groups
    assert raster.get_ylabel().startswith(f"{2 * (n_regular + n_adaptive)} of")


def test_network_of_one_direction():
    arguments = lsnn_arguments(n_regular=120, n_adaptive=80)  # 200 columns, all of one direction
    arguments["spikes"] = arguments["spikes"][:, :200]
    raster = tasks_figures._lsnn_utterance_figure(**arguments, n_directions=1).axes[2]
    names = [label.get_text().replace("\n", " ") for label in raster.get_yticklabels()]
    assert names == ["forward regular", "forward adaptive"]
    assert raster.get_ylabel().startswith("80 of the layer's 200")


def test_one_frame_without_a_spike(tmp_path):
    arguments = lsnn_arguments(n_frames=1)
    arguments.update(features=np.zeros((1, 39)), spikes=np.zeros((5, 200)))
    tasks_figures.plot_lsnn_utterance(tmp_path / "figure.png", **arguments)
    assert os.listdir(tmp_path) == ["figure.png"]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"phns": [0] * 39}, "39"),
        ({"spikes": np.zeros((199, 200))}, "199 steps"),
        ({"spikes": np.zeros((200, 201))}, "201 neurons"),
        ({"n_regular": 101}, "200 neurons"),
        ({"logits": np.zeros((40, 41))}, "41 logits for 39"),
    ],
)
def test_lsnn_arrays_that_do_not_fit_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        tasks_figures._lsnn_utterance_figure(**{**lsnn_arguments(), **change})


# Confusion matrix


@pytest.mark.parametrize("class_names", [PHONES_39, PHONES_61])
def test_confusion_matrix_shows_shares_of_true_phones(class_names):
    figure = tasks_figures._confusion_matrix_figure(**confusion_arguments(class_names))
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("answered phone", "true phone")
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == list(class_names)
    n, missing = len(class_names), class_names.index("ch")
    shares = axes.images[0].get_array()
    assert shares.mask[missing].all() and shares.mask.sum() == n
    present = np.arange(n) != missing
    assert shares[present].sum(axis=1).tolist() == [1.0] * (n - 1)
    assert shares[0, 1] == 0.5  # true class 0 answered as class 1: rows are true
    assert shares[1, 0] == 0
    assert texts(axes) == ["50"] * (2 * (n - 1))
    totals = [label.get_text() for label in axes.child_axes[0].get_yticklabels()]
    assert totals == ["0" if i == missing else "100" for i in range(n)]
    assert "share of the true phone's frames (%" in figure.axes[1].get_ylabel()
    figure.draw_without_rendering()


def test_confusion_matrix_without_any_frames(tmp_path):
    tasks_figures.plot_confusion_matrix(tmp_path / "figure.png", np.zeros((39, 39)), PHONES_39, "")
    assert os.listdir(tmp_path) == ["figure.png"]


@pytest.mark.parametrize("shape", [(38, 39), (61, 61), (39,)])
def test_confusion_matrix_of_another_size_is_refused(shape):
    with pytest.raises(ValueError, match=r"\(39, 39\) expected"):
        tasks_figures._confusion_matrix_figure(np.ones(shape), PHONES_39, "")


# Memory


def test_memory_shows_every_start_and_the_window():
    figure = lmu_figures._memory_figure(**memory_arguments(), title="")
    axes = figure.axes[0]
    for i, (line, name) in enumerate(zip(axes.lines, memory_arguments()["r2_by_start"])):
        assert line.get_xdata().tolist() == list(range(21))
        assert line.get_ydata()[0] == pytest.approx(0.9 - 0.02 * i)
        assert line.get_label().startswith(name.replace("_", " ") + ", sum ")
    assert list(axes.lines[4].get_xdata()) == [10, 10]  # 100 ms are ten frames
    assert len({line.get_color() for line in axes.lines[:4]}) == 4
    assert len({line.get_marker() for line in axes.lines[:4]}) == 4
    assert axes.get_ylim() == (0, 1)


def test_memory_worse_than_the_mean_is_not_cut_off():
    figure = lmu_figures._memory_figure({"lmu": [0.5, -0.2]}, None, "")
    assert figure.axes[0].get_ylim() == (-0.2, 1)
    assert len(figure.axes[0].lines) == 1


@pytest.mark.parametrize("n", [0, 5])
def test_memory_of_too_many_or_no_starts_is_refused(n):
    with pytest.raises(ValueError, match=f"{n} kinds of weights, 1 to 4 expected"):
        lmu_figures._memory_figure({str(i): [1] for i in range(n)}, None, "")


def test_delayed_signals_lie_upon_each_other():
    arguments = memory_utterance_arguments()
    figure = lmu_figures._memory_utterance_figure(**arguments)
    signals, raster = figure.axes[:2]
    shifted, decoded, ideal = signals.lines
    assert [line.get_label() for line in signals.lines] == [
        "input, shifted by the window",
        "decoded from spikes",
        "ideal memory",
    ]
    assert shifted.get_xdata()[0] == pytest.approx(10.1)  # 50 steps, and half a step
    np.testing.assert_allclose(
        np.interp(ideal.get_xdata()[60:], shifted.get_xdata(), shifted.get_ydata()),
        ideal.get_ydata()[60:],
        atol=1e-9,
    )
    np.testing.assert_allclose(decoded.get_ydata(), ideal.get_ydata() / 2)
    assert signals.get_xlim() == (0, 60) and "80 of the layer's 200" in raster.get_ylabel()


def test_memory_arrays_that_do_not_fit_are_refused():
    arguments = memory_utterance_arguments()
    with pytest.raises(ValueError, match="have 300, 300, 299 and 300 steps"):
        lmu_figures._memory_utterance_figure(**{**arguments, "decoded": arguments["decoded"][1:]})


def test_eigenvalues_are_shown_as_rates_of_the_window():
    axes = lmu_figures._eigenvalue_figure(**EIGENVALUES, title="").axes[0]
    ideal, loop = axes.lines[:2]
    np.testing.assert_allclose(ideal.get_xydata(), [[-3, 4], [-3, -4]])
    np.testing.assert_allclose(loop.get_xydata(), [[-2, 1], [-2, -1]])

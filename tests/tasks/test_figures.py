"""Figures of what a network answers show the given numbers at the right places."""

import os

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.image import imread

from helpers import assert_draws, axis_names, fills, texts, y_labels
from speech.facts import PHONES_39, PHONES_61
from speech.figures import PHONE_FILL, SILENCE_FILL, WRONG_FILL
from tasks import figures
from toolbox import plotting

N_REPEAT = 5


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


@pytest.mark.parametrize(
    "plot, arguments, size_px",
    [
        (figures.plot_lsnn_utterance, lsnn_arguments(), (1600, 2419)),
        (figures.plot_confusion_matrix, confusion_arguments(), (2200, 1960)),
    ],
)
def test_file_is_a_png_of_the_figures_size(plot, arguments, size_px, tmp_path):
    assert_draws(plot, arguments, size_px, tmp_path)


def test_arrays_that_do_not_fit_leave_no_file(tmp_path):
    with pytest.raises(ValueError):
        figures.plot_confusion_matrix(tmp_path / "figure.png", np.ones((3, 4)), "abc", "")
    assert os.listdir(tmp_path) == []


# LSNN utterance


def test_lsnn_panels_share_the_frame_axis():
    figure = figures.plot_lsnn_utterance.draw(**lsnn_arguments())
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
    raster = figures.plot_lsnn_utterance.draw(**arguments).axes[2]
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
    assert axis_names(raster) == [
        "forward regular",
        "forward adaptive",
        "backward regular",
        "backward adaptive",
    ]
    assert raster.yaxis_inverted()


def test_true_phones_and_answers_are_blocks():
    figure = figures.plot_lsnn_utterance.draw(**lsnn_arguments())
    true_phones, answers = figure.axes[1], figure.axes[3]
    assert texts(true_phones) == list(PHONES_39[:5])
    assert [patch.get_x() for patch in true_phones.patches] == [0, 8, 16, 24, 32]
    assert fills(true_phones) == [SILENCE_FILL] + [PHONE_FILL] * 4
    assert [patch.get_x() for patch in answers.patches] == [0, 6, 8, 14, 16, 22, 24, 30, 32, 38]
    assert fills(answers) == [PHONE_FILL, WRONG_FILL] * 5
    assert texts(answers)[:2] == [PHONES_39[0], PHONES_39[20]]


def test_probabilities_are_the_softmax_with_boxes_on_the_true_path():
    arguments = lsnn_arguments()
    classes = figures.plot_lsnn_utterance.draw(**arguments).axes[4]
    drawn = np.asarray(classes.images[0].get_array())  # [classes, frames]
    assert drawn.sum(axis=0) == pytest.approx(np.ones(40))
    ratio = np.log(drawn[3, 7] / drawn[5, 7])
    assert ratio == pytest.approx(arguments["logits"][7, 3] - arguments["logits"][7, 5])
    boxes = [box.get_bbox().bounds for box in classes.patches]
    assert boxes == [(8 * i, i - 0.5, 8, 1) for i in range(5)]
    assert axis_names(classes) == list(PHONES_39)


def test_realistic_size_with_61_phones_and_a_blank(tmp_path):
    arguments = lsnn_arguments(350, 300, 100, PHONES_61, n_logits=62)
    path = tmp_path / "figure.png"
    figures.plot_lsnn_utterance(path, **arguments)
    height, width, _ = imread(path, format="png").shape
    assert width == 2520 and 2500 < height < 3000
    classes = figures.plot_lsnn_utterance.draw(**arguments).axes[4]
    assert axis_names(classes) == [*PHONES_61, "blank"]


@pytest.mark.parametrize(
    "n_regular, n_adaptive, groups",
    [
        (20, 0, ["forward regular", "backward regular"]),
        (0, 1, ["forward adaptive", "backward adaptive"]),
    ],
)
def test_networks_of_one_kind_of_neuron(n_regular, n_adaptive, groups):
    arguments = lsnn_arguments(n_regular=n_regular, n_adaptive=n_adaptive)
    raster = figures.plot_lsnn_utterance.draw(**arguments).axes[2]
    names = axis_names(raster)
    assert names == groups
    assert raster.get_ylabel().startswith(f"{2 * (n_regular + n_adaptive)} of")


def test_network_of_one_direction():
    arguments = lsnn_arguments(n_regular=120, n_adaptive=80)  # 200 columns, all of one direction
    arguments["spikes"] = arguments["spikes"][:, :200]
    raster = figures.plot_lsnn_utterance.draw(**arguments, n_directions=1).axes[2]
    names = axis_names(raster)
    assert names == ["forward regular", "forward adaptive"]
    assert raster.get_ylabel().startswith("80 of the layer's 200")


def test_one_frame_without_a_spike(tmp_path):
    arguments = lsnn_arguments(n_frames=1)
    arguments.update(features=np.zeros((1, 39)), spikes=np.zeros((5, 200)))
    figures.plot_lsnn_utterance(tmp_path / "figure.png", **arguments)
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
        figures.plot_lsnn_utterance.draw(**{**lsnn_arguments(), **change})


# Confusion matrix


@pytest.mark.parametrize("class_names", [PHONES_39, PHONES_61])
def test_confusion_matrix_shows_shares_of_true_phones(class_names):
    figure = figures.plot_confusion_matrix.draw(**confusion_arguments(class_names))
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("answered phone", "true phone")
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == list(class_names)
    n, missing = len(class_names), class_names.index("ch")
    shares = axes.collections[0].get_array()
    assert shares.mask[missing].all() and shares.mask.sum() == n
    present = np.arange(n) != missing
    assert shares[present].sum(axis=1).tolist() == [1.0] * (n - 1)
    assert shares[0, 1] == 0.5  # true class 0 answered as class 1: rows are true
    assert shares[1, 0] == 0
    assert texts(axes) == ["50"] * (2 * (n - 1))
    totals = axis_names(axes.child_axes[0])
    assert totals == ["0" if i == missing else "100" for i in range(n)]
    assert "share of the true phone's frames (%" in figure.axes[1].get_ylabel()
    figure.draw_without_rendering()


def test_confusion_matrix_without_any_frames(tmp_path):
    figures.plot_confusion_matrix(tmp_path / "figure.png", np.zeros((39, 39)), PHONES_39, "")
    assert os.listdir(tmp_path) == ["figure.png"]


@pytest.mark.parametrize("shape", [(38, 39), (61, 61), (39,)])
def test_confusion_matrix_of_another_size_is_refused(shape):
    with pytest.raises(ValueError, match=r"\(39, 39\) expected"):
        figures.plot_confusion_matrix.draw(np.ones(shape), PHONES_39, "")

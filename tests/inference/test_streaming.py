"""Sound in pieces: the same bits whatever the pieces, and the answers of the network as trained."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from inference import streaming, transcription
from inference.trained_run import open_run
from layers import event_driven, neurons
from speech.dataset import TimitDataset
from speech.plain_pickle import load_plain_pickle

FORWARD = pytest.mark.parametrize("kind", ["lsnn", "late_lstm", "ctc"])


@pytest.fixture(scope="module")
def sounds(tiny_processed):
    """int16 [samples] of the development and test utterances, by the split."""
    return {s: load_plain_pickle(f"{tiny_processed}/{s}/wav.pickle") for s in ("develop", "test")}


@FORWARD
def test_it_answers_as_the_network_that_was_trained(kind, trained_run, sounds, tiny_processed):
    run = open_run(str(trained_run(kind)))
    assert streaming.obstacle(run.network) is None
    sound, flags = sounds["develop"][0], run.flags
    dataset = TimitDataset(tiny_processed, flags["preproc"], flags["reduced_phns"])
    np.testing.assert_array_equal(
        streaming.Features(run).feed(sound, is_end=True), dataset.develop.features[0]
    )
    heard, whole = transcription.hear(run, sound), transcription._hear_whole(run, sound)
    assert heard.probabilities.shape == (len(dataset.develop.phns[0]), len(run.class_names))
    np.testing.assert_allclose(heard.probabilities, whole.probabilities, atol=1e-4)
    assert np.ptp(whole.probabilities, axis=0).max() > 0.01  # they say something
    same = heard.probabilities.argmax(axis=1) == whole.probabilities.argmax(axis=1)
    assert np.mean(same) >= 0.999
    if run.network.is_spiking:
        np.testing.assert_array_equal(heard.spikes, whole.spikes)
        assert 0.001 < np.mean(heard.spikes) < 0.5


@FORWARD
def test_every_size_of_the_pieces_gives_the_same_bits(kind, trained_run, sounds):
    run = open_run(str(trained_run(kind)))
    sound = sounds["test"][0][:12345]
    whole = transcription.hear(run, sound)
    for chunk_samples in (97, 160, 1600, 12345 - 399):
        heard = transcription.hear(run, sound, chunk_samples)
        np.testing.assert_array_equal(heard.probabilities, whole.probabilities)
        assert len(heard.latencies_s) == len(whole.probabilities)
    # The window, two frames of differences, a block's other four, and the piece itself.
    delay_s = 0.01 * run.flags["target_delay_frames"]
    assert 0.015 + 0.02 < np.mean(transcription.hear(run, sound, 160).latencies_s) - delay_s < 0.1


@pytest.mark.parametrize("n_samples", [400, 401, 560, 561, 720, 1040, 1200, 1201, 2000])
def test_the_shortest_sounds_have_all_their_frames(n_samples, trained_run, sounds):
    run = open_run(str(trained_run("lsnn")))
    sound = sounds["test"][1][3000 : 3000 + n_samples]
    whole = streaming.Features(run).feed(sound, is_end=True)
    assert len(whole) == 1 + -(-(n_samples - 400) // 160)
    pieces = streaming.Features(run)
    rows = [pieces.feed(sound[k : k + 100]) for k in range(0, n_samples, 100)]
    rows.append(pieces.feed(sound[:0], is_end=True))
    np.testing.assert_array_equal(np.concatenate(rows), whole)


def test_a_late_answer_belongs_to_the_frame_before(trained_run, sounds):
    """The last frame is heard again until its answer is due."""
    run = open_run(str(trained_run("late_lstm")))
    in_time = run._replace(record={**run.record, "flags": {**run.flags, "target_delay_frames": 0}})
    sound = sounds["develop"][1]
    late, own = (transcription.hear(r, sound).probabilities for r in (run, in_time))
    assert late.shape == own.shape
    np.testing.assert_array_equal(late[:-3], own[3:])
    assert not np.array_equal(late[-1], own[-1])


@pytest.mark.parametrize("dt, n_ref", [(1.0, 1), (1.0, 2), (1.0, 4), (0.5, 2), (2.0, 4)])
def test_a_step_is_that_of_the_engine(dt, n_ref):
    rng = np.random.default_rng(1)
    parameters = neurons.alif_parameters(12, 8, dt=dt, n_ref=n_ref, n_repeat=3)
    current = 0.1 * rng.standard_normal((1, 60, 1, 20))
    w_rec = 0.05 * rng.standard_normal((1, 20, 20)) * (1 - np.eye(20))
    saved = event_driven.forward(current, w_rec, parameters).saved
    expected = event_driven.unpack_spikes(saved.spikes, 20)[0, :, 0]
    state, found = neurons.State(*np.zeros((4, 20))), []
    for row in np.repeat(current[0, :, 0], 3, axis=0):
        state.v[...] = parameters.alpha * state.v + row - parameters.thr * dt * state.z
        state.v[...] += state.z @ w_rec[0]
        neurons.fire(state, parameters)
        found.append(state.z.copy())
    np.testing.assert_array_equal(np.array(found) * dt, expected)
    assert 0.01 < expected.mean() < 0.5


def test_what_cannot_be_fed_in_pieces_is_heard_as_a_whole(trained_run, sounds):
    run = open_run(str(trained_run("lstm")))
    assert "backward" in streaming.obstacle(run.network)
    heard = transcription.hear(run, sounds["test"][2], 160)
    assert len(heard.probabilities) == 1 + -(-(len(sounds["test"][2]) - 400) // 160)
    np.testing.assert_allclose(heard.probabilities.sum(axis=1), 1)
    assert len(heard.latencies_s) == 0

    config = open_run(str(trained_run("late_lstm"))).network.config
    for change, words in (
        ({"peephole": True, "engine": "dense"}, "LSTM cells"),
        ({"lstm": False, "engine": "dense"}, "LSTM cells"),
        ({"reference_quirks": True}, "reference_quirks"),
        ({}, "None"),
    ):
        network = SimpleNamespace(config=dataclasses.replace(config, **change), is_spiking=False)
        assert words in str(streaming.obstacle(network))

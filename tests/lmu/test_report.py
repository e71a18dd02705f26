"""What is chosen, recorded and measured for the report, on small data and on real speech."""

import numpy as np
import pytest
from small_layers import flag_values, quiet

import timit_processing
from layers.neurons import alif_parameters
from lmu import flags, memory, report, seeding
from lmu.matched import LmuSettings
from signals import N_STATIC, smooth_utterances, speech_like
from speech.dataset import Split, TimitDataset
from toolbox.command_line import UserError, parse_flags


def test_both_cells_follow_their_memory(layer, speech):
    for direction in (0, 1):
        utterances = [u[:: -1 if direction else 1] for u in speech[:4]]
        records = report.record_loop(layer, utterances, alif_parameters(40, 10), direction)
        decoded = np.concatenate([r.decoded for r in records])
        ideal = np.concatenate([r.ideal for r in records])
        assert np.corrcoef(decoded[:, 0], ideal[:, 0])[0, 1] > 0.9
        assert records[0].spikes.shape == (750, 50) and records[0].low_passed.shape == (750, 12)


def test_eigenvalues_of_a_loop_are_those_of_its_linear_system():
    rng = np.random.default_rng(0)
    a = np.array([[0.9, 0.2], [-0.2, 0.9]])
    b = rng.normal(size=(2, 3))
    records = []
    for _ in range(3):
        inputs, states, m = rng.normal(size=(200, 3)), [], np.zeros(2)
        for x in inputs:
            m = a @ m + b @ x + 0.001 * rng.normal(size=2)
            states.append(m)
        records.append(report.LoopRecord(inputs, None, np.array(states), None))
    found = sorted(report.loop_eigenvalues(records), key=lambda value: value.imag)
    np.testing.assert_allclose(found, [0.9 - 0.2j, 0.9 + 0.2j], atol=1e-3)


def delay_line(lengths, delay, gain):
    """Records of loops whose two channels, each of order 2, decode u(t - delay) by this gain."""
    rng = np.random.default_rng(1)
    records = []
    for u in smooth_utterances(rng, len(lengths), 2, lengths):
        delayed = gain * np.concatenate([np.zeros((delay, 2)), u[:-delay]])
        other = rng.normal(size=u.shape)  # what the decoder of theta ago, (1, 1), must add to
        states = np.stack([delayed - other, other], axis=2).reshape(len(u), 4)
        records.append(report.LoopRecord(u, None, states, None))
    return records


def test_a_delay_lines_delay_and_gain():
    records = delay_line((400, 150, 90), delay=37, gain=[0.8, 1.2])
    measured = report.loop_delay_and_gain(records, np.eye(2), 37)
    assert measured == {"loop_delay_steps": 37, "loop_gain": pytest.approx(1)}
    scaled = [r._replace(decoded=0.5 * r.decoded) for r in records]
    assert report.loop_delay_and_gain(scaled, np.eye(2), 37)["loop_gain"] == pytest.approx(0.5)
    assert report.loop_delay_and_gain(records, np.eye(2), 30)["loop_delay_steps"] == 37


def test_a_loop_longer_than_its_speech_cannot_be_measured():
    records = delay_line((90, 60), delay=37, gain=1)
    with pytest.raises(UserError, match="90 steps long, .* utterances 90: .* --theta_ms"):
        report.loop_delay_and_gain(records, np.eye(2), 90)


def test_the_loop_is_the_delay_line_that_it_claims_to_be(speech):
    """On signals like speech, unseen; `LmuSettings` are the defaults but for the channels."""
    parameters = alif_parameters(200, 0)
    settings = LmuSettings(N_STATIC, n_channels=1)
    rng = np.random.default_rng(1)
    layer = seeding.seed_layer(speech, parameters, 200, settings, rng, 1, say=quiet)
    records = report.record_loop(layer, speech_like(5, 4, lengths=(300,)), parameters)
    measured = report.loop_delay_and_gain(records, layer.P[0], 50)
    assert 45 <= measured["loop_delay_steps"] <= 55
    assert 0.85 <= measured["loop_gain"] <= 1.1


class Dataset:
    """Splits with these numbers of speakers, two utterances each."""

    def __init__(self, **n_speakers):
        for split, n in n_speakers.items():
            metadata = [{"dr": "dr1", "speaker": f"{split}{i // 2:02d}"} for i in range(2 * n)]
            arrays = [np.zeros((3, 1), np.float32)] * (2 * n)
            setattr(self, split, Split(arrays, [np.zeros(3, int)] * (2 * n), metadata))


def test_folds_hold_out_every_speaker_once():
    dataset = Dataset(train=10, develop=3, test=3)
    held_out = []
    for fold in range(4):
        speech = report.choose_speech(dataset, fold)
        assert speech.splits == ("train", "develop", "test") and len(speech.utterances) == 32
        of_fold = sorted({s for s, out in zip(speech.speakers, speech.is_held_out) if out})
        assert of_fold == sorted(set(speech.speakers))[fold::4]
        assert len(speech.fit()) == 24
        held_out += of_fold
    assert sorted(held_out) == sorted(set(speech.speakers))


def test_a_large_training_set_leaves_the_other_splits_alone():
    speech = report.choose_speech(Dataset(train=16, develop=3, test=3), 0)
    assert speech.splits == ("train",) and len(speech.utterances) == 32


def test_too_few_speakers():
    with pytest.raises(UserError, match=r"has 3 speaker\(s\): expected at least 4"):
        report.choose_speech(Dataset(train=1, develop=1, test=1), 0)


@pytest.mark.stress
def test_what_a_seeded_layer_remembers_of_speech(timit_sample, tmp_path):
    """One fold of the acceptance: as many spikes, more memory than shuffled or random weights."""
    paths = [f"--data_path={timit_sample}", f"--output_path={tmp_path / 'processed'}"]
    timit_processing.main(parse_flags(timit_processing.define_flags, ["processing", *paths])[0])
    dataset = TimitDataset(str(tmp_path / "processed"))
    speech = report.choose_speech(dataset, fold=0)
    parameters = alif_parameters(300, 100)
    settings = flags.settings_from_flags(flag_values(), dataset.n_static)
    layer = seeding.seed_layer(
        speech.fit(), parameters, 300, settings, np.random.default_rng(1), 1, say=quiet
    )

    def measure(w_in, w_rec):
        return memory.measure(
            speech.utterances,
            speech.phns,
            speech.speakers,
            speech.is_held_out,
            w_in,
            w_rec,
            parameters,
            layer.P[0],
            dataset.n_phns,
        )

    lmu = measure(layer.w_in, layer.w_rec)
    rng = np.random.default_rng(0)
    shuffled = measure(*seeding.shuffled_control(layer, parameters, speech.fit(), rng))
    assert 30 < lmu["rate_hz_mean"] < 60 and lmu["rate_hz_max"] < 120
    assert shuffled["rate_hz_mean"] == pytest.approx(lmu["rate_hz_mean"], rel=0.05)
    assert lmu["silent_share"] < 0.01 and lmu["psi_positive_share"] > 0.2
    assert lmu["r2_channels"][20] > 0.27 and lmu["memory_capacity_channels"] > 14
    gain = lmu["memory_capacity_channels"] - shuffled["memory_capacity_channels"]
    assert gain > 2
    assert lmu["frame_accuracy_forward"] > 0.5
    spoken = speech.utterances, speech.phns, speech.speakers, speech.is_held_out
    floor = memory.measure_floor(*spoken, layer.P[0])["memory_capacity_channels"]
    assert floor == pytest.approx(9.36, abs=0.1)  # in any but the last digits the same everywhere
    records = report.held_out_loop(layer, speech, parameters)
    loop = report.loop_delay_and_gain(records, layer.P[0], 50)
    assert 45 <= loop["loop_delay_steps"] <= 55 and 0.85 <= loop["loop_gain"] <= 1.1

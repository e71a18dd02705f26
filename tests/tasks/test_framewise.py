"""Framewise phones: windows, batches, cross entropy, frame errors, confusion, the data's flags."""

import os

import numpy as np
import pytest

from lmu import front_end
from speech import dataset as dataset_module
from speech.dataset import Batch
from tasks.framewise import Framewise, cross_entropy, random_windows
from tiny_runs import BOTH, build, evaluate, lsnn, lstm, parse
from toolbox.command_line import UserError

# --------------------------------------------------------------------------- windows


def numbered_batch(seq_len=(9, 4, 30)):
    """Utterances of which every frame tells where it stood: feature (utterance, frame + 1)."""
    seq_len = np.array(seq_len, np.int32)
    shape = len(seq_len), seq_len.max()
    is_true = np.arange(shape[1]) < seq_len[:, None]
    frames = np.broadcast_to(np.arange(shape[1]) + 1, shape)
    utterances = np.broadcast_to(np.arange(len(seq_len))[:, None], shape)
    features = np.stack([utterances, frames], -1) * is_true[..., None]
    return Batch(features.astype(np.float32), (frames % 39 * is_true).astype(np.int32), seq_len)


@pytest.mark.parametrize("n_frames", [1, 6, 9, 100])
def test_random_windows_hold_true_frames_in_order(n_frames):
    batch = numbered_batch()
    for seed in range(50):
        windows = random_windows(batch, n_frames, np.random.default_rng(seed))
        np.testing.assert_array_equal(windows.seq_len, np.minimum(batch.seq_len, n_frames))
        assert windows.features.shape == (3, windows.seq_len.max(), 2)
        for name in Batch._fields:
            assert getattr(windows, name).dtype == getattr(batch, name).dtype
        for i, length in enumerate(windows.seq_len):
            utterance, frames = windows.features[i, :length].T
            assert set(utterance) == {i}
            assert 1 <= frames[0] and frames[-1] <= batch.seq_len[i]
            np.testing.assert_array_equal(np.diff(frames), np.ones(length - 1))
            np.testing.assert_array_equal(windows.phns[i, :length], frames % 39)
            assert not windows.features[i, length:].any() and not windows.phns[i, length:].any()


def test_random_windows_start_anywhere():
    batch = numbered_batch()
    generator = np.random.default_rng(0)
    starts = [random_windows(batch, 6, generator).features[:, 0, 1] for _ in range(400)]
    first, second, third = np.array(starts).T
    # 25 starts at 1/25 each: that one of them is missed 400 times has a chance of 2e-6.
    assert (set(first), set(second), set(third)) == ({1, 2, 3, 4}, {1}, set(range(1, 26)))
    assert np.corrcoef(first, third)[0, 1] < 0.3  # each utterance draws its own


def test_random_windows_depend_on_the_generator_alone():
    batch = numbered_batch()
    first, again, other = (
        random_windows(batch, 6, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not np.array_equal(first.features, other.features)


# --------------------------------------------------------------------------- batches


def batches_of(dataset, batch_size=2, **options):
    task = Framewise(dataset, **options)
    batches = list(task.training_batches(batch_size, np.random.default_rng(1)))
    assert len(batches) == task.n_training_batches(batch_size)
    return batches


def test_batch_is_the_number_of_utterances(short_dataset):
    assert [len(batch.seq_len) for batch in batches_of(short_dataset(), 3)] == [3, 3]


def test_the_authors_batches_mix_lengths(short_dataset):
    """Six utterances of 6, 10 and 14 frames: sorted, each batch of two is of one length."""
    for quirks in (False, True):
        task = Framewise(short_dataset(), reference_quirks=quirks)
        are_mixed = [
            len(set(batch.seq_len.tolist())) > 1
            for epoch in range(9)
            for batch in task.training_batches(2, np.random.default_rng(epoch))
        ]
        assert len(are_mixed) == 27 and any(are_mixed) == quirks


def test_truncT_cuts_windows(short_dataset):
    for length, flag in ((14, "--truncT=-1"), (5, "--truncT=5")):
        window = parse(lsnn, flag).truncT
        batches = batches_of(short_dataset(), window_frames=window)
        assert max(batch.features.shape[1] for batch in batches) == length


# --------------------------------------------------------------------------- losses and errors


def test_cross_entropy_is_a_mean_over_true_frames():
    random_generator = np.random.default_rng(1)
    logits = random_generator.standard_normal((3, 5, 4))
    phns = random_generator.integers(4, size=(3, 5))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    nats = -np.log(np.take_along_axis(p, phns[..., None], -1)[..., 0])
    for seq_len in ([5, 2, 1], [5, 5, 0]):
        expected = [nats[b, :n].mean() if n else 0 for b, n in enumerate(seq_len)]
        np.testing.assert_allclose(cross_entropy(logits, phns, seq_len), expected, rtol=1e-12)


def test_the_authors_padding_counts_in_their_loss_alone(short_dataset):
    random_generator = np.random.default_rng(1)
    logits = random_generator.standard_normal((2, 5, 39))
    phns, seq_len = random_generator.integers(39, size=(2, 5)), np.array([5, 2], np.int32)
    for padding_counts, counted in ((False, [5, 2]), (True, [5, 5])):
        task = Framewise(short_dataset(), padding_counts=padding_counts)
        found = task.losses(logits, phns, seq_len)
        np.testing.assert_allclose(found, cross_entropy(logits, phns, counted), rtol=1e-12)
        batch = Batch(np.zeros((2, 5, 1)), phns, seq_len)
        wrong = task.sums(batch, (phns + (np.arange(5) >= seq_len[:, None])) % 39)
        assert wrong["frame_error"] == 0 and wrong["confusion"].sum() == 7


def frame_errors(built, split):
    """Frame errors on 61 or 39 and on 39 classes, an utterance at a time, without padding."""
    errors, errors_39 = [], []
    fold = [*built.task.dataset.fold_to_reduced, None]
    for features, phns in zip(split.features, split.phns):
        logits = built.network(features[None], np.array([len(phns)], np.int32)).logits[0]
        answers = np.argmax(logits, axis=-1)
        errors.append(np.mean(answers != phns))
        errors_39.append(np.mean([fold[a] != fold[p] for a, p in zip(answers, phns)]))
    return np.mean(errors), np.mean(errors_39)


def found_errors(evaluation):
    assert list(evaluation.metrics) == ["frame_error", "frame_error_39"]
    return tuple(evaluation.metrics.values())


@BOTH
def test_frame_errors_are_means_over_utterances(script, short_dataset, eager):
    built = build(script, short_dataset())
    evaluation = evaluate(built, "test", 3)
    expected = frame_errors(built, built.task.dataset.test)
    assert found_errors(evaluation) == pytest.approx(expected, rel=1e-6)
    assert evaluation.sums["confusion"].sum() == 30


def always(built, k):
    """Have the readout answer one class."""
    n = built.network.readout.b_out.shape[0]
    built.network.readout.b_out.assign(1000 * np.eye(n)[k])


def test_61_classes_are_folded_to_39(short_dataset, eager):
    dataset = short_dataset(reduced_phns=False)
    built = build(lstm, dataset, "--noreduced_phns")
    assert built.network.readout.w_out.shape[1] == 61
    # Always "pau", which is silence as "h#" is: right on 39 classes where it is wrong on 61.
    always(built, dataset.phn_list.index("pau"))
    evaluation = evaluate(built, "test", 3)
    found = found_errors(evaluation)
    assert found == pytest.approx(frame_errors(built, dataset.test), rel=1e-6)
    assert found[1] < found[0]
    confusion = evaluation.sums["confusion"]
    assert confusion[:, 0].sum() == confusion.sum() == 30


@pytest.mark.parametrize("reduced_phns", [True, False])
def test_the_blank_of_the_reference_is_always_wrong(reduced_phns, short_dataset, eager):
    dataset = short_dataset(reduced_phns=reduced_phns)
    built = build(lsnn, dataset, f"--reduced_phns={reduced_phns}", "--reference_quirks")
    assert built.network.readout.b_out.shape == (dataset.n_phns + 1,)
    always(built, -1)
    evaluation = evaluate(built, "test", 3)
    assert found_errors(evaluation) == pytest.approx((1, 1), abs=1e-6)
    assert evaluation.sums["confusion"].sum() == 0  # a blank is no phone's answer


def test_a_frame_error_is_a_fraction(short_dataset, eager):
    built = build(lstm, short_dataset())
    always(built, min({*range(39)} - {p for phns in built.task.dataset.train.phns for p in phns}))
    assert evaluate(built, "train", 6).metrics["frame_error"] == 1


# --------------------------------------------------------------------------- the flags of the data


def test_the_data_set_is_described(tiny_processed, capsys):
    def load(*arguments):
        return lstm.make_task(parse(lstm, f"--dataset={tiny_processed}", *arguments))

    task = load()
    assert (task.n_features, task.n_classes) == (39, 39)
    assert task.constant_error() == task.dataset.majority_error(task.dataset.develop)
    assert capsys.readouterr().out == (
        "utterances: train 6, develop 2, test 3; 39 features; 39 phone classes\n"
    )
    arguments = ["--preproc=fbank", "--noreduced_phns"]
    task = load(*arguments, "--reference_quirks")
    assert (task.n_features, task.n_classes) == (123, 61)
    out = capsys.readouterr().out
    assert "123 features; 61 phone classes" in out
    assert "made with --reference_quirks=False" in out and tiny_processed in out
    delayed = load(*arguments, "--target_delay_frames=4").dataset.train.phns[0]
    np.testing.assert_array_equal(delayed[4:], task.dataset.train.phns[0][:-4])


def test_a_delay_is_shorter_than_the_shortest_utterance_of_all_splits(tiny_processed):
    def load(delay):
        arguments = f"--dataset={tiny_processed}", f"--target_delay_frames={delay}"
        return lstm.make_task(parse(lstm, *arguments)).dataset

    dataset = load(0)
    train, others = (
        min(len(phns) for split in splits for phns in split.phns)
        for splits in ([dataset.train], [dataset.develop, dataset.test])
    )
    assert others < train
    load(others - 1)
    with pytest.raises(UserError, match=f"expected less than the {others} frames"):
        load(others)


@pytest.mark.parametrize("kind", front_end.KINDS)
def test_the_past_is_appended_to_the_features(kind, tiny_processed, capsys):
    plain = lstm.make_task(parse(lstm, f"--dataset={tiny_processed}")).dataset
    sizes = ["--front_end_channels=2", "--front_end_order=3", "--front_end_theta_ms=90"]
    dataset = lstm.make_task(
        parse(lstm, f"--dataset={tiny_processed}", f"--front_end={kind}", *sizes)
    ).dataset
    assert "45 features" in capsys.readouterr().out
    append = front_end.make_front_end(kind, plain.train.features, 13, 2, 3, 90)
    for name in ("train", "develop", "test"):
        for found, features in zip(getattr(dataset, name).features, getattr(plain, name).features):
            np.testing.assert_array_equal(found, append(features))
    assert (dataset.n_features, dataset.n_static) == (45, 13)


def test_a_data_set_of_another_version_is_no_traceback(tiny_processed, tmp_path):
    for name in ("train", "develop", "test"):
        os.symlink(os.path.join(tiny_processed, name), tmp_path / name)
    (tmp_path / "processing.json").write_text("{}")
    try:
        lstm.make_task(parse(lstm, f"--dataset={tmp_path}"))
    except UserError as error:
        assert "processing.json" in str(error)


@pytest.mark.parametrize("kind", Batch._fields[:2] + ("metadata",))
def test_the_checksum_is_of_what_is_read(kind, tiny_processed, monkeypatch):
    read = dataset_module._read_utterances

    def changed(folder, *arguments):
        utterances = read(folder, *arguments)
        if folder.endswith("test"):
            of_kind = utterances[("features", "phns", "metadata").index(kind)]
            if kind == "metadata":
                of_kind[0] = {**of_kind[0], "speaker": "other"}
            else:
                of_kind[0] = of_kind[0].copy()
                of_kind[0][3] += 1e-9 if kind == "features" else 1 if of_kind[0][3] == 0 else -1
        return utterances

    def checksum():
        return Framewise(dataset_module.TimitDataset(tiny_processed)).checksum

    first = checksum()
    assert first == checksum() and len(first) == 64
    monkeypatch.setattr(dataset_module, "_read_utterances", changed)
    assert checksum() != first

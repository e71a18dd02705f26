"""CTC: labels, losses against sums over all alignments, decoders, phone error rates, figures."""

import itertools
import os
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import REPOSITORY
from speech.dataset import Split
from speech.facts import PHONES_39, PHONES_61
from toolbox import command_line, plotting
from toolbox.command_line import UserError

command_line.import_tensorflow()

import tensorflow as tf  # noqa: E402

from tasks import ctc  # noqa: E402
from training.evaluation import make_evaluation  # noqa: E402

SIL, A, B, C = 0, 5, 6, 7  # phones
GOLDEN = os.path.join(os.path.dirname(REPOSITORY), "shared", "golden_ctc")


def dataset_of(*utterances, n_phns=39, fold=None):
    """A data set whose three splits are these utterances, each a list of frame labels."""
    split = Split(
        [np.zeros((len(phns), 2), np.float32) for phns in utterances],
        [np.array(phns, np.int32) for phns in utterances],
        [{"dr": "dr1", "speaker": "fabc0", "utterance": f"s{i}"} for i in range(len(utterances))],
    )
    return SimpleNamespace(
        train=split,
        develop=split,
        test=split,
        n_features=2,
        n_phns=n_phns,
        fold_to_reduced=list(range(n_phns)) if fold is None else fold,
        reduced_phn_list=list(PHONES_39),
        phn_list=list(PHONES_39 if n_phns == 39 else PHONES_61),
        checksum="",
        note="",
    )


def task_of(*utterances, **options):
    return ctc.Ctc(dataset_of(*utterances), **options)


# --------------------------------------------------------------------------- labels and losses


def runs_of(phns, drop_last=False):
    """Classes of the runs of equal labels."""
    runs = [phn for phn, _ in itertools.groupby(phns)]
    return runs[:-1] if drop_last else runs


@pytest.mark.parametrize("drop_last", [False, True])
def test_labels_are_the_runs_of_frame_labels(drop_last):
    random_generator = np.random.default_rng(1)
    phns = random_generator.integers(0, 3, (30, 12)).astype(np.int32)
    seq_len = random_generator.integers(1, 13, 30).astype(np.int32)
    labels = ctc.sparse_labels(phns, seq_len, drop_last)
    rows, values = labels.indices[:, 0].numpy(), labels.values.numpy()
    assert np.all(np.diff(rows) >= 0)
    for b, n in enumerate(seq_len):
        assert values[rows == b].tolist() == runs_of(phns[b, :n].tolist(), drop_last)


def nats_of_all_alignments(logits, labels):
    """-log of the sum of the probabilities of all paths that say the labels."""
    n_frames, n_classes = logits.shape
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    total = 0
    for path in itertools.product(range(n_classes), repeat=n_frames):
        if [k for k in runs_of(path) if k != n_classes - 1] == list(labels):
            total += np.prod(p[np.arange(n_frames), path])
    return -np.log(total)


def test_the_loss_sums_over_all_alignments():
    random_generator = np.random.default_rng(2)
    labels = [[0, 1, 2], [1, 1], [2], [0, 1, 0, 1]]  # the last just fits
    logits = random_generator.standard_normal((4, 5, 4)).astype(np.float32)
    seq_len = np.array([5, 4, 1, 4], np.int32)
    indices = [(b, k) for b, of in enumerate(labels) for k in range(len(of))]
    sparse = tf.SparseTensor(indices, np.concatenate(labels).astype(np.int32), (4, 4))
    found = ctc.ctc_losses(logits, sparse, seq_len)
    expected = [nats_of_all_alignments(logits[b, :n], labels[b]) for b, n in enumerate(seq_len)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("quirks", [False, True])
def test_the_loss_is_one_of_a_label_but_for_the_authors(quirks):
    """Theirs is not divided, lacks the last run, and folds runs that stay apart."""
    fold = np.arange(61) % 39  # 0 and 39 are the same
    utterances = [0, 0, 39, 39, 2, 2, 2, 41], [7, 7, 7, 7, 7, 8]
    task = ctc.Ctc(dataset_of(*utterances, n_phns=61, fold=fold), reference_quirks=quirks)
    batch = task.dataset.train.batch([0, 1])
    logits = np.random.default_rng(3).standard_normal((2, 8, 40)).astype(np.float32)
    expected = []
    for b, said in enumerate([[0, 0, 2], [7]] if quirks else [[0, 0, 2, 2], [7, 8]]):
        sparse = tf.SparseTensor([(0, k) for k in range(len(said))], said, (1, 8))
        n = batch.seq_len[b : b + 1]
        (nats,) = ctc.ctc_losses(logits[b : b + 1], tf.cast(sparse, tf.int32), n).numpy()
        expected.append(nats if quirks else nats / len(said))
    found = task.losses(logits, batch.phns, batch.seq_len)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["ctc_cases_small", "ctc_cases_40"])
def test_losses_and_decoders_are_those_recorded(name, monkeypatch):
    path = os.path.join(GOLDEN, f"{name}.npz")
    if not os.path.isfile(path):
        pytest.skip("the recorded CTC cases are not there")
    case = np.load(path)
    logits, seq_len = tf.constant(case["logits"]), case["seq_len"]
    values = case["label_values"].astype(np.int32)
    sparse = tf.SparseTensor(case["label_indices"], values, (len(seq_len), logits.shape[1]))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = ctc.ctc_losses(logits, sparse, seq_len)
        mean = tf.reduce_mean(losses)
    np.testing.assert_allclose(losses, case["loss"], rtol=1e-5)
    gradient, expected = tape.gradient(mean, logits).numpy(), case["dmean_dlogits"]
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-4 * np.abs(expected).max())

    task = task_of([A, B])
    monkeypatch.setattr(task, "n_classes", logits.shape[-1])
    found = task.for_the_end().answers(logits, seq_len)
    for answers, recorded in zip(found, ("greedy_merge1", "beam100_merge0"), strict=True):
        rows, said = case[f"{recorded}_indices"][:, 0], case[f"{recorded}_values"]
        for b, answer in enumerate(answers.numpy()):
            assert answer[answer >= 0].tolist() == said[rows == b].tolist()


# --------------------------------------------------------------------------- error rates


def test_edits_and_confusions_are_counted():
    task = task_of([SIL, SIL, A, A, B, SIL], [C, C, A])
    batch = task.dataset.test.batch([0, 1])
    answers = [[A, A, B, C, SIL], [A, -1, -1, -1, -1]]  # without SIL, with C; without C
    sums = task.sums(batch, (np.array(answers),))
    assert {name: sums[name] for name in (*ctc.EDITS, "n_labels", "n_answered")} == {
        "insertions": 1,
        "deletions": 2,
        "substitutions": 0,
        "n_labels": 6,
        "n_answered": 5,
    }
    nothing = len(PHONES_39)
    found = {
        tuple(pair): sums["confusions"][tuple(pair)] for pair in np.argwhere(sums["confusions"])
    }
    assert found == {(SIL, nothing): 1, (nothing, C): 1, (C, nothing): 1}
    metrics = task.metrics(sums, 2)
    assert metrics == pytest.approx(
        {
            "phone_error_rate": (2 / 4 + 1 / 2) / 2,
            "phone_error_rate_without_silence": (1 / 2 + 1 / 2) / 2,
            "phone_error_rate_total": 3 / 6,
            "insertions": 1 / 6,
            "deletions": 2 / 6,
            "substitutions": 0,
            "length_ratio": 5 / 6,
        }
    )
    (true, said) = [A, B], [A, C]
    sums = task_of(true).sums(dataset_of(true).test.batch([0]), ([np.array(said)],))
    assert sums["substitutions"] == sums["confusions"][B, C] == 1


def test_a_right_answer_has_no_error_and_none_has_only_deletions():
    task = task_of([SIL, A, B, SIL])
    batch = task.dataset.test.batch([0])
    right = task.metrics(task.sums(batch, (np.array([[SIL, A, B, B, SIL]]),)), 1)
    assert [right[name] for name in ctc.RATES] == [0, 0, 0] and right["length_ratio"] == 1
    silent = task.metrics(task.sums(batch, (np.full((1, 0), -1),)), 1)
    assert [silent[name] for name in ctc.RATES] == [1, 1, 1]
    assert silent["deletions"] == 1 and silent["length_ratio"] == 0


def test_61_phones_are_folded_and_then_collapsed():
    fold = np.arange(61) % 39
    task = ctc.Ctc(dataset_of([1, 40, 2], n_phns=61, fold=fold), is_reduced=False)
    assert task.n_classes == 62
    sums = task.sums(task.dataset.test.batch([0]), (np.array([[40, 1, 41]]),))
    assert (sums["n_labels"], sums["n_answered"], sums["phone_error_rate"]) == (2, 2, 0)


def test_equal_neighbours_collapse():
    assert ctc.collapsed([1, 1, 2, 1, 3, 3]).tolist() == [1, 2, 1, 3]
    assert ctc.collapsed([]).tolist() == []


def test_the_constant_answer_is_one_phone():
    """A alone: 2 of 3 labels wrong, and all of 2; SIL alone: 2 of 3, and 1 of 2."""
    assert task_of([SIL, A, SIL], [SIL, B]).constant_error() == pytest.approx((2 / 3 + 1 / 2) / 2)


# --------------------------------------------------------------------------- decoders


def logits_of(rows):
    """[1, frames, 40] logits from dicts class -> probability; the last class is blank."""
    logits = np.full((1, len(rows), 40), -30, np.float32)
    for t, row in enumerate(rows):
        for phone, p in row.items():
            logits[0, t, phone] = np.log(p)
    return logits


BLANK = 39
# One phone's frames are less probable than the blank's each, and together more: .6 * .6 < .64.
FAINT = logits_of([{BLANK: 0.6, A: 0.4}, {BLANK: 0.6, A: 0.4}])


def test_beam_search_sums_alignments_and_greedy_does_not():
    task = task_of([A, A]).for_the_end()
    greedy, beam = (answer.numpy().tolist() for answer in task.answers(FAINT, [2]))
    assert (greedy, beam) == ([[]], [[A]])
    batch = task.dataset.test.batch([0])
    metrics = task.metrics(task.sums(batch, (np.full((1, 0), -1), np.array([[A]]))), 1)
    assert (metrics["phone_error_rate"], metrics["phone_error_rate_greedy"]) == (0, 1)
    assert metrics["blank_penalty"] == 0


@pytest.mark.parametrize("heard, chosen", [([A, A, A], 1.0), ([B, B, B], 0.0)])
def test_the_development_set_chooses_the_blank_penalty(heard, chosen):
    """Without a penalty nothing is said; A is, from a penalty of 1 on."""
    task = task_of(heard, penalties=(0.0, 1.0, 2.0)).for_the_end()
    evaluate = make_evaluation(FaintNetwork(), task, 1)
    task.read_develop(evaluate("develop"))
    test = evaluate("test")
    assert test.metrics["blank_penalty"] == chosen
    assert test.metrics["phone_error_rate"] == (0 if chosen else 1)
    assert test.metrics["phone_error_rate_greedy"] == 1


class FaintNetwork:
    """What an evaluation asks of a network, whose three frames are blank or, faintly, A."""

    is_spiking = False
    n_features = 2
    readout = SimpleNamespace(w_out=tf.zeros([1]))

    def __call__(self, features, seq_len):
        return SimpleNamespace(logits=tf.constant(logits_of([{BLANK: 0.9, A: 0.1}] * 3)))

    def activity_sums(self, output, seq_len):
        return tf.zeros([1]), tf.cast(tf.reduce_sum(seq_len), tf.float32)

    def rate_loss(self, activity):
        return tf.zeros([])

    def l2_loss(self):
        return tf.zeros([])


# --------------------------------------------------------------------------- refusals and figures


@pytest.mark.parametrize(
    "phns, quirks, words",
    [
        ([], False, "has no phone to recognise"),
        ([A, A], True, "has no phone to recognise"),  # its only run is dropped
        # Folded, all four are A: a blank has to stand between each two.
        ([A, A + 39, A, A + 39, B], True, "has 5 frames, expected at least 7 for its 4 phones"),
    ],
)
def test_utterances_that_cannot_be_learned_are_refused(phns, quirks, words):
    dataset = dataset_of([A, B, C], phns, n_phns=61, fold=np.arange(61) % 39)
    with pytest.raises(UserError, match=f"^dr1/fabc0/s1: {words}"):
        ctc.Ctc(dataset, reference_quirks=quirks)


def test_blank_penalties_are_a_number_or_auto():
    def penalties(text):
        return ctc.penalties_from_flags(SimpleNamespace(blank_penalty=text))

    assert penalties("0.25") == (0.25,) and penalties("auto") == (0.0, 0.5, 1.0, 2.0)
    for text in ("x", "nan", ""):
        with pytest.raises(UserError, match=f"--blank_penalty={text}: expected a number or auto"):
            penalties(text)


def test_both_figures_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(plotting, "DPI", 40)
    task = task_of([SIL, SIL, A, B, B, C])
    sums = task.sums(task.dataset.test.batch([0]), (np.array([[SIL, A, C, A]]),))
    test = SimpleNamespace(sums=sums, metrics={"phone_error_rate": 0.5})
    task.draw_results(tmp_path, test)
    logits = np.random.default_rng(0).standard_normal((1, 6, 40)) * 4
    task.draw_example(tmp_path, lambda *batch: SimpleNamespace(logits=tf.constant(logits)))
    assert sorted(os.listdir(tmp_path)) == ["confusions.png", "phone_probabilities.png"]

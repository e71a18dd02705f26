"""The task psMNIST: the order of pixels, their codes, and what is made of the last answer."""

import types

import numpy as np
import pytest

from helpers import mnist_arrays
from lmu import legendre
from toolbox import command_line, plotting

command_line.import_tensorflow()

import tensorflow as tf  # noqa: E402

from tasks import digits, psmnist  # noqa: E402


def make_task(tmp_path, **options):
    """The task of 30 training, 10 development and 10 test images of noise."""
    np.savez(tmp_path / "mnist.npz", **mnist_arrays())
    settings = {
        "dataset": str(tmp_path / "mnist.npz"),
        "side": "14",
        "permute": True,
        "permutation_seed": 0,
        "split_seed": 0,
        "pixel_code": "population",
        **options,
    }
    memory = settings.pop("memory", None)
    return psmnist.PsMnist.from_flags(types.SimpleNamespace(**settings), memory)


def test_pixels_come_in_one_order_that_the_seed_draws(tmp_path):
    rows = make_task(tmp_path, permute=False).splits
    images = digits.read_splits(str(tmp_path / "mnist.npz"), 0)["test"].images
    np.testing.assert_array_equal(rows["test"].pixels, digits.pooled(images, 14).reshape(10, 196))
    drawn = make_task(tmp_path).splits
    same = rows["test"].pixels[:, :, None] == drawn["test"].pixels[:, None]  # [digits, rows, drawn]
    order = list(same.all(axis=0).argmax(axis=0))
    assert sorted(order) == list(range(196)) and order != list(range(196))
    for name in ("train", "develop", "test"):
        np.testing.assert_array_equal(drawn[name].pixels, rows[name].pixels[:, order])
        np.testing.assert_array_equal(drawn[name].labels, rows[name].labels)
    other = make_task(tmp_path, permutation_seed=1).splits
    assert np.any(other["test"].pixels != drawn["test"].pixels)


def test_the_checksum_tells_data_and_order_apart(tmp_path):
    settings = [{}, {}, {"permutation_seed": 1}, {"split_seed": 1}, {"permute": False}]
    one, same, *others = [make_task(tmp_path, **s).checksum for s in settings]
    assert one == same
    assert len({one, *others}) == 4


def test_the_population_code_is_what_it_says():
    pixels = np.random.default_rng(0).random((3, 7)).astype(np.float32)
    found = psmnist.population_code(pixels)
    assert found.shape == (3, 7, 10) and found.dtype == np.float32
    for d, t in np.ndindex(3, 7):
        x, before = pixels[d, t], pixels[d, t - 1] if t else 0
        bumps = [np.exp(-(((x - c) / 0.15) ** 2)) for c in (0, 0.2, 0.4, 0.6, 0.8, 1)]
        expected = [x, 1, max(x - before, 0), max(before - x, 0), *bumps]
        np.testing.assert_allclose(found[d, t], expected, atol=1e-6)


def test_the_memory_is_that_of_the_lmu_room_and_its_columns_are_of_one_size(tmp_path):
    memory = legendre.discrete(5, 196.0)
    pixels = np.random.default_rng(0).random((3, 40))
    states = psmnist.memory_states(pixels, *memory)
    expected = legendre.memory_state(pixels.T, *memory).transpose(1, 0, 2)
    np.testing.assert_allclose(states, expected, rtol=1e-10, atol=1e-12)

    task = make_task(tmp_path, pixel_code="raw", memory=memory)
    train = task.splits["train"].pixels
    features = task.features(train)
    assert features.shape == (30, 196, task.n_features) == (30, 196, 6)
    np.testing.assert_array_equal(features[:, :, 0], train)
    np.testing.assert_allclose(np.mean(features[:, :, 1:] ** 2, axis=(0, 1)), 1, rtol=1e-4)


def test_an_epoch_has_every_digit_once(tmp_path):
    task = make_task(tmp_path, pixel_code="raw")
    assert task.n_training_batches(8) == 4
    batches = list(task.training_batches(8, np.random.default_rng(0)))
    again = list(task.training_batches(8, np.random.default_rng(0)))
    assert [len(batch.labels) for batch in batches] == [8, 8, 8, 6]
    assert [batch.names for batch in batches[-2:]] == [("8 digits",), ("6 digits",)]
    for batch, same in zip(batches, again):
        assert batch.features.shape == (len(batch.labels), 196, 1)
        assert batch.features.dtype == np.float32 and set(batch.seq_len) == {196}
        np.testing.assert_array_equal(batch.features, same.features)
    pixels = np.concatenate([batch.features[:, :, 0] for batch in batches])
    assert np.any(pixels != task.splits["train"].pixels)
    assert sorted(map(tuple, pixels)) == sorted(map(tuple, task.splits["train"].pixels))
    read = np.concatenate([batch.labels for batch in task.batches("develop", 4)])
    np.testing.assert_array_equal(read, task.splits["develop"].labels)


def test_only_the_last_answer_counts(tmp_path):
    task = make_task(tmp_path)
    logits = tf.constant(np.random.default_rng(0).standard_normal((4, 6, 10)), tf.float32)
    labels = np.array([3, 0, 9, 3], np.int32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = task.losses(logits, labels, np.full(4, 6))
    last = logits.numpy()[:, -1]
    shares = np.exp(last) / np.exp(last).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(losses, -np.log(shares[range(4), labels]), rtol=1e-5)
    gradient = tape.gradient(losses, logits).numpy()
    assert np.all(gradient[:, :-1] == 0) and np.all(gradient[:, -1] != 0)
    np.testing.assert_array_equal(task.answers(logits, None), last.argmax(axis=1))


def test_the_error_is_the_share_of_wrong_digits(tmp_path):
    task = make_task(tmp_path)
    batch = psmnist.Batch(None, np.array([3, 0, 9, 3]), None)
    sums = task.sums(batch, np.array([3, 1, 9, 9]))
    assert task.metrics(sums, 4) == {"error": 0.5} and task.metric in task.names
    assert sums["confusion"][3, 3] == sums["confusion"][3, 9] == sums["confusion"][0, 1] == 1
    assert sums["confusion"].sum() == 4

    splits = {
        name: psmnist.Sequences(np.zeros((len(labels), 4), np.float32), np.array(labels))
        for name, labels in (("train", [7, 7, 2]), ("develop", [2, 2, 2, 7]), ("test", [0]))
    }
    assert psmnist.PsMnist(splits).constant_error() == 0.75


@pytest.mark.parametrize(
    "dataset, side, expected", [("x.npz", None, 28), ("", None, 8), ("x", "8", 8)]
)
def test_the_side_is_the_datas_own_unless_given(dataset, side, expected):
    assert psmnist.side_of(types.SimpleNamespace(dataset=dataset, side=side)) == expected


def test_the_confusion_matrix_speaks_of_digits(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plotting, "save_figure", lambda figure, *_: drawn.append(figure))
    task = make_task(tmp_path)
    sums = task.sums(psmnist.Batch(None, np.arange(10), None), np.arange(10)[::-1])
    task.draw_results(tmp_path, types.SimpleNamespace(sums=sums, metrics={"error": 1.0}))
    axes = drawn[0].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("answered digit", "true digit")

"""Weights and checkpoints on disk: what comes back, and what is refused."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from tiny_runs import BOTH, build, changed, equal, lsnn, lstm, values
from toolbox.arrays import BadArraysError
from toolbox.command_line import UserError
from training import checkpoints


def network_of(script, dataset, *arguments, seed=1):
    return build(script, dataset, *arguments, seed=seed).network


@BOTH
@pytest.mark.parametrize("rule", ["bptt", "adaptive"])
def test_weights_come_back(script, rule, short_dataset, tmp_path):
    flags = [] if rule == "bptt" else [f"--eprop={rule}"]
    network, other = (network_of(script, short_dataset(), *flags, seed=seed) for seed in (1, 2))
    before, weights = values(other), values(network)
    assert changed(before, network) >= {"readout/w_out"}
    checkpoints.save_weights(str(tmp_path / "best.npz"), network)
    for path in (tmp_path / "best.npz", tmp_path):  # the file, or its run folder
        for name, variable in other.weights().items():
            variable.assign(before[name])
        checkpoints.load_weights(str(path), other)
        assert equal(values(other), weights)


def test_feedback_is_taken_where_both_sides_have_it(short_dataset, tmp_path):
    """Of the activity, and of a memory in the readout."""
    path = str(tmp_path / "weights.npz")

    def network(*flags, seed=1):
        flags = "--readout_memory=taps", "--readout_theta_ms=60", *flags
        return network_of(lstm, short_dataset(), *flags, seed=seed)

    adaptive, symmetric = network("--eprop=adaptive"), network("--eprop=symmetric", seed=2)
    feedback = adaptive.readout.feedback.numpy(), adaptive.readout.feedback_v.numpy()
    checkpoints.save_weights(path, adaptive)
    checkpoints.load_weights(path, symmetric)
    np.testing.assert_array_equal(symmetric.readout.w_out, adaptive.readout.w_out)
    np.testing.assert_array_equal(symmetric.readout.v_out, adaptive.readout.v_out)
    checkpoints.save_weights(path, network(seed=3))
    checkpoints.load_weights(path, adaptive)
    np.testing.assert_array_equal(adaptive.readout.feedback, feedback[0])
    np.testing.assert_array_equal(adaptive.readout.feedback_v, feedback[1])


class Attack:
    """A pickle of it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_files_that_hold_no_weights_of_this_network_are_refused(short_dataset, tmp_path):
    network = network_of(lstm, short_dataset())
    good = values(network)
    kernel = "layer0/kernel"

    def archive(name, weights):
        np.savez(tmp_path / name, **weights)

    archive("shape.npz", {**good, kernel: good[kernel][:, 1:]})
    archive("name.npz", {name: value for name, value in good.items() if name != kernel})
    archive("integers.npz", {**good, kernel: good[kernel].astype(np.int32)})
    trap = tmp_path / "trap"
    archive("objects.npz", {**good, kernel: np.array([Attack(str(trap))], object)})
    (tmp_path / "attack.npz").write_bytes(pickle.dumps(Attack(str(trap))))
    np.save(tmp_path / "single.npy", good[kernel])
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty.npz").write_bytes(b"")
    archive("half.npz", good)
    (tmp_path / "half.npz").write_bytes((tmp_path / "half.npz").read_bytes()[:-200])
    (tmp_path / "folder").mkdir()
    for name, words in (
        ("shape.npz", [kernel, "another network", str(good[kernel].shape)]),
        ("name.npz", [kernel, "another network"]),
        ("integers.npz", [kernel, "int32"]),
        ("objects.npz", ["holds no weights"]),
        ("attack.npz", ["holds no weights"]),
        ("single.npy", ["holds no weights"]),
        ("text.npz", ["holds no weights"]),
        ("empty.npz", ["holds no weights"]),
        ("half.npz", ["holds no weights"]),
        ("missing.npz", ["cannot read", "No such file"]),
        ("folder", [os.path.join("folder", "best.npz")]),
    ):
        with pytest.raises(UserError) as error:
            checkpoints.load_weights(str(tmp_path / name), network)
        message = str(error.value)
        assert message.startswith("--checkpoint") and "\n" not in message
        for word in [name, *words]:
            assert word in message
        assert equal(values(network), good)
    assert not trap.exists()


def archive_of(path, name, content, n_times=1):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(name, "w") as file:
            for _ in range(n_times):
                file.write(content)


def header(descr, shape):
    """Beginning of a `.npy` file."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


def test_archives_that_lie_about_their_size(short_dataset, tmp_path):
    """A small file that unpacks to 128 MiB; arrays larger than their file; no float32 values."""
    network = network_of(lstm, short_dataset())
    good = values(network)
    path = str(tmp_path / "x.npz")
    archive_of(path, "readout/b_out.npy", bytes(2**20), 2**7)
    with pytest.raises(UserError, match="unpacks to 1.3e"):
        checkpoints.load_weights(path, network)
    for content, words in (
        (header("<f4", (10**12,)) + bytes(8), "announces"),
        (header("<f4", (-1, -39)) + bytes(156), "holds no weights|another"),
        (header("|O", (1,)) + pickle.dumps([1]), "Python objects"),
        (b"\x93NUMPY\x01\x00", "no readable archive"),
    ):
        archive_of(path, "readout/b_out.npy", content)
        with pytest.raises(UserError, match=words):
            checkpoints.load_weights(path, network)
    for bad in (np.nan, 1e300):
        np.savez(path, **{**good, "readout/b_out": np.full(39, bad)})
        with pytest.raises(UserError, match="readout/b_out in .* holds NaN or infinite"):
            checkpoints.load_weights(path, network)
    os.unlink(path)
    os.mkfifo(path)
    with pytest.raises(UserError, match="is no file"):
        checkpoints.load_weights(path, network)
    assert equal(values(network), good)


TWO_LAYERS = ["--n_layer=2", "--noloss_from_all_layers"]
BARE = ["--norec", "--noreadout_bias"]


@pytest.mark.parametrize(
    "saved, loaded",
    [
        ((lsnn, "--n_regular=7"), (lsnn, "--n_regular=6")),
        ((lsnn, "--n_regular=6", "--n_adaptive=5"), (lsnn,)),
        ((lsnn,), (lsnn, *TWO_LAYERS)),
        ((lsnn, "--norec"), (lsnn,)),
        ((lsnn, "--noreadout_bias"), (lsnn,)),
        ((lsnn,), (lsnn, "--reference_quirks")),
        ((lstm,), (lstm, "--nolstm")),
        ((lstm,), (lsnn,)),
        ((lsnn, *TWO_LAYERS), (lsnn,)),
        ((lsnn, "--readout_bias"), (lsnn, *BARE)),
        ((lsnn, "--rec"), (lsnn, *BARE)),
    ],
)
def test_weights_of_another_network_are_refused(saved, loaded, short_dataset, tmp_path):
    path = str(tmp_path / "weights.npz")
    checkpoints.save_weights(path, network_of(saved[0], short_dataset(), *saved[1:]))
    network = network_of(loaded[0], short_dataset(), *loaded[1:])
    before = values(network)
    with pytest.raises(UserError, match="another network"):
        checkpoints.load_weights(path, network)
    assert not changed(before, network)


# --------------------------------------------------------------------------- checkpoints


def test_nothing_infinite_becomes_a_checkpoint(tmp_path):
    progress = checkpoints.Progress()
    checkpoints.save(tmp_path, {"w": np.ones(2)}, {}, progress)
    for bad in (np.nan, np.inf):
        with pytest.raises(BadArraysError, match="weights/w"):
            checkpoints.save(tmp_path, {"w": np.array([1, bad])}, {}, progress)
    assert os.listdir(tmp_path) == [checkpoints.LAST]


def test_progress_comes_back(tmp_path):
    """Whatever the metric is called, and in older runs, whose evaluations name none."""
    for metric in ({}, {"metric": "frame_error"}, {"metric": "sequence_error"}):
        name = f"develop_{metric.get('metric', 'frame_error')}"
        record = {"epoch": 0, **metric, "develop_loss": 1.5, "train_loss": None}
        saved = checkpoints.Progress(
            iteration=3,
            epoch=1,
            evaluations=[
                record | {"iteration": k, name: e} for k, e in enumerate([0.5, 0.25, 0.4])
            ],
            seconds=[0.1, 0.2, 0.3],
            train_losses=[2.0],
            best_weights={"w": np.arange(2, dtype=np.float32)},
            rate_states={"layer 0": "silent"},
            process_s=12.5,
        )
        assert saved.best["iteration"] == 1 and checkpoints.selecting_error(saved.best) == 0.25
        assert not saved.is_evaluated
        weights = {"w": np.ones(2, np.float32)}
        checkpoints.save(tmp_path, weights, {}, saved)
        found = checkpoints.load(tmp_path, {"w": ((2,), np.float32)}, {})
        assert equal(found[0], weights) and found[1] == {}
        assert equal(found[2].best_weights, saved.best_weights)
        found[2].best_weights = saved.best_weights
        assert found[2] == saved

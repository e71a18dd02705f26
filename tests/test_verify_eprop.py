"""The proofs and the recorded vectors hold, and the check notices when they do not."""

import os

import numpy as np
import pytest

import eprop
import verify_eprop
from helpers import REPOSITORY, assert_user_error, run_here

DATA = os.path.join(REPOSITORY, "tests", "data")
GOLDEN, GOLDEN_CTC = (
    os.path.join(os.path.dirname(REPOSITORY), "shared", name) for name in ("golden", "golden_ctc")
)

EVERYWHERE = [DATA, GOLDEN, GOLDEN_CTC]


def test_proofs_hold(capsys):
    assert verify_eprop.verify_proofs()
    printed = capsys.readouterr().out
    assert "FAILED" not in printed
    for rule in eprop.RULES:
        assert f"lsnn {rule}" in printed and f"lstm {rule}" in printed


@pytest.mark.parametrize(
    "engine, prefix, folders",
    [
        ("dense", "lsnn_rep1", [DATA]),
        ("event", "lsnn", EVERYWHERE),
        ("fused", "lstm", [DATA, GOLDEN]),  # CTC's have peepholes, which only dense has
        pytest.param("dense", "", EVERYWHERE, marks=pytest.mark.stress),
    ],
)
def test_recorded_vectors_are_met(engine, prefix, folders):
    """All that were recorded, where they are at hand, else those that the repository has."""
    paths = {}
    for folder in folders:
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            if name.removeprefix("ctc_").startswith(prefix) and name.endswith(".npz"):
                paths[name] = os.path.join(folder, name)
    names, paths = set(paths), [paths[name] for name in sorted(paths)]
    process = run_here(verify_eprop, f"--engine={engine}", f"--vectors={paths[0]}", *paths[1:])
    assert process.returncode == 0, process.stdout + process.stderr
    networks = {name for name in names if "preprocessing" not in name and "cases" not in name}
    assert f"{len(networks)} of {len(networks)} files agree" in process.stdout
    n_spiking = sum("lsnn" in name and "trace" not in name for name in names)
    assert process.stdout.count("identical") == n_spiking
    if folders is EVERYWHERE and all(map(os.path.isdir, folders)) and prefix != "lstm":
        assert n_spiking == 22 + 8
    if networks != names:
        assert "preprocessing.npz" in process.stdout and "skipped" in process.stdout


@pytest.mark.parametrize(
    "engine, lsnn, lstm",
    [("dense", "dense", "dense"), ("event", "event", "dense"), ("fused", "dense", "fused")],
)
def test_an_engine_is_that_of_the_networks_which_have_it(engine, lsnn, lstm):
    for name, expected in (("lsnn_rep1_bptt.npz", lsnn), ("lstm_bptt.npz", lstm)):
        vectors = verify_eprop.load_vectors(os.path.join(DATA, name))
        (layer,) = verify_eprop.network_of_vectors(vectors, engine).layers
        assert layer.engine == expected


@pytest.mark.parametrize(
    "changed",
    ["z_fw_l0", "logits", "loss_reg", "grad/w_rec_bw_l0", "grad/w_out", "weight/w_in_fw_l0"],
)
def test_a_changed_number_fails(changed, tmp_path, capsys):
    with np.load(os.path.join(DATA, "lsnn_rep1_bptt.npz")) as file:
        vectors = dict(file)
    array = np.array(vectors[changed])
    largest = np.unravel_index(np.argmax(np.abs(array)), array.shape)
    array[largest] *= 0 if changed.startswith("z") else 1.001
    np.savez(tmp_path / "changed.npz", **{**vectors, changed: array})
    assert not verify_eprop.verify_vectors([str(tmp_path)], "event")
    assert "FAILED" in capsys.readouterr().out


def test_a_changed_step_of_an_optimisation_fails(tmp_path):
    with np.load(os.path.join(DATA, "lstm_trace_random.npz")) as file:
        vectors = dict(file)
    vectors["step4/weight/B_out"] = vectors["step4/weight/B_out"] * 1.001
    path = tmp_path / "changed.npz"
    np.savez(path, **vectors)
    assert not verify_eprop.verify_vectors([str(path)], "fused")


def test_nothing_to_check_is_a_failure(tmp_path, capsys):
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    assert not verify_eprop.verify_vectors([str(tmp_path)], "dense")
    assert "other.npz" in capsys.readouterr().out


def test_relative_error_is_never_fooled():
    assert verify_eprop.relative_error([1.0, 2.0], [1.0, 4.0]) == 0.5
    assert verify_eprop.relative_error([0.5], [0.0]) == 0.5
    assert verify_eprop.relative_error([np.nan], [1.0]) == np.inf
    assert verify_eprop.relative_error([1.0], [np.nan]) == np.inf
    assert verify_eprop.relative_error([1.0, 1.0], [1.0]) == np.inf


def test_a_missing_file_is_an_error_in_words():
    assert_user_error(run_here(verify_eprop, "--vectors=nowhere"), "nowhere")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"text"])
def test_a_broken_file_is_an_error_in_words(content, tmp_path):
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    with pytest.raises(verify_eprop.command_line.UserError, match="broken.npz"):
        verify_eprop.verify_vectors([str(path)], "dense")

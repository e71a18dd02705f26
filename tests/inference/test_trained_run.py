"""A run folder is enough: what is read from it, and what is no such folder."""

import json
import os
import shutil

import numpy as np
import pytest

from inference.trained_run import open_run
from speech.dataset import TimitDataset
from toolbox.command_line import UserError
from training import run_folder


@pytest.fixture
def copy(trained_run, tmp_path):
    """A copy of a run folder, to be spoiled."""
    return shutil.copytree(trained_run("lsnn"), tmp_path / "copy")


@pytest.mark.parametrize("kind", ["lsnn", "lstm", "ctc"])
def test_the_network_is_the_one_that_was_trained(kind, trained_run, tiny_processed):
    folder = trained_run(kind)
    run = open_run(str(folder))
    weights = np.load(folder / "best.npz")
    assert run.network.weights().keys() == set(weights.files)
    for name, variable in run.network.weights().items():
        np.testing.assert_array_equal(variable.numpy(), weights[name])
    assert run.network.config.n_directions == (2 if kind == "lstm" else 1)
    assert run.network.config.rule == "bptt"
    if kind == "lsnn":
        assert len(set(run.network.parameters.alpha)) == 2
    assert run.class_names[0] == ("h#" if kind == "lstm" else "sil")
    assert (run.class_names[-1] == "blank") == (kind == "ctc") == run.is_ctc
    assert len(run.class_names) == weights["readout/w_out"].shape[1]
    assert (run.front_end is None) == (kind != "lsnn")
    assert (run.network.memory is None) == (kind != "ctc")

    data = TimitDataset(tiny_processed, run.flags["preproc"])
    for mine, its in zip(run.scaling, data.scaling):
        np.testing.assert_array_equal(mine, its)
    with open(os.path.join(tiny_processed, "processing.json")) as file:
        assert run.processing == json.load(file)


def test_other_folders_are_refused_in_one_line(copy, tmp_path):
    def refused(*words):
        with pytest.raises(UserError) as error:
            open_run(str(copy))
        assert all(word in str(error.value) for word in words), error.value

    for path in (tmp_path / "none", copy / "best.npz"):
        with pytest.raises(UserError, match="is no folder"):
            open_run(str(path))
    with pytest.raises(UserError, match="expected a run folder"):
        open_run(str(tmp_path))

    def edit(name, **changes):
        content = json.loads((copy / name).read_text()) | changes
        (copy / name).write_text(json.dumps(content))

    inference = copy / run_folder.INFERENCE_FILE
    whole = inference.read_text()
    edit(inference.name, version=0)
    refused("another version", "version 0")
    inference.unlink()
    refused("another version", "found none", "train again")
    inference.write_text(whole)
    edit(inference.name, network={"model": "lsnn"})
    refused(inference.name, "is damaged")
    inference.write_text("[]")
    refused("holds no JSON object")
    inference.write_text("{")
    refused("cannot be read")
    inference.write_text(whole)
    open_run(str(copy))

    (copy / "best.npz").write_bytes(b"no weights")
    refused(f"{copy / 'best.npz'} holds no weights")
    edit("flags.json", script="solve_psmnist")
    refused("a run of solve_psmnist.py", "expected one on speech")
    edit("flags.json", script="solve_timit_with_framewise_lsnn")
    (copy / "metrics.json").unlink()
    refused("has not ended", "--resume=")


def test_a_run_of_a_gpu_is_opened_on_the_cpu(copy, capsys):
    path = copy / "inference.json"
    content = json.loads(path.read_text())
    content["network"]["config"]["engine"] = "cuda"
    path.write_text(json.dumps(content))
    assert open_run(str(copy)).network.config.engine == "event"
    assert "engine: event, not the run's cuda (no GPU is visible)" in capsys.readouterr().out

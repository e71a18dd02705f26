"""evaluate_model.py: the numbers of training again, tables that fit them, other data."""

import json
import shutil

import numpy as np
import pytest
from scipy import stats

import evaluate_model
from helpers import assert_user_error, run_here, write_corpus
from inference import evaluation
from inference.trained_run import open_run
from speech.facts import BROAD_CLASSES, PHONES_39
from toolbox.command_line import UserError, parse_flags


def evaluated(folder, tmp_path, *arguments):
    """Content of evaluation.json, standard output."""
    process = run_here(evaluate_model, folder, f"--output={tmp_path}/e.json", *arguments)
    assert (process.returncode, process.stderr) == (0, "")
    return json.loads((tmp_path / "e.json").read_text()), process.stdout


@pytest.mark.parametrize("kind", ["lsnn", "lstm", "late_lstm", "ctc"])
def test_its_own_test_set_gives_the_metrics_of_training(kind, trained_run, tmp_path, monkeypatch):
    folder = trained_run(kind)
    drawn = []
    monkeypatch.setattr(
        evaluate_model, "plot_confusion_matrix", lambda *shown, counted: drawn.append(shown)
    )
    found, out = evaluated(folder, tmp_path, "--figure=c.png")
    assert drawn[0][:3] == ("c.png", found["confusion"], found["classes"])
    metrics = json.loads((folder / "metrics.json").read_text())
    common = [name for name in metrics if name.startswith("test_")]
    assert len(common) >= 3 and f"test_{metrics['metric']}" in common
    assert {n: found[n] for n in common} == {n: metrics[n] for n in common}  # every bit
    assert found["is_own_data"] and found["metric"] == metrics["metric"]
    assert (
        f"{metrics['metric'].replace('_', ' ')}: {metrics['test_' + metrics['metric']]:.4f}" in out
    )
    assert ("firing rates" in out) == ("rate_hz_mean" in found) == ("lstm" not in kind)

    confusion = np.array(found["confusion"])
    assert confusion.shape == 2 * (len(found["classes"]),)
    assert found["counted"] == ("labels" if kind == "ctc" else "frames")
    n_true = confusion[: len(PHONES_39)].sum()
    assert n_true == sum(row["n"] for row in found["by_phone"].values())
    assert n_true == sum(row["n"] for row in found["by_class"].values())
    assert set(found["by_phone"]) <= set(PHONES_39)
    speakers = [row["error"] for row in found["by_speaker"].values()]
    assert found["speakers"]["speakers"] == len(speakers) == 3
    assert found["speakers"]["error"] == pytest.approx(np.mean(speakers))
    low, high = stats.t.interval(0.95, 2, np.mean(speakers), stats.sem(speakers))
    assert found["speakers"]["low"] == pytest.approx(low)
    assert found["speakers"]["high"] == pytest.approx(high)


def test_the_classes_are_all_phones():
    assert sorted(" ".join(BROAD_CLASSES.values()).split()) == sorted(PHONES_39)


def test_a_phone_that_is_always_answered_has_no_error():
    confusion = np.zeros((4, 4), int)
    confusion[1, 1], confusion[2, [1, 2]] = 5, (1, 3)
    speakers = {
        "dr1/fa": evaluation.Speaker("women", "dr1", [0.1, 0.3], confusion),
        "dr2/mb": evaluation.Speaker("men", "dr2", [0.5], confusion + confusion),
    }
    tables = evaluation._tables(speakers, ["sil", "aa", "b", "nothing"])
    assert tables["phone"]["aa"]["error"] == 0 and tables["phone"]["b"]["error"] == 0.25
    assert tables["phone"]["b"]["n"] == 12 and set(tables["phone"]) == {"aa", "b"}
    assert tables["class"]["stops"] == tables["phone"]["b"]
    assert tables["sex"]["women"]["error"] == pytest.approx(0.2)
    assert tables["sex"]["women"]["n"] == 2 and tables["sex"]["women"]["low"] is None
    assert list(tables["region"]) == ["dr1", "dr2"]


def test_other_data_are_heard_on_the_scale_of_the_training(trained_run, tmp_path):
    """The same sound, normalised by other speakers, has nearly the same features."""
    import timit_processing

    run = open_run(str(trained_run("lsnn")))
    corpus = tmp_path / "corpus"
    write_corpus(corpus, n_train=2, n_develop=1, n_test=3)
    other = str(tmp_path / "other")
    paths = f"--data_path={corpus}", f"--output_path={other}"
    timit_processing.main(parse_flags(timit_processing.define_flags, ["p", *paths])[0])
    task, own = evaluation.read_task(run, other), evaluation.read_task(run, run.flags["dataset"])
    assert task.checksum != own.checksum == run.record["data_sha256"]
    for theirs, mine in zip(task.dataset.test.features, own.dataset.test.features):
        np.testing.assert_allclose(theirs, mine, atol=1e-5)
        assert np.abs(mine).max() > 2

    found, out = evaluated(run.folder, tmp_path, f"--dataset={other}", "--split=test")
    assert not found["is_own_data"] and "other data" in out
    assert found["test_frame_error"] == pytest.approx(run.metrics["test_frame_error"], abs=0.01)

    phones = tmp_path / "phones"
    shutil.copytree(other, phones)
    for split in ("train", "develop", "test"):
        path = phones / split / "reduced_phonem_list.json"
        path.write_text(path.read_text().replace('"aa"', '"xx"'))
    with pytest.raises(UserError, match="its phones are not those of"):
        evaluation.read_task(run, str(phones))
    (phones / "processing.json").unlink()
    with pytest.raises(UserError, match="do not tell how they were normalised"):
        evaluation.read_task(run, str(phones))


def test_several_runs_are_compared_speaker_by_speaker(trained_run, tmp_path):
    folders = trained_run("lsnn"), trained_run("lstm")
    found, out = evaluated(folders[0], tmp_path, folders[1], "--split=develop")
    first, second = found["runs"]
    (difference,) = found["differences"]
    assert (difference["run"], difference["baseline"]) == (str(folders[1]), str(folders[0]))
    assert difference["error"] == pytest.approx(
        second["develop_frame_error"] - first["develop_frame_error"], abs=1e-9
    )
    assert f"{folders[1]} - {folders[0]}: " in out
    others = {**second, "by_speaker": {"dr1/nobody": second["speakers"]}}
    with pytest.raises(UserError, match="other speakers.*--dataset"):
        evaluation.differences([first, others])


def test_what_cannot_be_evaluated_is_said_in_one_line(trained_run, tmp_path):
    lsnn = trained_run("lsnn")
    for words, arguments in (
        (["no run folder"], []),
        (["expected a run folder"], [tmp_path / "none"]),
        (["missing", "timit_processing.py"], [lsnn, f"--dataset={tmp_path}/none"]),
        (["split"], [lsnn, "--split=some"]),
        (["expected the name of a .json file"], [lsnn, "--output=e.txt"]),
        (["is of one run"], [lsnn, lsnn, "--figure=e.png"]),
        (["has phone_error_rate"], [lsnn, trained_run("ctc")]),
    ):
        assert_user_error(run_here(evaluate_model, *arguments), *words)

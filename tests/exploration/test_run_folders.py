"""What runs have left is read, of whatever metric, and told in words when it is damaged."""

import json

import pytest

from exploration import run_folders
from exploration.plan import RunSettings
from exploration.statistics import read_experiment
from small_runs import ITERATIONS, SCRIPT, small_curve, write_run
from toolbox.command_line import UserError

SETTINGS = RunSettings(f"{SCRIPT}.py", {}, {}, 1)


def test_evaluations_are_read_without_a_line_that_is_being_written(tmp_path):
    assert run_folders.read_curve(str(tmp_path)) == {}
    line = '{"iteration": %d, "develop_frame_error": 0.5}\n'
    (tmp_path / "metrics.jsonl").write_text(line % 0 + line % 20 + '{"itera')
    assert run_folders.read_curve(str(tmp_path)) == {0: 0.5, 20: 0.5}


@pytest.mark.parametrize("metric", ["phone_error_rate", "error", "frame_error", None])
def test_a_run_names_its_metric_or_means_frame_error(tmp_path, metric):
    path = write_run(tmp_path, SETTINGS, small_curve(1), metric=metric)
    assert run_folders.read_curve(path) == dict(zip(ITERATIONS, small_curve(1)))
    metrics = run_folders.read_metrics(path)
    assert run_folders.metric_of(metrics) == (metric or "frame_error")


def test_a_finished_folder_comes_before_a_newer_one(tmp_path):
    assert run_folders.find(str(tmp_path), SETTINGS) is None
    finished = write_run(tmp_path, SETTINGS, small_curve(1))
    newer = write_run(tmp_path, SETTINGS, small_curve(1), time="2030_01_01__00_00_00_000000")
    assert run_folders.find(str(tmp_path), SETTINGS) == str(newer)
    (newer / "metrics.json").unlink()
    assert run_folders.find(str(tmp_path), SETTINGS) == str(finished)


@pytest.mark.parametrize(
    "file, content",
    [
        ("metrics.json", b"[]"),
        ("metrics.json", b'{"seed": 1, "iterations": 80, "test_frame_error": null}'),
        ("metrics.json", b'{"metric": [1], "seed": 1, "iterations": 80}'),
        ("metrics.jsonl", b""),
        ("metrics.jsonl", b'{"iteration": 0}\n'),
        ("metrics.jsonl", b'{"iteration": 0, "metric": "error", "develop_frame_error": 1}\n'),
        ("metrics.jsonl", b"\xff\n"),
        ("flags.json", b"[]"),
    ],
)
def test_a_damaged_run_is_told_in_words(experiment_folder, file, content):
    folder = experiment_folder()
    next((folder / SCRIPT).glob(f"*/{file}")).write_bytes(content)
    with pytest.raises(UserError, match="is damaged.*: delete the run's folder"):
        read_experiment(str(folder), str(folder))


def test_commits_of_all_resumptions_are_told(tmp_path):
    path = write_run(tmp_path, SETTINGS, small_curve(1))
    assert run_folders.read_origin(path) == {"commit": "abc def", "data_sha256": "f00"}
    (path / "flags.json").write_text(json.dumps({"seed": 1}))
    assert run_folders.read_origin(path) == {"commit": "", "data_sha256": ""}

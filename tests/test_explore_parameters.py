"""The script: a real training run from plan to report, and what is refused."""

import json
import re

import pandas
import pytest
import pytry

import explore_parameters
from faults import LSNN, read_json, run_folders, write_plan
from small_runs import write_folder
from toolbox import command_line
from toolbox.command_line import UserError

N_ITERATIONS = 12  # four epochs of three


@pytest.fixture
def explore(tmp_path, monkeypatch):
    """Function: the script's main function, called in this process and an empty folder."""

    def call(*arguments):
        flag_values, positional = command_line.parse_flags(
            explore_parameters.define_flags, ["explore_parameters.py", *arguments], -1
        )
        monkeypatch.chdir(tmp_path)
        return explore_parameters.main(flag_values, *positional)

    return call


@pytest.mark.stress
def test_a_real_run_is_made_recorded_and_reported(tiny_processed, tmp_path, explore, capsys):
    grid = {"rule": {"one": {"eprop": "symmetric"}}}
    write_plan(
        tmp_path, tiny_processed, {"n_epochs": 4, "print_every": 3, "engine": "dense"}, grid=grid
    )
    assert explore("run", "plan.json", "runs", "--n_jobs=1", "--gpus=none") == 0
    assert "runs: 1 of 1 runs finished\n" in capsys.readouterr().out
    (folder,) = run_folders(tmp_path / "runs").values()
    metrics, flags = read_json(folder, "metrics.json"), read_json(folder, "flags.json")["flags"]
    assert metrics["iterations"] == N_ITERATIONS
    assert (flags["eprop"], flags["n_threads"], flags["seed"]) == ("symmetric", 1, 1)
    (row,) = pandas.DataFrame(pytry.read(tmp_path / "runs")).to_dict("records")
    assert (row["script"], row["seed"], row["n_regular"]) == (f"{LSNN}.py", 1, 5)
    assert (row["rule"], row["eprop"]) == ("one", "symmetric")
    assert row["test_frame_error"] == metrics["test_frame_error"]
    explore("report", "runs", "--report=elsewhere")
    text = (tmp_path / "elsewhere" / "report.md").read_text()
    assert f"1 of 1 runs finished; errors are `{metrics.get('metric', 'frame_error')}`" in text


def test_a_page_is_written_on_several_folders(tmp_path, explore):
    write_folder(tmp_path / "runs")
    explore("page", "runs", "--page=here.md", "--details=reports")
    text = (tmp_path / "here.md").read_text()
    assert "<!-- tables of runs -->" in text
    assert "(reports/runs/report.md)" in text and (tmp_path / "reports/runs/runs.csv").is_file()


def test_wrong_commands_are_refused_in_words(tmp_path, explore):
    (tmp_path / "plan.json").write_text(
        json.dumps({"name": "p", "script": f"{LSNN}.py", "seeds": [1]})
    )
    for arguments, words in (
        ([], "expected run, search, report or page"),
        (["train", "plan.json", "runs"], "'train': expected run, search, report or page"),
        (["run", "plan.json"], "run: 1 argument(s), expected PLAN.json FOLDER"),
        (["run", "", "runs"], "run: an argument is empty, expected PLAN.json FOLDER"),
        (["report", "runs", "plan.json"], "report: 2 argument(s), expected FOLDER"),
        (["search", "plan.json", "runs"], "plan.json: has no entry 'search'"),
        (["report", "none"], "none/plan.json: cannot be read"),
        (["page"], "no folder given"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            explore(*arguments)
    assert not (tmp_path / "runs").exists()

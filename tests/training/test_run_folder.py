"""What a run folder records, and what is taken from it again."""

import contextlib
import json
import os
import re
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import REPOSITORY
from tiny_runs import lsnn, lstm, parse
from toolbox import command_line
from toolbox.command_line import Interrupted, UserError
from training import run_folder


def make(script, results, *arguments, seed=3, checksum=None):
    """A run folder as `loop.run` makes it; returns (path, flags, content of flags.json)."""
    flag_values = parse(script, f"--results={results}", *arguments)
    name = script.EXPERIMENT.script
    config = SimpleNamespace(engine="fused", engine_reason="the fastest")
    record = run_folder.record_of(name, flag_values, seed, checksum, config)
    labels = flag_values.comment, flag_values.run_id
    with contextlib.ExitStack() as held:
        path = run_folder.make(flag_values.results, name, labels, record, held)
    with open(os.path.join(path, "flags.json"), encoding="utf-8") as file:
        return path, flag_values, json.load(file)


def test_the_run_folder_records_what_the_run_depends_on(tmp_path):
    results = tmp_path / "results"
    arguments = ["--comment=first", "--run_id=7", "--eprop=random"]
    folder, flag_values, record = make(lsnn, results, *arguments)
    script = lsnn.EXPERIMENT.script
    assert os.path.dirname(folder) == str(results / script)
    date = r"\d{4}_\d\d_\d\d__\d\d_\d\d_\d\d_\d+"
    assert re.fullmatch(f"{date}_first_7", os.path.basename(folder))
    assert (record["script"], record["seed"]) == (script, 3)
    for name, value in (("comment", "first"), ("n_regular", 6), ("eprop", "random"), ("l2", 1e-5)):
        assert record["flags"][name] == value
    assert record["flags"]["checkpoint"] == "" and record["flags"]["weight_scale"] is None
    assert set(record["flags"]) == set(flag_values) - {"help", "h"}
    assert record["versions"]["numpy"] == np.__version__
    assert any(name.startswith("tensorflow") for name in record["versions"])
    assert (record["engine"], record["engine_reason"]) == ("fused", "the fastest")
    assert record["command"] and record["python"] and record["machine"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", record["started"])
    assert run_folder.started(folder) == record["started"]
    assert run_folder.started(tmp_path) is None

    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True
    )
    if head.returncode == 0:
        assert head.stdout.strip() in record["commit"]
    else:  # no Git, or no commit yet
        assert record["commit"] is None

    other, *_ = make(lsnn, results)
    assert other != folder and re.fullmatch(date, os.path.basename(other))


def test_a_run_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--results"):
        make(lsnn, tmp_path / "file")


# --------------------------------------------------------------------------- flags of a resumed run


def resume(script, *arguments):
    """(flags, what was given beside --resume)"""
    flag_values, _ = command_line.parse_flags(script.define_flags, ["script.py", *arguments])
    return run_folder.resumed_flags(flag_values, script.define_flags, script.EXPERIMENT.script)


@pytest.fixture
def lstm_folder(tmp_path):
    arguments = ["--n_lstm=5", "--eprop=random", "--lr_init=0.1", "--noadam", "--comment=a b"]
    return make(lstm, tmp_path, *arguments, seed=7)[0]


def test_the_flags_come_from_the_run_folder(lstm_folder):
    flag_values, beside = resume(lstm, f"--resume={lstm_folder}")
    recorded = run_folder.read_record(lstm_folder)["flags"]
    found = flag_values.flag_values_dict()
    assert {n: found[n] for n in recorded} == {
        **recorded,
        "resume": lstm_folder,
        "seed": 7,
        "engine": "fused",
    }
    assert beside == []
    changed, beside = resume(
        lstm, f"--resume={lstm_folder}", "--dataset=moved", "--noverbose", "--plot"
    )
    assert (changed.dataset, changed.verbose, changed.plot) == ("moved", False, True)
    assert changed.eprop == "random" and changed.n_lstm == 5
    assert set(beside) == {"--dataset=moved", "--verbose=False", "--plot=True"}
    without = parse(lstm, "--n_lstm=6")
    assert run_folder.resumed_flags(without, lstm.define_flags, "any") == (without, [])


@pytest.mark.parametrize("argument", ["--batch=32", "--noadam", "--seed=7", "--results=x"])
def test_other_flags_beside_resume_are_refused(argument, lstm_folder):
    with pytest.raises(UserError, match=f"{argument.split('=')[0].replace('no', '')} beside"):
        resume(lstm, f"--resume={lstm_folder}", argument)


def test_only_a_run_folder_of_the_script_is_resumed(lstm_folder, tmp_path):
    with pytest.raises(UserError, match="solve_timit_with_framewise_lstm.py: resume it with"):
        resume(lsnn, f"--resume={lstm_folder}")
    for folder in (tmp_path, tmp_path / "missing", os.path.join(lstm_folder, "flags.json")):
        with pytest.raises(UserError, match="flags.json.*expected a run folder"):
            resume(lstm, f"--resume={folder}")


@pytest.mark.parametrize(
    "change",
    [
        {"flags": {"batch": 0}},
        {"flags": {"batch": [1]}},
        {"flags": {"unheard_of": 1}},
        {"flags": {"flagfile": "/etc/passwd"}},
        {"flags": {"lr_init": "many"}},
        {"flags": []},
        {"seed": -2},
        {"seed": "1"},
        {"engine": "event"},
        {"script": None},
    ],
)
def test_a_record_with_wrong_flags_is_refused(change, lstm_folder):
    record = run_folder.read_record(lstm_folder)
    with open(os.path.join(lstm_folder, "flags.json"), "w", encoding="utf-8") as file:
        json.dump({**record, **change}, file)
    with pytest.raises(UserError):
        resume(lstm, f"--resume={lstm_folder}")


@pytest.mark.parametrize("beside", [[], ["--dataset=a b", "--n_threads=2"]])
def test_the_command_that_continues_repeats_what_stood_beside_resume(beside, monkeypatch):
    monkeypatch.setattr(run_folder.sys, "argv", ["solve.py", "--resume=old"])
    expected = "continue with: python3 solve.py --resume=folder"
    expected += " '--dataset=a b' --n_threads=2" if beside else ""
    for error, kind in ((Interrupted(2), Interrupted), (OSError(28, "No space"), UserError)):
        with pytest.raises(kind) as told:
            with run_folder.told_how_to_continue("folder", beside):
                raise error
        assert str(told.value).endswith(expected)


# --------------------------------------------------------------------------- provenance


def test_differences_are_told(tmp_path, capsys):
    checksum = "1" * 64
    folder, _, record = make(lstm, tmp_path, checksum=checksum)
    assert record == run_folder.read_record(folder) and record["data_sha256"] == checksum
    now = run_folder.surroundings(checksum, "fused")
    capsys.readouterr()
    run_folder.warn_of_differences(folder, record, now, now)
    assert capsys.readouterr().out == ""
    record["versions"]["numpy"] = "1.0"
    record["data_sha256"] = "0" * 64
    del record["python"]  # as in a run folder of an older version
    run_folder.warn_of_differences(folder, record, now, now)
    versions, data = capsys.readouterr().out.splitlines()
    assert folder in versions and f"numpy {np.__version__} instead of 1.0" in versions
    assert data.startswith("warning: ") and "other data" in data


@pytest.mark.parametrize("wrong", [{}, [], "x", 3, {"numpy": {"a": 1}}, "\x1b[2J" * 999])
def test_a_record_from_elsewhere_only_warns(wrong, lstm_folder, capsys):
    """Found by fuzzing: a dict in the place of the commit."""
    now = run_folder.surroundings(engine="fused")
    capsys.readouterr()
    run_folder.warn_of_differences(lstm_folder, dict.fromkeys(now, wrong), now, now)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(now) and "\x1b" not in "".join(lines)
    assert all(line.startswith("warning: not as when ") and len(line) < 1500 for line in lines)

"""A run interrupted at any moment goes on and ends as if it had not been interrupted."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import tiny_runs
from faults import assert_same_run, interrupted_run, training_command
from helpers import LIMIT_S, REPOSITORY, run_here
from tasks import figures as task_figures
from tiny_runs import build, lsnn, lstm
from toolbox.command_line import Interrupted, UserError
from training import checkpoints, devices, figures
from training.schedule import Schedule


class Run:
    """A run in a folder that can be started again and again, in this process."""

    def __init__(self, script, dataset, folder, *arguments, seed=1):
        self.script, self.dataset, self.folder, self.seed = script, dataset, folder, seed
        folder.mkdir(exist_ok=True)
        self.arguments = ["--n_epochs=3", *arguments]

    def go_on(self):
        """Train from where the folder's checkpoint stands."""
        devices.set_up_seed(self.seed)
        built = build(self.script, self.dataset, *self.arguments, seed=self.seed)
        return tiny_runs.train(built, self.folder)

    def interrupted(self):
        """As `go_on`, which a signal ends; what it says."""
        with pytest.raises(Interrupted) as ended:
            self.go_on()
        return ended.value

    def checkpoint(self):
        with np.load(self.folder / "checkpoint.npz") as file:
            return SimpleNamespace(
                arrays=dict(file), **json.loads(file["progress"].tobytes().decode())
            )


@pytest.fixture
def at(monkeypatch):
    """Function: do something just before the step of an iteration, once."""
    rate = Schedule.rate  # asked for in every step and evaluation
    todo = {}

    def hooked(schedule, iteration, n_iterations):
        todo.pop(iteration, lambda: None)()
        return rate(schedule, iteration, n_iterations)

    monkeypatch.setattr(Schedule, "rate", hooked)
    return lambda iteration, action: todo.update({iteration: action})


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Drawing takes longer than these runs, and test_loop.py has it."""

    def draw(path, *_, **__):
        with open(path, "wb"):
            pass

    monkeypatch.setattr(figures, "plot_learning_curve", draw)
    for name in ("plot_lsnn_utterance", "plot_confusion_matrix"):
        monkeypatch.setattr(task_figures, name, draw)


def send(number):
    return lambda: os.kill(os.getpid(), number)


MEMORIES = ["--readout_memory=legendre", "--readout_theta_ms=40", "--front_end=lmu"]
MEMORIES += ["--front_end_encoders=learned", "--front_end_theta_ms=40"]
CHANCE = ["--noise_step_start=2", "--truncT=6"]
CASES = [
    pytest.param(lsnn, ["--eprop=adaptive", "--drop_out_probability=0.3", *CHANCE], id="lsnn"),
    pytest.param(lsnn, ["--eprop=random", "--noadam", *MEMORIES], id="lsnn-momentum-memories"),
    pytest.param(lstm, ["--eprop=random", "--lr_decay_every=3", *CHANCE], id="lstm"),
    pytest.param(lstm, ["--reference_quirks", "--eprop=random"], id="lstm-quirks"),
]


@pytest.mark.parametrize("script, arguments", CASES)
def test_interrupted_and_uninterrupted_runs_are_equal(
    script, arguments, short_dataset, tmp_path, at, eager
):
    """Signals in a step of the first epoch, in one before an evaluation, in an evaluation."""
    arguments = ["--print_every=4", *arguments]
    whole = Run(script, short_dataset(), tmp_path / "whole", *arguments)
    whole.go_on()
    run = Run(script, short_dataset(), tmp_path / "interrupted", *arguments)
    for iteration, number, saved in (
        (1, signal.SIGINT, 2),
        (3, signal.SIGTERM, 4),
        (8, signal.SIGTERM, 8),
    ):
        at(iteration, send(number))
        ended = run.interrupted()
        assert ended.signal_number == number
        assert str(ended).endswith(f"--resume={run.folder}")
        assert run.checkpoint().iteration == saved  # the running step was ended first
    run.go_on()
    assert_same_run(whole.folder, run.folder)


def test_the_checkpoint_is_all_that_counts(short_dataset, tmp_path, at, eager):
    """Lines and weights beyond it, or torn ones, are replaced on resuming."""
    whole = Run(lstm, short_dataset(), tmp_path / "whole", "--print_every=3")
    whole.go_on()
    run = Run(lstm, short_dataset(), tmp_path / "run", "--print_every=3")
    at(4, send(signal.SIGTERM))
    run.interrupted()
    os.replace(run.folder / "checkpoint_before.npz", run.folder / "checkpoint.npz")
    assert run.checkpoint().iteration == 3
    os.truncate(run.folder / "metrics.jsonl", os.path.getsize(run.folder / "metrics.jsonl") - 30)
    other = Run(lstm, short_dataset(), tmp_path / "other", seed=2)
    other.go_on()
    os.replace(other.folder / "last.npz", run.folder / "best.npz")
    run.go_on()
    assert_same_run(whole.folder, run.folder)


def test_a_run_killed_before_its_first_checkpoint_starts_anew(short_dataset, tmp_path, eager):
    whole = Run(lstm, short_dataset(), tmp_path / "whole")
    whole.go_on()
    run = Run(lstm, short_dataset(), tmp_path / "run")
    (run.folder / "metrics.jsonl").write_text('{"epoch": 0, "iter')
    run.go_on()
    assert_same_run(whole.folder, run.folder)


def test_a_damaged_checkpoint_is_passed_over(short_dataset, tmp_path, at, eager, capsys):
    whole = Run(lstm, short_dataset(), tmp_path / "whole", "--print_every=2")
    whole.go_on()
    run = Run(lstm, short_dataset(), tmp_path / "run", "--print_every=2")
    at(5, send(signal.SIGINT))
    run.interrupted()
    content = bytearray((run.folder / "checkpoint.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (run.folder / "checkpoint.npz").write_bytes(content)
    capsys.readouterr()
    at(5, send(signal.SIGINT))
    run.interrupted()
    out = capsys.readouterr().out
    assert "warning: " in out and "checkpoint.npz is no readable archive" in out
    run.go_on()
    assert_same_run(whole.folder, run.folder)


def test_without_a_good_checkpoint_the_run_is_refused(short_dataset, tmp_path, at, eager):
    run = Run(lstm, short_dataset(), tmp_path / "run", "--print_every=2")
    at(5, send(signal.SIGINT))
    run.interrupted()
    for name in ("checkpoint.npz", "checkpoint_before.npz"):
        (run.folder / name).write_bytes(b"x")
    with pytest.raises(UserError, match="--resume: .*checkpoint.npz.*checkpoint_before.npz"):
        run.go_on()
    (run.folder / "checkpoint.npz").unlink()
    (run.folder / "checkpoint_before.npz").unlink()
    run.go_on()  # deleted by someone who wants to start anew


def test_another_network_or_optimiser_is_refused(short_dataset, tmp_path, at, eager):
    run = Run(lstm, short_dataset(), tmp_path / "run")
    at(2, send(signal.SIGINT))
    run.interrupted()
    for argument in ("--n_lstm=9", "--noadam", "--eprop=random"):
        with pytest.raises(UserError, match="of another network"):
            Run(lstm, short_dataset(), run.folder, argument).go_on()


def test_a_second_signal_does_not_wait_for_the_step(short_dataset, tmp_path, at, eager):
    run = Run(lstm, short_dataset(), tmp_path / "run", "--print_every=2")

    def twice():
        send(signal.SIGINT)()
        send(signal.SIGINT)()

    at(3, twice)
    assert run.interrupted().signal_number == signal.SIGINT
    assert run.checkpoint().iteration == 2  # not saved in the middle of a step


def test_checkpoints_are_written_between_evaluations(short_dataset, tmp_path, at, eager):
    for seconds, expected in ((0, 5), (1e6, 0)):
        run = Run(lstm, short_dataset(), tmp_path / f"{seconds}", f"--checkpoint_every_s={seconds}")
        found = []
        at(5, lambda: found.append(run.checkpoint().iteration))
        run.go_on()
        assert found == [expected]


def test_old_checkpoints_are_pruned(short_dataset, tmp_path, at, eager):
    run = Run(lstm, short_dataset(), tmp_path / "run", "--print_every=1")
    found = []
    at(7, lambda: found.append(sorted(os.listdir(run.folder))))
    run.go_on()
    assert found == [["best.npz", "checkpoint.npz", "checkpoint_before.npz", "metrics.jsonl"]]
    assert not checkpoints.exists(run.folder)  # ended: best and last weights are what stays


def test_a_full_disk_is_one_line_and_leaves_the_checkpoint(
    short_dataset, tmp_path, at, eager, monkeypatch
):
    """The file-size limit of the process stands for the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    whole = Run(lstm, short_dataset(), tmp_path / "whole", "--print_every=2")
    whole.go_on()
    run = Run(lstm, short_dataset(), tmp_path / "run", "--print_every=2")
    at(5, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, limits[1])))
    try:
        with pytest.raises(UserError) as error:
            run.go_on()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in str(error.value) and "--resume=" in str(error.value)
    assert run.checkpoint().iteration == 4
    assert not [name for name in os.listdir(run.folder) if name.endswith(".partial")]
    run.go_on()
    assert_same_run(whole.folder, run.folder)


# --------------------------------------------------------------------------- the scripts


def said_to_resume(folder, *arguments):
    """What the LSNN script says to --resume of a folder, run in this process."""
    process = run_here(lsnn, f"--resume={folder}", *arguments)
    assert process.returncode == (2 if process.stderr else 0)
    return process.stderr or process.stdout


def test_killed_runs_of_the_script_are_equal(tiny_processed, tmp_path):
    """Real processes and SIGKILL; `make soak` does this a hundred times.

    And what a second process says that resumes a run: it is running; it has ended.
    """
    command = training_command("lsnn", tiny_processed)
    with subprocess.Popen(
        [sys.executable, os.path.join(REPOSITORY, command[0]), *command[1:], "--results=whole"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            line = next(line for line in process.stdout if line.startswith("run folder: "))
            folder = tmp_path / line.removeprefix("run folder: ").strip()
            process.send_signal(signal.SIGSTOP)
            error = said_to_resume(folder)
            assert f"process {process.pid} of" in error and str(folder) in error
            process.send_signal(signal.SIGCONT)
            process.stdout.read()
            assert process.wait(timeout=LIMIT_S) == 0
        finally:
            process.kill()
    result = interrupted_run(tmp_path, command, [1.2])
    assert result.n_kills == 1
    assert_same_run(folder, result.folder)

    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert "this run has ended" in said_to_resume(folder)
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_resumed_run_that_is_interrupted_names_all_its_arguments(
    tiny_processed, tmp_path, at, eager, threads_as_they_are
):
    """The data have moved: the command says where to, and works."""
    moved = tmp_path / "moved data"
    arguments = [*tiny_runs.SIZE[lsnn], "--batch=3", "--n_epochs=3", "--nomeasure_memory"]
    at(1, send(signal.SIGTERM))
    process = run_here(
        lsnn, f"--dataset={tiny_processed}", f"--results={tmp_path}", *arguments, "--seed=1"
    )
    assert process.returncode == 128 + signal.SIGTERM, process.stderr
    folder = process.stderr.split("--resume=")[1].strip()
    shutil.copytree(tiny_processed, moved)
    at(3, send(signal.SIGTERM))
    process = run_here(lsnn, f"--resume={folder}", f"--dataset={moved}")
    assert process.returncode == 128 + signal.SIGTERM, process.stderr
    assert process.stderr.endswith(f"--resume={folder} '--dataset={moved}'\n")
    with open(os.path.join(folder, "flags.json"), encoding="utf-8") as file:
        record = json.load(file)
    assert (record["engine"], record["flags"]["engine"]) == ("event", "auto")
    said = said_to_resume(folder, f"--dataset={moved}", "--engine=dense")
    assert "resumed at iteration 4 of 6" in said and "selected iteration" in said
    assert "engine dense instead of event: results may differ" in said
    with open(os.path.join(folder, "metrics.json"), encoding="utf-8") as file:
        metrics = json.load(file)
    with open(os.path.join(folder, "flags.json"), encoding="utf-8") as file:
        record = json.load(file)
    assert metrics["started"] == record["started"]
    assert record["engine"] == record["resumed"][1]["engine"] == "dense"
    assert len(record["resumed"]) == 2

"""A run interrupted at any moment goes on and ends as if it had not been interrupted."""

import json
import os
import re
import resource
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest

import tiny_runs
from faults import assert_everything_loads, assert_same_run, start, training_command
from helpers import run_here
from tiny_runs import build, lsnn, lstm
from toolbox.command_line import Interrupted, UserError
from training import checkpoints, devices
from training.schedule import Schedule

pytestmark = pytest.mark.usefixtures("no_figures")


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


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "whole"


@pytest.fixture
def whole(whole_folder, short_dataset, eager):
    """Folder of a run of the LSTM that nothing has interrupted, made once."""
    if not whole_folder.exists():
        Run(lstm, short_dataset(), whole_folder, "--print_every=2").go_on()
    return whole_folder


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


def send(number):
    return lambda: os.kill(os.getpid(), number)


MEMORIES = ["--readout_memory=legendre", "--readout_theta_ms=40", "--front_end=lmu"]
MEMORIES += ["--front_end_encoders=learned", "--front_end_theta_ms=40"]
CHANCE = ["--noise_step_start=2", "--truncT=6"]
CASES = [
    pytest.param(
        *(lsnn, ["--eprop=adaptive", "--drop_out_probability=0.3", *CHANCE]),
        id="lsnn",
        marks=pytest.mark.stress,
    ),
    pytest.param(lsnn, ["--eprop=random", "--noadam", *MEMORIES], id="lsnn-momentum-memories"),
    pytest.param(lstm, ["--eprop=random", "--lr_decay_every=3", *CHANCE], id="lstm"),
    pytest.param(
        *(lstm, ["--reference_quirks", "--eprop=random"]),
        id="lstm-quirks",
        marks=pytest.mark.stress,
    ),
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


def test_the_checkpoint_is_all_that_counts(short_dataset, tmp_path, at, whole):
    """Lines and weights beyond it, or torn ones, are replaced on resuming."""
    run = Run(lstm, short_dataset(), tmp_path / "run", "--print_every=2")
    at(5, send(signal.SIGTERM))
    run.interrupted()
    os.replace(run.folder / "checkpoint_before.npz", run.folder / "checkpoint.npz")
    assert run.checkpoint().iteration == 4
    os.truncate(run.folder / "metrics.jsonl", os.path.getsize(run.folder / "metrics.jsonl") - 30)
    shutil.copy(whole / "last.npz", run.folder / "best.npz")
    run.go_on()
    assert_same_run(whole, run.folder)


def test_a_run_killed_before_its_first_checkpoint_starts_anew(short_dataset, tmp_path, whole):
    run = Run(lstm, short_dataset(), tmp_path / "run", "--print_every=2")
    (run.folder / "metrics.jsonl").write_text('{"epoch": 0, "iter')
    run.go_on()
    assert_same_run(whole, run.folder)


def test_a_damaged_checkpoint_is_passed_over(short_dataset, tmp_path, at, whole, capsys):
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
    assert_same_run(whole, run.folder)


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


def test_a_full_disk_is_one_line_and_leaves_the_checkpoint(short_dataset, tmp_path, at, whole):
    """The file-size limit of the process stands for the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
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
    assert_same_run(whole, run.folder)


# --------------------------------------------------------------------------- the scripts


def said_to_resume(folder, *arguments):
    """What the LSNN script says to --resume of a folder, run in this process."""
    process = run_here(lsnn, f"--resume={folder}", *arguments)
    assert process.returncode == (2 if process.stderr else 0)
    return process.stderr or process.stdout


@pytest.mark.stress
def test_a_killed_run_of_the_script_goes_on(tiny_processed, tmp_path):
    """A real process and SIGKILL; `make soak` does this many times.

    And what a second process says that resumes a run: it is running; it has ended.
    """
    command = training_command("lsnn", tiny_processed)
    with start(tmp_path, [*command, "--results=killed"]) as process:
        try:
            line = next(line for line in process.stdout if line.startswith("run folder: "))
            folder = tmp_path / line.removeprefix("run folder: ").strip()
            # The checkpoint of 10 is written after its line and before the next.
            assert any("iteration    20" in line for line in process.stdout)
            process.send_signal(signal.SIGSTOP)
            error = said_to_resume(folder)
            assert f"process {process.pid} of" in error and str(folder) in error
        finally:
            process.kill()
    assert_everything_loads(folder)
    assert re.search(r"resumed at iteration [1-9]\d+ of ", said_to_resume(folder))
    assert run_here(lsnn, *command[1:], f"--results={tmp_path / 'whole'}").returncode == 0
    (whole,) = (tmp_path / "whole" / lsnn.EXPERIMENT.script).iterdir()
    assert_same_run(whole, folder)

    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert "this run has ended" in said_to_resume(folder)
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.stress
def test_a_resumed_run_that_is_interrupted_names_all_its_arguments(
    tiny_processed, tmp_path, at, eager
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

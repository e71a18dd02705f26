"""A run interrupted at any moment goes on and ends as if it had not been interrupted."""

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from faults import assert_same_run, interrupted_run, training_command
from helpers import REPOSITORY
from toolbox import command_line
from toolbox.command_line import Interrupted, UserError

command_line.import_tensorflow()

import solve_timit_with_framewise_lsnn as lsnn  # noqa: E402
import solve_timit_with_framewise_lstm as lstm  # noqa: E402
from tasks import figures as task_figures
from training import (
    checkpoints,  # noqa: E402
    figures,  # noqa: E402
    loop,  # noqa: E402
)

SIZE = {lsnn: ["--n_regular=6", "--n_adaptive=4", "--n_repeat=1"], lstm: ["--n_lstm=8"]}


class Run:
    """A run in a folder that can be started again and again, in this process."""

    def __init__(self, script, dataset, folder, *arguments):
        self.script, self.dataset, self.folder = script, dataset, folder
        folder.mkdir(exist_ok=True)
        self.flag_values, _ = command_line.parse_flags(
            script.define_flags,
            ["script.py", *SIZE[script], "--batch=2", "--n_epochs=3", "--seed=1", *arguments],
        )

    def go_on(self):
        """Train from where the folder's checkpoint stands."""
        seed = loop.set_up_seed(self.flag_values)
        network = self.script.make_network(self.flag_values, self.dataset, seed)
        variables = network.trainable_variables
        return loop.train(
            network, self.dataset, self.flag_values, seed, str(self.folder), variables
        )

    def checkpoint(self):
        with np.load(self.folder / "checkpoint.npz") as file:
            return SimpleNamespace(
                arrays=dict(file), **json.loads(file["progress"].tobytes().decode())
            )


@pytest.fixture
def at(monkeypatch):
    """Function: do something just before the step of an iteration, once."""
    learning_rate = loop.learning_rate
    todo = {}

    def hooked(flag_values, iteration):
        todo.pop(iteration, lambda: None)()
        return learning_rate(flag_values, iteration)

    monkeypatch.setattr(loop, "learning_rate", hooked)
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


CHANCE = ["--noise_step_start=2", "--truncT=6"]
CASES = [
    pytest.param(lsnn, ["--eprop=adaptive", "--drop_out_probability=0.3", *CHANCE], id="lsnn"),
    pytest.param(lsnn, ["--eprop=random", "--noadam"], id="lsnn-momentum"),
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
        with pytest.raises(Interrupted) as ended:
            run.go_on()
        assert ended.value.signal_number == number
        assert str(ended.value).endswith(f"--resume={run.folder}")
        assert run.checkpoint().iteration == saved  # the running step was ended first
    run.go_on()
    assert_same_run(whole.folder, run.folder)


def test_the_checkpoint_is_all_that_counts(short_dataset, tmp_path, at, eager):
    """Lines and weights beyond it, or torn ones, are replaced on resuming."""
    whole = Run(lstm, short_dataset(), tmp_path / "whole", "--print_every=3")
    whole.go_on()
    run = Run(lstm, short_dataset(), tmp_path / "run", "--print_every=3")
    at(4, send(signal.SIGTERM))
    with pytest.raises(Interrupted):
        run.go_on()
    os.replace(run.folder / "checkpoint_before.npz", run.folder / "checkpoint.npz")
    assert run.checkpoint().iteration == 3
    os.truncate(run.folder / "metrics.jsonl", os.path.getsize(run.folder / "metrics.jsonl") - 30)
    other = Run(lstm, short_dataset(), tmp_path / "other", "--seed=2")
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
    with pytest.raises(Interrupted):
        run.go_on()
    content = bytearray((run.folder / "checkpoint.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (run.folder / "checkpoint.npz").write_bytes(content)
    capsys.readouterr()
    at(5, send(signal.SIGINT))
    with pytest.raises(Interrupted):
        run.go_on()
    out = capsys.readouterr().out
    assert "warning: " in out and "checkpoint.npz is no readable archive" in out
    run.go_on()
    assert_same_run(whole.folder, run.folder)


def test_without_a_good_checkpoint_the_run_is_refused(short_dataset, tmp_path, at, eager):
    run = Run(lstm, short_dataset(), tmp_path / "run", "--print_every=2")
    at(5, send(signal.SIGINT))
    with pytest.raises(Interrupted):
        run.go_on()
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
    with pytest.raises(Interrupted):
        run.go_on()
    for argument in ("--n_lstm=9", "--noadam", "--eprop=random"):
        with pytest.raises(UserError, match="of another network"):
            Run(lstm, short_dataset(), run.folder, argument).go_on()


def test_a_second_signal_does_not_wait_for_the_step(short_dataset, tmp_path, at, eager):
    run = Run(lstm, short_dataset(), tmp_path / "run", "--print_every=2")

    def twice():
        send(signal.SIGINT)()
        send(signal.SIGINT)()

    at(3, twice)
    with pytest.raises(Interrupted) as ended:
        run.go_on()
    assert ended.value.signal_number == signal.SIGINT
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
    import resource

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


def test_killed_runs_of_the_script_are_equal(tiny_processed, tmp_path, said_to_resume):
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
            assert process.wait(timeout=120) == 0
        finally:
            process.kill()
    result = interrupted_run(tmp_path, command, [1.2])
    assert result.n_kills == 1
    assert_same_run(folder, result.folder)

    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert "this run has ended" in said_to_resume(folder)
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.fixture
def said_to_resume(capsys):
    """Function: what the LSNN script says to --resume of a folder, run in this process."""

    def run(folder):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            command_line.run(
                lsnn.main, lsnn.define_flags, lsnn.__doc__, ["script.py", f"--resume={folder}"]
            )
        out, err = capsys.readouterr()
        assert (ended.value.code or 0) == (2 if err else 0)
        return err or out

    return run


def resume(script, *arguments):
    flag_values, _ = command_line.parse_flags(script.define_flags, ["script.py", *arguments])
    return loop.resumed_flags(flag_values, script.define_flags, script.SCRIPT)


@pytest.fixture
def run_folder(tmp_path):
    arguments = ["--n_lstm=5", "--eprop=random", "--lr_init=0.1", "--noadam", "--comment=a b"]
    flag_values, _ = command_line.parse_flags(
        lstm.define_flags, ["script.py", f"--results={tmp_path}", *arguments]
    )
    return loop.make_run_folder(flag_values, lstm.SCRIPT, 7)


def test_the_flags_come_from_the_run_folder(run_folder):
    flag_values = resume(lstm, f"--resume={run_folder}")
    with open(os.path.join(run_folder, "flags.json"), encoding="utf-8") as file:
        recorded = json.load(file)["flags"]
    found = flag_values.flag_values_dict()
    assert {n: found[n] for n in recorded} == {**recorded, "resume": run_folder, "seed": 7}
    changed = resume(lstm, f"--resume={run_folder}", "--dataset=moved", "--noverbose", "--plot")
    assert (changed.dataset, changed.verbose, changed.plot) == ("moved", False, True)
    assert changed.eprop == "random" and changed.n_lstm == 5


@pytest.mark.parametrize("argument", ["--batch=32", "--noadam", "--seed=7", "--results=x"])
def test_other_flags_beside_resume_are_refused(argument, run_folder):
    with pytest.raises(UserError, match=f"{argument.split('=')[0].replace('no', '')} beside"):
        resume(lstm, f"--resume={run_folder}", argument)


def test_only_a_run_folder_of_the_script_is_resumed(run_folder, tmp_path):
    with pytest.raises(UserError, match="solve_timit_with_framewise_lstm.py: resume it with"):
        resume(lsnn, f"--resume={run_folder}")
    for folder in (tmp_path, tmp_path / "missing", os.path.join(run_folder, "flags.json")):
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
        {"script": None},
    ],
)
def test_a_record_with_wrong_flags_is_refused(change, run_folder):
    path = os.path.join(run_folder, "flags.json")
    with open(path, encoding="utf-8") as file:
        record = json.load(file)
    with open(path, "w", encoding="utf-8") as file:
        json.dump({**record, **change}, file)
    with pytest.raises(UserError):
        resume(lstm, f"--resume={run_folder}")


# --------------------------------------------------------------------------- provenance


def test_differences_are_told(tiny_processed, tmp_path, capsys):
    flag_values, _ = command_line.parse_flags(
        lstm.define_flags, ["x", f"--dataset={tiny_processed}", f"--results={tmp_path}"]
    )
    dataset = loop.load_dataset(flag_values)
    folder = loop.make_run_folder(flag_values, lstm.SCRIPT, 1, dataset)
    record = loop.read_record(folder)
    assert record["data_sha256"] == dataset.checksum and len(dataset.checksum) == 64
    now = loop.surroundings(dataset)
    capsys.readouterr()
    loop.warn_of_differences(folder, record, now, now)
    assert capsys.readouterr().out == ""
    record["versions"]["numpy"] = "1.0"
    record["data_sha256"] = "0" * 64
    del record["python"]  # as in a run folder of an older version
    loop.warn_of_differences(folder, record, now, now)
    versions, data = capsys.readouterr().out.splitlines()
    assert folder in versions and f"numpy {np.__version__} instead of 1.0" in versions
    assert data.startswith("warning: ") and "other data" in data


@pytest.mark.parametrize("kind", ["features", "phns", "metadata"])
def test_the_checksum_is_of_what_is_read(kind, tiny_processed):
    from speech import dataset as dataset_module

    read = dataset_module._read_utterances

    def changed(folder, *arguments):
        utterances = read(folder, *arguments)
        if folder.endswith("test"):
            place = ("features", "phns", "metadata").index(kind)
            if kind == "metadata":
                utterances[place][0] = {**utterances[place][0], "speaker": "other"}
            else:
                value = utterances[place][0].copy()
                value[3] += 1e-9 if kind == "features" else 1 if value[3] == 0 else -1
                utterances[place][0] = value
        return utterances

    load = lambda: dataset_module.TimitDataset(tiny_processed).checksum  # noqa: E731
    first = load()
    assert first == load()
    dataset_module._read_utterances = changed
    try:
        assert load() != first
    finally:
        dataset_module._read_utterances = read


@pytest.mark.parametrize("wrong", [{}, [], "x", 3, {"numpy": {"a": 1}}, "\x1b[2J" * 999])
def test_a_record_from_elsewhere_only_warns(wrong, run_folder, capsys):
    """Found by fuzzing: a dict in the place of the commit."""
    now = loop.surroundings()
    capsys.readouterr()
    loop.warn_of_differences(run_folder, dict.fromkeys(now, wrong), now, now)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(now) and "\x1b" not in "".join(lines)
    assert all(line.startswith("warning: not as when ") and len(line) < 1500 for line in lines)

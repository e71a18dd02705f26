"""Runs of a plan as processes of their own: where they may run, how each is made, all of them."""

import collections
import concurrent.futures
import contextlib
import glob
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from typing import NamedTuple

import pytry

from exploration import run_folders
from exploration.plan import PLAN_FILE, SCRIPTS_FOLDER, read_plan
from toolbox import command_line, nvidia, run_lock
from toolbox.command_line import UserError
from toolbox.durable_files import write_json

POLL_S = 0.2
THREAD_VARIABLES = [f"{name}_NUM_THREADS" for name in ("NUMBA", "OMP", "OPENBLAS", "MKL")]


# --------------------------------------------------------------------------- places to run


class Slot(NamedTuple):
    """A place for one run at a time."""

    environment: dict  # variables to set for the run's process
    n_threads: int
    lock: str | None  # name of the lock that no two runs hold; None: the processor can be shared


def make_slots(n_jobs, n_threads, gpus, n_cores):
    """`n_jobs` places for runs; 0: one each of the GPUs, or so many that threads fill the cores.

    Raises:
        UserError: more runs at a time than GPUs, or a GPU named twice.
    """
    if len(set(gpus)) < len(gpus):
        raise UserError(f"GPUs {','.join(gpus)}: expected different ones")
    if gpus and n_jobs > len(gpus):
        raise UserError(f"--n_jobs={n_jobs}: expected {len(gpus)} at most, a GPU each run")
    threads = dict.fromkeys(THREAD_VARIABLES, str(n_threads))
    if gpus:
        machine = re.sub(r"[^\w.-]", "-", platform.node()) or "machine"
        return [
            Slot({**threads, "CUDA_VISIBLE_DEVICES": gpu}, n_threads, f"gpu_{machine}_{gpu}")
            for gpu in gpus[: n_jobs or None]
        ]
    slot = Slot({**threads, "CUDA_VISIBLE_DEVICES": "-1"}, n_threads, None)
    return [slot] * (n_jobs or max(1, n_cores // n_threads))


def visible_gpus(gpus, environment):
    """Ids of the GPUs to use, as `CUDA_VISIBLE_DEVICES` takes them; `gpus` is the flag's value."""
    if gpus is not None:
        return [gpu for gpu in gpus if gpu not in ("", "none")]
    if "CUDA_VISIBLE_DEVICES" in environment:
        ids = [gpu.strip() for gpu in environment["CUDA_VISIBLE_DEVICES"].split(",")]
        return [gpu for gpu in ids if gpu not in ("", "-1")]
    return nvidia.listed_gpus()


def lock_path(folder, name):
    return os.path.join(folder, "locks", f"{name}.lock")


def wait_for_lock(path, stop):
    """Take a lock as soon as it is free; raises Stopped when the event `stop` comes first."""
    while (file := run_lock.take(path)) is None:
        if stop.wait(POLL_S):
            raise Stopped
    return file


# --------------------------------------------------------------------------- one run


class RunError(Exception):
    """A training script failed; the message is what it said last."""


class Stopped(Exception):
    """The experiment is being interrupted."""


class Hopeless(Exception):
    """A run was stopped because of its errors so far."""


FAILURES = (RunError, UserError, OSError)  # of one run, which stop no other


class Place(NamedTuple):
    """Where and how a run's process is started."""

    folder: str  # the experiment's
    slot: Slot
    locks: list  # of GPU and run, open files that the run's process inherits
    stop: threading.Event  # ends the run, which then can be resumed
    follow: object = None  # function (curve so far, when it has grown) -> whether to stop the run


class TrainingRun(pytry.Trial):
    """One run of a training script: its `RunSettings`, then what its `metrics.json` says."""

    def __init__(self, settings, place):
        self.settings, self.place = settings, place
        super().__init__()  # calls `params`

    def params(self):
        self.param("training script", script=self.settings.script)
        for axis, label in self.settings.labels.items():
            if axis not in self.settings.flags:
                self.param("point on this axis of the plan", **{axis: label})
        for name, value in self.settings.flags.items():
            self.param("flag of the script", **{name: value})

    def evaluate(self, p, plt=None):
        run_folder = train(self.settings, self.place)
        metrics = run_folders.read_metrics(run_folder)
        del metrics["seed"]  # pytry has it
        return {"run_folder": os.path.relpath(run_folder, self.place.folder), **metrics}

    def record(self):
        """Make the run, or take it as it is, and record it; returns what is recorded of it."""
        folder, name = self.place.folder, self.settings.name
        partial = os.path.join(folder, f".{self.settings.digest}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # of a killed process: we have the run's lock
        os.mkdir(partial)
        try:
            result = self.run(
                seed=self.settings.seed, data_dir=partial, data_filename=name, verbose=False
            )
            os.replace(os.path.join(partial, f"{name}.txt"), os.path.join(folder, f"{name}.txt"))
        finally:
            shutil.rmtree(partial)
        return result


def train(settings, place):
    """Bring a run to its end, from wherever it stands; returns its folder.

    Raises:
        RunError: the script failed.
        Stopped: `place.stop` was set.
        Hopeless: `place.follow` said so before the end.
    """
    n_followed = 0

    def is_hopeless():
        nonlocal n_followed
        run_folder = place.follow and run_folders.find(place.folder, settings)
        curve = run_folders.read_curve(run_folder) if run_folder else {}
        has_grown, n_followed = len(curve) > n_followed, len(curve)
        return has_grown and place.follow(curve)

    run_folder = run_folders.find(place.folder, settings)
    enough = is_hopeless()  # what an interrupted run has shown may be
    if run_folder and run_folders.is_finished(run_folder):
        return run_folder
    if enough:
        raise Hopeless
    if run_folder:
        arguments = [f"--resume={run_folder}"]
    else:
        _remove_unborn(place.folder, settings)
        arguments = [*settings.arguments, f"--results={place.folder}", f"--comment={settings.name}"]
    command = [
        *(sys.executable, os.path.join(SCRIPTS_FOLDER, settings.script), *arguments),
        f"--n_threads={place.slot.n_threads}",
    ]
    log_path = os.path.join(place.folder, "logs", f"{settings.name}.log")
    with open(log_path, "a+", encoding="utf-8", errors="replace") as log:
        start = log.seek(0, os.SEEK_END)
        status = _run_process(command, log, is_hopeless, place)
        if status:
            log.seek(start)
            said = [line.strip() for line in log if line.strip()]
            reason = f"signal {-status}" if status < 0 else f"exit status {status}"
            raise RunError(f"{said[-1] if said else 'no message'} ({reason}, {log_path})")
    is_hopeless()  # so that the last evaluations are followed too
    run_folder = run_folders.find(place.folder, settings)
    if not (run_folder and run_folders.is_finished(run_folder)):
        raise RunError(f"no metrics.json, though the script ended well ({log_path})")
    return run_folder


def _run_process(command, log, is_hopeless, place):
    """Run a command until it ends, `place.stop` is set or it is hopeless; returns its exit status.

    Terminated, it has the time it needs: the training scripts save a checkpoint first.
    """
    process = subprocess.Popen(
        command,
        env={**os.environ, **place.slot.environment},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        pass_fds=[lock.fileno() for lock in place.locks],
        start_new_session=True,  # Ctrl-C comes once, from here
    )
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(POLL_S)
            if place.stop.is_set():
                raise Stopped
            if is_hopeless():
                raise Hopeless
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _remove_unborn(folder, settings):
    """Delete folders of a run that was killed before it had saved its flags."""
    for path in glob.glob(run_folders.pattern(folder, settings)):
        if not os.path.exists(os.path.join(path, "flags.json")):
            shutil.rmtree(path)


# --------------------------------------------------------------------------- many runs


def open_experiment(folder, plan):
    """Make an experiment's folder, or enter one of the same plan.

    Raises:
        UserError: the folder belongs to another plan or to nobody known.
    """
    plan_path = os.path.join(folder, PLAN_FILE)
    if os.path.exists(plan_path):
        name = read_plan(plan_path).name
        if name != plan.name:
            raise UserError(
                f"{folder}: holds runs of the plan '{name}', not of '{plan.name}': choose another "
                "folder"
            )
    elif os.path.isdir(folder) and glob.glob(os.path.join(glob.escape(folder), "*")):
        raise UserError(f"{folder}: is not empty and holds no {PLAN_FILE}: choose another folder")
    try:
        os.makedirs(folder, exist_ok=True)
        write_json(plan_path, plan.content)  # first: others may enter at the same time
        for name in ("locks", "logs"):
            os.makedirs(os.path.join(folder, name), exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None


def in_slots(slots, folder, work):
    """Have a thread for each slot do `work(slot, locks, stop)` until it returns.

    Raises what the work raises; then, and on Ctrl-C, the runs are stopped first.
    """
    stop = threading.Event()

    def serve(slot):
        with contextlib.ExitStack() as held, contextlib.suppress(Stopped):
            path = slot.lock and lock_path(folder, slot.lock)
            work(slot, [held.enter_context(wait_for_lock(path, stop))] if path else [], stop)

    with concurrent.futures.ThreadPoolExecutor(len(slots)) as pool:
        try:
            served = [pool.submit(serve, slot) for slot in slots]
            for future in concurrent.futures.as_completed(served):
                future.result()
        except command_line.Interrupted as signal:
            raise command_line.Interrupted(
                signal.signal_number, "the same command goes on from here"
            ) from None
        finally:
            stop.set()


def run_plan(plan_path, folder, slots):
    """Make all runs of a plan; returns the exit status."""
    plan = read_plan(plan_path)
    if plan.search is not None:
        raise UserError(f"{plan_path}: describes a search: start it with 'search'")
    open_experiment(folder, plan)
    runs = plan.runs()
    _remove_other_records(folder, runs)
    pending, failed = collections.deque(runs), []

    def make(settings, place):
        try:
            text = f"{settings.name}: {_outcome(TrainingRun(settings, place).record())}"
        except FAILURES as error:
            failed.append(settings)
            text = f"failed: {settings.name}: {error}"
        bar.update()
        bar.set_postfix(failed=len(failed))
        bar.write(text)

    def work(slot, locks, stop):
        while not stop.is_set():
            try:
                settings = pending.popleft()
            except IndexError:
                return
            own_lock = run_lock.take(lock_path(folder, settings.digest))
            if own_lock is None:  # another process makes this run: look again later
                pending.append(settings)
                stop.wait(POLL_S)
                continue
            with own_lock:
                make(settings, Place(folder, slot, [*locks, own_lock], stop))

    with command_line.progress_bar(total=len(runs), unit="run", desc=plan.name) as bar:
        in_slots(slots, folder, work)
    end = f", {len(failed)} failed: start again to try them again" if failed else ""
    print(f"{folder}: {len(runs) - len(failed)} of {len(runs)} runs finished{end}")
    return 1 if failed else 0


def _outcome(metrics):
    metric = run_folders.metric_of(metrics)
    return (
        f"{metric.replace('_', ' ')} develop {metrics[f'best_develop_{metric}']:.3f}, test "
        f"{metrics[f'test_{metric}']:.3f}, {metrics['iterations']} iterations"
    )


def _remove_other_records(folder, runs):
    """Delete records of runs that the plan no longer has; the run folders stay."""
    names = {f"{settings.name}.txt" for settings in runs}
    for name in set(os.listdir(folder)) - names:
        if re.search(r"seed=\d+_[0-9a-f]{10}\.txt$", name):
            os.unlink(os.path.join(folder, name))

"""From one run to an experiment: many runs by a plan, a search of parameters, and their report.

    python3 explore_parameters.py run experiments/lsnn_starts.json results/lsnn_starts
    python3 explore_parameters.py report results/lsnn_starts
    python3 explore_parameters.py search experiments/lsnn_search.json results/lsnn_search

`run` starts the runs of a plan (exploration/plan.py has its format) as processes of their own, as
many at once as cores allow or, with GPUs, one on each. Run folders are those of the training
scripts, `FOLDER/<script>/<time>_<settings and seed>/`. Started again, after a kill or with an
edited plan, it takes finished runs as they are, resumes interrupted ones and starts those that are
missing. A failed run does not stop the others; the exit status is then 1.

Every run is a pytry trial: `pandas.DataFrame(pytry.read(FOLDER))` has a row of settings and metrics
for each of the plan's finished runs.

`search` draws the plan's ranges by Optuna, in a study that any number of these commands, on several
machines too, share: in FOLDER if that is a shared one, else by `--storage`. A trial is one run for
each seed of the plan, its value the mean of their best development errors; a trial that is worse
than the median of the others at the same iteration is stopped.

`report` writes tables and figures of a plan's runs (exploration/report.py says how they are computed).
"""

import collections
import contextlib
import fcntl
import glob
import os
import platform
import queue
import re
import shutil
import subprocess
import sys
import threading
from typing import NamedTuple

import optuna
import pytry
from absl import flags

from exploration import report as comparison
from exploration.plan import read_plan
from toolbox import command_line
from toolbox.command_line import UserError
from toolbox.durable_files import write_json

HERE = os.path.dirname(os.path.abspath(__file__))
POLL_S = 0.2
THREAD_VARIABLES = (
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)
OBJECTIVE = "best_develop_frame_error"
FOLLOWED = "develop_frame_error"  # of metrics.jsonl; decides on pruning


def define_flags(flag_values):
    both = {"flag_values": flag_values}
    flags.DEFINE_integer(
        "n_jobs", 0, "run, search: runs at a time; 0: a run each GPU, or as cores allow", 0, **both
    )
    flags.DEFINE_integer("n_threads", 1, "run, search: CPU threads of a run", 1, **both)
    flags.DEFINE_list(
        "gpus",
        None,
        "run, search: ids of GPUs, a run at a time on each; none: the CPU; absent: those of "
        "CUDA_VISIBLE_DEVICES, or all that nvidia-smi lists",
        **both,
    )
    flags.DEFINE_string(
        "storage",
        "",
        "search, report: file or database URL of the shared study; empty: "
        f"{comparison.STUDY_FILE} in the folder",
        **both,
    )
    flags.DEFINE_string("report", "", "report: folder to write to; empty: the runs' own", **both)


# --------------------------------------------------------------------------- places to run


class Slot(NamedTuple):
    """A place for one run at a time."""

    environment: dict  # variables to set for the run's process
    n_threads: int
    lock: str | None  # name of the lock that no two runs hold; None: the processor can be shared


def make_slots(n_jobs, n_threads, gpus, n_cores, machine):
    """The places for runs: one each GPU, or so many that their threads fill the cores.

    Args:
        n_jobs: runs at a time; 0: as many as there is room for.
        n_threads: CPU threads of a run.
        gpus: ids of GPUs; empty: run on the CPU.
        n_cores: processor cores that may be used.
        machine: this machine's name, part of a file name.

    Raises:
        UserError: more runs at a time than GPUs, or a GPU named twice.
    """
    if len(set(gpus)) < len(gpus):
        raise UserError(f"GPUs {','.join(gpus)}: expected different ones")
    if gpus and n_jobs > len(gpus):
        raise UserError(f"--n_jobs={n_jobs}: expected {len(gpus)} at most, a GPU each run")
    threads = dict.fromkeys(THREAD_VARIABLES, str(n_threads))
    if gpus:
        return [
            Slot({**threads, "CUDA_VISIBLE_DEVICES": gpu}, n_threads, f"gpu_{machine}_{gpu}")
            for gpu in gpus[: n_jobs or None]
        ]
    slot = Slot({**threads, "CUDA_VISIBLE_DEVICES": "-1"}, n_threads, None)
    return [slot] * (n_jobs or max(1, n_cores // n_threads))


def visible_gpus(gpus, environment):
    """Ids of the GPUs to use, as `CUDA_VISIBLE_DEVICES` takes them.

    Args:
        gpus: value of `--gpus`.
        environment: environment variables.
    """
    if gpus is not None:
        return [gpu for gpu in gpus if gpu not in ("", "none")]
    if "CUDA_VISIBLE_DEVICES" in environment:
        ids = [gpu.strip() for gpu in environment["CUDA_VISIBLE_DEVICES"].split(",")]
        return [gpu for gpu in ids if gpu not in ("", "-1")]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.split()


def _slots(flag_values):
    gpus = visible_gpus(flag_values.gpus, os.environ)
    machine = re.sub(r"[^\w.-]", "-", platform.node()) or "machine"
    n_cores = command_line.available_cores()
    return make_slots(flag_values.n_jobs, flag_values.n_threads, gpus, n_cores, machine)


# --------------------------------------------------------------------------- locks


def take_lock(path):
    """Take the lock that a file stands for; None if another process has it.

    The lock lasts until the returned file is closed, in every process that has inherited it: a run
    whose starting process was killed keeps its locks while it lives.

    Raises:
        UserError: the file system has no locks.
    """
    file = open(path, "a", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        file.close()
        raise UserError(
            f"{path}: cannot be locked ({error.strerror}): choose a folder on another file system"
        ) from None
    return file


def _lock_path(folder, name):
    return os.path.join(folder, "locks", f"{name}.lock")


def _wait_for_lock(path, stop):
    """Take a lock as soon as it is free; raises Stopped when the event `stop` comes first."""
    while (file := take_lock(path)) is None:
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


class Place(NamedTuple):
    """Where and how a run's process is started."""

    folder: str  # the experiment's
    slot: Slot
    locks: list  # of GPU and run, open files that the run's process inherits
    stop: threading.Event  # ends the run, which then can be resumed
    follow: object = None  # function (iteration, development error) -> whether to stop the run


class TrainingRun(pytry.Trial):
    """One run of a training script: its settings, then what its `metrics.json` says.

    Args:
        settings: plan.RunSettings.
        place: Place.
    """

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
        metrics = comparison.read_metrics(run_folder)
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
    run_folder = comparison.find_run_folder(place.folder, settings)
    follower = Follower(place, settings)
    is_hopeless = follower.look()  # what an interrupted run has shown may be enough
    if run_folder and comparison.is_finished(run_folder):
        return run_folder
    if is_hopeless:
        raise Hopeless
    if run_folder:
        arguments = [f"--resume={run_folder}"]
    else:
        _remove_unborn(place.folder, settings)
        arguments = [
            *settings.arguments,
            f"--results={place.folder}",
            f"--comment={settings.name}",
        ]
    command = [
        *(sys.executable, os.path.join(HERE, settings.script), *arguments),
        f"--n_threads={place.slot.n_threads}",
    ]
    log_path = os.path.join(place.folder, "logs", f"{settings.name}.log")
    with open(log_path, "a+", encoding="utf-8", errors="replace") as log:
        start = log.seek(0, os.SEEK_END)
        status = _run_process(command, log, follower, place)
        if status:
            log.seek(start)
            said = [line.strip() for line in log if line.strip()]
            reason = f"signal {-status}" if status < 0 else f"exit status {status}"
            raise RunError(f"{said[-1] if said else 'no message'} ({reason}, {log_path})")
    follower.look()
    run_folder = comparison.find_run_folder(place.folder, settings)
    if not (run_folder and comparison.is_finished(run_folder)):
        raise RunError(f"no metrics.json, though the script ended well ({log_path})")
    return run_folder


def _run_process(command, log, follower, place):
    """Run a command, looking at its evaluations; returns its exit status.

    Terminated when `place.stop` is set or it is hopeless, it has the time it needs: the training
    scripts save a checkpoint first.
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
            if follower.look():
                raise Hopeless
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _remove_unborn(folder, settings):
    """Delete folders of a run that was killed before it had saved its flags."""
    for path in glob.glob(comparison.run_folder_pattern(folder, settings)):
        if not os.path.exists(os.path.join(path, "flags.json")):
            shutil.rmtree(path)


class Follower:
    """Calls `place.follow` for every line that a run adds to its `metrics.jsonl`."""

    def __init__(self, place, settings):
        self._place, self._settings = place, settings
        self._last_iteration = -1

    def look(self):
        """Follow what is new; whether the run should be stopped."""
        run_folder = self._place.follow and comparison.find_run_folder(
            self._place.folder, self._settings
        )
        is_hopeless = False
        for evaluation in comparison.read_evaluations(run_folder) if run_folder else ():
            if evaluation["iteration"] > self._last_iteration:
                self._last_iteration = evaluation["iteration"]
                is_hopeless = self._place.follow(evaluation["iteration"], evaluation[FOLLOWED])
        return is_hopeless


# --------------------------------------------------------------------------- many runs


def _open_experiment(folder, plan):
    """Make an experiment's folder, or enter one of the same plan.

    Raises:
        UserError: the folder belongs to another plan or to nobody known.
    """
    plan_path = os.path.join(folder, comparison.PLAN_FILE)
    if os.path.exists(plan_path):
        name = read_plan(plan_path).name
        if name != plan.name:
            raise UserError(
                f"{folder}: holds runs of the plan '{name}', not of '{plan.name}': choose another "
                "folder"
            )
    elif os.path.isdir(folder) and glob.glob(os.path.join(glob.escape(folder), "*")):
        raise UserError(
            f"{folder}: is not empty and holds no {comparison.PLAN_FILE}: choose another folder"
        )
    try:
        os.makedirs(folder, exist_ok=True)
        write_json(plan_path, plan.content)  # first: others may enter at the same time
        for name in ("locks", "logs"):
            os.makedirs(os.path.join(folder, name), exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None


def _in_slots(slots, folder, work, show):
    """Have a thread for each slot do `work(slot, locks, stop, say)` until it returns.

    What the work says is shown by the main thread with `show(text)`. Raises what the work raises;
    then, and on Ctrl-C, the runs are stopped first.
    """
    stop, said = threading.Event(), queue.Queue()

    def serve(slot):
        error = None
        try:
            if slot.lock is None:
                work(slot, [], stop, said.put)
            else:
                with _wait_for_lock(_lock_path(folder, slot.lock), stop) as lock:
                    work(slot, [lock], stop, said.put)
        except Stopped:
            pass
        except BaseException as raised:
            error = raised
        said.put((error,))

    threads = [threading.Thread(target=serve, args=(slot,)) for slot in slots]
    for thread in threads:
        thread.start()
    try:
        n_serving = len(threads)
        while n_serving:
            message = said.get()
            if isinstance(message, str):
                show(message)
                continue
            n_serving -= 1
            if message[0] is not None:
                raise message[0]
    except command_line.Interrupted as signal:
        raise command_line.Interrupted(
            signal.signal_number, "the same command goes on from here"
        ) from None
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def run(flag_values, plan_path, folder):
    """Make all runs of a plan; returns the exit status."""
    plan = read_plan(plan_path)
    if plan.search is not None:
        raise UserError(f"{plan_path}: describes a search: start it with 'search'")
    _open_experiment(folder, plan)
    runs = plan.runs()
    _remove_other_records(folder, runs)
    pending, failed = collections.deque(runs), []

    def work(slot, locks, stop, say):
        while not stop.is_set():
            try:
                settings = pending.popleft()
            except IndexError:
                return
            run_lock = take_lock(_lock_path(folder, settings.digest))
            if run_lock is None:  # another process makes this run: look again later
                pending.append(settings)
                stop.wait(POLL_S)
                continue
            with run_lock:
                try:
                    place = Place(folder, slot, [*locks, run_lock], stop)
                    say(f"{settings.name}: {_summary(TrainingRun(settings, place).record())}")
                except (RunError, UserError, OSError) as error:
                    failed.append(settings)
                    say(f"failed: {settings.name}: {error}")

    with command_line.progress_bar(total=len(runs), unit="run", desc=plan.name) as bar:

        def show(line):
            bar.update()
            bar.set_postfix(failed=len(failed))
            bar.write(line)

        _in_slots(_slots(flag_values), folder, work, show)
    end = f", {len(failed)} failed: start again to try them again" if failed else ""
    print(f"{folder}: {len(runs) - len(failed)} of {len(runs)} runs finished{end}")
    return 1 if failed else 0


def _summary(metrics):
    return (
        f"frame error develop {metrics['best_develop_frame_error']:.3f}, test "
        f"{metrics['test_frame_error']:.3f}, {metrics['iterations']} iterations"
    )


def _remove_other_records(folder, runs):
    """Delete records of runs that the plan no longer has; the run folders stay."""
    names = {f"{settings.name}.txt" for settings in runs}
    for name in set(os.listdir(folder)) - names:
        if re.search(r"seed=\d+_[0-9a-f]{10}\.txt$", name):
            os.unlink(os.path.join(folder, name))


# --------------------------------------------------------------------------- search


def search(flag_values, plan_path, folder):
    """Take part in the search that a plan describes until its trials are done."""
    plan = read_plan(plan_path)
    if plan.search is None:
        raise UserError(f"{plan_path}: has no entry 'search': expected ranges of flags")
    _open_experiment(folder, plan)
    study = _open_study(plan, flag_values.storage or os.path.join(folder, comparison.STUDY_FILE))
    n_trials = plan.search["n_trials"]

    def work(slot, locks, stop, say):
        while not stop.is_set():
            trial, trial_lock = _next_trial(study, n_trials, folder, stop)
            if trial is None:
                return
            with trial_lock:
                say(_make_trial(study, trial, plan, Place(folder, slot, locks, stop)))

    with command_line.progress_bar(total=n_trials, unit="trial", desc=plan.name) as bar:

        def show(line):
            bar.n = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
            bar.refresh()
            bar.write(line)

        _in_slots(_slots(flag_values), folder, work, show)
    print(comparison.best_trial_line(study))
    states = {trial.state for trial in study.get_trials(deepcopy=False)}
    return 0 if optuna.trial.TrialState.COMPLETE in states else 1


def _open_study(plan, storage):
    """Create or join the study of a plan.

    Raises:
        UserError: the storage cannot be used, or holds a study of other settings by this name.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.MedianPruner(
        n_startup_trials=plan.search["n_startup_trials"],
        n_warmup_steps=plan.search["n_warmup_iterations"],
    )
    # Running trials count as bad ones, so that workers beside each other try different values.
    sampler = optuna.samplers.TPESampler(constant_liar=True)
    try:
        study = optuna.create_study(
            storage=comparison.open_storage(storage),
            study_name=plan.name,
            sampler=sampler,
            pruner=pruner,
            load_if_exists=True,
        )
    except Exception as error:  # each database has its own
        raise UserError(f"--storage={storage}: {error}") from None
    settings = {
        "script": plan.script,
        "flags": plan.flags,
        "seeds": plan.seeds,
        "ranges": plan.search["ranges"],
    }
    if study.user_attrs.setdefault("settings", settings) != settings:
        raise UserError(
            f"{storage}: holds a study '{plan.name}' of other flags, seeds or ranges: give this "
            "plan another name and folder"
        )
    study.set_user_attr("settings", settings)
    return study


def _next_trial(study, n_trials, folder, stop):
    """A trial to work on and its lock: one whose worker has died, else a new one, else None, None.

    Workers that share the folder choose one after the other, so that there are exactly `n_trials`.
    """

    def path(trial):
        return _lock_path(folder, f"trial_{trial.number}")

    def is_running(number):
        return study.get_trials(deepcopy=False)[number].state == optuna.trial.TrialState.RUNNING

    with _wait_for_lock(_lock_path(folder, "next_trial"), stop):
        trials = study.get_trials(deepcopy=False)
        for trial in trials:
            # A lock file that is not here is in the folder of another worker.
            if trial.state.is_finished() or not os.path.exists(path(trial)):
                continue
            lock = take_lock(path(trial))
            if lock and is_running(trial.number):  # not ended while we looked
                return optuna.trial.Trial(study, trial._trial_id), lock
            if lock:
                lock.close()
        if len(trials) >= n_trials:
            return None, None
        trial = study.ask()
        return trial, _wait_for_lock(path(trial), stop)


def _make_trial(study, trial, plan, place):
    """Run a trial of the search and tell the study its outcome; returns a line on it."""
    values = {name: _suggest(trial, name, bounds) for name, bounds in plan.search["ranges"].items()}
    trial.set_user_attr("machine", platform.node())
    shown = ", ".join(f"{name}={_shown(value)}" for name, value in values.items())
    errors, run_folders = [], []
    first_step = 0  # a later seed's iterations are counted on from those before
    known = dict(study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def follow(iteration, error):
        step = first_step + iteration
        if step not in known:
            known[step] = (sum(errors) + error) / (len(errors) + 1)
            trial.report(known[step], step)
        return trial.should_prune()

    try:
        for settings in plan.searched_runs(values):
            with _wait_for_lock(_lock_path(place.folder, settings.digest), place.stop) as run_lock:
                run_place = place._replace(locks=[*place.locks, run_lock], follow=follow)
                metrics = TrainingRun(settings, run_place).record()
            errors.append(metrics[OBJECTIVE])
            first_step += metrics["iterations"] + 1
            run_folders.append(metrics["run_folder"])
            trial.set_user_attr("run_folders", run_folders)
    except Hopeless:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return f"trial {trial.number} stopped at {known[max(known)]:.4f}: {shown}"
    except (RunError, UserError, OSError) as error:
        trial.set_user_attr("error", str(error))
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return f"trial {trial.number} failed: {shown}: {error}"
    value = sum(errors) / len(errors)
    study.tell(trial, value)
    return f"trial {trial.number}: {OBJECTIVE} {value:.4f}: {shown}"


def _shown(value):
    return f"{value:.4g}" if isinstance(value, float) else value


def _suggest(trial, name, bounds):
    """A value of the trial in a range of the plan."""
    if "choices" in bounds:
        return trial.suggest_categorical(name, bounds["choices"])
    limits = bounds["low"], bounds["high"]
    options = {key: bounds[key] for key in ("log", "step") if key in bounds}
    if all(isinstance(limit, int) for limit in limits):
        return trial.suggest_int(name, *limits, **options)
    return trial.suggest_float(name, *limits, **options)


# --------------------------------------------------------------------------- command line


def main(flag_values, command="", *paths):
    commands = {
        "run": (run, "PLAN.json FOLDER"),
        "search": (search, "PLAN.json FOLDER"),
        "report": (report, "FOLDER"),
    }
    if command not in commands:
        raise UserError(f"'{command}': expected run, search or report (--help tells more)")
    function, expected = commands[command]
    if len(paths) != len(expected.split()):
        raise UserError(f"{command}: {len(paths)} argument(s), expected {expected}")
    return function(flag_values, *paths)


def report(flag_values, folder):
    """Write the report of an experiment's folder."""
    comparison.write_report(folder, flag_values.report or folder, flag_values.storage)


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__, n_positional=3)

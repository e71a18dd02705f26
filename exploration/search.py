"""Searches of parameters: an Optuna study whose trials are runs, and what it has found.

A trial is one run for each seed of the plan; its value is the mean of their best development
errors. A trial that is worse than the median of the others at the same iteration is stopped.
"""

import os
import platform

import optuna

from exploration import run_folders, tables
from exploration.plan import read_plan, shown
from exploration.runs import (
    FAILURES,
    Hopeless,
    Place,
    TrainingRun,
    in_slots,
    lock_path,
    open_experiment,
    wait_for_lock,
)
from toolbox import command_line, run_lock
from toolbox.command_line import UserError

STUDY_FILE = "study.journal"


def search(plan_path, folder, slots, storage=""):
    """Take part in the search that a plan describes until its trials are done.

    Returns the exit status, 1 if no trial has come to its end. The study is in `storage`, a file or
    database URL; empty: a file in the folder.
    """
    plan = read_plan(plan_path)
    if plan.search is None:
        raise UserError(f"{plan_path}: has no entry 'search': expected ranges of flags")
    open_experiment(folder, plan)
    study = open_study(plan, storage or os.path.join(folder, STUDY_FILE))
    n_trials = plan.search["n_trials"]

    def work(slot, locks, stop):
        while not stop.is_set():
            trial, trial_lock = next_trial(study, n_trials, folder, stop)
            if trial is None:
                return
            with trial_lock:
                text = _make_trial(study, trial, plan, Place(folder, slot, locks, stop))
            bar.n = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
            bar.refresh()
            bar.write(text)

    with command_line.progress_bar(total=n_trials, unit="trial", desc=plan.name) as bar:
        in_slots(slots, folder, work)
    print(_best_trial_line(study))
    states = {trial.state for trial in study.get_trials(deepcopy=False)}
    return 0 if optuna.trial.TrialState.COMPLETE in states else 1


def open_storage(storage):
    """The storage of a study: a database for a URL, else a journal file."""
    if "://" in storage:
        return optuna.storages.RDBStorage(storage)
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(storage))


def open_study(plan, storage):
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
            storage=open_storage(storage),
            study_name=plan.name,
            sampler=sampler,
            pruner=pruner,
            load_if_exists=True,
        )
    except Exception as error:  # each database has its own
        raise UserError(f"--storage={storage}: {error}") from None
    settings = {name: getattr(plan, name) for name in ("script", "flags", "seeds")}
    settings["ranges"] = plan.search["ranges"]
    if study.user_attrs.setdefault("settings", settings) != settings:
        raise UserError(
            f"{storage}: holds a study '{plan.name}' of other flags, seeds or ranges: give this "
            "plan another name and folder"
        )
    study.set_user_attr("settings", settings)
    return study


def next_trial(study, n_trials, folder, stop):
    """A trial to work on and its lock: one whose worker has died, else a new one, else None, None.

    Workers that share the folder choose one after the other, so that there are exactly `n_trials`.
    """

    def path(trial):
        return lock_path(folder, f"trial_{trial.number}")

    def is_running(number):
        return study.get_trials(deepcopy=False)[number].state == optuna.trial.TrialState.RUNNING

    with wait_for_lock(lock_path(folder, "next_trial"), stop):
        trials = study.get_trials(deepcopy=False)
        for trial in trials:
            # A lock file that is not here is in the folder of another worker.
            if trial.state.is_finished() or not os.path.exists(path(trial)):
                continue
            lock = run_lock.take(path(trial))
            if lock and is_running(trial.number):  # not ended while we looked
                return optuna.trial.Trial(study, trial._trial_id), lock
            if lock:
                lock.close()
        if len(trials) >= n_trials:
            return None, None
        trial = study.ask()
        return trial, wait_for_lock(path(trial), stop)


def _make_trial(study, trial, plan, place):
    """Run a trial of the search and tell the study its outcome; returns a line on it."""
    values = {name: suggest(trial, name, bounds) for name, bounds in plan.search["ranges"].items()}
    trial.set_user_attr("machine", platform.node())
    errors, folders = [], []
    first_step = 0  # a later seed's iterations are counted on from those before
    known = dict(study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def follow(curve):
        for iteration, error in curve.items():
            step = first_step + iteration
            if step not in known:
                known[step] = (sum(errors) + error) / (len(errors) + 1)
                trial.report(known[step], step)
        return trial.should_prune()

    try:
        for settings in plan.searched_runs(values):
            with wait_for_lock(lock_path(place.folder, settings.digest), place.stop) as own_lock:
                run_place = place._replace(locks=[*place.locks, own_lock], follow=follow)
                metrics = TrainingRun(settings, run_place).record()
            errors.append(metrics[f"best_develop_{run_folders.metric_of(metrics)}"])
            first_step += metrics["iterations"] + 1
            folders.append(metrics["run_folder"])
            trial.set_user_attr("run_folders", folders)
    except Hopeless:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return f"trial {trial.number} stopped at {known[max(known)]:.4f}: {_spoken(values)}"
    except FAILURES as error:
        trial.set_user_attr("error", str(error))
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return f"trial {trial.number} failed: {_spoken(values)}: {error}"
    value = sum(errors) / len(errors)
    study.tell(trial, value)
    return f"trial {trial.number}: best development error {value:.4f}: {_spoken(values)}"


def suggest(trial, name, bounds):
    """A value of the trial in a range of the plan."""
    if "choices" in bounds:
        return trial.suggest_categorical(name, bounds["choices"])
    limits = bounds["low"], bounds["high"]
    options = {key: bounds[key] for key in ("log", "step") if key in bounds}
    if all(isinstance(limit, int) for limit in limits):
        return trial.suggest_int(name, *limits, **options)
    return trial.suggest_float(name, *limits, **options)


def _spoken(values):
    return ", ".join(f"{name}={shown(value)}" for name, value in values.items())


def _best_trial_line(study):
    """The best trial so far, for a reader."""
    states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
    counts = ", ".join(f"{states.count(s)} {s.lower()}" for s in sorted(set(states)))
    if "COMPLETE" not in states:
        return f"study {study.study_name}: {counts or 'no trials'}"
    best = study.best_trial
    return (
        f"study {study.study_name}: {counts}; best is trial {best.number}, development error "
        f"{best.value:.4f}: {_spoken(best.params)}"
    )


def report_lines(plan, storage, report_folder):
    """Lines of the report on a search; writes `trials.csv` too.

    Raises:
        UserError: the storage holds no such study.
    """
    if "://" not in storage and not os.path.exists(storage):
        raise UserError(f"{storage}: no such study: start 'search' first or give --storage")
    try:
        study = optuna.load_study(study_name=plan.name, storage=open_storage(storage))
    except KeyError:
        raise UserError(f"{storage}: holds no study '{plan.name}'") from None
    trials = study.trials_dataframe(attrs=("number", "value", "params", "user_attrs", "state"))
    tables.write_csv(os.path.join(report_folder, "trials.csv"), trials)
    complete = [
        trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"
    ]
    rows = [
        {
            "trial": str(trial.number),
            "development error": f"{trial.value:.4f}",
            **{name: str(shown(value)) for name, value in trial.params.items()},
        }
        for trial in sorted(complete, key=lambda trial: trial.value)[:10]
    ]
    return [
        _best_trial_line(study) + ".",
        "",
        "The best ten of the trials that came to their end; `trials.csv` has all, with the folders "
        "of their runs. The best of many is better than it will be with other seeds: repeat it.",
        "",
        *tables.markdown(rows),
    ]

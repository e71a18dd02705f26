"""The one training loop: an experiment from its flags to its metrics.

A script says what its experiment is (`Experiment`) and calls `run`; `train` is the loop itself and
`Run` the state that outlives an iteration.
"""

import concurrent.futures
import contextlib
import itertools
import json
import math
import os
import shutil
import tempfile
import time
from typing import Callable, NamedTuple

import numpy as np

from toolbox.arrays import BadArraysError, write_arrays
from toolbox.command_line import Interrupted, UserError, deferred_signals, progress_bar
from toolbox.durable_files import append_line, remove_leftovers, write_json, write_whole
from training import checkpoints, devices, figures, health, reporting, ridge_readout, run_folder
from training.checkpoints import selecting_error, values_of
from training.evaluation import make_evaluation
from training.flags import TrainingConfig
from training.steps import make_optimizer, make_train_step


class Experiment(NamedTuple):
    """What a training script is made of."""

    script: str  # its name
    define_flags: Callable  # (absl.flags.FlagValues)
    check_flags: Callable  # (flag values), raises UserError
    make_task: Callable  # (flag values) -> a task of `tasks`
    make_network: Callable  # (flag values, task, seed) -> models.Network
    trained_part: Callable  # (flag values, network) -> tf.Module
    # (flag values) -> function (folder, network, task, "before" or "after") -> metrics, which is
    # called before training and after it; or None
    make_observer: Callable = lambda flag_values: None
    # (flag values) -> what is read in their place, where a default depends on another flag
    settings: Callable = lambda flag_values: flag_values
    make_run: Callable = None  # a subclass of `Run`, for benchmarks; else `Run` itself


# --------------------------------------------------------------------------- an experiment


def run(experiment, flag_values):
    """One experiment, from the flags of the command line to `metrics.json`."""
    flag_values, beside = run_folder.resumed_flags(
        flag_values, experiment.define_flags, experiment.script
    )
    experiment.check_flags(flag_values)
    settings = experiment.settings(flag_values)
    with contextlib.ExitStack() as held:
        is_chief = devices.worker_index() == 0
        folder = _enter(flag_values.resume, is_chief, held)
        if folder is not None and os.path.exists(os.path.join(folder, "metrics.json")):
            checkpoints.remove(folder)  # where a kill came between the two
            print(f"{flag_values.resume}: this run has ended, there is nothing to resume")
            return
        task = experiment.make_task(settings)
        strategy = devices.set_up_devices(
            flag_values.cuda_device, flag_values.n_threads, flag_values.batch
        )
        if strategy.num_replicas_in_sync > 1:
            held.enter_context(strategy.scope())
        seed = devices.set_up_seed(flag_values.seed)
        network = experiment.make_network(settings, task, seed)
        if not (folder and checkpoints.exists(folder)):
            _start_from(network, task, flag_values.checkpoint, _ridge_batch(flag_values))
        if flag_values.resume and is_chief:
            with run_folder.told_how_to_continue(folder, beside):
                run_folder.note_resumption(folder, task.checksum, network.config)
        elif is_chief:
            record = run_folder.record_of(
                experiment.script, flag_values, seed, task.checksum, network.config, task.note
            )
            labels = flag_values.comment, flag_values.run_id
            folder = run_folder.make(flag_values.results, experiment.script, labels, record, held)
        if is_chief:
            with run_folder.told_how_to_continue(folder, beside):
                run_folder.describe(folder, network, task)
        train(
            network,
            task,
            TrainingConfig.from_flags(settings),
            seed,
            folder,
            experiment.trained_part(flag_values, network).trainable_variables,
            experiment.make_observer(flag_values),
            beside,
            experiment.make_run,
        )


def _enter(resumed, is_chief, held):
    """The folder of a run that is resumed, or None; locked, cleared and, if need be, copied.

    Processes other than the chief compute the same, and what they write is dropped.
    """
    if resumed and is_chief:
        held.enter_context(run_folder.lock(resumed))
        remove_leftovers(resumed)
        return resumed
    if is_chief:
        return None
    scratch = held.enter_context(tempfile.TemporaryDirectory())
    if resumed:
        hidden = shutil.ignore_patterns(".*")  # the chief's lock and what it clears away
        shutil.copytree(resumed, scratch, dirs_exist_ok=True, ignore=hidden)
    return scratch


def _ridge_batch(flag_values):
    """Examples at a time for a readout by ridge regression; None for a random one."""
    return flag_values.test_batch if flag_values.readout_init == "ridge" else None


def _start_from(network, task, checkpoint, ridge_batch):
    """Give a network the weights that flags name in place of those it was made with."""
    if checkpoint:
        checkpoints.load_weights(checkpoint, network)
        run_folder.compare_with_source(checkpoint, task.checksum)
    if ridge_batch:
        ridge_readout.fit_readout(network, task.dataset.train, ridge_batch)


# --------------------------------------------------------------------------- the loop


def train(network, task, config, seed, folder, variables, observer=None, beside=(), make_run=None):
    """Train a network, select on the development set, then read the test set once.

    Where the folder holds a checkpoint, training goes on from it. Ctrl-C and SIGTERM end it after
    the running step, with a checkpoint.

    Args:
        network: models.Network.
        task: of `tasks`.
        config: TrainingConfig.
        seed: of shuffling, windows, dropout and noise.
        folder: run folder; gets `metrics.jsonl` (a line an evaluation), `metrics.json`, `best.npz`,
            `last.npz` and figures, and until the end `checkpoint.npz` and `checkpoint_before.npz`.
        variables: what is trained.
        observer: see `Experiment.make_observer`.
        beside: arguments that were given beside `--resume`.
        make_run: see `Experiment`.

    Returns:
        The content of `metrics.json`.

    Raises:
        UserError: the folder cannot be written; a loss, gradient or weight is NaN or infinite.
        command_line.Interrupted: a signal came.
    """
    with run_folder.told_how_to_continue(folder, beside), deferred_signals() as stop_if_asked:
        make_run = make_run or Run
        run = make_run(network, task, config, seed, folder, variables, stop_if_asked)
        run.restore()
        if observer and run.progress.iteration == 0:
            observer(folder, network, task, "before")  # a resumed run finds it there
        with progress_bar(
            total=run.n_iterations, initial=run.progress.iteration, unit="it", desc="training"
        ) as bar:
            try:
                for epoch, batch in one_ahead(run.batches()):
                    if run.progress.iteration % config.print_every == 0:
                        run.evaluate(epoch, bar.write)
                    elif run.is_checkpoint_due():
                        run.save()
                    stop_if_asked()
                    loss = run.step(epoch, batch)
                    bar.update()
                    bar.set_postfix(epoch=epoch, loss=f"{loss:.3f}")
                run.evaluate(run.progress.epoch, bar.write)
            except Interrupted as interruption:
                if not interruption.is_urgent:  # else a step may be half done
                    run.save()
                raise
        return run.finish(observer)


class Run:
    """A run between two iterations: network, optimiser and `progress`, and what it does with them.

    Attributes:
        progress: checkpoints.Progress.
        n_iterations: of the whole run.
    """

    def __init__(self, network, task, config, seed, folder, variables, stop_if_asked):
        self.network, self.task, self.config = network, task, config
        self.seed, self.folder = seed, folder
        self.n_iterations = config.n_epochs * task.n_training_batches(config.batch)
        self.n_parameters = sum(int(np.prod(v.shape)) for v in variables)
        self.progress = checkpoints.Progress()
        self._optimizer = make_optimizer(
            network, config.optimizer, config.momentum, config.adam_epsilon, config.cell_lr_factor
        )
        self._train_step = make_train_step(
            network,
            task,
            self._optimizer,
            variables,
            seed,
            config.readout_decay,
            config.input_noise_std,
            config.grad_clip,
            config.gd_noise,
            config.noise_step_start,
        )
        self._evaluate = make_evaluation(network, task, config.test_batch, stop_if_asked)
        self._constant_error = task.constant_error()
        self._saved, self._saved_s = None, time.monotonic()
        self._started_s = self._saved_s
        print(f"trained parameters: {self.n_parameters}; iterations: {self.n_iterations}")

    def _path(self, name):
        return os.path.join(self.folder, name)

    def _advice(self):
        advice = "try a smaller --lr_init in a new run"
        if os.path.exists(self._path("best.npz")):
            advice += (
                f", perhaps from the best weights so far with --checkpoint={self.folder}; the last "
                "good checkpoint stays there"
            )
        return advice

    def _optimizer_state(self):
        """The optimiser's variables by a name that does not depend on the process."""
        return {f"{i}_{v.name}": v for i, v in enumerate(self._optimizer.variables)}

    def restore(self):
        """Go on from the folder's last checkpoint; without one from the beginning."""
        kinds = [self.network.weights(), self._optimizer_state()]
        found = checkpoints.load(
            self.folder,
            *({n: (v.shape, np.dtype(v.numpy().dtype)) for n, v in kind.items()} for kind in kinds),
        )
        if found is None:
            for name in ("metrics.jsonl", "best.npz"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path(name))
            return
        *arrays, progress = found
        if progress.iteration > self.n_iterations:
            raise UserError(
                f"{self.folder}: its checkpoint is of iteration {progress.iteration} of "
                f"{self.n_iterations}: expected --dataset to name the data of this run"
            )
        for variables, values in zip(kinds, arrays):
            for name, variable in variables.items():
                variable.assign(values[name])
        with write_whole(self._path("metrics.jsonl"), "w") as file:
            file.writelines(json.dumps(record) + "\n" for record in progress.evaluations)
        if progress.evaluations:
            write_arrays(self._path("best.npz"), progress.best_weights)
        self.progress = progress
        print(f"resumed at iteration {progress.iteration} of {self.n_iterations}")

    def batches(self):
        """The remaining batches with their epoch, shuffled anew in each epoch."""
        n_batches = self.task.n_training_batches(self.config.batch)
        first_epoch, n_done = divmod(self.progress.iteration, n_batches)
        for epoch in range(first_epoch, self.config.n_epochs):
            random_generator = np.random.default_rng([self.seed, devices.STREAM_SHUFFLING, epoch])
            batches = self.task.training_batches(self.config.batch, random_generator)
            # The batches before are made and dropped: what is drawn comes from one generator.
            for batch in itertools.islice(batches, n_done if epoch == first_epoch else 0, None):
                yield epoch, batch

    def step(self, epoch, batch):
        """Train on a batch; returns its loss."""
        progress = self.progress
        rate = self.config.schedule.rate(progress.iteration, self.n_iterations)
        start = time.perf_counter()
        with health.failures_explained(
            progress.iteration, epoch, batch, self.network.weights(), self._advice()
        ):
            loss = float(self._train_step(*batch, rate, progress.iteration))
        progress.seconds.append(time.perf_counter() - start)
        progress.train_losses.append(loss)
        progress.epoch = epoch
        progress.iteration += 1
        return loss

    def evaluate(self, epoch, say):
        """Evaluate on the development set, record it, keep the best weights, save a checkpoint."""
        progress = self.progress
        if progress.is_evaluated:
            return
        develop = self._evaluate("develop")
        if not math.isfinite(develop.loss):
            raise UserError(
                f"iteration {progress.iteration}: the development loss is {develop.loss}: "
                f"{self._advice()}"
            )
        rate = self.config.schedule.rate(progress.iteration, self.n_iterations)
        record = reporting.evaluation_record(self.task, develop, progress, epoch, rate)
        progress.evaluations.append(record)
        progress.train_losses.clear()
        append_line(self._path("metrics.jsonl"), json.dumps(record))
        if progress.best is record:
            progress.best_weights = values_of(self.network.weights())
            write_arrays(self._path("best.npz"), progress.best_weights)
        say(reporting.evaluation_line(record, self.config.verbose))
        if self.network.is_spiking:
            for line in health.rate_warnings(self.network, develop.rates_hz, progress.rate_states):
                say(line)
        self.save()
        if self.config.plot:
            self._draw()

    def is_checkpoint_due(self):
        return time.monotonic() - self._saved_s >= self.config.checkpoint_every_s

    def save(self):
        """Write a checkpoint, unless the last one is of this moment."""
        progress = self.progress
        state = progress.iteration, progress.is_evaluated
        if state == self._saved:  # a second copy would push out the one before
            return
        self._count_time()
        weights = values_of(self.network.weights())
        try:
            checkpoints.save(self.folder, weights, values_of(self._optimizer_state()), progress)
        except BadArraysError as error:
            raise UserError(f"iteration {progress.iteration}: {error}: {self._advice()}") from None
        self._saved, self._saved_s = state, time.monotonic()

    def _count_time(self):
        now = time.monotonic()
        self.progress.process_s += now - self._started_s
        self._started_s = now

    def _draw(self):
        figures.plot_learning_curve(
            self._path("learning_curve.png"),
            self.progress.evaluations,
            self.task.metric,
            self._constant_error,
            self.task.constant_answer,
            self.task.note,
        )
        self.task.draw_example(self.folder, self.network)

    def finish(self, observer=None):
        """Read the test set with the best weights, draw the figures, write `metrics.json`."""
        network, task, progress = self.network, self.task, self.progress
        checkpoints.save_weights(self._path("last.npz"), network)
        observed = observer(self.folder, network, task, "after") if observer else {}
        checkpoints.load_weights(self._path("best.npz"), network)
        final, evaluate = task.for_the_end(), self._evaluate
        if final is not task:
            evaluate = make_evaluation(network, final, self.config.test_batch)
            final.read_develop(evaluate("develop"))
        test = evaluate("test")
        self._draw()
        final.draw_results(self.folder, test)
        self._count_time()
        best, first = progress.best, progress.evaluations[0]
        error = f"develop_{task.metric}"
        metrics = {
            "metric": task.metric,
            **{f"best_develop_{name}": best[f"develop_{name}"] for name in task.names},
            **{f"test_{name}": value for name, value in test.metrics.items()},
            f"initial_{error}": first[error],
            f"majority_{error}": self._constant_error,
            "best_iteration": best["iteration"],
            "iterations": progress.iteration,
            "test_loss": test.loss,
            "seconds_per_iteration": reporting.median_seconds(progress),
            "started": run_folder.started(self.folder),
            "hours": progress.process_s / 3600,
            "peak_memory_gb": reporting.peak_memory_gb(),
            "trained_parameters": self.n_parameters,
            "seed": self.seed,
            **({"corpus_note": task.note} if task.note else {}),
            **observed,
        }
        write_json(self._path("metrics.json"), metrics)
        checkpoints.remove(self.folder)
        chosen = test.metrics[task.metric]
        said = ", ".join(
            f"{reporting.spoken(name)} {value:.3f}"
            for name, value in test.metrics.items()
            if name == task.metric or value != chosen
        )
        print(
            f"selected iteration {best['iteration']}: {reporting.spoken(task.metric)} develop "
            f"{selecting_error(best):.3f} ({task.constant_answer} {self._constant_error:.3f}); test: "
            f"{said}"
        )
        return metrics


def one_ahead(iterable):
    """The items of an iterable; while one is in use, a thread gets the next ready.

    What the iterable raises is raised where its item would have come. A generator that is left
    early waits for the item in preparation, not for more.
    """
    iterator, end = iter(iterable), object()
    with concurrent.futures.ThreadPoolExecutor(1, "one_ahead") as thread:
        item = thread.submit(next, iterator, end)
        while (ready := item.result()) is not end:
            item = thread.submit(next, iterator, end)
            yield ready

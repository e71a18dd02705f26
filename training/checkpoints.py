"""Checkpoints: all that a training run needs to go on as if it had never been interrupted.

A run folder holds the last checkpoint and the one before, each an `.npz` of its own:

    weights/<name>      the network's weights, feedback included
    optimizer/<name>    the optimiser's state
    best/<name>         the weights at the best evaluation so far
    seconds             [iterations] float64, what each step took
    train_losses        [iterations since the last evaluation] float64
    progress            the rest of `Progress`, JSON in UTF-8, as uint8

Random generators have no state to keep: shuffling, windows, dropout and noise are functions of the
seed and of the epoch or iteration. A file is written whole, then the one before is replaced, so
that a kill at any moment leaves one that can be read. Arrays are read without pickle, and none
larger than the file announces or than the network can need.
"""

import dataclasses
import io
import json
import math
import os

import numpy as np

from toolbox.arrays import BadArraysError, read_arrays, write_arrays
from toolbox.command_line import UserError
from toolbox.durable_files import write_whole

LAST, BEFORE = "checkpoint.npz", "checkpoint_before.npz"
_COUNTS = ("iteration", "epoch")  # of each evaluation, beside others
DEFAULT_METRIC = "frame_error"  # of runs that name none: there was no other
MIN_BYTES = 2**26  # a file may always be this large: what is wrong can then be told in detail


@dataclasses.dataclass
class Progress:
    """Where a run stands, beside weights and optimiser."""

    iteration: int = 0  # steps done
    epoch: int = 0  # of the last step
    evaluations: list = dataclasses.field(default_factory=list)  # lines of metrics.jsonl
    seconds: list = dataclasses.field(default_factory=list)  # of each step
    train_losses: list = dataclasses.field(default_factory=list)  # since the last evaluation
    best_weights: dict = dataclasses.field(default_factory=dict)  # name -> array
    rate_states: dict = dataclasses.field(default_factory=dict)  # of `health.rate_warnings`
    process_s: float = 0.0  # clock time of all processes of the run so far

    @property
    def is_evaluated(self):
        """Whether the weights of this moment have been evaluated."""
        return bool(self.evaluations) and self.evaluations[-1]["iteration"] == self.iteration

    @property
    def best(self):
        """The evaluation with the smallest development error, the first of several."""
        return min(self.evaluations, key=selecting_error)


def selecting_error(evaluation):
    """The development error of an evaluation by which weights are selected."""
    return evaluation[f"develop_{evaluation.get('metric', DEFAULT_METRIC)}"]


def save(folder, weights, optimizer, progress):
    """Write a checkpoint; the last one becomes the one before.

    Args:
        folder: run folder.
        weights, optimizer: dicts name -> array.
        progress: Progress.

    Raises:
        BadArraysError: a value is NaN or infinite; the checkpoints stay as they are.
        OSError: it cannot be written; they stay too.
    """
    groups = {"weights": weights, "optimizer": optimizer, "best": progress.best_weights}
    arrays = {f"{group}/{name}": a for group, named in groups.items() for name, a in named.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise BadArraysError(f"{name} holds values that are NaN or infinite")
    rest = {
        "iteration": progress.iteration,
        "epoch": progress.epoch,
        "evaluations": progress.evaluations,
        "rate_states": progress.rate_states,
        "process_s": progress.process_s,
    }
    arrays["progress"] = np.frombuffer(json.dumps(rest, allow_nan=False).encode(), np.uint8)
    arrays["seconds"] = np.array(progress.seconds, np.float64)
    arrays["train_losses"] = np.array(progress.train_losses, np.float64)
    content = io.BytesIO()
    np.savez(content, **arrays)
    last = os.path.join(folder, LAST)
    with write_whole(last) as file:
        file.write(content.getbuffer())
        file.flush()
        os.fsync(file.fileno())  # before the last one is touched: the disk may be full
        if os.path.exists(last):
            os.replace(last, os.path.join(folder, BEFORE))


def load(folder, weights, optimizer):
    """Read the last checkpoint of a run folder, or the one before if that is damaged.

    Args:
        folder: run folder.
        weights, optimizer: dicts name -> (shape, dtype) of what the run needs.

    Returns:
        (weights, optimizer, Progress), the first two dicts name -> array; None without any
        checkpoint.

    Raises:
        UserError: there are checkpoints, and none can be used.
    """
    problems = []
    for name in (LAST, BEFORE):
        path = os.path.join(folder, name)
        if not os.path.exists(path):
            continue
        try:
            found = _check(_read(path, weights, optimizer), weights, optimizer)
        except BadArraysError as error:
            problems.append(f"{path} {error}")
            continue
        if problems:
            print(f"warning: {problems[0]}: going on from the checkpoint before it")
            os.replace(path, os.path.join(folder, LAST))  # else the next one would replace it
        return found
    if problems:
        raise UserError(
            f"--resume: {'; '.join(problems)}: start a new run, perhaps from its weights with "
            f"--checkpoint={folder}"
        )
    return None


def exists(folder):
    """Whether a run folder holds a checkpoint, readable or not; "" is no folder."""
    return folder != "" and any(
        os.path.exists(os.path.join(folder, name)) for name in (LAST, BEFORE)
    )


def remove(folder):
    """Delete the checkpoints of a run that has ended."""
    for name in (BEFORE, LAST):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            os.unlink(path)


def _read(path, weights, optimizer):
    n_bytes = sum(
        math.prod(shape) * np.dtype(dtype).itemsize
        for shape, dtype in (*weights.values(), *weights.values(), *optimizer.values())
    )
    try:
        return read_arrays(path, n_bytes + MIN_BYTES)
    except OSError as error:
        raise BadArraysError(f"cannot be read ({error.strerror})") from None


def _check(arrays, weights, optimizer):
    """Sort the arrays of a checkpoint; BadArraysError where they are not as `save` writes."""
    groups = {"weights": {}, "optimizer": {}, "best": {}}
    for name, array in arrays.items():
        group, _, rest = name.partition("/")
        if group in groups:
            groups[group][rest] = array
    for group, expected in (("weights", weights), ("optimizer", optimizer), ("best", weights)):
        found = groups[group]
        if group == "best" and not found:  # before the first evaluation
            continue
        if found.keys() != expected.keys():
            name = sorted(found.keys() ^ expected.keys())[0]
            raise BadArraysError(
                f"{'has' if name in found else 'has no'} {group}/{name}: it is of another network"
            )
        for name, (shape, dtype) in expected.items():
            array = found[name]
            if array.shape != tuple(shape) or array.dtype != np.dtype(dtype):
                raise BadArraysError(
                    f"has {array.dtype} {array.shape} as {group}/{name}, expected "
                    f"{np.dtype(dtype)} {tuple(shape)}: it is of another network"
                )
            if not np.isfinite(array).all():
                raise BadArraysError(f"has NaN or infinite values in {group}/{name}")
    progress = _progress(arrays, groups["best"])
    if progress is None:
        raise BadArraysError("tells no usable progress of a run")
    return groups["weights"], groups["optimizer"], progress


def _progress(arrays, best_weights):
    """Progress from the arrays, None if it makes no sense."""
    try:
        lists = {name: arrays[name] for name in ("seconds", "train_losses")}
        if {a.dtype for a in lists.values()} != {np.dtype(np.float64)}:
            return None
        rest = json.loads(arrays["progress"].tobytes())
        progress = Progress(**rest, **{name: a.tolist() for name, a in lists.items()})
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    is_count = lambda value: type(value) is int and 0 <= value < 2**31  # noqa: E731
    is_number = lambda value: type(value) is float and math.isfinite(value)  # noqa: E731
    records = progress.evaluations
    if not (
        is_count(progress.iteration)
        and is_count(progress.epoch)
        and all(a.ndim == 1 and np.isfinite(a).all() for a in lists.values())
        and len(progress.seconds) == progress.iteration
        and len(progress.train_losses) <= progress.iteration
        and isinstance(progress.rate_states, dict)
        and all(isinstance(state, str) for state in progress.rate_states.values())
        and isinstance(records, list)
        and is_number(progress.process_s)
        and all(isinstance(r, dict) and r.keys() >= {*_COUNTS, "develop_loss"} for r in records)
        and all(is_count(r[name]) for r in records for name in _COUNTS)
        and all(isinstance(r.get("metric", ""), str) for r in records)
        and all(f"develop_{r.get('metric', DEFAULT_METRIC)}" in r for r in records)
        and all(
            is_number(value)
            if name.startswith("develop_")
            else value is None or is_number(value) or is_count(value)
            for r in records
            for name, value in r.items()
            if name != "metric"
        )
        and sorted({r["iteration"] for r in records}) == [r["iteration"] for r in records]
        and (not records or records[-1]["iteration"] <= progress.iteration)
        and bool(records) == bool(best_weights)
    ):
        return None
    progress.best_weights = best_weights
    return progress


# --------------------------------------------------------------------------- weights alone


def values_of(variables):
    """Arrays of a dict of variables."""
    return {name: variable.numpy() for name, variable in variables.items()}


def save_weights(path, network):
    """Write all weights of a network by name to an `.npz` file."""
    write_arrays(path, values_of(network.weights()))


def load_weights(path, network):
    """Give a network the weights of an `.npz` file, or of a run folder's `best.npz`.

    Feedback weights are the learning rule's own: they are taken where both sides have them.

    Raises:
        UserError: no such file, no weights in it, or weights of another network.
    """
    if os.path.isdir(path):
        path = os.path.join(path, "best.npz")
    expected = network.weights()
    n_bytes = sum(int(np.prod(v.shape)) * v.dtype.size for v in expected.values())
    try:
        # Weights may be float64, and those of another network deserve a message of their own.
        found = read_arrays(path, 16 * n_bytes + MIN_BYTES)
    except OSError as error:
        raise UserError(
            f"--checkpoint: cannot read {path} ({error.strerror}): name a weights file (.npz) or a "
            "run folder"
        ) from None
    except BadArraysError as error:
        raise UserError(
            f"--checkpoint: {path} holds no weights: it {error}: expected an .npz file"
        ) from None
    for name in (*expected, *found):
        if (name in found) != (name in expected) and not name.startswith("readout/feedback"):
            relation = "has" if name in found else "has no"
            raise UserError(f"--checkpoint: {path} {relation} {name}: it is of another network")
    common = [name for name in expected if name in found]
    for name in common:
        variable = expected[name]
        if found[name].shape != tuple(variable.shape) or found[name].dtype.kind != "f":
            raise UserError(
                f"--checkpoint: {name} in {path} is {found[name].dtype} {found[name].shape}, "
                f"expected {variable.dtype.name} {tuple(variable.shape)}: it is of another network"
            )
        with np.errstate(over="ignore", under="ignore"):
            found[name] = found[name].astype(variable.dtype.as_numpy_dtype)
        if not np.isfinite(found[name]).all():
            raise UserError(f"--checkpoint: {name} in {path} holds NaN or infinite values")
    for name in common:
        expected[name].assign(found[name])

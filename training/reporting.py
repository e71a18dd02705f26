"""What a run tells: lines on the terminal, records of its evaluations, what its spikes remember."""

import json
import os
import resource
import statistics
import sys

import numpy as np

from lmu import figures as memory_figures
from lmu import memory
from toolbox.command_line import UserError
from toolbox.durable_files import write_json

MEMORY_CHANNELS = 4  # of the features, that the spikes are asked for


def evaluation_record(task, develop, progress, epoch, learning_rate):
    """A line of metrics.jsonl.

    Args:
        task: of `tasks`.
        develop: Evaluation of the development set.
        progress: checkpoints.Progress.
    """
    record = {
        "epoch": epoch,
        "iteration": progress.iteration,
        "metric": task.metric,
        **{f"develop_{name}": value for name, value in develop.metrics.items()},
        "develop_loss": develop.loss,
        "develop_prediction_loss": develop.prediction_loss,
        "develop_rate_loss": develop.rate_loss,
        "train_loss": statistics.mean(progress.train_losses) if progress.train_losses else None,
        "learning_rate": learning_rate,
        "seconds_per_iteration": median_seconds(progress),
    }
    if develop.rates_hz is not None:
        for name in ("min", "max", "mean", "std"):
            record[f"rate_hz_{name}"] = float(getattr(np, name)(develop.rates_hz))
    return record


def median_seconds(progress):
    """Median of what a step took; None before the first."""
    return statistics.median(progress.seconds) if progress.seconds else None


def spoken(metric):
    """The name of a metric for a reader."""
    return metric.replace("_", " ")


def evaluation_line(record, verbose):
    """An evaluation for a reader."""
    seconds, metric = record["seconds_per_iteration"], record["metric"]
    line = (
        f"epoch {record['epoch']:3d}  iteration {record['iteration']:5d}  "
        + (f"{seconds:.2f} s/iteration  " if seconds is not None else "")
        + f"develop: {spoken(metric)} {record[f'develop_{metric}']:.3f}, "
        f"loss {record['develop_loss']:.3f}"
    )
    if verbose:
        line += f" (prediction {record['develop_prediction_loss']:.3f})"
        line += f", learning rate {record['learning_rate']:.2g}"
        if "rate_hz_mean" in record:
            line += (
                f"\n    firing rates (Hz): min {record['rate_hz_min']:.0f}, "
                f"max {record['rate_hz_max']:.0f}, mean {record['rate_hz_mean']:.1f} "
                f"+- {record['rate_hz_std']:.1f} over neurons; their loss "
                f"{record['develop_rate_loss']:.2g}"
            )
    return line


def peak_memory_gb():
    """Largest resident memory of this process so far, in GB (1e9 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9  # Linux counts in kibibytes


def record_memory(folder, network, dataset, when):
    """Measure what an LSNN's first layer remembers; note it in a run folder's `memory.json`.

    Readouts are fitted to the training speakers and judged by those of the development set; the
    channels are the training set's first principal components.

    Args:
        dataset: TimitDataset.
        when: "before" training or "after" it; then the figure is drawn too.

    Returns:
        dict: `memory_capacity_before`, `memory_capacity_after`, as far as they are known, and
        `memory_capacity_floor`, that of the present features alone; {} where the splits are too
        small to measure anything, which is told.
    """
    layer = network.layers[0]
    w_in = layer.w_in.numpy()
    splits = dataset.train, dataset.develop
    train, develop = (
        [np.asarray(network.read(features[np.newaxis])[0])[0] for features in split.features]
        for split in splits
    )  # what the layer reads
    spoken_by = (
        [*train, *develop],
        [phns for split in splits for phns in split.phns],
        [entry["speaker"] for split in splits for entry in split.metadata],
        np.repeat([False, True], [len(split) for split in splits]),
    )
    n_channels = min(MEMORY_CHANNELS, dataset.n_static)
    projection = memory.principal_directions(train, dataset.n_static, n_channels)
    try:
        measured = memory.measure(
            *spoken_by,
            w_in,
            np.zeros((*w_in.shape[::2], w_in.shape[2])) if layer.w_rec is None else layer.w_rec,
            network.parameters,
            projection,
            dataset.n_phns,
        )
    except UserError as error:
        print(f"note: {error}")
        return {}
    path = os.path.join(folder, "memory.json")
    record = {}
    if when == "after" and os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
    record |= {when: measured, "floor": memory.measure_floor(*spoken_by, projection)}
    write_json(path, record)
    if when == "after":
        curves = {name: r["r2_channels"] for name, r in record.items()}
        floor = curves.pop("floor")
        memory_figures.plot_memory(
            os.path.join(folder, "memory.png"),
            {f"{name} training": curve for name, curve in curves.items()},
            floor=floor,
        )
    return {f"memory_capacity_{when}": r["memory_capacity_channels"] for when, r in record.items()}

"""What a run answers to a split of any data: the metrics of its task, and by whom and where it errs.

The metrics are those of training, computed in the same batches: of the data that a run was trained
on they are those of its `metrics.json`, bit by bit. Other data are normalised as the training's.

A group's error is the mean of its speakers' errors, with the 95 % interval of Student's t over them.
A speaker's error is the mean over the utterances; of a phone or a broad class (39 phones) it is the
share of the speaker's frames, or labels (CTC), of these phones that were not answered with theirs.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from scipy import stats

from speech.dataset import TimitDataset
from speech.facts import BROAD_CLASSES
from tasks.ctc import Ctc
from tasks.framewise import Framewise
from toolbox.command_line import UserError
from training.evaluation import make_evaluation

CONFIDENCE = 0.95
SEXES = {"f": "women", "m": "men"}
TABLES = ("sex", "region", "class", "phone", "speaker")


class Speaker(NamedTuple):
    """What was answered to a speaker."""

    sex: str | None
    region: str | None
    errors: list  # of the utterances
    confusion: np.ndarray  # [true, answered] as `_confusion`


def read_task(run, path):
    """The task of a run with the data of another folder.

    Raises:
        UserError: the folder is none, or holds other phones or features.
    """
    flags = run.flags
    quirks, is_reduced = flags["reference_quirks"], flags["reduced_phns"]
    dataset = TimitDataset(
        path,
        flags["preproc"],
        is_reduced and not (run.is_ctc and quirks),
        flags["target_delay_frames"],
        trained=(run.record["data_sha256"], run.scaling),
    )
    if run.is_ctc:
        penalty = run.metrics["test_blank_penalty"]  # that the run's development set chose
        task = Ctc(dataset, quirks, is_reduced, (penalty,))
    else:
        padding_counts = quirks and not run.network.is_spiking
        task = Framewise(dataset, quirks, padding_counts)
    if task.description()["phones"] != run.phones:
        raise UserError(
            f"{path}: its phones are not those of {run.folder}, or stand in another order: process "
            "its corpus with timit_processing.py"
        )
    is_log = [(x or {}).get("log_filter_banks") for x in (dataset.processing, run.processing)]
    if flags["preproc"] == "fbank" and is_log[0] != is_log[1]:
        raise UserError(
            f"{path}: its filter banks are {'' if is_log[0] else 'no '}logarithms, expected those of "
            f"{run.folder}: process its corpus {'with' if is_log[0] else 'without'} --reference_quirks"
        )
    if run.front_end:
        dataset.extend(run.front_end)
    return task


class _Recorder:
    """A task that remembers the sums of each utterance."""

    def __init__(self, task):
        self._task = task
        self.sums_of = {}  # by the utterance's name

    def __getattr__(self, name):
        return getattr(self._task, name)

    def sums(self, batch, answers):
        for i, name in enumerate(batch.names):
            one, answer = tf.nest.map_structure(lambda x: x[i : i + 1], (tuple(batch), answers))
            self.sums_of[name] = self._task.sums(type(batch)(*one), answer)
        return self._task.sums(batch, answers)


def evaluate(run, path, split):
    """Evaluate a run on a split of a dataset folder.

    Returns:
        dict of plain values: `run`, `dataset`, `split`, `is_own_data`, `metric`, `corpus_note`,
        <split>_<metric> of all metrics, `<split>_loss`, numbers of utterances and speakers, of an
        LSNN `rate_hz_*`; `speakers` and `by_<table>`, rows as `_row`; `confusion`, counted in `counted`, of
        `classes`.

    Raises:
        UserError: see `read_task`.
    """
    task = read_task(run, path)
    recorder = _Recorder(task.for_the_end())
    found = make_evaluation(run.network, recorder, run.flags["test_batch"])(split)
    part = getattr(task.dataset, split)
    has_regions = not (task.dataset.processing or {}).get("speakers_tsv", False)
    speakers = _speakers(task.metric, part, recorder.sums_of, has_regions)
    classes = [*task.dataset.reduced_phn_list, *(["nothing"] if run.is_ctc else [])]
    rates = {}
    if found.rates_hz is not None:
        rates = {
            f"rate_hz_{n}": float(getattr(np, n)(found.rates_hz)) for n in ("min", "max", "mean")
        }
    return {
        "run": run.folder,
        "dataset": path,
        "split": split,
        "is_own_data": task.checksum == run.record["data_sha256"],
        "corpus_note": task.note,
        "metric": task.metric,
        **{f"{split}_{name}": value for name, value in found.metrics.items()},
        f"{split}_loss": found.loss,
        **rates,
        "utterances": len(part),
        "speakers": _row([np.mean(s.errors) for s in speakers.values()], len(part)),
        **{f"by_{name}": rows for name, rows in _tables(speakers, classes).items()},
        "counted": "labels" if run.is_ctc else "frames",
        "classes": classes,
        "confusion": sum(s.confusion for s in speakers.values()).tolist(),
    }


def _confusion(sums):
    """[true, answered] frames, or labels of CTC with its last row and column for nothing."""
    if "confusion" in sums:
        return sums["confusion"]
    wrong = sums["confusions"]
    return wrong + np.diag(sums["label_counts"] - wrong.sum(axis=1) * (sums["label_counts"] > 0))


def _speakers(metric, split, sums_of, has_regions):
    """Name -> `Speaker`, in the order of the split."""
    speakers = {}
    for name, entry in zip(split.names, split.metadata):
        speaker = f"{entry['dr']}/{entry['speaker']}"
        sex = str(entry.get("gender") or (entry["speaker"] if has_regions else ""))[:1].lower()
        region = entry["dr"] if has_regions else None
        new = Speaker(SEXES.get(sex), region, [], 0)
        before = speakers.get(speaker, new)
        before.errors.append(float(sums_of[name][metric]))
        speakers[speaker] = before._replace(confusion=before.confusion + _confusion(sums_of[name]))
    return speakers


def _tables(speakers, classes):
    """Table -> group -> row, groups that nobody spoke left out."""

    def of_phones(groups):
        table = {}
        for name, phones in groups.items():
            places = [classes.index(phone) for phone in phones if phone in classes]
            said = np.array([s.confusion[places].sum() for s in speakers.values()])
            right = np.array([s.confusion[places, places].sum() for s in speakers.values()])
            if said.any():
                table[name] = _row(1 - right[said > 0] / said[said > 0], int(said.sum()))
        return table

    def of_speakers(groups):
        table = {}
        for name in sorted(set(groups) - {None}):
            members = [s.errors for s, group in zip(speakers.values(), groups) if group == name]
            table[name] = _row(list(map(np.mean, members)), sum(map(len, members)))
        return table

    return {
        "sex": of_speakers([s.sex for s in speakers.values()]),
        "region": of_speakers([s.region for s in speakers.values()]),
        "class": of_phones({name: phones.split() for name, phones in BROAD_CLASSES.items()}),
        "phone": of_phones({phone: [phone] for phone in classes if phone != "nothing"}),
        "speaker": of_speakers(list(speakers)),
    }


def _row(errors, n):
    """Mean and interval of speakers' errors; `n`: their utterances, frames or labels."""
    n_speakers = len(errors)
    half_width = None
    if n_speakers > 1:
        half_width = stats.t.ppf((1 + CONFIDENCE) / 2, n_speakers - 1) * stats.sem(errors)
    mean = float(np.mean(errors))
    return {
        "error": mean,
        "low": None if half_width is None else float(mean - half_width),
        "high": None if half_width is None else float(mean + half_width),
        "speakers": n_speakers,
        "n": n,
    }


def differences(results):
    """What runs differ by from the first of them, speaker by speaker: rows with `run`, `baseline`.

    Raises:
        UserError: runs of different metrics, or on data of different speakers.
    """
    first, *others = results
    rows = []
    for result in others:
        if result["metric"] != first["metric"]:
            raise UserError(
                f"{result['run']}: has {result['metric']}, {first['run']} has {first['metric']}: "
                "compare runs of one task"
            )
        if result["by_speaker"].keys() != first["by_speaker"].keys():
            raise UserError(
                f"{result['run']}: its data have other speakers than those of {first['run']}: name one "
                "data set for all with --dataset"
            )
        pairs = zip(result["by_speaker"].values(), first["by_speaker"].values())
        row = _row([other["error"] - own["error"] for other, own in pairs], result["utterances"])
        rows.append({"run": result["run"], "baseline": first["run"], **row})
    return rows


def report(result):
    """Lines for a reader."""
    split, metric = result["split"], result["metric"]
    data = "the run's own data" if result["is_own_data"] else "other data than the run's"
    yield f"{result['run']} on {split} of {result['dataset']} ({data})"
    if result["corpus_note"]:
        yield f"note: {result['corpus_note']}"
    for name, value in result.items():
        if name.startswith(f"{split}_") and isinstance(value, float):
            yield f"  {name.replace('_', ' ')}: {value:.4f}"
    if "rate_hz_mean" in result:
        rates = (f"{name} {result[f'rate_hz_{name}']:.1f}" for name in ("min", "mean", "max"))
        yield f"  firing rates (Hz): {', '.join(rates)}"
    yield f"  {metric.replace('_', ' ')} over speakers: {text(result['speakers'])}"
    for table in TABLES:
        if result[f"by_{table}"]:
            yield f"by {table}"
        for name, row in result[f"by_{table}"].items():
            yield f"  {name:<20}{text(row)}"


def text(row):
    """A row of a table."""
    interval = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['error']:.3f}{interval}, speakers {row['speakers']}, n {row['n']:,}"

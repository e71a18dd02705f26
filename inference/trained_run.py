"""A run folder as what it has learned: its network, and what it needs to hear other speech."""

import json
import os
from typing import NamedTuple

import models
from layers.kernels import with_arrays
from lmu.front_end import FrontEnd
from speech.dataset import Scaling
from toolbox.command_line import UserError
from training import checkpoints, engines, run_folder

METRICS_FILE = "metrics.json"
CTC_SCRIPT = "solve_timit_with_ctc_in_tensorflow"
SCRIPTS = ("solve_timit_with_framewise_lstm", "solve_timit_with_framewise_lsnn", CTC_SCRIPT)


class TrainedRun(NamedTuple):
    """A finished run on speech."""

    folder: str
    record: dict  # flags.json
    metrics: dict  # metrics.json
    network: models.Network  # with its best weights
    phones: list  # names of the classes; without CTC's blank
    scaling: Scaling  # of the features that it was trained on
    front_end: FrontEnd | None
    processing: dict  # processing.json; {} where the corpus had none

    @property
    def flags(self):
        return self.record["flags"]

    @property
    def is_ctc(self):
        return self.record["script"] == CTC_SCRIPT

    @property
    def class_names(self):
        """Names of the columns of the logits: one more than phones is a blank."""
        n_outputs = self.network.readout.w_out.shape[-1]
        return [*self.phones, "blank"][:n_outputs]


def open_run(folder, **changes):
    """The `TrainedRun` of a run folder.

    Args:
        changes: fields of the network's configuration that shall be others, such as `engine`.

    Raises:
        UserError: no run folder, one of another script or version, one whose run has not ended, or
            a damaged one.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: is no folder: expected the run folder of a training script")
    record = run_folder.read_record(folder)
    if record["script"] not in SCRIPTS:
        raise UserError(
            f"{folder}: is a run of {record['script']}.py, expected one on speech, of "
            f"{', '.join(f'{script}.py' for script in SCRIPTS)}"
        )
    if not os.path.exists(os.path.join(folder, METRICS_FILE)):
        raise UserError(
            f"{folder}: its run has not ended: continue it with {record['script']}.py "
            f"--resume={folder}"
        )
    content = _read(folder, run_folder.INFERENCE_FILE)
    if content is None or content.get("version") != run_folder.INFERENCE_VERSION:
        found = "none" if content is None else f"version {content.get('version')}"
        raise UserError(
            f"{folder}: was made by another version of this program ({run_folder.INFERENCE_FILE}: "
            f"found {found}, expected version {run_folder.INFERENCE_VERSION}): train again"
        )
    try:
        data = content["data"]
        front_end = data["front_end"]
        run = TrainedRun(
            folder,
            record,
            _read(folder, METRICS_FILE),
            models.from_description(content["network"], **{"engine": _engine(content), **changes}),
            data["phones"],
            Scaling(**with_arrays(data["scaling"])),
            front_end and FrontEnd.from_description(front_end),
            _read(folder, "processing.json") or {},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{os.path.join(folder, run_folder.INFERENCE_FILE)}: is damaged ({error!r}): train again"
        ) from None
    try:
        checkpoints.load_weights(folder, run.network)
    except UserError as error:
        raise UserError(str(error).removeprefix("--checkpoint: ")) from None
    return run


def _engine(content):
    """The run's engine, or the CPU's where it was one of a GPU that does not work here."""
    engine = content["network"]["config"]["engine"]
    if engine not in engines.SELF_CHECKS or not (why := engines.why_not(engine)):
        return engine
    on_cpu = {"cuda": "event", "cudnn": "fused"}[engine]
    print(f"engine: {on_cpu}, not the run's {engine} ({why})")
    return on_cpu


def _read(folder, name):
    """Content of a JSON file of a run folder, a dict; None where it is missing.

    Raises:
        UserError: it is no such file.
    """
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}): train again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no JSON object: train again")
    return content

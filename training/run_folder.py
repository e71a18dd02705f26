"""The folder of a run: what it depends on, who works there, and how it goes on."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys

import tensorflow as tf

from layers import threads
from toolbox import run_lock
from toolbox.command_line import Interrupted, UserError, one_line, parse_flags
from toolbox.durable_files import write_json
from training.flags import RESUME_FLAGS

PACKAGES = (
    "tensorflow",
    "keras",
    "numba",
    "numpy",
    "scipy",
    "scikit_learn",
    "python_speech_features",
    "soundfile",
    "nengo",
    "nengolib",
)

INFERENCE_FILE = "inference.json"
INFERENCE_VERSION = 1  # of its content


def make(parent, script, labels, record, held):
    """Create `<parent>/<script>/<time>_<labels>/`, lock it and save what the run depends on.

    Args:
        parent: value of `--results`.
        script: its name.
        labels: parts of the folder's name; empty ones are left out.
        record: content of `flags.json`.
        held: contextlib.ExitStack that gets the lock.

    Returns:
        The folder's path.
    """
    time_stamp = datetime.datetime.now().strftime("%Y_%m_%d__%H_%M_%S_%f")
    path = os.path.join(parent, script, "_".join(part for part in (time_stamp, *labels) if part))
    try:
        os.makedirs(path)
    except OSError as error:
        raise UserError(
            f"cannot create the run folder {path} ({error.strerror}): check --results, --comment "
            "and --run_id"
        ) from None
    held.enter_context(lock(path))  # before anything is there that could be resumed
    try:
        write_json(os.path.join(path, "flags.json"), record)
    except OSError as error:
        shutil.rmtree(path, ignore_errors=True)  # it could not be resumed
        raise UserError(
            f"{path}: cannot be written ({error.strerror}): make room, or choose other --results"
        ) from None
    print(f"run folder: {path}")
    return path


def lock(folder):
    """Context in which no other process works in a run folder."""
    return run_lock.exclusive(os.path.join(folder, ".lock"), folder)


def record_of(script, flag_values, seed, checksum, config, note=""):
    """Content of `flags.json` for a run that starts now.

    Args:
        checksum, note: a task's.
        config: models.NetworkConfig, with its engine.
    """
    settings = flag_values.flag_values_dict()
    return {
        "script": script,
        "flags": {name: value for name, value in settings.items() if name not in ("help", "h")},
        "seed": seed,
        "command": sys.argv,
        "started": datetime.datetime.now().isoformat(" ", "seconds"),
        "corpus_note": note,
        "engine_reason": config.engine_reason,
        **surroundings(checksum, config.engine),
    }


def surroundings(checksum=None, engine=None):
    """What a result depends on beside flags and seed, as plain values for JSON."""
    return {
        "versions": {package: importlib.metadata.version(package) for package in _installed()},
        "python": platform.python_version(),
        "machine": platform.platform(),
        "commit": _commit(),
        "threads": threads.thread_count(),
        "engine": engine,
        "data_sha256": checksum,
    }


def describe(folder, network, task):
    """Write what inference needs beside weights and flags: INFERENCE_FILE, and `processing.json`."""
    data = task.description()
    if processing := data.pop("processing", None):
        write_json(os.path.join(folder, "processing.json"), processing)
    content = {"version": INFERENCE_VERSION, "network": network.description(), "data": data}
    write_json(os.path.join(folder, INFERENCE_FILE), content)


def read_record(folder):
    """Content of a run folder's `flags.json`.

    Raises:
        UserError: it is missing or no such record.
    """
    path = os.path.join(folder, "flags.json")
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise UserError(f"{path}: is no file: expected a run folder")
    try:
        if os.path.getsize(path) > 2**20:
            raise UserError(f"{path}: too large for the flags of a run")
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}): expected a run folder"
        ) from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: is no JSON file: expected the flags of a run") from None
    types = {"script": str, "flags": dict, "seed": int, "versions": dict}
    if not (isinstance(record, dict) and all(type(record.get(n)) is t for n, t in types.items())):
        raise UserError(f"{path}: holds no {', '.join(types)}: expected the flags of a run")
    return record


def started(folder):
    """When a run was started, ISO time; None where its record does not say it (worker copies)."""
    path = os.path.join(folder, "flags.json")
    return read_record(folder).get("started") if os.path.exists(path) else None


def warn_of_differences(folder, record, now, names):
    """Print a warning for each of the named surroundings in which a run was made otherwise.

    Args:
        folder: its run folder.
        record: its `read_record`.
        now: `surroundings` of this process.
        names: keys of both. What the record lacks (it is older) differs in nothing.
    """
    for name in names:
        was, new = record.get(name), now[name]
        if was is None or was == new:
            continue
        if isinstance(was, dict) and isinstance(new, dict):
            packages = sorted(p for p in {*was, *new} if was.get(p) != new.get(p))
            what = ", ".join(f"{p} {new.get(p)} instead of {was.get(p)}" for p in packages)
        else:
            what = f"{name} {new} instead of {was}"
        if name == "data_sha256":
            what = f"other data ({what})"
        what = one_line(what)[:1000]  # the record may come from anywhere
        print(f"warning: not as when {folder} was made: {what}: results may differ")


def resumed_flags(flag_values, define_flags, script):
    """The flags of the run that `--resume` names, or these flags without it.

    Args:
        flag_values: parsed flags of the command line.
        define_flags: function that defines the script's flags.
        script: its name.

    Returns:
        (flag values, the arguments beside `--resume`).

    Raises:
        UserError: flags beside `--resume` that could change the run; no run folder of this script.
    """
    folder = flag_values.resume
    if not folder:
        return flag_values, []
    given = [name for name in flag_values if flag_values[name].present and name != "resume"]
    for name in given:
        if name not in RESUME_FLAGS:
            raise UserError(
                f"--{name} beside --resume: a run goes on with its own flags, only "
                f"{', '.join(RESUME_FLAGS)} may be given; for others start a new run, perhaps "
                f"from its weights with --checkpoint={folder}"
            )
    record = read_record(folder)
    if record["script"] != script:
        raise UserError(
            f"--resume={folder}: is a run of {record['script']}.py: resume it with that script"
        )
    values = {
        **record["flags"],
        **{name: record[name] for name in ("seed", "engine") if name in record},
        **{name: flag_values[name].value for name in given},
        "resume": folder,
    }
    arguments = [f"--{name}={value}" for name, value in values.items() if value is not None]
    beside = [f"--{name}={flag_values[name].value}" for name in given]
    try:
        return parse_flags(define_flags, [script, *arguments])[0], beside
    except UserError as error:
        raise UserError(f"{os.path.join(folder, 'flags.json')}: {error}") from None


def compare_with_source(checkpoint, checksum):
    """Warn if weights come from a run on other data or with other package versions."""
    folder = checkpoint if os.path.isdir(checkpoint) else os.path.dirname(checkpoint)
    if os.path.exists(os.path.join(folder, "flags.json")):
        try:
            record = read_record(folder)
        except UserError as error:
            print(f"note: {error}")
            return
        warn_of_differences(folder, record, surroundings(checksum), ("data_sha256", "versions"))


def note_resumption(folder, checksum, config):
    """Warn of what has changed since the run was started, and note it in `flags.json`.

    Another engine is that of the run from now on.
    """
    record, now = read_record(folder), surroundings(checksum, config.engine)
    warn_of_differences(folder, record, now, now)
    past = record.get("resumed", [])
    changed = {name: value for name, value in now.items() if value != record.get(name)}
    time_stamp = datetime.datetime.now().isoformat(" ", "seconds")
    record["resumed"] = [*(past if isinstance(past, list) else []), {"time": time_stamp, **changed}]
    if "engine" in changed:
        record |= {"engine": config.engine, "engine_reason": config.engine_reason}
    write_json(os.path.join(folder, "flags.json"), record)


@contextlib.contextmanager
def told_how_to_continue(folder, beside=()):
    """Add the command that continues a run to an interruption or an error of writing.

    Args:
        folder: the run's.
        beside: arguments that were given beside `--resume`.

    Raises:
        Interrupted, UserError, MemoryError: in place of what came.
    """
    command = shlex.join(["python3", sys.argv[0], f"--resume={folder}", *beside])
    try:
        yield
    except Interrupted as interruption:
        raise Interrupted(interruption.signal_number, f"continue with: {command}") from None
    except tf.errors.ResourceExhaustedError as error:
        raise MemoryError(one_line(error.message)[:200]) from None
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        raise UserError(
            "another of the processes that TF_CONFIG names has ended "
            f"({type(error).__name__}): stop all of them and start them again, with --resume={folder}"
        ) from None
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}); what was written before is "
            f"intact: make room, then continue with: {command}"
        ) from None


def _installed():
    """Those of `PACKAGES` that are installed under their name (TensorFlow has several)."""
    names = {
        distribution.metadata["Name"].replace("-", "_").lower()
        for distribution in importlib.metadata.distributions()
    }
    wanted = (*PACKAGES, "tensorflow_cpu")
    return [name for name in wanted if name in names]


def _commit():
    """Commit of the code that runs, `+changes` where files differ from it; None without git."""
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+changes"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None

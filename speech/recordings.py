"""Recordings: what the files of an utterance hold, its features and labels, made in parallel.

Each file is read once. Everything is checked (`speech.checks`) before anything is computed.
"""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from multiprocessing import resource_tracker
from typing import NamedTuple

import numpy as np

from speech.audio import SUFFIXES, read_audio
from speech.facts import SAMPLE_RATE_HZ, SPLITS
from speech.features import n_frames_of, read_htk, speech_features
from speech.files import BadFileError, Problem
from speech.labels import (
    PHONE_INDEX,
    REDUCED_INDICES,
    frame_labels,
    label_step_samples,
    read_phones,
    read_prompt,
    read_words,
)
from toolbox import command_line
from toolbox.command_line import UserError

UTTERANCES_PER_PROCESS = 32  # fewer are done before another process has started


@contextlib.contextmanager
def workers(n_processes, n_utterances):
    """Give a `map` that works in several processes, or in this one where that is as fast.

    Raises:
        UserError: one of the processes was killed.
    """
    n_processes = min(n_processes, -(-n_utterances // UTTERANCES_PER_PROCESS))
    if n_processes == 1:
        yield map
        return
    executor = concurrent.futures.ProcessPoolExecutor(
        n_processes, multiprocessing.get_context("spawn"), _end_with_parent
    )

    def parallel_map(work, items):
        with _surroundings_of_workers():  # the processes start here
            return executor.map(work, items, chunksize=8)

    try:
        yield parallel_map
    except (concurrent.futures.BrokenExecutor, MemoryError):
        raise UserError(
            f"one of {n_processes} processes was killed or found no memory: give fewer, "
            f"--n_processes={n_processes // 2}, or make memory free"
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


def _end_with_parent():
    """In a worker process: exit when the parent is gone, killed perhaps, instead of waiting on."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


@contextlib.contextmanager
def _surroundings_of_workers():
    """What processes started meanwhile inherit: deaf to Ctrl-C, and one BLAS thread each.

    The parent ends them after Ctrl-C, which waits for the end of the block. There is a process for
    every core already, and on matrices as small as these a second thread only waits: it cost four
    times the CPU time.
    """
    resource_tracker.ensure_running()  # when it starts it lets signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    n_threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if n_threads is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = n_threads


class Content(NamedTuple):
    """What the files of an utterance hold."""

    audio: np.ndarray  # int16 [samples]
    phone_spans: list  # (start_sample, end_sample, phone) each
    words: list | None  # (start_sample, end_sample, word) each; None if it cannot be read
    prompt: tuple  # (start_sample, end_sample, text)
    htk: np.ndarray | None  # float32 [frames, features]


def read_utterance(utterance, with_htk):
    """Read and check all files of an utterance.

    Returns:
        (`Content`, problems, notes); the content is None if there are problems. Problems and notes
        are lists of `Problem`.
    """
    problems, notes = [], []

    def read(function, suffix, *arguments):
        try:
            return function(f"{utterance.stem}{suffix}", *arguments)
        except BadFileError as error:
            problems.extend(error.problems)
            return None, []

    if not utterance.audio_path:
        text = f"has no audio beside it ({', '.join(SUFFIXES)}): copy the corpus again"
        return None, [Problem("phones without audio", f"{utterance.stem}.phn", text)], []
    audio, found = read(read_audio, utterance.audio_path[len(utterance.stem) :])
    notes += found
    n_samples = None if audio is None else len(audio)
    if os.path.lexists(f"{utterance.stem}.phn"):
        phone_spans, found = read(read_phones, ".phn", n_samples)
        notes += found
    else:
        text = f"has no {os.path.basename(utterance.stem)}.phn beside it: copy the corpus again"
        problems.append(Problem("audio without phones", utterance.audio_path, text))
    words, found = read_words(f"{utterance.stem}.wrd")
    prompt, more_found = read_prompt(f"{utterance.stem}.txt", n_samples)
    notes += found + more_found
    htk = None
    if with_htk and n_samples:
        htk = read(lambda path: (read_htk(path, n_frames_of(n_samples)), []), ".htk")[0]
    if problems:
        return None, problems, notes
    return Content(audio, phone_spans, words, prompt, htk), [], notes


def make_dataset(parallel_map, contents, reference_quirks):
    """Make features and labels, with a progress bar.

    Args:
        parallel_map: see `workers`.
        contents: `Utterance` -> `Content`, in order.
        reference_quirks: whether to do as the e-prop authors' code does.

    Returns:
        dict split -> list of what `make_recording` returns, in order.
    """
    work = functools.partial(float32_features, log_filter_banks=not reference_quirks)
    features = parallel_map(work, (content.audio for content in contents.values()))
    features = command_line.progress_bar(
        features, desc="features", total=len(contents), unit="utterance"
    )
    step_samples = label_step_samples(reference_quirks)
    dataset = {split: [] for split in SPLITS}
    for pair, (utterance, content) in zip(features, contents.items()):  # ends the bar
        dataset[utterance.split].append(make_recording(utterance, content, pair, step_samples))
    return dataset


def float32_features(audio, log_filter_banks):
    """The float32 (mfccs, filter_banks) of `speech_features`."""
    return [f.astype(np.float32) for f in speech_features(audio, log_filter_banks)]


def make_recording(utterance, content, features, step_samples):
    """What an utterance has in the pickles.

    Returns:
        dict of the entries, features not yet normalised; `metadata` is a dict of dr, speaker,
        utterance, text (what is said), sample_start, sample_end (of the text), duration (s),
        num_windows (frames), dataset_source, dataset_target and, from `speakers.tsv`, gender;
        `words` is not an array yet but the (start_sample, end_sample, word) of each word, None if
        they cannot be read. And `phone_spans`: the same of each phone.
    """
    mfccs, filter_banks = features
    start_sample, end_sample, text = content.prompt
    phonems = frame_labels(content.phone_spans, PHONE_INDEX, len(mfccs), step_samples)
    recording = {
        "metadata": {
            "dr": utterance.region,
            "speaker": utterance.speaker,
            "utterance": utterance.name,
            "text": text,
            "sample_start": start_sample,
            "sample_end": end_sample,
            "duration": len(content.audio) / SAMPLE_RATE_HZ,
            "num_windows": len(mfccs),
            "dataset_source": utterance.source,
            "dataset_target": utterance.split,
        }
        | ({"gender": utterance.gender} if utterance.gender else {}),
        "wav": content.audio,
        "mfccs": mfccs,
        "filter_banks": filter_banks,
        "phonems": phonems,
        "reduced_phonems": REDUCED_INDICES[phonems],
        "words": content.words,
        "phone_spans": content.phone_spans,
    }
    return recording | ({} if content.htk is None else {"htk": content.htk})


def label_words(dataset, step_samples):
    """Replace the word spans of all recordings, where there are, by frame labels, in place.

    Returns:
        list of all words in the order in which they first occur, after None for no word.
    """
    indices = {None: 0}
    for split in SPLITS:
        for recording in dataset[split]:
            if recording["words"] is None:
                continue
            for _, _, word in recording["words"]:
                indices.setdefault(word, len(indices))
            recording["words"] = frame_labels(
                recording["words"], indices, len(recording["phonems"]), step_samples
            )
    return list(indices)

"""From a sound file to the phones in it."""

import io
import math
import time
from typing import NamedTuple

import numpy as np
import soundfile
from scipy.signal import resample_poly
from scipy.special import softmax

from inference.streaming import Features, Listener, obstacle
from speech.audio import read_audio
from speech.facts import FRAME_HOP_SAMPLES, FRAME_LENGTH_SAMPLES, SAMPLE_RATE_HZ
from speech.files import bad_file, read_bytes
from toolbox.command_line import UserError

FULL_SCALE = 2**15  # of int16
SPHERE, OUR_KINDS = b"NIST_1A", (b"RIFF", b"RF64", b"fLaC")


class Sound(NamedTuple):
    """16-kHz, mono, 16-bit sound."""

    samples: np.ndarray  # int16
    rate_hz: int  # that the file had
    notes: list  # what was done to it, for a reader

    @property
    def duration_s(self):
        return len(self.samples) / SAMPLE_RATE_HZ


class Heard(NamedTuple):
    """What a network answers to a sound."""

    probabilities: np.ndarray  # [frames, classes]
    spikes: np.ndarray | None  # [frames * n_repeat, neurons] of an LSNN's first layer
    latencies_s: np.ndarray  # [frames] from the frame's end to its answer, if sound comes in pieces
    busy_s: float  # of computing


class Segment(NamedTuple):
    """A phone that was heard."""

    start_s: float
    end_s: float
    phone: str
    probability: float  # mean over the frames that answer with it


def read_sound(path):
    """Read any sound file that `soundfile` knows, and SPHERE.

    Several channels are averaged, another rate is brought to 16 kHz (`scipy.signal.resample_poly`).

    Raises:
        BadFileError: no sound, a damaged file, or less than one frame.
    """
    content = read_bytes(path)
    try:
        info = soundfile.info(io.BytesIO(content))
    except soundfile.SoundFileError:
        info = None
    form = info and (info.samplerate, info.channels, info.subtype)
    is_ours = content[:4] in OUR_KINDS and form == (SAMPLE_RATE_HZ, 1, "PCM_16")
    if is_ours or info is None or content.startswith(SPHERE):
        samples, notes = read_audio(path)  # it knows what can be wrong with a file
        return Sound(samples, SAMPLE_RATE_HZ, [note.text for note in notes])
    try:
        samples, rate_hz = soundfile.read(io.BytesIO(content), always_2d=True)
    except soundfile.SoundFileError as error:
        raise bad_file("damaged audio", path, f"cannot be read ({error}), expected sound") from None
    notes = [f"{info.channels} channels averaged"] if info.channels > 1 else []
    samples = samples.mean(axis=1)
    if rate_hz != SAMPLE_RATE_HZ:
        notes.append(f"{rate_hz} Hz brought to {SAMPLE_RATE_HZ}")
        common = math.gcd(rate_hz, SAMPLE_RATE_HZ)
        samples = resample_poly(samples, SAMPLE_RATE_HZ // common, rate_hz // common)
    if len(samples) < FRAME_LENGTH_SAMPLES:
        text = f"{len(samples)} samples of 16 kHz, expected one frame of {FRAME_LENGTH_SAMPLES}"
        raise bad_file("too short audio", path, f"{text} or more")
    samples = np.clip(np.round(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
    return Sound(samples.astype(np.int16), rate_hz, notes)


def check_can_hear(run, in_pieces=False):
    """Raise UserError where a run cannot transcribe, or not from pieces of sound."""
    if run.flags["preproc"] == "htk":
        raise UserError(
            f"{run.folder}: was trained on HTK's feature files, which nothing here makes from sound: "
            "train on --preproc=mfccs or fbank"
        )
    if run.scaling.static_mean is None:
        raise UserError(
            f"{run.folder}: was trained on a folder without processing.json, so that its features "
            "are not known: process the corpus with timit_processing.py and train again"
        )
    if in_pieces and (why := obstacle(run.network)):
        raise UserError(f"--stream: {run.folder}: {why}: leave out --stream")


def hear(run, samples, chunk_samples=None):
    """What a run's network answers to 16-kHz sound.

    Args:
        run: TrainedRun.
        samples: int16.
        chunk_samples: feed the sound in pieces of so many; None: at once. The answer is the same.

    Returns:
        `Heard`.
    """
    if obstacle(run.network):
        return _hear_whole(run, samples)
    listener, heard, latencies, busy_s = Listener(run), [], [], 0.0
    n_chunk = chunk_samples or len(samples)
    pieces = [samples[start : start + n_chunk] for start in range(0, len(samples), n_chunk)]
    n_frames = n_samples = 0
    for k, piece in enumerate([*pieces, samples[:0]]):
        start_s = time.perf_counter()
        heard.append(listener.feed(piece, is_end=k == len(pieces)))
        seconds = time.perf_counter() - start_s
        busy_s += seconds
        n_samples += len(piece)
        for _ in heard[-1]:
            n_frames += 1
            latencies.append((n_samples - n_frames * FRAME_HOP_SAMPLES) / SAMPLE_RATE_HZ + seconds)
    spikes = np.concatenate(listener.spikes[:n_frames]) if run.network.is_spiking else None
    return Heard(np.concatenate(heard), spikes, np.array(latencies), busy_s)


def _hear_whole(run, samples):
    """As `hear`, by the network as it is trained; there are no latencies."""
    start_s, delay = time.perf_counter(), run.flags["target_delay_frames"]
    features = Features(run).feed(samples, is_end=True)
    n_frames = len(features)
    features = np.concatenate([features, np.repeat(features[-1:], delay, axis=0)])
    if run.front_end:
        features = run.front_end(features)
    batch = features[np.newaxis], np.array([len(features)], np.int32)
    options = {"with_spikes": True} if run.network.is_spiking else {}
    output = run.network(*batch, **options)
    probabilities = softmax(output.logits[0].numpy().astype(float), axis=1)[delay:]
    spikes = None
    if run.network.is_spiking:
        spikes = output.spikes[0][0].numpy()[: n_frames * run.network.parameters.n_repeat]
    return Heard(probabilities, spikes, np.array([]), time.perf_counter() - start_s)


def segments(run, probabilities, duration_s):
    """The phones of an answer [frames, classes], list of `Segment`.

    A phone begins with its first frame and ends where the next one begins, the last with the sound.
    """
    answers = probabilities.argmax(axis=1)
    starts = np.flatnonzero(np.append(True, answers[1:] != answers[:-1]))
    stops = [*starts[1:], len(answers)]
    blank = len(run.class_names) - 1 if run.is_ctc else None
    runs = [(a, b, answers[a]) for a, b in zip(starts, stops) if answers[a] != blank]
    edges_s = [a * FRAME_HOP_SAMPLES / SAMPLE_RATE_HZ for a, _, _ in runs] + [duration_s]
    return [
        Segment(start_s, end_s, run.class_names[k], float(probabilities[a:b, k].mean()))
        for start_s, end_s, (a, b, k) in zip(edges_s, edges_s[1:], runs)
    ]

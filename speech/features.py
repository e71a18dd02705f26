"""Features of speech: MFCCs and mel filter banks, HTK's files, normalisation.

Frames of 25 ms start every 10 ms (400 and 160 samples), the last one padded with zeros:
frames = 1 + ceil((samples - 400) / 160).
"""

import struct

import numpy as np
import python_speech_features

from speech.facts import FRAME_HOP_SAMPLES, FRAME_LENGTH_SAMPLES, SAMPLE_RATE_HZ, SPLITS
from speech.files import bad_file, read_bytes

FEATURES = ("mfccs", "filter_banks", "htk")
N_MEL_FILTERS = 40


def n_frames_of(n_samples):
    """Frames of so many samples, of at least one frame's."""
    return 1 + -(-(n_samples - FRAME_LENGTH_SAMPLES) // FRAME_HOP_SAMPLES)


def speech_features(audio, log_filter_banks):
    """MFCCs and mel filter banks of an utterance, not normalised.

    Args:
        audio: int16 [samples].
        log_filter_banks: whether filter banks and energy are logarithms.

    Returns:
        (mfccs, filter_banks): float64 [frames, 13] and [frames, 41]. The MFCCs come from 26
        filters of their own; zero energies have become the smallest difference from 1.
    """
    frames = {
        "samplerate": SAMPLE_RATE_HZ,
        "winlen": FRAME_LENGTH_SAMPLES / SAMPLE_RATE_HZ,
        "winstep": FRAME_HOP_SAMPLES / SAMPLE_RATE_HZ,
    }
    samples = audio.astype(np.float64)
    mfccs = python_speech_features.mfcc(samples, **frames)
    filters, energy = python_speech_features.fbank(samples, nfilt=N_MEL_FILTERS, **frames)
    filter_banks = np.column_stack([filters, energy])
    return mfccs, np.log(filter_banks) if log_filter_banks else filter_banks


def read_htk(path, n_frames):
    """Read an HTK parameter file of float32 features.

    HTK makes a frame only where the audio fills its window, so it has one frame less than the
    other features unless the last one ends with the audio: that frame is then repeated.

    Returns:
        float32 [n_frames, features].

    Raises:
        BadFileError: no such file, or one of another number of frames.
    """
    content = read_bytes(path)
    n_stored, period_100ns, n_frame_bytes, kind = struct.unpack(
        ">IIHH", content[:12].ljust(12, b"\0")
    )
    if kind & 0o2000:
        raise bad_file("HTK files", path, "compressed: write it with HTK's SAVECOMPRESSED = F")
    surplus = len(content) - 12 - n_stored * n_frame_bytes
    if surplus not in (0, 2) or n_frame_bytes == 0 or n_frame_bytes % 4:  # 2: HTK's checksum
        raise bad_file(
            "HTK files",
            path,
            f"truncated or no HTK features, {len(content)} bytes where the header "
            f"announces 12 + {n_stored} frames of {n_frame_bytes} bytes: make it again",
        )
    if n_stored == 0 or n_stored not in (n_frames - 1, n_frames):
        raise bad_file(
            "HTK files",
            path,
            f"{n_stored} frames, one every {period_100ns / 1e4:g} ms, expected "
            f"{n_frames - 1} or {n_frames}, one every 10 ms, as the audio has: make it again",
        )
    features = np.frombuffer(content, ">f4", n_stored * n_frame_bytes // 4, offset=12)
    if not np.isfinite(features).all():
        raise bad_file("HTK files", path, "holds infinite values or none: make it again")
    features = features.reshape(n_stored, -1).astype(np.float32)
    return np.pad(features, ((0, n_frames - n_stored), (0, 0)), mode="edge")


def normalise(dataset):
    """Normalise all features in place by mean and standard deviation of the training set.

    Args:
        dataset: split -> list of recordings, see `speech.recordings.make_recording`.

    Returns:
        kind of features -> {"mean": [features], "scale": [features]}, lists of float.
    """
    used = {}
    for kind in FEATURES:
        if kind not in dataset["train"][0]:
            continue
        mean, scale = mean_and_scale([recording[kind] for recording in dataset["train"]])
        used[kind] = {"mean": mean.tolist(), "scale": scale.tolist()}
        for split in SPLITS:
            for recording in dataset[split]:
                recording[kind] = ((recording[kind] - mean) / scale).astype(np.float32)
    return used


def mean_and_scale(features):
    """Mean and standard deviation of each dimension over the frames of several utterances.

    Args:
        features: list of float32 [frames, features].

    Returns:
        (mean, scale): float64 [features]; the scale of a dimension that does not vary is 1.
    """
    n_frames = sum(map(len, features))
    mean = sum(f.sum(axis=0, dtype=np.float64) for f in features) / n_frames
    deviation = np.sqrt(sum(np.square(f - mean).sum(axis=0) for f in features) / n_frames)
    # Below the resolution of float32 there is no deviation but what the sums have lost.
    varies = deviation > np.finfo(np.float32).eps * np.abs(mean)
    return mean, np.where(varies, deviation, 1.0)

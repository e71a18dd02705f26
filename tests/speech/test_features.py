"""MFCCs, filter banks, HTK's files and normalisation."""

import numpy as np
import pytest
from corpora import N_FRAMES, htk, noise, recorded_audio

from speech import features as features_module
from speech.files import BadFileError


def test_features_equal_the_recorded_ones(recorded, timit_sample):
    for index, _, audio in recorded_audio(recorded, timit_sample):
        want = {key: recorded[f"utt{index}/{key}"] for key in ("mfcc", "fbank_energy")}
        assert len(audio) == recorded[f"utt{index}/num_samples"]
        mfccs, energies = features_module.speech_features(audio, log_filter_banks=False)
        _, log_energies = features_module.speech_features(audio, log_filter_banks=True)
        np.testing.assert_allclose(mfccs, want["mfcc"], rtol=0, atol=1e-5)
        # Energies reach 1e9: the recording's float32 resolves 6e-8 of each.
        np.testing.assert_allclose(energies, want["fbank_energy"], rtol=1e-6)
        np.testing.assert_allclose(log_energies, np.log(want["fbank_energy"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind, key", [("mfccs", "mfcc"), ("filter_banks", "fbank_energy")])
def test_normalised_features_equal_the_recorded_ones(recorded, timit_sample, kind, key):
    dataset = {"train": [], "develop": [], "test": []}
    for index, _, audio in recorded_audio(recorded, timit_sample):
        split = next(s for s in dataset if index in recorded[f"split_{s}"])
        features = features_module.speech_features(audio, log_filter_banks=False)
        recording = dict(zip(("mfccs", "filter_banks"), features), index=index)
        recording[kind] = recording[kind].astype(np.float32)  # as they are stored
        dataset[split].append(recording)
    features_module.normalise(dataset)
    recordings = sum(dataset.values(), [])
    assert len(recordings) == 6
    for recording in recordings:
        want = recorded[f"utt{recording['index']}/{key.split('_')[0]}_norm1"]
        assert recording[kind].dtype == np.float32
        np.testing.assert_allclose(recording[kind], want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_samples", [400, 401, 560, 561, 720, 16000])
def test_number_of_frames(n_samples):
    mfccs, filter_banks = features_module.speech_features(noise(0, n_samples), True)
    n_frames = 1 + -(-(n_samples - 400) // 160)
    assert features_module.n_frames_of(n_samples) == n_frames
    assert mfccs.shape == (n_frames, 13) and filter_banks.shape == (n_frames, 41)


def test_silence_has_finite_features():
    for log_filter_banks in (True, False):
        for features in features_module.speech_features(np.zeros(4000, np.int16), log_filter_banks):
            assert np.isfinite(features).all()


def test_a_dimension_that_does_not_vary_becomes_0():
    rng = np.random.default_rng(0)
    features = [rng.normal(7, 2, (50, 3)).astype(np.float32) for _ in range(4)]
    for f in features:
        f[:, 1] = -36.04365  # the logarithm of no energy
    dataset = {"train": [{"mfccs": f} for f in features], "develop": [], "test": []}
    mean, scale = features_module.mean_and_scale(features)
    frames = np.concatenate(features).astype(np.float64)
    np.testing.assert_allclose(mean, frames.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scale[[0, 2]], frames.std(axis=0)[[0, 2]], rtol=1e-12)
    assert scale[1] == 1
    features_module.normalise(dataset)
    for recording in dataset["train"]:
        np.testing.assert_allclose(recording["mfccs"][:, 1], 0, atol=1e-6)


@pytest.mark.parametrize("checksum", [b"", b"\x12\x34"])
@pytest.mark.parametrize("n_missing", [0, 1])
def test_htk_file_of_one_frame_less_is_padded(tmp_path, n_missing, checksum):
    frames = np.random.default_rng(0).normal(size=(8 - n_missing, 3)).astype(np.float32)
    path = tmp_path / "sx0.htk"
    path.write_bytes(htk(frames) + checksum)
    features = features_module.read_htk(path, 8)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features[: len(frames)], frames)
    np.testing.assert_array_equal(features[7], frames[-1])


FRAMES = np.zeros((N_FRAMES, 5))
NOT_FINITE = np.where(np.arange(5) == 2, np.nan, FRAMES)
BAD_HTK = {  # name: (content, words of the message)
    "too short": (htk(FRAMES[:-2]), ("17 frames", "18 or 19")),
    "too long": (htk(np.zeros((N_FRAMES + 1, 5))), ("20 frames", "18 or 19")),
    "empty": (htk(FRAMES)[:12], ("truncated",)),
    "truncated": (htk(FRAMES)[:-4], ("truncated",)),
    "header": (htk(FRAMES)[:11], ("truncated",)),
    "of shorts": (htk(FRAMES, dtype=">i2"), ("no HTK features",)),
    "compressed": (htk(FRAMES, kind=0o2011), ("SAVECOMPRESSED",)),
    "not finite": (htk(NOT_FINITE), ("infinite",)),
}


@pytest.mark.parametrize("name", BAD_HTK)
def test_bad_htk_files(tmp_path, name):
    content, words = BAD_HTK[name]
    (tmp_path / "sx0.htk").write_bytes(content)
    with pytest.raises(BadFileError) as error:
        features_module.read_htk(str(tmp_path / "sx0.htk"), N_FRAMES)
    assert all(word in str(error.value) for word in ("sx0.htk", *words))

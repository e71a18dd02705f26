"""transcribe.py: sound of every form, segments, the files that it writes."""

import pathlib

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

import transcribe
from helpers import OPEN_SPEECH, assert_user_error, open_utterances, run_here
from inference import transcription
from inference.trained_run import open_run
from speech.files import BadFileError
from speech.labels import PHONE_INDEX, frame_labels, read_phones
from toolbox.command_line import UserError

STEM = f"{OPEN_SPEECH}/{open_utterances(n_train=0, n_develop=0)[0]}"
SAMPLES = soundfile.read(f"{STEM}.flac", dtype="int16")[0]


def written(folder, form):
    """The utterance in another form; returns the file's path."""
    path = str(folder / {"sphere": "a.sph", "text": "a.raw"}.get(form, f"a.{form.split('-')[0]}"))
    if form == "sphere":
        head = f"NIST_1A\n   1024\nsample_count -i {len(SAMPLES)}\nsample_rate -i 16000\n"
        head += "channel_count -i 1\nsample_n_bytes -i 2\nsample_byte_format -s2 01\nend_head\n"
        with open(path, "wb") as file:
            file.write(head.encode().ljust(1024) + SAMPLES.astype("<i2").tobytes())
    elif form == "text":
        with open(path, "w") as file:
            file.write("she had your dark suit\n")
    elif form == "wav-44100":
        stereo = resample_poly(SAMPLES / 2**15, 441, 160)[:, np.newaxis] * [1.0, 0.5]
        soundfile.write(path, stereo, 44100, subtype="FLOAT")
    else:
        soundfile.write(path, SAMPLES, 16000)
    return path


@pytest.mark.parametrize("form", ["wav", "flac", "sphere", "aiff"])
def test_sound_of_16_khz_is_read_as_it_is(form, tmp_path):
    sound = transcription.read_sound(written(tmp_path, form))
    np.testing.assert_array_equal(sound.samples, SAMPLES)
    assert sound.duration_s == len(SAMPLES) / 16000 and not sound.notes


def test_other_rates_and_channels_are_brought_to_it_in_words(tmp_path):
    sound = transcription.read_sound(written(tmp_path, "wav-44100"))
    assert sound.notes == ["2 channels averaged", "44100 Hz brought to 16000"]
    assert abs(len(sound.samples) - len(SAMPLES)) <= 1
    n = min(len(sound.samples), len(SAMPLES))
    difference = sound.samples[:n] - 0.75 * SAMPLES[:n]
    assert np.std(difference) < 0.05 * np.std(SAMPLES)


def test_what_is_no_sound_is_said_in_one_line(trained_run, tmp_path):
    short = str(tmp_path / "short.wav")
    soundfile.write(short, np.zeros(500), 44100)
    with pytest.raises(BadFileError, match="182 samples of 16 kHz, expected one frame of 400"):
        transcription.read_sound(short)
    cut = tmp_path / "cut.wav"
    cut.write_bytes(pathlib.Path(written(tmp_path, "wav")).read_bytes()[:5000])
    lsnn, lstm = trained_run("lsnn"), trained_run("lstm")
    sound = f"{STEM}.flac"
    for words, arguments in (
        (["is a text", "she had your dark suit"], [lsnn, written(tmp_path, "text")]),
        (["truncated"], [lsnn, cut]),
        (["none.wav: cannot be read"], [lsnn, tmp_path / "none.wav"]),
        (["expected a run folder and sound files"], [lsnn]),
        (["is no folder"], [tmp_path / "none", sound]),
        (["--stream", "backward", "leave out --stream"], [lstm, sound, "--stream"]),
        (["--chunk_ms=20 without --stream"], [lsnn, sound, "--chunk_ms=20"]),
        (["several sounds"], [lsnn, sound, sound, "--textgrid", f"--output={tmp_path}"]),
        (["replace the labels"], [lsnn, sound, "--phn", f"--output={STEM.rpartition('/')[0]}"]),
        (["cannot be made"], [lsnn, sound, "--plot", f"--output={cut}/x"]),
    ):
        assert_user_error(run_here(transcribe, *arguments), *words)
    run = open_run(str(lsnn))
    with pytest.raises(UserError, match="HTK"):
        flags = {**run.flags, "preproc": "htk"}
        transcription.check_can_hear(run._replace(record={**run.record, "flags": flags}))
    with pytest.raises(UserError, match="without processing.json"):
        transcription.check_can_hear(run._replace(scaling=run.scaling._replace(static_mean=None)))


def test_segments_are_runs_of_answers(trained_run):
    run = open_run(str(trained_run("lsnn")))
    probabilities = np.full((6, 39), 0.01)
    for frame, (phone, value) in enumerate(
        [(0, 0.9), (0, 0.7), (3, 0.5), (3, 0.6), (3, 0.7), (0, 1)]
    ):
        probabilities[frame, phone] = value
    found = transcription.segments(run, probabilities, 0.085)
    names = run.class_names[0], run.class_names[3]
    expected = [(0, 0.02, names[0], 0.8), (0.02, 0.05, names[1], 0.6), (0.05, 0.085, names[0], 1)]
    for segment, (start_s, end_s, phone, probability) in zip(found, expected, strict=True):
        assert segment.phone == phone
        assert segment[:2] == pytest.approx((start_s, end_s))
        assert segment.probability == pytest.approx(probability)


def test_phones_of_ctc_last_until_the_next_one(trained_run):
    run = open_run(str(trained_run("ctc")))
    answers = [39, 2, 2, 39, 39, 2, 5, 39]  # the blank is the last class
    found = transcription.segments(run, np.eye(40)[answers], 0.095)
    rows = [(s.start_s, s.end_s, run.class_names.index(s.phone)) for s in found]
    expected = [(0.01, 0.05, 2), (0.05, 0.06, 2), (0.06, 0.095, 5)]
    np.testing.assert_allclose(rows, expected)
    assert transcription.segments(run, np.eye(40)[[39, 39]], 0.03) == []


def test_what_is_printed_and_written(trained_run, tmp_path):
    """Rows, a `.phn` that can be read again, a TextGrid, and a figure beside true labels."""
    options = "--stream", "--chunk_ms=50", "--phn", "--textgrid", "--plot", f"--output={tmp_path}/o"
    process = run_here(transcribe, trained_run("lsnn"), f"{STEM}.flac", *options)
    assert (process.returncode, process.stderr) == (0, "")
    *lines, last = process.stdout.splitlines()
    assert last.startswith("# chunks of 50 ms: answers come 0.") and "real-time factor" in last
    rows = [line.split("\t") for line in lines]
    assert rows[0][0] == "0.000" and float(rows[-1][1]) == pytest.approx(
        len(SAMPLES) / 16000, abs=1e-3
    )
    assert all(before[1] == after[0] for before, after in zip(rows, rows[1:]))
    assert all(0 < float(row[3]) <= 1 for row in rows)
    whole = run_here(transcribe, trained_run("lsnn"), f"{STEM}.flac")
    assert whole.stdout.splitlines() == lines

    name = STEM.rpartition("/")[2]
    spans, _ = read_phones(str(tmp_path / "o" / f"{name}.phn"), len(SAMPLES))
    assert [p for _, _, p in spans] == ["h#" if row[2] == "sil" else row[2] for row in rows]
    labels = frame_labels(spans, PHONE_INDEX, len(SAMPLES) // 160, 160)
    assert len(np.flatnonzero(np.diff(labels))) == len(rows) - 1
    text = (tmp_path / "o" / f"{name}.TextGrid").read_text()
    assert text.startswith('File type = "ooTextFile"\nObject class = "TextGrid"\n')
    assert f"intervals: size = {len(rows)}\n" in text
    assert text.count('text = "') == len(rows) and f'text = "{rows[0][2]}"' in text
    assert (tmp_path / "o" / f"{name}.png").stat().st_size > 50_000


def test_a_textgrid_begins_with_the_sound(tmp_path):
    from inference import textgrid

    segments = [transcription.Segment(0.5, 1.0, "aa", 0.9)]
    textgrid.write_textgrid(tmp_path / "a.TextGrid", segments, 1.0)
    text = (tmp_path / "a.TextGrid").read_text()
    assert 'xmin = 0.000000\nxmax = 0.500000\ntext = ""\n' in text and "size = 2" in text

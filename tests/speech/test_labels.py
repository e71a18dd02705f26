"""Phones, words and prompts as people's systems leave them."""

import time

import numpy as np
import pytest
from corpora import recorded_audio

from speech import labels
from speech.facts import PHONES_39, PHONES_61
from speech.files import BadFileError


def test_labels_equal_the_recorded_ones(recorded, timit_sample):
    differing = []
    for index, stem, audio in recorded_audio(recorded, timit_sample):
        spans, notes = labels.read_phones(f"{stem}.phn", len(audio))
        assert notes == []
        n_frames = int(recorded[f"utt{index}/num_windows"])
        quirks, default = (
            labels.frame_labels(
                spans, labels.PHONE_INDEX, n_frames, labels.label_step_samples(reference_quirks)
            )
            for reference_quirks in (True, False)
        )
        reduced = labels.REDUCED_INDICES[quirks]
        assert [PHONES_61[i] for i in quirks] == recorded[f"utt{index}/phn_names"].tolist()
        assert [PHONES_39[i] for i in reduced] == recorded[f"utt{index}/reduced_names"].tolist()
        differing.append(int(np.sum(quirks != default)))
    assert differing == [32, 32, 19, 19, 22, 32]  # golden/NOTES.md, part D


N_SAMPLES = 16000
ROWS = ["0 3050 h#", "3050 4559 sh", "4559 5723 ix", "5723 11000 hv", "11000 15000 h#"]
SPANS = [(int(s), int(e), p) for s, e, p in map(str.split, ROWS)]
PHN = "\n".join(ROWS) + "\n"


def scaled(factor, digits=0):
    rows = ((round(s * factor, digits), round(e * factor, digits), p) for s, e, p in SPANS)
    return "".join(f"{s:.{digits}f} {e:.{digits}f} {p}\n" for s, e, p in rows)


READ = {  # what is read as PHN is
    "of TIMIT": PHN,
    "crlf": PHN.replace("\n", "\r\n"),
    "cr": PHN.replace("\n", "\r"),
    "byte order mark": "\ufeff" + PHN,
    "tabs": PHN.replace(" ", "\t"),
    "blanks": PHN.replace(" ", "  ").replace("\n", " \t\n "),
    "blank lines": "\n" + PHN.replace("\n", "\n\n \n"),
    "end-of-file byte": PHN + "\x1a",
    "zero bytes at the end": PHN + "\x1a\0\0\0",
    "no last line end": PHN.rstrip(),
    "upper case": PHN.upper(),
    "one decimal": scaled(1, 1),
    "six decimals": scaled(1, 6),
    "points": PHN.replace("0 ", "0. "),
    "exclamation marks": PHN.replace("\n", " !was checked\n"),
    "comments": PHN.replace("\n", " # by hand\n"),
    "lines of comments": f"# by hand\n;; x\n!y 1 2\n{PHN}# end\n",
    "length zero inside": PHN.replace("4559 5723", "4559 4559 pau\n4559 5723"),
    "length zero at the end": PHN + "15000 15000 h#\n",
    "length zero outside": PHN + "16000 16000 h#\n",
}
NOTED = {  # name: (text, kind of the note)
    "gap": (PHN.replace("4559 5723 ix\n", ""), "labels with a gap"),
    "starts late": (PHN.replace("0 3050 h#", "2000 3050 h#", 1), "labels with a gap"),
    "ends early": (PHN.replace("15000", "13197"), "labels that end elsewhere than the audio"),
    "a frame behind": (PHN.replace("15000", "16160"), "labels that end elsewhere than the audio"),
    "starts behind": (
        PHN + "15000 16000 pau\n16000 16100 h#\n",
        "labels that end elsewhere than the audio",
    ),
}
LONG_12_KHZ, LONG_12_8_KHZ = (scaled(rate / 15000) for rate in (12000, 12800))
ROW = "0 3050 h#\n3050 11000 sh\n{}\n11000 15000 h#\n"
REFUSED = {  # name: (text, words of the message)
    "empty": ("", ("empty",)),
    "blank": (" \n" * 2000, ("empty",)),
    "cut in half": (PHN[: PHN.index("5723 11000")], ("35 %", "three quarters", "cut off")),
    "cut within a row": (PHN[:-10], ("line 5", "'11000'")),
    "161 samples behind": (PHN.replace("15000", "16161"), ("16161", "16000 samples")),
    "of a longer one": (scaled(1.2), ("out of range", "18000", "another utterance")),
    "of a shorter one": (scaled(0.6), ("cover 56 %", "three quarters")),
    "unsorted": ("\n".join([ROWS[1], ROWS[0], *ROWS[2:]]), ("line 2", "overlaps", "4559")),
    "overlap": (PHN.replace("5723 11000", "5722 11000"), ("line 4", "overlaps", "5723")),
    "reversed": (PHN.replace("4559 5723", "5723 4559"), ("line 3", "reversed")),
    "negative": (PHN.replace("0 3050", "-160 3050", 1), ("line 1", "before the audio")),
    "sil": (PHN.replace("h#", "sil"), ("line 1", "'sil'", "61 phones", "and 1 more")),
    "#h": (PHN.replace("h#", "#h", 1), ("line 1", "'#h'")),
    "not ASCII": (PHN.replace("sh", "\u0259").encode("cp1252", "replace"), ("line 2", "'?'")),
    "seconds": (scaled(1 / 16000, 4), ("line 1", "seconds", "samples")),
    "milliseconds": (scaled(1 / 16), ("cover 5 %", "milliseconds")),
    "HTK's units": (scaled(625), ("9375000", "HTK's units of 100 ns")),
    "8 kHz": (scaled(0.5), ("cover 46 %", "8000 Hz")),
    "44.1 kHz": (scaled(2.75625), ("44100 Hz", "16000 samples")),
    "fractions": (scaled(1 / 160, 2), ("line 1", "frames of 10 ms")),
    "utf-16": (PHN.encode("utf-16"), ("UTF-16", "iconv")),
    "utf-16 without mark": (PHN.encode("utf-16-le"), ("UTF-16", "iconv -f UTF-16LE")),
    "big-endian utf-16": (PHN.encode("utf-16-be"), ("UTF-16", "iconv -f UTF-16BE")),
    "zero bytes inside": (PHN.replace("\n", "\0\n"), ("zero bytes",)),
    "master label file": ("#!MLF!#\n" + PHN, ("line 1", "#!MLF!#")),
    "10 kHz, cut off or not": (scaled(0.625), ("cut off, or", "in samples of 10000 Hz")),
    "12 kHz": (LONG_12_KHZ, ("cover 75 %", "samples of 12000 Hz")),
    "12.8 kHz": (LONG_12_8_KHZ, ("cover 80 %", "samples of 12800 Hz")),
    "24 kHz": (scaled(1.5), ("in samples of 24000 Hz",)),
    "96 kHz": (scaled(6), ("in samples of 96000 Hz",)),
    "frames of 5 ms": (scaled(1 / 80), ("in frames of 5 ms",)),
    "microseconds": (scaled(62.5), ("in microseconds",)),
    "44.1 kHz, not 48": (scaled(2.98), ("in samples of 44100 Hz",)),
    "web page": ("<html><body>404</body></html>", ("an HTML page",)),
    "git lfs": ("version https://git-lfs.github.com/spec/v1", ("git lfs pull",)),
    "two fields": (ROW.format("11000 aa"), ("line 3", "'11000 aa'")),
    "four fields": (ROW.format("11000 11000 h# aa"), ("line 3", "h# aa")),
    "words": (ROW.format("start end phone"), ("line 3", "expected a start sample")),
    "no rows": ('File type = "ooTextFile"\nObject class = "TextGrid"\n', ("line 1", "ooTextFile")),
}


@pytest.mark.parametrize("name", [*READ, *NOTED, *REFUSED])
def test_phone_files(tmp_path, name):
    path = tmp_path / "sx0.phn"
    text = READ.get(name) or (NOTED | REFUSED)[name][0]
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    if name in REFUSED:
        with pytest.raises(BadFileError) as error:
            labels.read_phones(path, N_SAMPLES)
        assert all(word in str(error.value) for word in ("sx0.phn", *REFUSED[name][1]))
        return
    spans, notes = labels.read_phones(path, N_SAMPLES)
    if name in READ:
        assert (spans, notes) == (SPANS, [])
    else:
        assert set(spans) & set(SPANS) and [note.kind for note in notes] == [NOTED[name][1]]


def test_all_bad_rows_of_a_file_are_told(tmp_path):
    (tmp_path / "sx0.phn").write_text(PHN.replace("sh", "sch").replace("hv", "hw") + "x\n")
    for n_samples in (N_SAMPLES, None):  # None: where the audio is bad too
        with pytest.raises(BadFileError) as error:
            labels.read_phones(tmp_path / "sx0.phn", n_samples)
        kinds = [problem.kind for problem in error.value.problems]
        assert kinds == ["rows of another form", "unknown phones", "unknown phones"]


WORDS = [(0, 800, "she"), (800, 1600, "had")]
WORD_FILES = {  # text, spans
    "of TIMIT": ("0 800 she\n800 1600 had\n", WORDS),
    "byte order mark, crlf": ("\ufeff0 800 she\r\n800 1600 had\r\n", WORDS),
    "windows": ("0 800 don\u2019t\n".encode("cp1252"), [(0, 800, "don\u2019t")]),
    "overlap": ("0 900 she\n800 1600 had\n", [(0, 900, "she"), (800, 1600, "had")]),
    "beyond the end": ("0 999999 she\n", [(0, 999999, "she")]),
    "negative": ("-100 800 she\n", [(0, 800, "she")]),
    "numbers only": ("0 800\n", None),
    "text only": ("she had\n", None),
    "utf-16": ("0 800 she\n".encode("utf-16"), None),
    "web page": ("<html>", None),
    "empty": ("", None),
    "missing": (None, []),
}


@pytest.mark.parametrize("name", WORD_FILES)
def test_words_never_stop(tmp_path, name):
    content, expected = WORD_FILES[name]
    path = tmp_path / "sx0.wrd"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    spans, notes = labels.read_words(path)
    assert spans == expected
    assert [note.kind for note in notes] == ["unreadable words"] * (expected is None)


PROMPTS = {  # text, what is read, whether with a note
    "of TIMIT": ("0 3200 She had.\n", (0, 3200, "She had."), False),
    "windows": ("0 3200 Don\u2019t.\n".encode("cp1252"), (0, 3200, "Don\u2019t."), False),
    "two lines": ("0 3200 She had.\n3200 3300 x\n", (0, 3200, "She had."), False),
    "negative": ("-5 3200 She had.\n", (0, 16000, "She had."), True),
    "numbers only": ("0 3200\n", (0, 16000, ""), True),
    "text only": ("She had.\n", (0, 16000, "She had."), True),
    "git lfs": ("version https://git-lfs.github.com/spec/v1\n", (0, 16000, ""), True),
    "empty": ("", (0, 16000, ""), True),
    "a vertical tab": ("\v", (0, 16000, ""), True),  # found by fuzzing
    "missing": (None, (0, 16000, ""), False),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_never_stop(tmp_path, name):
    content, expected, is_noted = PROMPTS[name]
    path = tmp_path / "sx0.txt"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    prompt, notes = labels.read_prompt(path, N_SAMPLES)
    assert prompt == expected
    assert [note.kind for note in notes] == ["unreadable prompts"] * is_noted


def test_a_line_without_end_is_told_in_short(tmp_path):
    """Found by fuzzing: the message held the whole of it. Reading it takes no quadratic time."""
    path = tmp_path / "x.phn"
    path.write_text(f"0 3050 h{' ' * 300_000}x\n")
    began_s = time.monotonic()
    with pytest.raises(BadFileError) as error:
        labels.read_phones(path, N_SAMPLES)
    assert time.monotonic() - began_s < 20  # minutes with a pattern that tries all splits
    assert len(str(error.value)) < 400 + len(str(path))


def test_frame_labels_are_clipped_and_overwritten():
    spans = [(160, 480, "a"), (400, 10**6, "b")]
    found = labels.frame_labels(spans, {"a": 1, "b": 2}, 5, 160)
    assert found.dtype == np.int32
    assert found.tolist() == [0, 1, 2, 2, 2]

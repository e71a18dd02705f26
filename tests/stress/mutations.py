"""What people's copies of an utterance go through, each kind with the verdict that it must get.

    READ      the same sound and phones as before, nothing to say
    NOTED     read, and something is said; the sound is the same, the phones are but for a row
    REFUSED   a problem

`MUTATIONS` maps a name to (verdict, function (draw, files)), which changes the `Files` in place;
`draw` is hypothesis's. Where a mutation does not fit the files, it says so by returning False.
"""

import dataclasses
import io
import os

import numpy as np
import soundfile
from corpora import riff, sphere
from hypothesis import strategies as st

from helpers import OPEN_SPEECH, open_utterances

READ, NOTED, REFUSED = "read", "noted", "refused"
CHUNK = b"LIST\5\0\0\0abcde\0"  # odd, padded


@dataclasses.dataclass
class Files:
    """The files of an utterance, and what should be read from them."""

    samples: np.ndarray
    rows: list  # [start, end, phone]
    sound: bytes = b""
    form: str = ""  # RIFF, SPHERE, FLAC
    suffix: str = ".wav"
    phn: bytes = b""
    others: dict = dataclasses.field(default_factory=dict)  # suffix -> content


def encoded(samples, form, subtype="PCM_16", rate_hz=16000):
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, subtype, format=form)
    return file.getvalue()


FORMS = {"RIFF": riff, "SPHERE": sphere, "FLAC": lambda samples: encoded(samples, "FLAC")}


def originals():
    """Three utterances of the open sample in each form."""
    found = []
    for stem in open_utterances():
        stem = os.path.join(OPEN_SPEECH, stem)
        samples, _ = soundfile.read(f"{stem}.flac", dtype="int16")
        texts = {}
        for suffix in (".phn", ".wrd", ".txt"):
            with open(stem + suffix, "rb") as file:
                texts[suffix] = file.read()
        phn = texts.pop(".phn")
        rows = [(int(s), int(e), p) for s, e, p in map(str.split, phn.decode().splitlines())]
        found += [
            Files(samples, rows, write(samples), form, phn=phn, others=texts)
            for form, write in FORMS.items()
        ]
    return found


def rows_text(rows):
    return "".join(f"{start} {end} {phone}\n" for start, end, phone in rows).encode()


def text(verdict, change):
    """A mutation of the `.phn`: `change` takes draw and its text and returns a new one."""

    def mutate(draw, files):
        changed = change(draw, files.phn.decode())
        files.phn = changed if isinstance(changed, bytes) else changed.encode()

    return verdict, mutate


def rows(verdict, change):
    """A mutation of the `.phn`: `change` takes draw, rows and number of samples; new rows."""

    def mutate(draw, files):
        changed = change(draw, files.rows, len(files.samples))
        if changed is None:
            return False
        files.phn = rows_text(changed)

    return verdict, mutate


def sound(verdict, change, form=None):
    """A mutation of the audio: `change` takes draw, its bytes and samples and returns new bytes."""

    def mutate(draw, files):
        if form and form != files.form:
            return False
        files.sound = change(draw, files.sound, files.samples)

    return verdict, mutate


def some(draw, low, high):
    return draw(st.integers(low, high))


def one(draw, *values):
    return draw(st.sampled_from(values))


def in_a_row(draw, lines, change):
    """Text with one of its lines, not the first or the last, changed."""
    lines = lines.splitlines()
    place = some(draw, 1, len(lines) - 2)
    lines[place] = change(lines[place])
    return "\n".join(lines) + "\n"


def without_a_row(draw, found, n_samples):
    place = some(draw, 1, len(found) - 2)
    left = found[:place] + found[place + 1 :]
    return left if sum(e - s for s, e, _ in left) >= 0.75 * n_samples else None


def cut_at_a_row(draw, found, n_samples):
    place = some(draw, 1, len(found) - 1)
    return found[:place] if found[place - 1][1] < 0.75 * n_samples else None


def swapped_rows(draw, found, n_samples):
    place = some(draw, 0, len(found) - 2)
    return [*found[:place], found[place + 1], found[place], *found[place + 2 :]]


def in_unit(draw, found, n_samples):
    factor = one(draw, 1 / 16, 1 / 160, 0.5, 11025 / 16000, 1.378125, 2, 2.75625, 3, 625)
    return [(round(start * factor), round(end * factor), phone) for start, end, phone in found]


def last_end(draw, found, end):
    return [*found[:-1], (found[-1][0], end, found[-1][2])]


def renamed(draw, files):
    files.suffix = one(draw, ".wav", ".sph", ".flac")


def no_other_file(draw, files):
    del files.others[one(draw, ".wrd", ".txt")]


def other_file_says(draw, files):
    """Words and prompts stop nothing, whatever they hold."""
    files.others[one(draw, ".wrd", ".txt")] = draw(
        st.binary(max_size=60)
        | st.sampled_from(["0 9 don\u2019t\n".encode("cp1252"), b"-9 9 a", b"9 3\n", b"<html>"])
        | st.lists(st.tuples(st.integers(-9, 99999), st.integers(-9, 99999))).map(
            lambda pairs: "".join(f"{s} {e} w\n" for s, e in pairs).encode()
        )
    )


def missing(name):
    def mutate(draw, files):
        setattr(files, name, None)

    return mutate


def with_unknown_flac_length(draw, content, samples):
    content = bytearray(content)
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    return bytes(content)


def loud_enough(samples):
    """Samples whose bytes cannot be swapped without a trace."""
    return np.clip(samples.astype(np.int32) * 2, -20000, 20000).astype(np.int16)


STREAMED = st.sampled_from([0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]) | st.integers(
    0x7FFFF000, 0xFFFFFFFF
)
OTHER_CONTENT = [b"", b"\n", bytes(3000), b"<html></html>", b"<!DOCTYPE html>", b"{}", b"PK\3\4x"]
OTHER_CONTENT += [b"version https://git-lfs.github.com/spec/v1\n", b"\x1f\x8b\x08x", b"BZh9"]

MUTATIONS = {
    # text of the phones
    "nothing": (READ, lambda draw, files: None),
    "line ends": text(READ, lambda d, t: t.replace("\n", one(d, "\r\n", "\r", " \n", "\t\r\n"))),
    "byte order mark": text(READ, lambda d, t: "\ufeff" + t),
    "white space": text(READ, lambda d, t: t.replace(" ", one(d, "\t", "  ", " \t "))),
    "blank lines": text(READ, lambda d, t: in_a_row(d, t, lambda row: f"\n \n{row}\n")),
    "end-of-file byte": text(READ, lambda d, t: t + one(d, "\x1a", "\n\x1a\n")),
    "no last line end": text(READ, lambda d, t: t.rstrip()),
    "upper case": text(READ, lambda d, t: t.upper()),
    "comments": text(READ, lambda d, t: in_a_row(d, t, lambda row: row + one(d, " !x", "\t# y z"))),
    "decimals": text(
        READ, lambda d, t: t.replace(" ", one(d, ".0 ", ". ", ".000 "))  # both numbers end so
    ),
    "rows of length zero": text(
        READ, lambda d, t: in_a_row(d, t, lambda row: f"{row}\n{row.split()[1]} {row.split()[1]} q")
    ),
    "gap": rows(NOTED, without_a_row),
    "ends behind": rows(NOTED, lambda d, r, n: last_end(d, r, n + some(d, 1, 160))),
    "ends far behind": rows(REFUSED, lambda d, r, n: last_end(d, r, n + some(d, 161, 9999))),
    "cut at a row": rows(REFUSED, cut_at_a_row),
    "cut within a row": text(REFUSED, lambda d, t: in_a_row(d, t, lambda row: row.split()[0])),
    "rows not sorted": rows(REFUSED, swapped_rows),
    "another unit": rows(REFUSED, in_unit),
    "seconds": rows(REFUSED, lambda d, r, n: [(s / 16000, e / 16000, p) for s, e, p in r]),
    "unknown phone": text(
        REFUSED,
        lambda d, t: in_a_row(
            d, t, lambda row: row.rsplit(" ", 1)[0] + one(d, " sil", " #h", " xx", " \u0259", " 3")
        ),
    ),
    "reversed row": text(
        REFUSED, lambda d, t: in_a_row(d, t, lambda row: "{1} {0} {2}".format(*row.split()))
    ),
    "negative": text(REFUSED, lambda d, t: "-" + str(some(d, 1, 99)) + t[1:]),
    "no row": text(REFUSED, lambda d, t: in_a_row(d, t, lambda row: one(d, "a b c", "1 2", "x"))),
    "utf-16": text(REFUSED, lambda d, t: t.encode(one(d, "utf-16", "utf-16-le", "utf-16-be"))),
    "no phones": text(REFUSED, lambda d, t: d(st.sampled_from(OTHER_CONTENT))),
    "phones missing": (REFUSED, missing("phn")),
    # words and prompts
    "another file missing": (READ, no_other_file),
    "another file": (None, other_file_says),
    # sound
    "another suffix": (READ, renamed),
    "rf64": sound(READ, lambda d, c, s: encoded(s, "RF64")),
    "riff through a pipe": sound(READ, lambda d, c, s: riff(s, d(STREAMED)), "RIFF"),
    "chunk behind": sound(READ, lambda d, c, s: c + CHUNK * some(d, 1, 3), "RIFF"),
    "flac through a pipe": sound(READ, with_unknown_flac_length, "FLAC"),
    "big-endian": sound(READ, lambda d, c, s: sphere(s, byte_format="10"), "SPHERE"),
    "no count": sound(READ, lambda d, c, s: c.replace(b"sample_count", b"sample_cownt"), "SPHERE"),
    "count off": sound(
        NOTED, lambda d, c, s: sphere(s, len(s) + some(d, 1, 159)), "SPHERE"
    ),
    "samples behind": sound(NOTED, lambda d, c, s: c + bytes(2 * some(d, 1, 159)), "SPHERE"),
    "silence": sound(NOTED, lambda d, c, s: riff(0 * s)),
    "count far off": sound(
        REFUSED, lambda d, c, s: sphere(s, one(d, 0, 1, len(s) // 2, len(s) + 160, 10**15))
    ),
    "cut sphere": sound(REFUSED, lambda d, c, s: c[: -some(d, 320, len(c) - 1)], "SPHERE"),
    "cut riff": sound(REFUSED, lambda d, c, s: c[: -some(d, 1, len(c) - 1)], "RIFF"),
    "cut flac": sound(REFUSED, lambda d, c, s: c[: -some(d, 1, len(c) - 1)], "FLAC"),
    "shorten": sound(
        REFUSED, lambda d, c, s: sphere(s, coding=f"pcm,embedded-shorten-v{some(d, 1, 3)}.00")
    ),
    "rate": sound(
        REFUSED, lambda d, c, s: one(d, riff, sphere)(s, rate_hz=one(d, 8000, 22050, 44100, 1))
    ),
    "channels": sound(REFUSED, lambda d, c, s: riff(s, channels=one(d, 2, 4))),
    "coding": sound(REFUSED, lambda d, c, s: encoded(s, "WAV", one(d, "ULAW", "FLOAT", "PCM_24"))),
    "another format": sound(REFUSED, lambda d, c, s: encoded(s, one(d, "AIFF", "AU", "CAF"))),
    "swapped": sound(
        REFUSED, lambda d, c, s: one(d, riff, sphere)(loud_enough(s).byteswap())
    ),
    "bare samples": sound(REFUSED, lambda d, c, s: s.tobytes()),
    "too short": sound(REFUSED, lambda d, c, s: one(d, riff, sphere)(s[: some(d, 0, 399)])),
    "no sound": sound(REFUSED, lambda d, c, s: d(st.sampled_from(OTHER_CONTENT))),
    "random bytes": sound(REFUSED, lambda d, c, s: b"\xa5" + d(st.binary(max_size=3000))),
    "sound missing": (REFUSED, missing("sound")),
}  # fmt: skip


# Folders: what happens to a whole corpus in the LDC's layout


def _rename(source, target):
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.rename(source, target)


def _write(path, content=b"x"):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)


def _upper(path):
    _rename(path, os.path.join(os.path.dirname(path), os.path.basename(path).upper()))


def _any_file(draw, corpus, suffix):
    """Path of a file of the corpus."""
    found = [os.path.join(d, f) for d, _, names in os.walk(corpus) for f in names]
    return one(draw, *sorted(path for path in found if path.endswith(suffix)))


def _stray(draw, corpus):
    """A file that belongs to no utterance of a split."""
    place = one(draw, "doc/x.wav", "train/dr1/._x.wav", ".Trash/train/dr1/m0/x.wav", "y.phn")
    _write(os.path.join(corpus, one(draw, place, "test/dr1/mzzz0/sx1.wav", "train/readme.txt")))


def _sa(draw, corpus):
    folder = os.path.dirname(_any_file(draw, corpus, ".wav"))
    _write(os.path.join(folder, one(draw, "sa1.wav", "sa2.wav", "sa1.phn", "sa2.phn")))


def _second_format(draw, corpus):
    _write(_any_file(draw, corpus, ".wav")[:-4] + one(draw, ".sph", ".flac"))


FOLDERS = {  # name: (verdict, function (draw, path of the corpus))
    "nothing": (READ, lambda draw, corpus: None),
    "stray file": (READ, _stray),
    "bad sa sentence": (READ, _sa),
    "second format": (READ, _second_format),
    "no words": (READ, lambda draw, corpus: os.remove(_any_file(draw, corpus, ".wrd"))),
    "no sound": (REFUSED, lambda draw, corpus: os.remove(_any_file(draw, corpus, ".wav"))),
    "no phones": (REFUSED, lambda draw, corpus: os.remove(_any_file(draw, corpus, ".phn"))),
    "upper case file": (REFUSED, lambda draw, corpus: _upper(_any_file(draw, corpus, ".wav"))),
    "upper case speaker": (
        REFUSED,
        lambda draw, corpus: _upper(os.path.dirname(_any_file(draw, corpus, ".wav"))),
    ),
    "one level deeper": (
        REFUSED,
        lambda draw, corpus: _rename(
            os.path.join(corpus, "train"), os.path.join(corpus, one(draw, "x", "data"), "train")
        ),
    ),
    "a folder as a file": (
        REFUSED,
        lambda draw, corpus: os.remove(path := _any_file(draw, corpus, ".phn")) or os.mkdir(path),
    ),
    "both layouts": (REFUSED, lambda draw, corpus: _write(f"{corpus}/dr1-fvmh0/sx1.wav")),
}

"""Phones, words and prompts of an utterance, and the labels of its frames.

For each row (s, e, phone) of the `.phn`, in samples,

    label[s // 160 : e // 160] = phone,   h# elsewhere                                       (1)

Text is read as people's systems leave it: with a byte order mark, CRLF, CR, tabs, blank lines, an
end-of-file byte, in upper case, with comments in the fourth column and in lines of their own.
"""

import os
import re

import numpy as np

from speech.facts import FOLD_61_TO_39, FRAME_HOP_SAMPLES, PHONES_39, PHONES_61, SAMPLE_RATE_HZ
from speech.files import BadFileError, Problem, bad_file, read_bytes, what_it_is

QUIRKS_LABEL_STEP_SAMPLES = 161  # int(0.01 * 16000) + 1 in the reference
# In TIMIT's 160 sample recordings the last phone ends 0 to 2,802 samples before the sound does; a
# frame behind it does no harm to the labels.
MAX_REST_SAMPLES = 2802
END_SLACK_SAMPLES = FRAME_HOP_SAMPLES
LEAST_COVERED = 3 / 4
LEAST_COVERED_IN_UNIT = 0.82  # where another unit fits a whole file: 12,800 Hz would cover 80 %
MAX_PROBLEMS = 20  # of one file: a file of another kind is one fault

PHONE_INDEX = {phone: index for index, phone in enumerate(PHONES_61)}
REDUCED_INDICES = np.array([PHONES_39.index(FOLD_61_TO_39[p]) for p in PHONES_61], np.int32)

NUMBERS = r"(-?[0-9]{1,9}(?:\.[0-9]*)?)\s+(-?[0-9]{1,9}(?:\.[0-9]*)?)"
PHONE_ROW = re.compile(rf"{NUMBERS}\s+(\S+)(?:\s+[!#].*)?")  # a comment may follow
TIMED_ROW = re.compile(rf"{NUMBERS}(?:\s+(\S.*))?")
COMMENT = re.compile(r"[;!]|#(?!!MLF!#)")  # HTK's master label files start with #!MLF!#
OTHER_RATES_HZ = (8000, 10000, 11025, 12000, 12800, 20000, 22050, 24000, 32000, 44100, 48000)
OTHER_RATES_HZ += (88200, 96000)
UNITS = {  # what times may have been counted in, and how many there are to a sample
    "seconds": 1 / SAMPLE_RATE_HZ,
    "milliseconds": 1000 / SAMPLE_RATE_HZ,
    "microseconds": 1e6 / SAMPLE_RATE_HZ,
    "frames of 10 ms": 1 / FRAME_HOP_SAMPLES,
    "frames of 5 ms": 2 / FRAME_HOP_SAMPLES,
    "HTK's units of 100 ns": 1e7 / SAMPLE_RATE_HZ,
} | {f"samples of {hz} Hz": hz / SAMPLE_RATE_HZ for hz in OTHER_RATES_HZ}


def read_phones(path, n_samples):
    """Read a `.phn` file and check it against the length of its audio, None if that is unknown.

    Returns:
        (spans, notes): (start_sample, end_sample, phone) of each row, in order of time, without
        overlap, within the audio (but for END_SLACK_SAMPLES), each phone one of PHONES_61; and a
        list of `Problem` that do no harm.

    Raises:
        BadFileError: rows that are not like that, or that cover too little of the audio.
    """
    path = str(path)
    rows, problems = [], []
    for number, line in _lines(path):
        row = PHONE_ROW.fullmatch(line)
        if COMMENT.match(line):
            continue
        if row:
            rows.append((number, line, float(row[1]), float(row[2]), row[3].lower()))
        else:
            text = "expected a start sample, an end sample and a phone"
            problems.append(_bad_row("rows of another form", path, number, line, text))
    if not rows:
        if problems:
            raise BadFileError(problems[0])
        raise bad_file("empty files", path, "is empty: copy it again")
    last_end = max(end for _, _, _, end, _ in rows)
    unit = _unit(last_end, n_samples)
    fraction = next((row for row in rows if row[2] % 1 or row[3] % 1), None)
    if fraction:
        text = f"expected whole numbers of samples, found {unit or 'fractions'}"
        problems.append(_bad_row("labels in another unit", path, *fraction[:2], text))
    elif n_samples and last_end > n_samples + END_SLACK_SAMPLES:
        text = (
            f"out of range, ends at {last_end:.0f} where the audio has {n_samples} samples: of "
            f"another utterance{unit and f', or its times are in {unit}'}: copy it again"
        )
        problems.append(Problem("labels that end behind the audio", path, text))
    problems += _check_rows(path, rows)
    if problems:
        raise BadFileError(*problems[:MAX_PROBLEMS])
    spans = [(int(start), int(end), phone) for _, _, start, end, phone in rows if end > start]
    return spans, _check_cover(path, spans, n_samples, unit) if n_samples else []


def _check_rows(path, rows):
    """Problems of rows (number, line, start, end, phone)."""
    problems = []
    previous_end = 0
    for number, line, start, end, phone in rows:
        if phone not in PHONE_INDEX:
            kind = "unknown phones"
            text = f"{phone[:60]!r} is none of TIMIT's {len(PHONES_61)} phones"
            problems.append(_bad_row(kind, path, number, line, text))
        if end < start:
            kind, text = "reversed rows", "reversed, the end must come after the start"
        elif start < 0:
            kind, text = "rows before the audio", "starts before the audio, expected 0 or more"
        elif start < previous_end and end > start:
            kind = "rows that overlap or are not sorted"
            text = f"overlaps the row before, which ends at {previous_end:.0f}"
        else:
            kind = None
        if kind:
            problems.append(_bad_row(kind, path, number, line, text))
        previous_end = max(previous_end, end)
    return problems


def _check_cover(path, spans, n_samples, unit):
    """Notes about stretches of audio without a label; BadFileError if they are too much of it."""
    covered = sum(min(end, n_samples) - min(start, n_samples) for start, end, _ in spans)
    # What is cut off ends in the middle of speech.
    is_whole = spans and spans[-1][2] in ("h#", "pau") and _unit(spans[-1][1], n_samples, 0.98)
    if covered < (LEAST_COVERED_IN_UNIT if is_whole else LEAST_COVERED) * n_samples:
        guess = f"it is cut off{unit and f', or its times are in {unit}'}"
        raise bad_file(
            "labels that cover too little",
            path,
            f"labels cover {100 * covered // n_samples} % of the audio's {n_samples} samples, "
            f"expected all, three quarters at least, as if {guess}: copy it again",
        )
    notes = []
    end = spans[-1][1]
    if not 0 <= n_samples - end <= MAX_REST_SAMPLES:
        text = f"labels end at {end}, the audio at {n_samples}"
        notes.append(Problem("labels that end elsewhere than the audio", path, text))
    ends = [0, *(end for _, end, _ in spans)]
    gap = next((start for (start, _, _), end in zip(spans, ends) if start > end), None)
    if gap is not None:
        text = f"no label before sample {gap}: h# there"
        notes.append(Problem("labels with a gap", path, text))
    return notes


def _unit(last_end, n_samples, least=0.9):
    """Name of the unit that would make labels end where the audio does; "" if none would.

    Of two rates that both would, the lower one, which UNITS has first, is nearer.
    """
    for unit, factor in UNITS.items():
        if n_samples and least < last_end / n_samples / factor < 1.02:
            return unit
    return ""


def _bad_row(kind, path, number, line, text):
    advice = "mend the row or copy the file again"
    return Problem(kind, path, f"line {number}: {line[:60]!r}: {text}: {advice}")


def _lines(path):
    """(number, line without white space around it) of the lines of a text that are not blank.

    Raises:
        BadFileError: no text.
    """
    content = read_bytes(path)
    what = what_it_is(content)
    content = content.rstrip(b"\0")
    if what is None and b"\0" in content:
        what = "no text, it holds zero bytes: copy it again"
    if what:
        raise bad_file("no text", path, f"is {what}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", "replace")
    lines = enumerate(text.splitlines(), 1)
    lines = [(number, line.strip().rstrip("\x1a").rstrip()) for number, line in lines]
    return [(number, line) for number, line in lines if line]


def read_words(path):
    """Read a `.wrd` file, which nobody needs for features or phones.

    Returns:
        (spans, notes): (start_sample, end_sample, word) of each row, [] where there is no file,
        None where it cannot be read; and a list of `Problem`.
    """
    if not os.path.lexists(path):
        return [], []
    try:
        spans = []
        for number, line in _lines(path):
            start, end, word = _timed(line)
            if start is None or not word:
                text = "expected a start sample, an end sample and a word"
                raise BadFileError(_bad_row("unreadable words", path, number, line, text))
            spans.append((max(0, start), max(0, end), word))
        return spans, []
    except BadFileError as error:
        return None, [Problem("unreadable words", path, error.problems[0].text)]


def read_prompt(path, n_samples):
    """Read a `.txt` file, which nobody needs for features or phones.

    Returns:
        ((start_sample, end_sample, text), notes): the whole sound and "" where there is no file or
        none that can be read, and a list of `Problem`.
    """
    text = ""
    if not os.path.lexists(path):
        return (0, n_samples, text), []
    try:
        for _, line in _lines(path):
            start, end, text = _timed(line)
            if start is not None and start >= 0 and text:
                return (start, end, text), []
            break
        found = "no sample numbers and text in its first line"
    except BadFileError as error:
        found = error.problems[0].text
    return (0, n_samples, text), [Problem("unreadable prompts", path, found)]


def _timed(line):
    """(start_sample, end_sample, text) of a row; the numbers are None where there are none."""
    row = TIMED_ROW.fullmatch(line)
    return (int(float(row[1])), int(float(row[2])), row[3] or "") if row else (None, None, line)


def label_step_samples(reference_quirks):
    """Samples from one label to the next, see equation (1)."""
    return QUIRKS_LABEL_STEP_SAMPLES if reference_quirks else FRAME_HOP_SAMPLES


def frame_labels(spans, indices, n_frames, step_samples):
    """Labels of all frames, equation (1).

    Args:
        spans: (start_sample, end_sample, name) each; a later one overwrites an earlier one.
        indices: name -> index; frames in no span have index 0.
        n_frames: how many frames to label.
        step_samples: 160, or 161 for the reference's labels.

    Returns:
        int32 [n_frames].
    """
    labels = np.zeros(n_frames, np.int32)
    for start, end, name in spans:
        labels[start // step_samples : end // step_samples] = indices[name]
    return labels

"""All problems of a corpus, found in one pass over its files, and how they are told."""

import collections
import functools
import os

from speech.facts import CORE_TEST_SPEAKERS, DEVELOP_SPEAKERS
from speech.files import Problem
from speech.recordings import read_utterance
from toolbox import command_line
from toolbox.command_line import one_line

N_SHOWN = 20
COMPLETE_SHARE = 0.9  # of a list of speakers that makes a corpus all of TIMIT, not a part of it


def choose_htk(utterances, wanted):
    """Whether to read `.htk` files: as wanted, or with None if every utterance has one.

    Returns:
        (bool, list of `Problem` to know about).
    """
    if wanted is not None:
        return wanted, []
    missing = [u.stem for u in utterances if not os.path.isfile(f"{u.stem}.htk")]
    if not missing or len(missing) == len(utterances):
        return not missing, []
    text = (
        f"missing, as are {len(missing) - 1} more, while {len(utterances) - len(missing)} "
        "utterances have one: HTK features are left out (--htk refuses this)"
    )
    return False, [Problem("missing HTK files", f"{missing[0]}.htk", text)]


def check_utterances(parallel_map, utterances, with_htk):
    """Read all files of the utterances, with a progress bar.

    Returns:
        (good, bad, notes): Utterance -> `Content` of those without problems, and Utterance -> list
        of `Problem` of the others, both in order; and a list of `Problem` that do no harm.
    """
    checks = parallel_map(functools.partial(read_utterance, with_htk=with_htk), utterances)
    checks = command_line.progress_bar(
        checks, desc="check", total=len(utterances), unit="utterance"
    )
    good, bad, notes = {}, {}, []
    for (content, problems, found), utterance in zip(checks, utterances):  # ends the bar
        notes += found
        if problems:
            bad[utterance] = problems
        else:
            good[utterance] = content
    if with_htk and good:
        widths = {utterance: content.htk.shape[1] for utterance, content in good.items()}
        (usual, _), *_ = collections.Counter(widths.values()).most_common(1)
        for utterance, width in widths.items():
            if width != usual:
                text = (
                    f"{width} features a frame, expected {usual} as most utterances have: make all "
                    "with one configuration"
                )
                bad[utterance] = [Problem("HTK files", f"{utterance.stem}.htk", text)]
                del good[utterance]
    return good, bad, notes


def missing_speakers(data_path, layout, utterances):
    """Speakers of TIMIT's development and core-test lists without an utterance.

    Returns:
        (problems, notes): lists of `Problem`; a list that is there to less than nine tenths is a
        part of TIMIT and no problem.
    """
    if layout != "ldc":
        return [], []
    problems, notes = [], []
    for split, expected in (("test", CORE_TEST_SPEAKERS), ("develop", DEVELOP_SPEAKERS)):
        found = {f"{u.region}/{u.speaker}" for u in utterances if u.split == split}
        missing = sorted(expected - found)
        if len(found) < COMPLETE_SHARE * len(expected):
            text = f"{len(found)} of TIMIT's {len(expected)} {split} speakers, a part of the corpus"
            notes.append(Problem("a part of TIMIT", os.path.join(data_path, "test"), text))
            continue
        for who in missing:
            text = f"no utterance of this speaker of TIMIT's {split} set: copy the corpus again"
            where = os.path.join(data_path, "test", who)
            problems.append(Problem("missing speakers", where, text))
    return problems, notes


def report(problems, n_shown=None):
    """Lines that tell of problems: how many of each kind, then the problems themselves."""
    counts = collections.Counter(problem.kind for problem in problems)
    lines = [f"{count:7,}  {kind}" for kind, count in counts.most_common()]
    lines += [one_line(str(problem)) for problem in problems[:n_shown]]
    if n_shown and len(problems) > n_shown:
        lines.append(f"... and {len(problems) - n_shown:,} more")
    return lines


def summary_of_notes(notes):
    """A line for each kind of note: how often and an example."""
    first = {}
    for note in notes:
        first.setdefault(note.kind, note)
    counts = collections.Counter(note.kind for note in notes)
    return [
        one_line(f"Note: {kind}: {counts[kind]:,}, {'first ' if counts[kind] > 1 else ''}{note}")
        for kind, note in first.items()
    ]

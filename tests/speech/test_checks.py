"""Checks of a corpus as a whole."""

import pytest

from speech.checks import missing_speakers
from speech.corpus import Utterance
from speech.facts import CORE_TEST_SPEAKERS, DEVELOP_SPEAKERS


def utterances(test, develop):
    """An utterance of so many speakers of each list."""
    speakers = [("test", who) for who in sorted(CORE_TEST_SPEAKERS)[:test]]
    speakers += [("develop", who) for who in sorted(DEVELOP_SPEAKERS)[:develop]]
    return [Utterance("", "", "test", split, *who.split("/"), "sx1") for split, who in speakers]


@pytest.mark.parametrize(
    "test, develop, missing, parts",
    [(24, 50, 0, 0), (23, 50, 1, 0), (22, 45, 2 + 5, 0), (21, 50, 0, 1), (1, 44, 0, 2)],
)
def test_missing_speakers(test, develop, missing, parts):
    problems, notes = missing_speakers("timit", "ldc", utterances(test, develop))
    assert [problem.kind for problem in problems] == ["missing speakers"] * missing
    assert [note.kind for note in notes] == ["a part of TIMIT"] * parts
    if test == 23:
        (who,) = CORE_TEST_SPEAKERS - {sorted(CORE_TEST_SPEAKERS)[i] for i in range(23)}
        assert who in problems[0].path
    assert missing_speakers("own", "own", utterances(test, develop)) == ([], [])

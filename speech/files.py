"""Files of a corpus: what is wrong with one, and what it is instead."""

import os
import re
from typing import NamedTuple

from toolbox.command_line import UserError

MAX_FILE_BYTES = 2**28  # two hours of speech: no utterance, and it would not fit the memory

CONTENTS = [  # pattern of a file's first bytes, what that is and what to do
    (re.compile(rb"(?:\xef\xbb\xbf)?\s*" + pattern, re.IGNORECASE), what)
    for pattern, what in (
        (rb"version https://git-lfs", "a Git LFS pointer: run `git lfs pull`"),
        (rb"[./]*(?:git/)?annex/objects/", "a git-annex pointer: run `git annex get`"),
        (rb"<(?:!doctype )?html|<(?:head|body)\b", "an HTML page: download the file again"),
        (rb"<\?xml|<[a-z]+>", "an XML text: download the file again"),
        (rb"[{\[]\s*[\"{\[\]}]", "a JSON text: download the file again"),
        (rb"PK\x03\x04", "a zip archive: unpack it with `unzip`"),
        (rb"\x1f\x8b", "compressed by gzip: unpack it with `gunzip`"),
        (rb"BZh", "compressed by bzip2: unpack it with `bunzip2`"),
        (rb"\xfd7zXZ", "compressed by xz: unpack it with `unxz`"),
        (rb"7z\xbc\xaf|Rar!", "an archive: unpack it"),
        (rb"\xff\xfe|\xfe\xff", "a UTF-16 text: convert it with `iconv -f UTF-16 -t UTF-8`"),
        (rb"(?:[\t\r\n -~]\0){8}", "a UTF-16 text: convert it with `iconv -f UTF-16LE -t UTF-8`"),
        (rb"(?:\0[\t\r\n -~]){8}", "a UTF-16 text: convert it with `iconv -f UTF-16BE -t UTF-8`"),
        (rb"\x00+\Z", "nothing but zero bytes: copy it again"),
    )
]


class Problem(NamedTuple):
    """What is wrong with a file of the corpus, or what the user should know about it."""

    kind: str  # few words, the same for the same fault
    path: str
    text: str  # what was found, expected, and what to do

    def __str__(self):
        return f"{self.path}: {self.text}"


class BadFileError(UserError):
    """A file of the corpus that is not as it should be.

    Attributes:
        problems: list of `Problem`, at least one.
    """

    def __init__(self, *problems):
        self.problems = list(problems)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(f"{problems[0]}{more}")


def bad_file(kind, path, text):
    """A `BadFileError` with one problem, to be raised."""
    return BadFileError(Problem(kind, str(path), text))


def read_bytes(path):
    """Content of a file.

    Raises:
        BadFileError: no such file, no file, an empty one, or one too large for an utterance's.
    """
    try:
        if os.path.islink(path) and not os.path.exists(path):
            raise bad_file("missing files", path, f"links to {os.readlink(path)}, which is missing")
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
            what = "a folder" if os.path.isdir(path) else "no file"
            raise bad_file("no files", path, f"is {what}, expected a file: copy the corpus again")
        if os.path.getsize(path) > MAX_FILE_BYTES:
            raise bad_file(
                "too large files",
                path,
                f"larger than {MAX_FILE_BYTES} bytes, expected an utterance's",
            )
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise bad_file("unreadable files", path, f"cannot be read ({error.strerror})") from None
    if not content.strip(b"\0 \t\r\n\x1a") and len(content) < 1000:
        raise bad_file("empty files", path, "is empty: copy it again")
    return content


def what_it_is(content):
    """What a file of another kind seems to be and what to do, None if that cannot be said."""
    for pattern, what in CONTENTS:
        if pattern.match(content):
            return what
    return None

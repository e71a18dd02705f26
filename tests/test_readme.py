"""What README and the pages of docs/ tell people exists: commands, flags, files, links."""

import functools
import glob
import importlib
import os
import re
import shlex
import sys

import pytest

from helpers import REPOSITORY
from toolbox import command_line

DOCS = sorted(glob.glob("docs/*.md", root_dir=REPOSITORY))
UNPACKED = "speechocean762_labels/lay_speechocean762.py"  # of an archive in experiments/
PAGES = ("README.md", "RESULTS.md", "benchmarks/README.md", "tests/data/README.md", *DOCS)
MACHINES_OWN = ("n_processes", "threads")  # flags whose defaults differ between machines
OTHERS_FLAGS = {"dry-run", "help", "no-deps", "name", "channel", "file"}  # not of our scripts
sys.path.insert(0, os.path.join(REPOSITORY, "benchmarks"))


def text(name):
    with open(os.path.join(REPOSITORY, name), encoding="utf-8") as file:
        return file.read()


def commands(page):
    """Commands in a page's code blocks and inline code, without comments and variables."""
    found = set()
    blocks = re.findall(r"```\n(.*?)```", text(page), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text(page), flags=re.DOTALL))
    for line in lines:
        command = re.fullmatch(
            r"\s*(?:[A-Z_]+=(?:'[^']*'|\S+)\s+)*((?:python3|make|\./rename-files\.sh)\s.*)",
            line,
            re.DOTALL,
        )
        if command:
            found.add(tuple(shlex.split(command[1], comments=True)))
    return found


def scripts():
    """Files of the scripts that have flags."""
    files = [
        name
        for where in ("", "benchmarks/")
        for name in glob.glob(f"{where}*.py", root_dir=REPOSITORY)
    ]
    return sorted(name for name in files if "command_line.run(main, define_flags" in text(name))


@functools.cache
def flags_of(script):
    """The flags of a script, by name, `help` left out."""
    module = importlib.import_module(os.path.basename(script).removesuffix(".py"))
    flag_values, _ = command_line.parse_flags(module.define_flags, [script])
    return {name: flag_values[name] for name in flag_values if name not in ("help", "h")}


def test_the_front_page_is_short():
    assert len(text("README.md").splitlines()) <= 200


@pytest.mark.parametrize("page", ["README.md", *DOCS])
def test_a_page_has_commands(page):
    assert commands(page)


@pytest.mark.parametrize(
    "words", sorted({c for page in PAGES for c in commands(page)}), ids=" ".join
)
def test_a_command_of_the_pages_can_be_typed(words):
    if words[:2] == ("python3", UNPACKED):
        assert len(words) == 4  # source, output; tests/test_speechocean762_labels.py runs it
    elif words[:2] == ("python3", "-m"):
        assert words[2] == "nltk.downloader"  # of another package, by which a corpus comes
    elif words[0] == "python3":
        assert os.path.isfile(os.path.join(REPOSITORY, words[1]))
        module = importlib.import_module(os.path.basename(words[1]).removesuffix(".py"))
        flag_values, _ = command_line.parse_flags(module.define_flags, words[1:], -1)
        assert flag_values.help == ("--help" in words)
    elif words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word]
        assert targets
        for target in targets:
            assert re.search(rf"^{target}:", text("Makefile"), re.MULTILINE), target
    else:
        assert os.access(os.path.join(REPOSITORY, words[0]), os.X_OK)


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_of_a_page_exists(page):
    names = {name for script in scripts() for name in flags_of(script)}
    mentioned = set(re.findall(r"(?<![\w-])--([A-Za-z][\w-]*)", text(page)))
    assert mentioned - names - {f"no{name}" for name in names} - OTHERS_FLAGS == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page):
    pattern = r"(?<![\w-])((?:[\w-]+/)*[\w-]+\.(?:py|sh)|experiments/[a-z_/]+\.json|requirements_\w+\.txt)\b"
    folders = (REPOSITORY, os.path.join(REPOSITORY, os.path.dirname(page)))
    for name in set(re.findall(pattern, text(page))) - {UNPACKED}:
        assert any(os.path.isfile(os.path.join(folder, name)) for folder in folders), name


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page):
    folder = os.path.join(REPOSITORY, os.path.dirname(page))
    for link in re.findall(r"\]\(([^)\s#]+)", text(page)):
        assert "://" in link or os.path.exists(os.path.join(folder, link)), link


def test_there_are_files_and_links_to_check():
    assert len(re.findall(r"`[\w/]+\.py`", text("README.md"))) > 10
    assert len(re.findall(r"\]\(docs/", text("README.md"))) > 10
    assert len(re.findall(r"\]\(docs/", text("RESULTS.md"))) >= 10


def described_flags():
    """Script -> flag -> its default, from the tables of docs/flags.md: a column a script."""
    found = {}
    for line in text("docs/flags.md").splitlines():
        cells = [cell.strip().strip("`") for cell in line.split("|")[1:-1]]
        if line.startswith("| flag |"):
            columns = cells[1:-1]
        elif line.startswith("| `--"):
            for script, default in zip(columns, cells[1:-1], strict=True):
                if default != "-":
                    found.setdefault(script, {})[cells[0].removeprefix("--")] = default
    return found


def shown(default):
    """A default as docs/flags.md writes it."""
    if isinstance(default, bool):
        return "on" if default else "off"
    if default is None:
        return "absent"
    if isinstance(default, (list, tuple)):
        return ", ".join(map(shown, default)) or "empty"
    return (f"{default:g}" if isinstance(default, (int, float)) else default) or "empty"


@pytest.mark.parametrize("script", scripts())
def test_the_page_of_flags_has_those_of_a_script_with_their_defaults(script):
    assert described_flags().get(script, {}) == {
        name: "by cores" if name in MACHINES_OWN else shown(flag.default)
        for name, flag in flags_of(script).items()
    }

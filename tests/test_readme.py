"""What the READMEs tell people to type exists: scripts, flags, make targets, files."""

import importlib
import os
import re
import shlex
import sys

import pytest

from helpers import REPOSITORY
from toolbox import command_line

READMES = ("README.md", "RESULTS.md", "benchmarks/README.md", "tests/data/README.md")
sys.path.insert(0, os.path.join(REPOSITORY, "benchmarks"))


def text(name):
    with open(os.path.join(REPOSITORY, name), encoding="utf-8") as file:
        return file.read()


def commands():
    """Commands in the READMEs' code blocks and inline code, without comments and variables."""
    found = set()
    for name in READMES:
        blocks = re.findall(r"```\n(.*?)```", text(name), re.DOTALL)
        lines = [line for block in blocks for line in block.splitlines()]
        lines += re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text(name), flags=re.DOTALL))
        for line in lines:
            command = re.fullmatch(
                r"\s*(?:[A-Z_]+=\S+\s+)*((?:python3|make|\./rename-files\.sh)\s.*)", line, re.DOTALL
            )
            if command:
                found.add(tuple(shlex.split(command[1], comments=True)))
    return sorted(found)


def test_there_are_commands_to_check():
    programs = {words[1] for words in commands() if words[0] == "python3"}
    assert {
        "timit_processing.py",
        "solve_timit_with_framewise_lstm.py",
        "solve_timit_with_framewise_lsnn.py",
        "verify_eprop.py",
    } <= programs


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_of_the_readme_can_be_typed(words):
    if words[0] == "python3":
        module = importlib.import_module(os.path.basename(words[1]).removesuffix(".py"))
        flag_values, _ = command_line.parse_flags(module.define_flags, words[1:], -1)
        assert flag_values.help is False
    elif words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word]
        for target in targets:
            assert re.search(rf"^{target}:", text("Makefile"), re.MULTILINE), target
    else:
        assert os.access(os.path.join(REPOSITORY, words[0]), os.X_OK)


def test_every_flag_of_the_readme_exists():
    scripts = ("timit_processing", "solve_timit_with_framewise_lstm", "verify_eprop", "lmu_init")
    known = {"dry-run", "help", "no-deps", "name", "channel", "file"}
    for name in (*scripts, "solve_timit_with_framewise_lsnn", "explore_parameters"):
        flag_values, _ = command_line.parse_flags(importlib.import_module(name).define_flags, ["x"])
        known |= set(flag_values) | {f"no{flag}" for flag in flag_values}
    mentioned = set(re.findall(r"--\[?([A-Za-z][\w-]*)", text("README.md").replace("[no]", "")))
    assert mentioned - known == set()


def test_every_file_that_the_readme_names_exists():
    tables = re.findall(r"^\| (`[^|]+) \|", text("README.md"), re.MULTILINE)
    names = {name for row in tables for name in re.findall(r"`([\w/-]+\.(?:py|sh))`", row)}
    assert len(names) > 10
    names |= set(re.findall(r"experiments/\w+(?:/\w+)*\.json", text("README.md")))
    for name in names:
        assert os.path.isfile(os.path.join(REPOSITORY, name)), name


def test_figures_and_reports_of_the_results_exist():
    links = re.findall(r"\]\(([^)]+)\)", text("RESULTS.md"))
    assert len(links) > 10
    for link in links:
        assert os.path.isfile(os.path.join(REPOSITORY, link)), link

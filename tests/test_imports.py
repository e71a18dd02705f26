"""The import rule: which room may import which, and what never loads TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import LIMIT_S, REPOSITORY, assert_user_error

ROOT = Path(REPOSITORY)
# Files by room; a module at the top is a room of its own.
ROOMS = {path.stem: [path] for path in sorted(ROOT.glob("*.py"))}
ROOMS |= {path.parent.name: sorted(path.parent.glob("*.py")) for path in ROOT.glob("*/__init__.py")}
ALLOWED = {
    "toolbox": "",
    "eprop": "",
    "layers": "",
    "speech": "toolbox",
    "exploration": "toolbox",
    "models": "layers eprop toolbox",
    "lmu": "layers speech toolbox",
    "tasks": "speech models toolbox",
    "training": "tasks models eprop layers lmu toolbox",
    "inference": "training tasks models layers lmu speech toolbox",
}
SCRIPT = " ".join(ALLOWED)  # a script may import all of these, and no script
TESTS_OWN = {
    path.stem for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")
}
TESTS_OWN -= {"__init__"}
NUMBA_LAYERS = ("neurons", "threads", "arguments", "compiling", "kernels")
NUMBA_LAYERS += ("event_driven", "event_readout", "fused_lstm")


def imported(path):
    """First names of what a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module.split(".")[0]


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_what_it_may(room):
    for path in ROOMS[room]:
        foreign = set(imported(path)) & set(ROOMS) - {room}
        assert room in ALLOWED or path.parent == ROOT, f"{room}: a new room needs a rule"
        assert foreign <= set(ALLOWED.get(room, SCRIPT).split()), path
        assert not set(imported(path)) & TESTS_OWN, path
        if path.name == "__init__.py":
            assert len(ast.parse(path.read_text()).body) == 1  # its docstring


@pytest.mark.parametrize(
    "path", [p for p in ROOT.glob("*.py") if "command_line.run(" in p.read_text()]
)
def test_a_script_says_what_to_do_without_the_environment(path):
    """-S: nothing that is installed can be imported."""
    command = [sys.executable, "-S", path]
    process = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert_user_error(process, "absl is not installed", "source .venv/bin/activate")


def test_neither_tensorflow_nor_pyplot_is_imported_where_it_is_not_needed():
    names = [f"layers.{name}" for name in NUMBA_LAYERS]
    for room in ("speech", "lmu", "exploration", "toolbox"):
        names += [f"{room}.{path.stem}" for path in ROOMS[room]]
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {names}]; "
        "print({'tensorflow', 'matplotlib.pyplot'} & set(sys.modules))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert process.stdout == "set()\n", process.stdout + process.stderr

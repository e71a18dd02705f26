"""The import rule: which room may import which, and what never loads TensorFlow."""

import ast
import os
import subprocess
import sys

import pytest

from helpers import REPOSITORY

NUMBA_LAYERS = ("neurons", "threads", "arguments", "event_driven", "fused_lstm")
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
SCRIPT = " ".join(ALLOWED)  # a script: every room, models and eprop, and no script


def rooms_and_modules():
    """Paths of the source by room; a module at the top is a room of its own."""
    rooms = {}
    for name in sorted(os.listdir(REPOSITORY)):
        path = os.path.join(REPOSITORY, name)
        if name.endswith(".py"):
            rooms[name.removesuffix(".py")] = [path]
        elif os.path.exists(os.path.join(path, "__init__.py")):
            files = sorted(os.listdir(path))
            rooms[name] = [os.path.join(path, file) for file in files if file.endswith(".py")]
    return rooms


ROOMS = rooms_and_modules()


def imported(path):
    """First names of what a file imports, also within functions."""
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module.split(".")[0]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_it_may(room):
    allowed = {room, *ALLOWED.get(room, SCRIPT).split()}
    for path in ROOMS[room]:
        forbidden = set(imported(path)) & set(ROOMS) - allowed
        assert not forbidden, f"{path} imports {forbidden}"


@pytest.mark.parametrize("room", [room for room, paths in ROOMS.items() if len(paths) > 1])
def test_a_room_itself_is_a_docstring_and_no_more(room):
    with open(os.path.join(REPOSITORY, room, "__init__.py"), encoding="utf-8") as file:
        tree = ast.parse(file.read())
    assert len(tree.body) == 1 and ast.get_docstring(tree)


def test_neither_tensorflow_nor_pyplot_is_imported_where_it_is_not_needed():
    names = [f"layers.{name}" for name in NUMBA_LAYERS]
    for room in ("speech", "lmu", "exploration", "toolbox"):
        names += [f"{room}.{os.path.basename(path).removesuffix('.py')}" for path in ROOMS[room]]
    names = [name.removesuffix(".__init__") for name in names]
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {names}]; "
        "print({'tensorflow', 'matplotlib.pyplot'} & set(sys.modules))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=240
    )
    assert process.stdout == "set()\n", process.stdout + process.stderr

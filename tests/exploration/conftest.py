"""Folders of experiments, and training that takes no time."""

import functools

import pytest

from exploration import runs
from small_runs import FAST_SCRIPT, SCRIPT, write_folder


@pytest.fixture
def experiment_folder(tmp_path):
    """Function: a folder of finished runs, see `small_runs.write_folder`."""
    return functools.partial(write_folder, tmp_path / "runs")


@pytest.fixture
def fast_script(tmp_path, monkeypatch):
    """Runs take no time; gives the folder of their script."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / f"{SCRIPT}.py").write_text(FAST_SCRIPT)
    monkeypatch.setattr(runs, "SCRIPTS_FOLDER", str(folder))
    return folder

"""docs/walkthrough.py runs as a script, and is a notebook in jupytext's percent format."""

import os
import re
import runpy

from helpers import REPOSITORY, threads_kept
from toolbox import plotting

PATH = os.path.join(REPOSITORY, "docs", "walkthrough.py")


def test_it_is_a_notebook():
    with open(PATH) as file:
        text = file.read()
    assert text.startswith("# ---\n# jupyter:\n") and "format_name: percent" in text
    kinds = re.findall(r"^# %%(.*)$", text, re.MULTILINE)
    assert kinds.count("") >= 6 and kinds.count(" [markdown]") >= 6 and len(set(kinds)) == 2


def test_it_runs_from_the_matrices_to_a_trained_network(
    tiny_processed, tmp_path, monkeypatch, capsys
):
    drawn = []
    monkeypatch.setattr(plotting, "save_figure", lambda figure, path, *_: drawn.append(str(path)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATASET", tiny_processed)
    with threads_kept():
        names = runpy.run_path(PATH, run_name="__main__")
    assert names["error"] < 0.05  # a sine comes back after theta
    measured = names["measured"]
    capacities = [found["memory_capacity_channels"] for found in measured.values()]
    assert list(measured) == ["LMU", "rows permuted", "floor"]
    assert capacities[0] > max(capacities[1:]) + 1
    assert all(len(found["r2_channels"]) == 21 for found in measured.values())
    out = capsys.readouterr().out
    assert "theta B = [ 1 -3  5 -7]" in out and "rows permuted  capacity" in out
    assert names["metrics"]["iterations"] == 8
    assert names["metrics"]["memory_capacity_before"] > names["metrics"]["memory_capacity_after"]
    assert drawn[0] == "walkthrough/memory.png" and str(names["run"] / "memory.png") in drawn

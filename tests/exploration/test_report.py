"""Reports of hand-made run folders."""

import csv
import json
import os

import numpy as np
import pytest
from matplotlib.image import imread

from exploration.report import write_report
from small_runs import PLAN, SCRIPT
from toolbox.command_line import UserError


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_report_is_traceable_to_run_folders(experiment_folder, tmp_path):
    folder, report = experiment_folder(without=[11]), tmp_path / "elsewhere" / "report"
    write_report(str(folder), str(report))
    assert sorted(os.listdir(report)) == [
        *("conditions.csv", "differences.csv", "differences.png"),
        *("learning_curves.png", "report.md", "runs.csv"),
    ]
    runs = rows_of(report / "runs.csv")
    assert len(runs) == 11
    for row in runs:
        with open(report / row["run_folder"] / "metrics.json", encoding="utf-8") as file:
            metrics = json.load(file)
        assert float(row["test_frame_error"]) == pytest.approx(
            metrics["test_frame_error"], rel=1e-5
        )
        assert (row["commit"], row["data_sha256"]) == ("abc def", "f00")
    errors = {(row["start"], row["eprop"], row["seed"]): float(row["test_error"]) for row in runs}
    for row in rows_of(report / "conditions.csv"):
        if row["metric"] == "test_error":
            point = row["start"], row["eprop"]
            values = [errors[*point, seed] for seed in row["seeds"].split()]
            assert float(row["mean"]) == pytest.approx(np.mean(values), rel=1e-5)
    text = (report / "report.md").read_text()
    assert text.startswith("# starts\n\nwhat is asked\n\n11 of 12 runs finished; errors are")
    assert "**Not finished:** start=LMU_eprop=random_seed=3_" in text
    assert "started between 2020-01-02 03:04 and 2020-01-02 03:04; 22.00 hours of" in text
    assert "errors are `frame_error`; seeds 1, 2, 3; commit abc, def;" in text
    assert "**The runs were not all made by the same commit:**" in text
    assert "| small | 0.540 [0.515, 0.565] | 0.540 [0.515, 0.565] |" in text
    # t(1 - 0.05 / 4, 2) = 6.2053: both rules' intervals hold with 95 %.
    assert "-0.030 [-0.066, +0.006]; 3 of 3; p 0.25 (0.25)" in text
    assert "| LMU | 3 of 3 earlier, 0 later; p 0.25 (0.25) |" not in text
    assert "* Against start 'small': **no difference shown**: LMU (symmetric). **no verdict" in text
    assert "| small | 0.900 [0.900, 0.900] |" in text  # seconds an iteration
    for figure in ("learning_curves.png", "differences.png"):
        assert f"]({figure})" in text and imread(report / figure).shape[0] > 100


def test_a_brief_report_has_one_figure(experiment_folder, tmp_path):
    folder = experiment_folder()
    write_report(str(folder), str(tmp_path / "brief"), has_curves=False)
    assert [p.name for p in (tmp_path / "brief").glob("*.png")] == ["differences.png"]
    (folder / "plan.json").write_text(json.dumps({**PLAN, "baseline": []}))
    write_report(str(folder), str(tmp_path / "curves"), has_curves=False)
    assert [p.name for p in (tmp_path / "curves").glob("*.png")] == ["learning_curves.png"]


def test_hours_are_told_only_if_all_runs_recorded_them(experiment_folder):
    folder = experiment_folder()
    path = next((folder / SCRIPT).glob("*/metrics.json"))
    metrics = json.loads(path.read_text())
    path.write_text(json.dumps({n: v for n, v in metrics.items() if n not in ("hours", "started")}))
    write_report(str(folder), str(folder))
    runs = rows_of(folder / "runs.csv")
    assert sorted(row["hours"] for row in runs) == ["", *["2"] * 11]
    assert sorted(row["started"] for row in runs) == ["", *["2020-01-02T03:04:05"] * 11]
    text = (folder / "report.md").read_text()
    assert "; hours not recorded." in text and "started between 2020" in text


def test_report_tells_that_the_data_differ(experiment_folder):
    folder = experiment_folder()
    write_report(str(folder), str(folder))
    assert "not all made on the same data" not in (folder / "report.md").read_text()
    flags = next((folder / SCRIPT).glob("*/flags.json"))
    flags.write_text(json.dumps({"seed": 1, "commit": "abc", "data_sha256": "ba5"}))
    write_report(str(folder), str(folder))
    assert "not all made on the same data" in (folder / "report.md").read_text()


def test_report_of_one_condition_without_a_baseline(experiment_folder):
    plan = {**PLAN, "grid": {"start": {"small": {}}}, "seeds": [1], "baseline": []}
    folder = experiment_folder(plan)
    write_report(str(folder), str(folder))
    text = (folder / "report.md").read_text()
    assert "| small | 0.550 | 0.530 | 0.610 | 0.510 | 0.900 |" in text
    assert (
        "Minus" not in text and "Against" not in text and not (folder / "differences.csv").exists()
    )


def test_there_is_no_report_of_nothing(experiment_folder, tmp_path):
    folder = experiment_folder(without=range(12))
    with pytest.raises(UserError, match="no run of the plan is finished yet"):
        write_report(str(folder), str(folder))
    with pytest.raises(UserError, match="plan.json: cannot be read"):
        write_report(str(tmp_path), str(tmp_path))

"""Statistics against SciPy and numbers by hand; reports of hand-made run folders."""

import csv
import itertools
import json
import math
import os

import numpy as np
import optuna
import pytest
from matplotlib.image import imread
from scipy import stats
from small_runs import ITERATIONS, SCRIPT, small_curve, write_run

from exploration import report as comparison
from exploration.plan import read_plan
from exploration.report import (
    Experiment,
    interval_over_seeds,
    iterations_to_reach,
    paired_difference,
)
from toolbox.command_line import UserError

PLAN = {
    "name": "starts",
    "comment": "what is asked",
    "script": f"{SCRIPT}.py",
    "grid": {
        "start": {"small": {}, "LMU": {"weight_scale": 0.5}},
        "eprop": ["symmetric", "random"],
    },
    "seeds": [1, 2, 3],
    "baseline": {"start": "small"},
}
# Development errors of the LMU's run minus the small start's, by seed: symmetric, random.
GAIN = {"symmetric": (-0.02, -0.03, -0.04), "random": (0.01, -0.01, 0.03)}


def curve_of(settings):
    curve = small_curve(settings.seed)
    if settings.labels["start"] == "LMU":
        gain = GAIN[settings.flags["eprop"]][settings.seed - 1]
        curve = [error + gain for error in curve]
    return curve


@pytest.fixture
def experiment_folder(tmp_path):
    """Function: a folder of finished runs of a plan, all but some, by their place in it."""

    def make(plan=PLAN, without=()):
        folder = tmp_path / "runs"
        folder.mkdir()
        (folder / "plan.json").write_text(json.dumps(plan))
        for i, settings in enumerate(read_plan(str(folder / "plan.json")).runs()):
            if i not in without:
                write_run(folder, settings, curve_of(settings))
        return folder

    return make


# --------------------------------------------------------------------------- statistics


def test_interval_is_that_of_students_t():
    result = interval_over_seeds([1, 2, 3])
    # By hand: t(0.975, 2) = 4.302653, standard deviation 1.
    assert result == pytest.approx(
        {"n": 3, "mean": 2, "std": 1, "low": 2 - 4.302653 / 3**0.5, "high": 2 + 4.302653 / 3**0.5},
        rel=1e-6,
    )
    values = np.random.default_rng(0).normal(0.4, 0.01, 7)
    result = interval_over_seeds(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (result["low"], result["high"]) == pytest.approx((low, high), rel=1e-12)


def test_one_seed_has_a_mean_and_nothing_else():
    result = interval_over_seeds([0.4])
    assert (result["n"], result["mean"]) == (1, 0.4)
    assert all(math.isnan(result[name]) for name in ("std", "low", "high"))
    assert math.isnan(interval_over_seeds([])["mean"])


def test_equal_seeds_have_an_interval_of_no_width():
    result = interval_over_seeds([0.25, 0.25, 0.25])
    assert (result["std"], result["low"], result["high"]) == (0, 0.25, 0.25)


def test_paired_difference_is_tested_exactly():
    generator = np.random.default_rng(1)
    a, b = generator.normal(0.41, 0.02, 6), generator.normal(0.42, 0.02, 6)
    result = paired_difference(a, b)
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (result["mean"], result["low"], result["high"]) == pytest.approx(
        (np.mean(a - b), low, high), rel=1e-9
    )
    # All 64 assignments of signs, one by one.
    means = [np.mean(signs * (a - b)) for signs in itertools.product((-1, 1), repeat=6)]
    share = np.mean(np.abs(means) >= abs(np.mean(a - b)) - 1e-12)
    assert 0 < share < 1
    assert result["p_permutation"] == pytest.approx(share, abs=1e-12)
    n_smaller = int(np.sum(a < b))
    tail = sum(math.comb(6, k) for k in range(min(n_smaller, 6 - n_smaller) + 1)) / 2**6
    assert result["p_sign"] == pytest.approx(min(1, 2 * tail))


def test_five_seeds_of_one_sign_give_the_least_p_that_five_can_give():
    result = paired_difference([0.1, 0.2, 0.3, 0.4, 0.5], [0.2, 0.4, 0.6, 0.8, 1.0])
    assert result["p_permutation"] == result["p_sign"] == 2 / 2**5
    assert (result["n_smaller"], result["n_larger"], result["n_pairs"]) == (5, 0, 5)


def test_no_difference_is_no_evidence():
    result = paired_difference([0.3, 0.3], [0.3, 0.3])
    assert result["p_permutation"] == result["p_sign"] == 1
    assert (result["mean"], result["low"], result["high"]) == (0, 0, 0)


def test_never_is_later_than_any_iteration():
    result = paired_difference([math.inf, 40, math.inf, math.inf], [60, 60, 20, math.inf])
    assert (result["n_smaller"], result["n_larger"], result["n"]) == (1, 2, 1)
    assert result["mean"] == -20  # of the pair in which both arrive
    assert math.isnan(result["p_permutation"])
    assert result["p_sign"] == 1  # 1 of 3

    errors = {0: 0.9, 20: 0.5, 40: 0.6}
    curve = [{"iteration": i, "develop_frame_error": e} for i, e in errors.items()]
    assert iterations_to_reach(curve, 0.5) == 20
    assert iterations_to_reach(curve, 0.95) == 0
    assert iterations_to_reach(curve, 0.49) == math.inf


# --------------------------------------------------------------------------- runs of a plan


def test_experiment_reads_what_the_runs_say(experiment_folder):
    folder = experiment_folder(without=[11])
    experiment = Experiment(str(folder), str(folder))
    assert [settings.labels["eprop"] for settings in experiment.missing] == ["random"]
    assert len(experiment.runs) == 11
    summary = experiment.summary.set_index(["start", "eprop", "metric"])
    row = summary.loc["small", "symmetric", "final_develop_frame_error"]
    assert (row["n"], row["mean"], row["std"]) == (3, pytest.approx(0.54), pytest.approx(0.01))
    # Iterations 40, 60 and 80 are the second half.
    row = summary.loc["small", "symmetric", "late_develop_frame_error"]
    assert row["mean"] == pytest.approx(0.02 + (0.6 + 0.5 + 0.52) / 3)
    assert summary.loc["LMU", "random", "test_frame_error"]["n"] == 2
    # The small start's mean late error, 0.56, is reached by all its seeds at iteration 60.
    row = summary.loc["small", "random", "iterations_to_reach"]
    assert (row["median"], row["n_infinite"]) == (60, 0)


def test_differences_are_of_matched_seeds_all_else_being_equal(experiment_folder):
    folder = experiment_folder(without=[4])  # small, random, seed 2
    differences = Experiment(str(folder), str(folder)).differences
    assert set(differences["start"]) == {"LMU"}
    rows = differences.set_index(["eprop", "metric"])
    row = rows.loc["symmetric", "final_develop_frame_error"]
    expected = interval_over_seeds(GAIN["symmetric"])
    assert [row[name] for name in expected] == pytest.approx(list(expected.values()), rel=1e-9)
    assert (row["n_smaller"], row["p_sign"]) == (3, 0.25)
    row = rows.loc["random", "best_develop_frame_error"]  # without seed 2, -0.01
    assert (row["n_pairs"], row["mean"]) == (2, pytest.approx(0.02))
    for seed, path, baseline in zip(
        (1, 3), row["run_folders"].split(), row["baseline_run_folders"].split()
    ):
        assert f"seed={seed}_" in path and "start=LMU_eprop=random" in path
        assert f"seed={seed}_" in baseline and "start=small_eprop=random" in baseline
        assert (folder / path / "metrics.json").is_file()
    row = rows.loc["random", "iterations_to_reach"]
    assert (row["n_pairs"], row["n_smaller"]) == (2, 0)


def test_all_seeds_have_to_reach_one_error(experiment_folder):
    folder = experiment_folder()
    (path,) = (folder / SCRIPT).glob("*start=small_eprop=random_seed=3*/metrics.jsonl")
    lines = [{"iteration": i, "develop_frame_error": 0.87} for i in ITERATIONS]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = Experiment(str(folder), str(folder)).runs
    runs = runs.set_index(["start", "eprop", "seed"]).sort_index()
    errors, reached = runs["error_to_reach"], runs["iterations_to_reach"]
    # Late errors of the small start: 0.55, 0.56 and 0.57, under random 0.87 for the last.
    assert list(errors["LMU", "symmetric"]) == pytest.approx([0.56] * 3)
    assert list(errors["LMU", "random"]) == pytest.approx([0.66] * 3)
    assert list(errors["small", "random"]) == pytest.approx([0.66] * 3)
    assert list(reached["small", "random"]) == [40, 40, math.inf]
    assert list(reached["LMU", "symmetric"]) == [60, 60, 60]


def test_memory_is_compared_where_it_was_measured(experiment_folder):
    folder = experiment_folder()
    for file in (folder / SCRIPT).glob("*/metrics.json"):
        metrics = json.loads(file.read_text())
        metrics["memory_capacity_before"] = 10.0 + metrics["seed"]
        file.write_text(json.dumps(metrics))
    experiment = Experiment(str(folder), str(folder))
    assert "memory_capacity_before" in experiment.metrics
    assert "memory_capacity_after" not in experiment.metrics
    summary = experiment.summary
    rows = summary[summary["metric"] == "memory_capacity_before"]
    assert len(rows) == 4 and set(rows["mean"]) == {12.0}
    assert (rows["n"] == 3).all()


def test_iterations_are_compared_with_the_baseline_that_sets_the_error(experiment_folder):
    plan = {**PLAN, "baseline": [{"start": "small"}, {"eprop": "random"}]}
    folder = experiment_folder(plan)
    differences = Experiment(str(folder), str(folder)).differences
    of_iterations = differences[differences["metric"] == "iterations_to_reach"]
    assert set(of_iterations["baseline"]) == {"start 'small'"}
    assert len(set(differences["baseline"])) == 2


def test_several_baselines_and_a_given_error(experiment_folder):
    plan = {**PLAN, "baseline": [{"start": "small"}, {"eprop": "random"}], "reach_error": 0.611}
    folder = experiment_folder(plan)
    experiment = Experiment(str(folder), str(folder))
    differences = experiment.differences
    assert set(differences["baseline"]) == {"start 'small'", "eprop 'random'"}
    rows = differences[differences["baseline"] == "eprop 'random'"].set_index(["start", "metric"])
    assert set(rows["eprop"]) == {"symmetric"}
    expected = np.subtract(GAIN["symmetric"], GAIN["random"]).mean()
    assert rows.loc["LMU", "test_frame_error"]["mean"] == pytest.approx(expected)
    reached = experiment.runs.set_index(["start", "eprop", "seed"])["iterations_to_reach"]
    assert (reached["small", "random", 1], reached["small", "random", 2]) == (40, 60)


def test_a_run_of_other_settings_or_unfinished_is_no_run_of_the_plan(experiment_folder):
    folder = experiment_folder()
    other = read_plan(str(folder / "plan.json")).runs()[0]._replace(flags={"reg": 1})
    write_run(folder, other, [0.1] * 5)
    run = read_plan(str(folder / "plan.json")).runs()[0]
    unfinished = write_run(folder, run, [0.2] * 5, time="2030_01_01__00_00_00_000000")
    (unfinished / "metrics.json").unlink()
    experiment = Experiment(str(folder), str(folder))
    assert len(experiment.runs) == 12 and not experiment.missing
    assert experiment.runs["final_develop_frame_error"].min() > 0.45


def test_the_chosen_point_is_the_best_on_the_development_set(experiment_folder):
    folder = experiment_folder({**PLAN, "choose": "start"})
    chosen = Experiment(str(folder), str(folder)).chosen().set_index("eprop")["start"]
    assert chosen.to_dict() == {"symmetric": "LMU", "random": "small"}


def test_an_axis_is_not_named_as_a_column_of_the_report(experiment_folder):
    folder = experiment_folder()
    experiment = Experiment(str(folder), str(folder))
    for table in (experiment.summary, experiment.differences):
        assert set(table) - set(experiment.axes) <= set(comparison.STATISTICS)
    for name in ("metric", "commit"):
        plan = {**PLAN, "grid": {name: PLAN["grid"]["start"]}, "baseline": {name: "small"}}
        (folder / "plan.json").write_text(json.dumps(plan))
        for settings in read_plan(str(folder / "plan.json")).runs():
            write_run(folder, settings, small_curve(settings.seed))
        with pytest.raises(UserError, match=f"axis '{name}' has the name of a column"):
            Experiment(str(folder), str(folder))


def test_what_is_not_run_with_all_seeds_is_not_chosen(experiment_folder):
    plan = {
        **PLAN,
        "choose": "start",
        "grid": {"start": {"a": {}, "b": {"reg": 1}, "c": {"reg": 2}}},
    }
    folder = experiment_folder({**plan, "baseline": []}, without=[2])  # seeds 1 and 2 err less
    chosen = Experiment(str(folder), str(folder)).chosen()
    assert chosen[["start", "at_an_end"]].values.tolist() == [["b", "yes"]]


def test_evaluations_are_read_without_a_line_that_is_being_written(tmp_path):
    assert comparison.read_evaluations(str(tmp_path)) == []
    line = '{"iteration": %d, "develop_frame_error": 0.5}\n'
    (tmp_path / "metrics.jsonl").write_text(line % 0 + line % 20 + '{"itera')
    assert [e["iteration"] for e in comparison.read_evaluations(str(tmp_path))] == [0, 20]


@pytest.mark.parametrize(
    "file, content",
    [
        ("metrics.json", b"[]"),
        ("metrics.json", b'{"seed": 1, "iterations": 80, "test_frame_error": null}'),
        ("metrics.jsonl", b""),
        ("metrics.jsonl", b'{"iteration": 0}\n'),
        ("metrics.jsonl", b"\xff\n"),
        ("flags.json", b"[]"),
    ],
)
def test_a_damaged_run_is_told_in_words(experiment_folder, file, content):
    folder = experiment_folder()
    next((folder / SCRIPT).glob(f"*/{file}")).write_bytes(content)
    with pytest.raises(UserError, match="is damaged.*: delete the run's folder"):
        Experiment(str(folder), str(folder))


# --------------------------------------------------------------------------- reports


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_report_is_traceable_to_run_folders(experiment_folder, tmp_path):
    folder, report = experiment_folder(without=[11]), tmp_path / "elsewhere" / "report"
    comparison.write_report(str(folder), str(report))
    assert sorted(os.listdir(report)) == [
        *("conditions.csv", "differences.csv", "differences_1.png"),
        *("learning_curves.png", "report.md", "runs.csv"),
    ]
    runs = rows_of(report / "runs.csv")
    assert len(runs) == 11
    for row in runs:
        with open(report / row["run_folder"] / "metrics.json", encoding="utf-8") as file:
            metrics = json.load(file)
        assert float(row["test_frame_error"]) == metrics["test_frame_error"]
        assert (row["commit"], row["data_sha256"]) == ("abc def", "f00")
    by_folder = {row["run_folder"]: float(row["test_frame_error"]) for row in runs}
    for row in rows_of(report / "conditions.csv"):
        if row["metric"] == "test_frame_error":
            values = [by_folder[path] for path in row["run_folders"].split()]
            assert float(row["mean"]) == pytest.approx(np.mean(values))
    text = (report / "report.md").read_text()
    assert text.startswith("# starts\n\nwhat is asked\n\n11 of 12 runs finished; seeds 1, 2, 3;")
    assert "**Not finished:** start=LMU_eprop=random_seed=3_" in text
    assert "started between 2020-01-02 03:04 and 03:04, 22.00 hours of processes" in text
    assert "**The runs were not all made by the same commit:**" in text
    assert "| small | symmetric | 3 | 0.5400 +- 0.0100 [0.515, 0.565] |" in text
    assert "no p can be below 0.25" in text
    assert "| LMU | symmetric | -0.0300 [-0.0548, -0.0052]; 3 of 3; p 0.250 |" in text
    assert imread(report / "learning_curves.png").shape[0] > 500


def test_report_tells_that_the_data_differ(experiment_folder):
    folder = experiment_folder()
    comparison.write_report(str(folder), str(folder))
    assert "not all made on the same data" not in (folder / "report.md").read_text()
    flags = next((folder / SCRIPT).glob("*/flags.json"))
    flags.write_text(json.dumps({"seed": 1, "commit": "abc", "data_sha256": "ba5"}))
    comparison.write_report(str(folder), str(folder))
    assert "not all made on the same data" in (folder / "report.md").read_text()


def test_report_of_one_condition_without_a_baseline(experiment_folder):
    plan = {**PLAN, "grid": {"start": {"small": {}}}, "seeds": [1], "baseline": []}
    folder = experiment_folder(plan)
    comparison.write_report(str(folder), str(folder))
    text = (folder / "report.md").read_text()
    assert "| small | 1 | 0.5300 |" in text
    assert "Differences" not in text and not (folder / "differences.csv").exists()


def test_there_is_no_report_of_nothing(experiment_folder, tmp_path):
    folder = experiment_folder(without=range(12))
    with pytest.raises(UserError, match="no run of the plan is finished yet"):
        comparison.write_report(str(folder), str(folder))
    with pytest.raises(UserError, match="plan.json: cannot be read"):
        comparison.write_report(str(tmp_path), str(tmp_path))


def test_report_of_a_search(tmp_path):
    plan = {name: PLAN[name] for name in ("name", "comment", "script", "seeds")}
    plan["search"] = {"n_trials": 3, "ranges": {"lr_init": {"low": 0.001, "high": 0.1}}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(UserError, match="no such study"):
        comparison.write_report(str(tmp_path), str(tmp_path))
    storage = comparison.open_storage(str(tmp_path / comparison.STUDY_FILE))
    with pytest.raises(UserError, match="holds no study 'starts'"):
        comparison.write_report(str(tmp_path), str(tmp_path))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=storage, study_name="starts")
    for rate, error in ((0.01, 0.42), (0.02, 0.40)):
        trial = optuna.create_trial(
            params={"lr_init": rate},
            distributions={"lr_init": optuna.distributions.FloatDistribution(0.001, 0.1)},
            value=error,
            user_attrs={"run_folders": [f"run_{rate}"]},
        )
        study.add_trial(trial)
    comparison.write_report(str(tmp_path), str(tmp_path))
    text = (tmp_path / "report.md").read_text()
    assert "2 complete; best is trial 1, development frame error 0.4000: lr_init=0.02" in text
    assert text.index("| 1 | 0.4000 | 0.02 |") < text.index("| 0 | 0.4200 | 0.01 |")
    assert "run_0.01" in (tmp_path / "trials.csv").read_text()

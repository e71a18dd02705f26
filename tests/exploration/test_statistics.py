"""Statistics against SciPy and numbers by hand; runs of a plan and what they are compared by."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats

from exploration.plan import read_plan
from exploration.statistics import (
    BEST,
    COLUMNS,
    FINAL,
    LATE,
    REACH,
    TEST,
    VERDICTS,
    interval_over_seeds,
    iterations_to_reach,
    paired_difference,
    read_experiment,
)
from small_runs import GAIN, ITERATIONS, PLAN, SCRIPT, small_curve, write_folder, write_run
from toolbox.command_line import UserError


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
    assert iterations_to_reach(errors, 0.5) == 20
    assert iterations_to_reach(errors, 0.95) == 0
    assert iterations_to_reach(errors, 0.49) == math.inf


# --------------------------------------------------------------------------- runs of a plan


def test_experiment_reads_what_the_runs_say(experiment_folder):
    folder = experiment_folder(without=[11])
    experiment = read_experiment(str(folder), str(folder))
    assert [settings.labels["eprop"] for settings in experiment.missing] == ["random"]
    assert len(experiment.runs) == 11
    summary = experiment.summary.set_index(["start", "eprop", "metric"])
    row = summary.loc["small", "symmetric", FINAL]
    assert (row["n"], row["mean"], row["std"]) == (3, pytest.approx(0.54), pytest.approx(0.01))
    # Iterations 40, 60 and 80 are the second half.
    row = summary.loc["small", "symmetric", LATE]
    assert row["mean"] == pytest.approx(0.02 + (0.6 + 0.5 + 0.52) / 3)
    assert summary.loc["LMU", "random", TEST]["n"] == 2
    # The small start's mean late error, 0.56, is reached by all its seeds at iteration 60.
    row = summary.loc["small", "random", REACH]
    assert (row["median"], row["n_infinite"]) == (60, 0)


def test_differences_are_of_matched_seeds_all_else_being_equal(experiment_folder):
    folder = experiment_folder(without=[4])  # small, random, seed 2
    differences = read_experiment(str(folder), str(folder)).differences
    assert set(differences["start"]) == {"LMU"}
    rows = differences.set_index(["eprop", "metric"])
    row = rows.loc["symmetric", FINAL]
    # Two rules against one baseline: both intervals hold with 95 %.
    expected = interval_over_seeds(GAIN["symmetric"], 1 - 0.05 / 2)
    assert [row[name] for name in expected] == pytest.approx(list(expected.values()), rel=1e-9)
    assert (row["n_smaller"], row["p_sign"], row["p_least"]) == (3, 0.25, 0.25)
    row = rows.loc["random", TEST]  # without seed 2, -0.01
    assert (row["n_pairs"], row["mean"], row["seeds"]) == (2, pytest.approx(0.02), "1 3")
    assert row["verdict"] == "no verdict, fewer than 3 pairs"
    row = rows.loc["random", REACH]
    assert (row["n_pairs"], row["n_smaller"]) == (2, 0)


def test_all_seeds_have_to_reach_one_error(experiment_folder):
    folder = experiment_folder()
    (path,) = (folder / SCRIPT).glob("*start=small_eprop=random_seed=3*/metrics.jsonl")
    lines = [{"iteration": i, "develop_frame_error": 0.87} for i in ITERATIONS]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = read_experiment(str(folder), str(folder)).runs
    runs = runs.set_index(["start", "eprop", "seed"]).sort_index()
    errors, reached = runs["error_to_reach"], runs[REACH]
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
        metrics["memory_capacity_floor"] = 9.0
        file.write_text(json.dumps(metrics))
    experiment = read_experiment(str(folder), str(folder))
    summary = experiment.summary
    assert "memory_capacity_after" not in set(summary["metric"])
    assert "memory_capacity_before" in set(experiment.differences["metric"])
    assert "memory_capacity_floor" not in set(experiment.differences["metric"])
    floors = summary[summary["metric"] == "memory_capacity_floor"]
    assert set(floors["mean"]) == {9.0} and len(floors) == 4
    rows = summary[summary["metric"] == "memory_capacity_before"]
    assert len(rows) == 4 and set(rows["mean"]) == {12.0}
    assert (rows["n"] == 3).all()


def test_iterations_are_compared_with_the_baseline_that_sets_the_error(experiment_folder):
    plan = {**PLAN, "baseline": [{"start": "small"}, {"eprop": "random"}]}
    folder = experiment_folder(plan)
    differences = read_experiment(str(folder), str(folder)).differences
    of_iterations = differences[differences["metric"] == REACH]
    assert set(of_iterations["baseline"]) == {"start 'small'"}
    assert len(set(differences["baseline"])) == 2


def test_several_baselines_and_a_given_error(experiment_folder):
    plan = {**PLAN, "baseline": [{"start": "small"}, {"eprop": "random"}], "reach_error": 0.611}
    folder = experiment_folder(plan)
    experiment = read_experiment(str(folder), str(folder))
    differences = experiment.differences
    assert set(differences["baseline"]) == {"start 'small'", "eprop 'random'"}
    rows = differences[differences["baseline"] == "eprop 'random'"].set_index(["start", "metric"])
    assert set(rows["eprop"]) == {"symmetric"}
    expected = np.subtract(GAIN["symmetric"], GAIN["random"]).mean()
    assert rows.loc["LMU", TEST]["mean"] == pytest.approx(expected)
    reached = experiment.runs.set_index(["start", "eprop", "seed"])[REACH]
    assert (reached["small", "random", 1], reached["small", "random", 2]) == (40, 60)


def test_a_run_of_other_settings_or_unfinished_is_no_run_of_the_plan(experiment_folder):
    folder = experiment_folder()
    other = read_plan(str(folder / "plan.json")).runs()[0]._replace(flags={"reg": 1})
    write_run(folder, other, [0.1] * 5)
    run = read_plan(str(folder / "plan.json")).runs()[0]
    unfinished = write_run(folder, run, [0.2] * 5, time="2030_01_01__00_00_00_000000")
    (unfinished / "metrics.json").unlink()
    experiment = read_experiment(str(folder), str(folder))
    assert len(experiment.runs) == 12 and not experiment.missing
    assert experiment.runs[FINAL].min() > 0.45


def test_the_verdict_is_that_of_an_interval_for_all_rules_and_baselines(experiment_folder):
    baselines = [{"start": "small"}, {"eprop": "random"}]
    differences = {}
    for name, plan in (
        (
            "one",
            {**PLAN, "grid": {"start": PLAN["grid"]["start"]}, "flags": {"eprop": "symmetric"}},
        ),
        ("two", {**PLAN, "baseline": baselines}),
    ):
        experiment = read_experiment(
            *[str(write_folder(experiment_folder.args[0].with_name(name), plan))] * 2
        )
        rows = experiment.differences.set_index(["metric", "baseline"]).loc[LATE, "start 'small'"]
        differences[name] = rows.iloc[0] if rows.ndim > 1 else rows
    # t(1 - 0.05 / 2, 2) = 4.3027 against t(1 - 0.05 / 8, 2) = 8.8602; the standard error is 0.00577.
    for name, half_width, verdict in (("one", 0.0248, "lower"), ("two", 0.0512, VERDICTS[2])):
        row = differences[name]
        assert (row["mean"], row["verdict"]) == (pytest.approx(-0.03), verdict)
        assert row["high"] - row["mean"] == pytest.approx(half_width, abs=1e-4)


def test_verdicts_are_lower_higher_or_none():
    for values, verdict in (
        ([-2, -2.1, -1.9], "lower"),
        ([2, 2.1, 1.9], "higher"),
        ([1, -1, 0.5], "no difference shown"),
        ([2, 2.0001], "no verdict, fewer than 3 pairs"),
        ([2], "no verdict, fewer than 3 pairs"),
    ):
        assert paired_difference(values, [0] * len(values))["verdict"] == verdict


@pytest.mark.parametrize("metric", ["phone_error_rate", "error", None])
def test_runs_are_compared_by_the_metric_that_they_name(experiment_folder, metric):
    folder = experiment_folder(metric=metric)
    runs = read_experiment(str(folder), str(folder)).runs
    assert set(runs["metric"]) == {metric or "frame_error"}
    assert runs[TEST].min() == pytest.approx(0.5 + 0.01 - 0.02 + 0.1)
    assert runs[BEST].min() == pytest.approx(0.5 + 0.01 - 0.02)


def test_runs_of_different_metrics_are_not_compared(experiment_folder):
    folder = experiment_folder(without=[0])
    run = read_plan(str(folder / "plan.json")).runs()[0]
    write_run(folder, run, small_curve(1), metric="error")
    with pytest.raises(UserError, match="of different metrics .error, frame_error.: expected one"):
        read_experiment(str(folder), str(folder))


def test_the_chosen_point_is_the_best_on_the_development_set(experiment_folder):
    folder = experiment_folder({**PLAN, "choose": "start"})
    chosen = read_experiment(str(folder), str(folder)).chosen.set_index("eprop")["start"]
    assert chosen.to_dict() == {"symmetric": "LMU", "random": "small"}


def test_an_axis_is_not_named_as_a_column_of_the_report(experiment_folder):
    folder = experiment_folder()
    experiment = read_experiment(str(folder), str(folder))
    for table in (experiment.summary, experiment.differences):
        assert set(table) - set(experiment.axes) <= set(COLUMNS)
    for name in ("n_pairs", "commit"):
        plan = {**PLAN, "grid": {name: PLAN["grid"]["start"]}, "baseline": {name: "small"}}
        (folder / "plan.json").write_text(json.dumps(plan))
        for settings in read_plan(str(folder / "plan.json")).runs():
            write_run(folder, settings, small_curve(settings.seed))
        with pytest.raises(UserError, match=f"axis '{name}' has the name of a column"):
            read_experiment(str(folder), str(folder))


def test_what_is_not_run_with_all_seeds_is_not_chosen(experiment_folder):
    plan = {
        **PLAN,
        "choose": "start",
        "grid": {"start": {"a": {}, "b": {"reg": 1}, "c": {"reg": 2}}},
    }
    folder = experiment_folder({**plan, "baseline": []}, without=[2])  # seeds 1 and 2 err less
    chosen = read_experiment(str(folder), str(folder)).chosen
    assert chosen[["start", "at_an_end"]].values.tolist() == [["b", "yes"]]

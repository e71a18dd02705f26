"""Tables: one maker of Markdown, one way to write a mean, CSV with six significant digits."""

import math

import pandas as pd

from exploration import tables
from exploration.statistics import LATE, REACH, TEST

ROW = {"metric": LATE, "n": 3, "mean": 0.42345, "low": 0.41, "high": 0.4367}
PAIRS = {"n_smaller": 1, "n_larger": 2, "n_pairs": 3, "p_sign": 1.0, "p_permutation": 0.25}
DIFFERENCE = {**ROW, **PAIRS, "mean": -0.01, "low": -0.02, "high": 0.0004, "p_least": 0.25}


def test_means_and_differences_are_written_in_one_way():
    assert tables.mean_text(ROW) == "0.423 [0.410, 0.437]"
    assert tables.mean_text({**ROW, "n": 1}) == "0.423"
    text = tables.difference_text(DIFFERENCE)
    assert text == "-0.010 [-0.020, +0.000]; 1 of 3; p 0.25 (0.25)"


def test_iterations_have_a_median_and_may_be_never_reached():
    row = {"metric": REACH, "n": 3, "median": 60.0, "n_infinite": 0}
    assert tables.mean_text(row) == "60"
    assert tables.mean_text({**row, "n": 2, "n_infinite": 1}) == "60 (2 of 3 do)"
    never = {**row, "n": 1, "n_infinite": 1, "median": math.inf}
    assert tables.mean_text(never) == "never (1 of 2 do)"
    text = tables.difference_text({**DIFFERENCE, "metric": REACH})
    assert text == "1 of 3 earlier, 2 later; p 1 (0.25)"


def rows_of(*points):
    return pd.DataFrame([{**ROW, **point} for point in points])


def test_the_first_axis_goes_down_and_the_others_across():
    rows = rows_of(
        {"start": "a", "rule": "x"},
        {"start": "a", "rule": "y", "mean": 0.5},
        {"start": "b|c", "rule": "y"},
        {"start": "a", "rule": "x", "metric": TEST},
    )
    lines = tables.pivot(
        rows, ["start", "rule"], (TEST, LATE, REACH), lambda row: f"{row['mean']:.1f}"
    )
    assert lines == [
        *("| start \\ rule: test error | x |", "| --- | --- |", "| a | 0.4 |", ""),
        *("| start \\ rule: late development error | x | y |", "| --- | --- | --- |"),
        *("| a | 0.4 | 0.5 |", "| b/c |  | 0.4 |", ""),
    ]


def test_of_one_axis_the_metrics_go_across_and_of_none_there_is_one_row():
    rows = rows_of({"start": "a"}, {"start": "a", "metric": TEST})
    lines = tables.pivot(rows, ["start"], (LATE, TEST), lambda row: "0")
    assert lines[0] == "| start | late development error | test error |"
    assert lines[2:] == ["| a | 0 | 0 |", ""]
    lines = tables.pivot(rows_of({}), [], (LATE,), lambda row: "0")
    assert lines == ["| runs | late development error |", "| --- | --- |", "| all | 0 |", ""]
    assert tables.markdown([]) == []


def test_csv_has_six_significant_digits(tmp_path):
    table = pd.DataFrame({"seed": [1234567], "error": [0.123456789], "reach": [math.inf]})
    tables.write_csv(tmp_path / "x.csv", table)
    assert (tmp_path / "x.csv").read_text() == "seed,error,reach\n1234567,0.123457,inf\n"

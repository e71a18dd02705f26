"""Tables of what an experiment says: Markdown for readers, CSV for programs."""

from exploration.statistics import BEST, COSTS, FINAL, FLOOR, LATE, MEMORY, REACH, TEST
from toolbox.durable_files import write_whole

TITLES = {
    LATE: "late development error",
    FINAL: "development error at the end",
    BEST: "best development error",
    TEST: "test error",
    **dict(zip(MEMORY, ("memory capacity before training", "memory capacity after training"))),
    FLOOR: "memory capacity of the features alone",
    REACH: "iterations to reach the error",
    **dict(zip(COSTS, ("seconds an iteration", "peak memory (GB)"))),
}


def mean_text(row):
    """A condition's mean and interval; of iterations, some of them infinite, the median."""
    if row["metric"] != REACH:
        return _with_interval(row, "")
    n = row["n"] + row["n_infinite"]
    median = "never" if row["n"] <= n / 2 else f"{row['median']:.0f}"
    return median if row["n"] == n else f"{median} ({row['n']} of {n} do)"


def difference_text(row):
    """A difference's mean and interval, seeds, p and, in brackets, the least p of so many seeds."""
    smaller = f"{row['n_smaller']} of {row['n_pairs']}"
    if row["metric"] == REACH:
        text, p = f"{smaller} earlier, {row['n_larger']} later", row["p_sign"]
    else:
        text, p = f"{_with_interval(row, '+')}; {smaller}", row["p_permutation"]
    return f"{text}; p {p:.2g} ({row['p_least']:.2g})"


def _with_interval(row, sign):
    text = f"{row['mean']:{sign}.3f}"
    if row["n"] > 1:
        text += f" [{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]"
    return text


def pivot(rows, axes, metrics, cell):
    """Markdown tables of a statistic: the first axis down, the others across.

    Args:
        rows: DataFrame with columns of the axes, `metric` and the statistic.
        axes: names of the axes. Of one axis alone, the metrics go across a single table.
        metrics: in the order of the tables; those that `rows` lacks are left out.
        cell: function of a row (dict) that gives its text.
    """
    first, *others = axes or ["runs"]
    lines = []
    present = [metric for metric in metrics if (rows["metric"] == metric).any()]
    for group in [[metric] for metric in present] if others else [present]:
        columns, table = {}, {}
        for metric in group:
            for row in rows[rows["metric"] == metric].to_dict("records"):
                column = ", ".join(row[axis] for axis in others) or TITLES[metric]
                columns[column] = ""
                table.setdefault(row.get(first, "all"), {})[column] = cell(row)
        corner = f"{first} \\ {', '.join(others)}: {TITLES[group[0]]}" if others else first
        lines += markdown({corner: label, **columns, **cells} for label, cells in table.items())
        lines += [""]
    return lines


def markdown(rows):
    """Lines of a Markdown table of dicts with equal keys."""
    rows = list(rows)
    if not rows:
        return []
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]


def write_csv(path, table):
    """Write a table with six significant digits."""
    with write_whole(path, "w") as file:
        table.to_csv(file, index=False, lineterminator="\n", float_format="%.6g")

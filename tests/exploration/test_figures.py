"""Figures of many runs, looked at through matplotlib's own objects."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.image import imread

from exploration import figures
from exploration.statistics import LATE, TEST, read_experiment
from small_runs import GAIN, ITERATIONS, PLAN, small_curve
from toolbox import plotting


def bands(labels=("small", "LMU"), n=6):
    """Lines that fall from 0.9 to 0.5 and a tenth less for each, with bands of a hundredth."""
    iterations = [20 * i for i in range(n)]
    lines = {}
    for k, label in enumerate(labels):
        mean = np.linspace(0.9, 0.5, n) - 0.1 * k
        lines[label] = figures.Band(iterations, mean, mean - 0.01, mean + 0.01)
    return lines


def test_a_label_has_one_line_style_in_all_panels_and_a_band_in_its_colour():
    labels = [f"start {k}" for k in range(9)]  # more than there are colours
    panels = {"BPTT": bands(labels), "random": bands(labels[:0:-1])}
    figure = figures.plot_learning_curves.draw(panels, None, "title")
    styles = {}
    for axes, (panel, lines) in zip(figure.axes, panels.items()):
        assert axes.get_title() == panel and len(axes.lines) == len(axes.collections) == len(lines)
        for line, band in zip(axes.lines, axes.collections):
            assert np.allclose(line.get_xdata(), lines[line.get_label()].iterations)
            assert np.allclose(line.get_ydata(), lines[line.get_label()].mean)
            assert to_hex(band.get_facecolor()[0]) == to_hex(line.get_color())
            low, high = band.get_paths()[0].get_extents().intervaly
            assert (low, high) == pytest.approx(
                (min(lines[line.get_label()].low), max(lines[line.get_label()].high))
            )
            styles.setdefault(line.get_label(), set()).add(
                (to_hex(line.get_color()), line.get_linestyle())
            )
    assert all(len(style) == 1 for style in styles.values())
    assert len(set.union(*styles.values())) == 9
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == labels


def test_errors_of_the_beginning_do_not_flatten_the_end():
    figure = figures.plot_learning_curves.draw({"": bands(n=11)}, 0.87, "")
    low, high = figure.axes[0].get_ylim()
    # At a fifth of the training the upper curve is at 0.82; the band of the lower ends at 0.39.
    assert 0.35 < low < 0.39 and 0.83 < high < 0.87
    assert "constant" not in figure.legends[0].get_texts()[-1].get_text()
    figure = figures.plot_learning_curves.draw({"": bands(n=11)}, 0.7, "")
    assert figure.axes[0].lines[-1].get_ydata()[0] == 0.7
    assert figure.legends[0].get_texts()[-1].get_text() == "best constant answer"


def test_curves_of_one_seed_and_odd_numbers_of_panels(tmp_path):
    lone = figures.Band([0, 20], [0.9, 0.5], [np.nan, np.nan], [np.nan, np.nan])
    panels = {name: {"all": lone} for name in ("a", "b", "$c")}
    figures.plot_learning_curves(tmp_path / "figure.png", panels, 0.7, "50 $")
    assert imread(tmp_path / "figure.png").shape == (785, 1040, 4)
    figure = figures.plot_learning_curves.draw(panels, None, "")
    assert [axes.axison for axes in figure.axes] == [True, True, True, False]
    with pytest.raises(ValueError, match="no learning curves"):
        figures.plot_learning_curves.draw({}, None, "")


def test_lines_are_the_baselines_axes_and_panels_the_others(experiment_folder):
    folder = experiment_folder({**PLAN, "reach_error": 0.5}, without=[0])
    panels = figures.curve_panels(read_experiment(str(folder), str(folder)))
    assert {panel: list(lines) for panel, lines in panels.items()} == {
        "eprop 'symmetric'": ["small", "LMU"],
        "eprop 'random'": ["small", "LMU"],
    }
    band = panels["eprop 'symmetric'"]["small"]  # of seeds 2 and 3
    assert band.iterations == list(ITERATIONS)
    assert band.mean == pytest.approx(np.add(small_curve(2), 0.005))
    assert all(low < mean < high for _, mean, low, high in zip(*band))


def test_differences_are_drawn_seed_by_seed_with_the_colour_of_their_verdict(experiment_folder):
    gains = {"symmetric": (-0.02, -0.021, -0.022), "random": (0.01, -0.01, 0.03), "$": (0.1,) * 3}

    def curve_of(settings):
        start, rule = settings.labels.values()
        gain = gains[rule][settings.seed - 1] if start == "LMU" else 0
        return [error + gain for error in small_curve(settings.seed)]

    grid = {**PLAN["grid"], "eprop": {rule: {"eprop": rule} for rule in gains}}
    folder = experiment_folder({**PLAN, "grid": grid}, curve_of)
    experiment = read_experiment(str(folder), str(folder))
    figure = figures.plot_differences.draw(experiment, {"start": "small"})
    assert [axes.get_title() for axes in figure.axes] == ["late development error", "test error"]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["LMU, symmetric", "LMU, random", r"LMU, \$"]
    rows = experiment.differences.set_index(["metric", "eprop"])
    for axes, metric in zip(figure.axes, (LATE, TEST)):
        zero, *lines = axes.lines
        assert list(zero.get_xdata()) == [0, 0]
        assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top
        for place, (rule, values) in enumerate(gains.items()):
            interval, seeds, mean = lines[3 * place : 3 * place + 3]
            row = rows.loc[metric, rule]
            assert {*interval.get_ydata(), *seeds.get_ydata(), *mean.get_ydata()} == {place}
            assert list(interval.get_xdata()) == [row["low"], row["high"]]
            assert list(seeds.get_xdata()) == pytest.approx(values)
            assert list(mean.get_xdata()) == [row["mean"]]
        colours = [lines[3 * place].get_color() for place in range(3)]
        assert colours == [plotting.BLUE, "0.35", plotting.VERMILION]


def test_a_difference_of_one_seed_has_no_interval(experiment_folder):
    folder = experiment_folder({**PLAN, "seeds": [1]})
    experiment = read_experiment(str(folder), str(folder))
    figure = figures.plot_differences.draw(experiment, {"start": "small"})
    _, interval, seeds, *_ = figure.axes[0].lines
    assert np.isnan(interval.get_xdata()).all() and interval.get_color() == "0.35"
    assert list(seeds.get_xdata()) == pytest.approx([GAIN["symmetric"][0]])

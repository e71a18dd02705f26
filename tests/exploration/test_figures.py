"""Figures of many runs show the given numbers at the right places."""

import os

import numpy as np
import pytest
from matplotlib.colors import to_hex

from exploration import figures
from helpers import assert_draws, axis_names
from toolbox import plotting


def bands(labels=("small", "LMU"), n=6):
    """Lines that fall from 0.9 to 0.5 and a tenth less for each, with bands of a hundredth."""
    iterations = [20 * i for i in range(n)]
    lines = {}
    for k, label in enumerate(labels):
        mean = np.linspace(0.9, 0.5, n) - 0.1 * k
        lines[label] = figures.Band(iterations, mean, mean - 0.01, mean + 0.01)
    return lines


DIFFERENCES = [
    figures.Difference("LMU, BPTT", [-0.01, -0.02], -0.015, -0.03, -0.001),
    figures.Difference("LMU, $ymmetric", [0.01, 0.02, 0.03], 0.02, 0.01, 0.03),
    figures.Difference("delayed, BPTT", [0.01], 0.01, np.nan, np.nan),
]


@pytest.mark.parametrize(
    "plot, panel, size_px",
    [
        (figures.plot_learning_curve_bands, bands(), (2080, 890)),
        (figures.plot_differences, DIFFERENCES, (1760, 352)),
    ],
)
def test_file_is_a_png_of_the_figures_size(plot, panel, size_px, tmp_path):
    assert_draws(plot, {"panels": {"a": panel, "b": panel}}, size_px, tmp_path)


def test_a_label_has_one_line_style_in_all_panels_and_a_band_in_its_colour():
    labels = [f"start {k}" for k in range(9)]  # more than there are colours
    panels = {"BPTT": bands(labels), "random": bands(labels[:0:-1])}
    figure = figures._learning_curve_bands_figure(panels, None, "title")
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
    figure = figures._learning_curve_bands_figure({"": bands(n=11)}, 0.87, "")
    low, high = figure.axes[0].get_ylim()
    # At a fifth of the training the upper curve is at 0.82; the band of the lower ends at 0.39.
    assert 0.35 < low < 0.39 and 0.83 < high < 0.87
    assert "commonest" not in figure.legends[0].get_texts()[-1].get_text()
    figure = figures._learning_curve_bands_figure({"": bands(n=11)}, 0.7, "")
    assert figure.axes[0].lines[-1].get_ydata()[0] == 0.7
    assert figure.legends[0].get_texts()[-1].get_text() == "commonest phone only"


def test_curves_of_one_seed_and_odd_numbers_of_panels(tmp_path):
    lone = figures.Band([0, 20], [0.9, 0.5], [np.nan, np.nan], [np.nan, np.nan])
    panels = {name: {"all": lone} for name in ("a", "b", "$c")}
    figures.plot_learning_curve_bands(tmp_path / "figure.png", panels, 0.7, "50 $")
    assert os.listdir(tmp_path) == ["figure.png"]
    figure = figures._learning_curve_bands_figure(panels, None, "")
    assert [axes.axison for axes in figure.axes] == [True, True, True, False]
    with pytest.raises(ValueError, match="no learning curves"):
        figures._learning_curve_bands_figure({}, None, "")


# Differences


def test_differences_are_drawn_seed_by_seed_with_the_colour_of_their_sign():
    figure = figures._differences_figure({"late": DIFFERENCES, "test": DIFFERENCES}, "title")
    assert [axes.get_title() for axes in figure.axes] == ["late", "test"]
    names = axis_names(figure.axes[0])
    assert names == ["LMU, BPTT", r"LMU, \$ymmetric", "delayed, BPTT"]
    for axes in figure.axes:
        zero, *lines = axes.lines
        assert list(zero.get_xdata()) == [0, 0]
        assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top
        for place, difference in enumerate(DIFFERENCES):
            interval, seeds, mean = lines[3 * place : 3 * place + 3]
            assert {*interval.get_ydata(), *seeds.get_ydata(), *mean.get_ydata()} == {place}
            assert np.array_equal(
                interval.get_xdata(), [difference.low, difference.high], equal_nan=True
            )
            assert list(seeds.get_xdata()) == difference.values
            assert list(mean.get_xdata()) == [difference.mean]
        colours = [lines[3 * place].get_color() for place in range(3)]
        assert colours == [plotting.BLUE, plotting.VERMILION, "0.35"]


def test_differences_of_unequal_conditions_are_refused():
    for panels in ({}, {"a": []}, {"a": DIFFERENCES, "b": DIFFERENCES[1:]}):
        with pytest.raises(ValueError, match="no differences, or of unequal conditions"):
            figures._differences_figure(panels, "")

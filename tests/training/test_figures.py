"""The learning curve shows the given numbers at the right places."""

import numpy as np
import pytest

from helpers import assert_draws, texts, y_labels
from training import figures


def evaluations(n=6):
    """Errors fall to the least, 0.5, at iteration 80; the first evaluation has no train loss."""
    errors = [0.9, 0.8, 0.7, 0.6, 0.5, 0.55][:n]
    return [
        {
            "iteration": 20 * i,
            "develop_frame_error": error,
            "develop_loss": 4 * error,
            "train_loss": None if i == 0 else 3 * error,
            "learning_rate": 0.01,
        }
        for i, error in enumerate(errors)
    ]


def drawn(rows, constant_error=None, title=""):
    return figures.plot_learning_curve.draw(
        rows, "frame_error", constant_error, "commonest phone", title
    )


def test_file_is_a_png_of_the_figures_size(tmp_path):
    arguments = {"evaluations": evaluations(), "metric": "frame_error"}
    assert_draws(figures.plot_learning_curve, arguments, (1400, 1080), tmp_path)


def test_learning_curve_marks_the_best_and_the_majority():
    figure = drawn(evaluations(), 0.78, "run")
    errors, losses = figure.axes
    assert y_labels(figure) == ["frame error (fraction)", "loss (nats, with penalties)"]
    assert losses.get_xlabel() == "iteration"
    assert errors.get_ylim() == (0, 1)
    curve, majority, best = errors.lines
    assert curve.get_xydata().tolist() == [
        [20 * i, e["develop_frame_error"]] for i, e in enumerate(evaluations())
    ]
    assert set(majority.get_ydata()) == {0.78} and majority.get_linestyle() == "--"
    assert best.get_xydata().tolist() == [[80, 0.5]]
    assert texts(errors) == ["0.500"]
    names = [text.get_text() for text in errors.get_legend().get_texts()]
    assert names == ["develop", "commonest phone only", "best, iteration 80"]
    assert figure.get_suptitle() == "run"


def test_learning_curve_leaves_gaps_where_a_loss_is_missing():
    rows = evaluations()
    del rows[3]["train_loss"]
    develop, train = drawn(rows).axes[1].lines
    assert develop.get_ydata().tolist() == [row["develop_loss"] for row in rows]
    assert np.isnan(train.get_ydata()).tolist() == [True, False, False, True, False, False]


def test_learning_curve_shows_rates_where_there_are_any():
    rows = [dict(row, rate_hz_mean=20.0, rate_hz_max=120.0) for row in evaluations()]
    rows[0].pop("rate_hz_max")
    figure = drawn(rows, 0.78)
    assert y_labels(figure)[2] == "firing rate (Hz, simulated time)"
    mean, fastest = figure.axes[2].lines
    assert mean.get_ydata().tolist() == [20.0] * 6
    assert fastest.get_ydata()[1:].tolist() == [120.0] * 5 and np.isnan(fastest.get_ydata()[0])
    assert figure.axes[2].get_ylim()[0] == 0
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "iteration"]


@pytest.mark.parametrize("first_loss, scale", [(8.0, "linear"), (500.0, "log")])
def test_loss_scale_follows_its_range(first_loss, scale):
    rows = evaluations()
    rows[0]["develop_loss"] = first_loss
    assert drawn(rows).axes[1].get_yscale() == scale


def test_learning_curve_of_one_evaluation(tmp_path):
    path = tmp_path / "figure.png"
    figures.plot_learning_curve(path, evaluations(1), "frame_error", 0.78, "majority")
    assert path.exists()
    figure = drawn(evaluations(1))
    figure.draw_without_rendering()
    assert figure.axes[0].lines[-1].get_xydata().tolist() == [[0, 0.9]]
    ticks = figure.axes[1].get_xticks()
    assert ticks.tolist() == np.round(ticks).tolist()


def test_learning_curve_of_a_diverged_run():
    rows = [dict(row, develop_loss=np.nan, train_loss=np.inf) for row in evaluations(2)]
    rows[1]["develop_frame_error"] = np.nan
    figure = drawn(rows, 0.78)
    figure.draw_without_rendering()
    assert texts(figure.axes[0]) == ["0.900"]


def test_learning_curve_of_no_evaluations_is_refused():
    with pytest.raises(ValueError, match="no evaluations"):
        drawn([], 0.78)


def test_another_metric_is_named_and_read():
    rows = [{"iteration": i, "develop_phone_error_rate": e} for i, e in enumerate((0.9, 0.4))]
    figure = figures.plot_learning_curve.draw(rows, "phone_error_rate", None, "", "")
    assert y_labels(figure)[0] == "phone error rate (fraction)"
    assert figure.axes[0].lines[0].get_ydata().tolist() == [0.9, 0.4]

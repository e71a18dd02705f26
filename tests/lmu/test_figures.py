"""Figures of memories show the given numbers at the right places."""

import numpy as np
import pytest

from helpers import assert_draws
from lmu import figures

N_REPEAT = 5


def memory_arguments():
    r2 = np.linspace(0.9, 0.1, 21)
    names = ("lmu", "shuffled", "random", "random_scaled")
    return {"r2_by_start": {name: r2 - 0.02 * i for i, name in enumerate(names)}, "theta_ms": 100}


def memory_utterance_arguments(n_frames=60, theta_steps=50):
    """A sine, delayed exactly; the decoded signal is half as large."""
    rng = np.random.default_rng(2)
    times = np.arange(n_frames * N_REPEAT)
    delayed = np.sin((times - theta_steps) / 30)
    return {
        "signal": np.sin(times / 30),
        "ideal": delayed,
        "decoded": 0.5 * delayed,
        "spikes": rng.random((len(times), 200)) < 0.05,
        "theta_steps": theta_steps,
        "n_repeat": N_REPEAT,
        "n_regular": 60,
        "title": "one utterance",
    }


EIGENVALUES = {
    "ideal": np.exp([(-3 + 4j) / 50, (-3 - 4j) / 50]),
    "loop": np.exp([(-2 + 1j) / 50, (-2 - 1j) / 50]),
    "theta_steps": 50,
}


@pytest.mark.parametrize(
    "plot, arguments, size_px",
    [
        (figures.plot_memory, memory_arguments(), (1400, 840)),
        (figures.plot_memory_utterance, memory_utterance_arguments(), (1600, 1420)),
        (figures.plot_eigenvalues, EIGENVALUES, (1040, 1000)),
    ],
)
def test_file_is_a_png_of_the_figures_size(plot, arguments, size_px, tmp_path):
    assert_draws(plot, arguments, size_px, tmp_path)


def test_memory_shows_every_start_and_the_window():
    figure = figures.plot_memory.draw(**memory_arguments(), title="")
    axes = figure.axes[0]
    for i, (line, name) in enumerate(zip(axes.lines, memory_arguments()["r2_by_start"])):
        assert line.get_xdata().tolist() == list(range(21))
        assert line.get_ydata()[0] == pytest.approx(0.9 - 0.02 * i)
        assert line.get_label().startswith(name.replace("_", " ") + ", sum ")
    assert list(axes.lines[4].get_xdata()) == [10, 10]  # 100 ms are ten frames
    assert len({line.get_color() for line in axes.lines[:4]}) == 4
    assert len({line.get_marker() for line in axes.lines[:4]}) == 4
    assert axes.get_ylim() == (0, 1)


def test_memory_shows_its_floor_dashed():
    floor = np.linspace(0.8, 0, 21)
    axes = figures.plot_memory.draw({"lmu": floor + 0.1}, floor=floor).axes[0]
    _, line = axes.lines
    np.testing.assert_array_equal(line.get_ydata(), floor)
    assert line.get_linestyle() == "--" and line.get_label() == "present features, sum 8.4"


def test_memory_worse_than_the_mean_is_not_cut_off():
    figure = figures.plot_memory.draw({"lmu": [0.5, -0.2]}, None, "")
    assert figure.axes[0].get_ylim() == (-0.2, 1)
    assert len(figure.axes[0].lines) == 1


@pytest.mark.parametrize("n", [0, 5])
def test_memory_of_too_many_or_no_starts_is_refused(n):
    with pytest.raises(ValueError, match=f"{n} kinds of weights, 1 to 4 expected"):
        figures.plot_memory.draw({str(i): [1] for i in range(n)}, None, "")


def test_delayed_signals_lie_upon_each_other():
    arguments = memory_utterance_arguments()
    figure = figures.plot_memory_utterance.draw(**arguments)
    signals, raster = figure.axes[:2]
    shifted, decoded, ideal = signals.lines
    assert [line.get_label() for line in signals.lines] == [
        "input, shifted by the window",
        "decoded from spikes",
        "ideal memory",
    ]
    assert shifted.get_xdata()[0] == pytest.approx(10.1)  # 50 steps, and half a step
    np.testing.assert_allclose(
        np.interp(ideal.get_xdata()[60:], shifted.get_xdata(), shifted.get_ydata()),
        ideal.get_ydata()[60:],
        atol=1e-9,
    )
    np.testing.assert_allclose(decoded.get_ydata(), ideal.get_ydata() / 2)
    assert signals.get_xlim() == (0, 60) and "80 of the layer's 200" in raster.get_ylabel()


def test_memory_arrays_that_do_not_fit_are_refused():
    arguments = memory_utterance_arguments()
    with pytest.raises(ValueError, match="have 300, 300, 299 and 300 steps"):
        figures.plot_memory_utterance.draw(**{**arguments, "decoded": arguments["decoded"][1:]})


def test_eigenvalues_are_shown_as_rates_of_the_window():
    axes = figures.plot_eigenvalues.draw(**EIGENVALUES, title="").axes[0]
    ideal, loop = axes.lines[:2]
    np.testing.assert_allclose(ideal.get_xydata(), [[-3, 4], [-3, -4]])
    np.testing.assert_allclose(loop.get_xydata(), [[-2, 1], [-2, -1]])

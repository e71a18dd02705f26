"""Figures are written whole or not at all, without anything global of matplotlib.

What each of them shows is tested beside the room that draws it.
"""

import os

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from toolbox import plotting


@pytest.mark.parametrize("before", [None, b"an older figure"])
def test_error_while_writing_leaves_the_old_file_or_none(tmp_path, monkeypatch, before):
    path = tmp_path / "figure.png"
    if before is not None:
        path.write_bytes(before)

    def run_out_of_space(self, file, **options):
        file.write(b"\x89PNG half a figure")
        raise OSError("no space left on device")

    monkeypatch.setattr(Figure, "savefig", run_out_of_space)
    with pytest.raises(OSError, match="no space left"):
        plotting.save_figure(Figure(), path)
    assert os.listdir(tmp_path) == ([] if before is None else ["figure.png"])
    assert before is None or path.read_bytes() == before


def test_title_is_no_mathematics(tmp_path):
    path = tmp_path / "figure.png"
    figure, _, _ = plotting.stacked_panels(4, (1,), r"costs $5_{x, not $6 \frac")
    plotting.save_figure(figure, path)
    assert imread(path, format="png").size > 0


def test_a_small_figure_has_half_the_pixels_in_the_same_colours(tmp_path):
    figure = Figure(figsize=(2, 1))
    axes = figure.add_subplot()
    for height, colour in enumerate(plotting.LINE_COLOURS):
        axes.axhspan(height, height + 1, color=colour)
    whole, small = tmp_path / "whole.png", tmp_path / "small.png"
    plotting.save_figure(figure, whole)
    plotting.save_figure(figure, small, is_small=True)
    assert small.stat().st_size < 0.6 * whole.stat().st_size
    pixels = imread(small)
    assert pixels.shape[:2] == (100, 200) and imread(whole).shape[:2] == (200, 400)
    for colour in plotting.LINE_COLOURS:
        assert np.abs(pixels[..., :3] - to_rgb(colour)).max(-1).min() < 2 / 255

"""Figures are written whole or not at all, without anything global of matplotlib.

What each of them shows is tested beside the room that draws it.
"""

import os

import pytest
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

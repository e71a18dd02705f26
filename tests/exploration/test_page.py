"""RESULTS.md from hand-made run folders."""

import re

import pandas as pd
import pytest
from matplotlib.image import imread

from exploration.page import write_page
from small_runs import SCRIPT, small_curve, write_folder
from toolbox.command_line import UserError

STARTS = {
    "name": "lsnn_starts",
    "comment": "what is asked",
    "script": f"{SCRIPT}.py",
    "grid": {
        "start": {"scaled random": {"lr_init": 0.01}, "LMU": {"init": "lmu", "lr_init": 0.003}},
        "rule": {"BPTT": {}, "symmetric": {"eprop": "symmetric"}, "random": {"eprop": "random"}},
    },
    "seeds": [1, 2, 3],
    "baseline": {"start": "scaled random"},
}
# LMU minus scaled random, seed by seed; both errors move by it.
GAINS = {
    "BPTT": (-0.0275, -0.03, -0.0325),
    "symmetric": (0.01, -0.01, 0.02),
    "random": (0.035, 0.03, 0.04),
}
RATES = {
    "name": "rates",
    "script": f"{SCRIPT}.py",
    "grid": {
        "start": {"scaled random": {}, "LMU": {"init": "lmu"}},
        "lr_init": [0.003, 0.01, 0.03],
    },
    "seeds": [7],
    "choose": "lr_init",
}


@pytest.fixture
def starts_folder(tmp_path):
    def curve_of(settings):
        start, rule = settings.labels.values()
        gain = GAINS[rule][settings.seed - 1] if start == "LMU" else 0
        return [error + gain for error in small_curve(settings.seed)]

    return write_folder(tmp_path / "starts", STARTS, curve_of)


@pytest.fixture
def rates_folder(tmp_path):
    best = {"scaled random": "0.01", "LMU": "0.003"}

    def curve_of(settings):
        start, rate = settings.labels.values()
        return small_curve(0 if rate == best[start] else 5)

    return write_folder(tmp_path / "rates", RATES, curve_of)


@pytest.fixture
def page_of(tmp_path):
    """Function: the page on some folders."""

    def write(*folders):
        page = tmp_path / "RESULTS.md"
        write_page([str(folder) for folder in folders], str(page), str(tmp_path / "details"))
        return page.read_text()

    return write


def test_words_around_a_section_stay(starts_folder, page_of, tmp_path):
    text = page_of(starts_folder)
    assert text.startswith("# Results\n\n**Late development error**")
    words = text.replace("# Results", "# What we found").replace(
        "## starts", "A \\1 sentence.\n\n## starts"
    )
    words = words.replace("| BPTT |", "| old |") + "\nThe end.\n"
    (tmp_path / "RESULTS.md").write_text(words)
    again = page_of(starts_folder)
    assert again.startswith("# What we found") and again.endswith("\nThe end.\n")
    assert "A \\1 sentence." in again and "| old |" not in again
    assert again.count("<!-- tables of starts -->") == again.count("<!-- end of starts -->") == 1
    assert page_of(starts_folder) == again


def test_sections_show_tables_verdicts_and_figures(starts_folder, page_of, tmp_path):
    text = page_of(starts_folder)
    section = text[text.index("<!-- tables of starts -->") :]
    assert (
        "* Against start 'scaled random': **lower**: LMU (BPTT\\*). **higher**: LMU (random\\*). **no "
        "difference shown**: LMU (symmetric)."
    ) in section
    assert "| start \\ rule: test error | BPTT | symmetric | random |" in section
    assert "| scaled random | 0.560 [0.535, 0.585] |" in section
    figures = re.findall(r"!\[[^]]*\]\(([^)]*)\)", section)
    assert len(figures) == 1
    for figure in figures:
        assert imread(tmp_path / figure).shape[0] > 100
    assert (tmp_path / "details" / "starts" / "report.md").is_file()
    assert "(details/starts/report.md)" in section


def test_chosen_rates_are_shown(rates_folder, page_of, tmp_path):
    text = page_of(rates_folder)
    # Late error of seed 0: the mean of 0.6, 0.5 and 0.52.
    assert "| LMU | **0.540** | 0.590 | 0.590 |" in text
    assert "| scaled random | 0.590 | **0.540** | 0.590 |" in text
    assert "At an end of the grid: LMU. A better" in text
    chosen = pd.read_csv(tmp_path / "details" / "rates" / "chosen.csv").set_index("start")
    assert chosen["lr_init"].to_dict() == {"scaled random": 0.01, "LMU": 0.003}
    assert chosen["at_an_end"].to_dict() == {"scaled random": "no", "LMU": "yes"}


def test_a_plan_of_one_axis_has_one_table_of_its_metrics(tmp_path, page_of):
    plan = {**STARTS, "grid": {"start": STARTS["grid"]["start"]}}
    plan["name"] = "one_axis"
    folder = write_folder(tmp_path / "one", plan, lambda s: small_curve(s.seed))
    text = page_of(folder)
    assert "| start | late development error | test error |" in text
    assert "12.00 hours of processes" in text and "| LMU | 0.560 [0.535, 0.585]; +0.000 [" in text
    assert "also minus start 'scaled random', seed by seed:" in text
    assert "* Against start 'scaled random': **no difference shown**: LMU.\n" in text


def test_there_is_no_page_of_nothing(tmp_path, page_of):
    with pytest.raises(UserError, match="no folder given"):
        page_of()
    with pytest.raises(UserError, match="two are of one name"):
        page_of("a/b", "b")
    plan = {name: STARTS[name] for name in ("name", "script", "seeds")}
    folder = write_folder(tmp_path / "lone", plan, lambda s: small_curve(s.seed))
    with pytest.raises(UserError, match="'lsnn_starts' has no baseline"):
        page_of(folder)
    assert not (tmp_path / "RESULTS.md").exists()
    (tmp_path / "RESULTS.md").write_bytes(b"\xff")
    with pytest.raises(UserError, match="RESULTS.md: cannot be read"):
        page_of(write_folder(tmp_path / "one", STARTS, lambda s: small_curve(s.seed)))

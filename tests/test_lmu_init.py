"""The script on a tiny data set: what it writes, and what it refuses."""

import json
import os
import re

import numpy as np
import pytest
from small_layers import flag_values

import lmu_init
from helpers import assert_user_error, run_here, run_in
from lmu import seeding

TINY = (
    *("--n_regular=24", "--n_adaptive=6", "--order=2", "--n_channels=1"),
    *("--theta_ms=60", "--fold=1", "--seed=3"),
)


@pytest.fixture(scope="module")
def reported(tmp_path_factory, tiny_processed):
    """Folder of a run of the script with a report, and the ended process."""
    folder = tmp_path_factory.mktemp("lmu_init")
    process = run_in(
        folder, "lmu_init.py", f"--dataset={tiny_processed}", *TINY, "--report=report.json"
    )
    assert process.returncode == 0, process.stderr
    return folder, process


def test_the_script_writes_weights_report_table_and_figures(reported):
    folder, process = reported
    assert sorted(os.listdir(folder)) == [
        "lmu_init.npz",
        "report.json",
        "report.md",
        "report_eigenvalues.png",
        "report_memory.png",
        "report_utterance.png",
    ]
    assert process.stderr == ""
    for words in ("speakers of train, develop, test", "seeding the backward cell", "closed loop"):
        assert words in process.stdout
    layer, settings = seeding.load_seed(folder / "lmu_init.npz", 39, 30)
    assert layer.w_in.any() and settings["order"] == 2 and settings["fold"] == 1
    assert settings["splits"] == ["train", "develop", "test"]
    assert not set(settings["speakers"]) & set(settings["held_out_speakers"])


def test_the_report_has_the_agreed_keys(reported):
    folder, process = reported
    report = json.loads((folder / "report.json").read_text())
    starts = ["lmu", "shuffled", "random", "random_scaled"]
    assert list(report) == [*starts, "present features"]
    of_loop = [report["lmu"].pop(name) for name in ("loop_delay_steps", "loop_gain")]
    assert (
        f"The LMU's loop answers after {of_loop[0]:.1f} steps (expected 30) with" in process.stdout
    )
    assert list(report["present features"]) == ["r2_channels", "memory_capacity_channels"]
    for name in starts:
        values = report[name]
        assert list(values) == [
            "rate_hz_mean",
            "rate_hz_max",
            "silent_share",
            "psi_positive_share",
            "r2_channels",
            "memory_capacity_channels",
            "frame_accuracy_forward",
            "frame_accuracy",
        ]
        assert len(values["r2_channels"]) == 21
        assert values["memory_capacity_channels"] == pytest.approx(sum(values["r2_channels"]))
        assert 0.05 < values["frame_accuracy"] < 1
    lmu, scaled = report["lmu"], report["random_scaled"]
    # Scaled on some of the utterances that are fitted to, measured on all.
    for values in (scaled, report["shuffled"]):
        assert values["rate_hz_mean"] == pytest.approx(lmu["rate_hz_mean"], rel=0.25)
    assert report["random"]["rate_hz_mean"] > 1.5 * lmu["rate_hz_mean"]
    table = (folder / "report.md").read_text()
    assert table.split("\n\n")[1] in process.stdout
    for words in (
        "| random_scaled |",
        "| present features | - |",
        "- fold: 1",
        "- held_out_speakers: [",
    ):
        assert words in table


def test_the_same_seed_writes_the_same_weights(reported, tiny_processed, monkeypatch, tmp_path):
    folder, _ = reported
    monkeypatch.chdir(tmp_path)
    lmu_init.main(flag_values(f"--dataset={tiny_processed}", *TINY, "--out=again.npz"))
    assert os.listdir(tmp_path) == ["again.npz"]  # no report asked for
    first, again = (
        seeding.load_seed(path, 39, 30)[0]
        for path in (folder / "lmu_init.npz", tmp_path / "again.npz")
    )
    for name in seeding.SEEDED:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--order=40", "--n_regular=100"], "160 state variables .* 100 regular neurons"),
        (["--method=magic"], "--method=magic.*matched.*nengo"),
        (["--fold=4"], "--fold=4"),
        (["--out=nowhere/x.npz"], "--out=nowhere/x.npz: there is no folder nowhere"),
        (["--report=x.md"], "--report=x.md: expected the name of a .json file"),
        (["--dt=0.976"], "silent step: use another --n_ref or --dt"),
        (["--channels=99"], "--channels=99: .* 0 to 12"),
        (["--preproc=cochspec"], "--preproc=cochspec"),
        (["--dataset=nowhere"], "nowhere"),
        (["--theta_ms=5"], "--theta_ms=5"),
        (["--drive_std=0", "--gain_min=0", "--gain_max=0.01"], "do not spike"),
    ],
)
def test_mistakes_are_refused(arguments, words, tiny_processed, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    process = run_here(lmu_init, f"--dataset={tiny_processed}", *arguments)
    assert_user_error(process, "lmu_init.py: error: ")
    assert re.search(words, process.stderr)
    assert os.listdir(tmp_path) == []

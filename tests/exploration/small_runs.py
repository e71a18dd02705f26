"""Run folders of given development errors, for tests of what is made of many runs."""

import datetime
import json
import os

SCRIPT = "solve_timit_with_framewise_lsnn"
ITERATIONS = (0, 20, 40, 60, 80)


def small_curve(seed):
    """Development errors of the small start: 0.8, 0.7, 0.6, 0.5, 0.52 and a hundredth a seed."""
    return [0.01 * seed + error for error in (0.8, 0.7, 0.6, 0.5, 0.52)]


def write_run(folder, settings, curve, time="2020_01_02__03_04_05_000000", **metrics):
    """A run folder of these development errors; with metrics=None it is not finished."""
    run_folder = folder / settings.script.removesuffix(".py") / f"{time}_{settings.name}"
    run_folder.mkdir(parents=True)
    flags = {"seed": settings.seed, "commit": "abc", "data_sha256": "f00", "resumed": [{"commit": "def"}]}
    (run_folder / "flags.json").write_text(json.dumps(flags))
    lines = [{"iteration": i, "develop_frame_error": e} for i, e in zip(ITERATIONS, curve)]
    (run_folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = {
        "best_develop_frame_error": min(curve),
        "test_frame_error": min(curve) + 0.1,
        "majority_develop_frame_error": 0.7,
        "iterations": ITERATIONS[-1],
        "seconds_per_iteration": 0.9,
        "seed": settings.seed,
        **metrics,
    }
    (run_folder / "metrics.json").write_text(json.dumps(metrics))
    ended = datetime.datetime(2020, 1, 2, 5, 4, 5).timestamp()
    os.utime(run_folder / "metrics.json", (ended, ended))
    return run_folder

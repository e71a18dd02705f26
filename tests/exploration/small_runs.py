"""Run folders of given development errors, and a training script that is done at once."""

import json

from exploration.plan import read_plan

SCRIPT = "solve_timit_with_framewise_lsnn"
ITERATIONS = (0, 20, 40, 60, 80)
PLAN = {
    "name": "starts",
    "comment": "what is asked",
    "script": f"{SCRIPT}.py",
    "grid": {
        "start": {"small": {}, "LMU": {"weight_scale": 0.5}},
        "eprop": ["symmetric", "random"],
    },
    "seeds": [1, 2, 3],
    "baseline": {"start": "small"},
}
# Development errors of the LMU's run minus the small start's, by seed: symmetric, random.
GAIN = {"symmetric": (-0.02, -0.03, -0.04), "random": (0.01, -0.01, 0.03)}

# Flags beside those that every run has: `error`, the development error, which falls to half of it;
# `metric_name`; `n_evaluations`; `pause_s` before each of them; `broken` fails at once.
FAST_SCRIPT = """
import json, os, sys, time
flags = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:])
if "broken" in flags:
    sys.exit("first line\\nit is broken")
folder = flags.get("resume")
if folder:
    with open(f"{folder}/flags.json") as file:
        flags = json.load(file)["flags"]
    print("resumed")
else:
    script = os.path.basename(sys.argv[0])[:-3]
    folder = f"{flags['results']}/{script}/2020_01_02__03_04_05_000000_{flags['comment']}"
    os.makedirs(folder)
    with open(f"{folder}/flags.json", "w") as file:
        json.dump({"flags": flags, "seed": int(flags["seed"])}, file)
metric, error = flags.get("metric_name", "frame_error"), float(flags.get("error", 0.8))
threads, gpu = os.environ["OMP_NUM_THREADS"], os.environ["CUDA_VISIBLE_DEVICES"]
with open(f"{folder}/metrics.jsonl", "a+") as file:
    file.seek(0)
    for i in range(len(file.readlines()), int(flags.get("n_evaluations", 3))):
        time.sleep(float(flags.get("pause_s", 0)))
        line = {"iteration": 10 * i, "metric": metric, f"develop_{metric}": error * (1 + 1 / (i + 1)) / 2}
        file.write(json.dumps(line) + "\\n")
        file.flush()
metrics = {"metric": metric, f"best_develop_{metric}": error, f"test_{metric}": error + 0.1}
with open(f"{folder}/metrics.part", "w") as file:
    json.dump({**metrics, "iterations": 10 * i, "seed": int(flags["seed"]), "gpu": gpu, "threads": threads}, file)
os.rename(f"{folder}/metrics.part", f"{folder}/metrics.json")
"""


def small_curve(seed):
    """Development errors of the small start: 0.8, 0.7, 0.6, 0.5, 0.52 and a hundredth a seed."""
    return [0.01 * seed + error for error in (0.8, 0.7, 0.6, 0.5, 0.52)]


def curve_of(settings):
    """Development errors of a run of PLAN."""
    gain = 0
    if settings.labels["start"] == "LMU":
        gain = GAIN[settings.flags["eprop"]][settings.seed - 1]
    return [error + gain for error in small_curve(settings.seed)]


def write_run(
    folder, settings, curve, time="2020_01_02__03_04_05_000000", metric="frame_error", **metrics
):
    """A finished run folder of these development errors; a metric of None is not named in it."""
    run_folder = folder / settings.script.removesuffix(".py") / f"{time}_{settings.name}"
    run_folder.mkdir(parents=True)
    flags = {
        "seed": settings.seed,
        "commit": "abc",
        "data_sha256": "f00",
        "resumed": [{"commit": "def"}],
    }
    (run_folder / "flags.json").write_text(json.dumps(flags))
    named = {"metric": metric} if metric else {}
    metric = metric or "frame_error"
    lines = [{"iteration": i, **named, f"develop_{metric}": e} for i, e in zip(ITERATIONS, curve)]
    (run_folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = {
        **named,
        f"best_develop_{metric}": min(curve),
        f"test_{metric}": min(curve) + 0.1,
        f"majority_develop_{metric}": 0.7,
        "iterations": ITERATIONS[-1],
        "seconds_per_iteration": 0.9,
        "seed": settings.seed,
        "started": "2020-01-02T03:04:05",
        "hours": 2.0,
        **metrics,
    }
    (run_folder / "metrics.json").write_text(json.dumps(metrics))
    return run_folder


def write_folder(folder, plan=PLAN, curve_of=curve_of, without=(), **options):
    """An experiment's folder with all runs of a plan but some, by their place in it."""
    folder.mkdir()
    (folder / "plan.json").write_text(json.dumps(plan))
    for i, settings in enumerate(read_plan(str(folder / "plan.json")).runs()):
        if i not in without:
            write_run(folder, settings, curve_of(settings), **options)
    return folder

"""The long tests: kills, full disks, foreign input, memory, threads, and one summary of them.

    make soak                         # or: python3 tests/stress/soak.py --json=soak.json
    python3 tests/stress/soak.py --part=memory,threads

A quarter of an hour on two cores. Exit status 1 if any part has failed; what it says stands above
the summary.
"""

import concurrent.futures
import contextlib
import datetime
import glob
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback

import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(HERE)
REPOSITORY = os.path.dirname(TESTS)
sys.path[:0] = [
    HERE,
    TESTS,
    os.path.join(TESTS, "speech"),
    REPOSITORY,
    os.path.join(REPOSITORY, "benchmarks"),
]

import faults  # noqa: E402
from helpers import write_corpus  # noqa: E402
from measuring import machine, machine_line  # noqa: E402
from toolbox import command_line  # noqa: E402
from toolbox.durable_files import write_json  # noqa: E402

N_TRAINING_KILLS = 30  # half of them LSNN, half LSTM
N_PROCESSING_KILLS = 30
N_CHECKPOINT_KILLS = 60
PLAN_KILLS_S = ((5, 10), (20, 30))  # least and largest seconds after the start, for each kill
N_CASES = {
    "utterances": 20000,
    "folders": 60,
    "phn": 4000,
    "audio": 3000,
    "htk": 3000,
    "pickles": 5000,
    "flags": 3000,
    "checkpoints": 2000,
    "run_records": 1500,
    "weights": 800,
    "dataset_folder": 700,
    "corpus": 300,
}
N_ITERATIONS, N_WARM_UP = 2400, 400


def define_flags(flag_values):
    define = command_line.Definer(flag_values)
    define.list("part", list(PARTS), f"which to run, of {', '.join(PARTS)}")
    define.integer("seed", -1, "seed of the random moments; -1: a new one", -1)
    define.path("json", "", "also write the results to this file")


def main(flag_values):
    unknown = set(flag_values.part) - set(PARTS)
    if unknown:
        raise command_line.UserError(f"--part={unknown.pop()}: expected {', '.join(PARTS)}")
    seed = flag_values.seed if flag_values.seed >= 0 else np.random.SeedSequence().entropy % 2**31
    facts = machine()
    began_s = time.monotonic()
    results, failures = {}, []
    for name in command_line.progress_bar(flag_values.part, desc="soak", unit="part"):
        part_began_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="soak_") as folder:
            try:
                corpus, dataset = make_corpus(folder)
                found = PARTS[name](
                    folder, corpus, dataset, np.random.default_rng([seed, len(name)])
                )
            except Exception:
                failures.append(name)
                found = {}
                print(f"{name} FAILED (--seed={seed}):\n{traceback.format_exc()[-4000:]}")
        results[name] = {**found, "seconds": round(time.monotonic() - part_began_s, 1)}
        print(f"{name}: {results[name]}", flush=True)
    date = datetime.datetime.now().isoformat(" ", "minutes")
    outcome = {
        "date": date,
        "seed": int(seed),
        "minutes": round((time.monotonic() - began_s) / 60, 1),
        "machine": facts,
        "failed": failures,
        **results,
    }
    if flag_values.json:
        write_json(flag_values.json, outcome)
    print(f"\n{summary(outcome)}")
    return 1 if failures else 0


def make_corpus(folder):
    """A few utterances of open speech and their data set, two folders."""
    corpus, dataset = os.path.join(folder, "corpus"), os.path.join(folder, "processed")
    write_corpus(corpus, n_train=6, n_develop=2, n_test=3)
    run_to_end(folder, ["timit_processing.py", f"--data_path={corpus}", f"--output_path={dataset}"])
    return corpus, dataset


def run_to_end(where, command, **options):
    """What a script prints; raises AssertionError if it fails."""
    with faults.start(where, command, **options) as process:
        out = process.communicate(timeout=faults.LIMIT_S)[0]
    assert process.returncode == 0, out
    return out


def only_run(where, results):
    (folder,) = glob.glob(os.path.join(where, results, "*", "*"))
    return folder


# --------------------------------------------------------------------------- parts


def kill_training(folder, corpus, dataset, random_generator):
    """Runs of both scripts, killed again and again, against runs that were not."""
    del corpus
    generators = random_generator.spawn(len(faults.SMALL))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        counts = list(
            pool.map(
                lambda model, generator: _kill_model(folder, dataset, model, generator),
                faults.SMALL,
                generators,
            )
        )
    return {"kills": sum(c[0] for c in counts), "equal_runs": sum(c[1] for c in counts)}


def _kill_model(folder, dataset, model, random_generator):
    where = os.path.join(folder, model)
    os.mkdir(where)
    command = faults.training_command(model, dataset, "--n_epochs=120")
    with faults.start(where, [*command, "--results=whole"]) as process:
        for line in process.stdout:
            if line.startswith("trained parameters"):
                began_s = time.monotonic()
        assert process.wait() == 0
        seconds = time.monotonic() - began_s
    whole = only_run(where, "whole")
    n_kills = n_runs = 0
    while n_kills < N_TRAINING_KILLS // len(faults.SMALL):
        left = N_TRAINING_KILLS // len(faults.SMALL) - n_kills
        # Short enough that few runs end before their last kill, each of which costs a start.
        moments = random_generator.uniform(0.05, seconds / 2, size=min(left, 8))
        run = faults.interrupted_run(where, command, moments)
        faults.assert_same_run(whole, run.folder)
        n_kills, n_runs = n_kills + run.n_kills, n_runs + 1
    return n_kills, n_runs


def kill_plan(folder, corpus, dataset, random_generator):
    """Twelve runs by a plan whose processes are all killed twice."""
    del corpus
    moments = random_generator.uniform(*PLAN_KILLS_S)
    return {"kills": len(moments), "equal_runs": faults.killed_plan(folder, dataset, moments)}


def kill_processing(folder, corpus, dataset, random_generator):
    del dataset
    where = os.path.join(folder, "out_here")
    os.mkdir(where)
    faults.killed_processing(where, corpus, N_PROCESSING_KILLS, random_generator)
    return {"kills": N_PROCESSING_KILLS}


def kill_checkpoints(folder, corpus, dataset, random_generator):
    del corpus, dataset
    where = os.path.join(folder, "checkpoints")
    os.mkdir(where)
    return {"kills": faults.killed_checkpoints(where, N_CHECKPOINT_KILLS, random_generator)}


def full_disk(folder, corpus, dataset, random_generator):
    """A small file system, where one can be mounted, and a limit to the size of files."""
    del random_generator
    command = faults.training_command("lstm", dataset)
    run_to_end(folder, [*command, "--results=whole"])
    whole = only_run(folder, "whole")
    kinds = ["limit"]
    small = os.path.join(folder, "small")
    os.mkdir(small)
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", small]
    if os.getuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0:
        kinds.append("tmpfs")
    try:
        for kind in kinds:
            results = small if kind == "tmpfs" else os.path.join(folder, "limited")
            options = {}
            if kind == "limit":
                limit = 19_000  # below a full checkpoint, above those before the first evaluation
                options["preexec_fn"] = lambda: resource.setrlimit(
                    resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)
                )
            with faults.start(folder, [*command, f"--results={results}"], **options) as process:
                filler = os.path.join(small, "filler")
                for line in process.stdout:
                    if kind == "tmpfs" and "iteration    10" in line:  # the disk fills up now
                        with contextlib.suppress(OSError), open(filler, "wb", 0) as file:
                            while True:
                                file.write(bytes(512))
                    last = line
                process.wait()
            assert process.returncode == 2, (kind, last)
            assert "cannot be written" in last and "--resume=" in last, (kind, last)
            (run,) = glob.glob(os.path.join(results, "*", "*"))
            faults.assert_everything_loads(run)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(filler)
            if kind == "tmpfs":
                subprocess.run(["mount", "-o", "remount,size=20m", small], check=True)
            run_to_end(folder, [command[0], f"--resume={run}"])
            faults.assert_same_run(whole, run)
    finally:
        if "tmpfs" in kinds:
            subprocess.run(["umount", small], check=True)
    return {"kinds": kinds, "equal_runs": len(kinds)}


def fuzz(folder, corpus, dataset, random_generator):
    """Each kind of input in a process of its own, two at a time."""
    del corpus, dataset, random_generator
    code = (
        "import os, sys, tempfile; sys.path[:0] = sys.argv[1:5]; import fuzzing\n"
        "folder = tempfile.mkdtemp(dir=sys.argv[7]); os.chdir(folder)\n"
        "print(fuzzing.TARGETS[sys.argv[5]](folder, int(sys.argv[6]), False))"
    )

    def run(name):
        command = [
            sys.executable,
            "-c",
            code,
            HERE,
            TESTS,
            os.path.join(TESTS, "speech"),
            REPOSITORY,
            name,
            str(N_CASES[name]),
            folder,
        ]
        process = subprocess.run(command, capture_output=True, text=True)
        assert process.returncode == 0, f"{name}: {process.stderr[-3000:]}"
        return int(process.stdout)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        counts = dict(zip(N_CASES, pool.map(run, N_CASES)))
    return {"inputs": sum(counts.values()), **counts}


def memory(folder, corpus, dataset, random_generator):
    """Resident bytes and open files of training processes, looked at from outside."""
    del corpus, random_generator
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = dict(
            zip(faults.SMALL, pool.map(lambda model: _watch(folder, dataset, model), faults.SMALL))
        )
    # A run keeps the time of each step and its evaluations, about 100 bytes an iteration; a leaked
    # gradient would be 10,000 and more.
    for model, growth in found.items():
        assert growth["bytes_an_iteration"] < 1000, (model, growth)
        assert growth["open_files_grown"] == 0, (model, growth)
    return found


def _watch(folder, dataset, model):
    """Growth after the warm-up: slope of the resident memory and difference of open files."""
    command = faults.training_command(
        model, dataset, f"--n_epochs={N_ITERATIONS // 3}", "--print_every=50"
    )
    samples = []
    with faults.start(folder, [*command, f"--results={model}"]) as process:
        for line in process.stdout:
            if line.startswith("epoch"):
                iteration = int(line.split()[3])
                with open(f"/proc/{process.pid}/statm", encoding="ascii") as file:
                    pages = int(file.read().split()[1])
                n_files = len(os.listdir(f"/proc/{process.pid}/fd"))
                if N_WARM_UP <= iteration < N_ITERATIONS:  # then come figures
                    samples.append((iteration, pages * os.sysconf("SC_PAGE_SIZE"), n_files))
        assert process.wait() == 0
    iterations, resident, n_files = np.array(samples, float).T
    slope = np.polyfit(iterations, resident, 1)[0]
    # A sample may fall into the writing of a checkpoint, which holds a file open; the smallest
    # number of a quarter of the samples does not, and grows with every file that is not closed.
    quarter = len(samples) // 4
    return {
        "iterations": int(iterations[-1] - iterations[0]),
        "bytes_an_iteration": round(float(slope), 1),
        "resident_mb_first_last": [round(float(resident[i]) / 1e6, 2) for i in (0, -1)],
        "open_files_grown": int(min(n_files[-quarter:]) - min(n_files[:quarter])),
        "open_files_most": int(max(n_files)),
    }


def threads(folder, corpus, dataset, random_generator):
    """Bit by bit the same from run to run; within rounding for one and two threads."""
    del corpus, random_generator
    # Large enough that TensorFlow and the event-driven engine share the work out.
    size = {"lsnn": "--n_regular=300", "lstm": "--n_lstm=200"}
    equal, difference = 0, {}
    for model in faults.SMALL:
        runs = []
        for n_threads in (1, 1, 2, 2):
            results = f"{model}{len(runs)}"
            command = faults.training_command(
                model, dataset, f"--results={results}", size[model], "--n_epochs=2", "--truncT=-1"
            )
            run_to_end(folder, [*command, f"--n_threads={n_threads}"])
            runs.append(only_run(folder, results))
        for pair in (runs[:2], runs[2:]):
            faults.assert_same_run(*pair)
            equal += 1
        one, two = (faults.read_arrays(run, "last.npz") for run in runs[1:3])
        difference[model] = max(float(np.max(np.abs(one[name] - two[name]))) for name in one)
        # Six steps of at most 0.01; a weight near 1 is known to 6e-8, and what Adam divides by may
        # be a hundred times smaller than that.
        assert difference[model] < 1e-5, difference
    return {"equal_pairs": equal, "largest_difference_1_and_2_threads": difference}


PARTS = {
    "fuzz": fuzz,
    "kill_checkpoints": kill_checkpoints,
    "kill_processing": kill_processing,
    "full_disk": full_disk,
    "threads": threads,
    "kill_training": kill_training,
    "kill_plan": kill_plan,
    "memory": memory,
}


def summary(outcome):
    """The figures for a reader."""

    def get(part, name, default=0):
        return outcome.get(part, {}).get(name, default)

    kills = {
        n: get(f"kill_{n}", "kills") for n in ("training", "processing", "checkpoints", "plan")
    }
    growth = [
        f"{model.upper()} {g['bytes_an_iteration']:.0f} (files {g['open_files_grown']:+d})"
        for model, g in outcome.get("memory", {}).items()
        if isinstance(g, dict)
    ]
    rows = [
        (
            "kills survived",
            f"{sum(kills.values())} ({', '.join(f'{k} {v}' for k, v in kills.items())})",
        ),
        (
            "interrupted runs equal to uninterrupted ones",
            f"{get('kill_training', 'equal_runs')} killed, {get('kill_plan', 'equal_runs')} of a "
            f"killed plan, {get('full_disk', 'equal_runs')} after a full disk "
            f"({', '.join(get('full_disk', 'kinds', []))})",
        ),
        ("bad inputs tried", f"{get('fuzz', 'inputs'):,}"),
        ("bytes grown an iteration", ", ".join(growth)),
        ("equal pairs of runs at equal threads", str(get("threads", "equal_pairs"))),
        (
            "largest difference of weights, 1 and 2 threads",
            ", ".join(
                f"{m.upper()} {d:.1e}"
                for m, d in get("threads", "largest_difference_1_and_2_threads", {}).items()
            ),
        ),
        ("failed", ", ".join(outcome["failed"]) or "nothing"),
    ]
    lines = [f"{name:<48} {value}" for name, value in rows]
    head = f"soak of {outcome['date']}, {outcome['minutes']} minutes, seed {outcome['seed']}"
    return "\n".join([head, machine_line(outcome["machine"]), *lines])


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__)

"""Time of the training steps of a script on its own data, and of variants of it beside each other.

    python3 benchmarks/script_steps.py solve_timit_with_ctc_in_tensorflow.py --flags=--eprop=symmetric
    python3 benchmarks/script_steps.py solve_timit_with_framewise_lsnn.py \
        --flags="--eprop=symmetric --n_directions=1" --variant=--readout_memory=legendre

The script with `--flags`, and with each `--variant` of flags besides, trains `--iterations` on the same
batches, in turns and in one process, so that networks fire as trained ones do; the last `--repeats` are
timed: median seconds a step, and the median over the turns of the ratio to the first. A minute for each on
two cores.
"""

import importlib
import shlex
import statistics

from absl import flags

import measuring  # first: it makes the repository's modules importable
from toolbox import command_line
from toolbox.durable_files import write_json

SEED = 1  # of weights and batches, the same for all
SCRIPTS = (  # and digits.py for digits
    "solve_timit_with_framewise_lstm.py",
    "solve_timit_with_framewise_lsnn.py",
    "solve_timit_with_ctc_in_tensorflow.py",
)


def define_flags(flag_values):
    define = measuring.Definer(flag_values)
    define.string("flags", "", "flags of the script")
    flags.DEFINE_multi_string("variant", [], "flags besides, of a variant", flag_values)
    define.integer("iterations", 100, "iterations of each", 1)
    define.integer("repeats", 40, "of them are timed, the last", 1)
    define.path("json", "", "also write the results to this file")


def measure(script, variants, n_iterations, n_timed):
    """A row a variant; to be run in a process of its own.

    Args:
        variants: lists of flags of the script.
    """
    module = importlib.import_module(script.removesuffix(".py"))
    runs = [_run(module, [*given, f"--seed={SEED}"]) for given in variants]
    n_most = min(run.n_iterations for run in runs)
    if n_iterations > n_most:
        raise command_line.UserError(
            f"--iterations={n_iterations}: expected at most {n_most}, those of the script"
        )
    batches = [run.batches() for run in runs]
    for _ in range(n_iterations):
        for run, of_run in zip(runs, batches):
            run.step(*next(of_run))
    first, *_ = seconds = [run.progress.seconds[-n_timed:] for run in runs]
    return [
        {
            "flags": given,
            "engine": run.network.config.engine,
            "seconds_median": statistics.median(mine),
            "ratio": statistics.median(m / f for m, f in zip(mine, first)),
        }
        for given, run, mine in zip(variants, runs, seconds)
    ]


def _run(module, given):
    """The training loop.Run of a script with these flags."""
    from training import devices, loop
    from training.flags import TrainingConfig

    experiment = module.EXPERIMENT
    flag_values, _ = command_line.parse_flags(experiment.define_flags, [module.__name__, *given])
    experiment.check_flags(flag_values)
    values = experiment.settings(flag_values)
    task = experiment.make_task(values)
    devices.set_up_devices(flag_values.cuda_device, flag_values.n_threads, flag_values.batch)
    seed = devices.set_up_seed(flag_values.seed)
    network = experiment.make_network(values, task, seed)
    trained = experiment.trained_part(flag_values, network).trainable_variables
    config = TrainingConfig.from_flags(values)
    return loop.Run(network, task, config, seed, "", trained, lambda: None)


def main(flag_values, script=""):
    command_line.check_output_file(flag_values, "json")
    if script not in SCRIPTS:
        raise command_line.UserError(f"{script or 'no script'}: expected {', '.join(SCRIPTS)}")
    if flag_values.repeats > flag_values.iterations:
        raise command_line.UserError(
            f"--repeats={flag_values.repeats}: expected at most --iterations={flag_values.iterations}"
        )
    variants = [shlex.split(f"{flag_values.flags} {more}") for more in ("", *flag_values.variant)]
    arguments = script, variants, flag_values.iterations, flag_values.repeats
    rows = measuring.in_child(measure, *arguments)
    machine = measuring.machine()
    table = measuring.markdown_table(
        ["flags", "s/step", "this / first"],
        [[" ".join(r["flags"]), f"{r['seconds_median']:.3f}", f"{r['ratio']:.2f}"] for r in rows],
    )
    print(f"{measuring.machine_line(machine)}\n\n{table}")
    if flag_values.json:
        write_json(flag_values.json, {"machine": machine, "script": script, "rows": rows})


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__, n_positional=1)

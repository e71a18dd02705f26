"""Time and memory of one training step: forward pass, loss, backward pass and Adam.

    python3 benchmarks/training_step.py --engine=event,dense --rule=symmetric,bptt --rate_hz=15
    python3 benchmarks/training_step.py --model=lsnn,lstm --json=training_step.json

measures networks of the paper's size on the CPU, each in a process of its own, and prints a
Markdown table: median and least seconds a step after a warm-up, how many times faster than the
dense engine in the same run and how many times slower than symmetric e-prop, and the peak memory
of the process, TensorFlow's import included. `--json` takes every row with all its settings.

The LSNN's weights are scaled until it fires at `--rate_hz` (mean over all neurons); the features
are Gaussian noise smoothed over some 50 ms, and no utterance has padding. Beside the LSTM's own
engines stands, under BPTT, Keras' LSTM layer with the same readout, loss and optimiser. On two
cores: about five seconds a row and the steps, which for the dense LSNN take seconds each.
"""

import statistics

from absl.flags import FloatParser

import measuring  # first: it makes the repository's modules importable
from toolbox import command_line
from toolbox.durable_files import write_json

RATES_HZ = (5, 15, 50, 200)
DENSE_RATE_HZ = 15  # the dense engine multiplies all the zeros: its time does not depend on it
ALL_ENGINES = ("event", "fused", "dense", "keras")
N_WARM_UP = 2  # steps; the first compiles


def define_flags(flag_values):
    define = measuring.Definer(flag_values)
    define.many("model", ["lsnn"], "models", measuring.MODELS)
    define.many(
        "engine",
        list(ALL_ENGINES),
        "engines; event is the LSNN's, fused and (under BPTT) keras are the LSTM's",
        ALL_ENGINES,
    )
    define.many("rule", ["symmetric", "adaptive", "bptt"], "learning rules", measuring.RULES)
    define.many(
        "rate_hz",
        None,
        f"firing rates of the LSNN, Hz (default: {', '.join(map(str, RATES_HZ))}; dense: "
        f"{DENSE_RATE_HZ})",
        FloatParser(lower_bound=0.1),
    )
    define.integer("frames", 400, "frames in an utterance", 1)
    define.network_flags()
    define.step_flags()


def plan(flag_values):
    """Settings of all measurements, as keyword arguments of `steps.StepSettings`."""
    common = {
        name: flag_values[name].value
        for name in ("n_features", "n_classes", "batch", "frames", "n_repeat", "n_threads", "seed")
    }
    return [
        {
            "model": model,
            "engine": engine,
            "rule": rule,
            "rate_hz": rate_hz,
            "n_units": (
                flag_values.n_regular + flag_values.n_adaptive
                if model == "lsnn"
                else flag_values.n_lstm
            ),
            "n_adaptive": flag_values.n_adaptive if model == "lsnn" else 0,
            **common,
        }
        for model in flag_values.model
        for engine in measuring.ENGINES[model]
        if engine in flag_values.engine
        for rule in flag_values.rule
        if engine != "keras" or rule == "bptt"
        for rate_hz in _rates_hz(model, engine, flag_values.rate_hz)
    ]


def _rates_hz(model, engine, asked_hz):
    if model == "lstm":
        return [None]
    return asked_hz or ([DENSE_RATE_HZ] if engine == "dense" else RATES_HZ)


def measure(settings, repeats):
    """A row of results; to be run in a process of its own."""
    import steps  # imports TensorFlow, which the process that starts this one must not
    from training import reporting

    step = steps.TrainingStep(steps.StepSettings(**settings))
    warm_up = [step.seconds() for _ in range(N_WARM_UP)]
    seconds = [step.seconds() for _ in range(repeats)]
    peak_gb = reporting.peak_memory_gb()
    return {
        **settings,
        "weight_scale": step.weight_scale,
        "repeats": repeats,
        "seconds_median": statistics.median(seconds),
        "seconds_min": min(seconds),
        "seconds": seconds,
        "seconds_first": warm_up[0],
        "peak_gb": peak_gb,
        "rate_hz_measured": step.measured_rate_hz(),
    }


def markdown(rows):
    """The rows as a Markdown table."""
    header = ["model", "engine", "rule", "Hz", "s/step", "least s", "dense / this"]
    header += ["this / symmetric", "peak GB"]
    return measuring.markdown_table(
        header,
        [
            [
                row["model"].upper(),
                row["engine"],
                row["rule"],
                "-" if row["rate_hz"] is None else f"{row['rate_hz_measured']:.1f}",
                f"{row['seconds_median']:.3f}",
                f"{row['seconds_min']:.3f}",
                _ratio(_like(row, rows, engine="dense"), row),
                _ratio(row, _like(row, rows, rule="symmetric")),
                f"{row['peak_gb']:.2f}",
            ]
            for row in rows
        ],
    )


def _like(row, rows, **changed):
    """The row of the same settings but for those in `changed`; None where it was not measured."""
    wanted = {name: row[name] for name in ("model", "engine", "rule", "rate_hz")} | changed
    found = [other for other in rows if wanted.items() <= other.items()]
    return found[0] if found else None


def _ratio(numerator, denominator):
    """Of two rows' medians; blank where one is missing or they are the same row."""
    if numerator is None or denominator is None or numerator is denominator:
        return ""
    return f"{numerator['seconds_median'] / denominator['seconds_median']:.2f}"


def main(flag_values):
    command_line.check_output_file(flag_values, "json")
    measurements = plan(flag_values)
    if not measurements:
        raise command_line.UserError(
            "nothing to measure: engine event is the LSNN's, fused the LSTM's, keras the LSTM's "
            "under --rule=bptt"
        )
    machine = measuring.machine()
    rows = [
        {**measuring.in_child(measure, settings, flag_values.repeats), "machine": machine}
        for settings in measuring.progress(measurements, len(measurements))
    ]
    print(f"{measuring.machine_line(machine)}\n\n{markdown(rows)}")
    if flag_values.json:
        write_json(flag_values.json, rows)


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__)

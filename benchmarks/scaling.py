"""How the cost of a training step grows with the size of the network and of the data.

    python3 benchmarks/scaling.py --json=scaling.json
    python3 benchmarks/scaling.py --model=lstm --rule=bptt --engine=dense

times whole steps (forward pass, loss, backward pass, Adam) of the LSNN or the LSTM on an engine, the
CPU's own unless told, varying frames, neurons (LSTM: cells) per direction, batch, firing rate and
threads one at a time from the `--base_*` values. Prints a Markdown table of medians with the part
of them that the engine itself takes, the exponents p of fits seconds ~ size^p, and the memory that
a neuron and simulated step (LSTM: a cell and frame) more costs (from the peaks of two processes that train on utterances of
the base's and of the greatest length), and draws `--figure`.

The points of one process take turns, so that what else the machine does in the meantime falls on
all of them. On two quiet cores: about five minutes.
"""

import os
import statistics

import numpy as np
from absl.flags import FloatParser, IntegerParser
from matplotlib.figure import Figure

import measuring  # first: it makes the repository's modules importable
from toolbox import command_line
from toolbox.durable_files import write_json
from toolbox.plotting import BLUE, LABEL_PT, ORANGE, written

AXES = ("frames", "neurons", "batch", "rate_hz", "threads")
UNITS = {"lsnn": "neurons", "lstm": "cells"}
AXIS_LABELS = {
    "frames": "frames of 10 ms",
    "neurons": "{} per direction",
    "batch": "utterances in a batch",
    "rate_hz": "firing rate (Hz)",
    "threads": "threads",
}
# Below, what does not depend on the neurons or cells shows; above, memory.
FITTED_UNITS = {"lsnn": (200, 1600), "lstm": (200, 800)}
N_DIRECTIONS = 2
LABELS = {
    "seconds_median": "whole step",
    "engine_seconds_median": "its engine",
    "proportional": "proportional (threads: inversely)",
}


def define_flags(flag_values):
    define = measuring.Definer(flag_values)
    define.enum("model", "lsnn", measuring.MODELS, "model")
    define.enum("rule", "symmetric", measuring.RULES, "learning rule")
    define.enum(
        "engine",
        "auto",
        ["auto", "event", "fused", "dense"],
        "auto: the LSNN's event, the LSTM's fused",
    )
    positive = IntegerParser(lower_bound=1)
    for name, default, unit, base in (
        ("frames", [100, 200, 400, 800, 1600], "frames in an utterance", 400),
        ("neurons", [100, 200, 400, 800, 1600, 3200], "neurons (LSTM: cells) per direction", 400),
        ("batch", [4, 8, 16, 32, 64], "utterances in a batch", 32),
    ):
        define.many(name, default, f"values to measure: {unit}", positive)
        define.integer(f"base_{name}", base, f"{unit} elsewhere", 1)
    define.many(
        "rate_hz",
        [1, 5, 15, 30, 50, 100],
        "values to measure: LSNN's firing rate, Hz",
        FloatParser(lower_bound=0.1),
    )
    define.float("base_rate_hz", 15.0, "LSNN's firing rate elsewhere, Hz", 0.1)
    define.many(
        "threads", [1, 2], "values to measure: CPU threads; elsewhere the last of them", positive
    )
    define.float("adaptive_share", 0.25, "share of the neurons that adapt", 0, 1)
    define.path("figure", None, "PNG to draw (default: scaling_<model>.png beside this script)")
    define.step_flags()


def plan(flag_values):
    """The points (axis -> value) to measure, each once, the base first."""
    base = {
        "frames": flag_values.base_frames,
        "neurons": flag_values.base_neurons,
        "batch": flag_values.base_batch,
        "rate_hz": flag_values.base_rate_hz if flag_values.model == "lsnn" else None,
        "threads": flag_values.threads[-1],
    }
    points = [base]
    for axis in AXES:
        if base[axis] is None:
            continue
        for value in flag_values[axis].value:
            if base | {axis: value} not in points:
                points.append(base | {axis: value})
    return points


def engine_of(flag_values):
    """The engine to measure; UserError for one that the model does not have."""
    engines = measuring.ENGINES[flag_values.model]
    if flag_values.engine == "auto":
        return engines[0]
    if flag_values.engine not in engines:
        raise command_line.UserError(
            f"--engine={flag_values.engine} with --model={flag_values.model}: expected auto, "
            f"{engines[0]} or dense"
        )
    return flag_values.engine


def step_settings(flag_values, point):
    """Keyword arguments of `steps.StepSettings` for a point."""
    is_lsnn = flag_values.model == "lsnn"
    return {
        "model": flag_values.model,
        "engine": engine_of(flag_values),
        "rule": flag_values.rule,
        "rate_hz": point["rate_hz"],
        "n_units": point["neurons"],
        "n_adaptive": round(flag_values.adaptive_share * point["neurons"]) if is_lsnn else 0,
        "n_features": flag_values.n_features,
        "n_classes": flag_values.n_classes,
        "batch": point["batch"],
        "frames": point["frames"],
        "n_repeat": flag_values.n_repeat,
        "n_threads": point["threads"],
        "seed": flag_values.seed,
    }


def measure(settings_of_points, repeats):
    """What the steps of several networks with one number of threads take; runs in a child.

    Returns:
        A dict a point.
    """
    import steps  # imports TensorFlow, which the process that starts this one must not

    forward, backward = measuring.timed_engines()
    training_steps = [steps.TrainingStep(steps.StepSettings(**s)) for s in settings_of_points]
    for step in training_steps:
        step.seconds()  # compiles
    seconds = [[] for _ in training_steps]
    engine_seconds = [[] for _ in training_steps]
    for _ in range(repeats):
        for place, step in enumerate(training_steps):
            forward.clear()
            backward.clear()
            seconds[place].append(step.seconds())
            engine_seconds[place].append(sum(call.seconds for call in (*forward, *backward)))
    return [
        {
            "seconds_median": statistics.median(seconds[place]),
            "seconds_min": min(seconds[place]),
            "engine_seconds_median": statistics.median(engine_seconds[place]),
            "rate_hz_measured": step.measured_rate_hz(),
        }
        for place, step in enumerate(training_steps)
    ]


def measure_peak_gb(settings):
    """Peak memory of a process that trains one network; runs in a child."""
    import steps
    from training import reporting

    step = steps.TrainingStep(steps.StepSettings(**settings))
    for _ in range(3):
        step.seconds()
    return reporting.peak_memory_gb()


def bytes_per_neuron_step(flag_values, base):
    """Memory that a neuron and step (LSTM: cell and frame) more costs; None without more frames."""
    lengths = base["frames"], max(flag_values.frames)
    if lengths[1] <= lengths[0]:
        return None
    peaks_gb = [
        measuring.in_child(measure_peak_gb, step_settings(flag_values, base | {"frames": frames}))
        for frames in lengths
    ]
    steps_per_frame = flag_values.n_repeat if flag_values.model == "lsnn" else 1
    neuron_steps = (lengths[1] - lengths[0]) * steps_per_frame
    neuron_steps *= base["batch"] * N_DIRECTIONS * base["neurons"]
    return 1e9 * (peaks_gb[1] - peaks_gb[0]) / neuron_steps


def along(rows, base, axis):
    """The rows that differ from the base in this axis only, by its value."""
    found = [r for r in rows if all(r[name] == base[name] for name in AXES if name != axis)]
    return sorted(found, key=lambda row: row[axis])


def exponent(rows, axis, span=(0, np.inf)):
    """p of the least-squares fit seconds ~ value^p within a span; None with one point only."""
    rows = [row for row in rows if span[0] <= row[axis] <= span[1]]
    if len(rows) < 2:
        return None
    x = np.log([row[axis] for row in rows])
    y = np.log([row["seconds_median"] for row in rows])
    return float(np.polyfit(x, y, 1)[0])


def axis_label(axis, model):
    return AXIS_LABELS[axis].format(UNITS[model])


@written
def plot_scaling(model, rows, base, exponents, title):
    """Draw a panel an axis, both scales logarithmic."""
    figure = Figure(figsize=(10, 6.2), layout="constrained")
    figure.suptitle(title, fontsize=LABEL_PT + 1)
    panels = figure.subplots(2, 3, sharey=True).ravel()
    for panel, axis in zip(panels, AXES):
        points = along(rows, base, axis)
        if len(points) < 2:
            panel.axis("off")
            continue
        values = [point[axis] for point in points]
        for name, colour, marker in (
            ("seconds_median", BLUE, "o"),
            ("engine_seconds_median", ORANGE, "s"),
        ):
            if all(point[name] for point in points):  # dense: TensorFlow's own operations
                seconds = [point[name] for point in points]
                panel.plot(values, seconds, marker=marker, color=colour, label=LABELS[name])
        (base_point,) = (point for point in points if point[axis] == base[axis])
        power = -1 if axis == "threads" else 1
        proportional = base_point["seconds_median"] * (np.array(values) / base[axis]) ** power
        panel.plot(values, proportional, "--", color="0.6", label=LABELS["proportional"], zorder=0)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xticks(values, [f"{value:g}" for value in values])
        panel.minorticks_off()
        panel.tick_params(labelsize=LABEL_PT - 1, labelleft=True)
        panel.grid(color="0.9", linewidth=0.6)
        panel.set_xlabel(axis_label(axis, model), fontsize=LABEL_PT)
        panel.set_ylabel("s/step", fontsize=LABEL_PT)
        if exponents.get(axis) is not None:
            panel.set_title(f"exponent {exponents[axis]:.2f}", fontsize=LABEL_PT)
    panels[-1].axis("off")
    lines = {
        label: line for panel in panels for line, label in zip(*panel.get_legend_handles_labels())
    }
    panels[-1].legend(lines.values(), lines.keys(), loc="center", fontsize=LABEL_PT, frameon=False)
    return figure


def markdown(model, rows, base, exponents, memory_bytes):
    """Table of all points along each axis, and what was fitted."""
    lines = [
        [
            axis_label(axis, model),
            f"{row[axis]:g}",
            f"{row['seconds_median']:.3f}",
            f"{row['engine_seconds_median']:.3f}",
            "-" if row["rate_hz_measured"] is None else f"{row['rate_hz_measured']:.1f}",
        ]
        for axis in AXES
        if base[axis] is not None
        for row in along(rows, base, axis)
    ]
    table = measuring.markdown_table(["varied", "value", "s/step", "engine s", "Hz"], lines)
    fitted = [
        "{} {:.2f}".format(UNITS[model] if axis == "neurons" else axis, p)
        + (" ({} to {})".format(*FITTED_UNITS[model]) if axis == "neurons" else "")
        for axis, p in exponents.items()
        if p is not None
    ]
    text = f"Fitted exponents: {', '.join(fitted) or 'none'}."
    if memory_bytes is not None:
        step = "neuron and simulated step" if model == "lsnn" else "cell and frame"
        text += f" Peak memory grows by {memory_bytes:.1f} bytes per {step}."
    return f"{table}\n\n{text}"


def described(point, model):
    """A point in words."""
    units = f"{{}} {UNITS[model]} per direction"
    forms = ("{} frames", units, "batch {}", "{:g} Hz", "{} thread(s)")
    values = (point[axis] for axis in AXES)
    return ", ".join(form.format(v) for form, v in zip(forms, values) if v is not None)


def main(flag_values):
    model, engine = flag_values.model, engine_of(flag_values)
    for name in ("json", "figure"):
        command_line.check_output_file(flag_values, name)
    machine = measuring.machine()
    points = plan(flag_values)
    base = points[0]
    memory_bytes = bytes_per_neuron_step(flag_values, base)
    rows = []
    for n_threads in measuring.progress(flag_values.threads, len(flag_values.threads)):
        mine = [point for point in points if point["threads"] == n_threads]
        settings = [step_settings(flag_values, point) for point in mine]
        results = measuring.in_child(measure, settings, flag_values.repeats)
        rows += [{**point, **result} for point, result in zip(mine, results)]
    exponents = {
        "frames": exponent(along(rows, base, "frames"), "frames"),
        "neurons": exponent(along(rows, base, "neurons"), "neurons", FITTED_UNITS[model]),
        "batch": exponent(along(rows, base, "batch"), "batch"),
    }
    print(f"{measuring.machine_line(machine)}\n")
    print(markdown(model, rows, base, exponents, memory_bytes))
    rule = f"{flag_values.rule} e-prop" if flag_values.rule != "bptt" else "BPTT"
    title = f"{model.upper()} on {engine}, {rule}; unless varied: {described(base, model)}"
    beside = os.path.join(os.path.dirname(__file__), f"scaling_{model}.png")
    plot_scaling(flag_values.figure or beside, model, rows, base, exponents, title)
    if flag_values.json:
        settings = ("model", "rule", "adaptive_share", "n_features", "n_classes", "n_repeat")
        result = {name: flag_values[name].value for name in (*settings, "repeats", "seed")}
        result |= {"engine": engine, "base": base, "rows": rows, "exponents": exponents}
        result |= {"bytes_per_neuron_step": memory_bytes, "machine": machine}
        write_json(flag_values.json, result)


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__)

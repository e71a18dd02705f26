"""Initial weights of the LSNN's first layer from the Legendre Memory Unit, and what they remember.

    python3 lmu_init.py --dataset=timit_processed --report=lmu_report.json

writes `lmu_init.npz`, for `solve_timit_with_framewise_lsnn.py --init=lmu_init.npz`, and measures it
on speakers that are held out, beside its row-shuffled control and random weights: a minute on two
cores. On the 16-speaker sample the memory capacity of its four channels (the sum of R2 over 0 to 20
frames) is 14.7, at the same firing rate that of the control 12.1, of random weights 11.9; its floor,
a readout of the present features, 9.4.

`lmu/matched.py` and `lmu/nengo_network.py` say how the weights are made (`--method`), `lmu/memory.py` how they
are measured. Both directions of a layer are seeded, the backward one on reversed speech. With
`--lmu_fraction` below 1 the first neurons of each kind are the LMU's; the others start random and
hear all neurons, while the LMU's neurons do not hear them: its loop must not be disturbed.

The file holds, with a leading axis of directions, `w_in` and `w_rec` (float32) and A, B, E, D, P of
equation (1) in `lmu/matched.py` (float64), and `settings`, a JSON text.
"""

import os

from toolbox import command_line  # isort: skip (first: it tells who has no environment)

import numpy as np

from layers import neurons
from lmu import flags as lmu_flags
from lmu import legendre
from lmu.report import (
    FOLDS,
    choose_speech,
    draw_report,
    held_out_loop,
    loop_delay_and_gain,
    measure_starts,
    report_table,
)
from lmu.seeding import save_seed, seed_layer
from speech.dataset import PREPROC_CHOICES, TimitDataset
from toolbox.command_line import UserError
from toolbox.durable_files import write_json, write_whole

STREAM_SEEDING = 0  # of random numbers from one seed, of which the report has two more


def define_flags(flag_values):
    define = command_line.Definer(flag_values)
    define.path("dataset", "timit_processed", "folder of timit_processing.py")
    define.enum("preproc", "mfccs", PREPROC_CHOICES, "features")
    define.integer("seed", 1, "seed of all random numbers", 0, 2**31 - 1)
    define.integer(
        "fold",
        0,
        "which speakers are held out: in sorted order those at fold, fold + 4, fold + 8, ...",
        0,
        FOLDS - 1,
    )
    define.path("out", "lmu_init.npz", "file to write the weights to")
    define.path(
        "report",
        "",
        "also measure: JSON file to write, with a Markdown table and figures beside it",
    )
    define.float("weight_scale", 0.05, "scale of the weights of neurons outside the LMU", 0)
    neurons.define_flags(define)
    lmu_flags.define_flags(define)


def main(flag_values):
    lmu_flags.check_flags(flag_values)
    if not flag_values.out:
        raise UserError("--out is empty, expected the name of an .npz file")
    command_line.check_output_file(flag_values, "out", ".npz")
    command_line.check_output_file(flag_values, "report", ".json")
    try:
        neurons.silent_steps(flag_values.n_ref, flag_values.dt)
    except ValueError as error:
        raise UserError(f"{error}: use another --n_ref or --dt") from None
    dataset = TimitDataset(flag_values.dataset, preproc=flag_values.preproc)
    settings = lmu_flags.settings_from_flags(flag_values, dataset.n_static)
    speech = choose_speech(dataset, flag_values.fold)
    held_out, fit = (
        sorted({s for s, is_out in zip(speech.speakers, speech.is_held_out) if is_out == wanted})
        for wanted in (True, False)
    )
    print(
        f"speakers of {', '.join(speech.splits)}: {len(fit)} to seed from, {len(held_out)} held "
        f"out (fold {flag_values.fold})"
    )
    parameters = neurons.alif_parameters(
        **{name: getattr(flag_values, name) for name in neurons.FLAGS}
    )
    layer = seed_layer(
        speech.fit(),
        parameters,
        flag_values.n_regular,
        settings,
        np.random.default_rng([flag_values.seed, STREAM_SEEDING]),
        weight_scale=flag_values.weight_scale,
    )
    described = {
        name: value
        for name, value in flag_values.flag_values_dict().items()
        if name not in ("help", "h", "out", "report")
    }
    described |= {"splits": speech.splits, "speakers": fit, "held_out_speakers": held_out}
    save_seed(flag_values.out, layer, described)
    print(f"weights: {flag_values.out}")
    if flag_values.report:
        report = measure_starts(layer, speech, parameters, dataset.n_phns, flag_values.seed)
        records = held_out_loop(layer, speech, parameters)
        theta_steps = legendre.theta_steps(flag_values.theta_ms, flag_values.n_repeat)
        report["lmu"] |= loop_delay_and_gain(records, layer.P[0], theta_steps)
        stem = os.path.splitext(flag_values.report)[0]
        shown = layer, speech, parameters, flag_values.n_regular, flag_values.theta_ms
        draw_report(stem, report, records, *shown)
        table = report_table(report, described)
        with write_whole(f"{stem}.md", "w") as file:
            file.write(table)
        write_json(flag_values.report, report)
        print("\n\n".join(table.split("\n\n")[1:3]))
        print(f"report: {flag_values.report}, {stem}.md, {stem}_*.png")


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__)

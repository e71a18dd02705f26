"""Framewise phone classification of TIMIT with an LSNN, by BPTT or e-prop.

    CUDA_VISIBLE_DEVICES=0,1 python3 solve_timit_with_framewise_lsnn.py --eprop=symmetric --preproc=mfccs
    python3 solve_timit_with_framewise_lsnn.py --eprop=symmetric --init=lmu

reads `timit_processed` (made by timit_processing.py) and writes a run folder under `results`. On
the 16-speaker sample, with --batch=8 --n_epochs=20 --print_every=20: half a minute on two cores, frame
error 0.42 on the development set and 0.44 on the test set (README.md has the errors of all rules).
"""

import numpy as np
from absl import flags

from toolbox import command_line

command_line.import_tensorflow()

import tensorflow as tf  # noqa: E402

import eprop  # noqa: E402
import lmu_init  # noqa: E402
import models  # noqa: E402
from layers import event_driven  # noqa: E402
from training import (
    checkpoints,  # noqa: E402
    loop,  # noqa: E402
)

SCRIPT = "solve_timit_with_framewise_lsnn"

SEEDED_STARTS = ("lmu", "lmu_shuffled")


def define_flags(flag_values):
    loop.define_flags(
        flag_values,
        n_epochs=80,
        lr_decay_every=-1,
        readout_decay=1e-2,
        ramping_learning_rate=True,
    )
    lmu_init.define_neuron_flags(flag_values)
    both = {"flag_values": flag_values}
    flags.DEFINE_integer("n_layer", 1, "layers", 1, **both)
    flags.DEFINE_integer(
        "n_directions", 2, "1: forward only; 2: forward and backward in time", 1, 2, **both
    )
    flags.DEFINE_bool("loss_from_all_layers", True, "readout of all layers, or the last", **both)
    flags.DEFINE_bool("rec", True, "recurrent weights", **both)
    flags.DEFINE_enum(
        "engine",
        "auto",
        ["auto", *models.ENGINES],
        "dense: TensorFlow, any device; event: event-driven, CPU; auto: event without a GPU",
        **both,
    )
    flags.DEFINE_float(
        "weight_scale",
        None,
        "factor of the initial input and recurrent weights (default: 0.05, the authors' 1 with "
        "--reference_quirks)",
        0,
        **both,
    )
    flags.DEFINE_string(
        "init",
        "random",
        "start of the first layer: random; lmu (Legendre Memory Unit, see the LMU flags); "
        "lmu_shuffled (its control: who sends which recurrent weights is permuted); or a file of "
        "lmu_init.py",
        **both,
    )
    lmu_init.define_lmu_flags(flag_values)
    flags.DEFINE_bool(
        "measure_memory", True, "measure what the first layer remembers, before and after", **both
    )
    flags.DEFINE_bool("cell_train", True, "train the recurrent layers, else the readout", **both)
    flags.DEFINE_bool("BAglobal", False, "--eprop=random: one value for all feedback", **both)
    flags.DEFINE_bool("readout_bias", True, "bias of the readout", **both)
    flags.DEFINE_bool("psp_out", True, "readout of exponentially filtered spikes", **both)
    flags.DEFINE_float("tau_out", 3.0, "time constant of that filter, frames", 1e-3, 1e4, **both)
    flags.DEFINE_bool("tau_v_spread", False, "each neuron tau_v or half of it", **both)
    flags.DEFINE_bool("tau_a_spread", False, "each neuron tau_a or half of it", **both)
    flags.DEFINE_float("dampening_factor", 0.3, "height of the pseudo-derivative", 0, **both)
    flags.DEFINE_float("reg", 50.0, "weight of the firing-rate regularisation", 0, **both)
    flags.DEFINE_float("reg_rate", 10.0, "its target rate, Hz", 0, **both)
    flags.DEFINE_float(
        "drop_out_probability",
        -1.0,
        "share of inputs and outputs dropped; -1: none",
        -1,
        0.99,
        **both,
    )


def check_flags(flag_values):
    """Raise UserError for flags that do not go together."""
    loop.check_flags(flag_values)
    if flag_values.n_regular + flag_values.n_adaptive == 0:
        raise command_line.UserError("--n_regular=0 and --n_adaptive=0: expected a neuron at least")
    if flag_values.BAglobal and flag_values.eprop != "random":
        raise command_line.UserError(
            f"--BAglobal with {flag_values.eprop or 'BPTT'}: one constant feedback value needs "
            "--eprop=random"
        )
    is_seeded = flag_values.init in SEEDED_STARTS
    if is_seeded:
        lmu_init.check_lmu_flags(flag_values)
    elif flag_values.init != "random" and not flag_values.init.endswith(".npz"):
        raise command_line.UserError(
            f"--init={flag_values.init}: expected random, {', '.join(SEEDED_STARTS)}, or an .npz "
            "file of lmu_init.py"
        )
    if not is_seeded:
        loop.check_unread(flag_values, lmu_init.LMU_FLAGS, f"--init={' or '.join(SEEDED_STARTS)}")
    if flag_values.init != "random" and flag_values.tau_v_spread:
        raise command_line.UserError(
            f"--tau_v_spread with --init={flag_values.init}: the membrane's time constant is that "
            "of the memory's loop; leave out one of the two"
        )
    if flag_values.init != "random" and not flag_values.rec:
        raise command_line.UserError(
            f"--norec with --init={flag_values.init}: the memory is in the recurrent weights; "
            "leave out one of the two"
        )
    if flag_values.engine != "dense" or is_seeded or flag_values.measure_memory:
        try:
            event_driven.silent_steps(flag_values.n_ref, flag_values.dt)
        except ValueError as error:
            raise command_line.UserError(
                f"{error}: use --engine=dense --init=random --nomeasure_memory"
            ) from None
    if flag_values.readout_init == "ridge" and not flag_values.readout_bias:
        raise command_line.UserError(
            "--noreadout_bias with --readout_init=ridge: the regression has a bias; leave out one "
            "of the two"
        )
    if -1 < flag_values.drop_out_probability < 0:
        raise command_line.UserError(
            f"--drop_out_probability={flag_values.drop_out_probability}: expected -1 (off) or "
            "0 to 0.99"
        )


def choose_engine(flag_values):
    """The engine that `--engine` names; `auto` is `event` where no GPU is visible."""
    if flag_values.engine != "auto":
        return flag_values.engine
    return "dense" if tf.config.list_physical_devices("GPU") else "event"


def make_network(flag_values, dataset, seed):
    """The LSNN that the flags describe."""
    rule = eprop.rule_of_flag(flag_values.eprop)
    n_neurons = flag_values.n_regular + flag_values.n_adaptive
    spread = np.random.default_rng([seed, loop.STREAM_TIME_CONSTANTS])
    tau_v = flag_values.tau_v * _spread_factors(flag_values.tau_v_spread, n_neurons, spread)
    tau_a = flag_values.tau_a * _spread_factors(flag_values.tau_a_spread, n_neurons, spread)
    weight_scale = flag_values.weight_scale
    if weight_scale is None:
        weight_scale = 1.0 if flag_values.reference_quirks else 0.05
    parameters = event_driven.alif_parameters(
        flag_values.n_regular,
        flag_values.n_adaptive,
        tau_v=tau_v,
        tau_a=tau_a,
        thr=flag_values.thr,
        beta=flag_values.beta,
        n_ref=flag_values.n_ref,
        dampening_factor=flag_values.dampening_factor,
        dt=flag_values.dt,
        n_repeat=flag_values.n_repeat,
        rec=flag_values.rec,
        reference_quirks=flag_values.reference_quirks,
    )
    return models.Lsnn(
        dataset.n_features,
        dataset.n_phns,
        rule,
        parameters,
        np.random.default_rng([seed, loop.STREAM_WEIGHTS]),
        n_layer=flag_values.n_layer,
        n_directions=flag_values.n_directions,
        weight_scale=weight_scale,
        first_layer=make_first_layer(flag_values, dataset, parameters, weight_scale, seed),
        tau_out=flag_values.tau_out,
        psp_out=flag_values.psp_out,
        readout_bias=flag_values.readout_bias,
        global_feedback=flag_values.BAglobal,
        loss_from_all_layers=flag_values.loss_from_all_layers,
        reg=flag_values.reg,
        reg_rate=flag_values.reg_rate,
        l2=flag_values.l2,
        drop_out_probability=flag_values.drop_out_probability,
        engine=choose_engine(flag_values),
    )


def make_first_layer(flag_values, dataset, parameters, weight_scale, seed):
    """(w_in, w_rec) of the first layer that `--init` names; None for a random one, or where a
    checkpoint will replace it."""
    if flag_values.init == "random" or checkpoints.exists(flag_values.resume):
        return None
    if flag_values.init not in SEEDED_STARTS:
        layer, settings = lmu_init.load_seed(
            flag_values.init,
            dataset.n_features,
            len(parameters.alpha),
            flag_values.n_directions,
        )
        for name in ("preproc", *lmu_init.NEURON_FLAGS):
            value = getattr(flag_values, name)
            if settings.get(name, value) != value:
                raise command_line.UserError(
                    f"--init: {flag_values.init} was made with --{name}={settings[name]}, expected "
                    f"{value}, that of this run: seed anew with lmu_init.py"
                )
        if settings.get("splits") != ["train"]:
            print(
                f"note: {flag_values.init} was seeded on more speech than the training set: for "
                "results use --init=lmu, which reads that alone"
            )
        return layer.w_in, layer.w_rec
    random_generator = np.random.default_rng([seed, loop.STREAM_SEEDING])
    layer = lmu_init.seed_layer(
        dataset.train.features,
        parameters,
        flag_values.n_regular,
        lmu_init.lmu_settings(flag_values, dataset.n_static),
        random_generator,
        n_directions=flag_values.n_directions,
        weight_scale=weight_scale,
    )
    if flag_values.init == "lmu":
        return layer.w_in, layer.w_rec
    n_lmu = lmu_init.n_of_lmu(flag_values.n_regular, flag_values.lmu_fraction)
    shuffled = lmu_init.shuffled_rows(layer.w_rec, n_lmu, random_generator)
    return layer.w_in, shuffled


def _spread_factors(is_spread, n_neurons, random_generator):
    """1 for every neuron, or 1 or 0.5 by chance."""
    return random_generator.choice([1.0, 0.5], n_neurons) if is_spread else np.ones(n_neurons)


def main(flag_values):
    flag_values = loop.resumed_flags(flag_values, define_flags, SCRIPT)
    check_flags(flag_values)
    loop.run(
        flag_values,
        SCRIPT,
        make_network,
        trained_part=lambda network: network if flag_values.cell_train else network.readout,
        measure_memory=flag_values.measure_memory,
    )


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__)

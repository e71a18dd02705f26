"""Initial weights of the LSNN's first layer from the Legendre Memory Unit, and what they remember.

    python3 lmu_init.py --dataset=timit_processed --report=lmu_report.json

writes `lmu_init.npz`, for `solve_timit_with_framewise_lsnn.py --init=lmu_init.npz`, and measures it
on speakers that are held out, beside its row-shuffled control and random weights: a minute on two
cores. On the 16-speaker sample the memory capacity of its four channels (the sum of R2 over 0 to 20
frames) is 13.9, shuffled 12.0, of random weights at the same firing rate 11.7.

`matched.py` and `lmu/nengo_network.py` say how the weights are made (`--method`), `lmu/memory.py` how they
are measured. Both directions of a layer are seeded, the backward one on reversed speech. With
`--lmu_fraction` below 1 the first neurons of each kind are the LMU's; the others start random and
hear all neurons, while the LMU's neurons do not hear them: its loop must not be disturbed.

The file holds, with a leading axis of directions, `w_in` and `w_rec` (float32) and A, B, E, D, P of
equation (1) in `matched.py` (float64), and `settings`, a JSON text.
"""

import functools
import json
import os
from typing import NamedTuple

import numpy as np
from absl import flags
from scipy.optimize import brentq

from layers import event_driven
from lmu import figures, legendre, matched, memory
from lmu.matched import LmuSettings
from speech.dataset import PREPROC_CHOICES, TimitDataset
from toolbox import command_line
from toolbox.command_line import UserError
from toolbox.durable_files import write_json, write_whole
from training import checkpoints

MOST_BYTES = 2**30  # that a file of weights may unpack to: two directions of 11,500 neurons
MOST_TAU_STEPS = 1e9  # of a Nengo neuron: 1 - exp(-1 step / tau) has the digits of float32 then
FOLDS = 4
FEWEST_SPEAKERS = 4  # one held out, two to choose the readouts' regularisation by, one to fit to
SPEAKERS_OF_SAMPLE = 16  # a training set with so many speakers needs none of the other splits
NEURONS_PER_DIMENSION = 16  # of the state; with fewer, decoding noise swamps the memory
LOOP_UTTERANCES = 32  # by which the eigenvalues of a loop are found
RATE_UTTERANCES = 16  # by which random weights are scaled to the LMU's rate
SCALES = 1e-3, 10  # between which random weights are scaled so
STREAM_SEEDING, STREAM_SHUFFLING, STREAM_RANDOM = range(3)  # of random numbers from one seed
NEURON_FLAGS = (
    "n_regular",
    "n_adaptive",
    "n_repeat",
    "dt",
    "tau_v",
    "tau_a",
    "thr",
    "beta",
    "n_ref",
)
LMU_FLAGS = tuple(name for name in LmuSettings._fields if name != "n_static")
SEEDED = ("w_in", "w_rec", "A", "B", "E", "D", "P")
STARTS = ("lmu", "shuffled", "random", "random_scaled")


# --------------------------------------------------------------------------- flags


def define_neuron_flags(flag_values):
    """Define the flags of a layer's neurons, for this script and for training."""
    both = {"flag_values": flag_values}
    flags.DEFINE_integer("n_regular", 300, "regular neurons per direction", 0, **both)
    flags.DEFINE_integer("n_adaptive", 100, "adaptive neurons per direction", 0, **both)
    flags.DEFINE_integer("n_repeat", 5, "simulated steps a frame", 1, **both)
    flags.DEFINE_float("dt", 1.0, "length of a step, ms", 1e-3, **both)
    flags.DEFINE_float("tau_v", 20.0, "membrane time constant, ms", 1e-3, **both)
    flags.DEFINE_float("tau_a", 200.0, "adaptation time constant, ms", 1e-3, **both)
    flags.DEFINE_float("thr", 0.01, "baseline threshold, before the scaling by tau_v", 1e-9, **both)
    flags.DEFINE_float("beta", 1.8, "threshold rise a spike, before the scaling", 0, **both)
    flags.DEFINE_integer("n_ref", 2, "refractory steps; 2 gives one silent step", 0, **both)


def define_lmu_flags(flag_values):
    """Define the flags of the construction, for this script and for training."""
    both = {"flag_values": flag_values}
    flags.DEFINE_float("theta_ms", 100.0, "LMU: window of the memory, ms of speech", **both)
    flags.DEFINE_integer("order", 4, "LMU: order, state variables a channel", 1, **both)
    flags.DEFINE_integer("n_channels", 4, "LMU: signals that are remembered", 1, **both)
    flags.DEFINE_string(
        "channels",
        "pca",
        "LMU: which signals: pca (of the static features), random (projections of them), or a list "
        "of columns such as 0,1,2,3",
        **both,
    )
    flags.DEFINE_float(
        "lmu_fraction", 1.0, "LMU: share of the neurons in it, the rest starts random", 0, 1, **both
    )
    flags.DEFINE_float("gain_min", 0.7, "LMU: smallest gain, thresholds a deviation", 0, **both)
    flags.DEFINE_float("gain_max", 2.5, "LMU: largest gain, thresholds a deviation", 0, **both)
    flags.DEFINE_float(
        "drive_std", 2.0, "LMU: deviation of the drive by all features, thresholds", 0, **both
    )
    flags.DEFINE_integer("refits", 1, "LMU: times the decoders are solved in the loop", 0, **both)
    flags.DEFINE_enum(
        "method",
        "matched",
        matched.METHODS,
        "LMU: decoders from the spikes of these neurons, or from a Nengo network",
        **both,
    )


def check_lmu_flags(flag_values, say=print):
    """Refuse flags of `define_lmu_flags` (and `n_regular`) that cannot work; warn of poor ones.

    Raises:
        UserError
    """
    command_line.check_finite(flag_values)
    if flag_values.theta_ms < legendre.FRAME_MS:
        raise UserError(
            f"--theta_ms={flag_values.theta_ms:g}: expected at least a frame, "
            f"{legendre.FRAME_MS:g} ms of speech"
        )
    if flag_values.gain_max < flag_values.gain_min:
        raise UserError(
            f"--gain_max={flag_values.gain_max:g}: expected at least --gain_min="
            f"{flag_values.gain_min:g}"
        )
    if flag_values.gain_max == 0:
        raise UserError("--gain_max=0: expected above 0, else no neuron is in the memory")
    n_lmu = n_of_lmu(flag_values.n_regular, flag_values.lmu_fraction)
    dimensions = flag_values.order * flag_values.n_channels
    sizes = (
        f"--order={flag_values.order} times --n_channels={flag_values.n_channels} are {dimensions} "
        f"state variables for the LMU's {n_lmu} regular neurons"
    )
    if dimensions >= n_lmu:
        raise UserError(f"{sizes}: expected fewer than neurons (--n_regular, --lmu_fraction)")
    if dimensions * NEURONS_PER_DIMENSION > n_lmu:
        say(
            f"warning: {sizes}: with fewer than {NEURONS_PER_DIMENSION} neurons each the memory "
            "is noisy"
        )
    if flag_values.method == "nengo":
        _check_time_constants(flag_values)


def _check_time_constants(flag_values):
    """Raise UserError for time constants of which Nengo's neurons cannot be made or simulated.

    Their adaptation takes Euler steps, which grow beyond all bounds when it is much faster than a
    step; a membrane that forgets within a step is left nothing in float64.
    """
    names = ["tau_v"]
    if n_of_lmu(flag_values.n_adaptive, flag_values.lmu_fraction):
        names.append("tau_a")
    dt = flag_values.dt
    for name in names:
        value = getattr(flag_values, name)
        if not dt <= value <= MOST_TAU_STEPS * dt:
            raise UserError(
                f"--{name}={value} with --method=nengo: expected at least a step, {dt:g} ms "
                f"(--dt), and at most {MOST_TAU_STEPS:g} steps: give another --{name} or "
                "--method=matched"
            )


def lmu_settings(flag_values, n_static):
    """`LmuSettings` that the flags describe, for features of which `n_static` are no differences.

    Raises:
        UserError: channels that the features do not have.
    """
    settings = LmuSettings(n_static, **{name: getattr(flag_values, name) for name in LMU_FLAGS})
    if settings.n_channels > n_static:
        raise UserError(
            f"--n_channels={settings.n_channels}: expected at most {n_static}, the number of "
            "features that are no differences"
        )
    if settings.channels not in matched.NAMED_CHANNELS:
        matched.list_of_channels(settings)
    return settings


def n_of_lmu(n_neurons, lmu_fraction):
    """How many of the neurons are in the LMU."""
    return round(lmu_fraction * n_neurons)


# --------------------------------------------------------------------------- seeding


class SeededLayer(NamedTuple):
    """Weights of a layer and what they were made from; the leading axis is the direction."""

    w_in: np.ndarray  # [directions, features, n]
    w_rec: np.ndarray  # [directions, n, n], row = presynaptic, zero diagonal
    A: np.ndarray  # the rest: as in `lmu.matched`
    B: np.ndarray
    E: np.ndarray
    D: np.ndarray
    P: np.ndarray


def seed_layer(
    utterances,
    parameters,
    n_regular,
    settings,
    random_generator,
    n_directions=2,
    weight_scale=0.05,
    say=print,
):
    """Seed a layer that reads features.

    Args:
        utterances: list of normalised [frames, features], static features first.
        parameters: event_driven.AlifParameters of `n_regular` regular, then adaptive neurons.
        settings: `LmuSettings`.
        random_generator: np.random.Generator.
        n_directions: the second one is seeded on the utterances reversed.
        weight_scale: of the weights of neurons that are not in the LMU.
        say: is given lines on what is being done.

    Returns:
        `SeededLayer`, float64.

    Raises:
        UserError: settings that cannot work with these features and neurons.
    """
    seed_direction = matched.seed_direction
    if settings.method == "nengo":
        from lmu import (
            nengo_network,  # here: on import it builds the network that nengo_gui shows
        )

        seed_direction = nengo_network.nengo_weights
    n, n_features = len(parameters.alpha), utterances[0].shape[1]
    n_lmu = n_of_lmu(n_regular, settings.lmu_fraction)
    n_adaptive = n_of_lmu(n - n_regular, settings.lmu_fraction)
    members = np.concatenate([np.arange(n_lmu), n_regular + np.arange(n_adaptive)])
    w_in = event_driven.scaled_normal(random_generator, n_features, n, weight_scale, n_directions)
    w_rec = event_driven.scaled_normal(random_generator, n, n, weight_scale, n_directions)
    w_rec[:, :, members] = 0  # from the neurons that are not in the LMU
    w_rec[:, np.arange(n), np.arange(n)] = 0
    seeded = []
    for direction in range(n_directions):
        say(f"seeding the {('forward', 'backward')[direction]} cell (method {settings.method})")
        order = slice(None, None, -1 if direction else 1)
        seed = seed_direction(
            [utterance[order] for utterance in utterances],
            matched.layer_part(parameters, members),
            n_lmu,
            settings,
            random_generator,
            say,
        )
        w_in[direction][:, members] = seed.w_in
        w_rec[direction][np.ix_(members, members)] = seed.w_rec
        seeded.append(seed)
    of_all = (np.stack([getattr(seed, name) for seed in seeded]) for name in SEEDED[2:])
    return SeededLayer(w_in, w_rec, *of_all)


def shuffled_rows(w_rec, n_regular, random_generator):
    """W_rec [directions, n, n] whose regular neurons send what others of them sent.

    Every neuron keeps its input and the sizes of all weights that it receives from the regular
    neurons; what those spikes mean to it is lost.
    """
    w_rec = np.array(w_rec)
    for weights in w_rec:
        weights[:n_regular] = weights[random_generator.permutation(n_regular)]
        np.fill_diagonal(weights, 0)
    return w_rec


def scale_for_rate(w_in, w_rec, parameters, utterances, rate_hz):
    """Factor of both weights with which the layer's mean rate is `rate_hz`, spikes per simulated
    second.

    Raises:
        UserError: none of `SCALES` does it.
    """

    @functools.cache  # the bounds are asked for twice
    def excess(logarithm):
        scale = np.exp(logarithm)
        activity = memory.simulate(utterances, scale * w_in, scale * w_rec, parameters)
        return activity.rates_hz.mean() - rate_hz

    bounds = np.log(SCALES)
    if excess(bounds[0]) * excess(bounds[1]) > 0:
        slowest, fastest = (excess(bound) + rate_hz for bound in bounds)
        raise UserError(
            f"the LMU fires at {rate_hz:.0f} Hz, random weights at {slowest:.0f} to {fastest:.0f} "
            f"Hz when multiplied by {SCALES[0]:g} to {SCALES[1]:g}: for a comparison at equal "
            "rates choose another --drive_std, --gain_max or --thr"
        )
    return float(np.exp(brentq(excess, *bounds, xtol=0.01)))


# --------------------------------------------------------------------------- files


def save_seed(path, layer, settings):
    """Write a `SeededLayer` and its settings, a dict for JSON, to an `.npz` file."""
    arrays = layer._asdict()
    for name in ("w_in", "w_rec"):
        arrays[name] = arrays[name].astype(np.float32)  # what the network computes with
    with write_whole(path) as file:
        np.savez(file, **arrays, settings=np.array(json.dumps(settings)))


def load_seed(path, n_features, n_neurons, n_directions=2):
    """Read a file of `save_seed` for a layer of this size; further directions are left out.

    Returns:
        (`SeededLayer`, settings).

    Raises:
        UserError: no such file, no seed in it, or one of another layer.
    """
    try:
        arrays = checkpoints.read_arrays(path, MOST_BYTES)
    except OSError as error:
        raise UserError(
            f"--init: cannot read {path} ({error.strerror}): make it with lmu_init.py"
        ) from None
    except checkpoints.BadArraysError as error:
        raise UserError(
            f"--init: {path} holds no seed: it {error}: expected an .npz of lmu_init.py"
        ) from None
    for name in {"w_in", "w_rec"} & set(arrays):  # the forward cell may be wanted alone
        arrays[name] = arrays[name][:n_directions] if arrays[name].ndim else arrays[name]
    missing = [name for name in (*SEEDED, "settings") if name not in arrays]
    if missing:
        raise UserError(f"--init: {path} has no {missing[0]}: expected an .npz of lmu_init.py")
    expected = {
        "w_in": (n_directions, n_features, n_neurons),
        "w_rec": (n_directions, n_neurons, n_neurons),
    }
    for name in SEEDED:
        array = arrays[name]
        shape = expected.get(name, array.shape)
        if array.dtype.kind != "f" or array.shape != shape:
            raise UserError(
                f"--init: {name} in {path} is {array.dtype} {array.shape}, expected float {shape} "
                "[directions, from, to]: it was made for other features or another --n_regular "
                "or --n_adaptive"
            )
        if not np.isfinite(array).all():
            raise UserError(f"--init: {name} in {path} holds numbers that are not finite")
    try:
        settings = json.loads(str(arrays["settings"][()]))
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise UserError(f"--init: the settings in {path} are no JSON object")
    return SeededLayer(*(arrays[name] for name in SEEDED)), settings


# --------------------------------------------------------------------------- speakers


class Speech(NamedTuple):
    """Utterances of some speakers, and which speakers are held out."""

    utterances: list  # of [frames, features]
    phns: list  # of [frames]
    names: list  # of the utterances
    speakers: list  # of each utterance
    is_held_out: np.ndarray  # bool, of each utterance
    splits: tuple  # which were read

    def fit(self):
        """The utterances that are not held out."""
        return [u for u, is_out in zip(self.utterances, self.is_held_out) if not is_out]


def choose_speech(dataset, fold):
    """The `Speech` that seeding and report are based on.

    The training set, if it has the sample's 16 speakers or more: develop and test stay unread. Else
    all splits, as a few speakers are too few to judge by. Fold k of the speakers, sorted by name
    (women before men), holds out those at positions k, k + 4, k + 8, ...

    Raises:
        UserError: too few speakers.
    """
    splits = ("train",)
    if len({entry["speaker"] for entry in dataset.train.metadata}) < SPEAKERS_OF_SAMPLE:
        splits = ("train", "develop", "test")
    parts = [getattr(dataset, split) for split in splits]
    speakers = [entry["speaker"] for part in parts for entry in part.metadata]
    ordered = sorted(set(speakers))
    if len(ordered) < FEWEST_SPEAKERS:
        raise UserError(
            f"the data set has {len(ordered)} speaker(s): expected at least {FEWEST_SPEAKERS}, of "
            "which some are held out"
        )
    return Speech(
        [features for part in parts for features in part.features],
        [phns for part in parts for phns in part.phns],
        [name for part in parts for name in part.names],
        speakers,
        np.isin(speakers, ordered[fold::FOLDS]),
        splits,
    )


# --------------------------------------------------------------------------- report


def measure_starts(layer, speech, parameters, n_regular, n_phns, seed, say=print):
    """What the seeded layer, its control and random layers remember.

    Returns:
        dict: for each of `STARTS` what `memory.measure` returns.
    """
    n = len(parameters.alpha)
    fit = speech.fit()
    fit = [fit[i] for i in np.linspace(0, len(fit) - 1, RATE_UTTERANCES).round().astype(int)]
    rate_hz = memory.simulate(fit, layer.w_in, layer.w_rec, parameters).rates_hz.mean()
    random_generator = np.random.default_rng([seed, STREAM_RANDOM])
    shape = {"directions": len(layer.w_in), "weight_scale": 1}
    w_in = event_driven.scaled_normal(random_generator, layer.w_in.shape[1], n, **shape)
    w_rec = event_driven.scaled_normal(random_generator, n, n, **shape)
    scale = scale_for_rate(w_in, w_rec, parameters, fit, rate_hz)
    say(f"random weights fire at the LMU's {rate_hz:.0f} Hz when multiplied by {scale:.3f}")
    shuffled = shuffled_rows(
        layer.w_rec,
        min(n_regular, layer.D.shape[-1]),  # the LMU's: others must not come to drive its loop
        np.random.default_rng([seed, STREAM_SHUFFLING]),
    )
    weights = {
        "lmu": (layer.w_in, layer.w_rec),
        "shuffled": (layer.w_in, shuffled),
        "random": (w_in, w_rec),
        "random_scaled": (scale * w_in, scale * w_rec),
    }
    report = {}
    for name in STARTS:
        report[name] = memory.measure(
            speech.utterances,
            speech.phns,
            speech.speakers,
            speech.is_held_out,
            *weights[name],
            parameters,
            layer.P[0],
            n_phns,
        )
        say(
            f"{name}: {report[name]['rate_hz_mean']:.0f} Hz, memory capacity "
            f"{report[name]['memory_capacity_channels']:.2f}, frame accuracy "
            f"{report[name]['frame_accuracy']:.3f}"
        )
    return report


def report_table(report, settings):
    """Markdown text: a table of the report, and what it was made from."""
    rows = [
        "| start | rate, Hz: mean / max | silent | ψ > 0 | memory capacity | R² 10 / 20 frames ago "
        "| frame accuracy: forward / all |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, values in report.items():
        r2 = values["r2_channels"]
        rows.append(
            f"| {name} | {values['rate_hz_mean']:.0f} / {values['rate_hz_max']:.0f} "
            f"| {values['silent_share']:.3f} | {values['psi_positive_share']:.3f} "
            f"| {values['memory_capacity_channels']:.2f} | {r2[10]:.2f} / {r2[20]:.2f} "
            f"| {values['frame_accuracy_forward']:.3f} / {values['frame_accuracy']:.3f} |"
        )
    lines = "\n".join(f"- {name}: {value}" for name, value in settings.items())
    return (
        "# Memory of initial weights\n\n"
        + "\n".join(rows)
        + "\n\nDefinitions: `lmu/memory.py`. Silent: share of neurons; ψ > 0: share of neurons and "
        "steps; memory capacity: sum of R² over 0 to 20 frames, mean over the channels, forward "
        f"cell.\n\n{lines}\n"
    )


class LoopRecord(NamedTuple):
    """A seeded cell beside the ideal memory, for one utterance; steps in the cell's order."""

    low_passed: np.ndarray  # [steps, features], filtered as the membrane does
    ideal: np.ndarray  # [steps, channels * order]
    decoded: np.ndarray  # [steps, channels * order]
    spikes: np.ndarray  # bool [steps, n]


def record_loop(layer, utterances, parameters, direction=0):
    """`LoopRecord` of each utterance [frames, features], in the order that the cell reads."""
    alpha, n_repeat = float(parameters.alpha[0]), parameters.n_repeat
    a, b, decoders = (getattr(layer, name)[direction] for name in "ABD")
    currents = [utterance @ layer.w_in[direction] for utterance in utterances]
    spikes = matched.spikes_of(currents, layer.w_rec[direction], parameters)
    records = []
    for utterance, of_utterance in zip(utterances, spikes):
        inputs = matched.low_passed(utterance, alpha, n_repeat)
        zbar = matched.filtered(of_utterance[:, : decoders.shape[1]], alpha)
        records.append(
            LoopRecord(
                low_passed=inputs,
                ideal=matched.ideal_states(inputs @ layer.P[direction], a, b),
                decoded=zbar @ decoders.T,
                spikes=of_utterance > 0,
            )
        )
    return records


def loop_eigenvalues(records):
    """Eigenvalues, a step, of the linear system that predicts the decoded states of a loop best:
    decoded_t = A decoded_{t-1} + B low_passed_t, by least squares."""
    before = np.concatenate([r.decoded[:-1] for r in records])
    after = np.concatenate([r.decoded[1:] for r in records])
    inputs = np.concatenate([r.low_passed[1:] for r in records])
    system, *_ = np.linalg.lstsq(np.concatenate([before, inputs], axis=1), after, rcond=None)
    return np.linalg.eigvals(system[: before.shape[1]].T)


def draw_report(stem, report, layer, speech, parameters, n_regular, theta_ms):
    """Write `<stem>_memory.png`, `_utterance.png` and `_eigenvalues.png`."""
    figures.plot_memory(
        f"{stem}_memory.png", {name: report[name]["r2_channels"] for name in STARTS}, theta_ms
    )
    held_out = np.flatnonzero(speech.is_held_out)
    chosen = [speech.utterances[i] for i in held_out[:LOOP_UTTERANCES]]
    records = record_loop(layer, chosen, parameters)
    order = len(layer.A[0])
    theta = legendre.theta_steps(theta_ms, parameters.n_repeat)
    first, utterance = records[0], chosen[0]
    decoder = legendre.delay_decoder(order, 1.0)
    backward = record_loop(layer, [utterance[::-1]], parameters, 1)[0].spikes[::-1]
    figures.plot_memory_utterance(
        f"{stem}_utterance.png",
        signal=np.repeat(utterance @ layer.P[0][:, 0], parameters.n_repeat),
        ideal=first.ideal[:, :order] @ decoder,
        decoded=first.decoded[:, :order] @ decoder,
        spikes=np.concatenate([first.spikes, backward], axis=1),
        theta_steps=theta,
        n_repeat=parameters.n_repeat,
        n_regular=n_regular,
        title=f"{speech.names[held_out[0]]}: memory of {theta_ms:g} ms, first channel",
    )
    figures.plot_eigenvalues(
        f"{stem}_eigenvalues.png",
        ideal=np.linalg.eigvals(layer.A[0]),
        loop=loop_eigenvalues(records),
        theta_steps=theta,
    )


# --------------------------------------------------------------------------- script


def define_flags(flag_values):
    both = {"flag_values": flag_values}
    flags.DEFINE_string("dataset", "timit_processed", "folder of timit_processing.py", **both)
    flags.DEFINE_enum("preproc", "mfccs", PREPROC_CHOICES, "features", **both)
    flags.DEFINE_integer("seed", 1, "seed of all random numbers", 0, 2**31 - 1, **both)
    flags.DEFINE_integer(
        "fold",
        0,
        "which speakers are held out: in sorted order those at fold, fold + 4, fold + 8, ...",
        0,
        FOLDS - 1,
        **both,
    )
    flags.DEFINE_string("out", "lmu_init.npz", "file to write the weights to", **both)
    flags.DEFINE_string(
        "report",
        "",
        "also measure: JSON file to write, with a Markdown table and figures beside it",
        **both,
    )
    flags.DEFINE_float(
        "weight_scale", 0.05, "scale of the weights of neurons outside the LMU", 0, **both
    )
    define_neuron_flags(flag_values)
    define_lmu_flags(flag_values)


def main(flag_values):
    check_lmu_flags(flag_values)
    for name in ("out", "report"):
        folder = os.path.dirname(getattr(flag_values, name)) or "."
        if not os.path.isdir(folder):
            raise UserError(f"--{name}: there is no folder {folder}: make it first")
    if flag_values.report and not flag_values.report.endswith(".json"):
        raise UserError(f"--report={flag_values.report}: expected the name of a .json file")
    try:
        event_driven.silent_steps(flag_values.n_ref, flag_values.dt)
    except ValueError as error:
        raise UserError(f"{error}: use another --n_ref or --dt") from None
    dataset = TimitDataset(flag_values.dataset, preproc=flag_values.preproc)
    settings = lmu_settings(flag_values, dataset.n_static)
    speech = choose_speech(dataset, flag_values.fold)
    held_out, fit = (
        sorted({s for s, is_out in zip(speech.speakers, speech.is_held_out) if is_out == wanted})
        for wanted in (True, False)
    )
    print(
        f"speakers of {', '.join(speech.splits)}: {len(fit)} to seed from, {len(held_out)} held "
        f"out (fold {flag_values.fold})"
    )
    parameters = event_driven.alif_parameters(
        flag_values.n_regular,
        flag_values.n_adaptive,
        **{
            name: getattr(flag_values, name)
            for name in NEURON_FLAGS
            if name not in ("n_regular", "n_adaptive")
        },
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
        report = measure_starts(
            layer,
            speech,
            parameters,
            flag_values.n_regular,
            dataset.n_phns,
            flag_values.seed,
        )
        stem = os.path.splitext(flag_values.report)[0]
        draw_report(
            stem, report, layer, speech, parameters, flag_values.n_regular, flag_values.theta_ms
        )
        table = report_table(report, described)
        with write_whole(f"{stem}.md", "w") as file:
            file.write(table)
        write_json(flag_values.report, report)
        print(table.split("\n\n")[1])
        print(f"report: {flag_values.report}, {stem}.md, {stem}_*.png")


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__)

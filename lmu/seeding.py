"""A layer that starts from the Legendre Memory Unit, its control, and files of it."""

import functools
import json
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq

from layers import neurons
from lmu import matched, memory, nengo_network
from toolbox import arrays as array_files
from toolbox.command_line import UserError
from toolbox.durable_files import write_whole

MOST_BYTES = 2**30  # that a file of weights may unpack to: two directions of 11,500 neurons
SCALES = 1e-3, 10  # between which weights are scaled to the LMU's rate
RATE_UTTERANCES = 16  # by which they are
RATE_TOLERANCE = 0.1  # of the rate, where no scale gives it exactly
SEEDED = ("w_in", "w_rec", "A", "B", "E", "D", "P")


def n_of_lmu(n_neurons, lmu_fraction):
    """How many of the neurons are in the LMU."""
    return round(lmu_fraction * n_neurons)


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
        parameters: neurons.AlifParameters of `n_regular` regular, then adaptive neurons.
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
        seed_direction = nengo_network.nengo_weights
    n, n_features = len(parameters.alpha), utterances[0].shape[1]
    n_lmu = n_of_lmu(n_regular, settings.lmu_fraction)
    n_adaptive = n_of_lmu(n - n_regular, settings.lmu_fraction)
    members = np.concatenate([np.arange(n_lmu), n_regular + np.arange(n_adaptive)])
    w_in = neurons.scaled_normal(random_generator, n_features, n, weight_scale, n_directions)
    w_rec = neurons.scaled_normal(random_generator, n, n, weight_scale, n_directions)
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


def shuffled_control(layer, parameters, utterances, random_generator):
    """(W_in, W_rec) of a `SeededLayer`'s control, which fires as much: the rows of its LMU's regular
    neurons permuted (others must not come to drive the loop), all weights scaled to its mean rate.

    Raises:
        UserError: as `scale_for_rate`.
    """
    w_rec = shuffled_rows(layer.w_rec, layer.D.shape[-1], random_generator)
    rate_hz = mean_rate_hz(layer.w_in, layer.w_rec, parameters, utterances)
    scale = scale_for_rate(layer.w_in, w_rec, parameters, utterances, rate_hz)
    return scale * layer.w_in, scale * w_rec


def mean_rate_hz(w_in, w_rec, parameters, utterances):
    """Mean rate of a layer, spikes per simulated second, on `RATE_UTTERANCES` of the speech."""
    chosen = np.unique(np.linspace(0, len(utterances) - 1, RATE_UTTERANCES).round().astype(int))
    activity = memory.simulate([utterances[i] for i in chosen], w_in, w_rec, parameters)
    return activity.rates_hz.mean()


def scale_for_rate(w_in, w_rec, parameters, utterances, rate_hz):
    """Factor of both weights with which the layer's mean rate is `rate_hz`.

    Raises:
        UserError: none of `SCALES` does it.
    """

    @functools.cache  # the bounds are asked for twice
    def excess(logarithm):
        scale = np.exp(logarithm)
        return mean_rate_hz(scale * w_in, scale * w_rec, parameters, utterances) - rate_hz

    slowest, fastest = bounds = np.log(SCALES)
    is_between = excess(slowest) * excess(fastest) <= 0
    found = brentq(excess, *bounds, xtol=0.003) if is_between else slowest
    if abs(excess(found)) > RATE_TOLERANCE * rate_hz:  # a rate may jump
        raise UserError(
            f"the LMU fires at {rate_hz:.0f} Hz, its control at {excess(slowest) + rate_hz:.0f} to "
            f"{excess(fastest) + rate_hz:.0f} Hz, but not at that rate, when multiplied by "
            f"{SCALES[0]:g} to {SCALES[1]:g}: for a comparison at equal rates choose another "
            "--drive_std, --gain_max or --thr"
        )
    return float(np.exp(found))


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
        arrays = array_files.read_arrays(path, MOST_BYTES)
    except OSError as error:
        raise UserError(
            f"--init: cannot read {path} ({error.strerror}): make it with lmu_init.py"
        ) from None
    except array_files.BadArraysError as error:
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

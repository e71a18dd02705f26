"""A Legendre memory in the recurrent weights of spiking neurons, by the neurons' own spikes.

The neural engineering framework (Eliasmith & Anderson 2003) holds a state m in the filtered spikes
of many neurons: encoders E drive them, decoders D read m from them, and a linear system in m
becomes recurrent weights. In a regular neuron of `layers.neurons` (equations 1 to 5 there), the reset
only subtracts what its own spikes add to zbar_t = alpha zbar_{t-1} + z_t: v_t = u_t - thr zbar_{t-1}
with

    u_t = sum_k alpha^k (x_{t-k} W_in + z_{t-1-k} W_rec)
        = x~_t W_in / (1 - alpha) + zbar_{t-1} W_rec

so that the neuron is a rectifier from u to zbar, and the membrane's leak itself is the low-pass of
the loop. With zbar D^T ~ m and

    W_rec = (E Ad D)^T,   W_in = (1 - alpha) P Bd^T E^T + W_x                               (1)

it follows that u_t = E m_t + (drive), where, channel by channel,

    m_t = Ad m_{t-1} + Bd x~_t P,   x~_t = alpha x~_{t-1} + (1 - alpha) x_t                 (2)

is the memory of `legendre`, one step of 1 ms a turn. How the parts are found:

1. P: principal components of the static features (or other channels), of unit variance.
2. E: scattered directions in pairs of opposite sign; E_i m has standard deviation g_i thr, with
   gains g_i drawn from `gain_min` to `gain_max`; each dimension of m counts by its deviation.
3. W_x: a random drive by all features, whose filtered sum has standard deviation `drive_std` thr.
   It moves the neurons out of their dead zone |u| < thr, in which the loop would fall silent.
4. D: the neurons are driven as if the memory were ideal, by I_t = E (m_t - alpha m_{t-1}) + x W_x
   and no recurrence; ridge regression of m on zbar at the ends of the frames, no intercept. Then
   D is scaled so that the decoded state has slope 1 against the ideal one: a loop gain that is
   wrong by a few per cent acts in every step.
5. W_rec has no diagonal: what a neuron would send to itself is replaced by what the others can
   best (by the same regression) say of it, which is to solve its column without it.
6. `refits` times: the loop runs by itself, what it did is added to the driven data with equal
   weight, the ideal m still the target, and D is solved anew and scaled as in 4. Unscaled, D would
   make the loop forget early: on speech 36 to 39 steps of delay, not 50, at a gain of 0.61 to 0.79.
7. Adaptive neurons stay out of the loop, as adaptation makes them no rectifiers: they read the
   decoded state with random encoders of 2 thr and the features with a drive of 6 thr.

    symbol  unit, shape
    E       potential a unit of m, [n_lmu, channels * order]
    D       [channels * order, n_lmu]
    Ad, Bd  of one channel, [order, order] and [order]; in (1) repeated along the diagonal
    P       [features, channels]
    m       [channels * order], a channel's states beside each other
"""

from typing import NamedTuple

import nengo
import numpy as np
import scipy

from layers import event_driven
from lmu import legendre
from lmu.memory import BATCH, padded, principal_directions
from lmu.nengolib_compat import import_nengolib
from toolbox.command_line import UserError

RIDGE = 1e-3  # of the mean square of the filtered spikes
ADAPTIVE_STATE_STD, ADAPTIVE_DRIVE_STD = 2.0, 6.0  # of the potential, thresholds
MOST_UTTERANCES = 40  # of which decoders are solved
METHODS = ("matched", "nengo")
NAMED_CHANNELS = ("pca", "random")  # others are lists of columns


class LmuSettings(NamedTuple):
    """What a seeded layer is made from; the flags of `lmu_init` of these names explain them."""

    n_static: int  # features that are no differences, the first columns
    theta_ms: float = 100.0
    order: int = 4
    n_channels: int = 4
    channels: str = "pca"
    lmu_fraction: float = 1.0
    gain_min: float = 0.7
    gain_max: float = 2.5
    drive_std: float = 2.0
    refits: int = 1
    method: str = "matched"


class SeededDirection(NamedTuple):
    """The weights of a direction and what they were made from, in the module's symbols."""

    w_in: np.ndarray  # [features, n]
    w_rec: np.ndarray  # [n, n], row = presynaptic, zero diagonal
    A: np.ndarray
    B: np.ndarray
    E: np.ndarray
    D: np.ndarray
    P: np.ndarray


class Memory(NamedTuple):
    """The ideal memory that neurons of a layer are to hold, and the speech that it is fitted to."""

    utterances: list  # of [frames, features] float64
    states: list  # of [steps, channels * order], equation (2)
    A: np.ndarray  # Ad
    B: np.ndarray  # Bd
    P: np.ndarray
    std: np.ndarray  # [channels * order] of the states


def ideal_memory(utterances, parameters, settings, random_generator):
    """`Memory` of a layer that reads `utterances`, of which `MOST_UTTERANCES` are kept.

    Args:
        utterances: list of normalised [frames, features], static features first; in the order in
            which the direction reads them.
        parameters: neurons.AlifParameters of the neurons that hold the memory.
        settings: `LmuSettings`.
        random_generator: np.random.Generator.

    Raises:
        UserError: neurons of different membrane time constants; channels that do not exist.
    """
    alpha = common_alpha(parameters)
    projection = channel_projection(utterances, settings, random_generator)
    chosen = np.linspace(0, len(utterances) - 1, min(len(utterances), MOST_UTTERANCES))
    utterances = [np.asarray(utterances[i], np.float64) for i in chosen.round().astype(int)]
    theta = legendre.theta_steps(settings.theta_ms, parameters.n_repeat)
    a, b = legendre.discrete(settings.order, theta)
    states = [
        ideal_states(low_passed(utterance @ projection, alpha, parameters.n_repeat), a, b)
        for utterance in utterances
    ]
    return Memory(utterances, states, a, b, projection, std=np.concatenate(states).std(axis=0))


def common_alpha(parameters):
    """The decay of the membrane a step, which the neurons of a memory must share."""
    if np.ptp(parameters.alpha) > 0:
        raise UserError(
            "the neurons of the LMU have different membrane time constants, which are the time "
            "constants of its loop: expected one (--tau_v without --tau_v_spread)"
        )
    return float(parameters.alpha[0])


def channel_projection(utterances, settings, random_generator):
    """P [features, channels] of the settings, each channel of unit variance in the utterances.

    Raises:
        UserError: channels that do not exist or are constant.
    """
    n_static, n_channels = settings.n_static, settings.n_channels
    frames = np.concatenate([u[:, :n_static] for u in utterances]).astype(np.float64)
    covariance = np.atleast_2d(np.cov(frames, rowvar=False))  # [static, static]
    if settings.channels == "pca":
        directions = principal_directions(utterances, n_static, n_channels)[:n_static]
    elif settings.channels == "random":
        directions = random_generator.standard_normal((n_static, n_channels))
    else:
        directions = np.eye(n_static)[:, list_of_channels(settings)]
    variances = np.sum(directions * (covariance @ directions), axis=0)
    if np.any(variances < 1e-12):
        raise UserError(
            f"--channels={settings.channels}: a channel is constant in the training speech: "
            "choose other channels, or fewer with --n_channels"
        )
    projection = np.zeros((np.shape(utterances[0])[1], n_channels))
    projection[:n_static] = directions / np.sqrt(variances)
    return projection


def list_of_channels(settings):
    """The columns that `--channels=0,1,5` names.

    Raises:
        UserError: no list of columns, or not `n_channels` different ones.
    """
    try:
        columns = [int(word) for word in settings.channels.split(",")]
    except ValueError:
        raise UserError(
            f"--channels={settings.channels}: expected pca, random, or columns such as 0,1,2,3"
        ) from None
    outside = [column for column in columns if not 0 <= column < settings.n_static]
    if outside:
        raise UserError(
            f"--channels={settings.channels}: there is no static feature {outside[0]}, expected 0 "
            f"to {settings.n_static - 1}"
        )
    if len(set(columns)) != settings.n_channels:
        raise UserError(
            f"--channels={settings.channels} names {len(set(columns))} columns, but --n_channels="
            f"{settings.n_channels}: expected as many"
        )
    return columns


def low_passed(frames, alpha, n_repeat):
    """x~ [steps, ...] of (2) for frames [frames, ...], each shown `n_repeat` steps."""
    return scipy.signal.lfilter(
        [1 - alpha], [1, -alpha], np.repeat(frames, n_repeat, axis=0), axis=0
    )


def ideal_states(inputs, a, b):
    """m [steps, channels * order] of (2) for inputs x~ P [steps, channels], Ad and Bd."""
    states = legendre.memory_state(inputs, a, b)  # [steps, channels, order]
    return states.reshape(len(states), -1)


def scattered_encoders(n_neurons, dimensions, random_generator):
    """[n_neurons, dimensions] unit vectors, evenly over the sphere, in pairs of opposite sign."""
    scattered = (
        import_nengolib()
        .stats.ScatteredHypersphere(surface=True)
        .sample(
            (n_neurons + 1) // 2,
            dimensions,
            rng=np.random.RandomState(random_generator.integers(2**31)),
        )
    )
    return np.concatenate([scattered, -scattered])[:n_neurons]


def random_drive(utterances, parameters, std_thresholds, random_generator):
    """W_x [features, n] whose filtered sum over the speech has this standard deviation.

    Args:
        utterances: list of [frames, features].
        parameters: of the n neurons, which share alpha and thr.
        std_thresholds: standard deviation of the potential, in units of thr.
    """
    alpha, n_repeat = common_alpha(parameters), parameters.n_repeat
    speech = np.concatenate([low_passed(u, alpha, n_repeat) for u in utterances])
    drive = random_generator.standard_normal((speech.shape[1], len(parameters.alpha)))
    variances = np.sum(drive * (np.cov(speech, rowvar=False) @ drive), axis=0)
    return (1 - alpha) * drive * std_thresholds * parameters.thr / np.sqrt(variances)


class _Solution(NamedTuple):
    """Decoders of normalised states, and what the treatment of the diagonal needs."""

    decoders: np.ndarray  # [n, dimensions]: zbar @ decoders ~ states
    inverse_gram: np.ndarray  # [n, n] of the ridge regression


def solve_decoders(zbar, states):
    """`_Solution` of the ridge regression of states [samples, dimensions] on zbar [samples, n]."""
    mean_square = np.mean(zbar**2)
    if mean_square == 0:
        raise UserError(
            "the neurons of the LMU do not spike, so that nothing can be decoded: try a larger "
            "--drive_std or --gain_max"
        )
    # The solver adds (samples * (reg * largest)^2) to the diagonal.
    solver = nengo.solvers.LstsqL2(reg=np.sqrt(RIDGE * mean_square) / zbar.max())
    decoders, _ = solver(zbar, states)
    gram = zbar.T @ zbar / len(zbar) + RIDGE * mean_square * np.eye(zbar.shape[1])
    return _Solution(decoders, np.linalg.inv(gram))


def with_slope_one(decoders, zbar, states):
    """Decoders after which the decoded states regress on the true ones with the identity."""
    decoded = zbar @ decoders
    return decoders @ np.linalg.solve(states.T @ decoded, states.T @ states)


def without_diagonal(weights, inverse_gram):
    """Weights [n, n] of least error among those with a zero diagonal, in place of given ones.

    Args:
        weights: row = presynaptic; column i is a ridge regression on all neurons.
        inverse_gram: inverse of its matrix.
    """
    weights = weights - inverse_gram * (np.diag(weights) / np.diag(inverse_gram))
    np.fill_diagonal(weights, 0)
    return weights


def spikes_of(currents, w_rec, parameters):
    """Spikes of one direction, a list of uint8 [steps, n].

    Args:
        currents: list of [frames, n], the input of each utterance times its weights.
        w_rec: [n, n], row = presynaptic; None for no recurrence.
        parameters: neurons.AlifParameters of the n neurons.
    """
    n = len(parameters.alpha)
    recurrent = None if w_rec is None else w_rec[np.newaxis]
    parameters = parameters._replace(rec=w_rec is not None)
    spikes = []
    for start in range(0, len(currents), BATCH):
        current, seq_len = padded(currents[start : start + BATCH], np.float64)
        forward = event_driven.forward(current[:, :, np.newaxis], recurrent, parameters, seq_len)
        batch = event_driven.unpack_spikes(forward.saved.spikes, n)[:, :, 0]
        spikes += [row[: parameters.n_repeat * length] for row, length in zip(batch, seq_len)]
    return spikes


def filtered(spikes, alpha):
    """zbar [steps, n] of spikes [steps, n]."""
    return scipy.signal.lfilter([1.0], [1.0, -alpha], spikes, axis=0)


def seed_direction(utterances, parameters, n_regular, settings, random_generator, say=print):
    """Seed one direction of a layer by the neurons' own spikes.

    Args:
        utterances: list of normalised [frames, features], static features first; in the order in
            which the direction reads them.
        parameters: neurons.AlifParameters of `n_regular` regular, then adaptive neurons.
        settings: `LmuSettings`.
        random_generator: np.random.Generator.
        say: is given lines on what is being done.

    Returns:
        `SeededDirection`.

    Raises:
        UserError: settings that cannot work, see `ideal_memory` and `solve_decoders`.
    """
    alpha, n_repeat = common_alpha(parameters), parameters.n_repeat
    regular = layer_part(parameters, slice(n_regular))
    adaptive = layer_part(parameters, slice(n_regular, None))
    thr = parameters.thr[:, np.newaxis]

    memory = ideal_memory(utterances, parameters, settings, random_generator)
    normalised = [state / memory.std for state in memory.states]  # [steps, dimensions]
    covariance = np.atleast_2d(np.cov(np.concatenate(normalised), rowvar=False))
    dimensions = len(memory.std)
    identity = np.eye(settings.n_channels)
    a, b = np.kron(identity, memory.A), np.kron(identity, memory.B[:, np.newaxis])
    a_normalised = a * memory.std / memory.std[:, np.newaxis]
    b_normalised = b / memory.std[:, np.newaxis]

    gains = random_generator.uniform(settings.gain_min, settings.gain_max, (n_regular, 1))
    e = _encoders(n_regular, covariance, random_generator) * gains * thr[:n_regular]
    drive = random_drive(memory.utterances, regular, settings.drive_std, random_generator)
    w_in = (1 - alpha) * memory.P @ b_normalised.T @ e.T + drive

    say(f"decoders of {n_regular} neurons from {len(normalised)} utterances")
    currents = []
    for utterance, state in zip(memory.utterances, normalised):
        before = np.concatenate([np.zeros((1, dimensions)), state[:-1]])
        currents.append((state - alpha * before) @ e.T + np.repeat(utterance @ drive, n_repeat, 0))
    zbar = _at_frame_ends(spikes_of(currents, None, regular._replace(n_repeat=1)), alpha, n_repeat)
    target = np.concatenate([state[n_repeat - 1 :: n_repeat] for state in normalised])

    solution = solve_decoders(zbar, target)
    say(f"  driven: {_quality(zbar @ solution.decoders, target)}")
    decoders = with_slope_one(solution.decoders, zbar, target)

    def loop():
        """W_rec among the regular neurons; spikes are 1 / dt high."""
        weights = decoders @ a_normalised.T @ e.T
        return parameters.dt_ms * without_diagonal(weights, solution.inverse_gram)

    currents = [utterance @ w_in for utterance in memory.utterances]
    for turn in range(settings.refits + 1):
        free = _at_frame_ends(spikes_of(currents, loop(), regular), alpha, n_repeat)
        say(f"  closed loop, {turn} refit(s): {_quality(free @ decoders, target)}")
        if turn < settings.refits:
            both = np.concatenate([zbar, free]), np.concatenate([target, target])
            solution = solve_decoders(*both)
            decoders = with_slope_one(solution.decoders, *both)

    w_rec = np.zeros((len(parameters.alpha),) * 2)
    w_rec[:n_regular, :n_regular] = loop()
    if len(adaptive.alpha):
        reading = _encoders(len(adaptive.alpha), covariance, random_generator)
        reading *= ADAPTIVE_STATE_STD * thr[n_regular:]
        w_rec[:n_regular, n_regular:] = parameters.dt_ms * decoders @ reading.T
        listening = random_drive(memory.utterances, adaptive, ADAPTIVE_DRIVE_STD, random_generator)
        w_in = np.concatenate([w_in, listening], axis=1)
    return SeededDirection(
        w_in=w_in,
        w_rec=w_rec,
        A=memory.A,
        B=memory.B,
        E=e / memory.std,
        D=(decoders * memory.std).T,
        P=memory.P,
    )


def _encoders(n_neurons, covariance, random_generator):
    """`scattered_encoders` along which states of this covariance have a deviation of 1."""
    directions = scattered_encoders(n_neurons, len(covariance), random_generator)
    variances = np.sum(directions * (directions @ covariance), axis=1)
    return directions / np.sqrt(variances)[:, np.newaxis]


def _at_frame_ends(spikes, alpha, n_repeat):
    """zbar [all frames, n] of a list of spikes [steps, n]."""
    return np.concatenate([filtered(z, alpha)[n_repeat - 1 :: n_repeat] for z in spikes])


def layer_part(parameters, neurons):
    """The parameters of some neurons of a layer."""
    arrays = ("alpha", "rho", "beta", "thr")
    return parameters._replace(**{name: getattr(parameters, name)[neurons] for name in arrays})


def _quality(decoded, target):
    """How well the decoded states follow the true ones, for a reader."""
    x, y = decoded - decoded.mean(axis=0), target - target.mean(axis=0)
    norms = np.linalg.norm(x, axis=0) * np.linalg.norm(y, axis=0)
    correlations = np.divide((x * y).sum(axis=0), norms, out=np.zeros_like(norms), where=norms > 0)
    return f"correlation with the ideal memory {np.mean(correlations):.2f}"

"""A Legendre memory as a Nengo network, and its weights carried over to the LSNN.

The classic route of the Neural Engineering Framework (Eliasmith & Anderson 2003; Voelker, Kajic &
Eliasmith 2019): populations of Nengo's own neurons represent the memory's state m, Nengo solves for
decoders D from their rate curves, and a recurrent connection through a synapse integrates. The
network is built and run in `nengo.Simulator`; encoders, gains, biases and decoders are taken out of
it. With h the synapse, a low-pass of time constant tau and unit area, z the spikes (1 / dt high)
and U = x P the channels, a neuron of gain g and encoder e receives

    J = g e (h * [(tau A + I) D z + tau B U]) + bias + J_x                       (1)
    tau_v dV/dt = J - V;  a spike where V passes 1, then V = 0                   (2)

The synapse is undone by tau A + I and tau B: where D z ~ m, the state that is encoded obeys

    dm/dt = A m + B U,   and what is read through the synapse is h * D z ~ h * m (3)

Regular neurons (`nengo.LIF`) form the loop. The adaptive ones (`nengo.AdaptiveLIF`) read its state
and return nothing: Nengo solves decoders without the adaptation. As full matrices, with a row for
each neuron that receives and a column for each that sends,

    recurrent = g e (tau A + I) D, for adaptive neurons g e D;   input = g e tau B P^T   (4)

and a network with nothing but these connections does the same.

The LSNN (`layers/neurons.py`, equations 1 to 6 there) has no synapse; its membrane filters its
spikes, so tau = tau_v. One threshold of Nengo is thr of potential, and 1 of J is a current of
(1 - alpha) thr. In the LSNN's units, E = thr g e, and D' = (1 - alpha) / dt D, which decodes
zbar_t = alpha zbar_{t-1} + z_t, z = 0 or 1. Then (4) becomes, for dt = 1 ms,

    W_rec = (E (tau A + I) D')^T,   W_in = (1 - alpha) (E tau B P^T)^T + W_x     (5)

This is (1) of `matched` with tau A + I in place of Ad and tau B in place of Bd. On the way:

- Biases are dropped: the LSNN has no bias current. Nengo's neurons have them, thresholds spread
  over the state, and decode small states the better for it; of the LSNN's neurons none spikes
  without input.
- The random drive W_x of `matched` enters both networks, as J_x = x W_x / ((1 - alpha) thr).
- The reset subtracts thr in the LSNN, in (2) it empties the membrane. The LSNN integrates in its
  silent step after a spike, so that its rate curve is that of no refractory time. The ensembles
  here have one of a step, the shortest that Nengo simulates without losing current. The potential
  has a floor of 0 in Nengo, and none in the LSNN.
- In (1) and (2) synapse and membrane follow each other. In the LSNN there is the membrane alone,
  and its subtracting reset makes each neuron a rectifier without delay: with decoders that fit, it
  needs Ad and not tau A + I (see `matched`).
- Adaptation: a current that each spike raises by beta / thr, for a threshold that rises by beta.
- The LSNN has no autapses: the diagonal of W_rec is lost.

`mapping_error` measures what all this does to the state.

    symbol       name here    unit, shape
    m            states       of unit deviation each, [samples, d], d = channels x order
    A, B         a, b         1 / step, of these states: [d, d], [d, channels]
    P            projection   [features, channels]
    g e          encoders     thresholds per unit of state, [n, d]
    bias         biases       thresholds, [n]
    D            decoders     state per Hz, [d, regular]
    W_x          drive        potential a step of the LSNN, [features, n]
    tau = tau_v               from alpha of the parameters; Nengo counts in seconds
"""

import warnings
from typing import NamedTuple

import nengo
import numpy as np

from lmu import legendre, matched
from lmu.matched import SeededDirection

N_EVAL_POINTS = 3000  # states at which Nengo solves for the decoders
RUN_FRAMES = 1500  # of speech in the run that `mapping_error` compares
INTERCEPTS = 1.0  # thresholds lie within so many deviations of what a neuron encodes


class Connections(NamedTuple):
    """What a simulator holds of a network of `build_network`; regular neurons come first."""

    encoders: np.ndarray  # [n, d], gains included: thresholds per unit of state
    biases: np.ndarray  # [n], thresholds
    decoders: np.ndarray  # [d, regular], state per Hz
    recurrent: np.ndarray  # [n, regular], (4): thresholds per Hz
    input: np.ndarray  # [n, features], (4): thresholds per unit of a feature


class MappingError(NamedTuple):
    """Root mean square differences of states, in units of the latter's root mean square."""

    nengo_ideal: float  # Nengo's h * D z to h * m of the ideal memory
    lsnn_nengo: float  # what D' decodes from the LSNN's own spikes, to Nengo's
    lsnn_ideal: float
    nengo_rate_hz: float  # of the regular neurons
    lsnn_rate_hz: float


def build_network(
    features, projection, a, b, encoders, biases, parameters, n_regular, states, seed, drive=None
):
    """The network of (1), shown the features again and again.

    Args:
        features: [frames, features], each frame for `parameters.n_repeat` steps.
        projection, a, b, encoders, biases, drive: see the module's symbol table; no drive: None.
        parameters: neurons.AlifParameters of `n_regular` regular, then adaptive neurons, each
            kind with the same constants.
        states: [samples, d], where Nengo solves for the decoders.
        seed: of Nengo's random numbers.

    Returns:
        nengo.Network with the attributes `features` (node), `regular` and `adaptive` (ensembles;
        None without such neurons), `state` (node, h * D z), `input`, `loop`, `read` and `listen`
        (connections), and the probes `state_probe` [steps, d] and `spike_probe` [steps, regular].
    """
    alpha, thr = matched.common_alpha(parameters), float(parameters.thr[0])
    n, d = encoders.shape
    tau_steps = -1 / np.log(alpha)
    tau_s = tau_steps * parameters.dt_ms / 1000
    membrane = {
        "tau_rc": tau_s,
        "tau_ref": parameters.dt_ms / 1000,  # with less, Nengo's steps lose time at every spike
        "initial_state": {"voltage": nengo.dists.Choice([0])},  # else random
    }
    gains = np.linalg.norm(encoders, axis=1)

    def ensemble(part, neuron_type, label):
        population = nengo.Ensemble(
            len(gains[part]),
            d,
            neuron_type=neuron_type,
            encoders=encoders[part],  # Nengo makes their length 1
            gain=gains[part],
            bias=biases[part],
            eval_points=states,
            label=label,
        )
        if drive is not None:  # Nengo multiplies what neurons receive by their gain
            current = drive[:, part] / ((1 - alpha) * thr * gains[part])
            nengo.Connection(
                network.features, population.neurons, transform=current.T, synapse=None
            )
        return population

    with nengo.Network(label="Legendre memory", seed=seed) as network:
        network.features = frames_node(features, parameters)
        network.regular = ensemble(slice(n_regular), nengo.LIF(**membrane), "regular")
        network.state = nengo.Node(size_in=d, label="state")
        channels = tau_steps * b @ projection.T
        network.input = nengo.Connection(
            network.features, network.regular, transform=channels, synapse=tau_s
        )
        network.loop = nengo.Connection(
            network.regular, network.regular, transform=tau_steps * a + np.eye(d), synapse=tau_s
        )
        network.read = nengo.Connection(network.regular, network.state, synapse=tau_s)
        network.adaptive = None
        if n_regular < n:
            tau_a_s = -parameters.dt_ms / 1000 / np.log(parameters.rho[-1])
            step = parameters.beta[-1] / thr
            neuron_type = nengo.AdaptiveLIF(tau_n=tau_a_s, inc_n=step * tau_a_s, **membrane)
            network.adaptive = ensemble(slice(n_regular, n), neuron_type, "adaptive")
            network.listen = nengo.Connection(network.regular, network.adaptive, synapse=tau_s)
        network.state_probe = nengo.Probe(network.state)
        network.spike_probe = nengo.Probe(network.regular.neurons)
    return network


def frames_node(features, parameters):
    """Node that shows features [frames, features] again and again, each frame for its steps.

    It counts in steps: with 32-bit times `nengo.processes.PresentInput` is a step off here and there.
    """
    dt_s = parameters.dt_ms / 1000

    def frame(t):
        return features[(round(t / dt_s) - 1) // parameters.n_repeat % len(features)]

    return nengo.Node(frame, label="features")


def run(network, parameters, n_steps):
    """A `nengo.Simulator` of the network, built and run for some steps."""
    # A model of its own: Nengo's default one keeps decoders in a folder of the user's.
    model = nengo.builder.Model(dt=parameters.dt_ms / 1000)
    with warnings.catch_warnings():
        # Some thresholds lie beyond e m = 1, and Nengo states each neuron's rate there.
        warnings.filterwarnings("ignore", "Non-finite values detected in `max_rates`", UserWarning)
        warnings.filterwarnings("ignore", "invalid value encountered in log1p", RuntimeWarning)
        simulator = nengo.Simulator(network, model=model, progress_bar=False)
    with simulator:
        simulator.run_steps(n_steps, progress_bar=False)
    return simulator


def connections(simulator, network):
    """`Connections` of a network of `build_network`, out of its simulator."""
    data = simulator.data
    # Who receives the state, by which connection, whose weights are its transform times D.
    receivers = [(network.regular, network.loop)]
    if network.adaptive is not None:
        receivers.append((network.adaptive, network.listen))
    encoders = [data[e].gain[:, np.newaxis] * data[e].encoders for e, _ in receivers]
    n_features = network.features.size_out
    channels = [encoders[0] @ data[network.input].weights]
    channels += [np.zeros((len(e), n_features)) for e in encoders[1:]]
    return Connections(
        encoders=np.concatenate(encoders),
        biases=np.concatenate([data[e].bias for e, _ in receivers]),
        decoders=data[network.read].weights,
        recurrent=np.concatenate(
            [e @ data[loop].weights for e, (_, loop) in zip(encoders, receivers)]
        ),
        input=np.concatenate(channels),
    )


def lsnn_weights(extracted, parameters, drive=None):
    """(W_in [features, n], W_rec [n, n]) of (5), row = presynaptic."""
    alpha, thr = matched.common_alpha(parameters), float(parameters.thr[0])
    current = (1 - alpha) * thr
    w_in = current * extracted.input.T
    if drive is not None:
        w_in = w_in + drive
    w_rec = np.zeros((len(extracted.encoders),) * 2)
    regular = extracted.recurrent.shape[1]
    # A spike is 1 / dt high, in Nengo with dt in seconds and in the LSNN in ms.
    w_rec[:regular] = 1000 * current * extracted.recurrent.T
    np.fill_diagonal(w_rec, 0)
    return w_in, w_rec


def lsnn_decoders(extracted, parameters):
    """D' [d, regular] of (5)."""
    alpha = matched.common_alpha(parameters)
    return (1 - alpha) / (parameters.dt_ms / 1000) * extracted.decoders


def mapping_error(simulator, network, features, ideal, parameters, drive=None):
    """`MappingError` of the run of a network of `build_network`, and of the LSNN for its features.

    Args:
        simulator: as `run` returns it.
        features: [frames, features], as `build_network` was given them; one run through.
        ideal: h * m [steps, d], what a memory without errors would answer.
        parameters, drive: as `build_network` was given them.
    """
    alpha = matched.common_alpha(parameters)
    extracted = connections(simulator, network)
    decoders = lsnn_decoders(extracted, parameters)
    w_in, w_rec = lsnn_weights(extracted, parameters, drive)
    (spikes,) = matched.spikes_of([features @ w_in], w_rec, parameters)
    spikes = spikes[:, : decoders.shape[1]]
    by_lsnn = matched.filtered(spikes, alpha) @ decoders.T
    by_nengo = simulator.data[network.state_probe]

    def relative(states, reference):
        return float(np.sqrt(np.mean((states - reference) ** 2) / np.mean(reference**2)))

    return MappingError(
        nengo_ideal=relative(by_nengo, ideal),
        lsnn_nengo=relative(by_lsnn, by_nengo),
        lsnn_ideal=relative(by_lsnn, ideal),
        nengo_rate_hz=float(simulator.data[network.spike_probe].mean()),
        lsnn_rate_hz=float(spikes.mean() * 1000 / parameters.dt_ms),
    )


def nengo_weights(utterances, parameters, n_regular, settings, random_generator, say=print):
    """Seed one direction of a layer by way of a Nengo network.

    Arguments, result and errors are those of `matched.seed_direction`; the settings' refits
    do not apply.
    """
    alpha = matched.common_alpha(parameters)
    memory = matched.ideal_memory(utterances, parameters, settings, random_generator)
    network, features, drive = network_for(
        memory, parameters, n_regular, settings, random_generator
    )
    n_steps = len(features) * parameters.n_repeat
    say(f"Nengo: {len(parameters.alpha)} neurons for {n_steps} steps")
    simulator = run(network, parameters, n_steps)
    low_passed = matched.low_passed(features @ memory.P, alpha, parameters.n_repeat)
    ideal = matched.ideal_states(low_passed, memory.A, memory.B) / memory.std
    error = mapping_error(simulator, network, features, ideal, parameters, drive)
    say(
        f"  regular neurons: {error.nengo_rate_hz:.0f} Hz, in the LSNN "
        f"{error.lsnn_rate_hz:.0f} Hz; relative error of the state: {error.nengo_ideal:.2f}, in "
        f"the LSNN {error.lsnn_ideal:.2f}; between them {error.lsnn_nengo:.2f}"
    )
    extracted = connections(simulator, network)
    w_in, w_rec = lsnn_weights(extracted, parameters, drive)
    e = extracted.encoders[:n_regular] * parameters.thr[:n_regular, np.newaxis]
    return SeededDirection(
        w_in=w_in,
        w_rec=w_rec,
        A=memory.A,
        B=memory.B,
        E=e / memory.std,
        D=memory.std[:, np.newaxis] * lsnn_decoders(extracted, parameters),
        P=memory.P,
    )


def network_for(memory, parameters, n_regular, settings, random_generator):
    """A network of `build_network` that is to hold a memory.

    Args:
        memory: `matched.Memory`.
        parameters: neurons.AlifParameters of `n_regular` regular, then adaptive neurons.
        settings: `LmuSettings`.
        random_generator: np.random.Generator.

    Returns:
        (the network, the features that it is shown [frames, features], its drive).
    """
    n_repeat = parameters.n_repeat
    inputs = [np.repeat(u @ memory.P, n_repeat, axis=0) for u in memory.utterances]
    states = [matched.ideal_states(u, memory.A, memory.B) for u in inputs]
    states = np.concatenate(states) / memory.std
    theta = legendre.theta_steps(settings.theta_ms, n_repeat)
    a, b = legendre.continuous(settings.order, theta)
    identity = np.eye(settings.n_channels)

    n, d = len(parameters.alpha), len(memory.std)
    is_regular = np.arange(n) < n_regular
    directions = np.concatenate(
        [
            matched.scattered_encoders(count, d, random_generator)
            for count in (n_regular, n - n_regular)
            if count
        ]
    )
    gains = random_generator.uniform(settings.gain_min, settings.gain_max, n)
    gains[n_regular:] = matched.ADAPTIVE_STATE_STD
    drive = matched.random_drive(
        memory.utterances,
        parameters,
        np.where(is_regular, settings.drive_std, matched.ADAPTIVE_DRIVE_STD),
        random_generator,
    )
    features = np.concatenate(memory.utterances)[:RUN_FRAMES]
    network = build_network(
        features,
        memory.P,
        a=np.kron(identity, a) * memory.std / memory.std[:, np.newaxis],
        b=np.kron(identity, b[:, np.newaxis]) / memory.std[:, np.newaxis],
        encoders=directions * (gains / (states @ directions.T).std(axis=0))[:, np.newaxis],
        biases=1 - gains * random_generator.uniform(-INTERCEPTS, INTERCEPTS, n),
        parameters=parameters,
        n_regular=n_regular,
        states=states[random_generator.integers(len(states), size=N_EVAL_POINTS)],
        seed=int(random_generator.integers(2**31)),
        drive=drive,
    )
    return network, features, drive

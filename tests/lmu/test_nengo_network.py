"""The Nengo network against the ideal memory and its own matrices; its weights in the LSNN."""

from typing import NamedTuple

import nengo
import numpy as np
import pytest
from scipy.signal import lfilter

from helpers import REPOSITORY
from layers import neurons
from lmu import legendre, matched, nengo_network
from lmu.matched import LmuSettings
from toolbox.command_line import UserError

TAU_STEPS = 20.0  # of the membrane


def slow_frames(n_frames, n_features, seed=0):
    """[frames, features] of unit deviation, correlated over some 20 frames."""
    noise = np.random.default_rng(seed).standard_normal((n_frames, n_features))
    frames = lfilter([1.0], [1.0, -0.95], noise, axis=0)
    return frames / frames.std(axis=0)


class Case(NamedTuple):
    """A network for slow frames, and how it was made."""

    network: nengo.Network
    features: np.ndarray
    drive: np.ndarray
    memory: matched.Memory
    parameters: neurons.AlifParameters

    def run(self):
        return nengo_network.run(
            self.network, self.parameters, len(self.features) * self.parameters.n_repeat
        )

    def ideal(self):
        """h * m [steps, d]."""
        channels = self.features @ self.memory.P
        alpha, n_repeat = self.parameters.alpha[0], self.parameters.n_repeat
        inputs = matched.low_passed(channels, alpha, n_repeat)
        return matched.ideal_states(inputs, self.memory.A, self.memory.B) / self.memory.std

    def mapping_error(self):
        return nengo_network.mapping_error(
            self.run(), self.network, self.features, self.ideal(), self.parameters, self.drive
        )


def make_case(n_frames=80, n_regular=60, n_adaptive=20, dt=1.0, **settings):
    settings = LmuSettings(n_static=2, **{"n_channels": 1, "order": 2, **settings})
    parameters = neurons.alif_parameters(n_regular, n_adaptive, dt=dt)
    random_generator = np.random.default_rng(3)
    memory = matched.ideal_memory(
        [slow_frames(n_frames, 3)], parameters, settings, random_generator
    )
    network, features, drive = nengo_network.network_for(
        memory, parameters, n_regular, settings, random_generator
    )
    return Case(network, features, drive, memory, parameters)


def rebuilt(case, extracted):
    """A network of neurons and full matrices, without encoders, decoders or gains of its own."""
    n = extracted.recurrent.shape[1]
    tau_s = TAU_STEPS * case.parameters.dt_ms / 1000
    current = case.drive / (case.parameters.thr * (1 - case.parameters.alpha))
    with nengo.Network(seed=case.network.seed + 1) as network:
        frame_s = case.parameters.n_repeat * case.parameters.dt_ms / 1000
        features = nengo.Node(nengo.processes.PresentInput(case.features, frame_s))
        network.regular, network.adaptive = (
            nengo.Ensemble(
                len(extracted.biases[part]),
                dimensions=1,
                neuron_type=original.neuron_type,
                gain=np.ones(len(extracted.biases[part])),
                bias=extracted.biases[part],
            )
            for part, original in (
                (slice(n), case.network.regular),
                (slice(n, None), case.network.adaptive),
            )
        )
        for ensemble, part in ((network.regular, slice(n)), (network.adaptive, slice(n, None))):
            neurons = ensemble.neurons
            nengo.Connection(features, neurons, transform=extracted.input[part], synapse=tau_s)
            nengo.Connection(features, neurons, transform=current[:, part].T, synapse=None)
            nengo.Connection(
                network.regular.neurons, neurons, transform=extracted.recurrent[part], synapse=tau_s
            )
        state = nengo.Node(size_in=len(extracted.decoders))
        nengo.Connection(
            network.regular.neurons, state, transform=extracted.decoders, synapse=tau_s
        )
        network.state_probe = nengo.Probe(state)
        network.adaptive_probe = nengo.Probe(network.adaptive.neurons)
    return network


def test_the_extracted_matrices_alone_rebuild_the_network():
    case = make_case(order=3)
    with case.network:
        adaptive_probe = nengo.Probe(case.network.adaptive.neurons)
    simulator = case.run()
    extracted = nengo_network.connections(simulator, case.network)
    n_steps = len(case.features) * case.parameters.n_repeat

    network = rebuilt(case, extracted)
    again = nengo_network.run(network, case.parameters, n_steps)
    expected = simulator.data[case.network.state_probe]
    # Both compute the same currents, with sums in another order (a product of three matrices, or
    # of vectors with each): they differ by rounding, 1e-16 of them. A spike would only move to
    # another step if a potential came that near to the threshold, and none does here.
    np.testing.assert_allclose(again.data[network.state_probe], expected, atol=1e-9)
    assert np.sqrt(np.mean(expected**2)) > 0.3  # of states with unit deviation
    spikes = simulator.data[adaptive_probe]
    np.testing.assert_array_equal(again.data[network.adaptive_probe] > 0, spikes > 0)
    assert 2 < spikes.mean() < 200  # Hz: the comparison is of something

    # Every matrix matters: with one of them changed, the comparison fails.
    for name in ("biases", "recurrent", "input", "decoders"):
        changed = extracted._replace(**{name: 0.9 * getattr(extracted, name)})
        network = rebuilt(case, changed)
        other = nengo_network.run(network, case.parameters, n_steps).data[network.state_probe]
        assert np.abs(other - expected).max() > 0.01


def test_the_network_holds_the_memory_where_its_window_is_long():
    # 400 ms of speech are 200 steps, slow against the membrane, which (3) leaves out of account.
    case = make_case(n_frames=400, n_regular=200, n_adaptive=0, theta_ms=400, drive_std=0)
    assert case.network.adaptive is None
    state, ideal = case.run().data[case.network.state_probe], case.ideal()
    assert np.sqrt(np.mean((state - ideal) ** 2) / np.mean(ideal**2)) < 0.25
    # The gain of the loop is right: 200 noisy decoders leave it uncertain by some hundredths.
    assert np.sum(state * ideal) / np.sum(ideal**2) == pytest.approx(1, abs=0.1)


@pytest.fixture(scope="module")
def uncoupled():
    """A network without loop and channels: only the drive, through tau A + I = 0 and B = 0."""
    parameters = neurons.alif_parameters(30, 10)
    features = np.ones((40, 3))  # constant: Nengo's floor of the potential plays no part
    random_generator = np.random.default_rng(1)
    drive = matched.random_drive([features], parameters, 2.0, random_generator)
    states = random_generator.standard_normal((500, 2))
    network = nengo_network.build_network(
        features,
        projection=np.eye(3, 1),
        a=-np.eye(2) / TAU_STEPS,
        b=np.zeros((2, 1)),
        encoders=matched.scattered_encoders(40, 2, random_generator),
        biases=np.zeros(40),
        parameters=parameters,
        n_regular=30,
        states=states,
        seed=1,
        drive=drive,
    )
    simulator = nengo_network.run(network, parameters, len(features) * parameters.n_repeat)
    return Case(network, features, drive, None, parameters), simulator


def test_both_networks_have_the_same_units_of_current(uncoupled):
    case, simulator = uncoupled
    n_regular = 30
    extracted = nengo_network.connections(simulator, case.network)
    np.testing.assert_allclose(extracted.recurrent[:n_regular], 0, atol=1e-12)
    w_in, w_rec = nengo_network.lsnn_weights(extracted, case.parameters, case.drive)
    regular = matched.layer_part(case.parameters, slice(n_regular))
    (spikes,) = matched.spikes_of(
        [case.features @ w_in[:, :n_regular]], w_rec[:n_regular, :n_regular], regular
    )
    nengo_spikes = simulator.data[case.network.spike_probe] > 0
    assert 10 <= spikes.any(axis=0).sum() <= 20  # the others are inhibited
    # Until its first spike a neuron is a leaky integrator in both; Nengo holds a step's current
    # over the step, the LSNN adds it: the same potential, compared with the same threshold.
    first, nengo_first = (np.argmax(x, axis=0) for x in (spikes, nengo_spikes))
    np.testing.assert_array_equal(spikes.any(axis=0), nengo_spikes.any(axis=0))
    np.testing.assert_array_equal(first, nengo_first)
    # Then the LSNN's intervals are shorter, by about the step in which Nengo's neurons rest.
    fires = spikes.sum(axis=0) > 20
    intervals, nengo_intervals = (
        np.array([np.diff(np.flatnonzero(x)).mean() for x in trains[:, fires].T])
        for trains in (spikes, nengo_spikes)
    )
    np.testing.assert_allclose(nengo_intervals - intervals, 1, atol=0.5)


def test_decoders_read_the_same_state_from_the_same_spikes():
    case = make_case()
    simulator = case.run()
    decoders = nengo_network.lsnn_decoders(
        nengo_network.connections(simulator, case.network), case.parameters
    )
    spikes = simulator.data[case.network.spike_probe] > 0
    zbar = matched.filtered(spikes.astype(float), case.parameters.alpha[0])
    # A synapse answers a step later.
    state = simulator.data[case.network.state_probe][1:]
    np.testing.assert_allclose((zbar @ decoders.T)[:-1], state, atol=1e-9)
    assert np.abs(state).max() > 0.5


@pytest.mark.parametrize("dt", [1.0, 0.5])
def test_weights_are_those_of_the_equations(dt):
    case = make_case(dt=dt)
    memory, parameters = case.memory, case.parameters
    extracted = nengo_network.connections(case.run(), case.network)
    w_in, w_rec = nengo_network.lsnn_weights(extracted, parameters, case.drive)
    decoders = nengo_network.lsnn_decoders(extracted, parameters)
    tau, alpha, n_regular = -1 / np.log(parameters.alpha[0]), parameters.alpha[0], 60
    a, b = legendre.continuous(2, legendre.theta_steps(100, parameters.n_repeat))
    a, b = a * memory.std / memory.std[:, np.newaxis], b[:, np.newaxis] / memory.std[:, np.newaxis]
    e = parameters.thr[:, np.newaxis] * extracted.encoders
    # The network's spikes are 1 / dt high.
    expected = dt * (e[:n_regular] @ (tau * a + np.eye(2)) @ decoders).T
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(w_rec[:n_regular, :n_regular], expected, atol=1e-12)
    np.testing.assert_allclose(
        w_rec[:n_regular, n_regular:], dt * (e[n_regular:] @ decoders).T, atol=1e-12
    )
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_array_equal(w_rec[n_regular:], 0)  # adaptive neurons send nothing
    channels = (1 - alpha) * (e[:n_regular] @ (tau * b) @ memory.P.T).T
    driven = w_in - case.drive
    np.testing.assert_allclose(driven[:, :n_regular], channels, atol=1e-12)
    np.testing.assert_allclose(driven[:, n_regular:], 0, atol=1e-15)


def test_a_direction_is_seeded(capsys):
    utterances = [slow_frames(40, 6, seed) for seed in range(4)]
    parameters = neurons.alif_parameters(48, 16)
    settings = LmuSettings(n_static=2, order=3, n_channels=2)

    def seed(number, settings=settings):
        return nengo_network.nengo_weights(
            utterances, parameters, 48, settings, np.random.default_rng(number)
        )

    first = seed(1)
    lines = capsys.readouterr().out.splitlines()
    assert "64 neurons for 800 steps" in lines[0] and "relative error" in lines[1]
    shapes = {name: array.shape for name, array in first._asdict().items()}
    assert shapes == {
        "w_in": (6, 64),
        "w_rec": (64, 64),
        "A": (3, 3),
        "B": (3,),
        "E": (48, 6),
        "D": (6, 48),
        "P": (6, 2),
    }
    np.testing.assert_array_equal(np.diag(first.w_rec), 0)
    assert all(np.isfinite(array).all() for array in first)
    for again, array in zip(seed(1), first):
        np.testing.assert_array_equal(again, array)
    assert np.abs(seed(2).w_rec - first.w_rec).max() > 1e-3
    # E and D are of states as they are, not scaled: (5) without the scaling gives the same.
    tau = -1 / np.log(parameters.alpha[0])
    a, _ = legendre.continuous(3, legendre.theta_steps(100, 5))
    expected = (first.E @ (tau * np.kron(np.eye(2), a) + np.eye(6)) @ first.D).T
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(first.w_rec[:48, :48], expected, atol=1e-12)
    # Without the random drive the two channels are all that regular neurons see of the features.
    silent = seed(1, settings._replace(drive_std=0.0))
    assert np.linalg.matrix_rank(silent.w_in[:, :48]) == 2
    assert np.linalg.matrix_rank(first.w_in[:, :48]) == 6


def test_the_error_of_the_mapping_is_of_states_and_rates():
    case = make_case()
    error = case.mapping_error()
    simulator = case.run()
    state, ideal = simulator.data[case.network.state_probe], case.ideal()
    expected = np.linalg.norm(state - ideal) / np.linalg.norm(ideal)
    assert error.nengo_ideal == pytest.approx(expected)
    assert 0.05 < error.lsnn_nengo < 3 and 0.05 < error.lsnn_ideal < 3
    assert error.lsnn_nengo != error.lsnn_ideal
    spikes = simulator.data[case.network.spike_probe]  # 1000 high
    assert error.nengo_rate_hz == pytest.approx(1000 * np.mean(spikes > 0))
    assert 2 < error.lsnn_rate_hz < 200


def test_neurons_of_different_membranes_are_refused():
    parameters = neurons.alif_parameters(20, 0, tau_v=np.linspace(10, 20, 20))
    with pytest.raises(UserError, match="different membrane time constants"):
        nengo_network.nengo_weights(
            [slow_frames(40, 3)],
            parameters,
            20,
            LmuSettings(n_static=2, n_channels=1),
            np.random.default_rng(0),
        )


def test_nengo_gui_finds_a_network_that_runs():
    # nengo_gui executes a file's text with few names defined, and takes `model`.
    path = f"{REPOSITORY}/nengo_gui_demo.py"
    with open(path) as file:
        names = {"__file__": path, "__page__": None}
        exec(compile(file.read(), path, "exec"), names)
    network = names["model"]
    assert isinstance(network, nengo.Network)
    simulator = nengo_network.run(network, neurons.alif_parameters(1, 0), 300)
    assert 2 < simulator.data[network.spike_probe].mean() < 200  # Hz
    assert {e.label for e in network.all_ensembles} == {"regular", "adaptive"}

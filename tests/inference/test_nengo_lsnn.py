"""A trained LSNN in Nengo: the spikes of the product's engine, one by one, and its phones."""

import nengo
import numpy as np
import pytest
from scipy.special import softmax

import models
from helpers import assert_user_error, run_here
from inference import nengo_lsnn
from layers import neurons
from layers.kernels import InputMemory
from lmu import matched, nengo_network
from lmu.readout_memory import make_kernels
from toolbox.command_line import UserError

N_FRAMES, N_FEATURES, N_CLASSES, KAPPA = 80, 12, 7, np.exp(-1 / 3)


def case(n_ref=2, n_repeat=5, tau_v=20.0, **config):
    """(LSNN in float64, features that it spikes at)."""
    rng = np.random.default_rng(1)
    parameters = neurons.alif_parameters(30, 20, n_ref=n_ref, n_repeat=n_repeat, tau_v=tau_v)
    config = models.LsnnConfig(
        rule="symmetric",
        n_directions=1,
        parameters=parameters,
        weight_scale=0.1,
        engine="event",
        dtype=models.tf.float64,
        **config,
    )
    lsnn = models.Lsnn(config, N_FEATURES, N_CLASSES, rng)
    lsnn.readout.b_out.assign(rng.standard_normal(N_CLASSES))
    return lsnn, rng.standard_normal((N_FRAMES, N_FEATURES))


def run(network, n_repeat, precision="64"):
    """Spikes of the first layer [steps, n], probabilities [frames, classes]."""
    with network:
        spikes, phones = nengo.Probe(network.neurons.neurons), nengo.Probe(network.phones)
    before = nengo.rc.get("precision", "bits")
    nengo.rc.set("precision", "bits", precision)
    try:
        model = nengo.builder.Model(dt=0.001)
        with nengo.Simulator(network, model=model, progress_bar=False) as simulator:
            simulator.run_steps(N_FRAMES * n_repeat, progress_bar=False)
            return simulator.data[spikes] > 0, simulator.data[phones][n_repeat - 1 :: n_repeat]
    finally:
        nengo.rc.set("precision", "bits", before)


def of_engine(lsnn, features):
    """The same by the event engine, in float64."""
    layer, parameters = lsnn.layers[0], lsnn.parameters
    w_in, w_rec = (x.numpy()[0] for x in (layer.w_in, layer.effective_w_rec()))
    read = lsnn.read(features[np.newaxis])[0][0]
    (spikes,) = matched.spikes_of([read @ w_in], w_rec, parameters)
    answer = lsnn(features[np.newaxis], np.array([len(features)], np.int32))
    return spikes > 0, softmax(answer.logits[0].numpy(), axis=1)


@pytest.mark.parametrize("n_ref", [1, 2, 4])
@pytest.mark.parametrize("n_repeat", [1, 5])
@pytest.mark.parametrize("tau_v", [20.0, np.linspace(10, 30, 50)], ids=["one", "spread"])
def test_the_spikes_and_phones_are_those_of_the_engine(n_ref, n_repeat, tau_v):
    lsnn, features = case(n_ref, n_repeat, tau_v)
    expected, expected_answers = of_engine(lsnn, features)
    spikes, answers = run(nengo_lsnn.build_network(lsnn, features), n_repeat)
    np.testing.assert_array_equal(spikes, expected)
    np.testing.assert_allclose(answers, expected_answers, atol=1e-12)
    assert 0.005 < spikes.mean() < 0.3  # the comparison is of something


@pytest.mark.parametrize(
    "config",
    [
        {"n_layer": 2},
        {"readout_memory": make_kernels("legendre", 3, 10, KAPPA)},
        {
            "input_memory": InputMemory(
                make_kernels("legendre", 3, 10, 0), np.eye(N_FEATURES)[:, :2], np.full(6, 2.0), True
            )
        },
    ],
    ids=["two layers", "memory in the readout", "memory before the cells"],
)
def test_what_else_a_network_can_have(config):
    lsnn, features = case(**config)
    expected, expected_answers = of_engine(lsnn, features)
    spikes, answers = run(nengo_lsnn.build_network(lsnn, features), 5)
    np.testing.assert_array_equal(spikes, expected)
    np.testing.assert_allclose(answers, expected_answers, atol=1e-12)


def test_32_bits_give_the_same_spikes():
    lsnn, features = case()
    spikes, answers = run(nengo_lsnn.build_network(lsnn, features), 5, precision="32")
    expected, expected_answers = of_engine(lsnn, features)
    np.testing.assert_array_equal(spikes, expected)
    np.testing.assert_allclose(answers, expected_answers, atol=1e-5)
    assert answers.dtype == np.float32


def test_the_comparison_notices_a_step_of_delay_and_a_percent_of_adaptation():
    lsnn, features = case()
    expected, _ = of_engine(lsnn, features)
    network = nengo_lsnn.build_network(lsnn, features)
    network.loops[0].synapse = 0.001
    assert (run(network, 5)[0] != expected).any()
    network = nengo_lsnn.build_network(lsnn, features)
    less = lsnn.parameters._replace(beta=0.99 * lsnn.parameters.beta)
    network.neurons.neuron_type = nengo_lsnn.Alif(less)
    assert (run(network, 5)[0] != expected).any()


def test_another_step_is_refused():
    network = nengo_lsnn.build_network(*case())
    with nengo.Simulator(network, dt=0.0005, progress_bar=False) as simulator:
        with pytest.raises(nengo.exceptions.SimulationError, match="dt is 0.0005"):
            simulator.run_steps(1, progress_bar=False)


def test_a_node_counts_its_frames_in_steps():
    """Also with 32-bit times, and from the start again behind the end."""
    parameters = neurons.alif_parameters(1, 0, n_repeat=3)
    with nengo.Network() as network:
        probe = nengo.Probe(nengo_network.frames_node(np.arange(7.0)[:, np.newaxis], parameters))
    before = nengo.rc.get("precision", "bits")
    nengo.rc.set("precision", "bits", "32")
    try:
        simulator = nengo_network.run(network, parameters, 2000)
    finally:
        nengo.rc.set("precision", "bits", before)
    np.testing.assert_array_equal(simulator.data[probe][:, 0], np.arange(2000) // 3 % 7)


def test_the_neurons_have_a_rate_curve():
    """Nengo solves for decoders with it: more current, more spikes, none below the threshold."""
    alif = nengo_lsnn.Alif(neurons.alif_parameters(2, 0))
    currents = np.repeat([[0.0], [0.005], [0.02], [0.1]], 2, axis=1)
    rates = alif.rates(currents, np.ones(2), np.zeros(2))
    assert np.all(rates[:2] == 0) and np.all(np.diff(rates[1:], axis=0) > 0) and rates.max() < 600


def test_the_network_of_a_run_shows_what_it_hears(trained_run):
    network = nengo_lsnn.network_of_run(str(trained_run("lsnn")))
    with network:
        heard = nengo.Probe(network.phones)
    with nengo.Simulator(
        network, model=nengo.builder.Model(dt=0.001), progress_bar=False
    ) as simulator:
        simulator.run_steps(40, progress_bar=False)
    page = network.heard.output._nengo_html_
    assert page.startswith("<b>spoken: ") and page.count("<tr>") == nengo_lsnn.N_BARS
    assert "1 s here is 5 s of speech" in page  # n_repeat is 2
    assert simulator.data[heard][-1].sum() == pytest.approx(1)
    with pytest.raises(UserError, match="LSTM"):
        nengo_lsnn.network_of_run(str(trained_run("late_lstm")))
    with_memory = nengo_lsnn.network_of_run(str(trained_run("ctc")))
    n_read, n_neurons = np.shape(np.load(trained_run("ctc") / "best.npz")["layer0/w_in"])[1:]
    assert with_memory.features.size_out == n_read
    assert [ensemble.n_neurons for ensemble in with_memory.layers] == [n_neurons] * 2


def test_the_demo_shows_one_run():
    import nengo_gui_demo

    assert_user_error(run_here(nengo_gui_demo, "a", "b"), "expected one at most")

"""A trained LSNN as a Nengo network that hears an utterance.

It has a connection for each matrix of the neurons' weights, so that its parts can be taken out, replaced
by others of Nengo's, or given to another backend:

    features --W_in--> Alif neurons --W_rec, one step later--> themselves
       |                    |
       +--memory            +-------W_out--> phones (probabilities) --> heard (page of nengo_gui)

What a memory before the cells holds of the features is computed beforehand, as columns beside them, and
goes to the neurons and to the phones.

`Alif` is (2) to (6) of `layers.neurons` as a `nengo.neurons.NeuronType`. Nengo counts in seconds: its
spikes are 1/dt Hz high, 1000 times those of `layers.neurons`, so that weights of spikes are divided by
1000. A further layer sees the spikes of the step, neurons their own layer's of the step before: a
connection with synapse 0, where None would be a loop without delay. In float64 the spikes are those of
the engine `event` fed with float64. A network that also listens backward in time has no such form.
"""

import html

import nengo
import numpy as np
from nengo.dists import Choice
from nengo.params import Parameter
from scipy.special import softmax

from inference.streaming import ReadoutStream, obstacle
from inference.trained_run import open_run
from layers import neurons
from lmu.nengo_network import frames_node
from speech.dataset import TimitDataset
from toolbox.command_line import UserError

SPIKE_HZ = 1000  # Nengo's height of a spike, of that of `layers.neurons`
N_BARS = 6  # phones on the page
PAGE_STEPS = 10  # between two states of it


class Alif(nengo.neurons.NeuronType):
    """Leaky and adaptive neurons with a soft reset, `neurons.AlifParameters`, for their own dt."""

    state = {name: Choice([0]) for name in ("voltage", "adaptation", "refractory", "spiked")}
    negative = False
    spiking = True
    parameters = Parameter("parameters")

    def __init__(self, parameters, initial_state=None):
        super().__init__(initial_state)
        self.parameters = parameters

    def step(self, dt, J, output, voltage, adaptation, refractory, spiked):
        parameters = self.parameters
        if abs(1000 * dt - parameters.dt_ms) > 1e-6:
            raise nengo.exceptions.SimulationError(
                f"dt is {dt} s, these neurons' is {parameters.dt_ms} ms"
            )
        reset = parameters.thr * parameters.dt_ms * spiked
        voltage[...] = parameters.alpha * voltage + J - reset  # (3)
        neurons.fire(neurons.State(voltage, adaptation, refractory, spiked), parameters)
        output[...] = SPIKE_HZ * spiked

    def rates(self, x, gain, bias, n_steps=1000):
        """Hz under constant currents, counted: Nengo asks for it when it solves for decoders."""
        J = self.current(x, gain, bias)
        state = [np.zeros_like(J) for _ in self.state]
        output, total = np.zeros_like(J), np.zeros_like(J)
        for _ in range(n_steps):
            self.step(self.parameters.dt_ms / 1000, J, output, *state)
            total += output
        return total / n_steps

    def max_rates_intercepts(self, gain, bias):
        return None, None  # only stated, not used, where gain and bias are given


class PhoneReadout(nengo.Process):
    """Phone probabilities: averages its columns over a frame, then filter, memory and bias.

    The columns are spikes times the readout's weights, then what a memory before the cells holds.

    The answer to a frame is given in its last step and stays until the next one's.
    """

    readout = Parameter("readout")
    n_repeat = Parameter("n_repeat")

    def __init__(self, readout, n_repeat):
        super().__init__(readout.weights.shape[1] + readout.n_remembered, readout.n_classes)
        self.readout, self.n_repeat = readout, n_repeat

    def make_state(self, shape_in, shape_out, dt, dtype=None):
        return {
            "sums": np.zeros(shape_in),
            "answer": np.zeros(shape_out, dtype),
            **self.readout.state(),
        }

    def make_step(self, shape_in, shape_out, dt, rng, state):
        sums, answer = state["sums"], state["answer"]

        def step(t, columns):
            sums[...] += columns
            if round(t / dt) % self.n_repeat == 0:
                means = np.split(sums / self.n_repeat, [self.readout.weights.shape[1]])
                logits = self.readout.logits(state, *means)
                answer[...] = softmax(logits)
                sums[...] = 0
            return answer

        return step


def build_network(lsnn, features, names=None, phns=None):
    """The Nengo network, shown the features again and again.

    Args:
        lsnn: models.Lsnn that `streaming.obstacle` has nothing against.
        features: [frames, features]; each frame lasts `n_repeat` steps.
        names: of the classes, for the page of nengo_gui; None for no page.
        phns: [frames], the class that is spoken.

    Returns:
        nengo.Network with the attributes `features` (node: these, and what a memory before the cells
        holds of them), `neurons` (ensemble of the first layer), `layers` (all ensembles), `loops`
        (their recurrent connections), `phones` and `heard` (nodes).
    """
    parameters, readout = lsnn.parameters, ReadoutStream(lsnn.readout)
    n, n_columns = len(parameters.alpha), readout.weights.shape[1]
    read, _ = lsnn.read(np.asarray(features, lsnn.config.dtype.as_numpy_dtype)[np.newaxis])

    def connect(source, target, weights, synapse=None):
        """Weights [from, to] as `layers.neurons` has them, in Nengo's units of `source`."""
        scale = 1 if source is network.features else SPIKE_HZ
        transform = weights.T.astype(float) / scale
        return nengo.Connection(source, target, transform=transform, synapse=synapse)

    with nengo.Network(label="LSNN", seed=0) as network:
        network.features = frames_node(np.asarray(read)[0], parameters)
        network.phones = nengo.Node(PhoneReadout(readout, parameters.n_repeat), label="phones")
        network.layers, network.loops = [], []
        source = network.features
        for k, layer in enumerate(lsnn.layers):
            ensemble = nengo.Ensemble(
                n, 1, neuron_type=Alif(parameters), gain=np.ones(n), bias=np.zeros(n)
            )
            ensemble.label = "LSNN" if k == 0 else f"LSNN {k + 1}"
            network.layers.append(ensemble)
            connect(source, ensemble.neurons, layer.w_in.numpy()[0])
            source = ensemble.neurons
            if layer.w_rec is not None:
                w_rec = layer.effective_w_rec().numpy()[0]
                network.loops.append(connect(source, source, w_rec, synapse=0))
        network.neurons = network.layers[0]
        seen = network.layers if lsnn.config.loss_from_all_layers else network.layers[-1:]
        for ensemble, weights in zip(seen, np.split(readout.weights, len(seen))):
            connect(ensemble.neurons, network.phones[:n_columns], weights)
        if readout.n_remembered:
            remembered = network.features[lsnn.n_features :]
            nengo.Connection(remembered, network.phones[n_columns:], synapse=None)
        if names is not None:
            function = page(names, phns, parameters)
            network.heard = nengo.Node(function, size_in=len(names), label="heard")
            nengo.Connection(network.phones, network.heard, synapse=None)
    return network


def page(names, phns, parameters):
    """The function of a node that nengo_gui shows: what is spoken, and the likeliest phones as bars."""

    def heard(t, probabilities):
        step = round(1000 * t / parameters.dt_ms)
        if step % PAGE_STEPS:
            return
        spoken = phns[(step - 1) // parameters.n_repeat % len(phns)]
        rows = (
            f'<tr><td style="width:40px">{html.escape(names[k])}</td><td><div style="height:0.8em;background:'
            f'{"#2a7" if k == spoken else "#888"};width:{200 * probabilities[k]:.0f}px"></div></td></tr>'
            for k in np.argsort(-probabilities)[:N_BARS]
        )
        heard._nengo_html_ = (
            f"<b>spoken: {html.escape(names[spoken])}</b><br>1 s here is "
            f"{10 / parameters.n_repeat / parameters.dt_ms:g} s of speech"
            f'<table style="width:240px">{"".join(rows)}</table>'
        )

    heard._nengo_html_ = ""
    return heard


def network_of_run(folder, split="develop", utterance=0):
    """`build_network` of a run folder, which hears an utterance of the data it was trained on.

    Raises:
        UserError: a run that has no such form, or whose data are gone.
    """
    run = open_run(folder)
    if not run.network.is_spiking:
        raise UserError(f"{folder}: is a run of an LSTM, expected one of an LSNN")
    if why := obstacle(run.network):
        raise UserError(f"{folder}: {why}: expected an LSNN trained with --n_directions=1")
    flags = run.flags
    dataset = TimitDataset(flags["dataset"], flags["preproc"], flags["reduced_phns"])
    if run.front_end:
        dataset.extend(run.front_end)
    part = getattr(dataset, split)
    return build_network(
        run.network, part.features[utterance], run.class_names, part.phns[utterance]
    )

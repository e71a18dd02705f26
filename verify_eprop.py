"""Check numerically that the mathematics of e-prop holds in this code.

    python3 verify_eprop.py
    python3 verify_eprop.py --vectors tests/data

Without arguments, on small random networks in float64, for every recurrent parameter of an LSNN
(LIF and ALIF neurons; refractoriness and adaptation at work) and of an LSTM:

(a) e-prop as training computes it (automatic differentiation with the recurrence stopped) equals
    learning signals times explicit eligibility traces, summed forward in time;
(b) with the true learning signals the same traces give the gradient of BPTT exactly;
(c) with a Legendre memory or delayed copies of the activity in the readout, traces that go through
    that memory and meet the present error alone give the same gradient: e-prop stays online;
(d) the encoders of a memory before the cells learn by such traces of the features;

and that no gradient is dead and no two rules give the same one. With `--vectors`, files recorded
from other code (the authors' TensorFlow 1 code) are rebuilt through the production code with
`reference_quirks`, and every number in them is compared. Takes half a minute; exit status 1 if a check
fails.
"""

import itertools
import json
import os
import zipfile
from typing import NamedTuple

from toolbox import command_line  # isort: skip (first: it tells who has no environment)

import numpy as np

command_line.import_tensorflow()

import tensorflow as tf  # noqa: E402

import eprop  # noqa: E402
import models  # noqa: E402
from layers import kernels, neurons  # noqa: E402
from layers.alif import ENGINES  # noqa: E402
from layers.lstm import FORGET_BIAS, LSTM_ENGINES  # noqa: E402
from lmu import readout_memory as lmu_memory  # noqa: E402
from tasks.ctc import ctc_losses  # noqa: E402
from tasks.framewise import cross_entropy  # noqa: E402
from training import engines  # noqa: E402
from training.steps import compute_gradients, make_optimizer  # noqa: E402

PROOF_TOLERANCE = 1e-12  # relative, float64
LIVE_NORM = 1e-6
MEMORIES = ("legendre readout", "taps readout", "learned encoders")
VECTOR_TOLERANCE = 1e-4  # relative, float32
ALL_ENGINES = tuple(dict.fromkeys((*ENGINES, *LSTM_ENGINES)))


def define_flags(flag_values):
    define = command_line.Definer(flag_values)
    define.path(
        "vectors",
        [],
        "file or folder of recorded vectors (.npz) to compare with; more may follow as arguments",
        many=True,
    )
    define.enum(
        "engine",
        "dense",
        ALL_ENGINES,
        "engine for --vectors: event and cuda are the LSNN's, fused and cudnn the LSTM's; the other "
        "one stays on dense",
    )


def relative_error(found, expected):
    """max|a - b| / max|b|, and max|a - b| where b is 0 everywhere; inf for NaN or other shapes."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    if found.shape != expected.shape:
        return np.inf
    error = np.max(np.abs(found - expected), initial=0)
    scale = np.max(np.abs(expected), initial=0)
    error = error / scale if scale > 0 else error
    return float(error) if np.isfinite(error) else np.inf


# --------------------------------------------------------------------------- (a) and (b)


class Case(NamedTuple):
    """A small network and a batch, all in float64."""

    name: str
    network: models.Network
    features: np.ndarray
    phns: np.ndarray
    seq_len: np.ndarray


def make_case(kind, rule, reference_quirks=False, seed=1, memory=None):
    """A random case of `kind` "lsnn" or "lstm"; the same numbers for every rule.

    With a `memory` of `MEMORIES` it has a forward direction only, and no penalty on rates.
    """
    batch, frames, n_features, n_classes = 3, 7, 4, 5
    random_generator = np.random.default_rng(seed)
    memories = _memories(memory, n_features) if memory else {}
    features = 2 * random_generator.standard_normal((batch, frames, n_features))
    phns = random_generator.integers(0, n_classes, (batch, frames)).astype(np.int32)
    seq_len = np.array([frames, frames - 2, frames - 3], np.int32)
    features[np.arange(frames) >= seq_len[:, None]] = 0
    if kind == "lsnn":
        parameters = neurons.alif_parameters(
            5,
            4,
            tau_v=[20, 10, 20, 30, 20, 10, 20, 20, 15],
            tau_a=[200, 100, 200] * 3,
            n_ref=3,
            reference_quirks=reference_quirks,
        )
        memories |= {"reg": 0.0} if memory else {}
        config = models.LsnnConfig(rule=rule, parameters=parameters, dtype=tf.float64, **memories)
        # The authors' readout has a class more than there are phones.
        n_outputs = n_classes + reference_quirks
        network = models.Lsnn(config, n_features, n_outputs, random_generator)
    else:
        config = models.LstmConfig(rule=rule, n_lstm=6, dtype=tf.float64, **memories)
        network = models.Lstm(config, n_features, n_classes, random_generator)
    name = f"{kind} {rule}" + (", authors' semantics" if reference_quirks else "")
    name += f", {memory}" if memory else ""
    return Case(name, network, features, phns, seq_len)


class RecordedRun(NamedTuple):
    """A case's run with its dynamics, and the derivatives of its loss without L2, which no trace
    carries."""

    record: NamedTuple  # AlifRecord or LstmRecord
    gradients: dict  # of the first layer's parameters and of encoders, by name
    signal: np.ndarray  # [directions, batch, time, units], the learning signal
    errors: np.ndarray  # [batch, frames, classes], d(prediction) / d(logits)


def record_run(case):
    """`RecordedRun` of a case, by automatic differentiation."""
    network, layer = case.network, case.network.layers[0]
    n_steps = case.features.shape[1] * (network.parameters.n_repeat if network.is_spiking else 1)
    n_units = layer.w_in.shape[-1] if network.is_spiking else layer.n_cells
    shape = network.config.n_directions, len(case.seq_len), n_steps, n_units
    probe = tf.zeros(shape, tf.float64)
    parameters = {
        name: weights
        for name, weights in network.weights().items()
        if name.startswith("layer0") or name == "input_memory/encoders"
    }
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(probe)
        output, record = network.recorded(case.features, case.seq_len, probe)
        prediction = cross_entropy(output.logits, case.phns, case.seq_len)
        losses = network.losses(output, prediction, case.seq_len)
        loss = losses.prediction + losses.rate
    *gradients, signal = tape.gradient(loss, [*parameters.values(), probe])
    return RecordedRun(
        record=type(record)(*(x.numpy() for x in record)),
        gradients={name: g.numpy() for name, g in zip(parameters, gradients)},
        signal=signal.numpy(),
        errors=tape.gradient(losses.prediction, output.logits).numpy(),
    )


def traces_of(network, record, direction):
    """Eligibility traces of the first layer's parameters in a direction, by name."""
    record = type(record)(*(x[direction] for x in record))
    if not network.is_spiking:
        pres = {
            "layer0/kernel": np.concatenate([record.inputs, _previous(record.m)], axis=-1),
            "layer0/bias": np.ones((*record.m.shape[:-1], 1)),
        }
        return {n: eprop.lstm_traces(pre, record.gates, record.c) for n, pre in pres.items()}
    parameters = network.parameters
    unmasked = parameters.dampening_factor / parameters.thr * np.maximum(0, 1 - np.abs(record.s))
    psi = record.is_open * unmasked
    psi_adaptation = unmasked if parameters.reference_quirks else psi
    constants = psi, psi_adaptation, parameters.alpha, parameters.rho, parameters.beta
    pres = {"layer0/w_in": record.inputs, "layer0/w_rec": _previous(record.z)}
    return {n: eprop.alif_traces(pre, *constants) for n, pre in pres.items()}


def _previous(x):
    """`x` [batch, time, n] one time step ago."""
    return np.pad(x, [(0, 0), (1, 0), (0, 0)])[:, :-1]


def _memories(name, n_features):
    """Fields of a network's configuration for one of `MEMORIES`, of 3 signals of 5 frames."""
    if name == "learned encoders":
        random_generator = np.random.default_rng(2)
        held = lmu_memory.make_kernels("legendre", 3, 5, decay=0)
        encoders = random_generator.standard_normal((n_features, 2))
        rms = random_generator.uniform(0.5, 2, 2 * held.order)
        return {"n_directions": 1, "input_memory": kernels.InputMemory(held, encoders, rms, True)}
    kappa = 0.7
    return {
        "n_directions": 1,
        "readout_memory": lmu_memory.make_kernels(name.split()[0], 3, 5, kappa),
    }


def traced_gradients(case, run):
    """(a), (b): the gradients of the recurrent parameters by learning signals times traces."""
    directions = [
        {
            n: eprop.traced_gradient(e, signal)
            for n, e in traces_of(case.network, run.record, d).items()
        }
        for d, signal in enumerate(run.signal)
    ]
    return _in_shape({name: [g[name] for g in directions] for name in directions[0]}, run)


def online_gradients(case, run):
    """(c), (d): the gradients of a case with memories by traces that go through them."""
    network, readout = case.network, case.network.readout
    held = [readout.filter]
    weights = [(readout.w_out if readout.feedback is None else readout.feedback)[None]]
    if readout.memory is not None:
        v = (readout.v_out if readout.feedback_v is None else readout.feedback_v)[0]
        weights.append(tf.transpose(v, [1, 0, 2]))
        held.append(readout.memory)
    memory = kernels.side_by_side(*(of_activity.state_space() for of_activity in held))
    gradients = {
        name: [
            eprop.memory_gradient(
                traces,
                run.errors,
                np.concatenate(weights),
                memory,
                network.parameters.n_repeat if network.is_spiking else 1,
            )
        ]
        for name, traces in traces_of(network, run.record, 0).items()
    }
    if network.memory is not None:
        u = readout.u_out if readout.feedback_u is None else readout.feedback_u
        signal = run.errors @ u.numpy().T / network.memory.rms.numpy()
        n_channels = network.memory.encoders.shape[1]
        signal = signal.reshape(*signal.shape[:2], n_channels, -1)
        gradients["input_memory/encoders"] = eprop.encoder_gradient(
            case.features, signal, network.memory.kernels.state_space()
        )
    return _in_shape(gradients, run)


def _in_shape(gradients, run):
    """Gradients as the parameters' have them: gates in one axis, W_rec without its diagonal."""
    gradients = {n: np.reshape(g, run.gradients[n].shape) for n, g in gradients.items()}
    if "layer0/w_rec" in gradients:
        gradients["layer0/w_rec"] *= 1 - np.eye(gradients["layer0/w_rec"].shape[-1])
    return gradients


def verify_proofs():
    """Run (a) to (d) and print a table; returns whether all holds."""
    print(f"{'network and rule':<46}{'parameter':<24}{'relative error':>15}{'norm':>10}")
    holds = True
    for kind, reference_quirks in (("lsnn", False), ("lsnn", True), ("lstm", False)):
        by_rule = {}
        for rule in eprop.RULES:
            case = make_case(kind, rule, reference_quirks)
            run = record_run(case)
            by_rule[rule] = run.gradients
            holds &= _gradients_agree(case.name, run.gradients, traced_gradients(case, run))
        holds &= _rules_differ(kind, by_rule)
        if kind == "lsnn":
            holds &= _dynamics_are_alive(case, run.record)
    for kind, rule in itertools.product(("lsnn", "lstm"), eprop.RULES[1:]):
        for name in MEMORIES:
            case = make_case(kind, rule, memory=name)
            run = record_run(case)
            holds &= _gradients_agree(case.name, run.gradients, online_gradients(case, run))
    return holds


def _gradients_agree(name, automatic, traced):
    """Print a line a parameter; returns whether traces give its gradient and none is dead."""
    agree = automatic.keys() == traced.keys()
    for parameter, gradient in automatic.items():
        error = relative_error(traced[parameter], gradient)
        norm = np.linalg.norm(gradient)
        passed = error <= PROOF_TOLERANCE and norm > LIVE_NORM
        agree &= passed
        print(
            f"{name:<46}{parameter:<24}{error:>15.1e}{norm:>10.1e}" + ("" if passed else "  FAILED")
        )
    return agree


def _rules_differ(kind, by_rule):
    """Whether every two rules give another gradient for every parameter."""
    rules = list(by_rule)
    smallest = min(
        relative_error(by_rule[one][name], by_rule[other][name])
        for i, one in enumerate(rules)
        for other in rules[:i]
        for name in by_rule[one]
    )
    print(f"{kind}: smallest difference between two rules, relative: {smallest:.2g}")
    return smallest > 1e-3


def _dynamics_are_alive(case, record):
    """Whether refractoriness silences neurons and adaptation changes the scaled potential."""
    n_silenced = int(np.sum((record.is_open == 0) & (record.s > 0)))
    adaptive = case.network.parameters.beta > 0
    n_adapted = int(np.sum(record.z[..., adaptive] > 0))
    print(f"lsnn: {n_silenced} spikes silenced by refractoriness, {n_adapted} of adaptive neurons")
    return n_silenced > 0 and n_adapted > 0


# --------------------------------------------------------------------------- recorded vectors


class Comparison(NamedTuple):
    """Largest relative error of each kind of number in one file; None where it has none."""

    spikes_equal: bool
    logits: float
    losses: float
    gradients: float
    weights: float

    def passed(self):
        errors = [e for e in self[1:] if e is not None]
        return self.spikes_equal is not False and bool(errors) and max(errors) <= VECTOR_TOLERANCE


def find_vector_files(paths):
    """Files to read: those named, and the `.npz` files of the folders named, sorted."""
    files = []
    for path in paths:
        if os.path.isdir(path):
            inside = sorted(name for name in os.listdir(path) if name.endswith(".npz"))
            files += [os.path.join(path, name) for name in inside]
        elif os.path.isfile(path):
            files.append(path)
        else:
            raise command_line.UserError(f"--vectors: there is no file or folder {path}")
    return files


def load_vectors(path):
    """Arrays of a file of recorded vectors, or None if the `.npz` file holds something else."""
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            vectors = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise command_line.UserError(f"--vectors: {path} is no .npz file ({error})") from None
    needed = {"settings_json", "features", "seq_len"}
    return vectors if needed <= vectors.keys() else None


def network_of_vectors(vectors, engine):
    """The network that a file describes, with its weights: float32, authors' semantics."""
    settings = json.loads(str(vectors["settings_json"]))
    rule = eprop.rule_of_flag(settings["eprop"])
    random_generator = np.random.default_rng(0)  # all weights are replaced
    if "n_lstm" in settings:
        for name, only in (("activation", "tanh"), ("forget_bias", FORGET_BIAS)):
            if settings.get(name, only) != only:
                raise command_line.UserError(
                    f"recorded with {name} {settings[name]}: the LSTM here has {only}"
                )
        config = models.LstmConfig(
            rule=rule,
            n_lstm=settings["n_lstm"],
            l2=settings["l2"],
            reference_quirks=True,
            engine=engine if engine in LSTM_ENGINES else "dense",
        )
        network = models.Lstm(config, settings["n_features"], settings["n_phns"], random_generator)
    else:
        parameters = neurons.alif_parameters(
            settings["n_regular"],
            settings["n_adaptive"],
            tau_v=settings["tauv"],
            tau_a=settings["taua"],
            **{
                name: settings[name]
                for name in "thr beta n_ref dampening_factor dt n_repeat rec".split()
            },
            reference_quirks=True,
        )
        options = "n_layer tau_out psp_out readout_bias loss_from_all_layers reg reg_rate l2"
        config = models.LsnnConfig(
            rule=rule,
            parameters=parameters,
            engine=engine if engine in ENGINES else "dense",
            **{name: settings[name] for name in options.split()},
        )
        n_outputs = settings["n_phns"] + 1  # the authors' readout has a "blank"
        network = models.Lsnn(config, settings["n_features"], n_outputs, random_generator)
    for names, variable in recorded_names(network).values():
        variable.assign(_recorded(vectors, "weight/", names))
    return network


def ctc_network_of_vectors(vectors, engine):
    """As `network_of_vectors`, for a file recorded from the authors' CTC script."""
    settings = json.loads(str(vectors["settings_json"]))
    shared = {
        "rule": eprop.rule_of_flag(settings["eprop"]),
        **{name: settings[name] for name in ("n_layer", "loss_from_all_layers", "l2")},
    }
    if settings["model"] == "lstm":  # of which each has peepholes
        config = models.LstmConfig(n_lstm=settings["n_neuron"], peephole=True, **shared)
    else:
        n_regular = round(settings["n_split"] * settings["n_neuron"])
        names = "tau_v tau_a thr beta n_ref dampening_factor dt n_repeat"
        parameters = neurons.alif_parameters(
            n_regular,
            settings["n_neuron"] - n_regular,
            **{name: settings[name] for name in names.split()},
            reference_quirks=True,
        )
        config = models.LsnnConfig(
            parameters=parameters,
            filter_steps=True,
            engine=engine if engine in ENGINES else "dense",
            **{name: settings[name] for name in ("tau_out", "reg", "reg_rate")},
            **shared,
        )
    kind = models.Lstm if settings["model"] == "lstm" else models.Lsnn
    sizes = vectors["features"].shape[-1], vectors["logits"].shape[-1]
    network = kind(config, *sizes, np.random.default_rng(0))
    for names, variable in recorded_names(network, with_layer=True).values():
        variable.assign(_recorded(vectors, "weight/", names))
    return network


def recorded_names(network, with_layer=None):
    """For each of the network's variables: (its names in the files, the variable).

    Names are those of the arrays to stack, one a direction; of peepholes three a direction.

    Args:
        with_layer: whether names end in the layer's number; None: in those of spiking networks.
    """
    readout = {"w_out": "w_out", "b_out": "b_out", "feedback": "B_out"}
    with_layer = network.is_spiking if with_layer is None else with_layer
    names = {}
    for name, variable in network.weights().items():
        module, short = name.split("/")
        if module == "readout":
            names[name] = ([readout[short]], variable)
            continue
        ends = [f"{d}_l{module.removeprefix('layer')}" if with_layer else d for d in ("fw", "bw")]
        if short == "peephole":
            names[name] = ([[f"w_{gate}_diag_{end}" for gate in "ifo"] for end in ends], variable)
        else:
            names[name] = ([f"{short}_{end}" for end in ends], variable)
    return names


def _recorded(vectors, prefix, names):
    """The recorded tensor of a variable, its directions stacked; None if it was not recorded."""
    arrays = [
        _recorded(vectors, prefix, name) if isinstance(name, list) else vectors.get(prefix + name)
        for name in names
    ]
    if any(array is None for array in arrays):
        return None
    return np.stack(arrays) if len(arrays) > 1 else arrays[0]


def compare(vectors, engine):
    """Rebuild a file's case and compare every number that it records; returns a Comparison."""
    if "label_indices" in vectors:
        return _compare_ctc(vectors, engine)
    network = network_of_vectors(vectors, engine)
    variables = network.trainable_variables
    batch = (vectors["features"], vectors["phns"], vectors["seq_len"])

    def losses_of_utterances(logits, phns, seq_len):
        if not network.is_spiking:  # the authors' LSTM: padding counts
            seq_len = np.full(len(seq_len), phns.shape[1])
        return cross_entropy(logits, phns, seq_len)

    # Eagerly: the cases are small, and a graph for each file takes longer than its few steps.
    step = lambda: compute_gradients(network, losses_of_utterances, variables, *batch)
    if any(name.startswith("step0/") for name in vectors):
        return _compare_trace(vectors, network, variables, step)
    output, losses, gradients = step()
    gradients = dict(zip((v.ref() for v in variables), gradients))
    found = _scalars(output, losses, vectors)
    return Comparison(
        spikes_equal=_spikes_equal(network, vectors) if network.is_spiking else None,
        logits=relative_error(output.logits, vectors["logits"]),
        losses=max(relative_error(x, vectors[k]) for k, x in found.items() if k in vectors),
        gradients=_largest_error(network, vectors, "grad/", lambda v: gradients.get(v.ref())),
        weights=None,
    )


def _compare_trace(vectors, network, variables, step):
    """Follow a recorded optimisation: weights and gradients before and after every step."""
    settings = json.loads(str(vectors["settings_json"]))
    optimizer = make_optimizer(
        network,
        momentum=float(vectors["opt/momentum"]),
        adam_epsilon=float(vectors["opt/adam_epsilon"]),
    )
    optimizer.learning_rate.assign(float(vectors["opt/lr"]))
    optimizer.build(variables)
    readout_decay = float(vectors.get("opt/readout_decay", settings.get("readout_decay", 0)))
    found, gradient_errors, weight_errors = [], [], []
    n_steps = sum(name.endswith("/weight/w_out") and name.startswith("step") for name in vectors)
    for k in range(n_steps):
        prefix = f"step{k}/"
        weight_errors.append(_largest_error(network, vectors, prefix + "weight/", lambda v: v))
        output, losses, gradients = step()
        found.append(_scalars(output, losses, vectors))
        by_variable = dict(zip((v.ref() for v in variables), gradients))
        gradient_errors.append(
            _largest_error(network, vectors, prefix + "grad/", lambda v: by_variable.get(v.ref()))
        )
        optimizer.apply_gradients(zip(gradients, variables))
        after_adam = _largest_error(network, vectors, prefix + "weight_after_adam/", lambda v: v)
        if after_adam is not None:  # not recorded for the last
            weight_errors.append(after_adam)
        network.after_update(readout_decay)
    loss_errors = [
        relative_error([scalars[name] for scalars in found], vectors[f"trace/{name}"])
        for name in found[0]
        if f"trace/{name}" in vectors
    ]
    return Comparison(
        spikes_equal=None,
        logits=None,
        losses=max(loss_errors),
        gradients=max(gradient_errors),
        weights=max(weight_errors),
    )


def _compare_ctc(vectors, engine):
    """As `compare`, for a file recorded from the authors' CTC script."""
    network = ctc_network_of_vectors(vectors, engine)
    variables = network.trainable_variables
    shape = len(vectors["seq_len"]), int(vectors["label_indices"].max()) + 1
    labels = tf.SparseTensor(vectors["label_indices"], vectors["label_values"], shape)
    labels = tf.cast(labels, tf.int32)

    def step():
        return compute_gradients(
            network,
            lambda logits, _, seq_len: ctc_losses(logits, labels, seq_len),
            variables,
            vectors["features"],
            None,
            vectors["seq_len"],
        )

    def largest_error(prefix, values):
        value_of = lambda v: values.get(v.ref())
        return _largest_error(network, vectors, prefix, value_of, with_layer=True)

    output, losses, gradients = step()
    by_variable = dict(zip((v.ref() for v in variables), gradients))
    parts = {"loss": losses.total, "loss_ctc": losses.prediction, "loss_reg": losses.rate}
    spikes_equal = None
    if network.is_spiking:
        spikes = network(vectors["features"], vectors["seq_len"], with_spikes=True).spikes
        spikes_equal = all(np.array_equal(z, vectors[f"layer{k}"]) for k, z in enumerate(spikes))
    weight_errors, loss_errors, gradient_errors = [], [], []
    n_steps = sum(name.endswith("/loss") for name in vectors)
    if n_steps:
        settings = json.loads(str(vectors["settings_json"]))
        optimizer = make_optimizer(
            network, momentum=settings["momentum"], adam_epsilon=settings["adam_epsilon"]
        )
        optimizer.learning_rate.assign(settings["lr_init"])
        optimizer.build(variables)
    for k in range(n_steps):
        weight_errors.append(
            largest_error(f"step{k}/weight/", {v.ref(): v for v in network.variables})
        )
        _, step_losses, step_gradients = step()
        loss_errors.append(relative_error(step_losses.total, vectors[f"step{k}/loss"]))
        clipped, norm = tf.clip_by_global_norm(step_gradients, settings["grad_clip"])
        gradient_errors.append(relative_error(norm, vectors[f"step{k}/grad_norm"]))
        optimizer.apply_gradients(zip(clipped, variables))
        network.after_update(settings["readout_decay"])
    return Comparison(
        spikes_equal=spikes_equal,
        logits=relative_error(output.logits, vectors["logits"]),
        losses=max([*loss_errors, *(relative_error(x, vectors[n]) for n, x in parts.items())]),
        gradients=max([*gradient_errors, largest_error("grad/", by_variable)]),
        weights=max(weight_errors, default=None),
    )


def _scalars(output, losses, vectors):
    """Losses and framewise error, averaged over utterances, by their recorded names."""
    wrong = np.argmax(output.logits, -1) != vectors["phns"]
    return {
        "loss": losses.total,
        "loss_pred": losses.prediction,
        "loss_reg": losses.rate,
        "loss_l2": losses.l2,
        "ler": np.mean(np.sum(wrong * vectors["mask"], 1)),
    }


def _spikes_equal(network, vectors):
    output = network(vectors["features"], vectors["seq_len"], with_spikes=True)
    return all(
        np.array_equal(
            spikes, np.concatenate([vectors[f"z_{d}_l{k}"] for d in ("fw", "bw")], axis=-1)
        )
        for k, spikes in enumerate(output.spikes)
    )


def _largest_error(network, vectors, prefix, value_of, with_layer=None):
    """Largest relative error of `value_of(variable)` over the tensors recorded under `prefix`."""
    errors = []
    for names, variable in recorded_names(network, with_layer).values():
        recorded = _recorded(vectors, prefix, names)
        if recorded is not None:
            value = value_of(variable)
            errors.append(np.inf if value is None else relative_error(value, recorded))
    return max(errors, default=None)


def _text(error):
    """A table cell of 10 characters."""
    return f"{'-' if error is None else format(error, '.1e'):>10}"


def verify_vectors(paths, engine):
    """Compare all files and print a table; returns whether all agree and there was one."""
    print(f"{'file':<40}{'spikes':>10}{'logits':>10}{'losses':>10}{'gradients':>10}{'weights':>10}")
    results = []
    for path in find_vector_files(paths):
        name = os.path.basename(path)
        vectors = load_vectors(path)
        if vectors is None:
            print(f"{name:<40}skipped: no recorded network")
            continue
        try:
            result = compare(vectors, engine)
        except KeyError as error:
            raise command_line.UserError(f"--vectors: {path} lacks {error}") from None
        results.append(result.passed())
        spikes = {None: "-", True: "identical", False: "DIFFER"}[result.spikes_equal]
        cells = "".join(_text(error) for error in result[1:])
        print(f"{name:<40}{spikes:>10}{cells}" + ("" if result.passed() else "  FAILED"))
    print(f"{sum(results)} of {len(results)} files agree within {VECTOR_TOLERANCE:g}")
    return bool(results) and all(results)


def main(flag_values, *more_paths):
    paths = [*flag_values.vectors, *more_paths]
    if more_paths and not flag_values.vectors:
        raise command_line.UserError(
            f"unexpected argument '{more_paths[0]}': write --vectors first"
        )
    engines.check_gpu(flag_values.engine)
    holds = verify_vectors(paths, flag_values.engine) if paths else verify_proofs()
    print("all checks passed" if holds else "FAILED")
    return 0 if holds else 1


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__, n_positional=-1)

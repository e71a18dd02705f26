"""Networks: an LSNN and an LSTM, each of layers and a readout, and their flags.

A layer runs a cell over the sequence in order and another over it reversed; their weights are stacked
on a leading axis of directions (0 forward, 1 backward); one direction is the forward one. The readout
sees the outputs of all layers, or of the last. `layers.neurons` has the equations of the LSNN's
neurons, `layers.lstm` those of the LSTM's cells; the readout of an LSNN filters, frame by frame,

    o_f = mean of the spikes over the frame's steps;  p_f = kappa p_{f-1} + o_f
    logits = p W_out + b,  kappa = exp(-dt / tau_out)

Two memories (`layers.kernels`) can stand beside: one in the readout, which adds sum_k h_k,f V_k, its
signals of the past of o (in the backward direction, of the frames after); and one before the cells,
m_f of channels of the features, which adds m_f W_m to the first layer's input and m_f U to the logits.

Two behaviours exist: the paper's, and with `reference_quirks` that of the authors' code
(IGITUGraz/eligibility_propagation, Figure_2_TIMIT): the adaptation counts the spikes that
refractoriness suppresses, the backward cell starts in the padding, which also counts for the rates,
the diagonal of W_rec is penalised by L2, and the random feedback of the LSTM shrinks under L2.

Networks know no task: what the logits stand for, and what is lost by them, is said in `tasks`.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import flags

import eprop
from layers import kernels, neurons
from layers.alif import ENGINES, AlifLayer
from layers.kernels import DelayLine, InputMemory
from layers.lstm import LSTM_ENGINES, N_DIRECTIONS, LstmLayer
from layers.memories import EncodedMemory, read_events, recall
from layers.neurons import AlifParameters, scaled_normal
from layers.sequences import exponential_filter, frame_means, reverse_time, with_sum
from toolbox import command_line
from toolbox.command_line import UserError

STREAM_TIME_CONSTANTS = 2  # of the random numbers that one seed feeds
MOST_EVENT_STATES = 64  # of a memory that is read by events, which costs their square
MEMORY_SCALE = 0.1  # of a readout memory's first weights, beside those of the activity


# --------------------------------------------------------------------------- configuration


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What all networks have; fields with the name of a flag are that flag."""

    rule: str  # one of `eprop.RULES`
    n_layer: int = 1
    n_directions: int = N_DIRECTIONS
    loss_from_all_layers: bool = True
    l2: float = 1e-5
    drop_out_probability: float = -1.0
    engine: str = "dense"  # "auto" until `training.engines` has chosen
    engine_reason: str = ""  # of its choice
    dtype: tf.DType = tf.float32
    readout_memory: tuple = None  # StateSpace or DelayLine of `layers.kernels`
    input_memory: InputMemory = None

    model = ""  # "lsnn" or "lstm"
    engines = ()  # that the layers have
    kappa = None  # of the readout's filter

    def __post_init__(self):
        if self.rule not in eprop.RULES:
            raise ValueError(f"rule is {self.rule!r}, expected one of {eprop.RULES}")
        if self.engine not in ("auto", *self.engines):
            raise UserError(
                f"--engine={self.engine} with --model={self.model}: expected auto, "
                f"{' or '.join(self.engines)}"
            )
        if self.needs_dense and self.engine not in ("auto", "dense"):
            raise UserError(
                f"{self.needs_dense} with --engine={self.engine}: only the engine dense can compute "
                "that; leave out one of the two"
            )
        if -1 < self.drop_out_probability < 0:
            raise UserError(
                f"--drop_out_probability={self.drop_out_probability}: expected -1 (off) or 0 to 0.99"
            )

    @property
    def needs_dense(self):
        """The flags that only the engine `dense` can compute; empty where there are none."""
        return ""

    @classmethod
    def _settings(cls, flag_values):
        """The rule, and the fields that are flags; the kernels of its memories come from elsewhere."""
        names = {f.name for f in dataclasses.fields(cls) if hasattr(flag_values, f.name)}
        settings = {name: getattr(flag_values, name) for name in names - {"readout_memory"}}
        return {**settings, "rule": eprop.rule_of_flag(flag_values.eprop)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LsnnConfig(NetworkConfig):
    """An LSNN."""

    parameters: AlifParameters
    weight_scale: float = 1.0
    tau_out: float = 3.0
    psp_out: bool = True
    # The authors' CTC: filter the spikes of each step, then average; all layers' rates count.
    filter_steps: bool = False
    readout_bias: bool = True
    global_feedback: bool = False
    reg: float = 50.0
    reg_rate: float = 10.0

    model = "lsnn"
    engines = ENGINES

    @property
    def reference_quirks(self):
        return self.parameters.reference_quirks

    @property
    def kappa(self):
        return np.exp(-self.parameters.dt_ms / self.tau_out) if self.psp_out else None

    @property
    def needs_dense(self):
        n_ref, dt_ms = self.parameters.n_ref, self.parameters.dt_ms
        try:
            neurons.silent_steps(n_ref, dt_ms)
        except ValueError:  # the refractoriness ends within a step
            return f"--n_ref={n_ref:g} --dt={dt_ms:g}"
        return ""

    def __post_init__(self):
        super().__post_init__()
        if not len(self.parameters.alpha):
            raise UserError("--n_regular=0 and --n_adaptive=0: expected a neuron at least")
        if self.engine == "cuda" and len(self.parameters.alpha) > neurons.MAX_CUDA_NEURONS:
            raise UserError(
                f"--engine=cuda with {len(self.parameters.alpha)} neurons per direction: expected "
                f"{neurons.MAX_CUDA_NEURONS} at most, or another engine"
            )
        if self.global_feedback and self.rule != "random":
            rule = "BPTT" if self.rule == "bptt" else self.rule
            raise UserError(
                f"--BAglobal with {rule}: one constant feedback value needs --eprop=random"
            )

    @classmethod
    def from_flags(cls, flag_values, seed=0):
        """The configuration that `define_flags`, `eprop` and `l2` describe.

        Args:
            seed: of the time constants that are spread.

        Raises:
            UserError: flags that do not go together.
        """
        settings = cls._settings(flag_values)
        if settings["weight_scale"] is None:
            settings["weight_scale"] = 1.0 if flag_values.reference_quirks else 0.05
        return cls(
            **settings,
            parameters=_parameters(flag_values, seed),
            global_feedback=flag_values.BAglobal,
        )


def _parameters(flag_values, seed):
    """`AlifParameters` of the flags; spread time constants are whole or halved by chance."""
    n_neurons = flag_values.n_regular + flag_values.n_adaptive
    random_generator = np.random.default_rng([seed, STREAM_TIME_CONSTANTS])
    names = (*neurons.FLAGS, "rec", "dampening_factor", "reference_quirks")
    settings = {name: getattr(flag_values, name) for name in names}
    for name in ("tau_v", "tau_a"):
        if getattr(flag_values, f"{name}_spread"):
            settings[name] *= random_generator.choice([1.0, 0.5], n_neurons)
    return neurons.alif_parameters(**settings)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LstmConfig(NetworkConfig):
    """An LSTM, or with `lstm` False plain tanh cells, which train by BPTT only."""

    n_lstm: int
    lstm: bool = True
    peephole: bool = False
    init_scale: float = 0.0
    reference_quirks: bool = False

    model = "lstm"
    engines = LSTM_ENGINES

    @property
    def needs_dense(self):
        if not self.lstm:
            return "--nolstm"
        return "--peephole" if self.peephole else ""

    def __post_init__(self):
        super().__post_init__()
        if not self.lstm and self.rule != "bptt":
            raise UserError(
                f"--nolstm with --eprop={self.rule}: plain tanh cells train by BPTT only; leave out "
                "one of the two"
            )
        if self.peephole and not self.lstm:
            raise UserError("--nolstm with --peephole: plain tanh cells have no gates")

    @classmethod
    def from_flags(cls, flag_values):
        """The configuration that `define_flags`, `eprop` and `l2` describe.

        Raises:
            UserError: flags that do not go together.
        """
        return cls(**cls._settings(flag_values))


def define_flags(define, *kinds):
    """Define the flags of networks, beside those of an LSNN's neurons (`neurons.define_flags`).

    Args:
        define: command_line.Definer.
        kinds: "lsnn", "lstm" or both.
    """
    engines = [*(ENGINES if "lsnn" in kinds else ()), *(LSTM_ENGINES if "lstm" in kinds else ())]
    define.enum(
        "engine",
        "auto",
        list(dict.fromkeys(["auto", *engines])),
        "on the CPU event (LSNN: event-driven) or fused (LSTM cells: one compiled loop), on a GPU cuda "
        "(LSNN) or cudnn (LSTM); dense: TensorFlow, any device, slow; auto: the faster of the two that "
        "work here, dense only where neither computes what is asked",
    )
    define.integer("n_layer", 1, "layers", 1)
    define.integer("n_directions", 2, "1: forward only; 2: forward and backward in time", 1, 2)
    define.bool("loss_from_all_layers", True, "readout of all layers, or the last")
    define.float(
        "drop_out_probability", -1.0, "share of inputs and outputs dropped; -1: none", -1, 0.99
    )
    if "lsnn" in kinds:
        _define_lsnn_flags(define)
    if "lstm" in kinds:
        define.integer("n_lstm", 200, "cells per direction", 1)
        define.bool("lstm", True, "LSTM cells, else plain tanh cells (BPTT only)")
        define.bool("peephole", False, "the cells' states enter their gates, a weight each")
        define.float("init_scale", 0.0, "kernels uniform in +-init_scale; 0: Glorot uniform", 0)


def _define_lsnn_flags(define):
    define.bool("rec", True, "recurrent weights")
    define.float(
        "weight_scale",
        None,
        "factor of the initial input and recurrent weights (default: 0.05, the authors' 1 with "
        "--reference_quirks)",
        0,
    )
    define.bool("BAglobal", False, "--eprop=random: one value for all feedback")
    define.bool("readout_bias", True, "bias of the readout")
    define.bool("psp_out", True, "readout of exponentially filtered spikes")
    define.float("tau_out", 3.0, "time constant of that filter, frames", 1e-3, 1e4)
    define.bool("tau_v_spread", False, "each neuron tau_v or half of it")
    define.bool("tau_a_spread", False, "each neuron tau_a or half of it")
    define.float("dampening_factor", 0.3, "height of the pseudo-derivative", 0)
    define.float("reg", 50.0, "weight of the firing-rate regularisation", 0)
    define.float("reg_rate", 10.0, "its target rate, Hz", 0)


def check_own_flags(flag_values, but=()):
    """Raise UserError for a flag, given in a script with `--model`, that the other network has.

    Args:
        but: names of flags that the script checks itself.
    """
    names = {}
    for kind in ("lsnn", "lstm"):
        defined = flags.FlagValues()
        define = command_line.Definer(defined)
        define_flags(define, kind)
        if kind == "lsnn":
            neurons.define_flags(define)
        names[kind] = set(defined) & set(flag_values)
    own = names.pop(flag_values.model)
    for kind, others in names.items():
        command_line.check_unread(flag_values, sorted(others - own - {*but}), f"--model={kind}")


# --------------------------------------------------------------------------- readout


class Readout(tf.Module):
    """Linear readout of the network's activity, with the learning rule's way back to it.

    Args:
        n_in: what the readout sees of the activity, all layers and directions.
        n_classes: columns of the logits.
        rule: one of `eprop.RULES`.
        random_generator: np.random.Generator.
        decay: kappa of the filter of the activity, or None for none.
        bias: with a bias a class.
        global_feedback: one value for all neurons and classes instead of random feedback.
        penalise_random_feedback: authors' LSTM: the "fixed" feedback of the rule `random` is a
            trained variable without a gradient, so that L2 shrinks it.
        memory: of the activity, StateSpace or DelayLine of `layers.kernels`; or None.
        n_directions: of each layer, whose columns lie beside each other.
        n_units: columns of a layer and direction.
        n_remembered: columns of the memory before the cells.
        by_events: compute by `layers.event_readout`, on the CPU, over the activity that is not 0.

    Attributes:
        w_out: [n_in, classes] weights of the filtered activity.
        v_out: [directions, n_in / directions, order, classes] of its memory; None without one.
        u_out: [n_remembered, classes] of the memory before the cells; None without one.
        feedback, feedback_v, feedback_u: what errors go back through in their places; None where
            they go through the weights themselves.
    """

    def __init__(
        self,
        n_in,
        n_classes,
        rule,
        random_generator,
        decay=None,
        bias=True,
        global_feedback=False,
        penalise_random_feedback=False,
        memory=None,
        n_directions=1,
        n_units=None,
        n_remembered=0,
        by_events=False,
        dtype=tf.float32,
        name="readout",
    ):
        super().__init__(name)
        self.rule = rule
        self.decay = decay
        self.filter = DelayLine(
            np.array([0]), decay or 0.0
        )  # kappa^s; without decay the activity itself
        self.memory = memory
        self.by_events = by_events
        self._n_units = n_units
        scale = 1 / np.sqrt(n_in)

        def weights(name, feedback_name, shape, size=scale):
            """Random weights, and their feedback under a rule that has one."""
            values = random_generator.standard_normal(shape) * size
            values = tf.Variable(values, dtype=dtype, name=name)
            if not eprop.broadcasts(rule):
                return values, None
            if global_feedback:
                feedback = np.full(shape, scale)
            else:
                feedback = random_generator.standard_normal(shape)
                if rule == "adaptive":
                    feedback *= scale
            trainable = rule == "adaptive" or penalise_random_feedback
            return values, tf.Variable(
                feedback, dtype=dtype, trainable=trainable, name=feedback_name
            )

        self.w_out, self.feedback = weights("w_out", "feedback", (n_in, n_classes))
        self.b_out = tf.Variable(tf.zeros(n_classes, dtype), name="b_out") if bias else None
        self.v_out = self.feedback_v = self.u_out = self.feedback_u = None
        if memory is not None:
            shape = (n_directions, n_in // n_directions, memory.order, n_classes)
            self.v_out, self.feedback_v = weights(
                "v_out", "feedback_v", shape, MEMORY_SCALE * scale
            )
        if n_remembered:
            shape = (n_remembered, n_classes)
            self.u_out, self.feedback_u = weights("u_out", "feedback_u", shape)

    def __call__(self, activity, seq_len=None, remembered=None):
        """Logits [batch, frames, classes].

        Args:
            activity: [batch, frames, n_in].
            seq_len: [batch] true frames; a memory of two directions needs it, nothing else does.
            remembered: [batch, frames, n_remembered], the memory before the cells.
        """
        parts = self._parts(activity)
        if len(parts) == 2 and all(map(self._takes_events, parts)):
            parts = [_together(*parts)]  # one direction: its filter and its memory at once
        logits = tf.add_n([self._read(part, seq_len) for part in parts])
        if self.u_out is not None:
            logits += self._product(remembered, self.u_out, self.feedback_u)
        return logits if self.b_out is None else logits + self.b_out

    def after_update(self, readout_decay):
        """What follows each optimiser step: mirror decay under adaptive e-prop."""
        if self.rule == "adaptive":
            for weights, feedback in (
                (self.w_out, self.feedback),
                (self.v_out, self.feedback_v),
                (self.u_out, self.feedback_u),
            ):
                if weights is not None:
                    eprop.mirror_decay(weights, feedback, readout_decay)

    def _product(self, activity, weights, feedback):
        if feedback is None:
            return tf.tensordot(activity, weights, 1)
        return eprop.broadcast_readout(
            activity, weights, feedback, train_feedback=self.rule == "adaptive"
        )

    def _parts(self, activity):
        """Filter and memory, the latter in each direction for its own neurons."""

        def with_order(weights):
            return None if weights is None else tf.expand_dims(weights, 1)

        filtered = _Part(
            activity, with_order(self.w_out), with_order(self.feedback), self.filter, False
        )
        if self.v_out is None:
            return [filtered]
        n_directions = self.v_out.shape[0]
        n_batch, n_frames = tf.unstack(tf.shape(activity)[:2])
        shape = [n_batch, n_frames, -1, n_directions, self._n_units]  # layer, direction, unit
        apart = tf.unstack(tf.reshape(activity, shape), axis=3)
        shape = [n_batch, n_frames, activity.shape[-1] // n_directions]
        feedback = self.feedback_v if self.feedback_v is not None else [None] * n_directions
        return [
            filtered,
            *(
                _Part(tf.reshape(apart[d], shape), self.v_out[d], feedback[d], self.memory, d == 1)
                for d in range(n_directions)
            ),
        ]

    def _takes_events(self, part):
        return self.by_events and part.memory.n_states <= MOST_EVENT_STATES

    def _read(self, part, seq_len):
        """Logits of a part."""
        activity, weights, feedback, memory, is_reversed = part
        if self._takes_events(part):
            return read_events(
                activity,
                weights,
                weights if feedback is None else feedback,
                memory,
                self.rule == "adaptive",
                seq_len if is_reversed else None,
            )
        shape = [*tf.unstack(tf.shape(activity)[:2]), *weights.shape[1:]]
        columns = [weights.shape[0], -1]
        weights, feedback = (
            None if w is None else tf.reshape(w, columns) for w in (weights, feedback)
        )
        q = self._product(activity, weights, feedback)  # filter and product commute
        if is_reversed:
            q = reverse_time(q, seq_len, whole_axis=False)
        y = recall(tf.reshape(q, shape), memory)
        return reverse_time(y, seq_len, whole_axis=False) if is_reversed else y


class _Part(NamedTuple):
    """What a readout reads of the activity's past."""

    activity: tf.Tensor  # [batch, frames, n]
    weights: tf.Tensor  # [n, order, classes]
    feedback: tf.Tensor  # as the weights; None where errors go back through these
    memory: tuple  # StateSpace or DelayLine of `layers.kernels`
    is_reversed: bool  # the past of a backward cell


def _together(part, other):
    """Two parts of the same activity as one."""
    weights, feedback = (
        None if w is None else tf.concat([w, o], 1)
        for w, o in ((part.weights, other.weights), (part.feedback, other.feedback))
    )
    memory = kernels.side_by_side(part.memory.state_space(), other.memory.state_space())
    return part._replace(weights=weights, feedback=feedback, memory=memory)


# --------------------------------------------------------------------------- networks


class Output(NamedTuple):
    """What a network answers to a batch."""

    logits: tf.Tensor  # [batch, frames, classes]
    activity: tf.Tensor  # [batch, frames, n_out] whose rates count; what the readout sees
    activity_sum: tf.Tensor  # [batch, n_out], its sum over the frames
    spikes: tuple  # of each LSNN layer, [batch, steps, directions * neurons]; () if not asked for


class Losses(NamedTuple):
    """Parts of the loss, scalars; their sum is what training descends."""

    prediction: tf.Tensor
    rate: tf.Tensor
    l2: tf.Tensor

    @property
    def total(self):
        return self.prediction + self.rate + self.l2


def _n_remembered(config):
    """Columns of the memory before the cells."""
    return 0 if config.input_memory is None else len(config.input_memory.rms)


class Network(tf.Module):
    """Layers and a readout: what LSNN and LSTM have in common.

    Attributes:
        config: NetworkConfig.
        n_features: columns of the input.
        layers, readout: its parts.
        memory: EncodedMemory before the cells, or None.
    """

    is_spiking = False

    def __init__(self, config, n_features, layers, readout, name):
        super().__init__(name)
        self.config = config
        self.n_features = n_features
        self.layers = layers
        self.readout = readout
        self.memory = None
        if config.input_memory is not None:
            self.memory = EncodedMemory(config.input_memory, config.dtype)

    def __call__(self, features, seq_len, dropout_seed=None):
        """Answer to a padded batch.

        Args:
            features: [batch, frames, features].
            seq_len: [batch] true frames.
            dropout_seed: [2] integers seed the dropout of a training step; None: no dropout.

        Returns:
            Output.
        """
        raise NotImplementedError

    def recorded(self, features, seq_len, probe):
        """As calling the network, for one layer, with its dynamics in cell time.

        Args:
            features, seq_len: as above.
            probe: [directions, batch, time, units] zeros added to what the layer sends back to
                itself and on, so that their gradient is the learning signal.

        Returns:
            (Output, AlifRecord or LstmRecord)
        """
        raise NotImplementedError

    def _only_layer(self):
        (layer,) = self.layers
        return layer

    def read(self, features):
        """What the first layer reads, and the memory before it, or None.

        What the cells make of the memory does not teach its encoders: that way through time is no
        local one.
        """
        if self.memory is None:
            return features, None
        remembered = self.memory(features)
        return tf.concat([features, tf.stop_gradient(remembered)], -1), remembered

    def drop_out(self, x, dropout_seed, place):
        """Dropout of `x` [batch, frames, n]; one mask a frame, another for each `place`."""
        probability = self.config.drop_out_probability
        if dropout_seed is None or probability <= 0:
            return x
        seed = tf.random.experimental.stateless_fold_in(dropout_seed, place)
        return tf.nn.experimental.stateless_dropout(x, probability, seed=seed)

    def weights(self):
        """All variables by name, such as `layer0/w_in`."""
        return {
            f"{module.name}/{variable.name.split(':')[0]}": variable
            for module in (*self.layers, self.readout, *filter(None, [self.memory]))
            for variable in module.variables
        }

    def description(self):
        """What `from_description` makes this network of again, but for its weights; for JSON."""
        config = {name: kernels.described(value) for name, value in vars(self.config).items()}
        return {
            "model": self.name,
            "n_features": self.n_features,
            "n_outputs": self.readout.w_out.shape[-1],
            "config": {**config, "dtype": self.config.dtype.name},
        }

    def activity_sums(self, output, seq_len):
        """Sum of the activity, [n_out], and the number of frames that count.

        Spikes are 0 in the padding where that does not count; nothing reads the LSTM's sum.
        """
        n_frames = tf.reduce_sum(seq_len)
        if self.config.reference_quirks:
            n_frames = tf.size(output.activity[:, :, 0])
        return tf.reduce_sum(output.activity_sum, 0), tf.cast(n_frames, output.activity.dtype)

    def rate_loss(self, mean_activity):
        """Penalty on firing rates, a scalar, from the mean activity [n_out]; cells have none."""
        return tf.zeros([], mean_activity.dtype)

    def l2_loss(self):
        """l2 times the sum of the squares of all trained weights."""
        return self.config.l2 * tf.add_n([tf.reduce_sum(w**2) for w in self.penalised_weights()])

    def penalised_weights(self):
        """The weights that L2 penalises, diagonals of W_rec excepted unless `reference_quirks`."""
        return self.trainable_variables

    def losses(self, output, prediction, seq_len):
        """The loss of a batch, in parts; on one of several replicas, its share of them.

        The shares add up to the loss of all replicas' examples together, however many are where:
        the rates are averaged over all of them before the regulariser squares them.

        Args:
            output: Output.
            prediction: [batch], what the task loses by each example's logits.
            seq_len: [batch] true frames.
        """
        replicas = tf.distribute.get_replica_context()
        activity, n_frames, n_examples = replicas.all_reduce(
            tf.distribute.ReduceOp.SUM,
            [*self.activity_sums(output, seq_len), tf.cast(tf.size(prediction), prediction.dtype)],
        )
        return Losses(
            prediction=tf.reduce_sum(prediction) / n_examples,
            rate=self.rate_loss(activity / n_frames) / replicas.num_replicas_in_sync,
            l2=self.l2_loss() / replicas.num_replicas_in_sync,
        )

    def after_update(self, readout_decay):
        """What follows each optimiser step: mirror decay under adaptive e-prop."""
        self.readout.after_update(readout_decay)


class Lsnn(Network):
    """LSNN.

    Args:
        config: LsnnConfig.
        n_features: columns of the input.
        n_outputs: columns of the logits.
        random_generator: np.random.Generator of the initial weights.
        first_layer: (w_in [directions, n_features, neurons], w_rec [directions, neurons, neurons])
            where the first layer does not start at random; all other weights are the same with it
            and without.
    """

    is_spiking = True

    def __init__(self, config, n_features, n_outputs, random_generator, first_layer=None):
        n_neurons = len(config.parameters.alpha)
        n_out = config.n_directions * n_neurons

        def random_weights(n_pre):
            return scaled_normal(
                random_generator, n_pre, n_neurons, config.weight_scale, config.n_directions
            )

        weights = [
            (random_weights(n_out if k else n_features), random_weights(n_neurons))
            for k in range(config.n_layer)
        ]
        if first_layer is not None:
            weights[0] = first_layer
        n_remembered = _n_remembered(config)
        if n_remembered:
            w_in, w_rec = weights[0]
            spawned = random_generator.spawn(1)[0]  # all other weights are the same without it
            w_m = scaled_normal(
                spawned, n_remembered, n_neurons, config.weight_scale, config.n_directions
            )
            weights[0] = np.concatenate([w_in, w_m], axis=1), w_rec
        layers = [
            AlifLayer(
                w_in,
                w_rec,
                config.parameters,
                reads_frames=k == 0,
                engine=config.engine,
                dtype=config.dtype,
                name=f"layer{k}",
            )
            for k, (w_in, w_rec) in enumerate(weights)
        ]
        readout = Readout(
            n_out * (config.n_layer if config.loss_from_all_layers else 1),
            n_outputs,
            config.rule,
            random_generator,
            decay=None if config.filter_steps else config.kappa,
            bias=config.readout_bias,
            global_feedback=config.global_feedback,
            memory=config.readout_memory,
            n_directions=config.n_directions,
            n_units=n_neurons,
            n_remembered=n_remembered,
            by_events=config.engine == "event" and not config.filter_steps,
            dtype=config.dtype,
        )
        super().__init__(config, n_features, layers, readout, name="lsnn")
        self.parameters = config.parameters
        self.n_regular = int(np.sum(config.parameters.beta == 0))

    def __call__(self, features, seq_len, dropout_seed=None, with_spikes=False):
        """As `Network.__call__`; `with_spikes` fills `Output.spikes`."""
        stop = eprop.stops_recurrence(self.config.rule)
        x, remembered = self.read(features)
        outputs, spikes, x = [], [], self.drop_out(x, dropout_seed, 0)
        for k, layer in enumerate(self.layers):
            if k > 0:
                x = self._drop_out_spikes(x, dropout_seed, k)
            per_step = with_spikes or self.config.filter_steps or k + 1 < len(self.layers)
            x = layer(x, seq_len, stop, per_step)
            outputs.append((x, per_step))
            if with_spikes:
                spikes.append(x)
        return self._read_out(outputs, seq_len, remembered, spikes, dropout_seed)

    def recorded(self, features, seq_len, probe):
        x, remembered = self.read(features)
        spikes, record = self._only_layer().recorded(
            x, seq_len, eprop.stops_recurrence(self.config.rule), probe
        )
        return self._read_out([(spikes, True)], seq_len, remembered, [spikes]), record

    def _read_out(self, outputs, seq_len, remembered, spikes, dropout_seed=None):
        """Output of the network from (spikes [batch, steps, ...], True) of each layer, or from
        (means over frames [batch, frames, ...], False)."""
        n_repeat, config = self.parameters.n_repeat, self.config
        seen = outputs if config.loss_from_all_layers else outputs[-1:]
        counted = outputs if config.filter_steps else seen
        activity = tf.concat(
            [frame_means(x, n_repeat) if per_step else x for x, per_step in counted], -1
        )
        activity, activity_sum = with_sum(activity)
        read = activity
        if config.filter_steps:
            x = tf.concat([x for x, _ in seen], -1)
            read = frame_means(exponential_filter(x, config.kappa), n_repeat)
        read = self.drop_out(read, dropout_seed, len(self.layers))
        logits = self.readout(read, seq_len, remembered)
        return Output(logits, activity, activity_sum, tuple(spikes))

    def _drop_out_spikes(self, spikes, dropout_seed, place):
        """Dropout of a layer's input spikes [batch, steps, n], one mask a frame."""
        if dropout_seed is None or self.config.drop_out_probability <= 0:
            return spikes
        ones = tf.ones_like(spikes[:, :: self.parameters.n_repeat])
        mask = self.drop_out(ones, dropout_seed, place)
        return spikes * tf.repeat(mask, self.parameters.n_repeat, axis=1)

    def rate_loss(self, mean_activity):
        target = self.config.reg_rate / 1000  # Hz to spikes per ms
        if self.config.reference_quirks:
            mean_activity /= self.parameters.dt_ms  # spikes already are 1/dt high
        return self.config.reg * tf.reduce_sum((mean_activity - target) ** 2)

    def penalised_weights(self):
        if self.config.reference_quirks:
            return self.trainable_variables
        diagonal_free = {
            layer.w_rec.ref(): layer.effective_w_rec()
            for layer in self.layers
            if layer.w_rec is not None
        }
        return [diagonal_free.get(w.ref(), w) for w in self.trainable_variables]

    def after_update(self, readout_decay):
        super().after_update(readout_decay)
        if not self.config.reference_quirks:
            for layer in self.layers:
                if layer.w_rec is not None:
                    layer.w_rec.assign(layer.effective_w_rec())  # gradient noise reaches it


class Lstm(Network):
    """LSTM; arguments as for `Lsnn`, with an LstmConfig."""

    def __init__(self, config, n_features, n_outputs, random_generator):
        n_cells, n_columns = config.n_lstm, config.n_lstm * (4 if config.lstm else 1)
        n_out = config.n_directions * n_cells
        n_remembered = _n_remembered(config)
        layers = []
        for k in range(config.n_layer):
            n_in = n_out if k else n_features + n_remembered
            shape = (config.n_directions, n_in + n_cells, n_columns)
            limit = config.init_scale or np.sqrt(6 / (shape[1] + shape[2]))  # Glorot & Bengio 2010
            kernel = random_generator.uniform(-limit, limit, shape)
            peephole = np.zeros((config.n_directions, 3, n_cells)) if config.peephole else None
            layers.append(
                LstmLayer(
                    kernel,
                    np.zeros((config.n_directions, n_columns)),
                    peephole,
                    reference_quirks=config.reference_quirks,
                    plain=not config.lstm,
                    engine=config.engine,
                    dtype=config.dtype,
                    name=f"layer{k}",
                )
            )
        readout = Readout(
            n_out * (config.n_layer if config.loss_from_all_layers else 1),
            n_outputs,
            config.rule,
            random_generator,
            penalise_random_feedback=config.reference_quirks,
            memory=config.readout_memory,
            n_directions=config.n_directions,
            n_units=n_cells,
            n_remembered=n_remembered,
            dtype=config.dtype,
        )
        super().__init__(config, n_features, layers, readout, name="lstm")

    def __call__(self, features, seq_len, dropout_seed=None):
        activities = []
        x, remembered = self.read(features)
        for k, layer in enumerate(self.layers):
            x = self.drop_out(x, dropout_seed, k)
            x = layer(x, seq_len, eprop.stops_recurrence(self.config.rule))
            activities.append(x)
        return self._read_out(activities, seq_len, remembered, dropout_seed)

    def recorded(self, features, seq_len, probe):
        x, remembered = self.read(features)
        activity, record = self._only_layer()(
            x, seq_len, eprop.stops_recurrence(self.config.rule), probe, record=True
        )
        return self._read_out([activity], seq_len, remembered), record

    def _read_out(self, activities, seq_len, remembered, dropout_seed=None):
        """Output of the network from the cells' outputs of each layer, [batch, frames, ...]."""
        from_all = self.config.loss_from_all_layers
        activity = tf.concat(activities, -1) if from_all else activities[-1]
        read = self.drop_out(activity, dropout_seed, len(self.layers))
        logits = self.readout(read, seq_len, remembered)
        return Output(logits, activity, tf.reduce_sum(activity, 1), ())


# --------------------------------------------------------------------------- descriptions

# Fields of a configuration that hold arrays, as JSON has them -> as they were.
FROM_JSON = {
    "parameters": lambda values: AlifParameters(**kernels.with_arrays(values)),
    "readout_memory": kernels.from_description,
    "input_memory": kernels.input_memory_from_description,
}


def from_description(description, **changes):
    """The network of a `Network.description` as JSON has it, its weights still to be loaded.

    Args:
        changes: fields of its configuration that shall be others.

    Raises:
        KeyError, TypeError, ValueError, UserError: it is no such description.
    """
    network, config = {"lsnn": (Lsnn, LsnnConfig), "lstm": (Lstm, LstmConfig)}[description["model"]]
    settings = {**description["config"], **changes}
    settings["dtype"] = tf.as_dtype(settings["dtype"])
    for name in FROM_JSON.keys() & settings.keys():
        settings[name] = FROM_JSON[name](settings[name])
    sizes = description["n_features"], description["n_outputs"]
    return network(config(**settings), *sizes, np.random.default_rng(0))

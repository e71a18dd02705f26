"""A training step of a network on made-up data, to be timed: what the training scripts run.

The network is made by `make_network` of its script and trained by `training.steps.make_train_step`:
forward pass, loss, backward pass and Adam. The learning rate is 0, so that the network fires in
the last step as in the first. Importing this module imports TensorFlow.
"""

import contextlib
import importlib
import time
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d

from toolbox import command_line

command_line.import_tensorflow()

import tensorflow as tf  # noqa: E402

from layers import event_driven  # noqa: E402
from layers.lstm import N_DIRECTIONS  # noqa: E402
from tasks.framewise import Framewise, cross_entropy  # noqa: E402
from training import devices  # noqa: E402
from training.steps import make_optimizer, make_train_step  # noqa: E402

# Several networks in one process, each with a step of its own, are meant here.
tf.get_logger().setLevel("ERROR")

# Features of speech change within some 50 ms: white noise would make currents that the membrane
# averages away.
SMOOTHING_FRAMES = 2
N_RATE_UTTERANCES = 4  # enough for a mean rate over all neurons
RATE_TOLERANCE = 0.01
WEIGHT_SCALES = (1e-3, 1e3)  # of the search: no spike at all, and far beyond saturation


class StepSettings(NamedTuple):
    """What a step's cost depends on."""

    model: str  # one of measuring.MODELS
    engine: str  # one of measuring.ENGINES[model]
    rule: str  # one of measuring.RULES
    rate_hz: float | None  # mean over all neurons; None for the LSTM
    n_units: int  # neurons or cells per direction
    n_adaptive: int  # of them; 0 for the LSTM
    n_features: int
    n_classes: int
    batch: int
    frames: int
    n_repeat: int
    n_threads: int  # 0: as the training scripts choose it
    seed: int


class _Noise(NamedTuple):
    """The framewise task of made-up data: what network and step ask of it."""

    n_features: int
    n_classes: int
    dataset: None = None
    targets_spec = Framewise.targets_spec
    losses = staticmethod(cross_entropy)


class TrainingStep:
    """A network and its compiled training step on one batch.

    Args:
        settings: StepSettings.

    Raises:
        UserError: the LSNN cannot fire at the rate asked for.
    """

    def __init__(self, settings):
        script = importlib.import_module(f"solve_timit_with_framewise_{settings.model}")
        flag_values, _ = command_line.parse_flags(script.define_flags, _arguments(settings))
        with contextlib.redirect_stdout(None):  # it says what it chose, for every network again
            devices.set_up_devices(-1, settings.n_threads, settings.batch)
        seed = devices.set_up_seed(settings.seed)
        self.batch = _noise_batch(settings)
        task = _Noise(settings.n_features, settings.n_classes)
        self.network = script.make_network(flag_values, task, seed)
        self.weight_scale = None
        if settings.model == "lsnn":
            self.weight_scale = _set_rate(self.network, self.batch[0], settings.rate_hz)
        if settings.engine == "keras":
            self.network.layers = [KerasLstmLayer(settings.n_units, settings.n_features)]
        self._train_step = make_train_step(
            self.network,
            task,
            make_optimizer(self.network),
            self.network.trainable_variables,
            seed,
            flag_values.readout_decay,
        )

    def seconds(self):
        """Take the step; returns how long it took."""
        start = time.perf_counter()
        self._train_step(*self.batch, 0.0, 0).numpy()
        return time.perf_counter() - start

    def measured_rate_hz(self):
        """Mean firing rate of an LSNN in the step, over all neurons and frames; else None."""
        if not self.network.is_spiking:
            return None
        features, _, seq_len = self.batch
        activity = tf.function(lambda f, s: self.network(f, s).activity, autograph=False)(
            features, seq_len
        )
        return 1000 * float(tf.reduce_mean(activity))  # spikes a ms -> Hz


class KerasLstmLayer(tf.Module):
    """Keras' bidirectional LSTM layer in the place of layers.lstm.LstmLayer, for BPTT.

    It gets no mask: the utterances here have no padding, and Keras is quicker without.
    """

    def __init__(self, n_cells, n_in):
        super().__init__("layer0")
        self._layer = tf.keras.layers.Bidirectional(
            tf.keras.layers.LSTM(n_cells, return_sequences=True)
        )
        self._layer.build((None, None, n_in))
        self.weights = [v.value for v in self._layer.trainable_variables]  # a Module trains these

    def __call__(self, inputs, seq_len, stop_recurrence):
        assert not stop_recurrence, "Keras' layer trains by BPTT only"
        return self._layer(inputs)


def _arguments(settings):
    """Command line of the training script for the network."""
    arguments = [
        settings.model,
        f"--batch={settings.batch}",
        f"--n_threads={settings.n_threads}",
        f"--seed={settings.seed}",
    ]
    if settings.rule != "bptt":
        arguments.append(f"--eprop={settings.rule}")
    if settings.model == "lstm":
        engine = "dense" if settings.engine == "keras" else settings.engine  # soon replaced
        return [*arguments, f"--engine={engine}", f"--n_lstm={settings.n_units}"]
    return [
        *arguments,
        f"--engine={settings.engine}",
        f"--n_regular={settings.n_units - settings.n_adaptive}",
        f"--n_adaptive={settings.n_adaptive}",
        f"--n_repeat={settings.n_repeat}",
        "--weight_scale=1",
    ]


def _noise_batch(settings):
    """Features, phones and lengths of a batch without padding.

    The features are Gaussian noise of mean 0 and variance 1, smoothed over time.
    """
    random_generator = np.random.default_rng(settings.seed)
    shape = (settings.batch, settings.frames)
    features = random_generator.standard_normal((*shape, settings.n_features))
    features = gaussian_filter1d(features, SMOOTHING_FRAMES, axis=1, mode="wrap")
    return (
        (features / features.std()).astype(np.float32),
        random_generator.integers(settings.n_classes, size=shape, dtype=np.int32),
        np.full(settings.batch, settings.frames, np.int32),
    )


def _set_rate(network, features, rate_hz):
    """Scale the input and recurrent weights so that the neurons fire `rate_hz` on average.

    Returns:
        The factor, `--weight_scale` of a network that was made with 1.
    """
    (layer,) = network.layers
    w_in, w_rec = layer.w_in.numpy(), layer.w_rec.numpy()
    current = np.einsum("bti,dio->btdo", features[:N_RATE_UTTERANCES], w_in)
    reverse = [d == 1 for d in range(N_DIRECTIONS)]

    def rate(scale):
        scale = np.float32(scale)
        result = event_driven.forward(
            scale * current, scale * w_rec, network.parameters, reverse=reverse
        )
        return 1000 * float(result.z_mean.mean())

    # From below: far above the rate that is looked for, a wide layer would take minutes.
    low, most = WEIGHT_SCALES
    high = 2 * low
    while rate(high) < rate_hz:
        low, high = high, 2 * high
        if high > most:
            raise command_line.UserError(
                f"--rate_hz={rate_hz:g}: no scale of the weights makes the network fire as much"
            )
    for _ in range(30):
        scale = np.sqrt(low * high)
        found_hz = rate(scale)
        if abs(found_hz / rate_hz - 1) < RATE_TOLERANCE:
            break
        low, high = (scale, high) if found_hz < rate_hz else (low, scale)
    layer.w_in.assign(scale * w_in)
    layer.w_rec.assign(scale * w_rec)
    return float(scale)

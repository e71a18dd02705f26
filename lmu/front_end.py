"""The past of the features in front of the cells: an ideal Legendre memory, or its control.

Of channels U = x E of the features x it holds, with theta in frames and order d,

    lmu             m_f = Ad m_{f-1} + Bd U_f, the d coefficients of the last theta of each     (1)
                    channel (`legendre`, zero-order hold, one step a frame)
    delayed_frames  U_{f-k} at the d delays k = theta/d, 2 theta/d, ..., theta, rounded; zeros   (2)
                    before the utterance's first frame

Both hold as many columns, so that they compare what form of the past helps and not how much of it is
there. Without `--front_end_encoders` the channels are the first principal components of the static
features over the training frames, and the columns, each divided by its standard deviation, are
appended to the features. With it, the memory is a part of the network, with input weights of its
own; the readout sees it too; each column is divided by its root mean square; and E is fixed (pca) or
starts at random, with channels of unit variance, and learns (learned).
"""

from typing import NamedTuple

import numpy as np

from layers.kernels import InputMemory, StateSpace, described, from_description, with_arrays
from lmu import legendre, readout_memory
from lmu.memory import principal_directions
from toolbox.command_line import UserError, check_unread

KINDS = ("lmu", "delayed_frames")
ENCODERS = ("pca", "learned")
FLAGS = ("front_end_encoders", "front_end_channels", "front_end_order", "front_end_theta_ms")


def define_flags(define):
    """Define `--front_end` and `FLAGS`; `define` is a command_line.Definer."""
    define.enum(
        "front_end",
        None,
        KINDS,
        "the past in front of the cells: the state of an ideal Legendre memory, or delayed frames",
    )
    define.enum(
        "front_end_encoders",
        None,
        ENCODERS,
        "a memory of the network's own, seen by the readout too, of principal components or of "
        "channels that learn (absent: columns of principal components appended to the features)",
    )
    define.integer("front_end_channels", 4, "channels in it", 1)
    define.integer("front_end_order", 4, "columns for each of them", 1)
    define.float(
        "front_end_theta_ms", 200.0, "its memory, ms of speech", 1, readout_memory.LONGEST_MS
    )


def check_flags(flag_values):
    """Raise UserError for flags of a front end that is not there."""
    if not flag_values.front_end:
        check_unread(flag_values, FLAGS, "--front_end")
    check_encoders(flag_values)


def check_encoders(flag_values):
    """Raise UserError for encoders that would not learn; an LSTM's cells always train."""
    if flag_values.front_end_encoders == "learned" and not getattr(flag_values, "cell_train", True):
        raise UserError(
            "--front_end_encoders=learned with --nocell_train: the readout alone is trained; take pca, "
            "or leave out one of the two"
        )


def from_flags(flag_values):
    """Function (training features, static columns) -> front end; None where there is none, or
    where it is the network's own."""
    if not flag_values.front_end or flag_values.front_end_encoders:
        return None
    return lambda utterances, n_static: make_front_end(
        flag_values.front_end,
        utterances,
        n_static,
        flag_values.front_end_channels,
        flag_values.front_end_order,
        flag_values.front_end_theta_ms,
    )


class FrontEnd(NamedTuple):
    """A front end: called with features [frames, features], it answers [frames, features + q d]."""

    projection: np.ndarray  # [features, q]
    kernels: tuple  # StateSpace or DelayLine
    std: np.ndarray  # [q d], of the past in the training set

    def __call__(self, features):
        past = _held([features], self.projection, self.kernels) / self.std
        return np.concatenate([features, past], axis=1).astype(np.float32)

    def description(self):
        """As dicts for JSON."""
        return described(self)

    @classmethod
    def from_description(cls, values):
        """The front end of a description as JSON has it."""
        return cls(**{**with_arrays(values), "kernels": from_description(values["kernels"])})


def make_front_end(kind, utterances, n_static, n_channels, order, theta_ms):
    """The front end that the training set defines.

    Args:
        kind: one of `KINDS`.
        utterances: list of [frames, features], the training set.
        n_static: how many of the features, the first ones, are no deltas.
        n_channels, order, theta_ms: q, d and theta (milliseconds of speech).

    Returns:
        `FrontEnd`.

    Raises:
        UserError: more channels than static features, theta without a frame for each delay, or a
            column without variance.
    """
    kernels = make_kernels(kind, order, legendre.theta_steps(theta_ms, 1))
    projection = _principal(utterances, n_static, n_channels)
    std = _held(utterances, projection, kernels).std(axis=0)
    _check_columns(kind, std)
    return FrontEnd(projection, kernels, std)


def make_input_memory(
    kind, encoders, utterances, n_static, n_channels, order, theta_frames, random_generator
):
    """The memory of a network's own, as it starts.

    Args:
        kind: one of `KINDS`.
        encoders: one of `ENCODERS`.
        utterances: list of [frames, features], the training set.
        n_static: how many of the features, the first ones, are no deltas.
        n_channels, order, theta_frames: q, d and theta.
        random_generator: np.random.Generator of learned encoders.

    Returns:
        layers.kernels.InputMemory.

    Raises:
        UserError: as `make_front_end`.
    """
    kernels = make_kernels(kind, order, theta_frames)
    is_learned = encoders == "learned"
    if is_learned:
        matrix = random_generator.standard_normal((utterances[0].shape[1], n_channels))
        matrix /= (np.concatenate(utterances) @ matrix).std(axis=0)
    else:
        matrix = _principal(utterances, n_static, n_channels)
    rms = np.sqrt(np.mean(_held(utterances, matrix, kernels) ** 2, axis=0))
    _check_columns(kind, rms)
    return InputMemory(kernels, matrix, rms, is_learned)


def make_kernels(kind, order, theta_frames):
    """The kernels of (1) or (2).

    Raises:
        UserError: theta without a frame for each delay.
    """
    if theta_frames < order:
        raise UserError(
            f"--front_end_theta_ms={theta_frames * legendre.FRAME_MS:g}: expected at least a frame "
            f"of {legendre.FRAME_MS:g} ms for each of --front_end_order={order}"
        )
    if kind == "lmu":
        return StateSpace(*legendre.discrete(order, theta_frames), np.eye(order))
    return readout_memory.make_kernels("taps", order, theta_frames, decay=None)


def _principal(utterances, n_static, n_channels):
    if n_channels > n_static:
        raise UserError(
            f"--front_end_channels={n_channels}: expected at most the {n_static} static features"
        )
    return principal_directions(utterances, n_static, n_channels)


def _held(utterances, encoders, kernels):
    """The memory's columns for utterances, one below the other, [frames, channels * order]."""
    return np.concatenate([kernels.hold(u @ encoders).reshape(len(u), -1) for u in utterances])


def _check_columns(kind, sizes):
    if np.any(sizes < 1e-9):
        raise UserError(
            f"--front_end={kind}: a column is constant in the training set: give a window shorter "
            "than the utterances (--front_end_theta_ms), or fewer --front_end_channels"
        )

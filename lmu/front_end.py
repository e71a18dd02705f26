"""Columns that hold the past, appended to the features: an ideal Legendre memory, or its control.

The channels U are the first principal components of the static features over the training frames.
To frame f are appended, with theta in frames and order d,

    lmu             m_f = Ad m_{f-1} + Bd U_f, the d coefficients of the last theta of each     (1)
                    channel (`legendre`, zero-order hold, one step a frame)
    delayed_frames  U_{f-k} at the d delays k = theta/d, 2 theta/d, ..., theta, rounded; zeros   (2)
                    before the utterance's first frame

each column divided by its standard deviation over the training frames. Both add as many columns,
so that they compare what form of the past helps and not how much of it is there.
"""

from typing import NamedTuple

import numpy as np

from lmu import legendre
from lmu.memory import principal_directions
from toolbox.command_line import UserError, check_unread

KINDS = ("lmu", "delayed_frames")
FLAGS = ("front_end_channels", "front_end_order", "front_end_theta_ms")


def define_flags(define):
    """Define `--front_end` and `FLAGS`; `define` is a command_line.Definer."""
    define.enum(
        "front_end",
        None,
        KINDS,
        "append the past to the features: the state of an ideal Legendre memory, or delayed frames",
    )
    define.integer("front_end_channels", 4, "principal components of the static features in it", 1)
    define.integer("front_end_order", 4, "columns for each of them", 1)
    define.float("front_end_theta_ms", 200.0, "its memory, ms of speech", 1)


def check_flags(flag_values):
    """Raise UserError for flags of a front end that is not there."""
    if not flag_values.front_end:
        check_unread(flag_values, FLAGS, "--front_end")


def from_flags(flag_values):
    """Function (training features, static columns) -> front end; None where there is none."""
    if not flag_values.front_end:
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
    delays: np.ndarray | None  # [d] frames, of (2)
    ad: np.ndarray | None  # [d, d], of (1)
    bd: np.ndarray | None  # [d], of (1)
    std: np.ndarray  # [q d], of the past in the training set

    def __call__(self, features):
        past = self.past(features) / self.std
        return np.concatenate([features, past], axis=1).astype(np.float32)

    def past(self, features):
        """(1) or (2) of features [frames, features], [frames, q d]."""
        channels = features @ self.projection
        if self.delays is None:
            states = legendre.memory_state(channels, self.ad, self.bd)
            return states.reshape(len(features), -1)
        longest = self.delays[-1]
        padded = np.concatenate([np.zeros((longest, channels.shape[1])), channels])
        rows = [padded[longest - delay :][: len(channels)] for delay in self.delays]
        return np.concatenate(rows, axis=1)


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
    theta_frames = legendre.theta_steps(theta_ms, 1)
    if n_channels > n_static:
        raise UserError(
            f"--front_end_channels={n_channels}: expected at most the {n_static} static features"
        )
    if theta_frames < order:
        raise UserError(
            f"--front_end_theta_ms={theta_ms:g}: expected at least a frame of "
            f"{legendre.FRAME_MS:g} ms for each of --front_end_order={order}"
        )
    delays = np.round(theta_frames / order * np.arange(1, order + 1)).astype(int)
    is_lmu = kind == "lmu"
    front_end = FrontEnd(
        principal_directions(utterances, n_static, n_channels),
        None if is_lmu else delays,
        *(legendre.discrete(order, theta_frames) if is_lmu else (None, None)),
        std=1.0,
    )
    std = np.concatenate([front_end.past(features) for features in utterances]).std(axis=0)
    if np.any(std < 1e-9):
        raise UserError(
            f"--front_end={kind}: a column is constant in the training set: give a smaller "
            "--front_end_theta_ms, than the utterances last, or fewer --front_end_channels"
        )
    return front_end._replace(std=std)

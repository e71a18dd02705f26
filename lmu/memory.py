"""What the spikes of a layer remember of its input, and at what rate they do it.

Ridge readouts of the spikes of held-out speakers are asked for the input of some frames ago, and
for the phone. Let o_f be a frame's mean of the spikes [neurons], U_f the input's channels:

    p_f = kappa p_{f-1} + o_f,  kappa = exp(-1/3) a frame;  y_f = p_f / deviation               (1)
    W = (cov(y) + lambda 1)^-1 cov(y, target),  prediction = mean(target) + (y - mean(y)) W     (2)
    R2_k = 1 - sum (U_{f-k} - prediction)^2 / sum (U_{f-k} - mean)^2,  k = 0..20 frames         (3)
    memory capacity = sum over k of R2_k                                                        (4)

(1) runs in each cell's own order of the frames. Means, deviations and covariances of (1) and (2)
are those of the speakers that the readout is fitted to, (3) runs over the held-out ones. lambda is
the best of `LAMBDAS` on two of the fit speakers, for each target by itself; then W is fitted to all
of them.

R2 is that of the forward cell: the backward one is still to meet the frames before. The first 20
frames of an utterance are left out of it, as the channels of 20 frames before do not exist. The
phone is the greatest of as many predictions (target: 1 for the phone, else 0); its accuracy counts
all frames alike (training's frame error counts each utterance once).

The floor of (4) is what the features themselves get in place of o: this is known of the past
without any memory of the layer's, by the filter of (1) and because speech changes slowly.
"""

import functools
from typing import NamedTuple

import numpy as np
import scipy

from layers import event_driven
from toolbox.command_line import UserError

MAX_DELAY_FRAMES = 20
READOUT_TAU_FRAMES = 3
LAMBDAS = 10.0 ** np.arange(-7, -1)
MOST_FIT_UTTERANCES, MOST_HELD_OUT_UTTERANCES = 192, 96  # more than the 16-speaker sample has
BATCH = 8  # utterances simulated at a time


class Activity(NamedTuple):
    """A layer's answer to utterances."""

    z_mean: list  # of [frames, directions, n] float32, mean spikes of each frame's steps
    rates_hz: np.ndarray  # [directions, n] spikes per simulated second
    psi_positive_share: float  # of neurons and steps with a pseudo-derivative above 0


def simulate(utterances, w_in, w_rec, parameters):
    """Simulate a layer, its second direction from an utterance's end to its start.

    Args:
        utterances: list of [frames, features].
        w_in: [directions, features, n].
        w_rec: [directions, n, n], row = presynaptic.
        parameters: neurons.AlifParameters.

    Returns:
        `Activity`.
    """
    w_in, w_rec = np.asarray(w_in, np.float32), np.asarray(w_rec, np.float32)
    directions, _, n = w_in.shape
    reverse = np.arange(directions) > 0
    z_mean, n_spikes, n_live = [], 0, 0
    # With `reference_quirks` the padding is simulated: then there must be none.
    size = 1 if parameters.reference_quirks else BATCH
    for start in range(0, len(utterances), size):
        features, seq_len = padded(utterances[start : start + size])
        current = np.einsum("bfi,din->bfdn", features, w_in, optimize=True)
        arguments = current, w_rec, parameters, seq_len, reverse
        forward = event_driven.forward(*arguments)
        z_mean += [z[:length] for z, length in zip(forward.z_mean, seq_len)]
        n_spikes = n_spikes + forward.spike_counts.sum(axis=0)
        n_live += event_driven.live_steps(forward.saved, *arguments).sum()
    n_steps = parameters.n_repeat * sum(map(len, utterances))
    return Activity(
        z_mean,
        rates_hz=1000 * n_spikes / (n_steps * parameters.dt_ms),
        psi_positive_share=float(n_live / (n_steps * directions * n)),
    )


def padded(utterances, dtype=np.float32):
    """Utterances [frames, ...] as one array [batch, frames, ...], 0 after the end; their frames."""
    seq_len = np.array([len(utterance) for utterance in utterances])
    batch = np.zeros((len(utterances), seq_len.max(), *utterances[0].shape[1:]), dtype)
    for row, utterance in zip(batch, utterances):
        row[: len(utterance)] = utterance
    return batch, seq_len


def measure(utterances, phns, speakers, is_held_out, w_in, w_rec, parameters, projection, n_phns):
    """Rates, memory and framewise accuracy of a layer, as the module's docstring defines them.

    Args:
        utterances: list of [frames, features].
        phns: list of [frames] integers, the classes.
        speakers: of each utterance, str.
        is_held_out: of each utterance, bool: the readouts are judged, not fitted, by it.
        w_in, w_rec, parameters: the layer, as for `simulate`.
        projection: [features, channels] of the features onto the channels that are asked for.
        n_phns: number of classes.

    At most `MOST_FIT_UTTERANCES` and `MOST_HELD_OUT_UTTERANCES`, evenly chosen, take part.

    Returns:
        dict: `rate_hz_mean`, `rate_hz_max`, `silent_share` (of the neurons, those without a
        spike), `psi_positive_share`; `r2_channels` (21 values, mean over the channels),
        `memory_capacity_channels`; `frame_accuracy_forward` of the forward cell, `frame_accuracy`
        of all directions (fractions of the frames).

    Raises:
        UserError: no frame after the first 20 to fit to, to choose lambda by or to judge by.
    """
    parts = _parts(phns, speakers, is_held_out)
    activity = simulate([utterances[i] for i in np.concatenate(parts)], w_in, w_rec, parameters)
    seen = map(_filtered, activity.z_mean)
    sampled = _sampled(parts, seen, utterances, phns, projection)

    n_forward = np.shape(w_in)[2]
    accuracy_forward, accuracy = _accuracies(sampled, n_phns, (n_forward, n_forward * len(w_in)))
    return {
        "rate_hz_mean": float(activity.rates_hz.mean()),
        "rate_hz_max": float(activity.rates_hz.max()),
        "silent_share": float(np.mean(activity.rates_hz == 0)),
        "psi_positive_share": activity.psi_positive_share,
        **_capacity(sampled, n_forward),
        "frame_accuracy_forward": accuracy_forward,
        "frame_accuracy": accuracy,
    }


def measure_floor(utterances, phns, speakers, is_held_out, projection):
    """`r2_channels` and `memory_capacity_channels` of the same readout of the present features.

    Arguments and errors are those of `measure`.
    """
    parts = _parts(phns, speakers, is_held_out)
    seen = (_filtered(utterances[i][:, np.newaxis]) for i in np.concatenate(parts))
    sampled = _sampled(parts, seen, utterances, phns, projection)
    return _capacity(sampled, len(projection))


def _parts(phns, speakers, is_held_out):
    """Which utterances readouts are fitted to, choose lambda and are judged by, see `measure`."""
    is_held_out = np.asarray(is_held_out, bool)
    fit, held_out = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
    fit = fit[_evenly(len(fit), MOST_FIT_UTTERANCES)]
    held_out = held_out[_evenly(len(held_out), MOST_HELD_OUT_UTTERANCES)]
    chooses = _chooses_lambda([speakers[i] for i in fit])
    parts = fit[~chooses], fit[chooses], held_out
    for name, part in zip(("fit to", "choose the regularisation by", "judge by"), parts):
        if not any(len(phns[i]) > MAX_DELAY_FRAMES for i in part):
            raise UserError(
                f"the memory cannot be measured: no utterance of more than {MAX_DELAY_FRAMES} "
                f"frames is left to {name}"
            )
    return parts


def principal_directions(utterances, n_static, n_channels):
    """[features, channels] unit vectors to the principal components of most variance.

    Args:
        utterances: list of [frames, features].
        n_static: how many of the features, the first ones, count: those that are no differences.
    """
    frames = np.concatenate([features[:, :n_static] for features in utterances])
    covariance = np.atleast_2d(np.cov(frames.astype(np.float64), rowvar=False))
    _, vectors = np.linalg.eigh(covariance)  # ascending
    chosen = vectors[:, ::-1][:, :n_channels]
    largest = np.argmax(abs(chosen), axis=0)  # whose sign is made positive: else it is arbitrary
    directions = np.zeros((utterances[0].shape[1], n_channels))
    directions[:n_static] = chosen * np.sign(chosen[largest, np.arange(n_channels)])
    return directions


def _evenly(n, most):
    """At most `most` evenly spaced places of `n`."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))


def _chooses_lambda(speakers):
    """Which utterances lambda is chosen by: those of the first and the last speaker in sorted
    order (a woman and a man, as TIMIT names them); the first and the last utterance where there
    are fewer than three speakers."""
    groups = sorted(set(speakers))
    if len(groups) >= 3:
        return np.isin(speakers, [groups[0], groups[-1]])
    places = np.arange(len(speakers))
    return (places == 0) | (places == len(speakers) - 1)


class _Samples(NamedTuple):
    """What the readouts see of an utterance."""

    y: np.ndarray  # [frames, directions * n] float32, (1) but for the deviation
    phns: np.ndarray  # [frames]
    delayed: np.ndarray  # [frames - 20, delays * channels]: channels of 0, 1, .. frames before


def _sampled(parts, seen, utterances, phns, projection):
    """`_Samples` of the utterances of each part; `seen` iterates over their y."""
    seen = iter(seen)
    return [[_samples(next(seen), phns[i], utterances[i] @ projection) for i in p] for p in parts]


def _filtered(z_mean):
    """p [frames, directions * n] of (1) for o [frames, directions, n] of an utterance."""
    kappa = np.exp(-1 / READOUT_TAU_FRAMES)
    y = np.empty(z_mean.shape, np.float32)
    for d in range(z_mean.shape[1]):
        order = slice(None, None, -1 if d else 1)
        y[order, d] = scipy.signal.lfilter([1.0], [1.0, -kappa], z_mean[order, d], axis=0)
    return y.reshape(len(y), -1)


def _samples(y, phns, channels):
    kept = np.arange(MAX_DELAY_FRAMES, len(y))
    delayed = channels[kept[:, None] - np.arange(MAX_DELAY_FRAMES + 1)]  # [frames, delays, ...]
    return _Samples(y, np.asarray(phns), delayed.reshape(len(kept), -1))


class _Moments(NamedTuple):
    """Sums over frames from which every ridge regression and its error follow."""

    n: int
    y: np.ndarray  # [columns]
    target: np.ndarray  # [targets]
    y_y: np.ndarray  # [columns, columns]
    y_target: np.ndarray  # [columns, targets]
    target_squared: np.ndarray  # [targets]

    def __add__(self, other):
        return _Moments(*(mine + others for mine, others in zip(self, other)))

    def of_columns(self, n_columns):
        """Those of the first columns."""
        return self._replace(
            y=self.y[:n_columns],
            y_y=self.y_y[:n_columns, :n_columns],
            y_target=self.y_target[:n_columns],
        )


def _moments(y, target):
    y = y.astype(np.float64)
    return _Moments(len(y), y.sum(0), target.sum(0), y.T @ y, y.T @ target, (target**2).sum(0))


def _sum(moments):
    """Sum of an iterator over `_Moments`."""
    return functools.reduce(_Moments.__add__, moments)


def _ridge(moments):
    """Equation (2) for every lambda, by the eigenvectors of the covariance, which serve them all.

    Returns:
        weights [lambdas, columns, targets] and biases [lambdas, targets]; prediction = bias + y
        weights.
    """
    mean_y, mean_target = moments.y / moments.n, moments.target / moments.n
    covariance = moments.y_y / moments.n - np.outer(mean_y, mean_y)
    with_target = moments.y_target / moments.n - np.outer(mean_y, mean_target)
    deviation = np.sqrt(np.maximum(np.diag(covariance), 0))
    deviation[deviation < 1e-9] = 1  # a silent neuron
    values, vectors = np.linalg.eigh(covariance / np.outer(deviation, deviation))
    rotated = vectors.T @ (with_target / deviation[:, None])
    weights = np.array(
        [vectors @ (rotated / (np.maximum(values, 0) + x)[:, None]) for x in LAMBDAS]
    )
    weights /= deviation[:, None]
    return weights, mean_target - mean_y @ weights


def _r2(moments, weights, bias):
    """R2 [targets] of the prediction bias + y weights over the frames of `moments`."""
    error = (
        moments.target_squared
        - 2 * np.sum(weights * moments.y_target, axis=0)
        + np.sum(weights * (moments.y_y @ weights), axis=0)
        - 2 * bias * (moments.target - moments.y @ weights)
        + moments.n * bias**2
    )
    return 1 - error / (moments.target_squared - moments.target**2 / moments.n)


def _delayed_r2(sampled, n_columns):
    """R2 [delays * channels] of the first columns, over the last of the three lists of samples."""
    fitted, choosing, judged = (
        _sum(_moments(s.y[MAX_DELAY_FRAMES:, :n_columns], s.delayed) for s in samples)
        for samples in sampled
    )
    r2 = [_r2(choosing, weights, bias) for weights, bias in zip(*_ridge(fitted))]
    best = np.argmax(r2, axis=0)  # [targets]
    targets = np.arange(len(best))
    weights, biases = _ridge(fitted + choosing)
    return _r2(judged, weights[best, :, targets].T, biases[best, targets])


def _capacity(sampled, n_columns):
    """(3), mean over the channels, and (4) of the first columns, as `measure` names them."""
    r2 = _delayed_r2(sampled, n_columns).reshape(MAX_DELAY_FRAMES + 1, -1).mean(axis=1)
    return {"r2_channels": r2.tolist(), "memory_capacity_channels": float(r2.sum())}


def _accuracies(sampled, n_phns, column_numbers):
    """Share of frames whose phone has the greatest prediction, for each number of columns; over
    the last of the three lists of samples."""
    fitted, choosing = (
        _sum(_moments(s.y, np.eye(n_phns)[s.phns]) for s in samples) for samples in sampled[:2]
    )

    def accuracy(samples, weights, bias):
        n_right = sum(
            np.sum(np.argmax(s.y[:, : len(weights)] @ weights + bias, axis=1) == s.phns)
            for s in samples
        )
        return float(n_right / sum(len(s.phns) for s in samples))

    for n_columns in column_numbers:
        readouts = zip(*_ridge(fitted.of_columns(n_columns)))
        best = np.argmax([accuracy(sampled[1], *readout) for readout in readouts])
        weights, biases = _ridge((fitted + choosing).of_columns(n_columns))
        yield accuracy(sampled[2], weights[best], biases[best])

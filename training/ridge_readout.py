"""A readout fitted by ridge regression instead of trained: the start or, of a reservoir, the end.

With the filtered activity y (centred: Y [frames, n_out]) and one-hot phones O of all true training
frames, T of them,

    W = (Y'Y / T + lambda mean(diag(Y'Y / T)) 1)^-1 Y' (O - mean(O)) / T                        (1)
    logits = gain (y W + mean(O) - mean(y) W)                                                   (2)

Regression answers with shares of 1, a softmax wants logits: `gain` is the factor between 3 and 12
that makes the cross entropy of the training frames least.
"""

import numpy as np
import scipy.linalg
import tensorflow as tf
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from layers import sequences
from toolbox.command_line import UserError

LAMBDA = 1e-3
GAINS = (3, 12)


def fit_readout(network, split, batch_size):
    """Give a network's readout the weights and the bias of (2).

    Args:
        network: models.Network with a readout bias.
        split: dataset.Split, the training set.
        batch_size: utterances at a time.

    Raises:
        UserError: the layers' activity is 0 throughout.
    """
    readout = network.readout
    n_out, n_classes = readout.w_out.shape
    y_mean, squares = np.zeros(n_out), np.zeros((n_out, n_out))
    one_hot_mean, cross = np.zeros(n_classes), np.zeros((n_out, n_classes))
    # Sums over utterances: the activity of a whole corpus would take gigabytes.
    for y, phns in zip(_activities(network, split, batch_size), split.phns):
        y, one_hot = y.astype(np.float64), np.eye(n_classes)[phns]
        y_mean += y.sum(axis=0) / split.n_frames
        one_hot_mean += one_hot.sum(axis=0) / split.n_frames
        squares += y.T @ y / split.n_frames
        cross += y.T @ one_hot / split.n_frames
    covariance = squares - np.outer(y_mean, y_mean)
    cross -= np.outer(y_mean, one_hot_mean)
    covariance[np.diag_indices(n_out)] += LAMBDA * np.trace(covariance) / n_out
    try:
        weights = scipy.linalg.solve(covariance, cross, assume_a="pos")
    except np.linalg.LinAlgError:
        raise UserError(
            "--readout_init=ridge: the layers do not answer to the training speech, so that "
            "nothing can be fitted: try larger initial weights (LSNN: --weight_scale)"
        ) from None
    bias = one_hot_mean - y_mean @ weights
    shares = np.concatenate([y @ weights + bias for y in _activities(network, split, batch_size)])
    phns = np.concatenate(split.phns)
    gain = minimize_scalar(
        lambda gain: (
            np.mean(logsumexp(gain * shares, axis=1))
            - gain * np.mean(shares[np.arange(len(phns)), phns])
        ),
        bounds=GAINS,
        method="bounded",
    ).x
    readout.w_out.assign(gain * weights)
    readout.b_out.assign(gain * bias)


def _activities(network, split, batch_size):
    """What the readout weighs, [frames, n_out], of one utterance after the other."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, network.n_features], tf.float32),
            tf.TensorSpec([None], tf.int32),
        ],
        autograph=False,
    )
    def run(features, seq_len):
        activity = network(features, seq_len).activity
        if network.readout.decay is not None:
            activity = sequences.exponential_filter(activity, network.readout.decay)
        return activity

    for batch in split.batches(batch_size):
        for activity, n_frames in zip(run(batch.features, batch.seq_len).numpy(), batch.seq_len):
            yield activity[:n_frames]

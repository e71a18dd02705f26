"""Evaluation of a network on a split of its task."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from training.steps import batch_signature


class Evaluation(NamedTuple):
    """What a split says of a network."""

    metrics: dict  # the task's, name -> float
    loss: float
    prediction_loss: float
    rate_loss: float
    rates_hz: np.ndarray  # [n_out], or None for cells that do not spike
    sums: dict  # the task's, over the whole split


def make_evaluation(network, task, batch_size, before_batch=lambda: None):
    """Compile the evaluation of a split; returns a function (name of a split) -> Evaluation.

    `before_batch` is called before each batch of it; what it raises ends the evaluation.
    """

    @tf.function(input_signature=batch_signature(network, task), autograph=False)
    def answer(features, targets, seq_len):
        output = network(features, seq_len)
        return (
            task.losses(output.logits, targets, seq_len),
            *network.activity_sums(output, seq_len),
            task.answers(output.logits, seq_len),
        )

    def evaluate(split):
        prediction_loss = n_frames = activity = 0.0
        n_examples, sums = 0, {}
        for batch in task.batches(split, batch_size):
            before_batch()
            losses, batch_activity, batch_frames, answers = tf.nest.map_structure(
                lambda x: x.numpy(), answer(*batch)
            )
            for name, value in task.sums(batch, answers).items():
                sums[name] = sums.get(name, 0) + value
            prediction_loss += np.sum(losses)
            activity = activity + batch_activity
            n_frames += batch_frames
            n_examples += len(batch.seq_len)
        mean_activity = (activity / n_frames).astype(np.float32)
        rate_loss = float(network.rate_loss(tf.constant(mean_activity)))
        prediction_loss = float(prediction_loss / n_examples)
        return Evaluation(
            metrics=task.metrics(sums, n_examples),
            loss=prediction_loss + rate_loss + float(network.l2_loss()),
            prediction_loss=prediction_loss,
            rate_loss=rate_loss,
            rates_hz=1000 * mean_activity if network.is_spiking else None,
            sums=sums,
        )

    return evaluate

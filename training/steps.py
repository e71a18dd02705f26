"""One step of training: losses, gradients, noise and the optimiser."""

import tensorflow as tf

from training import health

# Places in a step where it draws: dropout has the numbers from 0 on, one a layer.
PLACE_INPUT, PLACE_GRADIENTS, PLACE_REPLICAS = 999, 1000, 10**6


class _SlowedUpdates:
    """Mixin of a Keras optimiser: steps of some variables shrunk by a factor.

    Scaling their gradients would not do it, as Adam divides by the gradients' size.

    Args:
        slowed: the variables.
        factor: of their learning rate.
    """

    def __init__(self, slowed, factor, **options):
        super().__init__(**options)
        self._slowed = {self._var_key(variable) for variable in slowed}
        self._factor = factor

    def update_step(self, gradient, variable, learning_rate):
        if self._var_key(variable) in self._slowed:
            learning_rate *= self._factor
        super().update_step(gradient, variable, learning_rate)


class Adam(_SlowedUpdates, tf.keras.optimizers.Adam):
    pass


class Momentum(_SlowedUpdates, tf.keras.optimizers.SGD):
    pass


class RmsProp(_SlowedUpdates, tf.keras.optimizers.RMSprop):
    pass


OPTIMIZERS = ("adam", "sgd", "rmsprop")


def make_optimizer(network, optimizer="adam", momentum=0.9, adam_epsilon=1e-5, cell_lr_factor=1.0):
    """The optimiser of a models.Network; its learning rate is set before every step.

    Args:
        optimizer: one of `OPTIMIZERS`.
        momentum: of gradient descent and RMSprop, and Adam's beta1.
        adam_epsilon: Adam's alone.
        cell_lr_factor: factor of the learning rate for the layers' weights, not the readout's.
    """
    slowed = [weights for layer in network.layers for weights in layer.trainable_variables]
    if optimizer == "adam":
        return Adam(slowed, cell_lr_factor, beta_1=momentum, epsilon=adam_epsilon)
    kind = Momentum if optimizer == "sgd" else RmsProp
    return kind(slowed, cell_lr_factor, momentum=momentum)


def compute_gradients(
    network, loss_of_examples, variables, features, targets, seq_len, dropout_seed=None
):
    """Output, losses and the total loss's gradients for `variables` (None where there is none).

    Args:
        loss_of_examples: a task's function (logits, targets, seq_len) -> [batch].
    """
    with tf.GradientTape() as tape:
        output = network(features, seq_len, dropout_seed)
        prediction = loss_of_examples(output.logits, targets, seq_len)
        losses = network.losses(output, prediction, seq_len)
        total = losses.total
    return output, losses, tape.gradient(total, variables)


def batch_signature(network, task):
    """Features, targets and lengths of a batch of any size."""
    return [
        tf.TensorSpec([None, None, network.n_features], network.readout.w_out.dtype),
        task.targets_spec,
        tf.TensorSpec([None], tf.int32),
    ]


def make_train_step(
    network,
    task,
    optimizer,
    variables,
    seed,
    readout_decay=0.0,
    input_noise_std=0.0,
    grad_clip=0.0,
    gd_noise=0.0,
    noise_step_start=-1,
):
    """Compile one step of training; one trace serves batches of all shapes.

    Under a `tf.distribute` strategy every replica is given the whole batch, takes its share of the
    examples, and the gradients are summed: the step is the same on any number of devices, dropout
    excepted.

    Args:
        network: models.Network.
        task: of `tasks`.
        optimizer: of `make_optimizer`.
        variables: what the step trains.
        seed: of dropout and noise, which depend on it and the iteration alone.
        readout_decay, input_noise_std, grad_clip, gd_noise, noise_step_start: the flags of these names.

    Returns:
        Function (features [batch, frames, n], targets, seq_len [batch], learning_rate, iteration)
        -> total loss.
    """
    optimizer.build(variables)
    strategy = tf.distribute.get_strategy()
    name_of = {variable.ref(): name for name, variable in network.weights().items()}
    names = [name_of[variable.ref()] for variable in variables]

    def replica_step(features, targets, seq_len, random_seed):
        replicas = tf.distribute.get_replica_context()
        place, n_replicas = replicas.replica_id_in_sync_group, replicas.num_replicas_in_sync
        share = slice(place, None, n_replicas)
        dropout_seed = random_seed
        if n_replicas > 1:
            dropout_seed = _fold_in(random_seed, PLACE_REPLICAS + place)
        _, losses, gradients = compute_gradients(
            network,
            task.losses,
            variables,
            features[share],
            targets[share],
            seq_len[share],
            dropout_seed,
        )
        if grad_clip > 0:
            # The norm is that of all replicas' gradients together.
            norm = tf.linalg.global_norm(replicas.all_reduce(tf.distribute.ReduceOp.SUM, gradients))
            factor = grad_clip / tf.maximum(norm, grad_clip)
            gradients = [g * factor for g in gradients]
        if noise_step_start >= 0:
            is_noisy = random_seed[1] >= noise_step_start
            std = tf.where(is_noisy, gd_noise / n_replicas, 0)
            gradients = [
                g + _noise(g, std, random_seed, PLACE_GRADIENTS + k)
                for k, g in enumerate(gradients)
            ]
        with health.only_if_finite(losses, gradients, names):
            optimizer.apply_gradients(zip(gradients, variables))  # sums them over the replicas
        return losses.total

    signature = [
        *batch_signature(network, task),
        tf.TensorSpec([], tf.float32),
        tf.TensorSpec([], tf.int32),
    ]

    @tf.function(input_signature=signature, autograph=False)
    def train_step(features, targets, seq_len, learning_rate, iteration):
        random_seed = tf.stack([seed, iteration])
        if input_noise_std > 0:
            noise = _noise(features, input_noise_std, random_seed, PLACE_INPUT)
            is_true = tf.sequence_mask(seq_len, tf.shape(features)[1], features.dtype)
            features += noise * is_true[:, :, None]
        optimizer.learning_rate.assign(learning_rate)
        loss = strategy.run(replica_step, (features, targets, seq_len, random_seed))
        network.after_update(readout_decay)
        return strategy.reduce(tf.distribute.ReduceOp.SUM, loss, axis=None)

    return train_step


def _fold_in(random_seed, place):
    return tf.random.experimental.stateless_fold_in(random_seed, place)


def _noise(x, standard_deviation, random_seed, place):
    """Gaussian noise of the shape of `x`, another for each `place`."""
    noise = tf.random.stateless_normal(tf.shape(x), _fold_in(random_seed, place), dtype=x.dtype)
    return tf.cast(standard_deviation, x.dtype) * noise

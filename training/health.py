"""Signs that a training has gone wrong: NaN or Inf in a step, networks silent or saturated."""

import contextlib
import re

import numpy as np
import tensorflow as tf

from layers.neurons import refractory_steps
from toolbox.command_line import UserError

_MARK = "not finite: "
# Mean rates. Healthy networks of this kind fire at 5 to 50 Hz, and the authors' random start at two
# fifths of the ceiling.
SILENT_HZ = 0.2
SATURATED_SHARE = 0.8  # of the ceiling that refractoriness sets


# --------------------------------------------------------------------------- steps


@contextlib.contextmanager
def only_if_finite(losses, gradients, names):
    """Ops made in the block run only if losses and gradients are finite; else the step fails.

    Args:
        losses: models.Losses.
        gradients: tensors, or None where a variable has none.
        names: the variables' names, in their order.
    """
    parts = [(f"the {part} loss", loss) for part, loss in losses._asdict().items()]
    parts += [(f"the gradient of {n}", g) for n, g in zip(names, gradients) if g is not None]
    checked = []
    for what, tensor in parts:
        with tf.control_dependencies(checked):  # in order: the first of several is named
            checked = [tf.debugging.check_numerics(tensor, f"{_MARK}{what}")]
    with tf.control_dependencies(checked):
        yield


@contextlib.contextmanager
def failures_explained(iteration, epoch, batch, variables, advice):
    """Turn the failure of a checked step into a UserError.

    Args:
        iteration, epoch: of the step, counted from 0.
        batch: dataset.Batch.
        variables: dict name -> variable, as they were before the step.
        advice: what to do, the end of the message.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        match = re.search(rf"{_MARK}(.*?) : (Tensor had .*? values)", str(error), re.DOTALL)
        if not match:
            raise
        bad = [name for name, v in variables.items() if not np.isfinite(v.numpy()).all()]
        raise UserError(
            f"iteration {iteration} (epoch {epoch}): {match[1]} is not finite "
            f"({match[2].removeprefix('Tensor had ').removesuffix(' values')}"
            + (f"; so are weights of {', '.join(bad)}" if bad else "")
            + f") in the batch of {', '.join(batch.names)}: {advice}"
        ) from None


# --------------------------------------------------------------------------- firing rates


def rate_warnings(network, rates_hz, states):
    """What has changed between healthy, silent and saturated in the parts of a spiking network.

    Args:
        network: models.Lsnn.
        rates_hz: [n_out] mean rate of each neuron that the readout sees.
        states: dict name of a layer's direction -> "healthy", "silent" or "saturated" at the last
            evaluation; {} at first. Updated in place.

    Returns:
        Lines to print.
    """
    parameters = network.parameters
    n_silent, _ = refractory_steps(parameters.n_ref, parameters.dt_ms)
    ceiling_hz = 1000 / parameters.dt_ms / (1 + n_silent)
    groups = np.reshape(rates_hz, (-1, len(parameters.alpha)))
    n_directions = network.layers[0].n_directions
    first_layer = len(network.layers) - len(groups) // n_directions
    lines = []
    for i, rates in enumerate(groups):
        layer, direction = divmod(i, n_directions)
        name = f"layer {first_layer + layer}, {('forward', 'backward')[direction]} cell"
        mean = float(np.mean(rates))
        state = "healthy"
        if mean < SILENT_HZ:
            state = "silent"
        elif mean > SATURATED_SHARE * ceiling_hz:
            state = "saturated"
        if state != states.get(name, "healthy"):
            found = (
                f"mean {mean:.2g} Hz, fastest neuron {np.max(rates):.3g} Hz, ceiling "
                f"{ceiling_hz:.3g} Hz"
            )
            said = {
                "silent": f"warning: {name} has fallen silent: {found}: it learns little so; try "
                "a larger --weight_scale or a smaller --thr",
                "saturated": f"warning: {name} fires at its ceiling: {found}: it learns little so; "
                "try a smaller --weight_scale or --lr_init",
                "healthy": f"note: {name} is {states.get(name)} no longer: {found}",
            }
            lines.append(said[state])
        states[name] = state
    return lines

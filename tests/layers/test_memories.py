"""Memories of whole sequences against recursions, frame by frame."""

import numpy as np
import pytest
import tensorflow as tf

from layers import memories
from layers.kernels import DelayLine, InputMemory, StateSpace, side_by_side

N_FRAMES = memories.BLOCK_FRAMES * 2 + 11  # blocks, and a part of one


def state_space(order=4, n_states=5, seed=0):
    """A system with slow and fast states, which rotate."""
    random_generator = np.random.default_rng(seed)
    a = random_generator.standard_normal((n_states, n_states))
    a *= 0.98 / np.abs(np.linalg.eigvals(a)).max()
    shapes = n_states, (order, n_states)
    return StateSpace(a, *(random_generator.standard_normal(shape) for shape in shapes))


KERNELS = {
    "state space": state_space(),
    "delays": DelayLine(np.array([1, 3, 40]), 0.7),
    "unfiltered delays": DelayLine(np.array([2, 5])),
}


def held(u, system):
    """The module's definition for u [batch, frames, n]: [batch, frames, n, order]."""
    x, h = 0, []
    for f in range(u.shape[1]):
        x = x @ system.a.T if f else 0
        x = x + u[:, f, :, None] * system.b
        h.append(x @ system.c.T)
    return np.stack(h, axis=1)


@pytest.mark.parametrize("kernels", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("n_frames", [1, memories.BLOCK_FRAMES, N_FRAMES])
def test_memories_are_their_recursions(kernels, n_frames):
    random_generator = np.random.default_rng(1)
    u = random_generator.standard_normal((2, n_frames, 3))
    weights = random_generator.standard_normal((3, kernels.order, 4))
    expected = held(u, kernels.state_space())
    np.testing.assert_allclose(
        memories.remember(tf.constant(u), kernels), expected, rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(kernels.hold(u[0]), expected[0], rtol=0, atol=1e-12)
    recalled = memories.recall(tf.constant(np.einsum("bfn,nkc->bfkc", u, weights)), kernels)
    by_definition = np.einsum("bfnk,nkc->bfc", expected, weights)
    np.testing.assert_allclose(recalled, by_definition, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kernels", KERNELS.values(), ids=KERNELS)
def test_a_gradient_goes_back_through_the_same_kernels(kernels):
    """<recall(x), e> is linear in x: its gradient is that of unit vectors, here of two of them."""
    random_generator = np.random.default_rng(2)
    x = tf.constant(random_generator.standard_normal((1, N_FRAMES, kernels.order, 2)))
    error = random_generator.standard_normal((1, N_FRAMES, 2))
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(memories.recall(x, kernels) * error)
    gradient = tape.gradient(loss, x).numpy()
    for place in ((0, 0, 0, 0), (0, 5, kernels.order - 1, 1)):
        unit = np.zeros(x.shape)
        unit[place] = 1
        expected = np.sum(memories.recall(tf.constant(unit), kernels).numpy() * error)
        assert abs(expected) > 0.01
        np.testing.assert_allclose(gradient[place], expected, rtol=1e-10)


def test_systems_side_by_side():
    systems = [kernels.state_space() for kernels in KERNELS.values()]
    u = np.random.default_rng(3).standard_normal((1, 50, 2))
    together = held(u, side_by_side(*systems))
    apart = np.concatenate([held(u, system) for system in systems], axis=-1)
    np.testing.assert_allclose(together, apart, rtol=1e-12)


def test_encoded_memory_has_a_channels_columns_beside_each_other():
    random_generator = np.random.default_rng(4)
    kernels = state_space(order=3)
    features = random_generator.standard_normal((2, 9, 4))
    encoders = random_generator.standard_normal((4, 2))
    rms = random_generator.uniform(1, 2, 6)
    memory = memories.EncodedMemory(InputMemory(kernels, encoders, rms, True), tf.float64)
    expected = held(features @ encoders, kernels).reshape(2, 9, 6) / rms
    np.testing.assert_allclose(memory(tf.constant(features)), expected, rtol=0, atol=1e-12)
    assert [v.name for v in memory.trainable_variables] == ["encoders:0"]
    fixed = memories.EncodedMemory(InputMemory(kernels, encoders, rms, False))
    assert not fixed.trainable_variables and len(fixed.variables) == 2

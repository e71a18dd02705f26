"""Signals that vary as the features of speech do, for tests of memories."""

import numpy as np

from speech.dataset import with_deltas

N_STATIC = 4


def smooth_utterances(rng, n_utterances, n_features=4, lengths=(60, 45, 52)):
    """List of [frames, features], unit variance, correlated over some 5 frames."""
    utterances = []
    for i in range(n_utterances):
        noise = rng.normal(size=(lengths[i % len(lengths)] + 40, n_features))
        for t in range(1, len(noise)):
            noise[t] = 0.8 * noise[t - 1] + 0.6 * noise[t]
        utterances.append(noise[40:].astype(np.float32))
    return utterances


def speech_like(seed, n_utterances, lengths):
    """List of [frames, 12]: four smooth signals and their differences, as features of speech."""
    static = smooth_utterances(np.random.default_rng(seed), n_utterances, N_STATIC, lengths)
    expanded = [with_deltas(u.astype(float)) for u in static]
    return [(f / f.std(axis=0)).astype(np.float32) for f in expanded]

"""Evaluations of whole splits."""

import numpy as np
import pytest

from tiny_runs import BOTH, build, evaluate, lsnn, lstm


@BOTH
def test_batches_do_not_change_an_evaluation(script, short_dataset, eager):
    """Utterances of 6, 10 and 14 frames, alone, as two and one, and together."""
    built = build(script, short_dataset())
    alone, uneven, together = (evaluate(built, "test", size) for size in (1, 2, 3))
    assert {len(phns) for phns in built.task.dataset.test.phns} == {6, 10, 14}
    for other in (alone, uneven):
        assert other.metrics == pytest.approx(together.metrics, rel=1e-5)
        for name in ("loss", "prediction_loss", "rate_loss"):
            assert getattr(other, name) == pytest.approx(getattr(together, name), rel=1e-5)
        np.testing.assert_array_equal(other.sums["confusion"], together.sums["confusion"])
        if script is lsnn:
            np.testing.assert_allclose(other.rates_hz, together.rates_hz, rtol=1e-5)
    assert together.loss == pytest.approx(
        together.prediction_loss + together.rate_loss + float(built.network.l2_loss()), rel=1e-6
    )


def test_rates_are_spikes_per_simulated_second(short_dataset, eager):
    built = build(lsnn, short_dataset(), "--weight_scale=1", "--n_repeat=2")
    evaluation = evaluate(built, "test", 2)
    n_spikes = 0
    for features in built.task.dataset.test.features:
        seq_len = np.array([len(features)], np.int32)
        output = built.network(features[None], seq_len, with_spikes=True)
        n_spikes = n_spikes + np.sum(output.spikes[0], axis=(0, 1))
    simulated_s = 30 * 2 / 1000  # frames, steps a frame, ms
    np.testing.assert_allclose(evaluation.rates_hz, n_spikes / simulated_s, rtol=1e-5)
    assert n_spikes.sum() > 10
    target = 0.01  # 10 Hz a step
    expected = 50 * np.sum((evaluation.rates_hz / 1000 - target) ** 2)
    assert evaluation.rate_loss == pytest.approx(expected, rel=1e-4)


def test_cells_that_do_not_spike_have_no_rates(short_dataset, eager):
    evaluation = evaluate(build(lstm, short_dataset()), "test", 3)
    assert evaluation.rates_hz is None and evaluation.rate_loss == 0

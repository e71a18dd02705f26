"""Records and lines of evaluations."""

from types import SimpleNamespace

import numpy as np
import pytest

from training import reporting
from training.checkpoints import Progress
from training.evaluation import Evaluation

TASK = SimpleNamespace(metric="sequence_error")


def record_of(rates_hz=None, **progress):
    develop = Evaluation({"sequence_error": 0.25, "other": 0.5}, 1.5, 1.25, 0.125, rates_hz, {})
    return reporting.evaluation_record(TASK, develop, Progress(**progress), 4, 0.01)


def test_a_record_names_its_metric_and_what_it_was_made_of():
    assert record_of(iteration=3, seconds=[1.0, 5.0, 2.0], train_losses=[2.0, 4.0]) == {
        "epoch": 4,
        "iteration": 3,
        "metric": "sequence_error",
        "develop_sequence_error": 0.25,
        "develop_other": 0.5,
        "develop_loss": 1.5,
        "develop_prediction_loss": 1.25,
        "develop_rate_loss": 0.125,
        "train_loss": 3.0,
        "learning_rate": 0.01,
        "seconds_per_iteration": 2.0,
    }
    first = record_of()
    assert first["train_loss"] is None and first["seconds_per_iteration"] is None


def test_rates_are_recorded_and_told_in_detail_only():
    record = record_of(np.array([5.0, 10.0, 30.0]), iteration=1, seconds=[0.5])
    expected = {"min": 5, "max": 30, "mean": 15, "std": np.std([5, 10, 30])}
    assert {n: record[f"rate_hz_{n}"] for n in expected} == pytest.approx(expected)
    brief = reporting.evaluation_line(record, False)
    assert brief == (
        "epoch   4  iteration     1  0.50 s/iteration  develop: sequence error 0.250, loss 1.500"
    )
    detailed = reporting.evaluation_line(record, True)
    assert detailed.startswith(f"{brief} (prediction 1.250), learning rate 0.01\n")
    assert detailed.endswith(
        "firing rates (Hz): min 5, max 30, mean 15.0 +- 10.8 over neurons; their loss 0.12"
    )

"""Broken and hostile input, a small and always equal part of what `make soak` tries."""

import pytest

from fuzzing import TARGETS

N_CASES = {"utterances": 400, "folders": 40, "corpus": 15, "dataset_folder": 60, "weights": 60}


@pytest.mark.parametrize("name", TARGETS)
def test_input_is_read_or_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    n_cases = N_CASES.get(name, 150)
    assert TARGETS[name](str(tmp_path), n_cases, True) >= 0.9 * n_cases

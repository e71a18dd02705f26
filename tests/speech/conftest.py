"""Features and labels that the authors' code gave for utterances of the sample."""

import os

import numpy as np
import pytest


@pytest.fixture(scope="session")
def recorded(golden):
    with np.load(os.path.join(golden, "preprocessing.npz")) as file:
        return dict(file)

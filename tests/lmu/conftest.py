"""What the tests of several modules of the LMU start from; none of them changes it."""

import pytest
from small_layers import seed_small

from signals import speech_like


@pytest.fixture(scope="session")
def speech():
    """Twelve utterances [150 or 120 frames, 12 features]."""
    return speech_like(0, 12, lengths=(150, 120))


@pytest.fixture(scope="session")
def layer(speech):
    """Both directions of 40 regular and 10 adaptive neurons, seeded on it."""
    return seed_small(speech)

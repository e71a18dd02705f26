"""The learning rate of each iteration."""

from typing import NamedTuple

N_RAMP_ITERATIONS = 100


class Schedule(NamedTuple):
    """A ramp, then a decay every so often; iterations are counted from 0."""

    lr_init: float
    is_ramping: bool = False
    lr_decay_every: int = -1  # iterations; -1: no decay
    lr_decay: float = 0.3

    def rate(self, iteration):
        """Learning rate of an iteration.

        The ramp starts at 0, as the authors' does: the first step only fills Adam's moments.
        """
        rate = self.lr_init
        if self.is_ramping:
            rate *= min(iteration / (N_RAMP_ITERATIONS - 1), 1)
        if self.lr_decay_every > 0:
            rate *= self.lr_decay ** (iteration // self.lr_decay_every)
        return rate

"""The learning rate of each iteration."""

from typing import NamedTuple

from toolbox.command_line import UserError, check_off_or_positive, check_unread

N_RAMP_ITERATIONS = 100
KINDS = ("step", "linear")


class Schedule(NamedTuple):
    """A ramp, and then a decay: now and then, or linear; iterations are counted from 0.

    step    lr_init times lr_decay every `lr_decay_every` iterations (-1: never), or each time that
            another `lr_decay_share` of all iterations is done (0: never)
    linear  lr_init for the share `lr_hold` of all iterations, then down in a line to `lr_final`
            times it after the last
    """

    lr_init: float
    is_ramping: bool = False
    lr_decay_every: int = -1
    lr_decay: float = 0.3
    kind: str = "step"
    lr_hold: float = 0.5
    lr_final: float = 0.02
    lr_decay_share: float = 0.0

    def rate(self, iteration, n_iterations):
        """Learning rate of one of `n_iterations`.

        The ramp starts at 0, as the authors' does: the first step only fills Adam's moments.
        """
        rate = self.lr_init
        if self.is_ramping:
            rate *= min(iteration / (N_RAMP_ITERATIONS - 1), 1)
        if self.kind == "linear":
            n_held = self.lr_hold * n_iterations
            done = max(iteration - n_held, 0) / max(n_iterations - n_held, 1)
            return rate * (1 + (self.lr_final - 1) * min(done, 1))
        if self.lr_decay_every > 0:
            rate *= self.lr_decay ** (iteration // self.lr_decay_every)
        if self.lr_decay_share * n_iterations > 0:
            rate *= self.lr_decay ** (iteration // (self.lr_decay_share * n_iterations))
        return rate

    @classmethod
    def from_flags(cls, flag_values):
        return cls(
            flag_values.lr_init,
            flag_values.ramping_learning_rate,
            flag_values.lr_decay_every,
            flag_values.lr_decay,
            flag_values.lr_schedule,
            flag_values.lr_hold,
            flag_values.lr_final,
            getattr(flag_values, "lr_decay_share", 0.0),
        )


def define_flags(define):
    """Define the flags; `define` is a command_line.Definer."""
    define.float("lr_init", 0.01, "learning rate", 0)
    define.enum(
        "lr_schedule",
        "step",
        KINDS,
        "step: times lr_decay every lr_decay_every iterations; linear: held, then down in a line",
    )
    define.float("lr_hold", 0.5, "--lr_schedule=linear: share of the iterations at lr_init", 0, 1)
    define.float("lr_final", 0.02, "--lr_schedule=linear: factor of lr_init at the end", 0, 1)
    define.bool(
        "ramping_learning_rate",
        False,
        f"raise the learning rate from 0 to lr_init over {N_RAMP_ITERATIONS} iterations",
    )
    define.integer("lr_decay_every", -1, "iterations between learning-rate decays; -1: none")
    define.float("lr_decay", 0.3, "factor of a learning-rate decay", 0)


def check_flags(flag_values):
    """Raise UserError for values that cannot work, or that nothing would read."""
    check_off_or_positive(flag_values, "lr_decay_every")
    if flag_values.lr_schedule == "step":
        check_unread(flag_values, ("lr_hold", "lr_final"), "--lr_schedule=linear")
        return
    flag = flag_values["lr_decay_every"]
    if flag.value not in (-1, flag.default) and not flag_values.resume:
        raise UserError(
            f"--lr_decay_every={flag.value} with --lr_schedule=linear: the rate falls in a line; "
            "leave out one of the two"
        )

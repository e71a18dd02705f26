"""The flags of every training script, and what training makes of them."""

import dataclasses
import os

import eprop
from toolbox.command_line import UserError, check_finite
from training import schedule
from training.schedule import Schedule

# Flags that may stand beside --resume: what they say does not enter the result (the number of
# threads and the engine do so by rounding at most).
RESUME_FLAGS = (
    "dataset",
    "checkpoint_every_s",
    "n_threads",
    "cuda_device",
    "engine",
    "verbose",
    "plot",
)
MAX_INTEGER = 2**31 - 1


def define_flags(define):
    """Define the flags; `define` is a command_line.Definer."""
    define.enum(
        "eprop",
        None,
        [rule for rule in eprop.RULES if rule != "bptt"],
        "e-prop with this feedback from the readout to the neurons; absent: BPTT",
    )
    define.bool(
        "reference_quirks", False, "compute what the authors' code does, see docs/reference.md"
    )
    define.integer("seed", -1, "seed of all random numbers; -1: a new one", -1, MAX_INTEGER)
    define.integer("n_epochs", 80, "passes over the training set", 0)
    define.integer("batch", 32, "examples in a training batch", 1)
    define.integer("test_batch", 32, "examples in an evaluation batch", 1)
    define.integer("print_every", 100, "iterations between evaluations", 1)
    define.float(
        "input_noise_std",
        0.0,
        "standard deviation of Gaussian noise on the (normalised) training features",
        0,
    )
    define.bool("adam", True, "Adam, else gradient descent with momentum")
    schedule.define_flags(define)
    define.float("cell_lr_factor", 1.0, "factor of the learning rate for the layers' weights", 0)
    define.float("adam_epsilon", 1e-5, "Adam's epsilon", 0)
    define.float("momentum", 0.9, "momentum, and Adam's beta1", 0, 0.9999)
    define.float("l2", 1e-5, "weight of the sum of squared weights in the loss", 0)
    define.float(
        "readout_decay",
        1e-2,
        "adaptive e-prop: share of readout and feedback weights lost an iteration",
        0,
        1,
    )
    define.float(
        "grad_clip", 0.0, "largest global norm of the gradients, before the optimiser; 0: any", 0
    )
    define.float("gd_noise", 0.036, "standard deviation of the gradient noise", 0)
    define.integer("noise_step_start", -1, "iteration at which it starts; -1: never", -1)
    define.enum(
        "readout_init",
        "random",
        ["random", "ridge"],
        "first readout: random, or fitted to the training set by ridge regression",
    )
    define.path("checkpoint", "", "start from these weights: .npz or run folder")
    define.path(
        "resume",
        "",
        "run folder: continue the interrupted run there with its own flags; beside this flag only "
        f"{', '.join(RESUME_FLAGS)} may be given",
    )
    define.float(
        "checkpoint_every_s",
        120.0,
        "seconds between checkpoints for --resume, beside those at every evaluation",
        0,
    )
    define.path("results", "results", "folder of the run folders")
    define.string("comment", "", "goes into the run folder's name")
    define.string("run_id", "", "goes into the run folder's name")
    define.bool("plot", False, "draw the figures at every evaluation too")
    define.bool("verbose", True, "print losses and firing rates in detail")
    define.integer("cuda_device", -1, "sets CUDA_VISIBLE_DEVICES; -1: leaves it", -1)
    define.integer(
        "n_threads",
        0,
        "CPU threads; 0: NUMBA_NUM_THREADS, OMP_NUM_THREADS, or all the process may use",
        0,
    )


def check_flags(flag_values):
    """Raise UserError for values that their types and bounds let pass and that cannot work."""
    schedule.check_flags(flag_values)
    check_finite(flag_values)
    for name, value in flag_values.flag_values_dict().items():
        if isinstance(value, int) and value > MAX_INTEGER:
            raise UserError(f"--{name}={value}: expected {MAX_INTEGER} at most")
    if flag_values.seed == -1 and "TF_CONFIG" in os.environ:
        raise UserError("--seed=-1 with TF_CONFIG: each process would draw its own: give a --seed")
    for name in ("comment", "run_id"):
        if os.path.basename(getattr(flag_values, name)) != getattr(flag_values, name):
            raise UserError(f"--{name}={getattr(flag_values, name)}: expected part of a file name")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained; but for `schedule`, fields are the flags of that name."""

    n_epochs: int
    batch: int
    test_batch: int
    print_every: int
    checkpoint_every_s: float
    plot: bool
    verbose: bool
    optimizer: str
    momentum: float
    adam_epsilon: float
    cell_lr_factor: float
    readout_decay: float
    input_noise_std: float
    grad_clip: float
    gd_noise: float
    noise_step_start: int
    schedule: Schedule

    @classmethod
    def from_flags(cls, flag_values):
        names = [f.name for f in dataclasses.fields(cls) if hasattr(flag_values, f.name)]
        settings = {name: getattr(flag_values, name) for name in names}
        if "optimizer" not in settings:
            settings["optimizer"] = "adam" if flag_values.adam else "sgd"
        return cls(**settings, schedule=Schedule.from_flags(flag_values))

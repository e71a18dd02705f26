"""The flags of the LMU's construction, for `lmu_init.py` and for training."""

from lmu import legendre, matched
from lmu.matched import LmuSettings
from lmu.seeding import n_of_lmu
from toolbox import command_line
from toolbox.command_line import UserError

MOST_TAU_STEPS = 1e9  # of a Nengo neuron: 1 - exp(-1 step / tau) has the digits of float32 then
NEURONS_PER_DIMENSION = 16  # of the state; with fewer, decoding noise swamps the memory
LMU_FLAGS = tuple(name for name in LmuSettings._fields if name != "n_static")


def define_flags(define):
    """Define the flags of the construction; `define` is a command_line.Definer."""
    define.float("theta_ms", 100.0, "LMU: window of the memory, ms of speech")
    define.integer("order", 4, "LMU: order, state variables a channel", 1)
    define.integer("n_channels", 4, "LMU: signals that are remembered", 1)
    define.string(
        "channels",
        "pca",
        "LMU: which signals: pca (of the static features), random (projections of them), or a list "
        "of columns such as 0,1,2,3",
    )
    define.float("lmu_fraction", 1.0, "LMU: share of the neurons in it, the rest random", 0, 1)
    define.float("gain_min", 0.7, "LMU: smallest gain, thresholds a deviation", 0)
    define.float("gain_max", 2.5, "LMU: largest gain, thresholds a deviation", 0)
    define.float("drive_std", 2.0, "LMU: deviation of the drive by all features, thresholds", 0)
    define.integer("refits", 1, "LMU: times the decoders are solved in the loop", 0)
    define.enum(
        "method",
        "matched",
        matched.METHODS,
        "LMU: decoders from the spikes of these neurons, or from a Nengo network",
    )


def check_flags(flag_values, say=print):
    """Refuse flags of `define_flags` (and `n_regular`) that cannot work; warn of poor ones.

    Raises:
        UserError
    """
    command_line.check_finite(flag_values)
    if flag_values.theta_ms < legendre.FRAME_MS:
        raise UserError(
            f"--theta_ms={flag_values.theta_ms:g}: expected at least a frame, "
            f"{legendre.FRAME_MS:g} ms of speech"
        )
    if flag_values.gain_max < flag_values.gain_min:
        raise UserError(
            f"--gain_max={flag_values.gain_max:g}: expected at least --gain_min="
            f"{flag_values.gain_min:g}"
        )
    if flag_values.gain_max == 0:
        raise UserError("--gain_max=0: expected above 0, else no neuron is in the memory")
    if not flag_values.n_regular:
        raise UserError(
            "--n_regular=0 with the LMU: its loop is of regular neurons, as adaptation would bend "
            "what it holds; leave out one of the two"
        )
    n_lmu = n_of_lmu(flag_values.n_regular, flag_values.lmu_fraction)
    dimensions = flag_values.order * flag_values.n_channels
    sizes = (
        f"--order={flag_values.order} times --n_channels={flag_values.n_channels} are {dimensions} "
        f"state variables for the LMU's {n_lmu} regular neurons"
    )
    if dimensions >= n_lmu:
        raise UserError(f"{sizes}: expected fewer than neurons (--n_regular, --lmu_fraction)")
    if dimensions * NEURONS_PER_DIMENSION > n_lmu:
        say(
            f"warning: {sizes}: with fewer than {NEURONS_PER_DIMENSION} neurons each the memory "
            "is noisy"
        )
    if flag_values.method == "nengo":
        _check_time_constants(flag_values)


def _check_time_constants(flag_values):
    """Raise UserError for time constants of which Nengo's neurons cannot be made or simulated.

    Their adaptation takes Euler steps, which grow beyond all bounds when it is much faster than a
    step; a membrane that forgets within a step is left nothing in float64.
    """
    names = ["tau_v"]
    if n_of_lmu(flag_values.n_adaptive, flag_values.lmu_fraction):
        names.append("tau_a")
    dt = flag_values.dt
    for name in names:
        value = getattr(flag_values, name)
        if not dt <= value <= MOST_TAU_STEPS * dt:
            raise UserError(
                f"--{name}={value} with --method=nengo: expected at least a step, {dt:g} ms "
                f"(--dt), and at most {MOST_TAU_STEPS:g} steps: give another --{name} or "
                "--method=matched"
            )


def settings_from_flags(flag_values, n_static):
    """`LmuSettings` that the flags describe, for features of which `n_static` are no differences.

    Raises:
        UserError: channels that the features do not have.
    """
    settings = LmuSettings(n_static, **{name: getattr(flag_values, name) for name in LMU_FLAGS})
    if settings.n_channels > n_static:
        raise UserError(
            f"--n_channels={settings.n_channels}: expected at most {n_static}, the number of "
            "features that are no differences"
        )
    if settings.channels not in matched.NAMED_CHANNELS:
        matched.list_of_channels(settings)
    return settings

"""What every script of the project does with its command line: flags, errors, exit status.

A user's mistake is raised as `UserError` anywhere in the code and ends as one line on stderr and
exit status 2, without a traceback. Flags are absl flags, defined by a function of the script on a
`FlagValues` of its own, so that two scripts can be imported side by side, and never changed after
parsing.
"""

import importlib
import math
import os
import sys
import tempfile

from absl import flags
from tqdm import tqdm

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # what a shell reports after Ctrl-C


class UserError(Exception):
    """A mistake that the user can mend; the message says what was found, expected, and to do."""


def parse_flags(define_flags, argv, n_positional=0):
    """Parse a command line.

    Args:
        define_flags: function that defines flags on the `absl.flags.FlagValues` it is given.
        argv: the command line, program name first.
        n_positional: how many arguments that are no flags are allowed (-1: any number).

    Returns:
        (flag values, list of positional arguments).

    Raises:
        UserError: unknown flag, wrong value, or more positional arguments than allowed.
    """
    flag_values = flags.FlagValues()
    flags.DEFINE_bool(
        "help", False, "show this help and exit", short_name="h", flag_values=flag_values
    )
    define_flags(flag_values)
    try:
        positional = flag_values(argv)[1:]
    except flags.Error as error:
        raise UserError(f"{' '.join(str(error).split())} (--help lists all flags)") from None
    # absl takes `--adam False` as a switched-on flag and a leftover word; silence here would
    # train with Adam although the user asked for the opposite.
    if n_positional >= 0 and len(positional) > n_positional:
        raise UserError(
            f"unexpected argument '{positional[n_positional]}': give values as --flag=value"
        )
    return flag_values, positional


def check_finite(flag_values):
    """Raise UserError for a flag that is NaN or infinite, which its bounds let pass."""
    for name, value in flag_values.flag_values_dict().items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{name}={value}: expected a finite number")


def run(main, define_flags, description, argv=None, n_positional=0):
    """Run a script's `main(flags, *positional)` and exit with its status.

    Exit status: what `main` returns (None is 0); 2 after a `UserError`; 130 after Ctrl-C.
    """
    argv = sys.argv if argv is None else argv
    script = os.path.basename(argv[0])
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # a log file shows each line as it comes
    try:
        flag_values, positional = parse_flags(define_flags, argv, n_positional)
        if flag_values.help:
            print(f"{description.strip()}\n\nFlags:\n{flag_values.get_help()}")
            sys.exit(0)
        sys.exit(main(flag_values, *positional))
    except UserError as error:
        print(f"{script}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        print(f"{script}: interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def available_cores():
    """Number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def progress_bar(iterable=None, **options):
    """A tqdm bar on a terminal; nothing in a log file or a pipe, where plain lines serve."""
    return tqdm(iterable, disable=not sys.stderr.isatty(), dynamic_ncols=True, **options)


def import_tensorflow():
    """Import TensorFlow without its greetings on stderr, which no setting of its own silences.

    Whatever it wrote is shown after all if the import fails. To be called before any other module
    imports TensorFlow.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as greetings:
        os.dup2(greetings.fileno(), 2)
        try:
            importlib.import_module("tensorflow")
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)
        except BaseException:
            greetings.seek(0)
            os.write(stderr, greetings.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)

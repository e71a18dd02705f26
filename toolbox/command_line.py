"""What every script of the project does with its command line: flags, errors, exit status.

A user's mistake is raised as `UserError` anywhere in the code and ends as one line on stderr and
exit status 2, without a traceback. Flags are absl flags, defined by a function of the script on a
`FlagValues` of its own, so that two scripts can be imported side by side, and never changed after
parsing.
"""

import contextlib
import ctypes
import functools
import importlib
import math
import os
import signal
import sys
import tempfile
import threading

try:
    from absl import flags
    from tqdm import tqdm
except ModuleNotFoundError as error:
    print(
        f"error: {error.name} is not installed for {sys.executable}: run `make setup` once, then "
        "`source .venv/bin/activate` in every shell",
        file=sys.stderr,
    )
    sys.exit(2)

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # what a shell reports after Ctrl-C
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What Keras imports where it finds it, and nothing here asks of Keras: a tenth of a gigabyte, and
# seconds.
KERAS_EXTRAS = ("matplotlib", "pandas", "sklearn")
M_ARENA_MAX = -8  # of glibc's malloc.h
FEW_CORES = 4  # whose threads hardly wait for each other's allocations

flags.disclaim_key_flags()  # --help lists flags defined here under the module that asked for them


class UserError(Exception):
    """A mistake that the user can mend; the message says what was found, expected, and to do."""


class Interrupted(KeyboardInterrupt):
    """A signal asks the process to end; the message, if any, says how its work can go on."""

    def __init__(self, signal_number, message="", is_urgent=False):
        super().__init__(message)
        self.signal_number = signal_number
        self.is_urgent = is_urgent  # work is half done, see `deferred_signals`


class PathParser(flags.ArgumentParser):
    """Parses a flag that names a file or folder: ~ is the home folder, however it was quoted."""

    syntactic_help = "a path"

    def parse(self, argument):
        path = os.path.expanduser(argument)
        if path.startswith("~"):
            raise ValueError(
                "there is no such home folder: write ./~ for a name that begins with ~"
            )
        return path


def define_path(name, default, help_text, flag_values, many=False):
    """Define a flag that names a file or folder, or, given again and again, many of them."""
    (flags.DEFINE_multi if many else flags.DEFINE)(
        PathParser(),
        name=name,
        default=default,
        help=help_text,
        flag_values=flag_values,
        serializer=flags.ArgumentSerializer(),
    )


def check_output_file(flag_values, name, suffix=""):
    """Make sure, before the work, that the file of a flag can be written; an empty one is not.

    Raises:
        UserError: no name of a file with this suffix, or its folder is missing or read-only.
    """
    path = flag_values[name].value
    if not path:
        return
    folder = os.path.dirname(path) or "."
    if not path.endswith(suffix) or os.path.isdir(path):
        raise UserError(f"--{name}={path}: expected the name of a {suffix or 'new'} file")
    if not os.path.isdir(folder):
        raise UserError(f"--{name}={path}: there is no folder {folder}: make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--{name}={path}: cannot write to the folder {folder}: choose another")


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
    for argument in argv[1:]:
        # absl has these in every program: one reads flags from any file, the other has wrong
        # flags ignored.
        if argument.lstrip("-").split("=")[0] in ("flagfile", "undefok") and argument[0] == "-":
            raise UserError(f"Unknown command line flag '{argument}' (--help lists all flags)")
    flag_values = flags.FlagValues()
    flags.DEFINE_bool(
        "help", False, "show this help and exit", short_name="h", flag_values=flag_values
    )
    define_flags(flag_values)
    try:
        positional = [os.path.expanduser(argument) for argument in flag_values(argv)[1:]]
    except flags.Error as error:
        raise UserError(f"{' '.join(str(error).split())} (--help lists all flags)") from None
    # absl takes `--adam False` as a switched-on flag and a leftover word; silence here would
    # train with Adam although the user asked for the opposite.
    if n_positional >= 0 and len(positional) > n_positional:
        raise UserError(
            f"unexpected argument '{positional[n_positional]}': give values as --flag=value"
        )
    return flag_values, positional


class Definer:
    """Defines flags on one `FlagValues`, such as `define.integer("batch", 32, "utterances", 1)`.

    Its methods are absl's DEFINE functions bool, integer, float, string, enum, list, and
    `define_path` as path.

    Args:
        flag_values: absl.flags.FlagValues.
        left_out: names of flags that a script does not have.
        defaults: of flags whose default differs in this script.
    """

    def __init__(self, flag_values, left_out=(), **defaults):
        functions = {
            kind: getattr(flags, f"DEFINE_{kind}")
            for kind in ("bool", "integer", "float", "string", "enum", "list")
        }
        for kind, function in (functions | {"path": define_path}).items():
            setattr(self, kind, functools.partial(self._define, function))
        self._flag_values, self._left_out, self._defaults = flag_values, left_out, defaults

    def _define(self, function, name, default, *details, **options):
        if name not in self._left_out:
            default = self._defaults.get(name, default)
            function(name, default, *details, flag_values=self._flag_values, **options)


def check_finite(flag_values):
    """Raise UserError for a flag that is NaN or infinite, which its bounds let pass."""
    for name, value in flag_values.flag_values_dict().items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{name}={value}: expected a finite number")


def check_off_or_positive(flag_values, name):
    """Raise UserError unless a flag is -1, which switches it off, or 1 at least."""
    value = getattr(flag_values, name)
    if value != -1 and value < 1:
        raise UserError(f"--{name}={value}: expected -1 (off) or at least 1")


def check_unread(flag_values, names, needed):
    """Raise UserError if one of the flags that nothing reads without another one was given.

    Its default is no mistake, and a run that is resumed goes on with the flags it began with.

    Args:
        names: of the flags.
        needed: the flag that is missing, for a reader.
    """
    for name in names:
        flag = flag_values[name]
        if flag.value != flag.default and not flag_values.resume:
            raise UserError(
                f"--{name}={flag.value} without {needed}: nothing would read it; give {needed} "
                f"too, or leave out --{name}"
            )


def run(main, define_flags, description, argv=None, n_positional=0):
    """Run a script's `main(flags, *positional)` and exit with its status.

    Exit status: what `main` returns (None is 0); 2 after a `UserError` or for want of memory; 130
    after Ctrl-C, 143 after SIGTERM, 141 when nobody reads the output any more.
    """
    argv = sys.argv if argv is None else argv
    script = os.path.basename(argv[0])
    if hasattr(sys.stdout, "reconfigure"):
        # A log file shows each line as it comes; a file name that is no text stops nothing.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        with signals_raise(), contextlib.redirect_stdout(sys.stdout and _Output(sys.stdout)):
            flag_values, positional = parse_flags(define_flags, argv, n_positional)
            if flag_values.help:
                print(
                    f"{description.strip()}\n\nFlags:\n{flag_values.get_help(include_special_flags=False)}"
                )
                sys.exit(0)
            sys.exit(main(flag_values, *positional))
    except UserError as error:
        print(f"{script}: error: {one_line(str(error))}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except MemoryError as error:
        print(
            f"{script}: error: not enough memory ({one_line(str(error))}): choose smaller sizes or "
            "batches",
            file=sys.stderr,
        )
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt as error:
        number = getattr(error, "signal_number", signal.SIGINT)
        if number != signal.SIGPIPE:
            message = one_line(str(error))
            print(f"{script}: interrupted{message and f': {message}'}", file=sys.stderr)
        sys.exit(128 + number)


class _Output:
    """stdout; that its reader goes away, as `head` does, ends the script as a signal would."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        return self._or_end(self.stream.write, text)

    def flush(self):
        return self._or_end(self.stream.flush)

    def _or_end(self, function, *arguments):
        try:
            return function(*arguments)
        except BrokenPipeError:
            with open(os.devnull, "w") as nowhere:  # else Python would complain when it ends
                os.dup2(nowhere.fileno(), self.stream.fileno())
            raise Interrupted(signal.SIGPIPE, is_urgent=True) from None


def one_line(text):
    """A text as one line in which nothing can steer a terminal: it may come from foreign files."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


@contextlib.contextmanager
def signals_raise():
    """Ctrl-C and SIGTERM raise `Interrupted` in the block, so that what has to end well does."""

    def handle(signal_number, _):
        raise Interrupted(signal_number)

    with signal_handler(handle):
        yield


@contextlib.contextmanager
def deferred_signals():
    """Have Ctrl-C and SIGTERM wait for a moment at which work can be interrupted.

    Gives a function to call at such moments, which raises `Interrupted` if a signal has come. A
    second signal is urgent and raises at once.
    """
    received = []

    def handle(signal_number, _):
        received.append(signal_number)
        if len(received) > 1:
            raise Interrupted(signal_number, is_urgent=True)

    def raise_if_received():
        if received:
            raise Interrupted(received[0])

    with signal_handler(handle):
        yield raise_if_received


@contextlib.contextmanager
def signal_handler(handler):
    """Have a function (signal number, frame) handle Ctrl-C and SIGTERM in the block.

    A signal that the process was started to ignore stays ignored; in a thread other than the main
    one, which gets no signals, nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number in SIGNALS:
            signal.signal(number, before[number])


def available_cores():
    """Number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def progress_bar(iterable=None, **options):
    """A tqdm bar on a terminal; nothing in a log file or a pipe, where plain lines serve."""
    return tqdm(iterable, disable=not sys.stderr.isatty(), dynamic_ncols=True, **options)


def share_one_heap():
    """Let all threads of few cores allocate from one heap, where the C library is glibc.

    Else each has its own, which keeps what it once freed from the others; only arrays above 32 MB are
    in none. A user's MALLOC_ARENA_MAX stays.
    """
    if available_cores() <= FEW_CORES and "MALLOC_ARENA_MAX" not in os.environ:
        with contextlib.suppress(AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def import_tensorflow():
    """Import TensorFlow without its greetings on stderr, which no setting of its own silences,
    without TensorFloat-32 and `KERAS_EXTRAS`, and with one heap for few cores.

    Whatever it wrote is shown after all if the import fails. To be called before any other module
    imports TensorFlow.
    """
    share_one_heap()
    hidden = [name for name in KERAS_EXTRAS if name not in sys.modules]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as greetings:
        os.dup2(greetings.fileno(), 2)
        try:
            sys.modules.update(dict.fromkeys(hidden))  # as if they were not installed
            tensorflow = importlib.import_module("tensorflow")
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)
        except BaseException:
            greetings.seek(0)
            os.write(stderr, greetings.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            for name in hidden:
                sys.modules.pop(name, None)
    # It rounds factors to 10 bits on the GPUs that have it, and so changes spikes.
    tensorflow.config.experimental.enable_tensor_float_32_execution(False)

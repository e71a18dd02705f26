"""What the benchmark scripts share, without TensorFlow: flags, processes, tables, the machine.

Each measurement runs in a process of its own, so that its peak memory is its own. Linux hands the
peak of the starting process down to the started one: the scripts themselves therefore import
neither TensorFlow nor Numba, and the functions they run in a child import them there.
"""

import concurrent.futures.process
import importlib.metadata
import multiprocessing
import os
import platform
import sys

from absl import flags

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, REPOSITORY)

from toolbox import command_line  # noqa: E402

ENGINES = {"lsnn": ("event", "dense"), "lstm": ("fused", "dense", "keras")}
MODELS = tuple(ENGINES)
RULES = ("symmetric", "random", "adaptive", "bptt")


class _CommaList(flags.ArgumentParser):
    """Parser of a flag with several values, such as `--rule=symmetric,bptt`."""

    def __init__(self, item_parser):
        super().__init__()
        self._item_parser = item_parser
        choices = getattr(item_parser, "enum_values", None)
        item_help = "|".join(choices) if choices else item_parser.syntactic_help
        self.syntactic_help = f"comma-separated; each {item_help}"

    def parse(self, argument):
        items = argument.split(",") if isinstance(argument, str) else argument
        return [self._item_parser.parse(item) for item in items]

    def flag_type(self):
        return f"list of {self._item_parser.flag_type()}"


def define_list(name, default, help_line, item_parser, flag_values):
    """Define a flag that is a list, given with commas; its items are what `item_parser` parses."""
    flags.DEFINE(
        _CommaList(item_parser),
        name,
        default,
        help_line,
        flag_values=flag_values,
        serializer=flags.ListSerializer(","),
    )


def define_threads(flag_values):
    """Define `--n_threads`, as the training scripts have it."""
    flags.DEFINE_integer(
        "n_threads",
        0,
        "CPU threads; 0: as the training scripts choose",
        lower_bound=0,
        flag_values=flag_values,
    )


def define_step_flags(flag_values):
    """Define the flags that the scripts which time single steps have in common."""
    both = {"flag_values": flag_values}
    flags.DEFINE_integer("n_features", 39, "input features", 1, **both)
    flags.DEFINE_integer("n_classes", 39, "phone classes", 1, **both)
    flags.DEFINE_integer("n_repeat", 5, "LSNN: simulated steps a frame", 1, **both)
    flags.DEFINE_integer("repeats", 5, "timed steps a measurement, after the warm-up", 1, **both)
    flags.DEFINE_integer("seed", 1, "seed of weights and features", 0, **both)
    command_line.define_path("json", "", "also write the results to this file", flag_values)


def in_child(function, *arguments):
    """`function(*arguments)`, run in a new process that does only this, on the CPU.

    What it prints goes to stderr: stdout is for the results.

    Raises:
        UserError: the process was killed, or whatever else the function raised.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, _prepare_child) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except concurrent.futures.process.BrokenProcessPool:
            raise command_line.UserError(
                "a measuring process was killed, for want of memory perhaps: choose smaller sizes"
            ) from None


def _prepare_child():
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    sys.stdout = sys.stderr


def machine():
    """What the results depend on beside the code, as a dict."""
    if hasattr(os, "sched_getaffinity"):
        n_cores = len(os.sched_getaffinity(0))
    else:
        n_cores = os.cpu_count()
    installed = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
    packages = ("tensorflow", "tensorflow-cpu", "tensorflow_cpu", "numpy", "numba")
    return {
        "processor": _processor(),
        "cores": n_cores,
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages if name in installed},
        "load_at_start": os.getloadavg()[0],  # processes that wanted a core in the last minute
    }


def _processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    except FileNotFoundError:  # not Linux
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def machine_line(facts):
    """The content of `machine()` in a sentence."""
    versions = ", ".join(
        f"{name} {version}"
        for name, version in facts.items()
        if name not in ("processor", "cores", "memory_gb", "system", "load_at_start")
    )
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gb']:.0f} GB; "
        f"{facts['system']}; {versions}; load at the start {facts['load_at_start']:.1f}."
    )


def markdown_table(header, rows):
    """A Markdown table of strings."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def progress(iterable, n):
    """A bar over measurements."""
    return command_line.progress_bar(iterable, total=n, unit="measurement")

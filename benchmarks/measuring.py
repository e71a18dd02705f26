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
import time
from typing import NamedTuple

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


class Definer(command_line.Definer):
    """With `many`, of a list given with commas, and the flags that several benchmarks have."""

    def many(self, name, default, help_line, items):
        """Define a list of some names, or of numbers of an absl parser."""
        parser = items if isinstance(items, flags.ArgumentParser) else flags.EnumParser(list(items))
        flags.DEFINE(
            _CommaList(parser),
            name,
            default,
            help_line,
            flag_values=self._flag_values,
            serializer=flags.ListSerializer(","),
        )

    def network_flags(self):
        """Define sizes of the networks, batch and threads, as the training scripts have them."""
        self.integer("n_regular", 300, "LSNN: regular neurons per direction", 0)
        self.integer("n_adaptive", 100, "LSNN: adaptive neurons per direction", 0)
        self.integer("n_lstm", 200, "LSTM: cells per direction", 1)
        self.integer("batch", 32, "utterances in a batch", 1)
        self.integer("n_threads", 0, "CPU threads; 0: as the training scripts choose", 0)

    def step_flags(self):
        """Define the flags that the scripts which time single steps have in common."""
        self.integer("n_features", 39, "input features", 1)
        self.integer("n_classes", 39, "phone classes", 1)
        self.integer("n_repeat", 5, "LSNN: simulated steps a frame", 1)
        self.integer("repeats", 5, "timed steps a measurement, after the warm-up", 1)
        self.integer("seed", 1, "seed of weights and features", 0)
        self.path("json", "", "also write the results to this file")


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


class Span(NamedTuple):
    """A call that was timed."""

    start: float
    end: float
    result: object  # None unless kept

    @property
    def seconds(self):
        return self.end - self.start


def timed(function, spans, keep_results=False):
    """`function`, noting a `Span` of each call.

    Results are kept where asked only: those of the engine are most of the memory of a step.
    """

    def timed_function(*arguments, **keywords):
        start = time.perf_counter()
        result = function(*arguments, **keywords)
        spans.append(Span(start, time.perf_counter(), result if keep_results else None))
        return result

    return timed_function


def timed_engines():
    """Spans of all passes of the CPU's own engines from now on, two lists: forward, backward."""
    from layers import event_driven, fused_lstm

    forward, backward = [], []
    for engine in (event_driven, fused_lstm):
        engine.forward = timed(engine.forward, forward)
        engine.backward = timed(engine.backward, backward)
    return forward, backward


def machine():
    """What the results depend on beside the code, as a dict."""
    installed = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
    packages = ("tensorflow", "tensorflow-cpu", "tensorflow_cpu", "numpy", "numba")
    return {
        "processor": _processor(),
        "cores": command_line.available_cores(),
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

"""Plans of runs: which training script is run with which flags and seeds, read from JSON.

    {
      "name": "starts",                          the folder's runs belong to the plan of this name
      "comment": "what is asked; 20 runs, 10 minutes on two cores",
      "based_on": "other.json",                  optional: what is not said here is said there
                                                 (of flags and search, each entry)
      "script": "solve_timit_with_framewise_lsnn.py",
      "flags": {"batch": 8, "n_epochs": 30},     of every run; null: the script's default
      "grid": {                                  every combination of the axes' points
        "start": {"scaled": {}, "full": {"weight_scale": 1}},     flags by label, or
        "eprop": [null, "symmetric"]                              values of one flag
      },
      "list": [{"name": "fast", "flags": {"lr_init": 0.03}}],     one more axis, named "case"
      "seeds": [1, 2, 3, 4, 5],
      "baseline": {"start": "scaled"},           others are compared with it, all else equal;
                                                 or a list of baselines
      "reach_error": 0.42,                       optional, else the mean late error of the first
                                             baseline's runs
      "choose": "lr_init",                       axis whose best point the report names
      "search": {                                see explore_parameters.py search
        "n_trials": 40,
        "ranges": {
          "lr_init": {"low": 0.001, "high": 0.1, "log": true},
          "n_repeat": {"low": 2, "high": 8, "step": 2},
          "eprop": {"choices": ["symmetric", "random"]}
        },
        "n_startup_trials": 5,                   unpruned; and no trial is pruned before
        "n_warmup_iterations": 100
      }
    }

A run is its script, flags and seed: a digest of them ends the names of its folder, record and log,
so that an edited plan finds the runs that it still has in common with what was run before.
"""

import dataclasses
import glob
import hashlib
import itertools
import json
import keyword
import math
import os
import re
from typing import NamedTuple

from toolbox.command_line import UserError

PLAN_FILE = "plan.json"  # of an experiment's folder
SCRIPTS_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPTS = sorted(glob.glob("solve_*.py", root_dir=SCRIPTS_FOLDER))
# What the starting process decides itself for every run.
_OWN_FLAGS = ("seed", "results", "comment", "run_id", "resume", "cuda_device", "n_threads")
# Parameters that pytry keeps for itself, or that are recorded of every run.
_RESERVED = (
    *("seed", "script", "verbose", "data_dir", "data_filename", "data_format", "run_folder"),
    *("metric", "iterations", "started", "hours"),
)
_SEARCH_DEFAULTS = {"n_startup_trials": 5, "n_warmup_iterations": 0}
_ENTRIES = {
    *("name", "comment", "script", "flags", "grid", "list", "seeds"),
    *("baseline", "reach_error", "choose", "search"),
}
_LABEL_LENGTH = 140  # a file name may have 255 bytes


class RunSettings(NamedTuple):
    """One run of a plan."""

    script: str  # file name
    labels: dict  # axis -> label of the run's point on it
    flags: dict  # flag -> value; None: the script's default
    seed: int

    @property
    def digest(self):
        """Ten hexadecimal digits that stand for script, flags and seed; 1 and 1.0 are the same."""
        flags = {
            name: int(v) if isinstance(v, float) and v.is_integer() else v
            for name, v in self.flags.items()
            if v is not None
        }
        text = json.dumps([self.script, flags, self.seed], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def name(self):
        """Part of a file name that tells a reader which run it is."""
        labels = "_".join(f"{axis}={label}" for axis, label in self.labels.items())
        labels = re.sub(r"[^A-Za-z0-9.=+_-]+", "-", labels)[:_LABEL_LENGTH]
        return "_".join(part for part in (labels, f"seed={self.seed}", self.digest) if part)

    @property
    def arguments(self):
        """The script's arguments for these flags and this seed."""
        given = {**self.flags, "seed": self.seed}
        return [f"--{name}={_argument(v)}" for name, v in given.items() if v is not None]


def _argument(value):
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A plan as read; `content` is what the file says, with what it is based on."""

    name: str
    comment: str
    script: str
    flags: dict
    axes: dict  # axis -> {label: flags}
    seeds: list
    baselines: list  # of dicts axis -> label; may be empty
    reach_error: float | None
    choose: str | None
    search: dict | None
    content: dict

    def runs(self):
        """The `RunSettings` of all points and seeds; a point's seeds follow each other."""
        runs = []
        for labels in itertools.product(*self.axes.values()):
            point, flags = dict(zip(self.axes, labels)), dict(self.flags)
            for axis, label in point.items():
                flags.update(self.axes[axis][label])
            runs += [RunSettings(self.script, point, flags, seed) for seed in self.seeds]
        return runs

    def searched_runs(self, values):
        """The runs, one a seed, with values (flag -> value) of the search's ranges."""
        flags = {**self.flags, **values}
        labels = {name: shown(value) for name, value in values.items()}
        return [RunSettings(self.script, labels, flags, seed) for seed in self.seeds]


def shown(value):
    """A value of a search's range as a reader sees it."""
    return f"{value:.4g}" if isinstance(value, float) else value


def spoken(point):
    """A point of some axes (axis -> label) in words."""
    return ", ".join(f"{axis} '{label}'" for axis, label in point.items())


def read_plan(path):
    """Read and check a plan.

    Raises:
        UserError: no such file, no JSON, or not what the module's docstring describes.
    """
    content = _read_content(path, [])
    content.pop("based_on", None)

    def refuse(what):
        raise UserError(f"{path}: {what}")

    _check_entries(content, refuse)
    axes = _axes(content, refuse)
    choose, search = content.get("choose"), content.get("search")
    if choose is not None and choose not in list(axes):
        refuse(f"choose is {choose!r}: expected an axis of grid or list")
    if search is not None and axes:
        refuse("has both a search and grid or list: expected one of them")
    return Plan(
        name=content["name"],
        comment=str(content.get("comment", "")),
        script=content["script"],
        flags=_flags(content.get("flags", {}), "flags", refuse),
        axes=axes,
        seeds=content["seeds"],
        baselines=_baselines(content.get("baseline", []), axes, refuse),
        reach_error=content.get("reach_error"),
        choose=choose,
        search=None if search is None else _search(search, refuse),
        content=content,
    )


def _check_entries(content, refuse):
    """Check the entries of a plan that need no other."""
    unknown = sorted(set(content) - _ENTRIES)
    if unknown:
        refuse(f"unknown entry '{unknown[0]}': expected some of {', '.join(sorted(_ENTRIES))}")

    def is_name(name):
        return isinstance(name, str) and re.fullmatch(r"[\w.-]+", name)

    def is_seeds(seeds):
        is_list = isinstance(seeds, list) and all(type(seed) is int for seed in seeds)
        return is_list and seeds and min(seeds) >= 0 and len(set(seeds)) == len(seeds)

    for name, is_right, expected in (
        ("name", is_name, "letters, digits, '_', '-' and '.'"),
        ("script", lambda v: v in SCRIPTS, " or ".join(SCRIPTS)),
        ("seeds", is_seeds, "different whole numbers from 0 on"),
        ("reach_error", lambda v: v is None or _is_number(v) and 0 <= v <= 1, "a fraction"),
    ):
        if not is_right(content.get(name)):
            refuse(f"{name} is {content.get(name)!r}: expected {expected}")


def _read_content(path, readers):
    """A plan's entries over those of the plan it is based on; flags and search are joined."""
    if os.path.realpath(path) in readers:
        raise UserError(f"{path}: is based on itself")
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): expected a plan") from None
    except ValueError as error:
        raise UserError(f"{path}: is no JSON ({error}): expected a plan") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object")
    if "based_on" not in content:
        return content
    other = os.path.join(os.path.dirname(path), str(content["based_on"]))
    based_on = _read_content(other, [*readers, os.path.realpath(path)])
    for name in ("flags", "search"):
        parts = based_on.get(name), content.get(name)
        if all(isinstance(part, dict) for part in parts):
            content[name] = {**parts[0], **parts[1]}
    return {**based_on, **content}


def _axes(content, refuse):
    """The axes of a plan's grid and list."""
    grid, cases = content.get("grid", {}), content.get("list", [])
    if not isinstance(grid, dict) or not isinstance(cases, list):
        refuse("grid must be an object and list a list")
    axes = {}
    for axis, points in grid.items():
        if isinstance(points, list):
            points = {_label(value): {axis: value} for value in points}
        axes[axis] = points
    if cases:
        if "case" in axes:
            refuse("an axis of the grid is named 'case', as the list is: rename it")
        for case in cases:
            is_case = isinstance(case, dict) and set(case) <= {"name", "flags"}
            if not is_case or not isinstance(case.get("name"), str):
                refuse(f"list: {case!r}: expected name and flags")
        axes["case"] = {case["name"]: case.get("flags", {}) for case in cases}
        if len(axes["case"]) < len(cases):
            refuse("list: two cases have the same name")
    set_by = {}
    for axis, points in axes.items():
        if not _is_name(axis) or axis in _RESERVED:
            refuse(f"axis '{axis}': expected another name, of letters, digits and '_'")
        if not isinstance(points, dict) or not points:
            refuse(f"axis '{axis}': expected a list of values or an object of labels and flags")
        for label, flags in points.items():
            for flag in _flags(flags, f"{axis} '{label}'", refuse):
                if set_by.setdefault(flag, axis) != axis:
                    refuse(f"both {set_by[flag]} and {axis} set --{flag}")
                if flag in axes and flag != axis:
                    refuse(f"'{flag}' is an axis, and {axis} sets the flag of this name")
    return axes


def _baselines(baselines, axes, refuse):
    """A plan's baselines as a list of points, values of flags as the labels that they have."""
    baselines = baselines if isinstance(baselines, list) else [baselines]
    points = []
    for baseline in baselines:
        if not isinstance(baseline, dict) or not baseline:
            refuse("baseline: expected an object of axis and label, or a list of them")
        point = {
            axis: value if isinstance(value, (str, dict, list)) else _label(value)
            for axis, value in baseline.items()
        }
        for axis, label in point.items():
            if not isinstance(label, str) or label not in axes.get(axis, {}):
                known = ", ".join(axes.get(axis, axes))
                refuse(
                    f"baseline: there is no {axis} '{label}' in grid or list, expected one of {known}"
                )
        points.append(point)
    return points


def _label(value):
    return "default" if value is None else _argument(value)


def _is_name(text):
    return text.isidentifier() and not keyword.iskeyword(text)


def _flags(flags, place, refuse):
    """Check an object of flags; returns it."""
    if not isinstance(flags, dict):
        refuse(f"{place}: expected an object of flags and values")
    for name, value in flags.items():
        if name in _OWN_FLAGS or name in _RESERVED:
            refuse(f"{place}: --{name} is set for every run or means nothing in a plan")
        if not _is_name(name) or isinstance(value, dict):
            refuse(f"{place}: {name}={value!r}: expected a flag's name without -- and a value")
    return flags


def _search(search, refuse):
    """Check a plan's search; returns it with its defaults."""
    if not isinstance(search, dict):
        refuse("search: expected an object")
    unknown = sorted(set(search) - {"n_trials", "ranges", *_SEARCH_DEFAULTS})
    if unknown:
        refuse(f"search: unknown entry '{unknown[0]}'")
    search = {**_SEARCH_DEFAULTS, **search}
    for name, least in (("n_trials", 1), ("n_startup_trials", 0), ("n_warmup_iterations", 0)):
        if type(search.get(name)) is not int or search[name] < least:
            refuse(f"search: {name} is {search.get(name)!r}: expected a whole number >= {least}")
    ranges = search.get("ranges")
    if not isinstance(ranges, dict) or not ranges:
        refuse("search: expected ranges, an object of flags")
    _flags(dict.fromkeys(ranges), "search", refuse)
    for name, values in ranges.items():
        choices = isinstance(values, dict) and set(values) == {"choices"} and values["choices"]
        if not (isinstance(choices, list) and choices or _is_range(values)):
            refuse(
                f"search: {name} is {values!r}: expected choices, or low < high with log (and "
                "low > 0) or step"
            )
    return search


def _is_range(values):
    """Whether Optuna can draw from a range of a search."""
    if not isinstance(values, dict):
        return False
    low, high, step = values.get("low"), values.get("high"), values.get("step", 1)
    return (
        all(map(_is_number, (low, high, step)))
        and low < high
        and step > 0
        and set(values) <= {"low", "high", "log", "step"}
        and not (values.get("log") and ("step" in values or low <= 0))
        and not (type(low) is type(high) is int and type(step) is float)
    )


def _is_number(value):
    return type(value) in (int, float) and math.isfinite(value)

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
      "reach_error": 0.42,                       optional, else the (first) baseline's final error
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
import hashlib
import itertools
import json
import keyword
import math
import os
import re
from typing import NamedTuple

from toolbox.command_line import UserError

SCRIPTS = ("solve_timit_with_framewise_lsnn.py", "solve_timit_with_framewise_lstm.py")
# What the starting process decides itself for every run.
_OWN_FLAGS = ("seed", "results", "comment", "run_id", "resume", "cuda_device", "n_threads")
# Parameters that pytry keeps for itself, or that are recorded of every run.
_RESERVED = ("seed", "script", "verbose", "data_dir", "data_filename", "data_format", "run_folder")
_SEARCH_DEFAULTS = {"n_startup_trials": 5, "n_warmup_iterations": 0}
_LABEL_LENGTH = 140  # a file name may have 255 bytes


class RunSettings(NamedTuple):
    """One run of a plan."""

    script: str  # file name
    labels: dict  # axis -> label of the run's point on it
    flags: dict  # flag -> value; None: the script's default
    seed: int

    @property
    def digest(self):
        """Ten hexadecimal digits that stand for script, flags and seed."""
        flags = {name: _plain(v) for name, v in self.flags.items() if v is not None}
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


def _plain(value):
    """A value for comparison: JSON's 1 and 1.0 are the same setting."""
    is_whole = isinstance(value, float) and value.is_integer()
    return int(value) if is_whole else value


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
            flags = dict(self.flags)
            for (axis, points), label in zip(self.axes.items(), labels):
                flags.update(points[label])
            point = dict(zip(self.axes, labels))
            runs += [RunSettings(self.script, point, flags, seed) for seed in self.seeds]
        return runs

    def searched_runs(self, values):
        """The runs, one a seed, with values (flag -> value) of the search's ranges."""
        flags = {**self.flags, **values}
        labels = {name: f"{v:.4g}" if isinstance(v, float) else v for name, v in values.items()}
        return [RunSettings(self.script, labels, flags, seed) for seed in self.seeds]


def read_plan(path):
    """Read and check a plan.

    Raises:
        UserError: no such file, no JSON, or not what the module's docstring describes.
    """
    content = _read_content(path, [])
    content.pop("based_on", None)

    def refuse(what):
        raise UserError(f"{path}: {what}")

    known = {
        *("name", "comment", "script", "flags", "grid", "list", "seeds"),
        *("baseline", "reach_error", "choose", "search"),
    }
    unknown = sorted(set(content) - known)
    if unknown:
        refuse(f"unknown entry '{unknown[0]}': expected some of {', '.join(sorted(known))}")
    name = content.get("name")
    if not (isinstance(name, str) and re.fullmatch(r"[\w.-]+", name)):
        refuse(f"name is {name!r}: expected letters, digits, '_', '-' and '.'")
    if content.get("script") not in SCRIPTS:
        refuse(f"script is {content.get('script')!r}: expected {' or '.join(SCRIPTS)}")
    flags = _flags(content.get("flags", {}), "flags", refuse)
    seeds = content.get("seeds")
    is_seeds = isinstance(seeds, list) and seeds and all(type(s) is int and s >= 0 for s in seeds)
    if not is_seeds or len(set(seeds)) < len(seeds):
        refuse(f"seeds is {seeds!r}: expected different whole numbers from 0 on")
    axes = _axes(content, refuse)
    baselines = content.get("baseline", [])
    baselines = baselines if isinstance(baselines, list) else [baselines]
    baselines = [_labels(baseline) for baseline in baselines]
    for baseline in baselines:
        if not isinstance(baseline, dict) or not baseline:
            refuse("baseline: expected an object of axis and label, or a list of them")
        for axis, label in baseline.items():
            if not isinstance(label, str) or label not in axes.get(axis, {}):
                refuse(f"baseline: there is no {axis} '{label}' in grid or list")
    reach_error = content.get("reach_error")
    if reach_error is not None and not (
        type(reach_error) in (int, float) and 0 <= reach_error <= 1
    ):
        refuse(f"reach_error is {reach_error!r}: expected a fraction")
    choose = content.get("choose")
    if choose is not None and not (isinstance(choose, str) and choose in axes):
        refuse(f"choose is {choose!r}: expected an axis of grid or list")
    search = content.get("search")
    if search is not None:
        if axes:
            refuse("has both a search and grid or list: expected one of them")
        search = _search(search, refuse)
    return Plan(
        name=name,
        comment=str(content.get("comment", "")),
        script=content["script"],
        flags=flags,
        axes=axes,
        seeds=seeds,
        baselines=baselines,
        reach_error=reach_error,
        choose=choose,
        search=search,
        content=content,
    )


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


def _labels(point):
    """A point of axes as its file says it, values of flags as the labels that they have."""
    if not isinstance(point, dict):
        return point
    return {
        axis: value if isinstance(value, (str, dict, list)) else _label(value)
        for axis, value in point.items()
    }


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
    for name, values in _flags({name: None for name in ranges}, "search", refuse).items():
        values = ranges[name]
        if not isinstance(values, dict):
            refuse(f"search: {name}: expected an object")
        if set(values) == {"choices"}:
            is_right = isinstance(values["choices"], list) and values["choices"]
        else:
            is_right = _is_range(values)
        if not is_right:
            refuse(
                f"search: {name} is {values!r}: expected choices, or low < high with log (and "
                "low > 0) or step"
            )
    return search


def _is_range(values):
    """Whether Optuna can draw from a range of a search."""
    numbers = values.get("low"), values.get("high"), values.get("step", 1)
    if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        return False
    low, high, step = numbers
    is_whole = type(low) is type(high) is int
    return (
        low < high
        and step > 0
        and set(values) <= {"low", "high", "log", "step"}
        and not (values.get("log") and ("step" in values or low <= 0))
        and not (is_whole and type(step) is float)
    )

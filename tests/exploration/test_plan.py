"""Plans: which runs they describe, how runs are named, and what is refused."""

import csv
import glob
import importlib
import json
import os
import re

import pytest

from exploration.plan import read_plan
from helpers import REPOSITORY
from toolbox import command_line
from toolbox.command_line import UserError

LSNN = "solve_timit_with_framewise_lsnn.py"
EXPERIMENTS = os.path.join(REPOSITORY, "experiments")
PLAN_FILES = sorted(
    os.path.relpath(path, EXPERIMENTS)
    for path in glob.glob(os.path.join(EXPERIMENTS, "**", "*.json"), recursive=True)
)
RATES_OF = [  # a comparison, and the plan that chooses its learning rates
    ("lsnn_starts", "learning_rates_lsnn"),
    ("lsnn_unidirectional", "learning_rates_lsnn_unidirectional"),
    ("lstm_rules", "learning_rates_lstm"),
]


@pytest.fixture
def plan_of(tmp_path):
    """Function: the plan with these entries beside name, script and one seed."""

    def read(**entries):
        path = tmp_path / "plan.json"
        path.write_text(json.dumps({"name": "p", "script": LSNN, "seeds": [1], **entries}))
        return read_plan(str(path))

    return read


def test_grid_and_list_are_combined_and_every_point_has_all_seeds(plan_of):
    plan = plan_of(
        flags={"batch": 8, "reg": 50},
        grid={"start": {"small": {}, "full": {"weight_scale": 1}}, "eprop": [None, "random"]},
        list=[{"name": "a", "flags": {"lr_init": 0.001}}, {"name": "light", "flags": {"reg": 0}}],
        seeds=[3, 4],
    )
    runs = plan.runs()
    assert len(runs) == len({run.name for run in runs}) == 2 * 2 * 2 * 2
    assert runs[-2].labels == {"start": "full", "eprop": "random", "case": "light"}
    assert [run.seed for run in runs[-2:]] == [3, 4]
    assert runs[-1].flags == {"batch": 8, "reg": 0, "weight_scale": 1, "eprop": "random"}
    assert runs[-1].arguments == [
        *("--batch=8", "--reg=0", "--weight_scale=1", "--eprop=random", "--seed=4")
    ]
    assert "--eprop" not in " ".join(runs[0].arguments)  # null: the script's default
    assert runs[-1].name == f"start=full_eprop=random_case=light_seed=4_{runs[-1].digest}"


def test_a_digest_stands_for_script_flags_and_seed_alone(plan_of):
    def digests(**entries):
        return [run.digest for run in plan_of(**entries).runs()]

    (digest,) = digests(flags={"batch": 8, "lr_init": 0.01})
    # However the plan says it, the run is the same ...
    assert digests(grid={"lr_init": [0.01]}, flags={"batch": 8.0, "eprop": None}) == [digest]
    case = {"name": "x", "flags": {"batch": 8, "lr_init": 1e-2}}
    assert digests(name="q", list=[case]) == [digest]
    # ... and another with any other flag, seed or script.
    others = [
        *digests(flags={"batch": 8, "lr_init": 0.02}),
        *digests(flags={"batch": 8}),
        *digests(flags={"batch": 8, "lr_init": 0.01}, seeds=[2]),
        *digests(flags={"batch": 8, "lr_init": 0.01}, script=LSNN.replace("lsnn", "lstm")),
    ]
    assert len({digest, *others}) == 5


def test_names_are_parts_of_file_names_whatever_the_labels_hold(plan_of):
    labels = ["../up", "a*[b]?", "long " * 100]
    runs = plan_of(grid={"start": {label: {"reg": i} for i, label in enumerate(labels)}}).runs()
    for run in runs:
        assert re.fullmatch(r"[A-Za-z0-9.=+_-]{1,200}", run.name)
        assert run.name.endswith(run.digest) and os.path.basename(run.name) == run.name


def test_a_plan_is_based_on_another_one(plan_of, tmp_path):
    plan_of(flags={"batch": 8, "reg": 1}, grid={"tau_a": [100, 200]}, comment="first")
    (tmp_path / "more").mkdir()
    path = tmp_path / "more" / "full.json"
    path.write_text(
        json.dumps({"name": "full", "based_on": "../plan.json", "flags": {"batch": 32}})
    )
    plan = read_plan(str(path))
    assert (plan.name, plan.comment, plan.seeds) == ("full", "first", [1])
    assert [run.flags for run in plan.runs()] == [
        {"batch": 32, "reg": 1, "tau_a": tau_a} for tau_a in (100, 200)
    ]
    assert "based_on" not in plan.content
    path.write_text(json.dumps({"based_on": "full.json"}))
    with pytest.raises(UserError, match="based on itself"):
        read_plan(str(path))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"name": "a/b"}, "name is 'a/b'"),
        ({"script": "train.py"}, "script is 'train.py': expected solve_"),
        ({"seeds": [1, 1]}, "seeds is"),
        ({"seeds": [True]}, "seeds is"),
        ({"seeds": []}, "seeds is"),
        ({"grids": {}}, "unknown entry 'grids'"),
        ({"flags": {"seed": 3}}, "--seed is set for every run"),
        ({"flags": {"results": "x"}}, "--results is set for every run"),
        ({"flags": {"--batch": 3}}, "without --"),
        ({"grid": {"eprop": []}}, "axis 'eprop': expected a list of values"),
        ({"grid": {"a b": [1]}}, "axis 'a b'"),
        ({"grid": {"x": {"a": {"reg": 1}}, "z": {"b": {"reg": 2}}}}, "both x and z set --reg"),
        ({"grid": {"x": {"a": {"y": 1}}, "y": {"b": {}}}}, "'y' is an axis"),
        ({"list": [{"flags": {}}]}, "expected name and flags"),
        ({"list": [{"name": "fast", "flag": {"reg": 1}}]}, "expected name and flags"),
        ({"choose": ["x"]}, "choose is ['x']"),
        ({"grid": {"reg": [1]}, "baseline": {"reg": ["1"]}}, "there is no reg '['1']'"),
        (
            {"grid": {"reg": [1, 2]}, "baseline": {"reg": "3"}},
            "no reg '3' in grid or list, expected one of 1, 2",
        ),
        (
            {"grid": {"reg": [1]}, "baseline": {"lr": "1"}},
            "no lr '1' in grid or list, expected one of reg",
        ),
        ({"reach_error": 42}, "reach_error is 42"),
        ({"list": [{"name": "a"}, {"name": "a"}]}, "same name"),
        ({"grid": {"x": {"a": {}}}, "baseline": {"x": "b"}}, "no x 'b'"),
        ({"grid": {"x": {"a": {}}}, "baseline": [{}]}, "baseline"),
        ({"choose": "x"}, "choose is 'x'"),
        ({"reach_error": "low"}, "reach_error is 'low'"),
        ({"search": {"n_trials": 1}}, "expected ranges"),
        ({"search": {"n_trials": 0, "ranges": {"reg": {"choices": [1]}}}}, "n_trials is 0"),
        ({"search": {"n_trials": 1, "ranges": {"reg": {"low": 2, "high": 1}}}}, "low < high"),
        *(
            ({"search": {"n_trials": 1, "ranges": {"reg": bounds}}}, "low < high")
            for bounds in (
                {"low": 0, "high": 9, "step": 0},
                {"low": 0, "high": 9, "step": 0.5},
                {"low": 0, "high": 9, "step": "x"},
                {"low": 0, "high": float("inf")},
            )
        ),
        (
            {"search": {"n_trials": 1, "ranges": {"reg": {"low": 0, "high": 1, "log": True}}}},
            "low > 0",
        ),
        (
            {"search": {"n_trials": 1, "ranges": {"reg": {"choices": [1]}}}, "grid": {"thr": [1]}},
            "both a search and grid",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused_in_words(plan_of, tmp_path, entries, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        plan_of(**entries)
    assert str(tmp_path / "plan.json") in str(error.value)


def test_a_baseline_may_be_named_by_its_value(plan_of):
    plan = plan_of(grid={"lr_init": [0.01, 0.1], "eprop": [None]}, baseline={"lr_init": 0.01})
    assert plan.baselines == [{"lr_init": "0.01"}]
    plan = plan_of(grid={"lr_init": [0.01], "eprop": [None]}, baseline=[{"eprop": None}])
    assert plan.baselines == [{"eprop": "default"}]


def test_a_file_that_is_no_plan_is_refused(tmp_path):
    for content, message in (("{", "is no JSON"), ("[1]", "expected a JSON object")):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(UserError, match=message):
            read_plan(str(tmp_path / "x.json"))
    with pytest.raises(UserError, match="cannot be read"):
        read_plan(str(tmp_path / "none.json"))


@pytest.mark.parametrize("name", PLAN_FILES)
def test_plan_files_are_of_flags_that_the_scripts_have(name):
    plan = read_plan(os.path.join(EXPERIMENTS, name))
    script = importlib.import_module(plan.script.removesuffix(".py"))
    runs = plan.runs()
    if plan.search:
        ranges = plan.search["ranges"]
        values = {flag: (r.get("choices") or [r["low"]])[0] for flag, r in ranges.items()}
        runs = plan.searched_runs(values)
        n_promised = f"{plan.search['n_trials']} trials"
    else:
        n_promised = f"{len(runs)} runs"
    assert n_promised in plan.comment
    assert len({run.digest for run in runs}) == len(runs)
    for run in runs:
        if run.seed == plan.seeds[0]:
            flag_values, _ = command_line.parse_flags(script.define_flags, ["x", *run.arguments])
            script.check_flags(flag_values)


@pytest.mark.parametrize("name", PLAN_FILES)
def test_no_inherited_point_overrides_what_a_plan_sets_for_all_its_runs(name):
    path = os.path.join(EXPERIMENTS, name)
    with open(path, encoding="utf-8") as file:
        own = json.load(file)
    if "based_on" in own and not own.keys() & {"grid", "list"}:
        for points in read_plan(path).axes.values():
            assert not any(own["flags"].keys() & flags.keys() for flags in points.values())


def without_rates(plan):
    """The points of a plan's axes but for their learning rates, which a corpus has of its own."""
    return {
        axis: {
            label: {name: value for name, value in flags.items() if name != "lr_init"}
            for label, flags in points.items()
        }
        for axis, points in plan.axes.items()
    }


def test_plans_for_the_full_corpus_are_those_of_the_sample():
    full = [name for name in PLAN_FILES if os.path.dirname(name) == "full_corpus"]
    assert {"lsnn_starts.json", "lsnn_baselines.json", "lsnn_unidirectional.json"} < {
        os.path.basename(name) for name in full
    }
    for name in full:
        sample = read_plan(os.path.join(EXPERIMENTS, os.path.basename(name)))
        plan = read_plan(os.path.join(EXPERIMENTS, name))
        for name in ("baselines", "seeds", "choose"):
            assert getattr(plan, name) == getattr(sample, name)
        assert without_rates(plan) == without_rates(sample)
        assert plan.name != sample.name and plan.flags["dataset"] != sample.flags["dataset"]


@pytest.mark.parametrize("compared, chosen", RATES_OF)
def test_learning_rates_are_chosen_from_one_grid_with_seeds_of_their_own(compared, chosen):
    def plan(name):
        return read_plan(os.path.join(EXPERIMENTS, f"{name}.json"))

    compared, chosen = plan(compared), plan(chosen)
    assert not set(chosen.seeds) & set(compared.seeds)
    axis = next(iter(compared.axes))
    rates = [flags["lr_init"] for flags in chosen.axes["lr_init"].values()]
    for label, flags in compared.axes[axis].items():
        assert flags["lr_init"] in rates
        tried = {**chosen.flags, **chosen.axes[axis][label]}
        assert any(tried.items() <= run.flags.items() for run in compared.runs())


OF_COUPLINGS = [
    (f"couplings_{name}", "learning_rates_couplings") for name in ("delays", "bidirectional")
]


@pytest.mark.parametrize("compared, chosen", [*RATES_OF, *OF_COUPLINGS])
def test_learning_rates_are_those_that_the_results_chose(compared, chosen):
    plan = read_plan(os.path.join(EXPERIMENTS, f"{compared}.json"))
    axis, points = next(iter(plan.axes.items()))
    path = os.path.join(REPOSITORY, "docs", "results", chosen, "chosen.csv")
    with open(path, encoding="utf-8", newline="") as file:
        rates = {row[axis]: float(row["lr_init"]) for row in csv.DictReader(file)}
    assert {label: flags["lr_init"] for label, flags in points.items()}.items() <= rates.items()

"""nengolib imports under the installed nengo, and what is supplied for it does what it should."""

import importlib
import json
import os
import subprocess
import sys

import nengo
import numpy as np
import pytest

from helpers import LIMIT_S, REPOSITORY
from lmu import nengolib_compat

nengolib = nengolib_compat.import_nengolib()

SMALL_RUN = ("--n_epochs=0", "--n_threads=1", "--nomeasure_memory", "--engine=event")
SEEDED_RUN = ("--init=lmu", "--n_regular=24", "--n_channels=2", *SMALL_RUN)
OTHER_RUN = ("--n_regular=4", "--n_adaptive=3", "--front_end=delayed_frames", *SMALL_RUN)
# One process for all that needs a fresh one. It prints JSON: how the import of nengolib alone
# fails, what it gives with the module supplied, and [exit status, stdout, stderr] of the scripts
# when it is not installed.
FRESH = """
import contextlib, importlib, io, json, sys
from nengo.utils import numpy

try:
    import nengolib
except ModuleNotFoundError as error:
    alone = str(error)
from lmu import nengolib_compat
nengolib = nengolib_compat.import_nengolib()
from nengolib.signal import cont2discrete
together = nengolib.__version__, cont2discrete(nengolib.Lowpass(1.0), 1.0).A.item()

for name in [name for name in sys.modules if name.startswith("nengolib")]:
    del sys.modules[name]
sys.modules["nengolib"] = None  # to Python a module that is not there
from toolbox import command_line, plotting
plotting.save_figure = lambda *_: None  # takes longer than all else
ended = []
for script, *arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            try:
                module = importlib.import_module(script)
                command_line.run(module.main, module.define_flags, "", [script, *arguments])
            except SystemExit as end:
                ended.append((end.code, out.getvalue(), err.getvalue()))
print(json.dumps([alone, together, ended]))
"""


@pytest.fixture(scope="module")
def fresh(tiny_processed, tmp_path_factory):
    """What `FRESH` prints, and the folder that the scripts may write to."""
    folder = tmp_path_factory.mktemp("without_nengolib")
    data, results = f"--dataset={tiny_processed}", f"--results={folder}/refused"
    scripts = [
        ("solve_timit_with_framewise_lsnn", data, results, *SEEDED_RUN),
        ("solve_timit_with_framewise_lstm", data, results, "--front_end=lmu", "--n_threads=1"),
        ("lmu_init", data, f"--out={folder}/seed.npz"),
        ("solve_timit_with_framewise_lsnn", data, f"--results={folder}/other", *OTHER_RUN),
    ]
    strict = ["-W", "error", "-W", "ignore::DeprecationWarning"]
    process = subprocess.run(
        [sys.executable, *strict, "-c", FRESH, json.dumps(scripts)],
        env={**os.environ, "PYTHONPATH": REPOSITORY},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout), folder


@pytest.mark.stress
def test_nengolib_needs_it_and_imports_with_it(fresh):
    (alone, (version, decay), _), _ = fresh
    assert "No module named 'nengo.utils.compat'" in alone
    assert version == nengolib.__version__
    assert decay == pytest.approx(np.exp(-1))


def test_who_needs_the_memory_is_told_how_to_install_nengolib(fresh):
    (_, _, (*refused, _)), folder = fresh
    assert len(refused) == 3
    for status, _, stderr in refused:
        (line,) = stderr.strip().splitlines()
        assert status == 2 and "nengolib is not installed" in line
        assert "pip install --no-deps -r requirements_pip_nodeps.txt" in line
    assert os.listdir(folder) == ["other"]


def test_other_runs_do_not_need_nengolib(fresh):
    (_, _, (*_, (status, stdout, stderr))), _ = fresh
    assert not status, stderr
    assert "selected iteration 0" in stdout


@pytest.fixture
def nengo_with(tmp_path, monkeypatch):
    """Function that gives nengo a `compat` module of this text: an older nengo, as far as read."""

    def write(text):
        (tmp_path / "compat.py").write_text(text)
        importlib.invalidate_caches()

    monkeypatch.delitem(sys.modules, nengolib_compat.COMPAT)
    monkeypatch.setattr(nengo.utils, "compat", nengo.utils.compat)  # is put back at the end
    monkeypatch.setattr(nengo.utils, "__path__", [*nengo.utils.__path__, str(tmp_path)])
    return write


def test_a_nengo_with_the_module_keeps_its_own(nengo_with):
    nengo_with("mark = 'own'\n")
    own = nengolib_compat.supply()
    assert own is nengo.utils.compat is sys.modules[nengolib_compat.COMPAT]
    assert own.mark == "own" and not hasattr(own, "with_metaclass")


def test_a_second_call_changes_nothing():
    first = sys.modules["nengo.utils.compat"]
    before = dict(vars(first))
    assert nengolib_compat.supply() is first is nengo.utils.compat
    assert dict(vars(first)) == before


def test_another_missing_module_is_not_taken_for_this_one(nengo_with):
    nengo_with("import a_module_that_is_not_there\n")
    with pytest.raises(ModuleNotFoundError, match="'a_module_that_is_not_there'"):
        nengolib_compat.supply()


def test_what_nengolib_itself_does_not_find_is_not_taken_for_it(tmp_path, monkeypatch):
    (tmp_path / "nengolib.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nengolib")
    with pytest.raises(ModuleNotFoundError, match="'a_module_that_is_not_there'"):
        nengolib_compat.import_nengolib()


@pytest.mark.parametrize(
    "value, is_integer, is_number, is_iterable",
    [
        (3, True, True, False),
        (np.int32(3), True, True, False),
        (2.5, False, True, False),
        (np.float32(2.5), False, True, False),
        ("3", False, False, True),
        (None, False, False, False),
        ([3], False, False, True),
        (np.zeros(2), False, False, True),
        (np.array(3.0), False, False, False),
    ],
)
def test_the_supplied_predicates(value, is_integer, is_number, is_iterable):
    from nengo.utils import compat

    assert compat.is_integer(value) is is_integer
    assert compat.is_number(value) is is_number
    assert compat.is_iterable(value) is is_iterable


def test_the_supplied_metaclass_function():
    class Registering(type):
        names = []

        def __init__(cls, name, bases, namespace):
            super().__init__(name, bases, namespace)
            Registering.names.append(name)

    class Base:
        inherited = 1

    class Heir(nengolib_compat.with_metaclass(Registering, Base)):
        own = 2

    assert type(Heir) is Registering and issubclass(Heir, Base)
    assert Registering.names[-1] == "Heir"
    assert (Heir.inherited, Heir.own) == (1, 2)


@pytest.mark.parametrize("dimensions", [1, 2, 16])
def test_scattered_encoders(dimensions):
    sphere = nengolib.stats.ScatteredHypersphere(surface=True)
    points = sphere.sample(200, dimensions, rng=np.random.RandomState(1))
    assert points.shape == (200, dimensions)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1)
    # Uniform on the sphere: the mean square of every coordinate is 1 / dimensions (standard error
    # below .1 of that for 200 independent points).
    np.testing.assert_allclose((points**2).mean(0), 1 / dimensions, rtol=0.3)
    np.testing.assert_array_equal(points, sphere.sample(200, dimensions, np.random.RandomState(1)))


def test_an_ensemble_takes_scattered_encoders():
    value = np.array([0.6, -0.3, 0.0, 0.5])
    sphere = nengolib.stats.ScatteredHypersphere(surface=True)
    with nengo.Network(seed=1) as network:
        ensemble = nengo.Ensemble(300, 4, encoders=sphere)
        nengo.Connection(nengo.Node(value), ensemble)
        probe = nengo.Probe(ensemble, synapse=0.03)
    with nengo.Simulator(network, progress_bar=False) as simulator:
        simulator.run(0.3)
    np.testing.assert_allclose(np.linalg.norm(simulator.data[ensemble].encoders, axis=1), 1)
    # An ensemble of 300 neurons represents 4 dimensions with an error of a few hundredths.
    np.testing.assert_allclose(simulator.data[probe][-100:].mean(0), value, atol=0.1)

"""nengolib imports under the installed nengo, and what is supplied for it does what it should."""

import os
import subprocess
import sys

import nengo
import numpy as np
import pytest

from helpers import REPOSITORY, assert_user_error
from lmu import nengolib_compat

nengolib = nengolib_compat.import_nengolib()


def run_python(code, *paths):
    """Run code in a fresh process that finds the repository and, before it, `paths`."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, paths), REPOSITORY])},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_nengolib_needs_it_and_imports_with_it():
    alone = run_python("import nengolib")
    assert "No module named 'nengo.utils.compat'" in alone.stderr
    together = run_python(
        "from lmu import nengolib_compat\n"
        "nengolib = nengolib_compat.import_nengolib()\n"
        "from nengolib.signal import cont2discrete\n"
        "print(nengolib.__version__, cont2discrete(nengolib.Lowpass(1.0), 1.0).A.item())"
    )
    assert together.returncode == 0, together.stderr
    version, decay = together.stdout.split()
    assert version == nengolib.__version__
    assert float(decay) == pytest.approx(np.exp(-1))


def test_a_nengo_with_the_module_keeps_its_own(tmp_path):
    # An older nengo, as far as is read of it: the installed one with its own compat module.
    (tmp_path / "compat.py").write_text("mark = 'own'\n")
    code = (
        "import sys, nengo.utils\n"
        f"nengo.utils.__path__.append({str(tmp_path)!r})\n"
        "import nengo.utils.compat as own\n"
        "from lmu import nengolib_compat\n"
        "assert nengolib_compat.supply() is own and nengo.utils.compat is own\n"
        "assert sys.modules['nengo.utils.compat'] is own\n"
        "print(own.mark, hasattr(own, 'with_metaclass'))"
    )
    process = run_python(code)
    assert process.stdout.split() == ["own", "False"], process.stderr


def test_a_second_call_changes_nothing():
    first = sys.modules["nengo.utils.compat"]
    before = dict(vars(first))
    assert nengolib_compat.supply() is first is nengo.utils.compat
    assert dict(vars(first)) == before


def test_another_missing_module_is_not_taken_for_this_one(tmp_path):
    (tmp_path / "compat.py").write_text("import a_module_that_is_not_there\n")
    process = run_python(
        "import nengo.utils\n"
        f"nengo.utils.__path__.append({str(tmp_path)!r})\n"
        "from lmu import nengolib_compat"
    )
    assert "No module named 'a_module_that_is_not_there'" in process.stderr


def without_nengolib(script, *arguments):
    """Run a script of the repository where nengolib is not installed."""
    return run_python(
        "import runpy, sys\n"
        "sys.modules['nengolib'] = None\n"  # to Python a module that is not there
        f"sys.argv = {[script, *arguments]!r}\n"
        f"runpy.run_path({os.path.join(REPOSITORY, script)!r}, run_name='__main__')"
    )


SMALL_RUN = ("--n_epochs=0", "--n_threads=1", "--nomeasure_memory", "--engine=event")


@pytest.mark.parametrize(
    "script, arguments",
    [
        (
            "solve_timit_with_framewise_lsnn.py",
            ["--init=lmu", "--n_regular=24", "--n_channels=2", *SMALL_RUN],
        ),
        ("solve_timit_with_framewise_lstm.py", ["--front_end=lmu", "--n_threads=1"]),
        ("lmu_init.py", ["--out={folder}/seed.npz"]),
    ],
)
def test_who_needs_the_memory_is_told_how_to_install_nengolib(
    script, arguments, tiny_processed, tmp_path
):
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    if script != "lmu_init.py":
        arguments.append(f"--results={tmp_path / 'results'}")
    process = without_nengolib(script, f"--dataset={tiny_processed}", *arguments)
    assert_user_error(
        process,
        "nengolib is not installed",
        "pip install --no-deps -r requirements_pip_nodeps.txt",
    )
    assert os.listdir(tmp_path) == []


def test_other_runs_do_not_need_nengolib(tiny_processed, tmp_path):
    sizes = ["--n_regular=4", "--n_adaptive=3", "--front_end=delayed_frames", *SMALL_RUN]
    process = without_nengolib(
        "solve_timit_with_framewise_lsnn.py",
        f"--dataset={tiny_processed}",
        f"--results={tmp_path}",
        *sizes,
    )
    assert process.returncode == 0, process.stderr
    assert "selected iteration 0" in process.stdout


def test_what_nengolib_itself_does_not_find_is_not_taken_for_it(tmp_path):
    (tmp_path / "nengolib.py").write_text("import a_module_that_is_not_there\n")
    process = run_python(
        "from lmu import nengolib_compat; nengolib_compat.import_nengolib()", tmp_path
    )
    assert "No module named 'a_module_that_is_not_there'" in process.stderr


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

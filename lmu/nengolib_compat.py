"""nengolib 0.5.2 under nengo 3 and 4: `nengolib = import_nengolib()`.

nengolib imports four helpers from `nengo.utils.compat`, which nengo dropped with Python 2. A
module of that name is supplied when the installed nengo has none: three of the helpers are those
that nengo itself still has in `nengo.utils.numpy`, the fourth is Python's `metaclass=` as a
function. Nothing of nengo is changed, and a nengo that has the module keeps its own.

What the project uses of nengolib works with that (nengo 4.1, NumPy 2.4, SciPy 1.17):
`synapses.LegendreDelay`, `signal.cont2discrete` and `stats.ScatteredHypersphere`, the latter also
as the distribution of a `nengo.Ensemble`; it takes a `numpy.random.RandomState`, no `Generator`.
What does not work, and is not used: nengolib's linear systems as the synapse of a
`nengo.Connection` (nengo asks them for an attribute that they do not set).
"""

import importlib
import sys
import types

import nengo.utils.numpy

from toolbox.command_line import UserError

COMPAT = "nengo.utils.compat"


def supply():
    """Make `nengo.utils.compat` importable unless it already is.

    Returns:
        The module: nengo's own where it has one, else the same one at each call.
    """
    try:
        return importlib.import_module(COMPAT)
    except ModuleNotFoundError as error:
        if error.name != COMPAT:
            raise
    compat = types.ModuleType(COMPAT, "What nengolib 0.5.2 needs of nengo 2's module of this name.")
    compat.is_integer = nengo.utils.numpy.is_integer
    compat.is_iterable = nengo.utils.numpy.is_iterable
    compat.is_number = nengo.utils.numpy.is_number
    compat.with_metaclass = with_metaclass
    sys.modules[COMPAT] = compat
    nengo.utils.compat = compat
    return compat


def with_metaclass(metaclass, *bases):
    """A class to inherit from, whose heirs have this metaclass and these bases."""
    return types.new_class("WithMetaclass", bases, {"metaclass": metaclass})


def import_nengolib():
    """The module nengolib, to be imported where it is used: nothing but the LMU needs it.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module("nengolib")
    except ModuleNotFoundError as error:
        if error.name != "nengolib":
            raise
        raise UserError(
            "nengolib is not installed, and the Legendre memory needs it: "
            "pip install --no-deps -r requirements_pip_nodeps.txt"
        ) from None


supply()

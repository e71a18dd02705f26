"""A trained LSNN, or a small Legendre memory, in the browser: nengo_gui draws and runs it.

    python3 nengo_gui_demo.py RUN
    python3 nengo_gui_demo.py

RUN is a run folder of an LSNN that was trained with `--n_directions=1`: the page shows its spikes and
what it hears in the first development utterance (`inference/nengo_lsnn.py`). Without RUN it shows a
network of Nengo's own neurons that remembers the last 400 ms of a slow random signal
(`lmu/nengo_network.py`). Open the address that is printed; Ctrl-C ends it. Needs
requirements_pip_gui.txt (`make gui` installs it).
"""

import importlib.util
import os
import shutil
import sys
import tempfile

from toolbox import command_line  # isort: skip (first: it tells who has no environment)

import numpy as np
from scipy.signal import lfilter

command_line.import_tensorflow()

from inference import nengo_lsnn  # noqa: E402
from layers import neurons  # noqa: E402
from lmu import matched, nengo_network  # noqa: E402
from lmu.matched import LmuSettings  # noqa: E402

N_FRAMES = 1500  # of the signal
RUN_VARIABLE = "LSNN_RUN"  # names the run folder to the page, which executes this file


def define_flags(flag_values):
    define = command_line.Definer(flag_values)
    define.integer("port", 0, "of the page; 0: any that is free", 0, 65535)


def demonstration():
    """The network that remembers, a nengo.Network."""
    random_generator = np.random.default_rng(1)
    frames = random_generator.standard_normal((N_FRAMES, 2))
    frames = lfilter([1.0], [1.0, -0.98], frames, axis=0)  # correlated over 50 frames
    frames /= frames.std(axis=0)
    n_regular, n_adaptive = 100, 30
    parameters = neurons.alif_parameters(n_regular, n_adaptive)
    settings = LmuSettings(n_static=2, theta_ms=400, order=3, n_channels=1, drive_std=0)
    memory = matched.ideal_memory([frames], parameters, settings, random_generator)
    return nengo_network.network_for(memory, parameters, n_regular, settings, random_generator)[0]


def main(flag_values, *folders):
    if len(folders) > 1:
        raise command_line.UserError(f"found {len(folders)} run folders, expected one at most")
    if importlib.util.find_spec("nengo_gui") is None:
        raise command_line.UserError(
            "nengo_gui is not installed: pip install -r requirements_pip_gui.txt"
        )
    for folder in folders:
        nengo_lsnn.network_of_run(folder)  # what is wrong is told here and not on the page
        os.environ[RUN_VARIABLE] = os.path.abspath(folder)
    from nengo_gui.main import main as nengo  # it warns

    with tempfile.TemporaryDirectory() as copies:  # nengo_gui writes the layout back
        name = os.path.basename(__file__)
        for suffix in ("", ".cfg"):
            shutil.copy(f"{os.path.abspath(__file__)}{suffix}", copies)
        page = os.path.join(copies, name)
        sys.argv = ["nengo", "--no-browser", "-P", str(flag_values.port), page]
        nengo()


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__, n_positional=-1)
elif "__page__" in globals():  # nengo_gui executes this file and looks for `model`
    if RUN_VARIABLE in os.environ:
        model = nengo_lsnn.network_of_run(os.environ[RUN_VARIABLE])
    else:
        model = demonstration()

"""A small network of spiking neurons that remembers the last 400 ms of a slow random signal.

    nengo_gui nengo_gui_demo.py

draws and runs it: nengo_gui looks for the name `model`. `lmu/nengo_network.py` says what is in it.
"""

import numpy as np
from scipy.signal import lfilter

from layers import neurons
from lmu import matched, nengo_network
from lmu.matched import LmuSettings

N_FRAMES = 1500  # of the signal


def demonstration():
    """The network, a nengo.Network."""
    random_generator = np.random.default_rng(1)
    frames = random_generator.standard_normal((N_FRAMES, 2))
    frames = lfilter([1.0], [1.0, -0.98], frames, axis=0)  # correlated over 50 frames
    frames /= frames.std(axis=0)
    n_regular, n_adaptive = 100, 30
    parameters = neurons.alif_parameters(n_regular, n_adaptive)
    settings = LmuSettings(n_static=2, theta_ms=400, order=3, n_channels=1, drive_std=0)
    memory = matched.ideal_memory([frames], parameters, settings, random_generator)
    return nengo_network.network_for(memory, parameters, n_regular, settings, random_generator)[0]


model = demonstration()

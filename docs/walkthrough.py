# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From the Legendre Memory Unit to a trained LSNN
#
# A notebook (jupytext opens it) that also runs as a script, in half a minute, after `make demo`:
# `python3 docs/walkthrough.py`. Other data: `DATASET` in the environment, a folder of
# `timit_processing.py`. It writes into the folder `walkthrough`.

# %%
import json
import os
import sys
from pathlib import Path

import numpy as np

ROOT = Path.cwd() if Path("models.py").exists() else Path.cwd().parent
sys.path.insert(0, str(ROOT))

from toolbox import command_line

command_line.import_tensorflow()

import solve_timit_with_framewise_lsnn as lsnn
from layers import neurons
from lmu import figures, legendre, memory, seeding
from lmu.matched import LmuSettings
from speech.dataset import TimitDataset

DATASET = os.environ.get("DATASET", ROOT / "demo" / "processed")
FOLDER = Path("walkthrough")
N_REGULAR, N_ADAPTIVE, N_REPEAT = 200, 50, 5
ORDER, THETA_MS, N_CHANNELS = 4, 100.0, 2

FOLDER.mkdir(exist_ok=True)
data = TimitDataset(DATASET)
print(f"{len(data.train)} training utterances, {data.n_features} features, {data.n_phns} phones")
print(data.note)

# %% [markdown]
# ## The memory is a linear system
#
# $\dot m = A m + B u$ holds the last $\theta$ of its input $u$ as coefficients of Legendre
# polynomials. $\theta A$ and $\theta B$ are whole numbers. In steps of 1 ms, $u$ held over a step,
# $m_t = \bar A m_{t-1} + \bar B u_t$. A frame of 10 ms takes five steps: $\theta$ = 100 ms of speech
# are 50 steps.

# %%
theta_steps = legendre.theta_steps(THETA_MS, N_REPEAT)
a, b = legendre.continuous(ORDER, theta_steps)
print("theta A =", np.round(a * theta_steps).astype(int), sep="\n")
print("theta B =", np.round(b * theta_steps).astype(int))

ad, bd = legendre.discrete(ORDER, theta_steps)
u = np.sin(2 * np.pi * np.arange(400) / 200)[:, np.newaxis]
m = legendre.memory_state(u, ad, bd)[:, 0]
recalled = m @ legendre.delay_decoder(ORDER, share=1.0)
error = np.sqrt(np.mean((recalled[200:] - u[150:350, 0]) ** 2))
print(f"a sine of 200 steps, recalled 50 steps later: root mean square error {error:.3f}")

# %% [markdown]
# ## Its weights in a layer of spiking neurons
#
# Encoders $E$ say what a neuron spikes for, decoders $D$ read the state from the filtered spikes.
# Then $W_{rec} = (E \bar A D)^T$ and $W_{in} = (E (1 - \alpha) \bar B P)^T$ + a random drive by all
# features, with $P$ the principal components of the features that are remembered.

# %%
parameters = neurons.alif_parameters(N_REGULAR, N_ADAPTIVE)
layer = seeding.seed_layer(
    data.train.features[:20],
    parameters,
    N_REGULAR,
    LmuSettings(data.n_static, theta_ms=THETA_MS, order=ORDER, n_channels=N_CHANNELS),
    np.random.default_rng(1),
    n_directions=1,
)
print("W_in", layer.w_in.shape, "W_rec", layer.w_rec.shape, "[direction, from, to]")

# %% [markdown]
# ## What its spikes remember
#
# A linear readout of the spikes of speakers it was not fitted to is asked for the input of 0 to 20
# frames ago: R² for each delay, its sum is the memory capacity. The control has the same rows of
# $W_{rec}$, but other neurons send them, and all weights scaled until it fires as much: what the
# weights mean is lost. The floor is the same readout of the features instead of the spikes.

# %%
splits = data.train, data.develop
speech = (
    [features for split in splits for features in split.features],
    [phns for split in splits for phns in split.phns],
    [entry["speaker"] for split in splits for entry in split.metadata],
    np.repeat([False, True], [len(split) for split in splits]),  # held out
)
control = seeding.shuffled_control(layer, parameters, data.train.features, np.random.default_rng(2))
measured = {
    name: memory.measure(*speech, *weights, parameters, layer.P[0], data.n_phns)
    for name, weights in {"LMU": (layer.w_in, layer.w_rec), "rows permuted": control}.items()
}
measured["floor"] = memory.measure_floor(*speech, layer.P[0])
r2 = {name: found["r2_channels"] for name, found in measured.items()}
for name, found in measured.items():
    capacity = found["memory_capacity_channels"]
    print(f"{name:<14} capacity {capacity:5.2f}, R² of 10 frames ago {r2[name][10]:.2f}")
figures.plot_memory(FOLDER / "memory.png", r2, THETA_MS, floor=r2.pop("floor"))
print("figure:", FOLDER / "memory.png")

# %% [markdown]
# ## Training from it, by symmetric e-prop
#
# The same command as in a shell: `python3 solve_timit_with_framewise_lsnn.py --init=lmu ...`.

# %%
flag_values, _ = command_line.parse_flags(
    lsnn.define_flags,
    [
        "walkthrough",
        f"--dataset={DATASET}",
        f"--results={FOLDER / 'results'}",
        *("--eprop=symmetric", "--init=lmu", f"--n_channels={N_CHANNELS}", "--n_directions=1"),
        *(f"--n_regular={N_REGULAR}", f"--n_adaptive={N_ADAPTIVE}"),
        *("--batch=8", "--n_epochs=8", "--print_every=20", "--seed=1"),
    ],
)
lsnn.main(flag_values)

# %% [markdown]
# ## What is left after it
#
# Training lowers the error. It does not keep the memory: the capacity falls to the floor, what the
# features alone tell of the past.

# %%
run = max((FOLDER / "results").glob("*/*"))
metrics = json.loads((run / "metrics.json").read_text())
for name in ("majority_develop", "initial_develop", "best_develop", "test"):
    print(f"{name.replace('_', ' ')} frame error: {metrics[f'{name}_frame_error']:.3f}")
for what in ("before", "after", "floor"):
    print(f"memory capacity, {what}: {metrics[f'memory_capacity_{what}']:.2f}")
print("figures:", run / "learning_curve.png", run / "memory.png")

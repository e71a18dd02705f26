"""Time of one training step on digits, pixel by pixel, beside the LMU layer of keras-lmu.

    python3 benchmarks/digits.py
    python3 benchmarks/digits.py --side=14 --repeats=10 --json=digits.json

An LSNN of `solve_psmnist.py`, with its own defaults at that side, takes steps of its training loop on
random pixels; so does a Keras model of keras-lmu's layer (`pip install keras-lmu`; without it that row
is left out), with as many units and a memory of the whole digit, of the order that psMNIST is usually
given. Each is measured in a process of its own, and prints median and least seconds a step after a
warm-up. A minute on two cores.
"""

import importlib.util
import statistics
import time

import numpy as np

import measuring  # first: it makes the repository's modules importable
from toolbox import command_line
from toolbox.durable_files import write_json

KERAS_LMU_ORDERS = {28: 256, 14: 64}
N_WARM_UP = 2  # steps; the first compiles
SCRIPT_FLAGS = {"symmetric": ["--eprop=symmetric"], "BPTT": []}


def define_flags(flag_values):
    define = measuring.Definer(flag_values)
    define.enum("side", "28", [str(side) for side in KERAS_LMU_ORDERS], "pixels a side")
    define.integer("batch", 100, "digits in a batch", 1)
    define.integer("n_units", 128, "neurons, or units of keras-lmu's layer", 1)
    define.integer("n_threads", 0, "CPU threads; 0: all cores", 0)
    define.integer("repeats", 5, "steps timed", 1)
    define.path("json", "", "write every row here too")


def measure(network, settings, repeats):
    """A row of results; to be run in a process of its own."""
    is_keras_lmu = network == "keras-lmu"
    step = _keras_lmu_step(**settings) if is_keras_lmu else _lsnn_step(network, **settings)
    seconds = []
    for _ in range(N_WARM_UP + repeats):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    timed = seconds[N_WARM_UP:]
    return {"network": network, "median_s": statistics.median(timed), "least_s": min(timed)}


def _digits(side, batch):
    random_generator = np.random.default_rng(0)
    pixels = random_generator.random((batch, side**2), np.float32)
    return pixels, random_generator.integers(0, 10, batch).astype(np.int32)


def _lsnn_step(rule, side, batch, n_units, n_threads):
    import solve_psmnist
    from tasks import psmnist
    from training import devices, loop
    from training.flags import TrainingConfig

    given = [f"--side={side}", "--dataset=none", f"--batch={batch}", f"--n_adaptive={n_units}"]
    given.append("--n_epochs=1000")  # of a batch each
    flag_values, _ = command_line.parse_flags(
        solve_psmnist.define_flags, ["solve_psmnist.py", *given, *SCRIPT_FLAGS[rule]]
    )
    flag_values = solve_psmnist.with_defaults(flag_values)
    devices.set_up_devices(-1, n_threads, batch)
    digits = psmnist.Sequences(*_digits(side, batch))
    task = psmnist.PsMnist(dict.fromkeys(("train", "develop", "test"), digits))
    network = solve_psmnist.make_network(flag_values, task, 0)
    config = TrainingConfig.from_flags(flag_values)
    run = loop.Run(network, task, config, 0, "", network.trainable_variables, lambda: None)
    return lambda: run.step(*next(run.batches()))


def _keras_lmu_step(side, batch, n_units, n_threads):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(n_threads)
    tf.config.threading.set_inter_op_parallelism_threads(n_threads)
    import keras_lmu

    pixels, labels = _digits(side, batch)
    layer = keras_lmu.LMU(
        memory_d=1,
        order=KERAS_LMU_ORDERS[side],
        theta=side**2,
        hidden_cell=tf.keras.layers.SimpleRNNCell(n_units),
    )
    inputs = tf.keras.Input((side**2, 1))
    model = tf.keras.Model(inputs, tf.keras.layers.Dense(10)(layer(inputs)))
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    return lambda: model.train_on_batch(pixels[:, :, None], labels)


def main(flag_values):
    command_line.check_output_file(flag_values, "json")
    networks = list(SCRIPT_FLAGS)
    if importlib.util.find_spec("keras_lmu") is None:
        print("keras-lmu is not installed: its row is left out (pip install keras-lmu)")
    else:
        networks.append("keras-lmu")
    settings = {
        "side": int(flag_values.side),
        "batch": flag_values.batch,
        "n_units": flag_values.n_units,
        "n_threads": flag_values.n_threads or command_line.available_cores(),
    }
    rows = [
        measuring.in_child(measure, network, settings, flag_values.repeats)
        for network in measuring.progress(networks, len(networks))
    ]
    machine = measuring.machine()
    first = rows[0]["median_s"]
    table = measuring.markdown_table(
        ["network", "s/step", "least s", "this / symmetric"],
        [
            [
                r["network"],
                f"{r['median_s']:.3f}",
                f"{r['least_s']:.3f}",
                f"{r['median_s'] / first:.2f}",
            ]
            for r in rows
        ],
    )
    print(f"{measuring.machine_line(machine)}\n\n{table}")
    if flag_values.json:
        write_json(flag_values.json, {"machine": machine, "settings": settings, "rows": rows})


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__)

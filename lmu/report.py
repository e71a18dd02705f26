"""What seeded layers remember, beside their controls, as a table and figures."""

from typing import NamedTuple

import numpy as np

from layers import neurons
from lmu import figures, legendre, matched, memory
from lmu.seeding import mean_rate_hz, scale_for_rate, shuffled_control
from toolbox.command_line import UserError

FOLDS = 4
FEWEST_SPEAKERS = 4  # one held out, two to choose the readouts' regularisation by, one to fit to
SPEAKERS_OF_SAMPLE = 16  # a training set with so many speakers needs none of the other splits
LOOP_UTTERANCES = 32  # by which a loop is judged
STREAM_SHUFFLING, STREAM_RANDOM = 1, 2  # of random numbers from one seed
STARTS = ("lmu", "shuffled", "random", "random_scaled")
FLOOR = "present features"  # the readout of them, beside those of the starts


class Speech(NamedTuple):
    """Utterances of some speakers, and which speakers are held out."""

    utterances: list  # of [frames, features]
    phns: list  # of [frames]
    names: list  # of the utterances
    speakers: list  # of each utterance
    is_held_out: np.ndarray  # bool, of each utterance
    splits: tuple  # which were read

    def fit(self):
        """The utterances that are not held out."""
        return [u for u, is_out in zip(self.utterances, self.is_held_out) if not is_out]


def choose_speech(dataset, fold):
    """The `Speech` that seeding and report are based on.

    The training set, if it has the sample's 16 speakers or more: develop and test stay unread. Else
    all splits, as a few speakers are too few to judge by. Fold k of the speakers, sorted by name
    (women before men), holds out those at positions k, k + 4, k + 8, ...

    Raises:
        UserError: too few speakers.
    """
    splits = ("train",)
    if len({entry["speaker"] for entry in dataset.train.metadata}) < SPEAKERS_OF_SAMPLE:
        splits = ("train", "develop", "test")
    parts = [getattr(dataset, split) for split in splits]
    speakers = [entry["speaker"] for part in parts for entry in part.metadata]
    ordered = sorted(set(speakers))
    if len(ordered) < FEWEST_SPEAKERS:
        raise UserError(
            f"the data set has {len(ordered)} speaker(s): expected at least {FEWEST_SPEAKERS}, of "
            "which some are held out"
        )
    return Speech(
        [features for part in parts for features in part.features],
        [phns for part in parts for phns in part.phns],
        [name for part in parts for name in part.names],
        speakers,
        np.isin(speakers, ordered[fold::FOLDS]),
        splits,
    )


def measure_starts(layer, speech, parameters, n_phns, seed, say=print):
    """What the seeded layer, its control and random layers remember.

    Returns:
        dict: for each of `STARTS` what `memory.measure` returns, for `FLOOR` what
        `memory.measure_floor` does.

    Raises:
        UserError: as `scale_for_rate` and `memory.measure`.
    """
    n, fit = len(parameters.alpha), speech.fit()
    rate_hz = mean_rate_hz(layer.w_in, layer.w_rec, parameters, fit)
    random_generator = np.random.default_rng([seed, STREAM_RANDOM])
    shape = {"directions": len(layer.w_in), "weight_scale": 1}
    w_in = neurons.scaled_normal(random_generator, layer.w_in.shape[1], n, **shape)
    w_rec = neurons.scaled_normal(random_generator, n, n, **shape)
    scale = scale_for_rate(w_in, w_rec, parameters, fit, rate_hz)
    say(f"random weights fire at the LMU's {rate_hz:.0f} Hz when multiplied by {scale:.3f}")
    shuffling = np.random.default_rng([seed, STREAM_SHUFFLING])
    weights = {
        "lmu": (layer.w_in, layer.w_rec),
        "shuffled": shuffled_control(layer, parameters, fit, shuffling),
        "random": (w_in, w_rec),
        "random_scaled": (scale * w_in, scale * w_rec),
    }
    spoken = speech.utterances, speech.phns, speech.speakers, speech.is_held_out
    report = {}
    for name in STARTS:
        report[name] = memory.measure(*spoken, *weights[name], parameters, layer.P[0], n_phns)
        say(
            f"{name}: {report[name]['rate_hz_mean']:.0f} Hz, memory capacity "
            f"{report[name]['memory_capacity_channels']:.2f}, frame accuracy "
            f"{report[name]['frame_accuracy']:.3f}"
        )
    report[FLOOR] = memory.measure_floor(*spoken, layer.P[0])
    return report


def report_table(report, settings):
    """Markdown text: a table of the report, and what it was made from."""
    rows = [
        "| start | rate, Hz: mean / max | silent | ψ > 0 | memory capacity | R² 10 / 20 frames ago "
        "| frame accuracy: forward / all |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, values in report.items():
        r2 = values["r2_channels"]
        memory_cells = f"{values['memory_capacity_channels']:.2f} | {r2[10]:.2f} / {r2[20]:.2f}"
        if name == FLOOR:
            rows.append(f"| {name} | - | - | - | {memory_cells} | - |")
            continue
        rows.append(
            f"| {name} | {values['rate_hz_mean']:.0f} / {values['rate_hz_max']:.0f} "
            f"| {values['silent_share']:.3f} | {values['psi_positive_share']:.3f} "
            f"| {memory_cells} "
            f"| {values['frame_accuracy_forward']:.3f} / {values['frame_accuracy']:.3f} |"
        )
    lines = "\n".join(f"- {name}: {value}" for name, value in settings.items())
    lmu = report["lmu"]
    return (
        "# Memory of initial weights\n\n"
        + "\n".join(rows)
        + f"\n\nThe LMU's loop answers after {lmu['loop_delay_steps']:.1f} steps (expected "
        f"{settings['theta_ms'] / legendre.FRAME_MS * settings['n_repeat']:g}) with a gain of "
        f"{lmu['loop_gain']:.2f}."
        "\n\nDefinitions: `lmu/memory.py`. Silent: share of neurons; ψ > 0: share of neurons and "
        "steps; memory capacity: sum of R² over 0 to 20 frames, mean over the channels, forward "
        f"cell; {FLOOR}: its floor, the same readout of these.\n\n{lines}\n"
    )


class LoopRecord(NamedTuple):
    """A seeded cell beside the ideal memory, for one utterance; steps in the cell's order."""

    low_passed: np.ndarray  # [steps, features], filtered as the membrane does
    ideal: np.ndarray  # [steps, channels * order]
    decoded: np.ndarray  # [steps, channels * order]
    spikes: np.ndarray  # bool [steps, n]


def record_loop(layer, utterances, parameters, direction=0):
    """`LoopRecord` of each utterance [frames, features], in the order that the cell reads."""
    alpha, n_repeat = float(parameters.alpha[0]), parameters.n_repeat
    a, b, decoders = (getattr(layer, name)[direction] for name in "ABD")
    currents = [utterance @ layer.w_in[direction] for utterance in utterances]
    spikes = matched.spikes_of(currents, layer.w_rec[direction], parameters)
    records = []
    for utterance, of_utterance in zip(utterances, spikes):
        inputs = matched.low_passed(utterance, alpha, n_repeat)
        zbar = matched.filtered(of_utterance[:, : decoders.shape[1]], alpha)
        records.append(
            LoopRecord(
                low_passed=inputs,
                ideal=matched.ideal_states(inputs @ layer.P[direction], a, b),
                decoded=zbar @ decoders.T,
                spikes=of_utterance > 0,
            )
        )
    return records


def held_out_loop(layer, speech, parameters):
    """`record_loop` of the forward cell on the first held-out utterances."""
    chosen = np.flatnonzero(speech.is_held_out)[:LOOP_UTTERANCES]
    return record_loop(layer, [speech.utterances[i] for i in chosen], parameters)


def loop_delay_and_gain(records, projection, theta):
    """How well a loop's decoded channels of theta ago are the channels u = low-passed input @ P.

    Args:
        records: list of `LoopRecord`.
        projection: P [features, channels].
        theta: steps.

    Returns:
        dict, means over the channels: `loop_delay_steps`, the lag at which their cross-correlation
        with u is largest, and `loop_gain`, the regression of them on u(t - theta).

    Raises:
        UserError: no utterance is longer than theta.
    """
    theta = round(theta)
    states = [r.decoded.reshape(len(r.decoded), projection.shape[1], -1) for r in records]
    decoder = legendre.delay_decoder(states[0].shape[2], 1.0)
    inputs, _ = memory.padded([r.low_passed @ projection for r in records], np.float64)
    decoded, _ = memory.padded([m @ decoder for m in states], np.float64)
    n_steps = inputs.shape[1]
    if n_steps <= theta:
        raise UserError(
            f"the loop cannot be measured: its memory is {theta} steps long, the longest of the "
            f"held-out utterances {n_steps}: choose a smaller --theta_ms"
        )

    def product(lag):
        return np.sum(inputs[:, : n_steps - lag] * decoded[:, lag:], axis=(0, 1))

    delays = np.argmax([product(lag) for lag in range(min(2 * theta + 1, n_steps))], axis=0)
    squares = sum(np.sum((r.low_passed[:-theta] @ projection) ** 2, axis=0) for r in records)
    return {
        "loop_delay_steps": float(delays.mean()),
        "loop_gain": float(np.mean(product(theta) / squares)),
    }


def loop_eigenvalues(records):
    """Eigenvalues, a step, of the linear system that predicts the decoded states of a loop best:
    decoded_t = A decoded_{t-1} + B low_passed_t, by least squares."""
    before = np.concatenate([r.decoded[:-1] for r in records])
    after = np.concatenate([r.decoded[1:] for r in records])
    inputs = np.concatenate([r.low_passed[1:] for r in records])
    system, *_ = np.linalg.lstsq(np.concatenate([before, inputs], axis=1), after, rcond=None)
    return np.linalg.eigvals(system[: before.shape[1]].T)


def draw_report(stem, report, records, layer, speech, parameters, n_regular, theta_ms):
    """Write `<stem>_memory.png`, `_utterance.png` and `_eigenvalues.png`."""
    figures.plot_memory(
        f"{stem}_memory.png",
        {name: report[name]["r2_channels"] for name in STARTS},
        theta_ms,
        floor=report[FLOOR]["r2_channels"],
    )
    shown = np.argmax(speech.is_held_out)
    order = len(layer.A[0])
    theta = legendre.theta_steps(theta_ms, parameters.n_repeat)
    first, utterance = records[0], speech.utterances[shown]
    decoder = legendre.delay_decoder(order, 1.0)
    backward = record_loop(layer, [utterance[::-1]], parameters, 1)[0].spikes[::-1]
    figures.plot_memory_utterance(
        f"{stem}_utterance.png",
        signal=np.repeat(utterance @ layer.P[0][:, 0], parameters.n_repeat),
        ideal=first.ideal[:, :order] @ decoder,
        decoded=first.decoded[:, :order] @ decoder,
        spikes=np.concatenate([first.spikes, backward], axis=1),
        theta_steps=theta,
        n_repeat=parameters.n_repeat,
        n_regular=n_regular,
        title=f"{speech.names[shown]}: memory of {theta_ms:g} ms, first channel",
    )
    figures.plot_eigenvalues(
        f"{stem}_eigenvalues.png",
        ideal=np.linalg.eigvals(layer.A[0]),
        loop=loop_eigenvalues(records),
        theta_steps=theta,
    )

"""Seeded layers, their files and the script, on small data; and what they remember of speech."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import lmu_init
import timit_processing
from helpers import REPOSITORY, assert_user_error, run_in
from layers.neurons import alif_parameters
from lmu import flags as lmu_flags
from lmu import memory, report, seeding
from lmu.matched import LmuSettings
from signals import N_STATIC, speech_like
from speech.dataset import Split, TimitDataset
from toolbox.command_line import UserError, parse_flags

SMALL = LmuSettings(N_STATIC, order=2, n_channels=1)


def flag_values(*arguments):
    return parse_flags(lmu_init.define_flags, ["lmu_init.py", *arguments])[0]


def quiet(line):
    pass


@pytest.fixture(scope="module")
def utterances():
    return speech_like(0, 12, lengths=(150, 120))


def seed_small(utterances, seed=1, n_regular=40, n_adaptive=10, settings=SMALL, **options):
    parameters = alif_parameters(n_regular, n_adaptive)
    rng = np.random.default_rng(seed)
    return seeding.seed_layer(
        utterances, parameters, n_regular, settings, rng, say=quiet, **options
    )


@pytest.fixture(scope="module")
def layer(utterances):
    return seed_small(utterances)


def test_needs_no_tensorflow():
    check = "import sys, lmu_init; sys.exit('tensorflow' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", check], cwd=REPOSITORY, timeout=120)
    assert process.returncode == 0


# --------------------------------------------------------------------------- flags


def test_the_defaults_are_those_of_the_study():
    settings = lmu_flags.settings_from_flags(flag_values(), n_static=13)
    assert settings == LmuSettings(
        n_static=13,
        theta_ms=100.0,
        order=4,
        n_channels=4,
        channels="pca",
        lmu_fraction=1.0,
        gain_min=0.7,
        gain_max=2.5,
        drive_std=2.0,
        refits=1,
        method="matched",
    )
    assert settings == LmuSettings(n_static=13)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--theta_ms=9"], "--theta_ms=9: expected at least a frame, 10 ms"),
        (["--theta_ms=nan"], "--theta_ms=nan: expected a finite number"),
        (["--order=75"], "75 times --n_channels=4 are 300 state variables.*300 regular neurons"),
        (["--lmu_fraction=0.05"], "16 state variables for the LMU's 15 regular neurons"),
        (["--lmu_fraction=0"], "LMU's 0 regular neurons"),
        (["--gain_max=0.5"], "--gain_max=0.5: expected at least --gain_min=0.7"),
        (["--gain_min=0", "--gain_max=0"], "--gain_max=0: expected above 0"),
        (["--method=nengo", "--tau_v=0.001"], "--tau_v=0.001 with .* at least a step, 1 ms"),
        (["--method=nengo", "--tau_v=1e17"], "--tau_v=1e\\+17 with .* at most 1e\\+09 steps"),
        (["--method=nengo", "--tau_a=0.3"], "--tau_a=0.3 with --method=nengo"),
        (["--method=nengo", "--tau_a=1e17"], "--tau_a=1e\\+17 with --method=nengo"),
        (["--method=nengo", "--dt=21"], "--tau_v=20.0 with .* at least a step, 21 ms"),
    ],
)
def test_flags_that_cannot_work(arguments, words):
    with pytest.raises(UserError, match=words):
        lmu_flags.check_flags(flag_values(*arguments), quiet)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--method=matched", "--tau_v=0.001", "--tau_a=0.001"],
        ["--method=nengo", "--tau_a=0.001", "--n_adaptive=0"],
        ["--method=nengo", "--tau_a=0.001", "--lmu_fraction=0.1", "--n_adaptive=4", "--order=1"],
    ],
)
def test_time_constants_that_nengo_does_not_simulate_are_free(arguments):
    lines = []
    lmu_flags.check_flags(flag_values(*arguments), lines.append)
    assert not any("tau" in line for line in lines)


@pytest.mark.parametrize("tau_v, tau_a", [(1, 1), (1e9, 1e9), (20, 0.5)])
def test_nengo_simulates_the_time_constants_that_are_let_through(tau_v, tau_a, utterances):
    """At the bounds of the check; half a step is what --tau_a_spread makes of a whole one."""
    seeded = seeding.seed_layer(
        utterances[:3],
        alif_parameters(40, 10, tau_v=tau_v, tau_a=tau_a),
        40,
        SMALL._replace(method="nengo"),
        np.random.default_rng(1),
        n_directions=1,
        say=quiet,
    )
    for name in seeding.SEEDED:
        assert np.isfinite(getattr(seeded, name)).all() and getattr(seeded, name).any()


def test_few_neurons_are_warned_of():
    lines = []
    lmu_flags.check_flags(flag_values(), lines.append)  # 16 of 300
    assert lines == []
    lmu_flags.check_flags(flag_values("--order=5"), lines.append)
    assert len(lines) == 1 and "warning" in lines[0] and "20 state variables" in lines[0]


def test_channels_are_checked_against_the_features():
    with pytest.raises(UserError, match="--n_channels=14: expected at most 13"):
        lmu_flags.settings_from_flags(flag_values("--n_channels=14"), 13)
    with pytest.raises(UserError, match="no static feature 13"):
        lmu_flags.settings_from_flags(flag_values("--channels=13", "--n_channels=1"), 13)
    assert (
        lmu_flags.settings_from_flags(flag_values("--channels=3", "--n_channels=1"), 13).channels
        == "3"
    )


# --------------------------------------------------------------------------- layers


def test_shapes_of_a_layer(layer):
    shapes = {name: array.shape for name, array in layer._asdict().items()}
    assert shapes == {
        "w_in": (2, 12, 50),
        "w_rec": (2, 50, 50),
        "A": (2, 2, 2),
        "B": (2, 2),
        "E": (2, 40, 2),
        "D": (2, 2, 40),
        "P": (2, 12, 1),
    }
    assert not np.diagonal(layer.w_rec, axis1=1, axis2=2).any()
    assert all(array.dtype == np.float64 for array in layer)


def test_the_backward_cell_is_seeded_on_reversed_speech(utterances):
    """One direction alone of reversed speech is what the second direction gets."""
    backward = [u[::-1] for u in utterances]

    class Repeating:
        """Gives both directions the same numbers, by starting anew at the second one."""

        def __init__(self):
            self.rng = np.random.default_rng(1)

        def __getattr__(self, name):
            return getattr(self.rng, name)

        def restart(self, line):
            if line.startswith("seeding"):
                self.rng = np.random.default_rng(2)

    def seed(speech, n_directions):
        rng = Repeating()
        return seeding.seed_layer(
            speech, alif_parameters(40, 10), 40, SMALL, rng, n_directions, say=rng.restart
        )

    both = seed(utterances, 2)
    forward, of_reversed = seed(utterances, 1), seed(backward, 1)
    for name in seeding.SEEDED:
        mine = getattr(both, name)
        np.testing.assert_array_equal(mine[0], getattr(forward, name)[0])
        np.testing.assert_array_equal(mine[1], getattr(of_reversed, name)[0])
    assert np.abs(both.D[1] - both.D[0]).max() > 0.01 * np.abs(both.D[0]).max()


def test_both_cells_follow_their_memory(layer, utterances):
    for direction in (0, 1):
        speech = [u[:: -1 if direction else 1] for u in utterances[:4]]
        records = report.record_loop(layer, speech, alif_parameters(40, 10), direction)
        decoded = np.concatenate([r.decoded for r in records])
        ideal = np.concatenate([r.ideal for r in records])
        assert np.corrcoef(decoded[:, 0], ideal[:, 0])[0, 1] > 0.9
        assert records[0].spikes.shape == (750, 50) and records[0].low_passed.shape == (750, 12)


def test_the_other_method_gives_a_layer_of_the_same_kind(layer, utterances):
    by_nengo = seed_small(utterances, settings=SMALL._replace(method="nengo"))
    for name in seeding.SEEDED:
        mine, other = getattr(layer, name), getattr(by_nengo, name)
        assert other.shape == mine.shape and other.dtype == mine.dtype
        assert np.isfinite(other).all() and np.any(other != 0)
    np.testing.assert_array_equal(by_nengo.P[0], layer.P[0])
    assert not np.diagonal(by_nengo.w_rec, axis1=1, axis2=2).any()


def test_equal_seeds_equal_layers(layer, utterances):
    again, other = seed_small(utterances), seed_small(utterances, seed=2)
    for name in seeding.SEEDED:
        np.testing.assert_array_equal(getattr(again, name), getattr(layer, name))
    assert np.any(other.w_rec != layer.w_rec)


def test_a_part_of_the_neurons(utterances):
    layer = seed_small(
        utterances, n_regular=80, n_adaptive=20, settings=SMALL._replace(lmu_fraction=0.5)
    )
    members = np.r_[0:40, 80:90]
    others = np.r_[40:80, 90:100]
    assert layer.E.shape == (2, 40, 2)
    for w_in, w_rec in zip(layer.w_in, layer.w_rec):
        assert w_rec[np.ix_(np.arange(40), np.arange(40))].any()
        assert not w_rec[np.ix_(others, members)].any()  # the loop is not disturbed
        off_diagonal = w_rec[:, others][w_rec[:, others] != 0]
        assert off_diagonal.size == 100 * 50 - 50  # all but the diagonal
        assert off_diagonal.std() == pytest.approx(0.05 / 10, rel=0.05)
        assert w_in[:, others].std() == pytest.approx(0.05 / np.sqrt(12), rel=0.15)
    # The LMU's part runs as it would alone: the rest has no way into it.
    (alone,) = report.record_loop(
        layer._replace(
            w_in=layer.w_in[:, :, members], w_rec=layer.w_rec[:, members][:, :, members]
        ),
        utterances[:1],
        alif_parameters(40, 10),
    )
    (whole,) = report.record_loop(layer, utterances[:1], alif_parameters(80, 20))
    np.testing.assert_array_equal(whole.spikes[:, members], alone.spikes)
    assert whole.spikes[:, others].any()


def test_shuffled_rows(layer):
    shuffled = seeding.shuffled_rows(layer.w_rec, 40, np.random.default_rng(0))
    for weights, mixed in zip(layer.w_rec, shuffled):
        np.testing.assert_array_equal(mixed[40:], weights[40:])
        assert not np.diag(mixed).any() and np.any(mixed[:40] != weights[:40])
        # Rows stay together, but for what fell on the diagonal.
        kept = [np.argmin([np.sum(row != other) for other in weights[:40]]) for row in mixed[:40]]
        assert sorted(kept) == list(range(40)) and kept != list(range(40))
        for row, source in zip(mixed[:40], kept):
            assert np.sum(row != weights[source]) <= 2
    assert layer.w_rec[0, 0, 1] != 0  # and the layer itself is left alone


def test_random_weights_are_scaled_to_a_rate(layer, utterances):
    rng = np.random.default_rng(0)
    parameters = alif_parameters(40, 10)
    w_in = rng.normal(size=(2, 12, 50)) / np.sqrt(12)
    w_rec = rng.normal(size=(2, 50, 50)) / np.sqrt(50)
    for rate_hz in (15, 60):
        scale = seeding.scale_for_rate(w_in, w_rec, parameters, utterances, rate_hz)
        activity = memory.simulate(utterances, scale * w_in, scale * w_rec, parameters)
        assert activity.rates_hz.mean() == pytest.approx(rate_hz, rel=0.05)


@pytest.mark.parametrize("rate_hz, scale", [(600, 1), (1, 1e6)])  # 500 Hz is the ceiling
def test_a_rate_that_no_scale_gives(rate_hz, scale, utterances):
    rng = np.random.default_rng(0)
    w_in = scale * rng.normal(size=(2, 12, 50))
    w_rec = rng.normal(size=(2, 50, 50)) / np.sqrt(50)
    with pytest.raises(UserError, match=rf"LMU fires at {rate_hz} Hz, .* 0.001 to 10: ") as error:
        seeding.scale_for_rate(w_in, w_rec, alif_parameters(40, 10), utterances[:2], rate_hz)
    assert "--drive_std" in str(error.value)


def test_eigenvalues_of_a_loop_are_those_of_its_linear_system():
    rng = np.random.default_rng(0)
    a = np.array([[0.9, 0.2], [-0.2, 0.9]])
    b = rng.normal(size=(2, 3))
    records = []
    for _ in range(3):
        inputs, states, m = rng.normal(size=(200, 3)), [], np.zeros(2)
        for x in inputs:
            m = a @ m + b @ x + 0.001 * rng.normal(size=2)
            states.append(m)
        records.append(report.LoopRecord(inputs, None, np.array(states), None))
    found = sorted(report.loop_eigenvalues(records), key=lambda value: value.imag)
    np.testing.assert_allclose(found, [0.9 - 0.2j, 0.9 + 0.2j], atol=1e-3)


# --------------------------------------------------------------------------- files


def test_a_seed_is_read_as_it_was_written(tmp_path, layer):
    path = tmp_path / "seed.npz"
    seeding.save_seed(path, layer, {"theta_ms": 100.0, "speakers": ["a"]})
    found, settings = seeding.load_seed(path, n_features=12, n_neurons=50)
    assert settings == {"theta_ms": 100.0, "speakers": ["a"]}
    for name in seeding.SEEDED:
        wanted = getattr(layer, name)
        if name.startswith("w_"):
            wanted = wanted.astype(np.float32)
        assert getattr(found, name).dtype == wanted.dtype
        np.testing.assert_array_equal(getattr(found, name), wanted)
    assert os.listdir(tmp_path) == ["seed.npz"]


def broken_files(folder, layer):
    """Names of files that hold no usable seed, with what is said of them."""
    good = folder / "good.npz"
    seeding.save_seed(good, layer, {})
    with np.load(good) as file:
        arrays = dict(file)

    def write(name, **changes):
        kept = {key: value for key, value in {**arrays, **changes}.items() if value is not None}
        np.savez(folder / name, **kept)

    nan = arrays["D"].copy()
    nan[0, 0, 0] = np.nan
    write("no_w_rec.npz", w_rec=None)
    write("nan.npz", D=nan)
    write("integers.npz", w_in=arrays["w_in"].astype(int))
    write("no_json.npz", settings=np.array("{"))
    write("objects.npz", A=np.array([{}], object))
    (folder / "text.npz").write_text("no archive")
    (folder / "half.npz").write_bytes(good.read_bytes()[:-500])
    (folder / "pickle.npz").write_bytes(pickle.dumps([1]))
    np.save(folder / "array.npy", np.zeros(3))
    return {
        "none.npz": "cannot read .*No such file",
        "no_w_rec.npz": "has no w_rec",
        "nan.npz": "D in .* not finite",
        "integers.npz": "w_in in .* is int64",
        "no_json.npz": "settings in .* are no JSON object",
        "objects.npz": "holds no seed",
        "text.npz": "holds no seed",
        "half.npz": "holds no seed",
        "pickle.npz": "holds no seed",
        "array.npy": "holds no seed",
    }


def test_files_that_hold_no_seed(tmp_path, layer):
    for name, words in broken_files(tmp_path, layer).items():
        with pytest.raises(UserError, match=f"--init: {words}|--init: .*{words}") as error:
            seeding.load_seed(tmp_path / name, n_features=12, n_neurons=50)
        assert name in str(error.value) and "\n" not in str(error.value)


def test_a_seed_of_another_network_is_refused(tmp_path, layer):
    path = tmp_path / "seed.npz"
    seeding.save_seed(path, layer, {})
    for size in ({"n_features": 39, "n_neurons": 50}, {"n_features": 12, "n_neurons": 400}):
        with pytest.raises(UserError, match=r"w_in in .*\(2, 12, 50\), expected float \(2, "):
            seeding.load_seed(path, **size)


def test_the_forward_cell_may_be_taken_alone(tmp_path, layer):
    path = tmp_path / "seed.npz"
    seeding.save_seed(path, layer, {})
    forward, _ = seeding.load_seed(path, n_features=12, n_neurons=50, n_directions=1)
    for name in ("w_in", "w_rec"):
        expected = getattr(layer, name)[:1].astype(np.float32)
        np.testing.assert_array_equal(getattr(forward, name), expected)


# --------------------------------------------------------------------------- speakers


class Dataset:
    """Splits with these numbers of speakers, two utterances each."""

    def __init__(self, **n_speakers):
        for split, n in n_speakers.items():
            metadata = [{"dr": "dr1", "speaker": f"{split}{i // 2:02d}"} for i in range(2 * n)]
            arrays = [np.zeros((3, 1), np.float32)] * (2 * n)
            setattr(self, split, Split(arrays, [np.zeros(3, int)] * (2 * n), metadata))


def test_folds_hold_out_every_speaker_once():
    dataset = Dataset(train=10, develop=3, test=3)
    held_out = []
    for fold in range(4):
        speech = report.choose_speech(dataset, fold)
        assert speech.splits == ("train", "develop", "test") and len(speech.utterances) == 32
        of_fold = sorted({s for s, out in zip(speech.speakers, speech.is_held_out) if out})
        assert of_fold == sorted(set(speech.speakers))[fold::4]
        assert len(speech.fit()) == 24
        held_out += of_fold
    assert sorted(held_out) == sorted(set(speech.speakers))


def test_a_large_training_set_leaves_the_other_splits_alone():
    speech = report.choose_speech(Dataset(train=16, develop=3, test=3), 0)
    assert speech.splits == ("train",) and len(speech.utterances) == 32


def test_too_few_speakers():
    with pytest.raises(UserError, match=r"has 3 speaker\(s\): expected at least 4"):
        report.choose_speech(Dataset(train=1, develop=1, test=1), 0)


# --------------------------------------------------------------------------- the script

TINY = (
    *("--n_regular=24", "--n_adaptive=6", "--order=2", "--n_channels=1"),
    *("--theta_ms=60", "--fold=1", "--seed=3"),
)


@pytest.fixture(scope="module")
def reported(tmp_path_factory, tiny_processed):
    """Folder of a run of the script with a report, and the ended process."""
    folder = tmp_path_factory.mktemp("lmu_init")
    process = run_in(
        folder, "lmu_init.py", f"--dataset={tiny_processed}", *TINY, "--report=report.json"
    )
    assert process.returncode == 0, process.stderr
    return folder, process


def test_the_script_writes_weights_report_table_and_figures(reported):
    folder, process = reported
    assert sorted(os.listdir(folder)) == [
        "lmu_init.npz",
        "report.json",
        "report.md",
        "report_eigenvalues.png",
        "report_memory.png",
        "report_utterance.png",
    ]
    assert process.stderr == ""
    for words in ("speakers of train, develop, test", "seeding the backward cell", "closed loop"):
        assert words in process.stdout
    layer, settings = seeding.load_seed(folder / "lmu_init.npz", 39, 30)
    assert layer.w_in.any() and settings["order"] == 2 and settings["fold"] == 1
    assert settings["splits"] == ["train", "develop", "test"]
    assert not set(settings["speakers"]) & set(settings["held_out_speakers"])


def test_the_report_has_the_agreed_keys(reported):
    folder, process = reported
    report = json.loads((folder / "report.json").read_text())
    assert list(report) == ["lmu", "shuffled", "random", "random_scaled"]
    for values in report.values():
        assert list(values) == [
            "rate_hz_mean",
            "rate_hz_max",
            "silent_share",
            "psi_positive_share",
            "r2_channels",
            "memory_capacity_channels",
            "frame_accuracy_forward",
            "frame_accuracy",
        ]
        assert len(values["r2_channels"]) == 21
        assert values["memory_capacity_channels"] == pytest.approx(sum(values["r2_channels"]))
        assert 0.05 < values["frame_accuracy"] < 1
    lmu, scaled = report["lmu"], report["random_scaled"]
    # Scaled on some of the utterances that are fitted to, measured on all.
    assert scaled["rate_hz_mean"] == pytest.approx(lmu["rate_hz_mean"], rel=0.25)
    assert report["random"]["rate_hz_mean"] > 1.5 * lmu["rate_hz_mean"]
    table = (folder / "report.md").read_text()
    assert table.split("\n\n")[1] in process.stdout
    for words in ("| random_scaled |", "- fold: 1", "- held_out_speakers: ["):
        assert words in table


def test_the_same_seed_writes_the_same_weights(reported, tiny_processed, run_script, tmp_path):
    folder, _ = reported
    process = run_script("lmu_init.py", f"--dataset={tiny_processed}", *TINY, "--out=again.npz")
    assert process.returncode == 0 and os.listdir(tmp_path) == ["again.npz"]  # no report asked for
    first, again = (
        seeding.load_seed(path, 39, 30)[0]
        for path in (folder / "lmu_init.npz", tmp_path / "again.npz")
    )
    for name in seeding.SEEDED:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--order=40", "--n_regular=100"], "160 state variables .* 100 regular neurons"),
        (["--method=magic"], "--method=magic.*matched.*nengo"),
        (["--fold=4"], "--fold=4"),
        (["--out=nowhere/x.npz"], "--out: there is no folder nowhere"),
        (["--report=x.md"], "--report=x.md: expected the name of a .json file"),
        (["--dt=0.976"], "silent step: use another --n_ref or --dt"),
        (["--channels=99"], "--channels=99: .* 0 to 12"),
        (["--preproc=cochspec"], "--preproc=cochspec"),
        (["--drive_std=0", "--gain_min=0", "--gain_max=0.01"], "do not spike"),
    ],
)
def test_mistakes_are_refused(arguments, words, tiny_processed, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        lmu_init.main(flag_values(f"--dataset={tiny_processed}", *arguments))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("argument", ["--dataset=nowhere", "--theta_ms=5"])
def test_mistakes_end_in_one_line(argument, run_script, tmp_path):
    process = run_script("lmu_init.py", argument)
    assert_user_error(process, "lmu_init.py: error:", argument.split("=")[1])
    assert os.listdir(tmp_path) == []


# --------------------------------------------------------------------------- real speech


def test_what_a_seeded_layer_remembers_of_speech(timit_sample, tmp_path):
    """One fold of the acceptance: as many spikes, more memory than shuffled or random weights."""
    paths = [f"--data_path={timit_sample}", f"--output_path={tmp_path / 'processed'}"]
    timit_processing.main(parse_flags(timit_processing.define_flags, ["processing", *paths])[0])
    dataset = TimitDataset(str(tmp_path / "processed"))
    speech = report.choose_speech(dataset, fold=0)
    parameters = alif_parameters(300, 100)
    settings = lmu_flags.settings_from_flags(flag_values(), dataset.n_static)
    layer = seeding.seed_layer(
        speech.fit(), parameters, 300, settings, np.random.default_rng(1), 1, say=quiet
    )

    def measure(w_in, w_rec):
        return memory.measure(
            speech.utterances,
            speech.phns,
            speech.speakers,
            speech.is_held_out,
            w_in,
            w_rec,
            parameters,
            layer.P[0],
            dataset.n_phns,
        )

    lmu = measure(layer.w_in, layer.w_rec)
    rng = np.random.default_rng(0)
    shuffled = measure(layer.w_in, seeding.shuffled_rows(layer.w_rec, 300, rng))
    assert 30 < lmu["rate_hz_mean"] < 60 and lmu["rate_hz_max"] < 120
    assert lmu["silent_share"] < 0.01 and lmu["psi_positive_share"] > 0.2
    assert lmu["r2_channels"][20] > 0.23
    gain = lmu["memory_capacity_channels"] - shuffled["memory_capacity_channels"]
    assert gain > 1.3
    assert lmu["frame_accuracy_forward"] > 0.5

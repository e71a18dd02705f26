"""Seeded layers, their controls and their files, on small data."""

import os
import pickle

import numpy as np
import pytest
from small_layers import SMALL, seed_small

from layers.neurons import alif_parameters
from lmu import memory, report, seeding
from toolbox.command_line import UserError


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


def test_the_backward_cell_is_seeded_on_reversed_speech(speech):
    """One direction alone of reversed speech is what the second direction gets."""
    backward = [u[::-1] for u in speech]

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

    both = seed(speech, 2)
    forward, of_reversed = seed(speech, 1), seed(backward, 1)
    for name in seeding.SEEDED:
        mine = getattr(both, name)
        np.testing.assert_array_equal(mine[0], getattr(forward, name)[0])
        np.testing.assert_array_equal(mine[1], getattr(of_reversed, name)[0])
    assert np.abs(both.D[1] - both.D[0]).max() > 0.01 * np.abs(both.D[0]).max()


def test_the_other_method_gives_a_layer_of_the_same_kind(layer, speech):
    by_nengo = seed_small(speech, settings=SMALL._replace(method="nengo"))
    for name in seeding.SEEDED:
        mine, other = getattr(layer, name), getattr(by_nengo, name)
        assert other.shape == mine.shape and other.dtype == mine.dtype
        assert np.isfinite(other).all() and np.any(other != 0)
    np.testing.assert_array_equal(by_nengo.P[0], layer.P[0])
    assert not np.diagonal(by_nengo.w_rec, axis1=1, axis2=2).any()


def test_equal_seeds_equal_layers(layer, speech):
    again, other = seed_small(speech), seed_small(speech, seed=2)
    for name in seeding.SEEDED:
        np.testing.assert_array_equal(getattr(again, name), getattr(layer, name))
    assert np.any(other.w_rec != layer.w_rec)


def test_a_part_of_the_neurons(speech):
    layer = seed_small(
        speech, n_regular=80, n_adaptive=20, settings=SMALL._replace(lmu_fraction=0.5)
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
        speech[:1],
        alif_parameters(40, 10),
    )
    (whole,) = report.record_loop(layer, speech[:1], alif_parameters(80, 20))
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


def test_random_weights_are_scaled_to_a_rate(layer, speech):
    rng = np.random.default_rng(0)
    parameters = alif_parameters(40, 10)
    w_in = rng.normal(size=(2, 12, 50)) / np.sqrt(12)
    w_rec = rng.normal(size=(2, 50, 50)) / np.sqrt(50)
    for rate_hz in (15, 60):
        scale = seeding.scale_for_rate(w_in, w_rec, parameters, speech, rate_hz)
        activity = memory.simulate(speech, scale * w_in, scale * w_rec, parameters)
        assert activity.rates_hz.mean() == pytest.approx(rate_hz, rel=0.05)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(SMALL._replace(method="nengo"), marks=pytest.mark.stress),
        SMALL._replace(lmu_fraction=0.5),
        SMALL._replace(drive_std=4),
    ],
)
def test_the_control_fires_as_much_whatever_the_settings(settings, speech):
    layer, parameters = seed_small(speech, settings=settings), alif_parameters(40, 10)
    control = seeding.shuffled_control(layer, parameters, speech, np.random.default_rng(0))
    rates_hz = [
        seeding.mean_rate_hz(*weights, parameters, speech) for weights in (layer[:2], control)
    ]
    assert rates_hz[1] == pytest.approx(rates_hz[0], rel=0.03) and rates_hz[0] > 5
    n_lmu = layer.D.shape[-1]
    scale = control[0][0, 0, 0] / layer.w_in[0, 0, 0]
    np.testing.assert_allclose(control[1][:, n_lmu:], scale * layer.w_rec[:, n_lmu:])
    unscaled = seeding.mean_rate_hz(layer.w_in, control[1] / scale, parameters, speech)
    assert abs(unscaled - rates_hz[0]) > abs(rates_hz[1] - rates_hz[0])


def test_a_rate_that_is_jumped_over(monkeypatch):
    def jumping(w_in, *rest):
        return 100.0 if w_in > 1 else 1.0

    monkeypatch.setattr(seeding, "mean_rate_hz", jumping)
    with pytest.raises(UserError, match="LMU fires at 50 Hz, its control at 1 to 100 Hz, but not"):
        seeding.scale_for_rate(1, 1, None, None, 50)


@pytest.mark.parametrize("rate_hz, scale", [(600, 1), (1, 1e6)])  # 500 Hz is the ceiling
def test_a_rate_that_no_scale_gives(rate_hz, scale, speech):
    rng = np.random.default_rng(0)
    w_in = scale * rng.normal(size=(2, 12, 50))
    w_rec = rng.normal(size=(2, 50, 50)) / np.sqrt(50)
    with pytest.raises(UserError, match=rf"LMU fires at {rate_hz} Hz, .* 0.001 to 10: ") as error:
        seeding.scale_for_rate(w_in, w_rec, alif_parameters(40, 10), speech[:2], rate_hz)
    assert "--drive_std" in str(error.value)


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

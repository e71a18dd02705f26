"""`--init`: the weights that each start gives, and which are refused."""

import types

import numpy as np
import pytest
from small_layers import SMALL

from layers import neurons
from layers.neurons import alif_parameters
from lmu import seeding, starts
from signals import N_STATIC
from toolbox import command_line
from toolbox.command_line import UserError


def flag_values(*arguments):
    def define_flags(flag_values):
        define = command_line.Definer(flag_values)
        for name, default in (("rec", True), ("tau_v_spread", False)):
            define.bool(name, default, "")
        define.integer("n_directions", 2, "")
        for name, default in (("preproc", "mfccs"), ("resume", "")):
            define.string(name, default, "")
        neurons.define_flags(define)
        starts.define_flags(define)

    sizes = ["--n_regular=40", "--n_adaptive=10"]
    return command_line.parse_flags(define_flags, ["script", *sizes, *arguments])[0]


def first_layer(speech, *arguments):
    train = types.SimpleNamespace(features=speech)
    dataset = types.SimpleNamespace(train=train, n_static=N_STATIC, n_features=12)
    rng = np.random.default_rng(1)
    return starts.first_layer(flag_values(*arguments), dataset, alif_parameters(40, 10), 0.05, rng)


def test_a_random_start_is_none_of_these(speech):
    assert first_layer(speech) is None


def test_seeded_starts_are_the_seeded_layer_and_its_control(speech, layer):
    settings = [f"--order={SMALL.order}", f"--n_channels={SMALL.n_channels}"]
    w_in, w_rec = first_layer(speech, "--init=lmu", *settings)
    np.testing.assert_array_equal(w_in, layer.w_in)
    np.testing.assert_array_equal(w_rec, layer.w_rec)
    own, shuffled = (w_in, w_rec), first_layer(speech, "--init=lmu_shuffled", *settings)
    assert not np.diagonal(shuffled[1], axis1=1, axis2=2).any()
    scale = shuffled[0][0, 0, 0] / w_in[0, 0, 0]
    np.testing.assert_allclose(shuffled[0], scale * w_in)
    for mine, other in zip(scale * w_rec, shuffled[1]):  # but for the diagonal
        assert np.any(other != mine) and np.isin(other[:40], [0, *mine[:40].ravel()]).all()
    rates = [
        seeding.mean_rate_hz(*start, alif_parameters(40, 10), speech) for start in (own, shuffled)
    ]
    assert scale != 1 and rates[1] == pytest.approx(rates[0], rel=0.03)


def test_a_file_gives_its_weights_to_neurons_like_its_own(speech, layer, tmp_path, capsys):
    path = tmp_path / "seed.npz"
    made_with = {"tau_v": 20.0, "preproc": "mfccs", "splits": ["train"]}
    seeding.save_seed(path, layer, made_with)
    for n_directions in (1, 2):
        w_in, w_rec = first_layer(speech, f"--init={path}", f"--n_directions={n_directions}")
        np.testing.assert_array_equal(w_in, layer.w_in[:n_directions].astype(np.float32))
        np.testing.assert_array_equal(w_rec, layer.w_rec[:n_directions].astype(np.float32))
    assert capsys.readouterr().out == ""
    for flag, words in (("--tau_v=10", "--tau_v=20.0, expected 10.0"), ("--preproc=x", "mfccs")):
        with pytest.raises(UserError, match=f"was made with .*{words}"):
            first_layer(speech, f"--init={path}", flag)
    seeding.save_seed(path, layer, made_with | {"splits": ["train", "test"]})
    first_layer(speech, f"--init={path}")
    assert "more speech than the training set" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--init=LMU"], "--init=LMU: expected random, lmu, lmu_shuffled, or an .npz file"),
        (["--init=lmu", "--norec"], "--norec with --init=lmu"),
        (["--init=seed.npz", "--tau_v_spread"], "--tau_v_spread with --init=seed.npz"),
        (["--order=3"], "--order=3 without --init=lmu or lmu_shuffled"),
        (["--init=lmu", "--theta_ms=9"], "--theta_ms=9"),
    ],
)
def test_starts_that_cannot_work(arguments, words):
    with pytest.raises(UserError, match=words):
        starts.check_flags(flag_values(*arguments))

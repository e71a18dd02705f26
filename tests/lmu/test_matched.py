"""The parts of the construction against explicit sums, and the loop against the ideal memory."""

import numpy as np
import pytest

from layers.neurons import alif_parameters
from lmu import legendre, matched
from lmu.matched import LmuSettings
from signals import N_STATIC, speech_like
from toolbox.command_line import UserError

ONE_CHANNEL = LmuSettings(N_STATIC, theta_ms=100, order=3, n_channels=1)


@pytest.fixture(scope="module")
def utterances():
    return speech_like(0, 20, lengths=(200, 150, 230))


@pytest.fixture(scope="module")
def parameters():
    return alif_parameters(120, 20)


@pytest.fixture(scope="module")
def seeded(utterances, parameters):
    lines = []
    rng = np.random.default_rng(1)
    seed = matched.seed_direction(utterances, parameters, 120, ONE_CHANNEL, rng, lines.append)
    return seed, lines


def decoded_and_ideal(seed, utterances, parameters, w_rec=None):
    """States [all steps, d] read from the running loop, and those of the memory by (2)."""
    alpha, n = parameters.alpha[0], seed.D.shape[1]
    currents = [u @ seed.w_in for u in utterances]
    spikes = matched.spikes_of(currents, seed.w_rec if w_rec is None else w_rec, parameters)
    decoded = [matched.filtered(z[:, :n], alpha) @ seed.D.T for z in spikes]
    ideal = [
        matched.ideal_states(matched.low_passed(u @ seed.P, alpha, 5), seed.A, seed.B)
        for u in utterances
    ]
    return np.concatenate(decoded), np.concatenate(ideal)


def correlations(decoded, ideal):
    return np.array([np.corrcoef(x, y)[0, 1] for x, y in zip(decoded.T, ideal.T)])


# --------------------------------------------------------------------------- channels, encoders


def test_channels_are_principal_components_of_the_static_features(utterances):
    rng = np.random.default_rng(0)
    p = matched.channel_projection(utterances, LmuSettings(N_STATIC, n_channels=3), rng)
    assert p.shape == (12, 3) and not p[N_STATIC:].any()
    frames = np.concatenate(utterances).astype(float)
    np.testing.assert_allclose(np.cov(frames @ p, rowvar=False), np.eye(3), atol=1e-9)
    centred = frames[:, :N_STATIC] - frames[:, :N_STATIC].mean(0)
    _, _, vt = np.linalg.svd(centred, full_matrices=False)  # another way to the components
    for k in range(3):
        cosine = p[:N_STATIC, k] @ vt[k] / np.linalg.norm(p[:, k])
        assert abs(cosine) == pytest.approx(1, abs=1e-9)
        assert p[np.argmax(abs(p[:, k])), k] > 0


@pytest.mark.parametrize("channels, n_channels", [("random", 3), ("2,0", 2)])
def test_other_channels(utterances, channels, n_channels):
    settings = LmuSettings(N_STATIC, n_channels=n_channels, channels=channels)
    p = matched.channel_projection(utterances, settings, np.random.default_rng(0))
    frames = np.concatenate(utterances).astype(float)
    np.testing.assert_allclose((frames @ p).std(0), 1, rtol=1e-3)  # N or N - 1
    assert not p[N_STATIC:].any()
    if channels == "2,0":
        assert [np.flatnonzero(column).tolist() for column in p.T] == [[2], [0]]


@pytest.mark.parametrize(
    "channels, words",
    [
        ("first", "expected pca, random, or columns"),
        ("0,1,2", "names 3 columns, but --n_channels=2"),
        ("1,1", "names 1 columns, but --n_channels=2"),
        ("0,4", "no static feature 4, expected 0 to 3"),
        ("-1,0", "no static feature -1"),
        ("", "expected pca, random, or columns"),
    ],
)
def test_channels_that_are_none_are_refused(channels, words):
    with pytest.raises(UserError, match=words):
        matched.list_of_channels(LmuSettings(N_STATIC, n_channels=2, channels=channels))


def test_a_constant_channel_is_refused(utterances):
    flat = [u.copy() for u in utterances]
    for u in flat:
        u[:, 1] = 0
    settings = LmuSettings(N_STATIC, n_channels=2, channels="0,1")
    with pytest.raises(UserError, match="a channel is constant"):
        matched.channel_projection(flat, settings, np.random.default_rng(0))


@pytest.mark.parametrize("dimensions", [1, 2, 16])
def test_encoders_are_pairs_on_the_sphere(dimensions):
    encoders = matched.scattered_encoders(101, dimensions, np.random.default_rng(0))
    assert encoders.shape == (101, dimensions)
    np.testing.assert_allclose(np.linalg.norm(encoders, axis=1), 1, rtol=1e-9)
    np.testing.assert_allclose(encoders[51:], -encoders[:50], atol=1e-12)
    covariance = encoders.T @ encoders / 101 * dimensions
    np.testing.assert_allclose(covariance, np.eye(dimensions), atol=0.45)


def test_the_drive_has_the_wanted_deviation(utterances, parameters):
    drive = matched.random_drive(utterances, parameters, 2.0, np.random.default_rng(0))
    potentials = []
    for utterance in utterances:
        v = np.zeros(drive.shape[1])
        for frame in utterance:
            for _ in range(5):
                v = parameters.alpha * v + frame @ drive
                potentials.append(v)
    np.testing.assert_allclose(np.std(potentials, axis=0), 2 * parameters.thr, rtol=1e-3)


def test_ideal_states_follow_equation_2(utterances):
    channels, alpha, n_repeat = utterances[0][:, :2].astype(float), np.exp(-1 / 20), 3
    a, b = legendre.discrete(3, 24)
    x, m, states = np.zeros(2), np.zeros((2, 3)), []
    for frame in channels:
        for _ in range(n_repeat):
            x = alpha * x + (1 - alpha) * frame
            m = m @ a.T + np.outer(x, b)
            states.append(m.ravel())
    found = matched.ideal_states(matched.low_passed(channels, alpha, n_repeat), a, b)
    np.testing.assert_allclose(found, states, atol=1e-12)


# --------------------------------------------------------------------------- decoders


@pytest.fixture
def regression():
    """zbar [samples, 12] of rectified mixtures of three states [samples, 3]."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(400, 3))
    return np.maximum(states @ rng.normal(size=(3, 12)) + rng.normal(size=12), 0), states


def test_decoders_are_a_ridge_regression(regression):
    zbar, states = regression
    gram = zbar.T @ zbar / len(zbar)
    ridge = 1e-3 * np.trace(gram) / 12
    solution = matched.solve_decoders(zbar, states)
    expected = np.linalg.solve(gram + ridge * np.eye(12), zbar.T @ states / len(zbar))
    np.testing.assert_allclose(solution.decoders, expected, rtol=1e-8)
    np.testing.assert_allclose(
        solution.inverse_gram @ (gram + ridge * np.eye(12)), np.eye(12), atol=1e-8
    )


def test_silent_neurons_are_said_to_be(regression):
    zbar, states = regression
    with pytest.raises(UserError, match="do not spike.*--drive_std"):
        matched.solve_decoders(0 * zbar, states)


def test_slope_correction(regression):
    zbar, states = regression
    decoders = matched.solve_decoders(zbar + 1, states).decoders  # biased on zbar itself
    decoded = zbar @ matched.with_slope_one(decoders, zbar, states)
    slopes = np.linalg.lstsq(states, decoded, rcond=None)[0]
    np.testing.assert_allclose(slopes, np.eye(3), atol=1e-9)


def test_without_a_diagonal_each_column_is_the_regression_on_the_other_neurons(regression):
    """So what the neurons receive stays the best that can be said of the state."""
    zbar, states = regression
    solution = matched.solve_decoders(zbar, states)
    mixing = np.random.default_rng(1).normal(size=(3, 12))
    weights = solution.decoders @ mixing
    masked = matched.without_diagonal(weights, solution.inverse_gram)
    assert not np.diag(masked).any() and np.abs(np.diag(weights)).min() > 1e-3
    ridge = 1e-3 * np.mean(zbar**2) * len(zbar)
    for i in range(12):
        others = np.delete(zbar, i, axis=1)
        alone = np.linalg.solve(
            others.T @ others + ridge * np.eye(11), others.T @ states @ mixing[:, i]
        )
        np.testing.assert_allclose(np.delete(masked[:, i], i), alone, rtol=1e-7, atol=1e-12)
    # Cutting the diagonal off instead disturbs what is received; this treatment hardly does.
    cut = weights * (1 - np.eye(12))
    received = zbar @ weights
    error = [np.mean((zbar @ w - received) ** 2) for w in (masked, cut)]
    assert error[0] < 0.3 * error[1]


# --------------------------------------------------------------------------- the loop


def test_the_potential_without_resets_is_encoded_state_and_drive(seeded, utterances, parameters):
    """The derivation at the module's head, in a simulation by itself; W_rec is E Ad D."""
    seed, _ = seeded
    alpha, thr, n = parameters.alpha[0], parameters.thr[0], 120
    x = np.repeat(utterances[0].astype(float), 5, axis=0)
    (spikes,) = matched.spikes_of([utterances[0] @ seed.w_in], seed.w_rec, parameters)
    v, u = np.zeros(n), np.zeros(n)
    zbar = np.zeros(140)
    w_in, w_rec = seed.w_in[:, :n], seed.w_rec[:, :n]
    for t in range(300):
        before = spikes[t - 1].astype(float) if t else np.zeros(140)
        v = alpha * v + x[t] @ w_in + before @ w_rec - thr * before[:n]
        u = alpha * u + x[t] @ w_in + before @ w_rec
        np.testing.assert_allclose(v + thr * zbar[:n], u, atol=1e-9)
        assert np.all((v > thr)[spikes[t, :n] > 0])  # the simulation is the one meant here
        zbar = alpha * zbar + spikes[t]
    # But for the treatment of the diagonal.
    product = (seed.E @ seed.A @ seed.D).T
    off_diagonal = ~np.eye(n, dtype=bool)
    relative = (seed.w_rec[:n, :n] - product)[off_diagonal].std() / product.std()
    assert relative < 0.3 and not np.diag(seed.w_rec).any()


def test_the_decoded_state_follows_the_ideal_memory(seeded, utterances, parameters):
    """Closed loop, speech that it was not fitted to; and the structure is what does it."""
    seed, lines = seeded
    unseen = speech_like(5, 4, lengths=(300,))
    follows = correlations(*decoded_and_ideal(seed, unseen, parameters))
    assert follows.min() > 0.7 and follows.mean() > 0.82  # 0.8 and 0.9 when this was written
    shuffled = seed.w_rec.copy()
    shuffled[:120] = shuffled[np.random.default_rng(5).permutation(120)]
    without = correlations(*decoded_and_ideal(seed, unseen, parameters, shuffled))
    assert without.mean() < follows.mean() - 0.2
    assert len(lines) == 4 and "closed loop, 1 refit" in lines[-1]


def test_adaptive_neurons_listen_only(seeded, parameters):
    seed, _ = seeded
    assert not seed.w_rec[120:].any()
    assert np.all(seed.w_rec[:120, 120:].std(axis=0) > 0)
    assert seed.E.shape == (120, 3) and seed.D.shape == (3, 120)
    assert seed.w_in.shape == (12, 140) and seed.w_rec.shape == (140, 140)


def test_gains_are_in_thresholds_a_deviation(seeded, utterances, parameters):
    seed, _ = seeded
    states = np.concatenate(
        [
            matched.ideal_states(
                matched.low_passed(u @ seed.P, parameters.alpha[0], 5), seed.A, seed.B
            )
            for u in utterances
        ]
    )
    gains = (states @ seed.E.T).std(0) / parameters.thr[0]
    assert 0.7 - 1e-6 < gains.min() < 0.8 and 2.3 < gains.max() < 2.5 + 1e-6


def test_more_refits_use_the_loop(utterances, parameters):
    """Without a refit decoders are those of driven neurons, scaled; a refit changes them."""
    seeds = [
        matched.seed_direction(
            utterances,
            parameters,
            120,
            ONE_CHANNEL._replace(refits=refits),
            np.random.default_rng(1),
            say=lambda line: None,
        )
        for refits in (0, 1)
    ]
    np.testing.assert_array_equal(seeds[0].E, seeds[1].E)
    assert np.linalg.norm(seeds[1].D - seeds[0].D) > 0.05 * np.linalg.norm(seeds[0].D)


def test_a_loop_that_falls_silent_is_shown_as_one(utterances):
    """Without the drive the dead zone around zero potential swallows a weak memory."""
    lines = []
    settings = ONE_CHANNEL._replace(order=1, drive_std=0, gain_min=0.5, gain_max=0.5, refits=0)
    rng = np.random.default_rng(1)
    matched.seed_direction(utterances[:6], alif_parameters(40, 0), 40, settings, rng, lines.append)
    driven, free = (float(line.split()[-1]) for line in lines[-2:])
    assert driven > 0.3 and free == 0


def test_without_adaptive_neurons(utterances):
    seed = matched.seed_direction(
        utterances[:6],
        alif_parameters(40, 0),
        40,
        ONE_CHANNEL._replace(order=2, refits=0),
        np.random.default_rng(0),
        say=lambda line: None,
    )
    assert seed.w_in.shape == (12, 40) and seed.w_rec.shape == (40, 40)


def test_weights_undo_the_height_of_spikes(utterances):
    """With dt = 2 ms a spike is 1/2 high; the same decays make the same loop of doubled weights."""
    one = alif_parameters(40, 10, n_ref=0)
    seeds = [
        matched.seed_direction(
            utterances[:6],
            one._replace(dt_ms=dt_ms),
            40,
            ONE_CHANNEL._replace(order=2),
            np.random.default_rng(0),
            say=lambda line: None,
        )
        for dt_ms in (1.0, 2.0)
    ]
    np.testing.assert_allclose(seeds[1].w_rec, 2 * seeds[0].w_rec, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(seeds[1].D, seeds[0].D, rtol=1e-6, atol=1e-12)


def test_one_membrane_time_constant_is_needed(utterances):
    parameters = alif_parameters(40, 0, tau_v=np.where(np.arange(40) < 20, 20.0, 10.0))
    with pytest.raises(UserError, match="different membrane time constants.*--tau_v_spread"):
        matched.seed_direction(
            utterances, parameters, 40, ONE_CHANNEL, np.random.default_rng(0), print
        )

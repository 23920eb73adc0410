"""Tilts by moments: the fit against enumerated worlds, and means that no tilt has."""

import numpy as np
import pytest
from scipy.optimize import minimize
from support.refusal import error_of

from dinado_jax.exact.world import World
from dinado_jax.oracles.judge import judge
from dinado_jax.oracles.moments import (
    Tilt,
    TiltedOracle,
    dual,
    feature_values,
    fit_tilt,
    no_oracle,
)

NAMES = ("holds 1", "ends with 2")


def enumerated(seed, concentration):
    """The sequences of a world: probabilities [S], features [S, 2], oracle [S]."""
    world = World(vocabulary=4, length=4, concentration=concentration, seed=seed)
    p, tokens = np.exp(world.log_tabled()), world.rows.tokens[:, 1:]
    features = np.stack([(tokens == 1).any(1), tokens[:, -1] == 2], axis=1)
    return p / p.sum(), features.astype(np.float64), (tokens == 3).any(1).astype(np.float64)


def optimum(p, features, label, tilt):
    """q* of each prompt [P, S]."""
    q = p * label * np.exp(features @ np.array(tilt.coefficients))
    return q / q.sum(axis=1, keepdims=True)


def test_the_gradient_is_the_mean_and_the_hessian_the_covariance():
    rng = np.random.default_rng(0)
    at, log_weight, centred = rng.normal(size=3), rng.normal(size=50), rng.normal(size=(50, 3))
    value, gradient, hessian = dual(at, log_weight, centred)
    share = np.exp(log_weight + centred @ at)
    assert value == pytest.approx(np.log(share.sum()))
    share /= share.sum()
    np.testing.assert_allclose(gradient, share @ centred)
    np.testing.assert_allclose(hessian, np.cov(centred.T, aweights=share, ddof=0))
    for i, step in enumerate(1e-5 * np.eye(3)):
        above, below = (dual(at + s, log_weight, centred) for s in (step, -step))
        assert gradient[i] == pytest.approx((above[0] - below[0]) / 2e-5, abs=1e-8)
        np.testing.assert_allclose(hessian[i], (above[1] - below[1]) / 2e-5, atol=1e-8)


@pytest.mark.parametrize("wanted", [(0.9, 0.05), (0.3, 0.8), (0.5, 0.5)])
def test_with_all_sequences_of_a_prompt_the_fit_is_exact(wanted):
    """Beside another minimiser of the dual."""
    p, features, label = enumerated(seed=1, concentration=1.0)
    tilt = fit_tilt(features, p * label, np.zeros(len(p), int), wanted, NAMES)
    q = optimum(p[None], features, label, tilt)
    np.testing.assert_allclose(q @ features, [wanted], atol=1e-8)

    def brute(at):
        return np.log((p * label * np.exp((features - wanted) @ at)).sum())

    found = minimize(brute, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-8})
    np.testing.assert_allclose(tilt.coefficients, found.x, atol=1e-3)
    exponent = features[label > 0] @ np.array(tilt.coefficients)
    assert (tilt.bound, tilt.smallest) == pytest.approx((exponent.max(), exponent.min()))


@pytest.mark.parametrize("kinds, concentration, samples", [(1, 1, 8), (4, 3, 8), (4, 1, 64)])
@pytest.mark.parametrize("judged", [False, True])
def test_moments_are_met_under_the_exact_optimum(kinds, concentration, samples, judged):
    """Prompts of one kind, of four that differ, and of four that differ much."""
    p, features, labels = zip(*(enumerated(seed, concentration) for seed in range(kinds)))
    p, features, wanted = np.stack(p), features[0], (0.85, 0.5)
    label = labels[0] if judged else np.ones(len(features))
    rng = np.random.default_rng(0)
    prompts = 64_000 // samples
    # As frequent as p says, in random order: what is left is the bias of few samples per prompt.
    even = (np.arange(64_000 // kinds) + 0.5) * kinds / 64_000
    rows = [rng.permutation(np.searchsorted(each.cumsum() / each.sum(), even)) for each in p]
    rows, number = np.concatenate(rows), np.repeat(np.arange(prompts), samples)
    tilt = fit_tilt(features[rows], label[rows], number, wanted, NAMES)
    means = (optimum(p, features, label, tilt) @ features).mean(axis=0)
    np.testing.assert_allclose(means, wanted, atol=0.01)


def test_rates_that_differ_from_prompt_to_prompt():
    """A rare feature, and 8 samples of each prompt: neither four in ten prompts that never show it
    nor prompts that often do mislead the fit."""
    rng = np.random.default_rng(0)
    for rate in (np.full(4000, 0.1), rng.beta(0.5, 2, size=4000)):
        number = np.repeat(np.arange(4000), 8)
        values = (rng.random(32_000) < rate[number]).astype(float)[:, None]
        tilt = fit_tilt(values, np.ones(32_000), number, [0.5], ["rare"])
        odds = rate * np.exp(tilt.coefficients[0])
        assert (odds / (1 - rate + odds)).mean() == pytest.approx(0.5, abs=0.015)


def test_weights_make_samples_of_another_proposal_those_of_p():
    p, features, label = enumerated(seed=2, concentration=3.0)
    rows = np.random.default_rng(0).integers(len(p), size=64_000)
    number, weight = np.repeat(np.arange(8000), 8), p * label * len(p)
    tilt = fit_tilt(features[rows], weight[rows], number, (0.5, 0.5), NAMES)
    means = optimum(p[None], features, label, tilt) @ features
    np.testing.assert_allclose(means, [(0.5, 0.5)], atol=0.02)


def test_the_scale_of_a_feature_is_its_own():
    p, features, label = enumerated(seed=1, concentration=1.0)
    number = np.zeros(len(p), int)
    one = fit_tilt(features, p * label, number, (0.5, 0.5), NAMES)
    other = fit_tilt(1e4 * features - 3, p * label, number, (4997, 4997), NAMES)
    np.testing.assert_allclose(np.array(other.coefficients) * 1e4, one.coefficients, rtol=1e-6)


A = np.array([0, 0, 0, 1, 1, 1.0])
B = np.array([0, 0, 1, 0, 0, 0.0])


@pytest.mark.parametrize(
    "columns, wanted, said",
    [
        ([0 * A], [0.5], "feature one never occurs in the 6 rollouts"),
        ([0 * A + 2], [0.5], "feature one is always 2 in the 6 rollouts"),
        ([A], [1.5], "feature one: a mean of 1.5 is wanted, and it lies between 0 and 1"),
        ([A], [1.0], "what all texts are to have is for rollout.oracle"),
        ([A, B], [0.7, 0.7], "one = 0.7 and two = 0.7 cannot hold together"),
        ([A, B], [0.5, 0.5], "one = 0.5 and two = 0.5 cannot hold together"),
        ([A, 1 - A], [0.5, 0.5], "features one, two depend linearly on each other"),
        ([A, B, 3 * A + B], [0.5, 0.2, 1.7], "features one, two, three depend linearly"),
    ],
)
def test_means_that_no_tilt_has(columns, wanted, said):
    names = ["one", "two", "three"][: len(columns)]
    values = np.stack(columns, axis=1)
    message = error_of(fit_tilt, values, np.ones(6), np.zeros(6, int), wanted, names)
    assert message.startswith("target.moments, ") and said in message


def test_only_rows_that_the_oracle_admits_count():
    weight = np.array([1, 1, 1, 0, 0, 0.0])
    said = error_of(fit_tilt, A[:, None], weight, np.zeros(6, int), [0.5], ["one"])
    assert "feature one never occurs in the 3 rollouts that the target admits" in said


def has(letter):
    return lambda prompts, texts: [letter in text for text in texts]


TILT = Tilt((2.0, -1.0), bound=2.0, smallest=-1.0)


def test_a_tilted_oracle_multiplies_labels_up_to_one():
    texts = ["a", "ab", "b", "", "long"]
    oracle = TiltedOracle(lambda prompts, texts: [1, 1, 1, 0.5, 0], (has("a"), has("b")), TILT)
    found = judge(oracle, [""] * 5, texts).labels
    np.testing.assert_allclose(found, np.exp([0, -1, -3, -2, 0]) * [1, 1, 1, 0.5, 0], rtol=1e-6)
    below = Tilt((2.0, -1.0), bound=1.0, smallest=-1.0)
    assert judge(TiltedOracle(no_oracle, (has("a"), has("b")), below), [""], ["a"]).labels == [1]


def test_where_an_oracle_or_a_feature_fails_the_sample_is_left_out():
    def masked(prompts, texts):
        return np.ma.array(np.ones(len(texts)), mask=["m" in text for text in texts])

    def failing(prompts, texts):
        return [1 / ("z" not in text) for text in texts]

    texts = ["a", "m", "z"]
    result = judge(TiltedOracle(masked, (has("a"), failing), TILT), [""] * 3, texts)
    assert result.errors.tolist() == ["", "masked", "ZeroDivisionError"]
    values = feature_values((has("a"), failing), [""] * 3, texts)
    np.testing.assert_array_equal(values, [[1, 1], [0, 1], [0, np.nan]])


@pytest.mark.parametrize(
    "answer, said",
    [
        ([1.0], "returned 1 value"),
        ([[1.0], [2.0]], "returned an array of shape (2, 1)"),
        ([0.0, float("nan")], "returned nan"),
        ([0.0, float("inf")], "returned inf"),
        (None, "returned None"),
    ],
)
def test_features_that_are_no_numbers(answer, said):
    def odd(prompts, texts):
        return answer

    message = error_of(feature_values, (odd,), ["", ""], ["", ""])
    assert message.startswith("feature ") and said in message
    assert "one bool or float between -1e9 and 1e9 per text" in message


def test_a_feature_that_fails_everywhere_is_named():
    def broken(prompts, texts):
        raise KeyError("first")

    message = error_of(feature_values, (broken,), ["", ""], ["", ""])
    assert "broken, all 2 samples raised" in message and "KeyError" in message

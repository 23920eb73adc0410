"""Where R is all but certain, right or wrong: losses and gradients against float64.

Tables stand for networks, so that logits are the parameters: x is [V, prefixes], a row of two
tokens reads prefix 0 and the prefix that its first token makes.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinado_jax.config.schema import Train
from dinado_jax.exact.table import table_control
from dinado_jax.exact.world import World
from dinado_jax.objectives.direction_and_norm import TwoPartBatch
from dinado_jax.objectives.draws import NormBatch
from dinado_jax.objectives.table import OBJECTIVES
from dinado_jax.ops import bernoulli

pytestmark = pytest.mark.usefixtures("compiled_quickly")

WORLD = World(vocabulary=4, length=2)
V, P = WORLD.vocabulary, WORLD.prefixes
BASE = {"table": jnp.asarray(WORLD.tables())}
p = np.exp(np.float64(WORLD.tables()))
p /= p.sum(0)
TOKENS = (2, 1)  # of the only row
AT = [(2, 0), (1, 3)]  # what they are in the table: token and prefix
SHIFT = 1.5
LOGITS = [-30, -14, -6, 0, 6, 12, 14, 17, 22, 30]
levels = pytest.mark.parametrize("level", LOGITS)
labels = pytest.mark.parametrize("label", [0.0, 1.0])


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -np.float64(x)))


def rows(label):
    return NormBatch(
        tokens=np.int32([[0, *TOKENS]]),
        prompt_length=np.int32([1]),
        length=np.int32([3]),
        label=np.float32([label]),
        suffix=np.ones((1, 2), np.float32),
        shift=np.float32([SHIFT]),
        rate=np.float32([label]),
        bellman=np.ones(1, np.float32),
    )


@functools.partial(jax.jit, static_argnums=0)
def gradients(control, params, batch):
    """{objective: {term: its sum}}, {objective: {term: gradient of the sum}}."""
    halves = TwoPartBatch(direction=batch, norm=batch)
    given = {
        "published": (Train(), batch),
        "prefixes": (Train(), batch),
        "matching": (Train(detach=False), halves),
    }

    def sums(params):
        out = {}
        for name, (train, rows) in given.items():
            terms = OBJECTIVES[name](train).terms(control, params, BASE, rows)
            out[name] = {term: value.sum for term, value in terms.items()}
        if control.recursive:
            terms = OBJECTIVES["matching"](Train()).terms(control, params, BASE, halves)
            out["detached"] = {"rate": terms["rate"].sum}
        return out, out

    slopes, values = jax.jacrev(sums, has_aux=True)(params)
    return values, slopes


def losses(kind, params, label, form="split"):
    """{objective: (terms, gradients)}; `value` is of V in matching, of R in prefixes."""
    values, slopes = gradients(table_control(WORLD, kind, form), params, rows(label))
    return {name: (values[name], slopes[name]) for name in values}


def of_values(shown):
    """The terms of V, of the prompt and of later prefixes: their sum, and its gradient."""
    values, gradients = shown["matching"]
    total = jax.tree.map(lambda *x: sum(map(np.float64, x)), gradients["rate"], gradients["value"])
    return values["rate"] + values["value"], total


def close(found, expected):
    """Within 1e-4 of each entry, and of the rounding of what it is the difference of."""
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


# nado: R(v) = sigmoid(z_v)


def table_of(entries):
    out = np.zeros((V, P))
    for (token, prefix), value in entries.items():
        out[token, prefix] += value
    return out


def nado_at(level, spread=1.0):
    noise = np.random.default_rng(0).uniform(-spread, spread, (V, P))
    return np.float32(np.clip(level + noise, -30, 30))


def value_of(z, prefix):
    """V, 1 - V and p sigmoid'(z)."""
    up, down = sigmoid(z[:, prefix]), sigmoid(-z[:, prefix])
    return p[:, prefix] @ up, p[:, prefix] @ down, p[:, prefix] * up * down


@labels
@levels
def test_nado_by_the_logits_of_drawn_tokens(level, label):
    z = nado_at(level)
    shown = losses("nado", {"direction": z}, label)

    def judged(shift, at=AT):
        """The gradient of BCE with the drawn logits, and the loss."""
        odds = {place: np.float64(z[place]) + shift for place in at}
        entropy = [np.logaddexp(0, x) if label == 0 else np.logaddexp(0, -x) for x in odds.values()]
        slopes = {place: sigmoid(x) if label == 0 else -sigmoid(-x) for place, x in odds.items()}
        return sum(entropy), table_of(slopes)

    for name, term, expected in (
        ("published", "prefixes", judged(0.0)),
        ("prefixes", "value", judged(SHIFT)),
        ("matching", "terminal", judged(SHIFT, AT[1:])),
    ):
        value, gradient = (part[term] for part in shown[name])
        np.testing.assert_allclose(value, expected[0], rtol=1e-5)
        np.testing.assert_allclose(gradient["direction"], expected[1], rtol=1e-4, atol=0)


@labels
@levels
def test_nado_by_the_values_of_prefixes(level, label):
    z = nado_at(level)
    entropy, expected = 0.0, np.zeros((V, P))
    of_row = 1 if label else np.exp(SHIFT)
    for prefix in (0, 3):
        up, down, slope = value_of(z, prefix)
        odds = np.log(up) - np.log(down)
        entropy += of_row * np.logaddexp(0, odds if label == 0 else -odds)
        pull = sigmoid(odds) if label == 0 else -sigmoid(-odds)
        expected[:, prefix] = of_row * pull * slope / (up * down)
    value, gradient = of_values(losses("nado", {"direction": z}, label))
    np.testing.assert_allclose(value, entropy, rtol=1e-5)
    close(gradient["direction"], expected)
    # Far below 1 as well: relative to what is there.
    used = np.abs(expected).sum(0) > 0
    size = np.abs(expected).max(0, keepdims=True)
    assert (np.abs(gradient["direction"] - expected) < 1e-4 * size + 1e-30)[:, used].all()


@levels
@pytest.mark.parametrize("spread", [1.0, 25.0])
def test_nado_by_consistency(level, spread):
    """KL(V || R) of the second prefix and the first token."""
    z = nado_at(level, spread)
    up, down, slope = value_of(z, 3)
    r = np.float64(z[AT[0]])
    odds = np.log(up) - np.log(down)
    expected = np.zeros((V, P))
    expected[:, 3] = slope * (odds - r)
    expected[AT[0]] = sigmoid(r) * down - sigmoid(-r) * up
    loss = up * (np.logaddexp(0, -r) - np.logaddexp(0, -odds))
    loss += down * (np.logaddexp(0, r) - np.logaddexp(0, odds))
    for name in ("published", "matching"):
        value, gradient = (part["bellman"] for part in losses("nado", {"direction": z}, 0.0)[name])
        assert float(value) == pytest.approx(loss, rel=1e-4, abs=1e-6 * min(up, down))
        size = np.abs(expected).max()
        assert (np.abs(gradient["direction"] - expected) <= 1e-4 * size + 1e-30).all()


@labels
@pytest.mark.parametrize("level", [-5000, -200, -90, 90, 200, 5000])
def test_nado_beyond_what_exponentials_hold(level, label):
    """A confident wrong prefix is pulled with all of one unit, a right one left alone."""
    z = np.float32(level + np.random.default_rng(0).uniform(-1, 1, (V, P)))
    shown = losses("nado", {"direction": z}, label)
    chex.assert_tree_all_finite(shown)
    wrong = (level > 0) != bool(label)
    expected = table_of(dict.fromkeys(AT, (1.0 if level > 0 else -1.0) * wrong))
    for name, term in (("published", "prefixes"), ("prefixes", "value")):
        np.testing.assert_allclose(shown[name][1][term]["direction"], expected, atol=1e-6)
    if wrong:
        slopes = of_values(shown)[1]["direction"].sum(0)
        of_row = 1 if label else np.exp(SHIFT)
        np.testing.assert_allclose(np.abs(slopes[[0, 3]]), [of_row, of_row], rtol=1e-4)


# soft and merge: R(v) = beta e^(r(v) - max r); the log-odds of beta are the parameters


def slopes_of_beta(odds, factor, label, shift=0.0):
    """BCE of sigmoid(odds) factor: (loss, its slope by the odds)."""
    up, down, gap = sigmoid(odds), sigmoid(-odds), 1 - factor
    log_odds = np.log(up * factor) - np.log(down + up * gap) + shift
    slope = down / (down + up * gap)
    if label == 0:
        return np.logaddexp(0, log_odds), sigmoid(log_odds) * slope
    return np.logaddexp(0, -log_odds), -sigmoid(-log_odds) * slope


@labels
@levels
@pytest.mark.parametrize("kind", ["soft", "merge"])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_norms_by_their_own_log_odds(kind, scale, level, label):
    rng = np.random.default_rng(1)
    table = np.float32(scale * rng.standard_normal((V, P)))
    beta = np.float32(np.clip(level + rng.uniform(-1, 1, P), -30, 30))
    shown = losses(kind, {"direction": table, "norm": beta}, label)
    r = np.float64(table)
    if kind == "merge":
        r -= np.log((p * np.exp(r)).sum(0))
    factor = np.exp(r - r.max(0))
    at_end = slopes_of_beta(beta[3], factor[AT[1]], label)
    value, gradient = (part["terminal"] for part in shown["published"])
    np.testing.assert_allclose(value, at_end[0], rtol=1e-5)
    expected = np.zeros(P)
    expected[3] = at_end[1]
    np.testing.assert_allclose(gradient["norm"], expected, rtol=1e-4, atol=0)
    prefixes = [
        slopes_of_beta(beta[prefix], (p * factor).sum(0)[prefix], label) for prefix in (0, 3)
    ]
    value, gradient = of_values(shown)
    of_row = 1 if label else np.exp(SHIFT)
    np.testing.assert_allclose(value, of_row * sum(loss for loss, _ in prefixes), rtol=1e-5)
    expected[[0, 3]] = [of_row * slope for _, slope in prefixes]
    np.testing.assert_allclose(gradient["norm"], expected, rtol=1e-4, atol=0)
    chex.assert_tree_all_finite(shown)


@pytest.mark.parametrize("kind", ["soft", "merge"])
@pytest.mark.parametrize("level", [-6, 0, 6, 14, 30])
def test_directions_next_to_certainty(kind, level):
    """Tokens other than the peak's hold R below 1: d(-log(1 - R)) / dr = R / (1 - R)."""
    table = np.zeros((V, P), np.float32)
    table[2, 3] = 2.0**-10  # the peak of the second prefix; the row draws another
    beta = np.full(P, level, np.float32)
    _, gradient = losses(kind, {"direction": table, "norm": beta}, 0.0)["published"]
    below = -np.float64(table[2, 3])
    up, down = sigmoid(level), sigmoid(-level)
    pull = up * np.exp(below) / (down + up * -np.expm1(below))
    np.testing.assert_allclose(
        gradient["terminal"]["direction"], table_of({AT[1]: pull, (2, 3): -pull}), rtol=1e-3
    )


# hard: R follows from beta of the prompt


@labels
@levels
@pytest.mark.parametrize("form", ["clamped", "projected"])
def test_hard_by_the_log_odds_of_its_prompt(form, level, label):
    """With a direction that changes nothing, R is beta everywhere."""
    params = {"direction": np.zeros((V, P), np.float32), "norm": np.full(P, level, np.float32)}
    shown = losses("hard", params, label, form)
    pull = sigmoid(level) if label == 0 else -sigmoid(-level)
    expected = np.zeros(P)
    expected[0] = 2 * pull
    gradient = shown["published"][1]["prefixes"]["norm"]
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=0)
    expected[0] = pull if label == 1 else pull * np.exp(SHIFT)
    rate = shown["detached"][1]["rate"]["norm"]
    np.testing.assert_allclose(rate, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("level", [-30, -6, 0, 6])
@pytest.mark.parametrize("form", ["clamped", "projected"])
def test_hard_follows_its_direction_next_to_certainty(form, level):
    """The log-odds of R after each token, bent or not, where R stays below 1."""
    rng = np.random.default_rng(2)
    table = np.float32(rng.standard_normal((V, P)))
    beta = np.full(P, level, np.float32)
    control = table_control(WORLD, "hard", form)
    params = {"direction": table, "norm": beta}
    values = jax.jit(control.values)(BASE, params, rows(1.0))
    r = np.float64(table) - np.log((p * np.exp(np.float64(table))).sum(0))
    log_r, not_r = np.log(sigmoid(level)), sigmoid(-level)
    for t, (token, prefix) in enumerate(AT):
        factor, total = np.exp(r[:, prefix] - r[:, prefix].max()), None
        total = (p[:, prefix] * factor).sum()
        if form == "projected" and np.exp(log_r) > total:
            not_r = not_r * (1 - factor[token]) / (1 - total)
            log_r = np.log1p(-not_r)
        else:
            log_r = log_r + r[token, prefix]
            not_r = 1 - np.exp(log_r)
        if 0 < not_r < 1:
            odds = log_r - np.log(not_r)
            assert float(values.after_logit[0, t]) == pytest.approx(odds, abs=2e-4)
            assert float(values.log_after[0, t]) == pytest.approx(log_r, abs=1e-5)


def test_a_clamped_r_above_1_is_pulled_down_where_it_is_wrong():
    table = np.zeros((V, P), np.float32)
    table[AT[0]], table[AT[1]] = 3.0, 3.0
    params = {"direction": table, "norm": np.full(P, 2.0, np.float32)}
    shown = losses("hard", params, 0.0, "clamped")
    values = table_control(WORLD, "hard", "clamped").values(BASE, params, rows(0.0))
    assert (values.log_after > 0).all()
    value, gradient = (part["prefixes"] for part in shown["published"])
    assert 2 * -np.log(-bernoulli.CEILING) < value < 50
    assert gradient["direction"][AT[1]] > 0.1 and gradient["norm"][0] > 0.1
    chex.assert_tree_all_finite(shown)

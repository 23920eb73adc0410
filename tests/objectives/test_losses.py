"""The objectives against slow arithmetic in float64, finite differences, and their promises."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny

from dinado_jax.objectives import sft
from dinado_jax.objectives.control import (
    Disentangled,
    Published,
    Warmup,
    divergence,
)
from dinado_jax.ops import bernoulli

pytestmark = pytest.mark.usefixtures("compiled_quickly")

# Bernoulli losses

PROBABILITIES = np.concatenate(
    [10.0 ** np.arange(-30, 0), [0.3, 0.5, 0.500001, 0.7, 0.9], 1 - 10.0 ** np.arange(-2, -7, -1)]
)
LOG_P = np.float32(np.log(PROBABILITIES))
EDGES = jnp.float32([0.0, -1e-7, -1e-6, -2e-6, -np.log(2), -69.9, -70.0])
ODDS = np.float32(np.concatenate([np.arange(-90, 91, 7.5), [-1, -0.1, 0, 0.1, 1, 1e4, -1e4]]))


def log1mexp64(log_p):
    log_p = np.minimum(np.float64(log_p), -1e-6)
    return np.where(log_p > -1, np.log(-np.expm1(log_p)), np.log1p(-np.exp(log_p)))


def log_sigmoid64(odds):
    return -np.logaddexp(0, -np.float64(odds))


def entropy64(odds, label, shift=0.0):
    odds = np.float64(odds) + shift
    return -label * log_sigmoid64(odds) - (1 - label) * log_sigmoid64(-odds)


def odds64(log_p):
    return np.float64(log_p) - log1mexp64(log_p)


def cross_entropy64(log_p, label, shift=0.0):
    return entropy64(odds64(log_p), label, shift)


def kl_of_odds64(a, b):
    def part(a, b):
        return np.exp(log_sigmoid64(a)) * (log_sigmoid64(a) - log_sigmoid64(b))

    return part(a, b) + part(-a, -b)


def kl64(log_a, log_b):
    return kl_of_odds64(odds64(log_a), odds64(log_b))


def test_log1mexp_and_logit():
    np.testing.assert_allclose(bernoulli.log1mexp(LOG_P), log1mexp64(LOG_P), rtol=1e-6)
    expected = np.float64(LOG_P) - log1mexp64(LOG_P)
    np.testing.assert_allclose(bernoulli.logit(LOG_P), expected, rtol=1e-5, atol=1e-6)
    # Certainty is taken for the ceiling, and what is beyond is still pulled back.
    assert bernoulli.log1mexp(jnp.float32(0)) == pytest.approx(np.log(1e-6), rel=1e-6)
    assert jax.grad(bernoulli.logit)(jnp.float32(0.5)) == 1


@pytest.mark.parametrize("label", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("shift", [0.0, 3.5, -3.5])
def test_cross_entropy(label, shift):
    """Next to both ends, its gradient too."""
    of = jax.vmap(jax.value_and_grad(lambda x: bernoulli.cross_entropy(x, label, shift)))
    value, gradient = of(ODDS)
    np.testing.assert_allclose(value, entropy64(ODDS, label, shift), rtol=1e-5, atol=1e-37)
    odds = np.float64(ODDS) + shift
    p, not_p = np.exp(log_sigmoid64(odds)), np.exp(log_sigmoid64(-odds))
    np.testing.assert_allclose(gradient, (1 - label) * p - label * not_p, rtol=2e-5, atol=1e-37)


def test_kl():
    a, b = (x.ravel() for x in np.meshgrid(ODDS, ODDS))
    out, (of_a, of_b) = jax.vmap(jax.value_and_grad(bernoulli.kl, (0, 1)))(a, b)
    np.testing.assert_allclose(out, kl_of_odds64(a, b), rtol=1e-5, atol=2e-7)
    np.testing.assert_array_equal(out[a == b], 0)
    assert (out >= -1e-7).all() and (out[np.abs(a - b) > 1] >= 0).all()
    # To the precision of what they are next to 1, not of 1 itself.
    p, not_p, other, not_other = (np.exp(log_sigmoid64(x)) for x in (a, -a, b, -b))
    expected = p * not_p * (np.float64(a) - b)
    rounding = 1e-6 * p * not_p + 1e-35
    assert (np.abs(of_a - expected) <= 1e-4 * np.abs(expected) + rounding).all()
    np.testing.assert_allclose(of_b, other * not_p - p * not_other, rtol=1e-4, atol=1e-7)
    far = np.minimum(p, not_p) < 1e-6
    close = np.abs(of_b - (other * not_p - p * not_other)) < 1e-4 * np.maximum(
        other * not_p, p * not_other
    )
    assert close[far & (a != b)].all()
    near = jnp.linspace(-5, 30, 500)
    assert (bernoulli.kl(near, near * 1.0001) >= -1e-6).all()


def test_scaled_is_the_product_at_both_ends():
    """sigmoid(z) e^-d for factors near 1, exactly 1 and near 0; and its gradients."""
    d = np.concatenate([[0, 1e-30, 1e-12], 10.0 ** np.arange(-6, 2), [90]])
    z, d = (x.ravel() for x in np.meshgrid(np.float64(ODDS), d))
    out = bernoulli.scaled(np.float32(z), np.float32(-d), np.float32(-np.expm1(-d)))
    with np.errstate(divide="ignore"):
        exact = -d - np.logaddexp(-z, np.log(-np.expm1(-d)))
    sure = (z > bernoulli.SURE) & (-np.expm1(-d) < np.exp(-bernoulli.SURE))
    np.testing.assert_allclose(out[~sure], exact[~sure], rtol=1e-5, atol=1e-5)
    assert (out[sure] > bernoulli.SURE - 1).all()
    gradients = jax.vmap(jax.grad(bernoulli.scaled, (0, 1, 2)))(*np.float32([z, -d, -np.expm1(-d)]))
    chex.assert_tree_all_finite(gradients)
    inside = z <= bernoulli.SURE
    excess = -np.expm1(-d) * np.exp(np.minimum(z, 100))
    weight = np.exp(-np.logaddexp(-z, np.log(np.maximum(-np.expm1(-d), 1e-300))))
    np.testing.assert_allclose(gradients[2][inside], -weight[inside], rtol=1e-4, atol=1e-37)
    np.testing.assert_allclose(
        gradients[0][inside], 1 / (1 + excess[inside]), rtol=1e-4, atol=1e-37
    )


@pytest.mark.parametrize("function", [bernoulli.log1mexp, bernoulli.logit])
def test_values_and_gradients_are_finite_at_both_ends(function):
    values, gradients = jax.vmap(jax.value_and_grad(function))(EDGES)
    chex.assert_tree_all_finite((values, gradients))


@pytest.mark.parametrize("rate", [0.003, 0.08, 0.5, 0.9])
def test_with_logit_adjustment_balanced_labels_fit_the_rate_of_the_population(rate):
    shift = np.log1p(-rate) - np.log(rate)

    @jax.jit
    def balanced(odds):
        return sum(bernoulli.cross_entropy(odds, label, shift) for label in (0.0, 1.0))

    odds = jnp.float32(-shift)
    assert jax.grad(balanced)(odds) == pytest.approx(0.0, abs=1e-4)
    grid = jnp.linspace(odds - 2, odds + 2, 4001)
    best = grid[jnp.argmin(balanced(grid))]
    assert 1 / (1 + np.exp(-best)) == pytest.approx(rate, rel=2e-2)


# The objectives. Rows of one target token, of many, of none; labels hard and soft.

B, WIDTH = 6, 10
CONTROL = tiny.control()
LAMBDA = 0.7
ROWS = {"prompt_length": [1, 3, 2, 6, 9, 4], "length": [10, 7, 3, 10, 10, 5], "seed": 3}
OBJECTIVES = {
    "published": Published(CONTROL, LAMBDA),
    "matching": Disentangled(CONTROL, LAMBDA),
    "ratio": Disentangled(CONTROL, LAMBDA, divergence),
    "warmup": Warmup(CONTROL),
}


def rows(label, width=WIDTH, **given):
    return tiny.batch(**{**ROWS, **given}, label=label, width=width)


# Of each row; the third is far likelier under q than under its proposal, the fourth has none.
SHARE = np.float32([0.5, 0, 2, 1, 0, 1.5])
ABOVE_UNIFORM = np.float32([1, 0.5, -6, np.inf, 0, -1])


def halved_batch(part, direction=None):
    """What `matching` and `ratio` take."""
    direction = rows([1, 1, 1, 0.25, 1, 1], seed=4) if direction is None else direction
    targets = np.float32(direction["length"] - direction["prompt_length"])
    uniform = -targets * np.log(CONTROL.model.vocab_size)
    proposal = {"share": SHARE, "log_proposal": np.float32(uniform + ABOVE_UNIFORM)}
    shift = np.full(len(part["label"]), 2.2, np.float32)
    columns = part["tokens"].shape[1] - 1
    suffix = np.random.default_rng(5).gamma(2, 1, (len(shift), columns)).astype(np.float32)
    norm = {**part, "shift": shift, "suffix": suffix}
    return {"direction": {**direction, **proposal}, "norm": norm}


def batch_for(name, part):
    return part if name == "published" else halved_batch(part)


MIXED = [1, 0, 0.5, 0, 1, 1]


@functools.partial(jax.jit, static_argnums=0)
def terms_of(objective, params, batch):
    return objective.terms(params, tiny.base_params(), batch)


@functools.partial(jax.jit, static_argnums=0)
def gradients_of(objective, params, batch):
    """{term: the gradient of its sum}."""

    def sums(params):
        terms = objective.terms(params, tiny.base_params(), batch)
        return {name: term.sum for name, term in terms.items()}

    return jax.jacrev(sums)(params)


@jax.jit
def whole(params, tokens):
    """The logits of p and q [B, T-1, V], and log beta."""
    base = CONTROL.model.apply({"params": tiny.base_params()}, tokens)
    policy = CONTROL.model.apply(CONTROL.policy_variables(tiny.base_params(), params), tokens)
    log_beta = jax.nn.log_sigmoid(CONTROL.norm.logit(params["norm"], base.hidden[:, :-1]))
    return base.logits[:, :-1], policy.logits[:, :-1], log_beta


def reference(params, batch):
    """Row by row, position by position, in float64: for every target (log q, log V, log R)."""
    out = []
    *logits, log_beta = (np.float64(x) for x in whole(params, batch["tokens"]))
    log_p, log_q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in logits)
    for b, row in enumerate(batch["tokens"]):
        steps = []
        for t in range(batch["prompt_length"][b] - 1, batch["length"][b] - 1):
            r = log_q[b, t] - log_p[b, t]
            log_r = log_beta[b, t] + r - r.max()
            log_v = np.log(np.sum(np.exp(log_p[b, t] + log_r)))
            token = row[t + 1]
            steps.append((log_q[b, t, token], log_v, log_r[token]))
        out.append(steps)
    return out


def expected_direction(params, batch):
    pairs = list(zip(reference(params, batch), batch["label"]))
    return (
        sum(-label * log_q for steps, label in pairs for log_q, _, _ in steps),
        sum(label for _, label in pairs),
    )


def expected_bellman(steps_of_rows):
    residuals = [
        kl64(steps[t + 1][1], steps[t][2]) for steps in steps_of_rows for t in range(len(steps) - 1)
    ]
    return sum(residuals), len(residuals)


def expected_terminal(steps_of_rows, label, shift=0.0):
    entropies = [cross_entropy64(steps[-1][2], c, shift) for steps, c in zip(steps_of_rows, label)]
    return sum(entropies), len(entropies)


def assert_terms(terms, expected):
    assert set(terms) == set(expected)
    for name, (total, weight) in expected.items():
        assert float(terms[name].sum) == pytest.approx(total, rel=2e-5), name
        assert float(terms[name].weight) == pytest.approx(weight, rel=1e-6), name
        assert terms[name].coefficient == (LAMBDA if name == "bellman" else 1.0)


def test_likelihood_against_the_reference():
    batch, base = rows(MIXED), tiny.base_params()
    out = jax.jit(sft.likelihood, static_argnums=0)(CONTROL.model, base, batch)["nll"]
    logits = np.float64(whole(tiny.fresh_params(), batch["tokens"])[0])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = [
        -log_p[b, t - 1, batch["tokens"][b, t]]
        for b in range(B)
        for t in range(batch["prompt_length"][b], batch["length"][b])
    ]
    assert float(out.sum) == pytest.approx(sum(targets), rel=1e-5)
    assert float(out.weight) == len(targets)


def test_published_against_the_reference():
    params, batch = tiny.random_params(), rows(MIXED)
    steps = reference(params, batch)
    assert_terms(
        terms_of(OBJECTIVES["published"], params, batch),
        {
            "terminal": expected_terminal(steps, MIXED),
            # The sum over positions, by row: as published.
            "bellman": (expected_bellman(steps)[0], B),
        },
    )


def expected_divergence(params, batch):
    total = 0.0
    given = zip(reference(params, batch), batch["share"], np.float64(batch["log_proposal"]))
    for steps, share, log_proposal in given:
        log_q = sum(step[0] for step in steps)
        ratio = log_q - log_proposal
        total += np.exp(min(ratio, 3)) * (1 + max(ratio - 3, 0)) - share * log_q
    return total, B


def expected_at_prefixes(steps, batch, which):
    """Cross entropies of V (1) or R (2) at every position, weighted by the suffixes."""
    weighted = [
        (float(suffix[t]), cross_entropy64(step[which], label, 2.2))
        for row, label, suffix, start in zip(steps, MIXED, batch["suffix"], batch["prompt_length"])
        for t, step in enumerate(row, start=start - 1)
    ]
    return sum(w * entropy for w, entropy in weighted), sum(w for w, _ in weighted)


def test_labels_alone_judge_every_prefix_as_its_last_token_leaves_it():
    params, batch = tiny.random_params(), halved_batch(rows(MIXED))
    steps = reference(params, batch["norm"])
    labels = Disentangled(CONTROL, LAMBDA, None, False)
    expected = {
        "value": expected_at_prefixes(steps, batch["norm"], 2),
        "bellman": expected_bellman(steps),
    }
    assert_terms(terms_of(labels, params, {"norm": batch["norm"]}), expected)


@pytest.mark.parametrize("name", ["matching", "ratio"])
def test_halved_objectives_against_the_reference(name):
    params, batch = tiny.random_params(), halved_batch(rows(MIXED))
    steps = reference(params, batch["norm"])
    expected = {"matching": expected_direction, "ratio": expected_divergence}[name]
    assert_terms(
        terms_of(OBJECTIVES[name], params, batch),
        {
            "direction": expected(params, batch["direction"]),
            "value": expected_at_prefixes(steps, batch["norm"], 1),
            "terminal": expected_terminal(steps, MIXED, 2.2),
            "bellman": expected_bellman(steps),
        },
    )


def test_ratio_leaves_a_direction_that_is_right():
    """Where q / d is each row's share already, no row pushes, while likelihood would."""
    params, batch = tiny.random_params(), halved_batch(rows(MIXED))
    part = batch["direction"]
    log_q = [sum(step[0] for step in steps) for steps in reference(params, part)]
    share = np.linspace(0.1, 2, B)
    right = {**part, "share": np.float32(share), "log_proposal": np.float32(log_q - np.log(share))}
    gradient = gradients_of(OBJECTIVES["ratio"], params, {**batch, "direction": right})["direction"]
    chex.assert_trees_all_close(gradient, zeros_like(gradient), atol=2e-3)
    other = gradients_of(OBJECTIVES["matching"], params, batch)["direction"]
    assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(other)) > 0.1


def test_the_warm_up_is_the_direction_alone():
    params, batch = tiny.random_params(), rows(MIXED)
    assert_terms(
        terms_of(OBJECTIVES["warmup"], params, batch),
        {"direction": expected_direction(params, batch)},
    )


# Gradients


def leaves_with_paths(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


@pytest.mark.parametrize("name", ["published", "matching", "ratio"])
def test_gradients_against_finite_differences(name):
    """Along a random direction of every leaf of its own.

    What stop_gradient makes a constant has no finite differences: the norm's terms of `matching`
    and `ratio` are differentiated by the norm only.
    """
    objective, params = OBJECTIVES[name], tiny.random_params()
    batch = batch_for(name, rows(MIXED))
    gradients = gradients_of(objective, params, batch)
    rng = np.random.default_rng(0)
    paths = list(leaves_with_paths(params))
    leaves, structure = jax.tree.flatten(params)
    compared = 0
    for index, (path, leaf) in enumerate(zip(paths, leaves)):
        tangent = rng.standard_normal(leaf.shape)
        tangent *= 0.02 / max(1e-9, np.linalg.norm(tangent))

        def at(step, index=index, leaf=leaf, tangent=tangent):
            moved = [*leaves]
            moved[index] = jnp.float32(leaf + step * tangent)
            return terms_of(objective, jax.tree.unflatten(structure, moved), batch)

        above, below = at(1), at(-1)
        for term, gradient in gradients.items():
            if name != "published" and term != "direction" and "norm" not in path:
                continue
            slope = np.sum(np.float64(leaves_with_paths(gradient)[path]) * tangent)
            difference = (float(above[term].sum) - float(below[term].sum)) / 2
            assert difference == pytest.approx(slope, rel=0.02, abs=2e-4), (term, path)
            compared += abs(slope) > 2e-3
    assert compared > 10


def zeros_like(tree):
    return jax.tree.map(jnp.zeros_like, tree)


@pytest.mark.parametrize("name", ["matching", "ratio"])
def test_direction_and_norm_are_kept_apart(name):
    params = tiny.random_params()
    gradients = gradients_of(OBJECTIVES[name], params, halved_batch(rows(MIXED)))
    direction = gradients.pop("direction")
    chex.assert_trees_all_equal(direction["norm"], zeros_like(params["norm"]))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(direction["direction"]))
    assert set(gradients) == {"value", "terminal", "bellman"}
    for gradient in gradients.values():
        chex.assert_trees_all_equal(gradient["direction"], zeros_like(params["direction"]))
        assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient["norm"]))


def test_published_moves_direction_and_norm_by_both_terms():
    gradients = gradients_of(OBJECTIVES["published"], tiny.random_params(), rows(MIXED))
    for gradient in gradients.values():
        assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("name", ["published", "matching", "ratio"])
@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize(
    "part",
    [
        {"label": np.zeros(B)},
        {"label": np.ones(B)},
        {"label": MIXED, "prompt_length": [9] * B, "length": [10] * B},  # one target token each
        {"label": MIXED, "prompt_length": [1, 2, 3, 4, 5, 10], "length": [1, 2, 3, 4, 5, 10]},
        {"label": MIXED, "prompt_length": [1] * B, "length": [1] * B},  # rows of a single token
    ],
)
def test_nothing_is_ever_nan_or_infinite(name, fresh, part):
    params = tiny.fresh_params() if fresh else tiny.random_params(scale=1.0)
    part = rows(**part)
    batch = part if name == "published" else halved_batch(part, part)
    chex.assert_tree_all_finite(terms_of(OBJECTIVES[name], params, batch))
    chex.assert_tree_all_finite(gradients_of(OBJECTIVES[name], params, batch))


@pytest.mark.parametrize("success_rate", [1e-7, 1 - 1e-7])
@pytest.mark.parametrize("label", [0, 1])
def test_a_norm_that_is_sure_of_itself_and_wrong_stays_finite(success_rate, label):
    params = tiny.fresh_params(success_rate=success_rate)
    batch = rows(np.full(B, label))
    terms = terms_of(OBJECTIVES["published"], params, batch)
    chex.assert_tree_all_finite(terms)
    chex.assert_tree_all_finite(gradients_of(OBJECTIVES["published"], params, batch))
    wrong = (success_rate < 0.5) == bool(label)
    assert (terms["terminal"].sum / B > 10) == wrong


# Sums


def part_of(batch, chosen):
    return jax.tree.map(lambda x: x[chosen], batch)


@pytest.mark.parametrize("name", ["published", "matching", "ratio"])
def test_the_terms_of_two_halves_add_up_to_those_of_the_whole(name):
    params, batch = tiny.random_params(), batch_for(name, rows(MIXED))
    first, second = (part_of(batch, half) for half in (slice(B // 2), slice(B // 2, None)))
    both = terms_of(OBJECTIVES[name], params, batch)
    halves = [terms_of(OBJECTIVES[name], params, half) for half in (first, second)]
    for term, expected in both.items():
        a, b = (half[term] for half in halves)
        assert a.weight + b.weight == expected.weight
        assert float(a.sum + b.sum) == pytest.approx(float(expected.sum), rel=1e-5)


def test_padding_changes_no_term():
    """A wider batch, and other tokens beyond the ends of the rows."""
    params, batch = tiny.random_params(), rows(MIXED)
    wider = {**batch, "tokens": np.pad(batch["tokens"], ((0, 0), (0, 4)), constant_values=7)}
    objective = OBJECTIVES["published"]
    chex.assert_trees_all_close(
        terms_of(objective, params, wider), terms_of(objective, params, batch), rtol=1e-5
    )

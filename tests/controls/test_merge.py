"""The merge control: what its scalars and its norm promise, for any parameters."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny

from dinado_jax.ops.vocab import VocabScalars

pytestmark = pytest.mark.usefixtures("compiled_quickly")

BASE = tiny.base_params
CONTROL = tiny.control()
BATCH = tiny.batch([1, 1, 1], [12, 12, 12])
TOKENS = BATCH.tokens
FIRST = jax.tree.map(lambda x: x[:1], BATCH)
B, T = TOKENS.shape


@jax.jit
def step_inputs(params, tokens):
    return CONTROL.step_inputs(BASE(), params, BATCH.replace(tokens=tokens))


@jax.jit
def everything(params, tokens):
    """log p, log q and log R of every next token [B, T-1, V], and log beta, from whole logits."""
    base = CONTROL.model.apply({"params": BASE()}, tokens)
    policy = CONTROL.model.apply(CONTROL.policy_variables(BASE(), params), tokens)
    log_p, log_q = (jax.nn.log_softmax(out.logits[:, :-1]) for out in (base, policy))
    log_beta = jax.nn.log_sigmoid(CONTROL.norm.logit(params["norm"], base.hidden[:, :-1]))
    r = log_q - log_p
    return log_p, log_q, log_beta[..., None] + r - r.max(-1, keepdims=True), log_beta


def test_a_fresh_control_is_the_base_with_the_success_rate_everywhere():
    out = step_inputs(tiny.fresh_params(), TOKENS)
    chex.assert_shape(jax.tree.leaves(out), (B, T - 1))
    zeros = np.zeros((B, T - 1))
    np.testing.assert_allclose(out.scalars.log_ratio, zeros, rtol=0, atol=1e-6)
    np.testing.assert_allclose(out.scalars.peak, zeros, rtol=0, atol=1e-6)
    log_beta = jax.nn.log_sigmoid(out.beta_logit)
    beta = np.exp(log_beta)
    np.testing.assert_allclose(beta, np.full_like(beta, tiny.SUCCESS_RATE), rtol=0, atol=1e-6)
    # R of the drawn token is beta too.
    log_r = log_beta + out.scalars.below
    np.testing.assert_allclose(np.exp(log_r), beta, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", [1e-6, 0.5, 1 - 1e-6])
def test_the_norm_starts_at_any_success_rate(rate):
    params = CONTROL.norm.init(jax.random.key(0), BASE(), rate)
    states = jax.random.normal(jax.random.key(1), (5, 16))
    log_beta = jax.nn.log_sigmoid(CONTROL.norm.logit(params, states))
    np.testing.assert_allclose(log_beta, np.full(5, np.log(rate)), rtol=2e-2, atol=1e-7)
    assert (log_beta < 0).all()


def test_forward_consistency_holds_exactly_for_random_parameters():
    """sum_v p(v) R(x_<i, v) = V, with R <= 1 for every token: what beta and the peak are for."""
    params = tiny.random_params()
    with jax.default_matmul_precision("highest"):
        log_p, _, log_r, log_beta = everything(params, TOKENS)
        out = step_inputs(params, TOKENS)
    found = jax.nn.log_sigmoid(out.beta_logit)
    log_v = found - out.scalars.peak
    assert out.scalars.peak.max() > 0.5  # far from the initial parameters
    assert np.std(found) > 0.01
    np.testing.assert_allclose(found, log_beta, rtol=0, atol=1e-5)
    expected = np.sum(np.exp(np.float64(log_p) + np.float64(log_r)), axis=-1)
    np.testing.assert_allclose(np.exp(log_v), expected, rtol=1e-5, atol=1e-7)
    assert (log_r <= 0).all()
    np.testing.assert_allclose(log_r.max(-1), log_beta, rtol=0, atol=1e-5)


def test_scalars_are_those_of_whole_logits():
    params = tiny.random_params()
    with jax.default_matmul_precision("highest"):
        log_p, log_q, log_r, log_beta = everything(params, TOKENS)
        out = step_inputs(params, TOKENS)
    drawn = TOKENS[:, 1:, None]
    expected = VocabScalars(
        np.take_along_axis(np.asarray(log_q), drawn, -1)[..., 0],
        np.take_along_axis(np.asarray(log_p), drawn, -1)[..., 0],
        (log_q - log_p).max(-1),
        (log_q - log_p).max(-1),
        np.take_along_axis(np.asarray(log_r), drawn, -1)[..., 0] - log_beta,
        -np.expm1(-(log_q - log_p).max(-1)),
        np.take_along_axis(np.asarray(log_q - log_p), drawn, -1)[..., 0],
        np.zeros(drawn.shape[:-1], np.float32),
    )
    chex.assert_trees_all_close(out.scalars, expected, rtol=0, atol=1e-5)


def test_composed_variables_give_the_log_policy():
    params = tiny.random_params()
    with jax.default_matmul_precision("highest"):
        on_the_fly = jax.jit(CONTROL.log_policy)(BASE(), params, BATCH)
        composed = jax.jit(CONTROL.policy_variables)(BASE(), params)
        assert set(composed) == {"params"}
        merged = jax.jit(CONTROL.policy.log_probs)(composed, BATCH)
        out = step_inputs(params, TOKENS)
    chex.assert_shape(on_the_fly, (B, T - 1))
    np.testing.assert_allclose(on_the_fly, merged, rtol=0, atol=1e-5)
    np.testing.assert_allclose(on_the_fly, out.scalars.log_policy, rtol=0, atol=1e-5)


def test_later_tokens_change_nothing():
    """Position t sees tokens 0..t for beta and M, and 0..t+1 for A."""
    params = tiny.random_params()
    before = step_inputs(params, TOKENS)
    for first in (2, 7, T - 1):
        tokens = TOKENS.copy()
        tokens[:, first:] = tokens[:, first:] % (tiny.VOCABULARY - 1) + 1
        assert (tokens[:, first:] != TOKENS[:, first:]).all()
        after = step_inputs(params, tokens)
        pairs = {
            "log_ratio": (first - 1, before.scalars.log_ratio, after.scalars.log_ratio),
            "peak": (first, before.scalars.peak, after.scalars.peak),
            "beta_odds": (first, before.beta_logit, after.beta_logit),
        }
        for name, (end, x, y) in pairs.items():
            np.testing.assert_array_equal(x[:, :end], y[:, :end], err_msg=name)
            assert end == T - 1 or (x[:, end] != y[:, end]).all(), name


def test_no_gradient_comes_from_later_positions():
    """The table of positions stands for the embeddings: row j is added at position j alone."""
    params = tiny.random_params()

    def scalars(positions):
        base = {**BASE(), "wpe": {"embedding": positions}}
        out = CONTROL.step_inputs(base, params, FIRST).scalars
        return out.log_ratio[0], out.peak[0]

    for jacobian in jax.jit(jax.jacrev(scalars))(BASE()["wpe"]["embedding"]):
        chex.assert_shape(jacobian, (T - 1, 16, 16))
        reaches = np.any(np.asarray(jacobian)[:, : T - 1] != 0, axis=-1)
        np.testing.assert_array_equal(reaches, np.tri(T - 1, dtype=bool))


def test_the_norm_moves_neither_base_nor_delta():
    params = tiny.random_params()

    def total(base, params):
        return CONTROL.step_inputs(base, params, BATCH).beta_logit.sum()

    of_base, of_params = jax.jit(jax.grad(total, (0, 1)))(BASE(), params)
    zeros = jax.tree.map(jnp.zeros_like, (of_base, of_params["direction"]))
    chex.assert_trees_all_equal((of_base, of_params["direction"]), zeros)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(of_params["norm"]))


def test_the_direction_moves_the_delta_alone():
    params = tiny.random_params()

    def total(params):
        scalars = CONTROL.step_inputs(BASE(), params, BATCH).scalars
        return (scalars.log_ratio - scalars.peak).sum()

    gradients = jax.jit(jax.grad(total))(params)
    chex.assert_tree_all_finite(gradients)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients["direction"]))
    chex.assert_trees_all_equal(gradients["norm"], jax.tree.map(jnp.zeros_like, params["norm"]))

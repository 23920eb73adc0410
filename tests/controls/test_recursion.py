"""The recursion over tokens against a plain loop over plain numbers."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny

from dinado_jax.controls.recursion import FLOOR, unroll
from dinado_jax.ops.masks import target_mask

# (prompt length, length) of rows of 10 tokens: long and short prompts, targets of one token, the
# first position, the last one, and no target at all.
ROWS = [(1, 10), (4, 10), (2, 7), (6, 9), (3, 4), (9, 10), (1, 2), (5, 5), (1, 1)]
T = 9
split = jax.jit(functools.partial(unroll, "split"))


def scalars(seed=0):
    """The log-odds of beta, A - M, M and 1 - e^-M as a control gives them."""
    rng = np.random.default_rng(seed)
    peak = np.abs(rng.normal(1, 1, (len(ROWS), T)))
    below = -rng.exponential(1.5, peak.shape)
    beta = np.exp(-rng.exponential(1.0, peak.shape))
    odds = np.log(beta / (1 - beta))
    return [jnp.float32(x) for x in (odds, below, peak, -np.expm1(-peak))]


def plain(beta_logit, below, peak, gap):
    """log beta, A and M."""
    return -np.logaddexp(0, -np.float64(beta_logit)), np.float64(below + peak), np.float64(peak)


def mask():
    prompt_length, length = np.array(ROWS).T
    return target_mask(tiny.batch(prompt_length, length, width=T + 1))


def test_the_mask_marks_the_positions_that_draw_targets():
    expected = [[p - 1 <= t < n - 1 for t in range(T)] for p, n in ROWS]
    np.testing.assert_array_equal(mask(), np.float32(expected))


def test_against_a_plain_loop():
    values = split(*scalars(), mask())
    log_beta, log_ratio, peak = plain(*scalars())
    chex.assert_shape(values[:5], (len(ROWS), T))
    chex.assert_shape(values.log_terminal, (len(ROWS),))
    for row, (prompt_length, length) in enumerate(ROWS):
        log_r, first = 0.0, prompt_length - 1
        for t in range(T):
            log_v = log_beta[row, t] - peak[row, t]
            assert values.log_value[row, t] == pytest.approx(log_v, abs=1e-5)
            assert values.log_before[row, t] == pytest.approx(log_r, abs=1e-5)
            inside = first <= t < length - 1
            assert values.linked[row, t] == (inside and t > first)
            if inside:
                log_r = log_v + log_ratio[row, t]
        assert values.log_terminal[row] == pytest.approx(log_r, abs=1e-5)


def test_the_terminal_is_that_of_the_last_target_token():
    log_beta, log_ratio, peak = plain(*scalars())
    values = split(*scalars(), mask())
    log_r = log_beta - peak + log_ratio
    for row, (prompt_length, length) in enumerate(ROWS):
        last = length - 2
        expected = log_r[row, last] if length > prompt_length else 0.0
        assert values.log_terminal[row] == pytest.approx(float(expected), abs=1e-6)


def test_what_stands_outside_the_target_changes_no_value_inside():
    inside = mask() > 0

    @jax.jit
    def of(*given):
        values = split(*given, mask())
        return [jnp.where(inside, x, 0.0) if x.ndim == 2 else x for x in values]

    shaken = [jnp.where(inside, x, x - 3.0) for x in scalars()]
    chex.assert_trees_all_equal(of(*scalars()), of(*shaken))


def test_values_stay_between_the_floor_and_one():
    odds, below, peak, gap = scalars()
    extreme = [odds * 1e30, below * 1e30, peak * 1e30, gap * 0 + 1]
    never, certain = [odds, below * 0 - jnp.inf, peak, gap], [odds * 0 + 1e30, *3 * [peak * 0]]
    for given in (extreme, never, certain):
        values = split(*given, mask())
        kept = values if np.isfinite(given[1]).all() else values._replace(log_ratio=0.0)
        chex.assert_tree_all_finite(kept)
        for value in (values.log_value, values.log_before, values.log_terminal):
            assert (value >= FLOOR).all() and (value <= 0).all()
    assert math.exp(FLOOR) > np.finfo(np.float32).tiny


def test_gradients_are_those_of_the_drawn_targets():
    """Finite everywhere; the terminal feels the last target position, and nothing else."""

    def terminal(given):
        return split(*given, mask()).log_terminal.sum()

    def everything(given):
        values = split(*given, mask())
        return sum((x * x).sum() for x in values)

    last = np.zeros((len(ROWS), T), np.float32)
    for row, (prompt_length, length) in enumerate(ROWS):
        last[row, length - 2] = length > prompt_length
    d_odds, d_below, d_peak, d_gap = jax.jit(jax.grad(terminal))(scalars())
    not_beta = jax.nn.sigmoid(-scalars()[0])
    chex.assert_trees_all_close([d_odds, d_below], [last * not_beta, jnp.asarray(last)])
    chex.assert_trees_all_equal([d_peak, d_gap], 2 * [jnp.zeros_like(d_peak)])
    chex.assert_tree_all_finite(jax.jit(jax.grad(everything))(scalars()))


def test_jit_and_vmap_agree_with_the_plain_call():
    plain = unroll("split", *scalars(), mask())
    chex.assert_trees_all_close(split(*scalars(), mask()), plain, rtol=1e-6, atol=1e-6)
    stacked = [jnp.stack(pair) for pair in zip(scalars(0), scalars(1))]
    mapped = jax.jit(jax.vmap(split, in_axes=(0, 0, 0, 0, None)))(*stacked, mask())
    for index in (0, 1):
        alone = split(*scalars(index), mask())
        chex.assert_trees_all_close(
            jax.tree.map(lambda x, i=index: x[i], mapped), alone, rtol=1e-6, atol=1e-6
        )
    # A row is its own world: alone it gives what it gives in a batch.
    for row in range(len(ROWS)):
        alone = split(*(x[row : row + 1] for x in (*scalars(), mask())))
        expected = jax.tree.map(lambda x, r=row: x[r : r + 1], plain)
        chex.assert_trees_all_close(alone, expected, rtol=1e-6, atol=1e-6)

"""What every control promises, whatever its direction, norm and form: by enumeration."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny, world
from support.world import MODEL, N, V, control

from dinado_jax.controls.recursion import FLOOR
from dinado_jax.data.batch import Batch
from dinado_jax.guides.guided import Guided
from dinado_jax.guides.tilt import NEUTRAL
from dinado_jax.ops.masks import target_mask

pytestmark = pytest.mark.usefixtures("compiled_quickly")

PROMPT = world.PROMPTS[0]
EVERY = world.batch(PROMPT)
TARGETS = world.targets(PROMPT)
kinds = pytest.mark.parametrize("kind", world.DISTINCT)


@functools.partial(jax.jit, static_argnums=0)
def with_gradient(control, params, batch):
    """Values, log q and M of the target positions [rows, N], from one pass over whole rows, and the
    gradient of the sum of all that a loss may read."""
    base = world.base_params()

    def total(params):
        step_inputs = control.step_inputs(base, params, batch)
        values, peak = control.unroll(step_inputs, batch), step_inputs.scalars.peak
        log_policy = control.log_policy(base, params, batch)
        inside = target_mask(batch)
        read = (inside * (values.log_value + values.log_after + log_policy)).sum()
        return read, (values, log_policy, peak)

    gradient, told = jax.grad(total, has_aux=True)(params)
    return *told, gradient


def parallel(control, params, batch):
    return with_gradient(control, params, batch)[:3]


def along(tree):
    return jax.tree.map(lambda x: np.float64(x)[:, TARGETS] if x.ndim == 2 else np.float64(x), tree)


@functools.partial(jax.jit, static_argnums=0)
def forced(policy, variables, batch):
    """One token after another."""
    return policy.log_probs(variables, batch)


def by_prefix(x, t):
    """[V^N, ..] of rows -> [prefixes of t tokens, V]: what a prefix and its next token decide."""
    return x[:, t].reshape(V**t, V, V ** (N - 1 - t))[:, :, 0]


def worst_inconsistency(log_p, values):
    """max |sum_v p R - V| over every prefix."""
    drawn = np.take_along_axis(log_p, world.CONTINUATIONS[..., None], 2)[..., 0]
    terms = np.exp(drawn + values.log_after)
    return max(
        np.abs(by_prefix(terms, t).sum(1) - np.exp(by_prefix(values.log_value, t)[:, 0])).max()
        for t in range(N)
    )


@functools.cache
def log_base():
    tokens = jnp.asarray(EVERY.tokens)
    logits = jax.jit(MODEL.apply)({"params": world.base_params()}, tokens).logits
    return world.log_softmax(np.float64(logits)[:, TARGETS])


@kinds
def test_a_fresh_control_is_the_base_with_one_value_everywhere(kind):
    values, log_policy, peak = along(parallel(control(kind), world.fresh(kind), EVERY))
    drawn = np.take_along_axis(log_base(), world.CONTINUATIONS[..., None], 2)[..., 0]
    np.testing.assert_allclose(log_policy, drawn, rtol=0, atol=2e-6)
    zeros = np.zeros_like(peak)
    np.testing.assert_allclose(values.log_ratio, zeros, rtol=0, atol=1e-6)
    np.testing.assert_allclose(peak, zeros, rtol=0, atol=1e-6)
    rate = 0.5 if kind == "nado" else tiny.SUCCESS_RATE
    for log_value in (values.log_value, values.log_after, values.log_terminal):
        np.testing.assert_allclose(np.exp(log_value), np.full_like(log_value, rate), atol=1e-6)


@kinds
def test_values_follow_the_formulas(kind):
    params = world.params(kind)
    values, log_policy, _ = along(parallel(control(kind), params, EVERY))
    log_p, log_v, log_r = world.exact(control(kind), world.base_params(), params, PROMPT)
    log_r = np.take_along_axis(log_r, world.CONTINUATIONS[..., None], 2)[..., 0]
    log_p = np.take_along_axis(log_p, world.CONTINUATIONS[..., None], 2)[..., 0]
    assert np.abs(log_r - log_v).max() > 0.3, "far from fresh"
    close = {"rtol": 0, "atol": 1e-4}
    np.testing.assert_allclose(values.log_value, log_v, **close)
    np.testing.assert_allclose(values.log_after, log_r, **close)
    np.testing.assert_allclose(values.log_terminal, log_r[:, -1], **close)
    np.testing.assert_allclose(values.log_ratio, log_r - log_v, **close)
    np.testing.assert_allclose(log_policy, log_p + log_r - log_v, **close)


@kinds
def test_forward_consistency_holds_at_every_prefix(kind):
    values, *_ = along(parallel(control(kind), world.params(kind), EVERY))
    assert worst_inconsistency(log_base(), values) < 1e-5
    if control(kind).recursive:
        np.testing.assert_allclose(
            values.log_value[:, 1:], values.log_after[:, :-1], rtol=0, atol=1e-6
        )
    if control(kind).form != "clamped":
        assert values.log_after.max() <= 0


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 30.0])
@kinds
def test_however_large_the_parameters(kind, scale):
    """Values stay in (0, 1], a projected R is consistent, and gradients are finite."""
    which = control(kind)
    params = {**world.params(kind, seed=3)}
    params["direction"] = world.params(kind, scale, seed=3)["direction"]
    *told, gradient = with_gradient(which, params, EVERY)
    values, log_policy, _ = along(told)
    chex.assert_tree_all_finite((values, log_policy, gradient))
    assert (values.log_after >= FLOOR).all() and (log_policy <= 1e-5).all()
    if which.form != "clamped":
        assert values.log_after.max() <= 0 and values.log_value.max() <= 0
        rounding = 1e-5 if scale < 30 else 1e-4  # of logits in the thousands
        assert worst_inconsistency(log_base(), values) < (1e-6 if which.recursive else rounding)


@kinds
def test_q_is_a_distribution_and_the_same_in_parallel_and_token_by_token(kind):
    """log_policy against forced decoding with a cache; one-trunk kinds decode either way."""
    which, params, base = control(kind), world.params(kind), world.base_params()
    _, log_policy, _ = along(parallel(which, params, EVERY))
    assert np.exp(log_policy.sum(1)).sum() == pytest.approx(1, abs=1e-5)
    decoded = along(forced(which.policy, which.policy_variables(base, params), EVERY))
    np.testing.assert_allclose(log_policy, decoded, rtol=0, atol=1e-4)
    assert which.single_pass == (kind in ("merge", "clamped-merge"))
    if which.single_pass:
        beside = Guided(MODEL, (which,), (NEUTRAL.flags,))
        decoded = along(
            forced(beside, {"base": base, "guides": (params,), "tilts": (NEUTRAL.numbers,)}, EVERY)
        )
        np.testing.assert_allclose(log_policy, decoded, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["projected-merge", "projected-soft"])
def test_the_direction_alone_is_q_where_nothing_bends_it(kind):
    """A clamped R bends nothing: its q is that of the same direction projected, before the bend."""
    which, params, base = control(kind), world.params(kind), world.base_params()
    alone = along(jax.jit(which.log_direction)(base, params, EVERY))
    unbent = dataclasses.replace(which, form="clamped")
    log_p, log_v, log_r = world.exact(unbent, base, params, PROMPT)
    log_q = log_p + log_r - log_v[..., None]
    drawn = np.take_along_axis(log_q, world.CONTINUATIONS[..., None], 2)[..., 0]
    np.testing.assert_allclose(alone, drawn, rtol=0, atol=1e-4)
    bent = along(jax.jit(which.log_policy)(base, params, EVERY))
    assert np.abs(alone - bent).max() > 0.05


@kinds
def test_padding_and_neighbours_change_no_row(kind):
    """Rows of several prompts and lengths, then in another order with other padding."""
    which, params = control(kind), world.params(kind)
    rows = [[0, 3, 1, 2, 0], [0, 1, 4], [0, 2, 4, 1, 3, 3, 0], [0, 4, 4, 2]]
    starts = [2, 1, 4, 4]  # the last has no target
    # As many rows as other tests have: one program for all.
    usual = np.arange(len(world.CONTINUATIONS)) % 4
    order = np.array([2, 3, 1, 0])[usual]

    def padded(fill, order):
        return Batch(
            tokens=np.array([(rows[i] + [fill] * 8)[: world.WIDTH] for i in order], np.int32),
            prompt_length=np.array([starts[i] for i in order], np.int32),
            length=np.array([len(rows[i]) for i in order], np.int32),
        )

    def everything(batch):
        values, log_policy, _ = parallel(which, params, batch)
        decoded = forced(which.policy, which.policy_variables(world.base_params(), params), batch)
        inside = np.asarray(target_mask(batch))
        along = (values.log_value, values.log_after, log_policy, decoded)
        return [np.where(inside, x, 0) for x in along], values.log_terminal

    (*kept, log_policy, decoded), terminal = everything(padded(3, usual))
    np.testing.assert_allclose(decoded, log_policy, rtol=0, atol=1e-4)
    again, terminal_again = everything(padded(1, order))
    for found, expected in zip(again, (*kept, log_policy, decoded), strict=True):
        np.testing.assert_allclose(found, expected[order], rtol=0, atol=1e-4)
    np.testing.assert_allclose(terminal_again, terminal[order], rtol=0, atol=1e-4)

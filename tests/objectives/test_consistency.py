"""Per-token consistency: its terms by hand, what moves, its rest at the optimum, and learning."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import enumerated
from support.enumerated import COUNT, WORLD

from dinado_jax.config.schema import Train
from dinado_jax.errors import InputError
from dinado_jax.exact.learn import learn
from dinado_jax.objectives.consistency import Consistency

pytestmark = pytest.mark.usefixtures("compiled_quickly")

MARGIN = 3.0
LAMBDA = 0.7
TRAIN = Train(batch=4 * COUNT, margin=MARGIN, bellman=LAMBDA, anchor=0.0)


def every_row(margin=MARGIN):
    train = dataclasses.replace(TRAIN, margin=margin)
    return enumerated.every_row(
        Consistency(train).batches(enumerated.rollouts(), np.ones(COUNT), 0)
    )


@functools.partial(jax.jit, static_argnums=0)
def terms(margin, params, batch):
    one = enumerated.case()
    objective = Consistency(dataclasses.replace(TRAIN, margin=margin))
    return objective.terms(one.control, params, one.base_params, batch)


def gradients(margin, params, batch):
    """{term: the gradient of its sum} of every row, [B, ...]."""

    def of_row(row):
        row = jax.tree.map(lambda x: x[None], row)
        return jax.jacrev(lambda p: {k: t.sum for k, t in terms(margin, p, row).items()})(params)

    return jax.vmap(of_row)(batch)


def huber(residual):
    size = np.abs(residual)
    return np.where(size <= 1.5, size**2 / 2, 1.5 * (size - 0.75))


def test_the_terms_by_hand():
    batch, params = every_row(), enumerated.noisy(2.0, seed=4)
    batch = dataclasses.replace(batch, log_rate=batch.log_rate - 30)  # no value exceeds 1
    log_q, log_p = enumerated.log_policy(params), enumerated.log_base()
    log_v = -np.logaddexp(0, -np.float64(params["norm"]))
    token, row, free = 0.0, 0.0, 0
    for i, end in enumerate(WORLD.rows.length - 1):
        success = batch.label[i] > 0
        value = [*log_v[WORLD.prefix[i, :end]], 0.0 if success else -MARGIN]
        delta = log_q[i, :end] - log_p[i, :end] + value[:-1] - np.array(value[1:])
        if not success and delta[-1] < 0:
            delta[-1], free = 0.0, free + 1
        token += huber(delta).sum()
        ratio = log_q[i].sum() - batch.log_proposal[i]
        failure = 8 * np.exp(min(ratio, 3.0)) * (1 + max(ratio - 3.0, 0.0))
        row += huber(log_q[i].sum() - batch.target[i]) if success else failure
    assert 0 < free < COUNT
    found = terms(MARGIN, params, batch)
    assert set(found) == {"direction", "consistency"}
    assert float(found["consistency"].sum) == pytest.approx(token, rel=1e-5)
    assert float(found["consistency"].weight) == WORLD.inside.sum()
    assert float(found["consistency"].coefficient) == np.float32(LAMBDA)
    assert float(found["direction"].sum) == pytest.approx(row, rel=1e-5)
    assert float(found["direction"].weight) == COUNT


@pytest.mark.parametrize("margin", [3.0, 6.0])
def test_no_row_pushes_where_q_and_v_are_right(margin):
    """Here they are but for e^-16 of failures."""
    batch = every_row(margin)
    rest = gradients(margin, enumerated.at_optimum(16.0), batch)
    for leaf in jax.tree.leaves(rest):
        np.testing.assert_allclose(leaf, np.zeros_like(leaf), atol=6e-5)
    other = gradients(margin, enumerated.noisy(1.0), batch)["consistency"]
    assert all(np.abs(leaf).max() > 0.1 for leaf in jax.tree.leaves(other))


def test_the_last_token_moves_the_norm_alone():
    batch = every_row()
    found = gradients(MARGIN, enumerated.noisy(1.0), batch)["consistency"]
    last = WORLD.rows.length - 2
    final = WORLD.prefix[np.arange(COUNT), last]
    of_direction = found["direction"][np.arange(COUNT), :, final]
    assert not np.any(of_direction)
    longer = last > 0
    before = WORLD.prefix[np.arange(COUNT), 0]
    assert np.abs(found["direction"][np.arange(COUNT), :, before][longer]).max(1).min() > 1e-3
    of_norm = np.abs(found["norm"][np.arange(COUNT), final])
    assert of_norm[np.asarray(batch.label) > 0].min() > 1e-3


def test_gradients_against_finite_differences():
    """With the last token's log-ratio held where it is, as stop_gradient does."""
    batch, params = every_row(), enumerated.noisy(0.7, seed=5)
    longer = jax.tree.map(lambda x: x[np.asarray(batch.length) == 4], batch)

    def value(params):
        found = terms(MARGIN, params, longer)
        return found["consistency"].sum + found["direction"].sum

    gradient = jax.grad(value)(params)
    rng = np.random.default_rng(0)
    # Prefixes of two tokens are followed by last tokens alone in these rows.
    movable = np.ones(WORLD.prefixes)
    movable[np.unique(WORLD.prefix[WORLD.rows.length == 4, 2])] = 0
    for _ in range(4):
        tangent = {
            "direction": rng.standard_normal(params["direction"].shape) * movable,
            "norm": rng.standard_normal(params["norm"].shape),
        }
        tangent = jax.tree.map(lambda x: jnp.float32(0.01 * x), tangent)
        above, below = (
            float(value(jax.tree.map(lambda x, dx, s=sign: x + s * dx, params, tangent)))
            for sign in (1, -1)
        )
        slope = sum(
            float((np.float64(g) * dx).sum())
            for g, dx in zip(jax.tree.leaves(gradient), jax.tree.leaves(tangent))
        )
        assert (above - below) / 2 == pytest.approx(slope, rel=0.02, abs=2e-3)


def test_nado_has_no_norm_of_its_own():
    one = enumerated.case("nado")
    with pytest.raises(InputError, match="choose another control or objective"):
        Consistency(TRAIN).terms(one.control, {}, one.base_params, every_row())


def test_lambda_begins_at_its_step():
    train = dataclasses.replace(TRAIN, bellman_start=3)
    at = Consistency(train).batches(enumerated.rollouts(), np.ones(COUNT), 0)
    assert [float(at(step).bellman[0]) for step in (2, 3)] == pytest.approx([0, LAMBDA])


def test_it_learns_the_optimum_and_its_values():
    one = enumerated.case()
    params, curve = learn(one, enumerated.training("consistency", 600), 3000, "success_rate", 0)
    assert curve[-1]["kl_optimum"] < 0.03
    assert curve[-1]["total_variation"] < 0.03
    value = 1 / (1 + np.exp(-np.float64(params["norm"])))
    # Where q hardly goes its failures hardly pull, and values are learned last.
    visits = np.zeros(len(value))
    q = np.broadcast_to(one.optimum.q[:, None], WORLD.inside.shape)
    np.add.at(visits, WORLD.prefix[WORLD.inside], q[WORLD.inside])
    often = WORLD.inside & (visits[WORLD.prefix] > 0.05)
    found = value[WORLD.prefix[often]]
    assert len(set(WORLD.prefix[often])) > 3
    np.testing.assert_allclose(found, one.optimum.value[often], rtol=0.1)
    assert value[0] == pytest.approx(one.optimum.rate, rel=0.1)

"""Controls of a Llama with an output head of its own: what each kind promises, against formulas of
whole logits.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import world

from dinado_jax.controls.make import make_control
from dinado_jax.data.batch import Batch
from dinado_jax.ops.vocab import VocabScalars

pytestmark = pytest.mark.usefixtures("compiled_quickly")

B, T = 4, 7
TOKENS = np.random.default_rng(0).integers(0, world.V, (B, T)).astype(np.int32)
BATCH = Batch(tokens=TOKENS, prompt_length=np.full(B, 2), length=np.full(B, T))
# Of each of the scalars, in what is differentiated.
WEIGHTS = VocabScalars(1.0, 0.0, 0.7, 0.3, 0.9, 1.1, 0.4, 1.0)


@functools.partial(jax.jit, static_argnums=0)
def values_and_log_q(control, params, batch):
    base = world.base_params(world.LLAMA)
    return control.values(base, params, batch), control.log_policy(base, params, batch)


@pytest.mark.parametrize("kind", world.LLAMA_KINDS)
def test_q_is_a_distribution_by_the_formulas_and_at_first_p(kind):
    control, params, prompt = world.control(kind), world.params(kind), world.PROMPTS[0]
    every, targets = world.batch(prompt), world.targets(prompt)
    log_p, log_v, log_r = world.exact(control, world.base_params(world.LLAMA), params, prompt)
    log_p, log_r = (
        np.take_along_axis(x, world.CONTINUATIONS[..., None], 2)[..., 0] for x in (log_p, log_r)
    )
    values, log_q = values_and_log_q(control, params, every)
    log_q = np.float64(log_q)[:, targets]
    assert np.abs(log_r - log_v).max() > 0.3, "far from fresh"
    np.testing.assert_allclose(log_q, log_p + log_r - log_v, rtol=0, atol=1e-4)
    np.testing.assert_allclose(values.log_after[:, targets], log_r, rtol=0, atol=1e-4)
    assert np.exp(log_q.sum(1)).sum() == pytest.approx(1, abs=1e-5)
    _, log_q = values_and_log_q(control, world.fresh(kind), every)
    np.testing.assert_allclose(log_q[:, targets], log_p, rtol=0, atol=2e-6)


def fused(control, params, base) -> VocabScalars:
    return control.step_inputs(base, params, BATCH).scalars


def naive(control, params, base) -> VocabScalars:
    """The same from whole logits of p and of the direction."""
    out = control.model.apply({"params": base}, TOKENS)
    own = control.direction.forward(base, params["direction"], out, TOKENS).logits[:, :-1]
    log_p = jax.lax.stop_gradient(jax.nn.log_softmax(out.logits[:, :-1]))
    link = control.direction.link
    r = {
        "policy": lambda: jax.nn.log_softmax(own) - log_p,
        "plain": lambda: own,
        "sigmoid": lambda: jax.nn.log_sigmoid(own),
    }[link]()
    log_q = jax.nn.log_softmax(log_p + r)
    logit = own if link == "sigmoid" else r
    peak = (log_q - log_p).max(-1)

    def drawn(x):
        return jnp.take_along_axis(x, TOKENS[:, 1:, None], -1)[..., 0]

    return VocabScalars(
        log_policy=drawn(log_q),
        log_base=drawn(log_p),
        peak=peak,
        top=logit.max(-1),
        below=drawn(r) - r.max(-1),
        gap=-jnp.expm1(-peak),
        logit=drawn(logit),
        excluded=0 * peak,
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def value_and_gradient(scalars, control, params):
    base = world.base_params(world.LLAMA)

    def loss(params):
        found = scalars(control, params, base)
        return sum(weight * each.sum() for weight, each in zip(WEIGHTS, found))

    return jax.value_and_grad(loss)(params)


# One of each link.
@pytest.mark.parametrize("kind", ["llama nado", "llama soft-low_rank", "llama merge"])
def test_fused_gradients_are_those_of_whole_logits(kind):
    control, params = world.control(kind), world.params(kind)
    found, wanted = (value_and_gradient(each, control, params) for each in (fused, naive))
    chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=2e-5)
    if kind == "llama merge":
        tables = (found[1]["direction"][f"{x}/embedding"] for x in ("embed_tokens", "lm_head"))
        assert all(jnp.abs(leaf).max() > 0.01 for leaf in jax.tree.leaves(tuple(tables)))


def test_remat_changes_no_gradient():
    kind = "llama merge"
    params, kept = world.params(kind), world.control(kind)
    again = make_control(world.settings(kind), world.LLAMA.replace(remat=True))
    found, wanted = (value_and_gradient(fused, each, params) for each in (again, kept))
    chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=2e-5)

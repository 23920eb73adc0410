"""Throw-away adapters join through the protocol alone, and train, decode and merge."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import tiny

from dinado_jax.config import schema
from dinado_jax.controls.control import Control
from dinado_jax.controls.merge import Merge
from dinado_jax.controls.norm import MLP
from dinado_jax.controls.soft import Soft
from dinado_jax.data.prompts import TokenizedPrompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler, sample_prompts
from dinado_jax.errors import InputError
from dinado_jax.language_model import Base, Controlled
from dinado_jax.objectives.draws import LabeledBatch
from dinado_jax.objectives.warmup import Warmup
from dinado_jax.training.step import init_state, make_step, split_micro_batches

pytestmark = pytest.mark.usefixtures("compiled_quickly")

MODEL = tiny.model()
TOKENS = np.random.default_rng(0).integers(1, tiny.VOCABULARY, (2, 12)).astype(np.int32)
BATCH = LabeledBatch(
    tokens=TOKENS,
    prompt_length=np.ones(2, np.int32),
    length=np.full(2, 12, np.int32),
    label=np.ones(2, np.float32),
)


@dataclasses.dataclass(frozen=True)
class Scales:
    """A factor for every row of every matrix: writes other parameters, and no delta."""

    def init(self, key, base_params):
        matrices = [x for x in jax.tree.leaves(base_params) if x.ndim == 2]
        return [jnp.zeros(x.shape[0]) for x in matrices]

    def variables(self, base_params, params):
        return {"params": self.merge(base_params, params)}

    def merge(self, base_params, params):
        scales = iter(params)

        def scaled(x):
            return x * (1 + next(scales))[:, None] if x.ndim == 2 else x

        return jax.tree.map(scaled, base_params)


@dataclasses.dataclass(frozen=True)
class Shift:
    """One vector, added to the final bias on the fly; not to be merged."""

    def init(self, key, base_params):
        return jnp.zeros(MODEL.width)

    def variables(self, base_params, params):
        return {"params": base_params, "delta": {"ln_f": {"bias": {"full": params}}}}

    def merge(self, base_params, params):
        return None


ADAPTERS = (Scales(), Shift())
adapters = pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda a: type(a).__name__)


def control(adapter, kind="merge") -> Control:
    direction = Merge(MODEL, adapter) if kind == "merge" else Soft(MODEL, adapter)
    return Control(MODEL, direction, MLP(MODEL.width))


@functools.cache
def trained(adapter, kind="merge"):
    """(losses of 3 steps, parameters)"""
    optimizer, one = optax.sgd(0.3), control(adapter, kind)
    step = make_step(functools.partial(Warmup(schema.Train()).terms, one), optimizer)
    params = one.init(jax.random.key(0), tiny.base_params(), tiny.SUCCESS_RATE)
    state, losses = init_state(params, optimizer), []
    for _ in range(3):
        state, metrics = step(state, tiny.base_params(), split_micro_batches(BATCH, 1))
        losses.append(float(metrics["loss"]))
    return losses, state.trainable


@adapters
@pytest.mark.parametrize("kind", ["merge", "soft"])
def test_it_trains(adapter, kind):
    losses, params = trained(adapter, kind)
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
    direction = params["direction"] if kind == "merge" else params["direction"]["trunk"]
    if kind == "merge":  # soft's trunk has a gradient once its vocabulary is not zero
        assert all(np.any(leaf) for leaf in jax.tree.leaves(direction))


@adapters
def test_it_decodes(adapter):
    """What is sampled has the log-probability that training gives it."""
    one, (_, params) = control(adapter), trained(adapter)
    variables = one.policy_variables(tiny.base_params(), params)
    prompts = TokenizedPrompts(TOKENS[:, :2].tolist())
    drawn = sample_prompts(
        Sampler(one.policy, Method(), (-1,), 10), variables, prompts, jax.random.key(0), 2
    )
    rows = BATCH.replace(tokens=np.concatenate([TOKENS[:, :2], drawn.tokens], 1))
    log_q = jax.jit(one.log_policy)(tiny.base_params(), params, rows)
    np.testing.assert_allclose(log_q[:, 1:], drawn.log_probs, rtol=0, atol=1e-4)


def test_one_that_can_be_merged_is_a_base_of_its_own():
    params = trained(Scales())[1]
    q = Controlled(Base(MODEL, tiny.base_params(), None), control(Scales()), params)
    assert set(q.variables) == {"params"}
    chex.assert_trees_all_equal(q.as_base().params, q.variables["params"])


def test_one_that_cannot_decodes_on_the_fly():
    params = trained(Shift())[1]
    q = Controlled(Base(MODEL, tiny.base_params(), None), control(Shift()), params)
    assert set(q.variables) == {"params", "delta"}
    with pytest.raises(InputError, match="cannot be merged"):
        q.as_base()

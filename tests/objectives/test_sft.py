"""The likelihood of targets against float64."""

import functools

import jax
import numpy as np
import optax
import pytest
from support import objectives, tiny

from dinado_jax.config.schema import Parallel
from dinado_jax.distributed.partitioning import make_plan
from dinado_jax.models.dropout import uniform
from dinado_jax.objectives import sft
from dinado_jax.training.step import init_state, make_step, split_micro_batches

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_likelihood_against_the_reference():
    batch, base = objectives.rows(objectives.MIXED), tiny.base_params()
    model = objectives.CONTROL.model
    out = jax.jit(sft.likelihood, static_argnums=(0, 1))(model, None, base, None, batch)["nll"]
    logits = np.float64(objectives.whole(tiny.fresh_params(), batch.tokens)[0])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = [
        -log_p[b, t - 1, batch.tokens[b, t]]
        for b in range(objectives.B)
        for t in range(batch.prompt_length[b], batch.length[b])
    ]
    assert float(out.sum) == pytest.approx(sum(targets), rel=1e-5)
    assert float(out.weight) == len(targets)


def test_noise_depends_on_seed_and_step_alone():
    """The same step by one device, by eight, and in two micro-batches."""
    model = tiny.model()
    dropout = uniform(model.dropout_sites, 0.3)
    rows = tiny.batch([2] * 16, np.resize(np.arange(3, 12), 16))

    def terms(params, _, batch):
        return sft.likelihood(model, None, params, None, batch, dropout)

    @functools.cache
    def compiled(settings):
        return make_step(terms, optax.sgd(0.1), make_plan(settings))

    def loss(settings, accumulate, seed=0, index=3):
        plan = make_plan(settings)
        batch = split_micro_batches(sft.with_noise(lambda _: rows, seed)(index), accumulate)
        state = plan.shard(init_state(jax.device_get(tiny.base_params()), optax.sgd(0.1)))
        _, metrics = compiled(settings)(state, None, plan.shard_batch(batch))
        return [float(metrics["loss"]), float(metrics["grad_norm"])]

    one = loss(Parallel(devices=1), 1)
    assert loss(Parallel(), 1) == pytest.approx(one, rel=1e-5)
    assert loss(Parallel(mode="shard_map"), 2) == pytest.approx(one, rel=1e-5)
    for other in ({"seed": 1}, {"index": 4}):
        assert abs(loss(Parallel(devices=1), 1, **other)[0] - one[0]) > 1e-3

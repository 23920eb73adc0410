"""Trains the head that predicts an HMM's state from the base's hidden state; a stopped training
continues.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.config.schema import Optim, Run
from dinado_jax.data.batch import Batch
from dinado_jax.data.batching import Epochs, by_length
from dinado_jax.data.sequences import Sequences
from dinado_jax.distributed.partitioning import Plan
from dinado_jax.hmm.head import init_head, log_state_probs, reading
from dinado_jax.hmm.model import Hmm
from dinado_jax.models.protocol import Model
from dinado_jax.objectives.hmm_head import state_cross_entropy
from dinado_jax.training.checkpoint import Checkpoints
from dinado_jax.training.loop import Loop, Phase, restore_or_init
from dinado_jax.training.optimizer import optimizer
from dinado_jax.training.step import TrainState, init_state, make_step
from dinado_jax.utils.progress import MetricsLog

_EPOCHS = 5  # over all samples
_BATCH = 64  # rows of a step, about
_LEARNING_RATE = 2e-3


def train_head(
    model: Model,
    params: dict,
    hmm: Hmm,
    rows: Sequences,
    seed: int,
    checkpoints: Checkpoints,
    log: Path,
    plan: Plan,
) -> dict[str, Any]:
    """Trains a head, or continues to.

    Args:
      model: the base.
      params: of the base, sharded by the plan.
      hmm: of the base.
      rows: samples of the base.
      seed: of its first parameters, and of the order of rows.
      checkpoints: of this training.
      log: the file of its metrics.
      plan: of devices.

    Returns:
      Its parameters, on the host.
    """
    devices = plan.mesh.size
    batches = Epochs(rows, -(-_BATCH // devices) * devices, seed)
    steps = _EPOCHS * batches.per_epoch
    adam = optimizer(Optim(learning_rate=_LEARNING_RATE), steps)

    def init() -> TrainState:
        return init_state(init_head(model.width, hmm.states, seed), adam)

    step = make_step(functools.partial(state_cross_entropy, model), adam, plan)
    state = restore_or_init(checkpoints, plan, init)
    loop = Loop(plan, 1, Run(), checkpoints, MetricsLog(log, int(state.step)))
    frozen = {"base": params, "hmm": plan.shard(hmm)}
    state = loop.fit(Phase("head", step, batches.at, 0, steps), state, frozen)
    return plan.gather_to_host(state.trainable)


def next_token_loss(model: Model, params: dict, hmm: Hmm, rows: Sequences, batch: int) -> float:
    """Nats per token of texts, each by the state that the head predicts before it.

    Args:
      model: the base.
      params: of the base, on every device of this process.
      hmm: with its head.
      rows: N samples of the base.
      batch: rows at once.
    """

    @jax.jit
    def of_batch(params: dict, hmm: Hmm, batch: Batch) -> tuple[jax.Array, jax.Array]:
        read = reading(hmm, batch, model.apply({"params": params}, batch.tokens).hidden)
        state = jnp.exp(log_state_probs(hmm.head, read.hidden))
        prob = (jnp.asarray(hmm.emission)[read.tokens] * state).sum(-1)
        return jnp.where(read.of_text, -jnp.log(prob), 0.0).sum(1), read.of_text.sum(1)

    losses, count = np.zeros(len(rows)), np.zeros(len(rows))
    hmm = jax.device_put(hmm)
    for part, each in by_length(rows, min(batch, len(rows)), model.context_length):
        found = (np.asarray(x)[: len(part)] for x in of_batch(params, hmm, each))
        losses[part], count[part] = found
    return float(losses.sum() / count.sum())

"""Training on long documents: the memories of all rows go on from one step to the next, and
gradients through the W windows of a step (truncated back-propagation).

The memories are a part of the training state: a resumed training continues bit for bit.
"""

import functools
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from dinado_jax.adapters.lora import LoRA
from dinado_jax.adapters.protocol import Adapter
from dinado_jax.config.schema import Run
from dinado_jax.distributed.constraints import reduce_scatter_grad
from dinado_jax.distributed.partitioning import Plan, psum
from dinado_jax.recurrence.likelihood import likelihood
from dinado_jax.recurrence.module import Params, Recurrence
from dinado_jax.recurrence.settings import Training
from dinado_jax.recurrence.windows import Streams
from dinado_jax.training.checkpoint import Checkpoints
from dinado_jax.training.loop import Loop, Phase, restore_or_init
from dinado_jax.training.optimizer import optimizer
from dinado_jax.training.step import Step, TrainState, init_state
from dinado_jax.utils.progress import MetricsLog

_NAME = "recurrence"


@struct.dataclass
class RecurrentState(TrainState):
    """A `TrainState` whose rows have memories. What is trained is {"base", "memory"}: the base's
    parameters or its delta, and the network's.
    """

    memory: Any = None  # float32 [B, M], after the newest windows


def make_step(
    recurrence: Recurrence, adapter: Adapter | None, tx: optax.GradientTransformation, plan: Plan
) -> Step:
    """Compiles step(state, frozen, windows) -> (state, metrics); the state is donated.

    Every leaf of the windows is [1, B, W, ..]: micro-batches would not save memory, which is that
    of one window. Metrics are the loss (nats per token) and the norm of its gradient, float32 [].

    Args:
      recurrence: the model and its network.
      adapter: what is trained of the base; None for all parameters.
      tx: the optimiser.
      plan: of mode jit, which shards rows and memories alike.
    """

    def step(state: Any, frozen: Any, batch: Any, axis: Any) -> tuple[Any, dict[str, jax.Array]]:
        batch = jax.tree.map(lambda x: x[0], batch)
        count = jnp.maximum(psum(batch.targets.sum(), axis), 1)

        def loss_of(trainable: Any) -> tuple[jax.Array, jax.Array]:
            own = trainable["base"]
            variables = adapter.variables(frozen, own) if adapter else {"params": own}
            nats, memory = likelihood(
                recurrence, variables, trainable["memory"], state.memory, batch
            )
            return nats.sum() / count, memory

        (loss, memory), grads = jax.value_and_grad(loss_of, has_aux=True)(state.trainable)
        grads = jax.tree.map(reduce_scatter_grad, grads)
        with jax.named_scope("optimizer"):
            updates, opt_state = tx.update(grads, state.opt_state, state.trainable)
            trainable = optax.apply_updates(state.trainable, updates)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        done = RecurrentState(state.step + 1, trainable, opt_state, memory=memory)
        return done, metrics

    return plan.compile(step)


def train(
    recurrence: Recurrence,
    base_params: dict,
    streams: Streams,
    training: Training,
    folder: Path,
    plan: Plan,
) -> tuple[dict, Params]:
    """Trains the base, or a LoRA of it, and the network together.

    Args:
      recurrence: the model and its network.
      base_params: of the model.
      streams: the windows of each step.
      training: how.
      folder: there already; of the checkpoints, from which the same call goes on, and of the log
        recurrence.jsonl.
      plan: of the devices, with mode jit.

    Returns:
      The parameters of the base, changed, and those of the network.

    Raises:
      InputError: for a rank that the base's matrices cannot have, and for a checkpoint that does
        not fit.
      Diverged: for a loss that is not finite.
    """
    adapter = _adapter(recurrence, training)
    tx, key = _optimizer(training), jax.random.key(training.seed)
    start = adapter.init(key, base_params) if adapter else base_params
    trainable = {"base": start, "memory": recurrence.init(jax.random.fold_in(key, 1))}
    trainable = plan.shard(jax.device_get(trainable))
    frozen = plan.shard(base_params) if adapter else None
    with Checkpoints(folder / "checkpoints") as checkpoints:
        make = partial(_init, tx, recurrence, training.batch)
        state = restore_or_init(checkpoints, plan, make, trainable)
        log = MetricsLog(folder / f"{_NAME}.jsonl", int(state.step))
        run = Run(save_every=training.save_every)
        phase = Phase(_NAME, _step(recurrence, training, plan), streams.at, 0, training.steps)
        trained = Loop(plan, 1, run, checkpoints, log).fit(phase, state, frozen).trainable
    trained = plan.gather_to_host(trained)
    params = adapter.merge(base_params, trained["base"]) if adapter else trained["base"]
    return jax.device_get(params), trained["memory"]


def _optimizer(training: Training) -> optax.GradientTransformation:
    return optimizer(training.optim, training.steps)


def _init(
    tx: optax.GradientTransformation, recurrence: Recurrence, rows: int, trainable: Any
) -> RecurrentState:
    state = init_state(trainable, tx)
    return RecurrentState(
        state.step, state.trainable, state.opt_state, memory=recurrence.empty(rows)
    )


@functools.lru_cache(8)
def _step(recurrence: Recurrence, training: Training, plan: Plan) -> Step:
    """A compiled step. Training that continues in the same process does not compile it again."""
    return make_step(recurrence, _adapter(recurrence, training), _optimizer(training), plan)


def _adapter(recurrence: Recurrence, training: Training) -> LoRA | None:
    """A LoRA of unit scale, as in stage sft; None where all parameters are trained."""
    if not training.rank:
        return None
    rules = recurrence.model.delta_rules
    return LoRA(training.rank, float(training.rank), rules.low_rank, rules.full, "training")

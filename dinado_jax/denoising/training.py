"""Training of denoisers, and of masked language models to begin with.

Batches and their random numbers are pure functions of the step: a stopped training continues bit
for bit.
"""

import functools
from functools import partial
from pathlib import Path
from typing import Any

import optax

from dinado_jax.config.schema import Run
from dinado_jax.data.sequences import Sequences
from dinado_jax.denoising.data import pair_batches, text_batches
from dinado_jax.denoising.model import Denoiser, MaskedLM
from dinado_jax.denoising.objective import denoising_terms, masked_terms
from dinado_jax.distributed.partitioning import Plan
from dinado_jax.objectives.terms import BatchAt
from dinado_jax.training.checkpoint import Checkpoints
from dinado_jax.training.loop import Loop, Phase, restore_or_init
from dinado_jax.training.optimizer import optimizer
from dinado_jax.training.settings import Training
from dinado_jax.training.step import Step, TrainState, init_state, make_step
from dinado_jax.utils.progress import MetricsLog


def train_denoiser(
    denoiser: Denoiser,
    params: dict,
    rows: Sequences,
    training: Training,
    folder: Path,
    unrolls: int,
    plan: Plan,
) -> dict:
    """Trains all parameters of a denoiser on pairs, by SUNDAE's loss.

    Args:
      denoiser: the model.
      params: to begin with.
      rows: as `pair_rows` makes them.
      training: how.
      folder: there already; of the checkpoints, from which the same call goes on, and of the log
        denoise.jsonl.
      unrolls: passes from each corrupted text.
      plan: of the devices, see `plan_of`.

    Returns:
      The trained parameters, on the host.

    Raises:
      InputError: for a checkpoint that does not fit.
      Diverged: for a loss that is not finite.
    """
    batch_at = pair_batches(rows, training.batch, training.seed)
    terms = denoising_terms, denoiser, unrolls
    return _fit("denoise", terms, params, batch_at, training, folder, plan)


def train_masked(
    model: MaskedLM,
    params: dict,
    rows: Sequences,
    training: Training,
    folder: Path,
    mask_rate: float,
    plan: Plan,
) -> dict:
    """Trains a masked language model; as `train_denoiser`, with the log pretrain.jsonl.

    Args:
      model: the model.
      params: to begin with.
      rows: as `text_rows` or `pair_rows` makes them.
      training: how.
      folder: as of `train_denoiser`.
      mask_rate: share of tokens that are masked, in (0, 1].
      plan: as of `train_denoiser`.
    """
    batches = pair_batches if rows.condition else text_batches
    batch_at = batches(rows, training.batch, training.seed)
    terms = masked_terms, model, mask_rate
    return _fit("pretrain", terms, params, batch_at, training, folder, plan)


def _fit(
    name: str,
    terms: tuple[Any, ...],
    params: dict,
    batch_at: BatchAt,
    training: Training,
    folder: Path,
    plan: Plan,
) -> dict:
    """Trains by `terms`: a function of a model, a setting and what `make_step` gives it; and these
    two.
    """
    with Checkpoints(folder / "checkpoints") as checkpoints:
        trainable = plan.shard(params)
        state = restore_or_init(checkpoints, plan, partial(_init, _optimizer(training)), trainable)
        log = MetricsLog(folder / f"{name}.jsonl", int(state.step))
        run = Run(save_every=training.save_every)
        step = _step(*terms, training, plan)
        phase = Phase(name, step, batch_at, 0, training.steps)
        trained = Loop(plan, 1, run, checkpoints, log).fit(phase, state, None).trainable
    return plan.gather_to_host(trained)


def _optimizer(training: Training) -> optax.GradientTransformation:
    return optimizer(training.optim, training.steps)


def _init(tx: optax.GradientTransformation, trainable: Any) -> TrainState:
    return init_state(trainable, tx)


@functools.lru_cache(8)
def _step(terms: Any, model: Any, setting: float, training: Training, plan: Plan) -> Step:
    """A compiled step. Training that continues in the same process does not compile it again."""
    return make_step(partial(terms, model, setting), _optimizer(training), plan)

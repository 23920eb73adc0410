"""What stages read of earlier stages: the base, the control and the training prompts."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import jax
import numpy as np

from dinado_jax import loading
from dinado_jax.adapters.make import reserve_positions
from dinado_jax.automata.compiled import AutomataOracle
from dinado_jax.config import schema
from dinado_jax.controls.control_file import Origin
from dinado_jax.controls.make import make_control
from dinado_jax.data.prompts import PromptSet
from dinado_jax.distributed.partitioning import replicate
from dinado_jax.distributed.processes import broadcast
from dinado_jax.errors import InputError
from dinado_jax.guarantee import guarantee
from dinado_jax.language_model import Base, Controlled
from dinado_jax.stages.context import Context
from dinado_jax.training.checkpoint import Checkpoints


def training_prompts(context: Context, start: int, count: int) -> list[str]:
    """Returns prompts number start .. start + count - 1 of an endless sequence.

    The sequence repeats the distinct training prompts, each time in another order.
    """
    distinct = list(dict.fromkeys(example.prompt for example in context.train_examples))
    cycles = range(start // len(distinct), (start + count - 1) // len(distinct) + 1)
    seed = context.config.seed
    shuffled = [np.random.default_rng((seed, 7, c)).permutation(len(distinct)) for c in cycles]
    offset = start % len(distinct)
    return [distinct[i] for i in np.concatenate(shuffled)[offset : offset + count]]


def trained_base(context: Context, place: Callable[[dict], dict]) -> Base:
    """Loads the base that the sft stage wrote, in the configured precision.

    Args:
      place: puts the parameters, arrays on the host, on devices.

    Raises:
      InputError: if the stage is not done, or its base has changed since.
    """
    _ = context.base_fingerprint  # refuses a base that has changed
    base = load_base(context.config.base, context.run.path / "sft" / "base", place)
    return dataclasses.replace(base, model=reserve_positions(base.model, context.config))


def load_base(settings: schema.Base, path: str | Path, place: Callable[[dict], dict]) -> Base:
    """Loads a base in the configured precision; `place` as in `trained_base`."""
    return loading.load_base(
        path,
        dtype=settings.dtype,
        param_dtype=settings.param_dtype,
        remat=settings.remat,
        prompt_template=settings.prompt_template,
        place=place,
    )


def trained_model(context: Context) -> Controlled:
    """Loads the base under the control that the train stage wrote, replicated on the devices of
    this process.

    Raises:
      InputError: if one of the stages is not done, or its results have changed since.
    """
    run, plan = context.run, context.plan
    base = trained_base(context, partial(replicate, context.mesh))
    control = make_control(context.config, base.model)
    shapes = jax.eval_shape(lambda: control.init(jax.random.key(0), base.params, 0.5))
    params = None
    if broadcast(run.finished("train") is not None):
        with Checkpoints(run.path / "train" / "control", context.base_fingerprint) as final:
            params = final.restore(plan.abstract(shapes))
    if params is None:
        raise InputError(f"no trained control in {run.path}: run the train stage first")
    params = plan.gather(plan.shard(params))
    config = context.config
    named = dataclasses.replace(config.rollout, oracle=context.oracle_name)
    origin = Origin(dataclasses.replace(config, rollout=named))
    return Controlled(base, control, params, automata_of=context.automata_of, origin=origin)


def guaranteed(
    context: Context, base: Base, prompts: PromptSet, max_new_tokens: int
) -> tuple[Controlled, PromptSet]:
    """The base under the guarantee of decode.guarantee, and of decode.hmm, as `guarantee` does."""
    decode = context.config.decode
    hmm = loading.load_hmm(decode.hmm, base, decode.hmm_head) if decode.hmm else None
    oracle = cast(AutomataOracle, context.oracle.function)
    return guarantee(base, prompts, max_new_tokens, oracle, hmm=hmm)

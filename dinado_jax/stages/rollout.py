"""Stage rollout: samples of the base, judged by the oracle, with the task's references."""

import dataclasses
from functools import partial

import jax

from dinado_jax.config.schema import Sampling
from dinado_jax.data.prompts import PromptSet
from dinado_jax.distributed.partitioning import replicate
from dinado_jax.errors import InputError
from dinado_jax.evaluation.stage_figures import RolloutFigures
from dinado_jax.oracles.judge import is_success
from dinado_jax.rollouts.arrays import concatenate
from dinado_jax.rollouts.collect import Collector
from dinado_jax.rollouts.shards import discard_shards, save_once
from dinado_jax.rollouts.weighting import success_rate
from dinado_jax.stages.artifacts import trained_base, training_prompts
from dinado_jax.stages.context import Context
from dinado_jax.stages.target import fit_target, target_oracle
from dinado_jax.utils.files import json_digest


def _target(settings: Sampling) -> str:
    """Says what the weighted rollouts are samples of."""
    if settings.top_k or settings.top_p < 1:
        return "q* of the truncated base: tokens that rollouts never draw are never learned"
    return "q* of the base"


def rollout(context: Context) -> RolloutFigures:
    """Samples the base on training prompts; writes rollout/rollouts.npz, and with target.moments
    rollout/moments.json.

    Raises:
      InputError: when every label is 0: there is nothing to learn from; or when no tilt has the
        wanted moments: the samples are kept for others.
    """
    settings, folder = context.config.rollout, context.run.stage_folder("rollout")
    fingerprint = context.run.fingerprint("rollout")
    collector = Collector(context.oracle_calls, settings, fingerprint, context.mesh)
    base = trained_base(context, partial(replicate, context.mesh))
    prompts = PromptSet(training_prompts(context, 0, settings.prompts))
    key = jax.random.key(context.config.seed)
    collected = collector.sample("rollout", base, prompts, settings.samples, key, folder / "shards")
    rollouts = samples = collected.rollouts
    if not (samples.label > 0).any():
        discard_shards(folder / "shards")  # other settings draw others
        raise InputError(
            f"none of the {len(samples)} rollouts satisfies the oracle: draw more with "
            "rollout.samples, train the base on the task with sft.steps, or ease the oracle"
        )
    label_range = references = None
    if context.features:
        rollouts, tilt = fit_target(context, collected)
        label_range = tilt.bound - tilt.smallest
        # The texts of references, unlike those of samples, are known to the collector only.
        identity = json_digest([fingerprint, dataclasses.asdict(tilt)])
        collector = dataclasses.replace(
            collector, oracle=target_oracle(context), fingerprint=identity
        )
    failures = collected.failures + len(samples) - len(rollouts)
    if settings.references:
        examples = context.train_examples
        references = collector.references(base, prompts, examples, folder / "references_shards")
        rollouts = concatenate([rollouts, references], base.codec.eos_id)
    save_once(rollouts, folder / "rollouts.npz")
    return RolloutFigures(
        samples=len(samples),
        successes=int(is_success(samples.label).sum()),
        success_rate=success_rate(samples),
        finished=float(samples.finished.mean()),
        oracle_failures=failures,
        target=_target(settings),
        occupancy=collected.occupancy,
        references=None if references is None else len(references),
        references_success_rate=None if references is None else float(references.label.mean()),
        label_range=label_range,
    )

"""Stage rollout: samples of the base, judged by the oracle, with the task's references."""

from functools import partial

import jax

from dinado_jax.config.schema import Sampling
from dinado_jax.distributed.partitioning import replicate
from dinado_jax.errors import InputError
from dinado_jax.evaluation.stage_figures import RolloutFigures
from dinado_jax.rollouts.arrays import concatenate
from dinado_jax.rollouts.collect import collect, collect_references, discard_shards, save_once
from dinado_jax.rollouts.weighting import success_rate
from dinado_jax.stages.artifacts import trained_base, training_prompts
from dinado_jax.stages.context import Context


def _target(settings: Sampling) -> str:
    """Says what the weighted rollouts are samples of."""
    if settings.top_k or settings.top_p < 1:
        return "q* of the truncated base: tokens that rollouts never draw are never learned"
    return "q* of the base"


def rollout(context: Context) -> RolloutFigures:
    """Samples the base on training prompts; writes rollout/rollouts.npz.

    Raises:
      InputError: when no sample succeeds: there is nothing to learn from.
    """
    settings, folder = context.config.rollout, context.run.stage_folder("rollout")
    fingerprint, oracle = context.run.fingerprint("rollout"), context.oracle.function
    base = trained_base(context, partial(replicate, context.mesh))
    prompts = training_prompts(context, 0, settings.prompts)
    collected = collect(
        "rollout",
        base,
        prompts,
        settings,
        samples=settings.samples,
        oracle=oracle,
        key=jax.random.key(context.config.seed),
        folder=folder / "parts",
        fingerprint=fingerprint,
        mesh=context.mesh,
    )
    rollouts = samples = collected.rollouts
    successes = int((samples.label > 0).sum())
    if not successes:
        discard_shards(folder / "parts")  # other settings draw others
        raise InputError(
            f"none of the {len(samples)} rollouts satisfies the oracle: draw more with "
            "rollout.samples, train the base on the task with sft.steps, or ease the oracle"
        )
    references = None
    if settings.references:
        references = collect_references(
            base,
            prompts,
            context.train_examples,
            oracle,
            settings.batch,
            folder / "references_parts",
            fingerprint,
            context.mesh,
        )
        rollouts = concatenate([samples, references], base.codec.eos_id)
    save_once(rollouts, folder / "rollouts.npz")
    return RolloutFigures(
        samples=len(samples),
        successes=successes,
        success_rate=success_rate(samples),
        finished=float(samples.finished.mean()),
        oracle_failures=collected.failures,
        target=_target(settings),
        references=None if references is None else len(references),
        references_success_rate=None if references is None else float(references.label.mean()),
    )

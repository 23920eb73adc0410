"""Stage rollout: samples of the base, judged by the oracle, with the task's references."""

from functools import partial

import jax

from dinado_jax import tasks
from dinado_jax.config.schema import Config, Sampling
from dinado_jax.distributed.partitioning import local_mesh, make_plan, replicate
from dinado_jax.errors import InputError
from dinado_jax.oracles.table import resolve
from dinado_jax.rollouts.arrays import concatenate
from dinado_jax.rollouts.collect import Collector, PromptSet
from dinado_jax.rollouts.shards import discard_shards, save_once
from dinado_jax.rollouts.weighting import (
    success_rate,
)
from dinado_jax.stages.artifacts import trained_base, training_prompts
from dinado_jax.stages.run_folder import RunFolder


def _target(settings: Sampling) -> str:
    """What the weighted rollouts are samples of."""
    if settings.top_k or settings.top_p < 1:
        return "q* of the truncated base: tokens that rollouts never draw are never learned"
    return "q* of the base"


def rollout(config: Config, run: RunFolder) -> dict:
    """Samples the base on training prompts; leaves rollout/rollouts.npz.

    InputError when no sample succeeds: there is nothing to learn from.
    """
    folder = run.stage_folder("rollout")
    mesh = local_mesh(make_plan(config.parallel))
    base = trained_base(config, run, partial(replicate, mesh))
    settings = config.rollout
    prompts = PromptSet(training_prompts(config, 0, settings.prompts))
    collector = Collector(
        resolve(settings.oracle).function, settings, run.fingerprint("rollout"), mesh
    )
    key = jax.random.key(config.seed)
    collected = collector.sample("rollout", base, prompts, settings.samples, key, folder / "parts")
    rollouts = collected.rollouts
    figures = {
        "samples": len(rollouts),
        "successes": int((rollouts.label > 0).sum()),
        "success_rate": success_rate(rollouts),
        "finished": float(rollouts.finished.mean()),
        "oracle_failures": collected.failures,
        "target": _target(settings),
    }
    if not figures["successes"]:
        discard_shards(folder / "parts")  # other settings draw others
        raise InputError(
            f"none of the {figures['samples']} rollouts satisfies the oracle: draw more with "
            "rollout.samples, train the base on the task with sft.steps, or ease the oracle"
        )
    if settings.references:
        examples = tasks.examples(config.task, "train", config.seed)
        references = collector.references(base, prompts, examples, folder / "references_parts")
        figures["references"] = len(references)
        figures["references_success_rate"] = float(references.label.mean())
        rollouts = concatenate([rollouts, references], base.codec.eos_id)
    save_once(rollouts, folder / "rollouts.npz")
    return figures

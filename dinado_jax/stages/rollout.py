"""Stage rollout: samples of the base, judged by the oracle, with the task's references."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from dinado_jax import signals, tasks, text
from dinado_jax.base import Base, LanguageModel
from dinado_jax.config import Config, Decode
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler, sample_prompts
from dinado_jax.decoding.score import score
from dinado_jax.errors import InputError
from dinado_jax.oracles.judge import judge, resolve
from dinado_jax.progress import Progress
from dinado_jax.rollouts import Rollouts, join, success_rate
from dinado_jax.stages.folder import RunFolder
from dinado_jax.stages.sft import trained_base
from dinado_jax.tasks.keywords import Example


@dataclasses.dataclass(frozen=True)
class Collected:
    """Rollouts with their texts, and how many samples the oracle failed on (left out)."""

    rollouts: Rollouts
    prompts: list[str]
    texts: list[str]
    failures: int


def training_prompts(config: Config, start: int, count: int) -> list[str]:
    """Prompts number start .. start + count - 1 of an endless shuffled cycle of training ones."""
    examples = tasks.examples(config.task, "train", config.seed)
    distinct = np.array(list(dict.fromkeys(example.prompt for example in examples)))
    cycles = range(start // len(distinct), (start + count - 1) // len(distinct) + 1)
    shuffled = [np.random.default_rng((config.seed, 7, c)).permutation(distinct) for c in cycles]
    offset = start % len(distinct)
    return np.concatenate(shuffled)[offset : offset + count].tolist()


def collect(
    what: str,
    model: LanguageModel,
    prompts: Sequence[str],
    decode: Decode,
    *,
    samples: int,
    oracle: str,
    key: jax.Array,
    first_id: int = 0,
) -> Collected:
    """Samples a model on prompts, judges the texts, and scores them under the base."""
    base, codec = model.base, model.base.codec
    prompt_ids = codec.prompts(prompts)
    method = Method(decode.temperature, decode.top_k, decode.top_p)
    sampler = Sampler(model.policy, method, codec.eos_id, decode.max_new_tokens, samples)
    ids = first_id + np.arange(len(prompts))
    with Progress(what, len(prompts) * samples, "sample") as progress:

        def advance(rows):
            progress.advance(rows)
            signals.stop_here()

        drawn = sample_prompts(
            sampler, model.variables, prompt_ids, key, decode.batch, ids, advance
        )
    new = [row[:n] for row, n in zip(drawn.tokens, drawn.length)]
    texts = codec.decode(new)
    repeated = [prompt for prompt in prompts for _ in range(samples)]
    verdict = judge(resolve(oracle), repeated, texts)
    rows = text.sequences(
        [ids for ids in prompt_ids for _ in range(samples)],
        new,
        codec.eos_id,
        base.model.config.n_positions,
    )
    log_base = score(base.policy, base.variables, rows, decode.batch).sum(1)
    kept = ~verdict.failed
    rollouts = Rollouts(
        tokens=rows.tokens[kept],
        prompt_length=rows.prompt_length[kept],
        length=rows.length[kept],
        label=verdict.labels[kept],
        log_base=log_base[kept],
        log_proposal=drawn.log_probs.sum(1)[kept],
        prompt_id=np.repeat(ids, samples).astype(np.int32)[kept],
        finished=drawn.finished[kept],
    )
    good = np.flatnonzero(kept)
    return Collected(
        rollouts, [repeated[i] for i in good], [texts[i] for i in good], verdict.failures
    )


def judged_references(base: Base, examples: Sequence[Example], oracle: str, batch: int) -> Rollouts:
    """The references of examples as rollouts without a proposal; the oracle judges them too."""
    codec = base.codec
    pairs = [(e.prompt, ref, i) for i, e in enumerate(examples) for ref in e.references]
    prompt_ids = codec.prompts([prompt for prompt, _, _ in pairs])
    targets = codec.targets([reference for _, reference, _ in pairs])
    limit = base.model.config.n_positions
    fits = [len(p) + len(t) <= limit for p, t in zip(prompt_ids, targets)]
    pairs = [pair for pair, fit in zip(pairs, fits) if fit]
    rows = text.sequences(prompt_ids, targets, codec.eos_id, limit)
    verdict = judge(resolve(oracle), [p for p, _, _ in pairs], [r for _, r, _ in pairs])
    n = len(pairs)
    return Rollouts(
        tokens=rows.tokens,
        prompt_length=rows.prompt_length,
        length=rows.length,
        label=np.nan_to_num(verdict.labels),
        log_base=score(base.policy, base.variables, rows, batch).sum(1),
        log_proposal=np.full(n, np.nan, np.float32),
        prompt_id=np.array([i for _, _, i in pairs], np.int32),
        finished=np.ones(n, bool),
    )


def rollout(config: Config, run: RunFolder) -> dict:
    """Samples the base on training prompts; leaves rollout/rollouts.npz.

    InputError when no sample succeeds: there is nothing to learn from.
    """
    folder = run.stage("rollout")
    base = trained_base(config, run)
    settings = config.rollout
    prompts = training_prompts(config, 0, settings.prompts)
    collected = collect(
        "rollout",
        base,
        prompts,
        settings,
        samples=settings.samples,
        oracle=config.rollout.oracle,
        key=jax.random.key(config.seed),
    )
    rollouts = collected.rollouts
    figures = {
        "samples": len(rollouts),
        "successes": int((rollouts.label > 0).sum()),
        "success_rate": success_rate(rollouts),
        "finished": float(rollouts.finished.mean()),
        "oracle_failures": collected.failures,
    }
    if settings.references:
        examples = tasks.examples(config.task, "train", config.seed)
        chosen = set(prompts)
        examples = [e for e in examples if e.prompt in chosen and e.references]
        references = judged_references(base, examples, config.rollout.oracle, settings.batch)
        figures["references"] = len(references)
        figures["references_success_rate"] = float(references.label.mean())
        rollouts = join([rollouts, references], base.codec.eos_id)
    if not figures["successes"]:
        raise InputError(
            f"none of the {figures['samples']} rollouts satisfies the oracle: draw more with "
            "rollout.samples, train the base on the task with sft.steps, or ease the oracle"
        )
    rollouts.save(folder / "rollouts.npz")
    return figures

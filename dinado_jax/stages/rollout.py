"""Stage rollout: samples of the base, judged by the oracle, with the task's references."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from dinado_jax import signals, tasks, text
from dinado_jax.base import Base, LanguageModel
from dinado_jax.config import Config, Sampling
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler, in_order, sampled
from dinado_jax.decoding.score import score
from dinado_jax.errors import InputError
from dinado_jax.oracles.judge import Oracle, Verdict, judge, refuse_silence, resolve
from dinado_jax.progress import Progress
from dinado_jax.rollouts import (
    Rollouts,
    along_targets,
    before,
    join,
    mixture_weight,
    success_rate,
)
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
    decode: Sampling,
    *,
    samples: int,
    oracle: str,
    key: jax.Array,
    first_id: int = 0,
) -> Collected:
    """Samples a model on prompts, judges the texts of each batch while the device draws the next,
    and scores all under the base."""
    base, codec = model.base, model.base.codec
    prompt_ids = codec.prompts(prompts)
    method = Method(decode.temperature, decode.top_k, decode.top_p)
    sampler = Sampler(model.policy, method, codec.eos_id, decode.max_new_tokens, samples)
    ids = first_id + np.arange(len(prompts))
    repeated = [prompt for prompt in prompts for _ in range(samples)]
    texts, numbers, parts, verdicts = [""] * len(repeated), [], [], []
    judged_by = resolve(oracle)
    with Progress(what, len(repeated), "sample") as progress:
        batches = sampled(sampler, model.variables, prompt_ids, key, decode.batch, ids)
        for rows, part in batches:
            said = codec.decode([row[:n] for row, n in zip(part.tokens, part.length)])
            verdicts.append(judge(judged_by, [repeated[i] for i in rows], said))
            for row, one in zip(rows, said):
                texts[row] = one
            numbers.append(rows)
            parts.append(part)
            progress.advance(len(rows))
            signals.stop_here()
    drawn, verdict = in_order(numbers, parts), in_order(numbers, verdicts)
    refuse_silence(judged_by, verdict)
    rows = text.sequences(
        [ids for ids in prompt_ids for _ in range(samples)],
        [row[:n] for row, n in zip(drawn.tokens, drawn.length)],
        codec.eos_id,
        base.model.config.n_positions,
    )
    log_base = score(base.policy, base.variables, rows, decode.batch)
    log_proposal = along_targets(rows, drawn.log_probs)
    kept = ~verdict.failed
    rollouts = Rollouts(
        tokens=rows.tokens[kept],
        prompt_length=rows.prompt_length[kept],
        length=rows.length[kept],
        label=verdict.labels[kept],
        log_base=log_base.sum(1)[kept],
        log_proposal=log_proposal.sum(1)[kept],
        log_prefix=before(log_base - log_proposal)[kept],
        prompt_id=np.repeat(ids, samples).astype(np.int32)[kept],
        finished=drawn.finished[kept],
    )
    good = np.flatnonzero(kept)
    return Collected(
        rollouts, [repeated[i] for i in good], [texts[i] for i in good], verdict.failures
    )


def as_mixture(rollouts: Rollouts, q: LanguageModel, alpha: float, batch: int) -> Rollouts:
    """Plain samples of base and q, a share `alpha` of them the base's, as draws of the mixture
    alpha p + (1 - alpha) q: p / proposal is then at most 1 / alpha (defensive importance
    sampling)."""
    base = q.base
    under_p, under_q = (score(m.policy, m.variables, rollouts, batch) for m in (base, q))
    log_ratio = under_q - under_p
    return dataclasses.replace(
        rollouts,
        log_proposal=rollouts.log_base - mixture_weight(log_ratio.sum(1), alpha),
        log_prefix=mixture_weight(before(log_ratio), alpha),
    )


def judged_references(
    base: Base, prompts: Sequence[str], examples: Sequence[Example], oracle: str, batch: int
) -> Rollouts:
    """The references of the prompts' examples as rollouts without a proposal, judged alike.

    References too long for the base, and those on which the oracle fails, are left out.
    """
    codec, limit = base.codec, base.model.config.n_positions
    number = {prompt: i for i, prompt in reversed(list(enumerate(prompts)))}
    pairs = [(e.prompt, ref) for e in examples if e.prompt in number for ref in e.references]
    verdict = _judged(resolve(oracle), pairs, batch)
    prompt_ids = codec.prompts([prompt for prompt, _ in pairs])
    targets = codec.targets([reference for _, reference in pairs])
    kept = [
        i
        for i, (p, t) in enumerate(zip(prompt_ids, targets))
        if len(p) + len(t) <= limit and not verdict.failed[i]
    ]
    rows = text.sequences(
        [prompt_ids[i] for i in kept], [targets[i] for i in kept], codec.eos_id, limit
    )
    return Rollouts(
        tokens=rows.tokens,
        prompt_length=rows.prompt_length,
        length=rows.length,
        label=verdict.labels[kept],
        log_base=score(base.policy, base.variables, rows, batch).sum(1),
        log_proposal=np.full(len(kept), np.nan, np.float32),
        log_prefix=np.zeros((len(kept), rows.tokens.shape[1] - 1), np.float32),
        prompt_id=np.array([number[pairs[i][0]] for i in kept], np.int32),
        finished=np.ones(len(kept), bool),
    )


def _judged(oracle: Oracle, pairs: list[tuple[str, str]], batch: int) -> Verdict:
    """The oracle's verdict on prompts and texts, `batch` a call."""
    parts = []
    for start in range(0, len(pairs), batch):
        signals.stop_here()
        parts.append(judge(oracle, *zip(*pairs[start : start + batch])))
    verdict = Verdict(*map(np.concatenate, zip(*parts)))
    refuse_silence(oracle, verdict)
    return verdict


def _target(settings: Sampling) -> str:
    """What the weighted rollouts are samples of."""
    if settings.top_k or settings.top_p < 1:
        return "q* of the truncated base: tokens that rollouts never draw are never learned"
    return "q* of the base"


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
        "target": _target(settings),
    }
    if settings.references:
        examples = tasks.examples(config.task, "train", config.seed)
        oracle, batch = settings.oracle, settings.batch
        references = judged_references(base, prompts, examples, oracle, batch)
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

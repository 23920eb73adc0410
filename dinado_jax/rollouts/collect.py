"""Collects rollouts: samples of a model, judged by the oracle and scored under the base.

All processes call these functions together, share the prompts, and get all rows.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from dinado_jax.config.schema import Sampling
from dinado_jax.data.batch import rows_of
from dinado_jax.data.prompts import PromptSet, TokenizedPrompts
from dinado_jax.data.sequences import Sequences, sequences
from dinado_jax.decoding.batching import check_prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler, Samples, iter_samples
from dinado_jax.decoding.score import score
from dinado_jax.distributed.processes import (
    assert_same,
    barrier,
    lockstep,
    process_count,
    process_index,
)
from dinado_jax.errors import InputError
from dinado_jax.language_model import Base, LanguageModel
from dinado_jax.oracles.judge import Oracle, OracleResult, judge
from dinado_jax.rollouts.arrays import Rollouts, RolloutShard
from dinado_jax.rollouts.shards import merge_shards, save_shard, saved_rows
from dinado_jax.rollouts.weighting import (
    align_to_targets,
    exclusive_cumsum,
    log_mixture_weight,
)
from dinado_jax.tasks.protocol import Example
from dinado_jax.utils.progress import Progress, print_once


@dataclasses.dataclass(frozen=True)
class Collected:
    """Rollouts with their texts, and how many samples the oracle failed on (left out)."""

    rollouts: Rollouts
    prompts: list[str]
    texts: list[str]
    failures: int


@dataclasses.dataclass(frozen=True)
class Collector:
    """What the collections of one stage share."""

    oracle: Oracle
    settings: Sampling  # of decoding
    fingerprint: str  # what the rows depend on besides their prompts; other files are ignored
    mesh: Mesh | None  # devices of this process to decode on

    def sample(
        self,
        name: str,
        model: LanguageModel,
        prompts: PromptSet,
        samples: int,
        key: jax.Array,
        folder: Path,
    ) -> Collected:
        """Samples a model, and judges the texts of each batch while the devices draw the next.

        Args:
          name: what is sampled, for progress and for telling collections apart.
          model: base or controlled model.
          prompts: to continue.
          samples: per prompt.
          key: typed PRNG key.
          folder: of the judged batches; a call that was stopped continues from there.

        Raises:
          InputError: for prompts that do not fit the model, or an oracle that always fails.
        """
        codec, texts = model.base.codec, list(prompts.texts)
        assert_same("prompts", json.dumps(texts))
        tokens = codec.prompts(texts)
        tokenized = TokenizedPrompts(tokens, prompts.condition, prompts.names, prompts.ids)
        check_prompts(model.policy, tokenized, self.settings.max_new_tokens)
        identity = json.dumps([self.fingerprint, name, texts])
        fingerprint = hashlib.sha256(identity.encode()).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        # Processes take turns in the order of length, so that each has batches of similar rows.
        own = np.argsort([len(prompt) for prompt in tokens], kind="stable")
        own = own[process_index() :: process_count()]
        left = own[~np.isin(own, saved_rows(folder, fingerprint) // samples)]
        begun, message = (len(own) - len(left)) * samples, ""
        with Progress(name, len(own) * samples, "sample", begun) as progress:
            drawn = self._draw(model, tokenized.select(left), samples, key)
            for numbers, batch in lockstep(drawn):
                prompt = left[numbers // samples]
                said = codec.decode([row[:n] for row, n in zip(batch.tokens, batch.length)])
                result = judge(self.oracle, [texts[i] for i in prompt], said)
                message = _report_failure(message, result)
                row = prompt * samples + numbers % samples
                shard = self._shard(model.base, [tokens[i] for i in prompt], batch, result)
                shard = dataclasses.replace(
                    shard,
                    row=row,
                    prompt_id=prompts.ids[prompt].astype(np.int32),
                    condition=rows_of(prompts.condition, prompt),
                )
                save_shard(shard, folder, fingerprint)
                progress.advance(len(row))
        barrier(name)
        count = len(texts) * samples
        rows = merge_shards(folder, fingerprint, count, codec.eos_id, self.oracle)
        spans = zip(rows.tokens, rows.prompt_length, rows.length)
        said = codec.decode([row[start:end] for row, start, end in spans])
        asked = [texts[i] for i in rows.row // samples]
        return Collected(_rollouts(rows), asked, said, count - len(rows))

    def references(
        self, base: Base, prompts: PromptSet, examples: Sequence[Example], folder: Path
    ) -> Rollouts:
        """Judges the references of the prompts' examples: rollouts without a proposal.

        References too long for the base, and those on which the oracle fails, are left out.

        Args:
          base: that scores them.
          prompts: those of the rollouts that the references join.
          examples: of the task; those of other prompts are ignored.
          folder: of the judged batches, as for `sample`.

        Raises:
          InputError: if none are left.
        """
        codec, limit = base.codec, base.model.context_length
        number = {text: i for i, text in reversed(list(enumerate(prompts.texts)))}
        pairs = [(e.prompt, ref) for e in examples if e.prompt in number for ref in e.references]
        asked = codec.prompts([prompt for prompt, _ in pairs])
        given = codec.targets([reference for _, reference in pairs])
        fit = [i for i, (p, t) in enumerate(zip(asked, given)) if len(p) + len(t) <= limit]
        if not fit:
            raise InputError(
                f"no reference fits in {limit} tokens: raise base.n_positions, or set "
                "rollout.references=false"
            )
        pairs, asked, given = ([values[i] for i in fit] for values in (pairs, asked, given))
        folder.mkdir(parents=True, exist_ok=True)
        own = np.arange(len(fit))[process_index() :: process_count()]
        left = own[~np.isin(own, saved_rows(folder, self.fingerprint))]
        batch, message = self.settings.batch, ""
        batches = (left[i : i + batch] for i in range(0, len(left), batch))
        with Progress("references", len(own), "row", len(own) - len(left)) as progress:
            for row in lockstep(batches):
                result = judge(self.oracle, *zip(*(pairs[i] for i in row)))
                message = _report_failure(message, result)
                rows = sequences(
                    [asked[i] for i in row], [given[i] for i in row], codec.eos_id, limit
                )
                prompt = np.array([number[pairs[i][0]] for i in row])
                shard = RolloutShard(
                    **_token_columns(rows),
                    label=result.labels,
                    log_base=self._score(base, rows).sum(1),
                    log_proposal=np.full(len(row), np.nan, np.float32),
                    log_prefix=np.zeros((len(row), rows.tokens.shape[1] - 1), np.float32),
                    prompt_id=prompt.astype(np.int32),
                    finished=np.ones(len(row), bool),
                    row=row,
                    error=result.errors,
                    condition=rows_of(prompts.condition, prompt),
                )
                save_shard(shard, folder, self.fingerprint)
                progress.advance(len(row))
        barrier("references")
        rows = merge_shards(folder, self.fingerprint, len(fit), codec.eos_id, self.oracle)
        return _rollouts(rows)

    def _draw(
        self,
        model: LanguageModel,
        prompts: TokenizedPrompts,
        samples: int,
        key: jax.Array,
    ) -> Iterator[tuple[np.ndarray, Samples]]:
        """See `iter_samples`."""
        if not len(prompts):
            return iter(())
        settings = self.settings
        method = Method(settings.temperature, settings.top_k, settings.top_p)
        new, eos_id = settings.max_new_tokens, model.base.codec.eos_id
        sampler = Sampler(model.policy, method, eos_id, new, samples, self.mesh)
        return iter_samples(sampler, model.variables, prompts, key, settings.batch)

    def _shard(
        self, base: Base, prompts: list[list[int]], drawn: Samples, result: OracleResult
    ) -> RolloutShard:
        """One batch, scored under the base; its numbers are still those within the batch."""
        new = [tokens[:n] for tokens, n in zip(drawn.tokens, drawn.length)]
        rows = sequences(prompts, new, base.codec.eos_id, base.model.context_length)
        log_base = self._score(base, rows)
        log_proposal = align_to_targets(rows, drawn.log_probs)
        number = np.arange(len(rows))
        return RolloutShard(
            **_token_columns(rows),
            label=result.labels,
            log_base=log_base.sum(1),
            log_proposal=log_proposal.sum(1),
            log_prefix=exclusive_cumsum(log_base - log_proposal),
            prompt_id=number.astype(np.int32),
            finished=drawn.finished,
            row=number,
            error=result.errors,
        )

    def _score(self, model: LanguageModel, rows: Sequences) -> np.ndarray:
        """Log-probability of every target token, [N, T-1] nats."""
        return score(model.policy, model.variables, rows, self.settings.batch, self.mesh)


def _token_columns(rows: Sequences) -> dict[str, np.ndarray]:
    return {name: getattr(rows, name) for name in ("tokens", "prompt_length", "length")}


def _report_failure(before: str, result: OracleResult) -> str:
    """Prints the first message of an oracle that raised; files keep only the type."""
    if result.message and not before:
        print_once(f"the oracle failed on {result.failures} samples of a batch: {result.message}")
    return before or result.message


def _rollouts(rows: RolloutShard) -> Rollouts:
    """Without what only collecting needs."""
    return Rollouts(**{f.name: getattr(rows, f.name) for f in dataclasses.fields(Rollouts)})


def as_mixture(
    rollouts: Rollouts, q: LanguageModel, alpha: float, batch: int, mesh: Mesh | None = None
) -> Rollouts:
    """Reweights plain samples of base and q as draws of the mixture alpha p + (1 - alpha) q.

    p / proposal is then at most 1 / alpha (defensive importance sampling).

    Args:
      rollouts: a share `alpha` of them the base's samples, the rest q's.
      q: a controlled model.
      alpha: in (0, 1).
      batch: rows scored at a time.
      mesh: devices of this process.
    """
    under_p, under_q = (score(m.policy, m.variables, rollouts, batch, mesh) for m in (q.base, q))
    log_ratio = under_q - under_p
    return dataclasses.replace(
        rollouts,
        log_proposal=rollouts.log_base - log_mixture_weight(log_ratio.sum(1), alpha),
        log_prefix=log_mixture_weight(exclusive_cumsum(log_ratio), alpha),
    )

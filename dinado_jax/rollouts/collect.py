"""Collects rollouts: samples of a model, judged by the oracle and scored under the base.

All processes call these functions together, share the prompts, and get all rows.

N rows, T tokens.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from dinado_jax.config.schema import Sampling
from dinado_jax.data.batch import rows_of
from dinado_jax.data.prompts import PromptSet, TokenizedPrompts
from dinado_jax.data.sequences import Sequences, sequences
from dinado_jax.decoding.batching import check_prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.particles import (
    Particles,
    ParticleSampler,
    choose,
    floored,
    particles_of_prompts,
)
from dinado_jax.decoding.refill import RowSteps, iter_refilled
from dinado_jax.decoding.sampler import Sampler, Samples
from dinado_jax.decoding.score import score
from dinado_jax.distributed.processes import (
    assert_same,
    barrier,
    lockstep,
    process_count,
    process_index,
)
from dinado_jax.errors import InputError
from dinado_jax.language_model import Base, Composed, Controlled, LanguageModel
from dinado_jax.oracles.judge import Oracle, OracleResult, judge
from dinado_jax.rollouts.arrays import Rollouts, RolloutShard, condition_digest, select
from dinado_jax.rollouts.shards import merge_shards, save_shard, saved_rows
from dinado_jax.rollouts.weighting import align_to_targets, exclusive_cumsum
from dinado_jax.tasks.protocol import Example
from dinado_jax.utils.progress import Progress, print_once


@dataclasses.dataclass(frozen=True)
class Collected:
    """Rollouts with their texts."""

    rollouts: Rollouts  # N rows
    prompts: list[str]  # N
    texts: list[str]  # N
    failures: int  # samples on which the oracle failed; they are left out
    occupancy: float | None  # share of row-steps of this process that drew a token; None: no step


class _Unjudged(NamedTuple):
    """The rows of a batch, before the oracle has seen them."""

    rows: Sequences  # with the condition of their prompts
    prompts: Sequence[str]
    texts: Sequence[str]
    row: np.ndarray  # int64 [N], their numbers among all rows of the collection
    prompt_id: np.ndarray  # int32 [N]
    finished: np.ndarray  # bool [N]
    # float32 [N, T-1] nats of each token; None for references and particles
    log_proposal: np.ndarray | None
    row_steps: RowSteps = RowSteps(0, 0)  # of the decoding loop
    log_weight: np.ndarray | None = None  # float32 [N] nats of particles, else None


@dataclasses.dataclass(frozen=True)
class _Collection:
    """Where a collection is stored, and how much of it there is."""

    name: str
    unit: str  # what it counts
    folder: Path
    fingerprint: str
    count: int  # rows of all processes
    own: int  # rows of this process
    saved: int  # of these, rows on disk


@dataclasses.dataclass(frozen=True)
class Collector:
    """What the collections of one stage share."""

    oracle: Oracle
    settings: Sampling
    fingerprint: str  # of what the rows depend on besides their prompts; other files are ignored
    mesh: Mesh | None  # devices of this process to decode on
    round: int = 0  # of training
    roll_in: int = 0  # tokens that a sample begins with before the base draws, see `Sampler`

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
          name: what is sampled, for progress and to tell collections apart.
          model: base or controlled model.
          prompts: to continue.
          samples: per prompt.
          key: typed PRNG key.
          folder: of the judged batches; a call that was interrupted continues from there.

        Raises:
          InputError: for prompts that do not fit the model, or an oracle that always fails.
        """
        rows, (run, used) = self._sample(name, "sample", model, prompts, samples, key, folder)
        occupancy = used / run if run else None
        asked = [prompts.texts[int(i)] for i in rows.row // samples]
        failures = len(prompts.texts) * samples - len(rows)
        return _collected(model.base, _rollouts(rows), asked, failures, occupancy)

    def sample_by_particles(
        self,
        name: str,
        model: Controlled | Composed,
        prompts: PromptSet,
        samples: int,
        particles: int,
        key: jax.Array,
        folder: Path,
    ) -> Collected:
        """Draws each sample as one of `particles` that grow together under the model's guides,
        chosen by its weight and the oracle; arguments and errors as for `sample`.

        The mean of log_proposal - log_base is an upper bound of the KL of what is drawn to the
        base: see `decoding.particles.choose`. A sample is a failure if the oracle fails on all its
        particles; others of them have no part in the choice.
        """
        sets = prompts.repeated(samples)
        model = model.for_particles()
        rows, _ = self._sample(name, "particle", model, sets, particles, key, folder)
        number, place = np.divmod(rows.row, particles)
        log_weight = np.full((len(sets.texts), particles), -np.inf)
        label = np.zeros(log_weight.shape)
        index = np.full(log_weight.shape, -1)
        log_weight[number, place] = rows.log_base - rows.log_proposal
        label[number, place] = rows.label
        index[number, place] = np.arange(len(rows))
        chosen, excess = choose(floored(log_weight), label, key)
        chosen = index[np.arange(len(index)), chosen]
        judged = np.flatnonzero(chosen >= 0)
        found = select(_rollouts(rows), chosen[judged])
        found = dataclasses.replace(
            found,
            log_proposal=(found.log_base + excess[judged]).astype(np.float32),
            prompt_id=prompts.ids[judged // samples].astype(np.int32),
        )
        asked = [sets.texts[int(i)] for i in judged]
        return _collected(model.base, found, asked, len(index) - len(judged), None)

    def particles(
        self,
        name: str,
        model: Controlled | Composed,
        prompts: PromptSet,
        particles: int,
        key: jax.Array,
        folder: Path,
    ) -> Rollouts:
        """Samples a base by particles under a guide; arguments and errors as for `sample`.

        Temperature and truncation have no part in it. With d of a row defined by p / d = w, the
        particle's weight, rows are rollouts like any other: the mean of (p / d) C over a prompt's
        rows estimates R0 without bias.
        """
        model = model.for_particles()
        return _rollouts(self._sample(name, "particle", model, prompts, particles, key, folder)[0])

    def _sample(
        self,
        name: str,
        unit: str,
        model: LanguageModel,
        prompts: PromptSet,
        samples: int,
        key: jax.Array,
        folder: Path,
    ) -> tuple[RolloutShard, RowSteps]:
        """Draws samples or particles, as many per prompt, judges and saves them."""
        tokens = model.base.codec.prompts(prompts.texts)
        model, known = model.for_prompts(prompts)
        tokenized = TokenizedPrompts(tokens, known.condition, prompts.names, prompts.ids)
        check_prompts(model.policy, tokenized, self.settings.max_new_tokens)
        fingerprint = self._fingerprint(name, prompts)
        folder.mkdir(parents=True, exist_ok=True)
        # Processes take turns in the order of length, so that each has batches of similar rows.
        own = np.argsort([len(prompt) for prompt in tokens], kind="stable")
        own = own[process_index() :: process_count()]
        left = own[~np.isin(own, saved_rows(folder, fingerprint) // samples)]
        count, saved = len(tokens) * samples, (len(own) - len(left)) * samples
        collection = _Collection(name, unit, folder, fingerprint, count, len(own) * samples, saved)
        draw = self._draw if unit == "sample" else self._draw_particles
        drawn = draw(model, prompts, tokenized, left, samples, key)
        return self._judge_all(model.base, drawn, collection)

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
        fingerprint = self._fingerprint("references", prompts)
        folder.mkdir(parents=True, exist_ok=True)
        own = np.arange(len(fit))[process_index() :: process_count()]
        left = own[~np.isin(own, saved_rows(folder, fingerprint))]

        def batches() -> Iterator[_Unjudged]:
            for start in range(0, len(left), self.settings.batch):
                row = left[start : start + self.settings.batch]
                texts, targets = zip(*(pairs[i] for i in row))
                prompt = np.array([number[text] for text in texts])
                tokens = [asked[i] for i in row], [given[i] for i in row]
                rows = sequences(*tokens, codec.eos_id, limit)
                rows = dataclasses.replace(rows, condition=rows_of(prompts.condition, prompt))
                ids, ended = prompts.ids[prompt].astype(np.int32), np.ones(len(row), bool)
                yield _Unjudged(rows, texts, targets, row, ids, ended, None)

        saved = len(own) - len(left)
        collection = _Collection(
            "references", "row", folder, fingerprint, len(fit), len(own), saved
        )
        return _rollouts(self._judge_all(base, batches(), collection)[0])

    def _fingerprint(self, name: str, prompts: PromptSet) -> str:
        """Of a collection; fails unless all processes have the same prompts."""
        given: list[Any] = [list(prompts.texts)]
        if prompts.condition is not None:
            given.append(condition_digest(prompts.condition))
        assert_same("prompts", json.dumps(given))
        identity = json.dumps([self.fingerprint, name, *given])
        return hashlib.sha256(identity.encode()).hexdigest()

    def _draw(
        self,
        model: LanguageModel,
        prompts: PromptSet,
        tokenized: TokenizedPrompts,
        left: np.ndarray,
        samples: int,
        key: jax.Array,
    ) -> Iterator[_Unjudged]:
        """Samples the prompts numbered `left`."""
        if not len(left):
            return
        settings, codec = self.settings, model.base.codec
        method = Method(settings.temperature, settings.top_k, settings.top_p)
        new = settings.max_new_tokens
        sampler = Sampler(
            model.policy, method, codec.stop_ids, new, samples, self.mesh, roll_in=self.roll_in
        )
        chosen = tokenized.select(left)
        drawn = iter_refilled(sampler, model.variables, chosen, key, settings.batch)
        for numbers, batch, row_steps in drawn:
            number = left[numbers // samples] * samples + numbers % samples
            found = _unjudged(model.base, prompts, tokenized, number, samples, batch)
            log_proposal = align_to_targets(found.rows, batch.log_probs)
            yield found._replace(log_proposal=log_proposal, row_steps=row_steps)

    def _draw_particles(
        self,
        model: LanguageModel,
        prompts: PromptSet,
        tokenized: TokenizedPrompts,
        left: np.ndarray,
        count: int,
        key: jax.Array,
    ) -> Iterator[_Unjudged]:
        """Samples the prompts numbered `left` by particles."""
        if not len(left):
            return
        settings, codec = self.settings, model.base.codec
        new = settings.max_new_tokens
        sampler = ParticleSampler(model.policy, codec.stop_ids, new, count, self.mesh)
        chosen = tokenized.select(left)
        drawn = particles_of_prompts(sampler, model.variables, chosen, key, settings.batch)
        for numbers, batch in drawn:
            number = left[numbers // count] * count + numbers % count
            found = _unjudged(model.base, prompts, tokenized, number, count, batch)
            log_weight = floored(batch.log_weight.reshape(-1, count)).ravel()
            yield found._replace(log_weight=log_weight)

    def _judge_all(
        self, base: Base, batches: Iterator[_Unjudged], collection: _Collection
    ) -> tuple[RolloutShard, RowSteps]:
        """Judges and saves batch after batch; returns the rows of all processes, and the row-steps
        of this one.
        """
        message, name, run, used = "", collection.name, 0, 0
        with Progress(name, collection.own, collection.unit, collection.saved) as progress:
            for batch in lockstep(batches):
                result = judge(self.oracle, batch.prompts, batch.texts)
                if result.message and not message:  # only printed: files keep the type alone
                    message = result.message
                    print_once(
                        f"the oracle failed on {result.failures} samples of a batch: {message}"
                    )
                shard = self._shard(base, batch, result)
                save_shard(shard, collection.folder, collection.fingerprint)
                progress.advance(len(batch.row))
                run, used = run + batch.row_steps.run, used + batch.row_steps.used
        barrier(name)
        folder, fingerprint, count = collection.folder, collection.fingerprint, collection.count
        rows = merge_shards(folder, fingerprint, count, base.codec.eos_id, self.oracle)
        return rows, RowSteps(run, used)

    def _shard(self, base: Base, batch: _Unjudged, result: OracleResult) -> RolloutShard:
        """One batch, judged and scored under the base.

        Also where the sampler knows log p of what it drew, as for samples of the base: log_base is
        then computed in the same way for every row, references included.
        """
        rows, settings = batch.rows, self.settings
        log_base = score(base.policy, base.variables, rows, settings.batch, self.mesh)
        log_proposal = log_base if batch.log_proposal is None else batch.log_proposal
        log_prefix, total = exclusive_cumsum(log_base - log_proposal), log_proposal.sum(1)
        if batch.log_weight is not None:
            log_prefix, total = np.full_like(log_prefix, np.nan), total - batch.log_weight
        elif batch.log_proposal is None:
            total = np.full_like(total, np.nan)
        return RolloutShard(
            tokens=rows.tokens,
            prompt_length=rows.prompt_length,
            length=rows.length,
            condition=rows.condition,
            label=result.labels,
            log_base=log_base.sum(1),
            log_proposal=total,
            log_prefix=log_prefix,
            prompt_id=batch.prompt_id,
            finished=batch.finished,
            round=np.full(len(rows), self.round, np.int32),
            row=batch.row,
            error=result.errors,
        )


def _unjudged(
    base: Base,
    prompts: PromptSet,
    tokenized: TokenizedPrompts,
    number: np.ndarray,
    samples: int,
    drawn: Samples | Particles,
) -> _Unjudged:
    """What was drawn as rows, before proposals are known.

    Args:
      base: that it continues.
      prompts: all of them.
      tokenized: the same.
      number: int64 [N], of each row among all rows.
      samples: rows per prompt.
      drawn: N rows.
    """
    codec, prompt = base.codec, number // samples
    targets = [tokens[:n] for tokens, n in zip(drawn.tokens, drawn.length)]
    limit = base.model.context_length
    rows = sequences([tokenized.tokens[i] for i in prompt], targets, codec.eos_id, limit)
    return _Unjudged(
        rows=dataclasses.replace(rows, condition=rows_of(prompts.condition, prompt)),
        prompts=[prompts.texts[int(i)] for i in prompt],
        texts=codec.decode(targets),
        row=number,
        prompt_id=prompts.ids[prompt].astype(np.int32),
        finished=drawn.finished,
        log_proposal=None,
    )


def _collected(
    base: Base, rows: Rollouts, prompts: list[str], failures: int, occupancy: float | None
) -> Collected:
    """With the texts of the rows."""
    spans = zip(rows.tokens, rows.prompt_length, rows.length)
    texts = base.codec.decode([row[start:end] for row, start, end in spans])
    return Collected(rows, prompts, texts, failures, occupancy)


def _rollouts(rows: RolloutShard) -> Rollouts:
    """Without what only collecting needs."""
    return Rollouts(**{f.name: getattr(rows, f.name) for f in dataclasses.fields(Rollouts)})

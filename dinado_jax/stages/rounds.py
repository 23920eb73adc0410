"""The rollouts of each round of training, on disk: round 0 has those of the rollout stage, later
rounds sample the controlled model q.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import jax
import numpy as np

from dinado_jax.automata.compiled import conjunctions
from dinado_jax.automata.conjunction import Conjunction, stack
from dinado_jax.controls.control import Control
from dinado_jax.controls.state_table import StateTable
from dinado_jax.data.batch import rows_of
from dinado_jax.data.prompts import PromptSet
from dinado_jax.distributed.processes import broadcast
from dinado_jax.evaluation.metrics import efficiency, kl_floor_of_samples
from dinado_jax.evaluation.stage_figures import RoundFigures
from dinado_jax.language_model import Base, Composed, Controlled, LanguageModel
from dinado_jax.oracles.judge import is_success
from dinado_jax.rollouts.arrays import Rollouts, concatenate, select
from dinado_jax.rollouts.automata import log_rates_by_state, log_values_by_state
from dinado_jax.rollouts.collect import Collector
from dinado_jax.rollouts.hidden_states import HiddenStates, base_states
from dinado_jax.rollouts.mixture import as_mixture
from dinado_jax.rollouts.shards import save_once
from dinado_jax.rollouts.weighting import (
    duplicate_share,
    effective_sample_size,
    importance_weights,
    log_prob_per_token,
    normalize_per_prompt,
)
from dinado_jax.stages.artifacts import training_prompts
from dinado_jax.stages.context import Context
from dinado_jax.stages.target import target_oracle
from dinado_jax.stages.works import refresh
from dinado_jax.utils.outlook import reach
from dinado_jax.utils.progress import print_progress


@dataclasses.dataclass(frozen=True)
class Rounds:
    """Samples the rollouts of each round, or loads them if they are on disk."""

    context: Context
    base: Base  # sharded by the plan
    control: Control
    initial: Rollouts  # of the rollout stage
    _compiled: dict[str, Conjunction] = dataclasses.field(default_factory=dict)  # of prompts

    @property
    def _folder(self) -> Path:
        return self.context.run.path / "train"

    def rollouts_up_to(self, number: int, params: dict) -> dict[str, Rollouts]:
        """Returns the rollouts of rounds 0 .. number, in order: "round_0", "particles_0", ..;
        `params` sample the newest if needed.
        """
        found = {"round_0": self.initial}
        for earlier in range(number + 1):
            for name, sample in self._collections(earlier, params):
                found[name] = self._once(name, sample)
        return found

    def _collections(
        self, number: int, params: dict
    ) -> Iterator[tuple[str, Callable[[Path], Rollouts]]]:
        """The names of what a round samples, and how; round 0 samples nothing of q."""
        train = self.context.config.train
        if number:
            yield f"round_{number}", partial(self._sample, number, params)
        if number and train.roll_out:
            yield f"roll_outs_{number}", partial(self._roll_outs, number, params)
        if train.particles:
            yield f"particles_{number}", partial(self._particles, number)

    def _once(self, name: str, sample: Callable[[Path], Rollouts]) -> Rollouts:
        """Loads the rollouts of that name, which `sample` collects, with shards in a folder, if
        they are not on disk.
        """
        path = self._folder / f"{name}.npz"
        fingerprint = self.context.run.fingerprint("train") + path.name
        if not broadcast(path.exists()):
            save_once(sample(self._folder / f"{name}_shards"), path, fingerprint)
        return Rollouts.load(path, fingerprint, self.base.model.vocab_size)

    def states(self, rounds: list[Rollouts]) -> HiddenStates | None:
        """Returns the base's states on all rows of these rounds, from files, as the control reads
        them; None if training recomputes them.
        """
        config = self.context.config
        dtype, rows = config.train.base_states, config.rollout.batch
        if dtype == "recompute":
            return None
        plan, layer = self.context.plan, self.control.direction.from_layer
        sets = (
            base_states(self._folder, self.base, part, dtype, rows, plan, layer=layer)
            for part in rounds
        )
        return sum(sets, HiddenStates(self.base.model.width))

    def automata(self, rollouts: Rollouts) -> tuple[Conjunction, np.ndarray]:
        """The automata of the prompts of N rows, and which are each row's: int [N]."""
        texts = np.array(training_prompts(self.context, 0, int(rollouts.prompt_id.max()) + 1))
        distinct, number = np.unique(texts[rollouts.prompt_id], return_inverse=True)
        new = [text for text in distinct.tolist() if text not in self._compiled]
        vocab_size = self.base.model.vocab_size
        automata_of = self.context.automata_of
        assert automata_of is not None
        found = conjunctions(map(automata_of, new), self.base.codec, vocab_size)
        self._compiled.update(zip(new, found))
        return stack([self._compiled[text] for text in distinct.tolist()]), number

    @property
    def table(self) -> np.ndarray | None:
        """The table that a control with state begins with, by tokens left and class of the oracle's
        state: float32 [N + 1, Z] nats. It is log R of the base, or after `train.table_rounds` what
        texts drawn by the table before achieve.
        """
        return self._table[0]

    @property
    def table_kl(self) -> float | None:
        """KL to the base of the texts of the last table round, nats; None without any."""
        return self._table[1]

    @functools.cached_property
    def _table(self) -> tuple[np.ndarray | None, float | None]:
        reader, kl = self.control.state, None
        if reader is None:
            return None, None
        samples = _samples(self.initial)
        weight = importance_weights(samples, "importance", clip=1.0, reference_weight=0.0)
        table = log_rates_by_state(reader, samples, weight, *self.automata(samples))
        train = self.context.config.train
        for number in range(1, train.table_rounds + 1):
            drawn = self._once(f"table_{number}", partial(self._of_table, number, table))
            kl = _kl(drawn)
            print_progress(
                f"{reach(f'table round {number}')}: success {drawn.label.mean():.1%}, KL {kl:.2f} "
                f"nats, ended by itself {drawn.finished.mean():.1%}"
            )
            log_label = np.log(np.maximum(drawn.label, np.exp(-train.margin)))
            own = self.automata(drawn)
            table = log_values_by_state(reader, drawn, log_label, table, *own)
        return table, kl

    def figures(
        self, number: int, parts: Mapping[str, Rollouts], rollouts: Rollouts, weight: np.ndarray
    ) -> RoundFigures:
        """Computes what round `number` begins with.

        Args:
          number: of the round.
          parts: the rollouts of all rounds so far.
          rollouts: the same, N rows.
          weight: float [N], their importance weights.
        """
        newest = _samples(parts[f"round_{number}"])
        judged = len(newest) + len(parts.get(f"roll_outs_{number}", ()))
        rate = float(newest.label.mean())
        kl = _kl(newest)
        # Truncated samples are not the base's own until they are weighted.
        of_base = importance_weights(self.initial, "importance", clip=1.0, reference_weight=0.0)
        floor = kl_floor_of_samples(newest.label, self.initial.label, of_base)
        successes = select(newest, np.flatnonzero(is_success(newest.label)))
        known = number == 0 and len(successes) > 0  # those of later rounds are not the base's
        train, rollout = self.context.config.train, self.context.config.rollout
        drawn = train.refresh_prompts * train.refresh_samples
        if not number:
            drawn = rollout.prompts * rollout.samples
        return RoundFigures(
            oracle_failures=drawn - judged,
            rollouts=int((~rollouts.reference).sum()),
            repeated=round(duplicate_share(rollouts), 4),
            newest_success_rate=rate,
            newest_kl=kl,
            newest_efficiency=efficiency(floor, kl) if number else math.nan,
            newest_finished=float(newest.finished.mean()),
            newest_log_prob_per_token=log_prob_per_token(newest),
            effective_successes=effective_sample_size(
                normalize_per_prompt(weight * rollouts.label, rollouts.prompt_id)
            ),
            log_prob_per_token_of_successes=log_prob_per_token(successes) if known else None,
        )

    def _first_id(self, number: int) -> int:
        """Prompts are numbered through all rounds, so that no two share a random stream."""
        config = self.context.config
        return config.rollout.prompts + (number - 1) * config.train.refresh_prompts if number else 0

    def _prompts(self, number: int) -> PromptSet:
        """The prompts of a round."""
        first_id, config = self._first_id(number), self.context.config
        count = config.train.refresh_prompts if number else config.rollout.prompts
        return PromptSet(training_prompts(self.context, first_id, count), first_id)

    def _collector(self, number: int) -> Collector:
        fingerprint, settings = self.context.run.fingerprint("train"), self.context.config.rollout
        return Collector(
            target_oracle(self.context), settings, fingerprint, self.context.mesh, number
        )

    def _guided(self, table: np.ndarray) -> Controlled:
        """The base under a table of the state, gathered."""
        context, reader = self.context, self.control.state
        assert reader is not None
        base = dataclasses.replace(self.base, params=context.plan.gather(self.base.params))
        guide = StateTable(base.model, reader)
        return Controlled(base, guide, guide.init(table), automata_of=context.automata_of)

    def _of_table(self, number: int, table: np.ndarray, folder: Path) -> Rollouts:
        """Samples the base under a table, on the prompts that training begins with."""
        config = self.context.config
        train, key = config.train, jax.random.key(config.seed)
        key = jax.random.fold_in(jax.random.fold_in(key, 4), number)
        prompts = PromptSet(training_prompts(self.context, 0, train.refresh_prompts))
        name, collector = f"table round {number}", self._collector(0)
        model, samples = self._guided(table), train.refresh_samples
        return collector.sample(name, model, prompts, samples, key, folder).rollouts

    def _particles(self, number: int, folder: Path) -> Rollouts:
        """Samples the base by particles, guided by the table of the state."""
        assert self.table is not None
        model, count = self._guided(self.table), self.context.config.train.particles
        key = jax.random.fold_in(jax.random.key(self.context.config.seed), 2)
        name, collector = f"round {number} particles", self._collector(number)
        return collector.particles(name, model, self._prompts(number), count, key, folder)

    def _q(self, params: dict) -> Controlled:
        """The controlled model, gathered."""
        plan = self.context.plan
        base = dataclasses.replace(self.base, params=plan.gather(self.base.params))
        params = plan.gather(params)
        return Controlled(base, self.control, params, automata_of=self.context.automata_of)

    def _roll_outs(self, number: int, params: dict, folder: Path) -> Rollouts:
        """Samples that q begins and the base continues, from a token that is uniformly distributed
        within the mean length of the base's samples: labels of prefixes that q visits. With plain
        sampling the tokens after that one have weight 1.
        """
        own, samples = _samples(self.initial), refresh(self.context.config.train).roll_outs
        length = round(float((own.length - own.prompt_length).mean()))
        collector = dataclasses.replace(self._collector(number), roll_in=max(1, length))
        model = Composed((self._q(params),), beside_base=True)
        key = jax.random.fold_in(jax.random.key(self.context.config.seed), 3)
        name, prompts = f"round {number} roll-out by the base", self._prompts(number)
        return collector.sample(name, model, prompts, samples, key, folder).rollouts

    def _sample(self, number: int, params: dict, folder: Path) -> Rollouts:
        """Samples q, or for a mixture base and q in the configured shares of each prompt."""
        context, first_id = self.context, self._first_id(number)
        train, rollout = context.config.train, context.config.rollout
        prompts, collector = self._prompts(number), self._collector(number)
        key, q = jax.random.key(context.config.seed), self._q(params)

        def sampled(
            what: str, model: LanguageModel, samples: int, key: jax.Array, folder: Path
        ) -> Rollouts:
            name = f"round {number} {what}"
            return collector.sample(name, model, prompts, samples, key, folder).rollouts

        shares, base_key = refresh(train), jax.random.fold_in(key, 1)
        if not shares.control:
            return sampled("rollout of the base", q.base, shares.base, base_key, folder)
        rows = sampled("rollout", q, shares.control, key, folder)
        if not shares.base:
            return rows
        of_base = sampled("rollout of the base", q.base, shares.base, base_key, folder / "base")
        rows = concatenate([rows, of_base], q.base.codec.eos_id)
        q, known = q.for_prompts(prompts)
        condition = rows_of(known.condition, rows.prompt_id - first_id)
        read = dataclasses.replace(rows, condition=condition)
        share = shares.base / (shares.base + shares.control)
        mixed = as_mixture(read, q, share, rollout.batch, context.mesh)
        return dataclasses.replace(mixed, condition=rows.condition)


def _kl(samples: Rollouts) -> float:
    """From what they were sampled from to the base, nats per sequence."""
    return float((samples.log_proposal - samples.log_base).mean(dtype=np.float64))


def _samples(rollouts: Rollouts) -> Rollouts:
    """Without references."""
    return select(rollouts, np.flatnonzero(~rollouts.reference))

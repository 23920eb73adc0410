"""Stage train: rounds of {sample the current q, judge, weigh, learn} on growing rollouts."""

import dataclasses
import itertools
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np

from dinado_jax.config.schema import Config
from dinado_jax.controls.control import Control
from dinado_jax.controls.make import make_control
from dinado_jax.distributed.partitioning import (
    Plan,
    local_mesh,
    make_plan,
)
from dinado_jax.distributed.processes import barrier, broadcast, is_main
from dinado_jax.errors import InputError
from dinado_jax.language_model import Base, Controlled
from dinado_jax.objectives.table import phases
from dinado_jax.objectives.warmup import Warmup
from dinado_jax.oracles.table import resolve
from dinado_jax.rollouts.arrays import Rollouts, concatenate
from dinado_jax.rollouts.collect import Collector, PromptSet
from dinado_jax.rollouts.hidden_states import HiddenStates, base_states, delete_files, with_states
from dinado_jax.rollouts.shards import save_once
from dinado_jax.rollouts.weighting import (
    duplicate_share,
    effective_sample_size,
    importance_weights,
    normalize_per_prompt,
    success_rate,
)
from dinado_jax.stages.artifacts import base_fingerprint, trained_base, training_prompts
from dinado_jax.stages.run_folder import RunFolder
from dinado_jax.training.checkpoint import Checkpoints
from dinado_jax.training.loop import (
    Loop,
    Phase,
    TrainState,
    init_state,
    make_step,
    restore_or_init,
)
from dinado_jax.training.optimizer import optimizer
from dinado_jax.utils.progress import MetricsLog


@dataclasses.dataclass(frozen=True)
class Rounds:
    """The rollouts of each round on disk: round 0 is the rollout stage's, later ones sample q."""

    config: Config
    base: Base  # placed by the plan
    control: Control
    folder: Path
    fingerprint: str  # what the stage's results depend on
    initial: Rollouts
    plan: Plan

    def through_round(self, number: int, params: dict) -> list[Rollouts]:
        """The rollouts of rounds 0 .. number; the newest are sampled now unless on disk."""
        parts = [self.initial]
        for earlier in range(1, number + 1):
            path = self.folder / f"round_{earlier}.npz"
            if not broadcast(path.exists()):
                kept = self.folder / f"round_{earlier}_parts"
                save_once(self._sample(earlier, params, kept), path, self.fingerprint + path.name)
            vocab_size = self.base.model.vocab_size
            parts.append(Rollouts.load(path, self.fingerprint + path.name, vocab_size))
        return parts

    def states(self, parts: list[Rollouts]) -> HiddenStates:
        """The base's last hidden states on all rows of these rounds, on disk."""
        dtype, rows = self.config.train.base_states, self.config.rollout.batch
        sets = (base_states(self.folder, self.base, part, dtype, rows, self.plan) for part in parts)
        return sum(sets, HiddenStates(self.base.model.width))

    def figures(self, number: int, rollouts: Rollouts, weight: np.ndarray) -> dict:
        """What round `number` begins with, given all rollouts so far."""
        newest = (rollouts.prompt_id >= self._first_id(number)) & ~rollouts.reference
        train, rollout = self.config.train, self.config.rollout
        asked = train.refresh_prompts * train.refresh_samples
        if not number:
            asked = rollout.prompts * rollout.samples
        return {
            "oracle_failures": asked - int(newest.sum()),
            "rollouts": int((~rollouts.reference).sum()),
            "repeated": round(duplicate_share(rollouts), 4),
            "newest_success_rate": float(rollouts.label[newest].mean()),
            "effective_successes": effective_sample_size(
                normalize_per_prompt(weight * rollouts.label, rollouts.prompt_id)
            ),
        }

    def _first_id(self, number: int) -> int:
        """Prompts are numbered through all rounds, so that no two share a random stream."""
        refresh = self.config.train.refresh_prompts
        return self.config.rollout.prompts + (number - 1) * refresh if number else 0

    def _sample(self, number: int, params: dict, folder: Path) -> Rollouts:
        """Of q, or of the mixture of base and q, as many samples of each a prompt as it says."""
        first_id, train, rollout = self._first_id(number), self.config.train, self.config.rollout
        texts = training_prompts(self.config, first_id, train.refresh_prompts)
        prompts = PromptSet(texts, first_id)
        key = jax.random.key(self.config.seed)
        base = dataclasses.replace(self.base, params=self.plan.gather(self.base.params))
        q = Controlled(base, self.control, self.plan.gather(params))
        mesh = local_mesh(self.plan)
        collector = Collector(resolve(rollout.oracle).function, rollout, self.fingerprint, mesh)

        def sampled(what, model, samples, key, folder):
            name = f"round {number} {what}"
            return collector.sample(name, model, prompts, samples, key, folder).rollouts

        plain = round(train.mixture * train.refresh_samples)
        base_key = jax.random.fold_in(key, 1)
        if plain == train.refresh_samples:
            return sampled("rollout of the base", q.base, plain, base_key, folder)
        rows = sampled("rollout", q, train.refresh_samples - plain, key, folder)
        if not plain:
            return rows
        of_base = sampled("rollout of the base", q.base, plain, base_key, folder / "base")
        rows = concatenate([rows, of_base], q.base.codec.eos_id)
        return collector.as_mixture(rows, q, train.mixture)


def train(config: Config, run: RunFolder) -> dict:
    """Trains the control; leaves train/control, checkpoints on the way and the rounds' rollouts."""
    folder, plan = run.stage_folder("train"), make_plan(config.parallel)
    settings = config.train
    base, fingerprint = trained_base(config, run, plan.shard), base_fingerprint(run)
    path = run.path / "rollout" / "rollouts.npz"
    initial = Rollouts.load(path, vocab_size=base.model.vocab_size)
    rate = success_rate(initial)
    if not 0 < rate < 1:
        raise InputError(
            f"the base satisfies the oracle in {rate:.0%} of its samples: there is nothing to "
            "learn; check the oracle, or draw more with rollout.samples"
        )
    control = make_control(config, base.model)
    transform = optimizer(settings, settings.steps)
    schedule = [
        (end, objective, make_step(partial(objective.terms, control), transform, plan))
        for end, objective in phases(settings)
    ]
    prior = rate if config.control.norm_bias == "success_rate" else 0.5
    fresh = partial(_fresh, control, transform, config.seed, prior)
    rounds = Rounds(config, base, control, folder, run.fingerprint("train"), initial, plan)
    ends = np.linspace(0, settings.steps, settings.rounds + 1).round().astype(int)[1:].tolist()
    figures = {}
    with Checkpoints(folder / "checkpoints", fingerprint) as checkpoints:
        state = restore_or_init(checkpoints, plan, fresh, base.params)
        figures["trainable_parameters"] = sum(
            leaf.size for leaf in jax.tree.leaves(state.trainable)
        )
        log = MetricsLog(folder / "train.jsonl", int(state.step))
        loop = Loop(plan, settings.accumulate, config.run, checkpoints, log)
        for number, (begin, end) in enumerate(itertools.pairwise([0, *ends])):
            parts = rounds.through_round(number, state.trainable)
            rollouts = concatenate(parts, base.codec.eos_id)
            weight = importance_weights(
                rollouts, settings.weights, settings.weight_clip, settings.reference_weight
            )
            figures[f"round_{number}"] = rounds.figures(number, rollouts, weight)
            stored = settings.base_states != "recompute"
            states = rounds.states(parts) if stored else None
            for until, objective, step in schedule:
                stop = max(begin, min(end, until))
                batch_at = objective.batches(rollouts, weight, config.seed)
                if states is not None:
                    batch_at = with_states(batch_at, states, objective.reads_states(control))
                name = "warm-up" if isinstance(objective, Warmup) else f"train round {number}"
                phase = Phase(name, step, batch_at, begin, stop)
                state, begin = loop.fit(phase, state, base.params), stop
    if is_main():  # what a stop left between here and the stage's end may have changed since
        shutil.rmtree(folder / "control", ignore_errors=True)
    barrier("the control is to be saved")
    with Checkpoints(folder / "control", fingerprint) as final:
        final.save(settings.steps, plan.to_host(state.trainable))
    barrier("the control is saved")
    if is_main():
        delete_files(folder)
    return figures


def _fresh(control: Control, transform, seed: int, prior: float, base_params: dict) -> TrainState:
    return init_state(control.init(jax.random.key(seed), base_params, prior), transform)

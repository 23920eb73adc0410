"""A world whose base is a tiny network, with the models, deltas, controls and decoding of a run.

S sequences of the world; rows of T tokens.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from dinado_jax.automata.conjunction import Conjunction, conjunction, stack
from dinado_jax.automata.tokens import containing_token
from dinado_jax.config.schema import Base, Optim
from dinado_jax.controls.control import Control
from dinado_jax.controls.state import AUTOMATA
from dinado_jax.data.batching import Epochs
from dinado_jax.data.prompts import TokenizedPrompts
from dinado_jax.data.sequences import Sequences
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.policy import ModelPolicy
from dinado_jax.decoding.sampler import Sampler, sample_prompts
from dinado_jax.decoding.score import score
from dinado_jax.exact.learn import Draw
from dinado_jax.exact.world import Optimum, World
from dinado_jax.models.architectures import new_model
from dinado_jax.models.params import init_params
from dinado_jax.models.protocol import BaseModel
from dinado_jax.objectives.sft import likelihood
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.rollouts.weighting import align_to_targets, exclusive_cumsum
from dinado_jax.training.optimizer import optimizer
from dinado_jax.training.step import init_state, make_step, split_micro_batches

_SFT = Optim(steps=600, batch=128, learning_rate=5e-3)
_ROWS = 4096  # decoded or scored at once


@dataclasses.dataclass(frozen=True)
class Neural:
    """The base of a world: p is the distribution of this model, not of its training data."""

    world: World
    model: BaseModel
    params: dict[str, Any]
    log_base: np.ndarray  # float32 [S, T-1], log p of every token in nats

    @property
    def log_p(self) -> np.ndarray:
        """log p of every sequence in nats: float32 [S]."""
        return self.log_base.sum(1)


@functools.lru_cache(8)
def train_base(world: World) -> Neural:
    """Trains a model of 2 layers of width 32 on samples of the world's tables."""
    model = new_model(
        Base(
            vocab_size=world.vocabulary,
            n_positions=world.length + 1,
            n_embd=32,
            n_layer=2,
            n_head=2,
        )
    )
    p = np.exp(world.log_tabled())
    rng = np.random.default_rng((world.seed, 3))
    index = rng.choice(len(p), 20_000, p=p / p.sum())
    all_rows = world.rows
    rows = Sequences(all_rows.tokens[index], all_rows.prompt_length[index], all_rows.length[index])
    transform = optimizer(_SFT, _SFT.steps)
    step = make_step(functools.partial(likelihood, model, None), transform)
    state = init_state(init_params(model, world.seed), transform)
    batches = Epochs(rows, _SFT.batch, world.seed)
    for number in range(_SFT.steps):
        state, _ = step(state, None, split_micro_batches(batches.at(number), 1))
    variables = {"params": state.trainable}
    return Neural(
        world, model, state.trainable, score(ModelPolicy(model), variables, world.rows, _ROWS)
    )


def automata_of(world: World, wanted: list[int]) -> Conjunction:
    """Automata that accept the sequences with all of these tokens: of one prompt, [1, ..]."""
    has = [containing_token(v, world.vocabulary) for v in wanted]
    return stack([conjunction(has, world.stop_ids)])


def decoded(
    base: Neural,
    optimum: Optimum,
    control: Control,
    seed: int,
    automata: Conjunction | None = None,
) -> Draw:
    """Returns a `Draw` that samples by the decoding loop; automata for a control with state."""
    world = base.world

    def draw(params: dict[str, Any] | None, count: int, number: int) -> Rollouts:
        policy, variables = ModelPolicy(base.model), {"params": base.params}
        condition = None
        if params is not None:
            if automata is not None:
                params = {**params, AUTOMATA: automata}
                condition = {AUTOMATA: np.zeros(count, np.int32)}
            policy, variables = control.policy, control.policy_variables(base.params, params)
        sampler = Sampler(policy, Method(), world.stop_ids, world.length)
        key = jax.random.key(seed)
        for part in (world.seed, number, params is None):
            key = jax.random.fold_in(key, part)
        prompts = TokenizedPrompts([[0]] * count, condition)
        new = sample_prompts(sampler, variables, prompts, key, min(count, _ROWS))
        length, finished = np.asarray(new.length), np.asarray(new.finished)
        tokens = np.pad(new.tokens, ((0, 0), (1, 0)))
        index = world.index(tokens)
        rows = Sequences(tokens, np.ones(count, np.int32), 1 + length)
        log_proposal = align_to_targets(rows, np.asarray(new.log_probs))
        log_base = base.log_base[index]
        return Rollouts(
            tokens=tokens,
            prompt_length=rows.prompt_length,
            length=rows.length,
            label=optimum.label[index],
            log_base=log_base.sum(1),
            log_proposal=log_proposal.sum(1),
            log_prefix=exclusive_cumsum(log_base - log_proposal),
            prompt_id=np.zeros(count, np.int32),
            finished=finished,
            round=np.full(count, number, np.int32),
        )

    return draw

"""A guide that keeps to texts which satisfy a constraint: R is 0 or 1, it masks next tokens.

A token is allowed if the constraint can still be satisfied within the tokens that are left after
it, and a stop token if the text satisfies the constraint. So every text does, whether it ends by
itself or after its last token, unless something else forbids all tokens that this guide allows.

The number of tokens that are needed is an upper bound; of one automaton it is exact. Automata of
one prompt read the same tokens, and one may move another back: the plan is to settle one automaton
from where it is, then the others one after another, each from the worst state it may have been left
in (what cannot be settled is part of each, see automata/joint.py). Some token always shortens the
plan by one, so what has been allowed can be carried out.

B prompts, S samples of each, R = B S rows, K automata of a prompt, J joint classes of tokens, V
vocabulary; other letters as in automata/conjunction.py.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from dinado_jax.automata.conjunction import Conjunction
from dinado_jax.automata.tokens import NEVER
from dinado_jax.data.batch import Array
from dinado_jax.data.prompts import Prompts
from dinado_jax.guides.protocol import NextValues
from dinado_jax.models.output import Output
from dinado_jax.ops import bernoulli

KEY = "constraint"  # of the conditions that number the conjunctions


class ConstraintState(NamedTuple):
    """Where each row is."""

    prompt: jax.Array  # int32 [R], the number of its conjunction
    states: jax.Array  # int32 [R, K]
    left: jax.Array  # int32 [R], tokens that may still be drawn


@dataclasses.dataclass(frozen=True)
class Constraint:
    """The guide. Its arrays are the `Conjunction` of P prompts; `condition[KEY]`, int32 [B], is the
    number of each prompt's own.

    Attributes:
      max_new_tokens: of a text. A decoding loop of more tokens ends every text within these.
    """

    key: ClassVar[str] = KEY
    max_new_tokens: int
    ends: bool = False  # whether every text ends by itself, so that a token is left for its end

    @property
    def single_pass(self) -> bool:
        """See `Guide`."""
        return False

    def decode_params(self, params: Conjunction) -> Conjunction:
        """See `Guide`."""
        return params

    def prefill(
        self,
        params: Conjunction,
        base_params: Any,
        base: Output,
        prompts: Prompts,
        samples: int,
        steps: int,
    ) -> tuple[NextValues, ConstraintState]:
        """See `Guide`."""
        prompt = jnp.asarray(prompts.condition[KEY])
        states = jnp.zeros((len(prompt), params.table.shape[1]), jnp.int32)
        left = jnp.full(len(prompt), self.max_new_tokens, jnp.int32)
        state = ConstraintState(prompt, states, left)
        per_row = jax.tree.map(lambda x: jnp.repeat(x, samples, 0), state)
        return _values(params, state, self.ends), per_row

    def step(
        self,
        params: Conjunction,
        base_params: Any,
        base: Output,
        tokens: jax.Array,
        state: ConstraintState,
    ) -> tuple[NextValues, ConstraintState]:
        """See `Guide`."""
        joint = params.joint_of[state.prompt, tokens].astype(jnp.int32)
        automata = jnp.arange(state.states.shape[1])[None]
        prompt = state.prompt[:, None]
        own = params.class_of[prompt, automata, joint[:, None]]
        states = params.table[prompt, automata, state.states, own].astype(jnp.int32)
        state = ConstraintState(state.prompt, states, state.left - 1)
        return _values(params, state, self.ends), state


def tokens_needed(params: Conjunction, prompt: jax.Array, states: jax.Array) -> jax.Array:
    """The number of tokens with which the constraint can be satisfied for certain.

    Args:
      params: of P prompts.
      prompt: int32 [R], the number of each row's conjunction.
      states: int32 [R, K, n], of its automata.

    Returns:
      int32 [R, n]: 0 where it is satisfied, at least `NEVER` where it may be impossible.
    """
    row, automata = prompt[:, None, None], jnp.arange(states.shape[1])[None, :, None]

    def of_states(array: Array) -> jax.Array:
        return jnp.asarray(array)[row, automata, states].astype(jnp.int32)

    def of_automata(array: Array) -> jax.Array:
        return jnp.asarray(array)[prompt][..., None].astype(jnp.int32)

    to_settled, to_accepting = of_states(params.to_settled), of_states(params.to_accepting)
    worst = of_automata(params.worst_settled)
    open_ = to_settled > 0
    # The first automaton begins where it is; the last one need not be settled.
    total = jnp.where(open_, worst, 0).sum(1)
    first = jnp.where(open_, worst - to_settled, -NEVER).max(1)
    last = jnp.where(open_, worst - of_automata(params.worst_accepting), NEVER).min(1)
    # What guards them all may have to be satisfied at the end, though nothing is open.
    alone = to_accepting.max(1)
    needed = jnp.where(open_.sum(1) > 1, total - first - last, alone)
    return jnp.where((to_accepting == 0).all(1), 0, needed)


def _values(params: Conjunction, state: ConstraintState, ends: bool) -> NextValues:
    prompt, states, left = state
    automata = jnp.arange(states.shape[1])[None]
    following = params.table[prompt[:, None], automata, states]  # [R, K, C]
    after = jnp.take_along_axis(following, params.class_of[prompt].astype(jnp.int32), 2)
    needed = tokens_needed(params, prompt, after.astype(jnp.int32))  # [R, J]
    accepts = jnp.asarray(params.accepting)[prompt[:, None], automata, states].all(1)
    enough = needed < (left - ends)[:, None]
    allowed = jnp.concatenate([accepts[:, None], enough[:, 1:]], 1)
    # A row past its end may be in any state, and its logits must stay finite.
    allowed |= ~allowed.any(1, keepdims=True)
    by_token = jnp.take_along_axis(allowed, params.joint_of[prompt].astype(jnp.int32), 1)
    log_after = jnp.where(by_token, 0.0, -jnp.inf)
    log_value = jnp.zeros(len(prompt), jnp.float32)
    return NextValues(log_value, log_after, bernoulli.logit(log_value), bernoulli.logit(log_after))

"""A control that reads the state of its oracle: what the text still lacks, and in how many tokens.

Where the oracle is decided by automata, R after a token depends above all on the class of the state
that the token leads to (automata/progress.py). A direction with state adds to its logits

    T[z] + T_left[z] + U[z] . relu(W h)      z the class after the token, h the direction's state

a table, one by the number of tokens left, which begins with the base's rates, and a dependence of
low rank on the text. Into h goes an
embedding of the present class and of the tokens left, so that any token, such as a full stop, may
depend on what is missing; a norm that reads the base's states has an embedding of its own. R is 0,
up to e^-100, where the constraint can no longer be satisfied.

B rows, T tokens, D width, V vocabulary, Z classes.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.automata import progress
from dinado_jax.automata.conjunction import Conjunction
from dinado_jax.data.batch import Batch
from dinado_jax.distributed.constraints import all_gather_param
from dinado_jax.ops.vocab import Classes

# Of prompts, the condition with the number of their automata among a control's parameters of that
# name; of rows in training, the automata themselves.
AUTOMATA = "automata"
_RANK = 16
LOW = -100.0  # nats, of what is impossible: finite, so that no loss is nan


class Progress(NamedTuple):
    """What is known of the oracle's state at every prefix."""

    now: jax.Array  # int32 [..], the class of the prefix
    left: jax.Array  # int32 [..], tokens that may follow
    after: jax.Array  # uint8 [.., V], the class after each next token


@dataclasses.dataclass(frozen=True)
class StateReader:
    """The part of a direction that reads the state. Static and pure."""

    width: int  # D
    max_new_tokens: int  # the most tokens of a text; the state includes how many are left

    def init(self, key: jax.Array, log_rates: np.ndarray | None = None) -> dict:
        """Initialises parameters.

        Args:
          key: typed PRNG key.
          log_rates: float32 [max_new_tokens + 1, Z] nats, log R by tokens left and class; None:
            the same everywhere.
        """
        bound, steps = self.width**-0.5, self.max_new_tokens + 1
        after = np.maximum(np.arange(steps) - 1, 0)  # the next token leaves one fewer
        rates = np.zeros((steps, progress.COUNT), np.float32) if log_rates is None else log_rates
        read = jax.random.uniform(key, (self.width, _RANK), jnp.float32, -bound, bound)
        return {
            **self.init_embedding(),
            "read": read,
            "table": jnp.zeros(progress.COUNT, jnp.float32),
            "table_left": jnp.asarray(rates[after]),
            "value": jnp.zeros((_RANK, progress.COUNT), jnp.float32),
        }

    def init_embedding(self) -> dict:
        """Initialises the parameters of `embed`, with which it changes nothing."""
        return {
            "now": jnp.zeros((progress.COUNT, self.width), jnp.float32),
            "left": jnp.zeros((self.max_new_tokens + 1, self.width), jnp.float32),
        }

    def embed(self, params: dict, hidden: jax.Array, at: Progress) -> jax.Array:
        """Adds what is known of the oracle's state to the states [.., D] of the same prefixes."""
        known = params["now"][at.now] + params["left"][at.left]
        return (hidden + known).astype(hidden.dtype)

    def apply(self, params: dict, hidden: jax.Array, at: Progress) -> tuple[jax.Array, Classes]:
        """Returns the states with what is known of the oracle's, and the scores of classes.

        Args:
          params: as `init` returns them.
          hidden: [.., D] states of the direction.
          at: the same prefixes.
        """
        params = jax.tree.map(all_gather_param, params)
        every = tuple(range(at.now.ndim))
        hidden = self.embed(params, hidden, at)
        read = jax.nn.relu(hidden.astype(jnp.float32) @ params["read"])
        scores = params["table_left"][at.left] + read @ params["value"]
        scores += jnp.expand_dims(params["table"], every)
        impossible = jnp.expand_dims(jnp.arange(progress.COUNT) == progress.IMPOSSIBLE, every)
        return hidden, Classes(jnp.where(impossible, LOW, scores), at.after)

    def left(self, read: jax.Array) -> jax.Array:
        """The number of tokens that may follow after `read` new ones."""
        return jnp.clip(self.max_new_tokens - read, 0)

    def along(self, batch: Batch) -> Progress:
        """The progress at every column but the last, [B, T-1], of rows with their automata."""
        rows: Conjunction = batch.condition[AUTOMATA]

        def read(states: jax.Array, now: tuple[jax.Array, jax.Array]):
            tokens, new = now
            states = jnp.where(new[:, None], progress.next_states(rows, states, tokens), states)
            return states, states

        tokens = jnp.asarray(batch.tokens)[:, :-1]
        column = jnp.arange(tokens.shape[1])[None]
        count = column + 1 - jnp.asarray(batch.prompt_length)[:, None]
        columns = tokens.T, (count > 0).T
        _, states = jax.lax.scan(read, progress.start_states(rows), columns)
        states, left = states.swapaxes(0, 1), self.left(jnp.maximum(count, 0))
        now = progress.of_prefixes(rows, states, left)
        return Progress(now, left, progress.of_next_tokens(rows, states, left))


class Reading(NamedTuple):
    """The progress of rows that are being decoded, R of them, of B prompts."""

    number: jax.Array  # int32 [R], of each row's automata among those of all prompts
    states: jax.Array  # int32 [R, K]
    left: jax.Array  # int32 [R]

    @classmethod
    def begin(cls, reader: StateReader, automata: Conjunction, number: jax.Array) -> "Reading":
        """Before the first new token of each prompt."""
        states = jnp.zeros((len(number), automata.table.shape[1]), jnp.int32)
        return cls(number, states, jnp.full(len(number), reader.max_new_tokens, jnp.int32))

    def advanced(self, automata: Conjunction, tokens: jax.Array) -> "Reading":
        """After one more token [R] of every row."""
        states = progress.next_states(self._own(automata), self.states, tokens)
        return Reading(self.number, states, jnp.maximum(self.left - 1, 0))

    def progress(self, automata: Conjunction) -> Progress:
        """Of every row: [R], and [R, V] after each next token."""
        own, states, left = self._own(automata), self.states[:, None], self.left[:, None]
        now, after = (
            progress.of_prefixes(own, states, left),
            progress.of_next_tokens(own, states, left),
        )
        return Progress(now[:, 0], self.left, after[:, 0])

    def _own(self, automata: Conjunction) -> Conjunction:
        return progress.rows_of_prompts(automata, self.number)

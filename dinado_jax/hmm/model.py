"""A hidden Markov model of texts: the next token depends on a state, the next state on that one.

A text ends with its stop token: nothing follows it. (Elsewhere this is written as a state that
emits it for ever.) Probabilities of states are scaled to add up to 1 after every token, which is as
safe as logarithms and takes one matrix product per token.

N rows, T tokens, H states, V vocabulary.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dinado_jax.data.batch import Array

EXACT = jax.lax.Precision.HIGHEST  # products of fewer bits give ratios of probabilities above 1


@struct.dataclass
class Hmm:
    """The probabilities, float32."""

    initial: Array  # [H] of the state before the first token
    transition: Array  # [H, H], from the state of each row to that of each column
    emission: Array  # [V, H], of each token in the state of each column
    # Whether its texts begin with their prompts, otherwise after them.
    reads_prompt: bool = struct.field(pytree_node=False, default=False)
    # Parameters of hmm/head.py, which predicts the state from the base's hidden state. None: the
    # HMM's own filter gives the state.
    head: Any = None

    @property
    def states(self) -> int:
        """H."""
        return len(self.initial)

    @property
    def vocab_size(self) -> int:
        """V."""
        return len(self.emission)


def random_hmm(states: int, vocab_size: int, seed: int, sharpness: float = 1.0) -> Hmm:
    """Draws one: the larger `sharpness`, the fewer states and tokens are likely after each."""
    rng = np.random.default_rng(seed)

    def rows(*shape: int) -> np.ndarray:
        drawn = rng.gamma(1 / sharpness, size=shape) + 1e-6
        return (drawn / drawn.sum(-1, keepdims=True)).astype(np.float32)

    emission = np.ascontiguousarray(rows(states, vocab_size).T)
    return Hmm(rows(states), rows(states, states), emission)


def emit(state: jax.Array, emission: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Reads a token of each row.

    Args:
      state: [N, H], probabilities of the state before it.
      emission: [N, H], its probability in each state.

    Returns:
      [N, H], those of the state given the token, zeros where it is impossible; and its probability,
      [N].
    """
    joint = state * emission
    prob = joint.sum(1)
    return joint / jnp.where(prob > 0, prob, 1.0)[:, None], prob


def move(transition: jax.Array, state: jax.Array) -> jax.Array:
    """The probabilities of the next state, [N, H], from those of the present one."""
    return jnp.matmul(state, transition, precision=EXACT)


def read(
    state: jax.Array, transition: jax.Array, emission: jax.Array, inside: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Reads rows from left to right.

    Args:
      state: [N, H], probabilities of the state before the first token.
      transition: [H, H].
      emission: [N, T, H], the probability of each token in each state.
      inside: bool [N, T], the tokens that are read.

    Returns:
      float32 [N, H], the probabilities of the state before the next token; and float32 [N, T] nats,
      those of the tokens, 0 where they are not read.
    """

    def step(state: jax.Array, each: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        emission, inside = each
        given, prob = emit(state, emission)
        state = jnp.where(inside[:, None], move(transition, given), state)
        return state, jnp.where(inside, jnp.log(prob), 0.0)

    state, log_probs = jax.lax.scan(step, state, (emission.swapaxes(0, 1), inside.T))
    return state, log_probs.T


@dataclasses.dataclass(frozen=True)
class Rows:
    """N texts as an HMM reads them, on the host."""

    tokens: np.ndarray  # int32 [N, T], right-padded
    length: np.ndarray  # int32 [N]

    def __len__(self) -> int:
        return len(self.length)

    @property
    def count(self) -> int:
        """Tokens in all."""
        return int(self.length.sum())

    def take(self, index: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [size, T] of the rows numbered `index`, and which of them are read; what is
        missing is rows of which nothing is.
        """
        tokens = np.zeros((size, self.tokens.shape[1]), np.int32)
        length = np.zeros(size, np.int32)
        tokens[: len(index)], length[: len(index)] = self.tokens[index], self.length[index]
        return tokens, np.arange(tokens.shape[1])[None] < length[:, None]

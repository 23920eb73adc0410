"""What a decoding loop needs of a distribution: logits after a prompt, and after each next token.

A policy is static (hashable) and pure; its arrays travel beside it. Any base model is one, with or
without a delta; so is a base under guides (guides/guided.py).
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp

from dinado_jax.data.batch import Batch
from dinado_jax.data.prompts import Prompts
from dinado_jax.models.cache import Cache, allocate
from dinado_jax.models.output import logits
from dinado_jax.models.protocol import Model
from dinado_jax.ops.vocab import token_log_probs

Carry = Any


class NextLogits(NamedTuple):
    """Logits of the next token of R rows; -inf at ids without text (`Model.excluded_ids`)."""

    policy: jax.Array  # float32 [R, V], of the policy itself
    base: jax.Array | None = None  # float32 [R, V], of the base, where the policy has them in hand

    @property
    def log_weighed(self) -> jax.Array:
        """log p + log R of a base under guides, whose logits are in hand: float32 [R, V] nats."""
        assert self.base is not None
        log_p = jax.nn.log_softmax(self.base)
        return jnp.where(jnp.isneginf(self.base), -jnp.inf, log_p + (self.policy - self.base))


class Policy(Protocol):
    """Shapes: B prompts, R rows (samples of one prompt together), T prompt tokens, V vocabulary.

    Ids without text (`Model.excluded_ids`) have logits of -inf, and no part in log-probabilities.
    """

    @property
    def vocab_size(self) -> int: ...

    @property
    def context_length(self) -> int:
        """Tokens of the longest row, prompt included."""
        ...

    def prefill(
        self, variables: Any, prompts: Prompts, samples: int, steps: int
    ) -> tuple[NextLogits, Carry]:
        """Reads the prompts.

        Args:
          variables: the policy's arrays.
          prompts: [B, T].
          samples: rows per prompt.
          steps: how many more tokens of each row will be read.

        Returns:
          Logits of the next token, and the carry of each row. Its caches are allocated (see
          models/cache.py); its other leaves have a leading axis R.
        """
        ...

    def step(self, variables: Any, carry: Carry, tokens: jax.Array) -> tuple[NextLogits, Carry]:
        """Reads one more token [R] of every row."""
        ...

    def log_probs(self, variables: Any, batch: Batch) -> jax.Array:
        """Scores every target token.

        Args:
          variables: the policy's arrays.
          batch: rows [B, T], and the condition of their prompts.

        Returns:
          float32 [B, T-1] nats: column t scores token t + 1. Columns before and after the target
          have no meaning.
        """
        ...


@dataclasses.dataclass(frozen=True)
class ModelPolicy:
    """One model: the base, or the base with a delta. variables: {"params": ..[, "delta": ..]}."""

    model: Model

    @property
    def vocab_size(self) -> int:
        return self.model.vocab_size

    @property
    def context_length(self) -> int:
        return self.model.context_length

    def prefill(
        self, variables: Any, prompts: Prompts, samples: int, steps: int
    ) -> tuple[NextLogits, Cache]:
        out = self.model.apply(variables, prompts.tokens)
        last = last_token_states(out.hidden, prompts.lengths)
        scores = logits(last, out.vocabulary, self.model.excluded_ids)
        scores = NextLogits(jnp.repeat(scores, samples, 0))
        return scores, allocate(out.cache, prompts.lengths, samples, steps)

    def step(
        self, variables: Any, carry: Cache, tokens: jax.Array
    ) -> tuple[NextLogits, Cache | None]:
        out = self.model.apply(variables, tokens[:, None], carry)
        scores = logits(out.hidden[:, 0], out.vocabulary, self.model.excluded_ids)
        return NextLogits(scores), out.cache

    def log_probs(self, variables: Any, batch: Batch) -> jax.Array:
        tokens = batch.tokens
        out = self.model.apply(variables, tokens)
        excluded_ids = self.model.excluded_ids
        return token_log_probs(
            out.hidden[:, :-1], out.vocabulary, tokens[:, 1:], excluded_ids=excluded_ids
        )


def last_token_states(hidden: jax.Array, lengths: jax.Array) -> jax.Array:
    """The states at the last tokens of right-padded rows: [B, T, D], [B] -> [B, D]."""
    chex.assert_rank([hidden, lengths], [3, 1])
    return jnp.take_along_axis(hidden, lengths[:, None, None] - 1, 1)[:, 0]

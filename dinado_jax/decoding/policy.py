"""What a decoding loop needs of a distribution: logits after a prompt, and after each next token.

A policy is static (hashable) and pure; its arrays travel beside it. The composed distribution of a
control is a policy like any other: `merge` is one trunk; controls that need two put both into the
carry and add their log R to the base's (controls/guided.py).
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from dinado_jax.data.batch import Batch
from dinado_jax.models.cache import allocate
from dinado_jax.models.output import logits
from dinado_jax.models.protocol import Model
from dinado_jax.ops.vocab import token_log_probs

Carry = Any


class NextLogits(NamedTuple):
    """Logits of the next token of R rows; -inf at ids without text (`Model.excluded_ids`)."""

    policy: jax.Array  # float32 [R, V], of the policy itself
    base: jax.Array | None = None  # float32 [R, V], of the base, where the policy has them in hand


class Policy(Protocol):
    """Shapes: B prompts, R rows (samples of one prompt together), T prompt tokens, V vocabulary.

    Ids without text (`Model.excluded_ids`) have logits of -inf, and no part in log-probabilities.
    """

    @property
    def vocab_size(self) -> int:
        """V."""
        ...

    @property
    def context_length(self) -> int:
        """Tokens of the longest row."""
        ...

    def prefill(
        self,
        variables: Any,
        tokens: jax.Array,
        lengths: jax.Array,
        samples: int,
        steps: int,
        condition: Any = None,
    ) -> tuple[NextLogits, Carry]:
        """Reads the prompts.

        Args:
          variables: the policy's arrays.
          tokens: int32 [B, T], right-padded.
          lengths: int32 [B], >= 1.
          samples: rows per prompt.
          steps: tokens to come of each row.
          condition: pytree of [B, ...], what guides know of each prompt.

        Returns:
          Logits of the next token, and the carry of each row. Its caches are allocated (see
          models/cache.py); its other leaves have a leading axis R.
        """
        ...

    def step(self, variables: Any, carry: Carry, tokens: jax.Array) -> tuple[NextLogits, Carry]:
        """Reads one more token [R] of every row."""
        ...

    def log_probs(self, variables: Any, batch: Batch) -> jax.Array:
        """Log-probability of each target token: tokens [B, T] int32, prompt_length [B] -> [B, T-1]
        float32 nats; what stands before the targets is of no use."""
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

    def prefill(self, variables, tokens, lengths, samples, steps, condition=None):
        out = self.model.apply(variables, tokens)
        scores = logits(
            last_token_states(out.hidden, lengths), out.vocabulary, self.model.excluded_ids
        )
        scores = NextLogits(jnp.repeat(scores, samples, 0))
        return scores, allocate(out.cache, lengths, samples, steps)

    def step(self, variables, carry, tokens):
        out = self.model.apply(variables, tokens[:, None], carry)
        scores = logits(out.hidden[:, 0], out.vocabulary, self.model.excluded_ids)
        return NextLogits(scores), out.cache

    def log_probs(self, variables, batch):
        tokens = batch.tokens
        out = self.model.apply(variables, tokens)
        excluded_ids = self.model.excluded_ids
        return token_log_probs(
            out.hidden[:, :-1], out.vocabulary, tokens[:, 1:], excluded_ids=excluded_ids
        )


def last_token_states(hidden: jax.Array, lengths: jax.Array) -> jax.Array:
    """The states [B, D] at the last tokens of right-padded rows: [B, T, D], [B]."""
    return jnp.take_along_axis(hidden, lengths[:, None, None] - 1, 1)[:, 0]

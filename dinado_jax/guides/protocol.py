"""What steers decoding: a guide gives log R over the next tokens of every prefix.

B prompts, R rows (the samples of one prompt together), T prompt tokens, V vocabulary, D width.
"""

from typing import Any, NamedTuple, Protocol

import jax

from dinado_jax.models.output import Output


class NextValues(NamedTuple):
    """V of a prefix and R after each next token, for B prefixes: logarithms (nats) and log-odds."""

    log_value: jax.Array  # [B]
    log_after: jax.Array  # [B, V]
    value_logit: jax.Array  # [B]
    after_logit: jax.Array  # [B, V]


class Prompts(NamedTuple):
    """Right-padded prompts, and what a guide knows of each."""

    tokens: jax.Array  # int32 [B, T]
    lengths: jax.Array  # int32 [B], >= 1
    condition: Any = None  # pytree of [B, ...], such as the keywords of each prompt


class Guide(Protocol):
    """Static and hashable; its arrays travel beside it. A trained control is one; a keyword
    automaton, a hidden Markov model or a classifier are others.

    The state is a pytree. Its caches are `models.cache.Cache`s, allocated for the steps to come;
    every other leaf has the row as its leading axis, so that beams can reorder it and devices share
    it.
    """

    @property
    def single_pass(self) -> bool:
        """Whether q is the distribution of one model, which decodes without the base beside it."""
        ...

    def decode_params(self, params: Any) -> Any:
        """The arrays as decoding reads them: the same function from fewer bytes."""
        ...

    def prefill(
        self,
        params: Any,
        base_params: Any,
        base: Output,
        prompts: Prompts,
        samples: int,
        steps: int,
    ) -> tuple[NextValues, Any]:
        """Reads the prompts.

        Args:
          params: the guide's arrays.
          base_params: the base's.
          base: the base's output on the prompts, [B, T].
          prompts: tokens, lengths and conditions.
          samples: rows per prompt.
          steps: tokens to come of each row.

        Returns:
          The values of each prompt, [B], and the state of each row, [R].
        """
        ...

    def step(
        self, params: Any, base_params: Any, base: Output, tokens: jax.Array, state: Any
    ) -> tuple[NextValues, Any]:
        """Reads one more token [R] of every row, of which `base` [R, 1] is the base's output.

        Returns:
          The values after it, [R], and the state.
        """
        ...

"""The interface of a guide: what steers decoding by log R over the next tokens of every prefix.

A trained control is a guide (controls/control.py); a keyword automaton, a hidden Markov model or a
classifier are others. A new one is a class of this shape, used as `Controlled(base, guide, params)`
or composed with others by `compose`.

B prompts, S samples of each, R = B S rows, T prompt tokens, V vocabulary.
"""

from typing import Any, NamedTuple, Protocol

import jax

from dinado_jax.data.prompts import Prompts
from dinado_jax.models.output import Output


class NextValues(NamedTuple):
    """V of B prefixes and R after each next token: float32, in nats and as log-odds."""

    log_value: jax.Array  # [B]
    log_after: jax.Array  # [B, V]
    value_logit: jax.Array  # [B]
    after_logit: jax.Array  # [B, V]


class Guide(Protocol):
    """Static and hashable; its arrays travel beside it, as `params`.

    The state is a pytree of a guide's own. Its caches, if it has any, are `models.cache.Cache`s
    allocated for the steps to come; every other leaf has the row as its leading axis, so that beams
    reorder it and devices share it.
    """

    @property
    def single_pass(self) -> bool:
        """Whether q is also the distribution of the base's model with other variables, so that the
        base need not be decoded beside it. Such a guide has `single_pass_variables` too.
        """
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
          params: the guide's arrays, as `decode_params` returns them.
          base_params: the base's.
          base: the base's output on the prompts, [B, T].
          prompts: tokens, lengths and conditions.
          samples: S, rows per prompt.
          steps: how many more tokens of each row will be read.

        Returns:
          The values of each prompt, [B], and the state of each row, [R].
        """
        ...

    def step(
        self, params: Any, base_params: Any, base: Output, tokens: jax.Array, state: Any
    ) -> tuple[NextValues, Any]:
        """Reads one more token of every row.

        Args:
          params: the guide's arrays, as `decode_params` returns them.
          base_params: the base's.
          base: the base's output on the tokens, [R, 1].
          tokens: int32 [R].
          state: of the rows before.

        Returns:
          The values after the tokens, [R], and the state.
        """
        ...


class SinglePassGuide(Guide, Protocol):
    """A guide whose `single_pass` is true."""

    def single_pass_variables(self, base_params: Any, params: Any) -> dict[str, Any]:
        """Variables of the base's model with which its distribution is q."""
        ...

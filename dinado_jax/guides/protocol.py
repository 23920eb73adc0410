"""The interface of a guide, which scores every next token with log R(prefix, token).

A trained control is a guide (controls/control.py); a keyword automaton, a hidden Markov model or a
classifier are others. A new one is a class of this shape, used as `Controlled(base, guide, params)`
or composed with others by `compose`.

B prompts, S samples of each, R = B S rows, T prompt tokens, V vocabulary.
"""

from typing import Any, NamedTuple, Protocol

import jax

from dinado_jax.data.prompts import Prompts
from dinado_jax.decoding.policy import Policy
from dinado_jax.models.output import Output


class NextValues(NamedTuple):
    """V of B prefixes and R after each next token: float32, in nats and as log-odds."""

    log_value: jax.Array  # [B]
    log_after: jax.Array  # [B, V]
    value_logit: jax.Array  # [B]
    after_logit: jax.Array  # [B, V]


class Guide(Protocol):
    """Steers decoding. Static and hashable; its arrays are passed separately, as `params`.

    The state is any pytree. Its caches, if any, are `models.cache.Cache`s allocated for the coming
    steps; every other leaf has the row as its leading axis, so that it can be reordered for beams
    and sharded over devices.
    """

    @property
    def single_pass(self) -> bool:
        """Whether one pass of a model gives q, so that decoding needs no base beside it. Such a
        guide is a `SinglePassGuide`.
        """
        ...

    def decode_params(self, params: Any) -> Any:
        """Prepares the arrays for decoding: the same function from fewer bytes."""
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
          base: the base's output on the prompts, [B, T].
          samples: S, rows per prompt.
          steps: number of tokens that will be read per row.

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
          base: the base's output on the tokens, [R, 1].
          tokens: int32 [R].

        Returns:
          The values after the tokens, [R], and the new state.
        """
        ...


class SinglePassGuide(Guide, Protocol):
    """A guide whose `single_pass` is true."""

    @property
    def single_pass_policy(self) -> Policy:
        """The distribution q."""
        ...

    def single_pass_variables(self, base_params: Any, params: Any) -> dict[str, Any]:
        """The variables of `single_pass_policy`."""
        ...

"""A guide that keeps to complete and not degenerate texts: R is 0 or 1, it masks next tokens.

A text is complete if it ends by itself, by a stop token, with a number of tokens between a least
and a most one; it is degenerate if an n-gram occurs twice in its prompt and itself, except one that
a stop token ends. The mode of a language model is often neither complete in this sense nor free of
repetitions, while the mode given both is fluent (arXiv 2311.08817): so it is a guide for beams.

The guide looks one token ahead. A text of a wanted length may come where every next token repeats
an n-gram; beams and particles leave it there, a sampler can draw nothing.

B prompts, S samples of each, R = B S rows, T prompt tokens, V vocabulary.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.data.prompts import Prompts
from dinado_jax.errors import InputError
from dinado_jax.guides.protocol import NextValues
from dinado_jax.models.codec import Codec
from dinado_jax.models.output import Output
from dinado_jax.ops import bernoulli
from dinado_jax.ops.masks import among
from dinado_jax.ops.ngrams import repeating, right_aligned
from dinado_jax.utils.arguments import POSITIVE, require_integer

LEAST = 2  # tokens of a text that is not empty, its stop token included


class CompleteState(NamedTuple):
    """Where each row is."""

    count: jax.Array  # int32 [R], tokens drawn
    most: jax.Array  # int32 [R], tokens that may be drawn
    ended: jax.Array  # bool [R]
    history: jax.Array  # int32 [R, W], prompt and text, the newest token last; W = 0: not needed


@dataclasses.dataclass(frozen=True)
class Complete:
    """The guide; `complete_guide` makes one with its arrays, {"least": [], "most": []} int32."""

    stop_ids: tuple[int, ...]
    no_repeat_ngram: int  # n; 0: n-grams may repeat

    @property
    def single_pass(self) -> bool:
        """See `Guide`."""
        return False

    def decode_params(self, params: dict[str, Any]) -> dict[str, Any]:
        """See `Guide`."""
        return params

    def prefill(
        self,
        params: dict[str, Any],
        base_params: Any,
        base: Output,
        prompts: Prompts,
        samples: int,
        steps: int,
    ) -> tuple[NextValues, CompleteState]:
        """See `Guide`."""
        tokens, lengths = jnp.asarray(prompts.tokens), jnp.asarray(prompts.lengths)
        V, n = len(base.vocabulary), self.no_repeat_ngram
        history = jnp.zeros((len(lengths), 0), jnp.int32)
        if n:
            history = right_aligned(tokens, lengths, n - 1 + steps, V)
        state = CompleteState(
            jnp.zeros_like(lengths),
            jnp.full_like(lengths, jnp.minimum(params["most"], steps + 1)),
            jnp.zeros(len(lengths), bool),
            history,
        )
        per_row = jax.tree.map(lambda x: jnp.repeat(x, samples, 0), state)
        return self._values(params, state, V), per_row

    def step(
        self,
        params: dict[str, Any],
        base_params: Any,
        base: Output,
        tokens: jax.Array,
        state: CompleteState,
    ) -> tuple[NextValues, CompleteState]:
        """See `Guide`."""
        history = state.history
        if self.no_repeat_ngram:
            history = jnp.concatenate([history[:, 1:], tokens[:, None]], 1)
        ended = state.ended | among(tokens, self.stop_ids)
        state = CompleteState(state.count + 1, state.most, ended, history)
        return self._values(params, state, len(base.vocabulary)), state

    def _values(self, params: dict[str, Any], state: CompleteState, V: int) -> NextValues:
        number = state.count + 1  # of the next token
        stop = among(jnp.arange(V)[None], self.stop_ids)
        may_end, may_go_on = number >= params["least"], number < state.most
        allowed = jnp.where(stop, may_end[:, None], may_go_on[:, None])
        if n := self.no_repeat_ngram:
            newest = state.history[:, state.history.shape[1] - (n - 1) :]
            allowed &= ~repeating(state.history, newest, self.stop_ids, V)
        # What follows the end is never looked at, and its logits must stay finite.
        log_after = jnp.where(allowed | state.ended[:, None], 0.0, -jnp.inf)
        log_value = jnp.zeros(len(number), jnp.float32)
        return NextValues(
            log_value, log_after, bernoulli.logit(log_value), bernoulli.logit(log_after)
        )


def complete_guide(
    codec: Codec, most: int, least: int = LEAST, no_repeat_ngram: int = 0
) -> tuple[Complete, dict[str, Any]]:
    """Makes a guide with its arrays, to be composed: Controlled(base, *complete_guide(..)).

    Args:
      codec: of the base.
      most: tokens of a text, its stop token included; what is decoded with fewer new tokens has no
        more than these.
      least: the same; equal to `most`, it is the exact length. 1 admits the empty text.
      no_repeat_ngram: n, no n-gram occurs twice in prompt and text; 0: any may.

    Raises:
      InputError: for numbers that are none, and if no text can have so many tokens.
    """
    most = require_integer("most", most, *POSITIVE)
    least = require_integer("least", least, *POSITIVE)
    n = require_integer("no_repeat_ngram", no_repeat_ngram, "0 (off) or more", lambda x: x >= 0)
    if least > most:
        raise InputError(f"least = {least} is above most = {most}: no text has so many tokens")
    return Complete(codec.stop_ids, n), {"least": np.int32(least), "most": np.int32(most)}

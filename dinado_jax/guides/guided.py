"""Decoding under guides beside the base: q(v | x) proportional to p(v | x) prod_k f_k(R_k(x, v)).

B prompts, R rows (the samples of one prompt together), T prompt tokens, V vocabulary. Several
guides compose as a product of experts: exact only for oracles independent under p. The exact way
trains the second control on the first one's q (`Controlled.as_base`).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dinado_jax.data.batch import Batch
from dinado_jax.decoding.policy import NextLogits, last_token_states
from dinado_jax.guides.protocol import Guide, Prompts
from dinado_jax.guides.tilt import Features, PromptValue
from dinado_jax.models.cache import Cache, allocate, scan_steps
from dinado_jax.models.output import logits
from dinado_jax.models.protocol import Model


class GuidedState(NamedTuple):
    """What a token hands to the next."""

    cache: Cache  # the base's
    guides: tuple[Any, ...]  # the state of each guide
    starts: tuple[PromptValue | None, ...]  # for tilts that aim at a rate


class _Part(NamedTuple):
    """One guide with its arrays."""

    guide: Guide
    params: Any
    tilt: Features
    numbers: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Guided:
    """The composed distribution, a `Policy`.

    Its variables are {"base": the base's parameters, "guides": the arrays of each guide, "tilts":
    the `Tilt.numbers` of each}.
    """

    model: Model
    guides: tuple[Guide, ...]
    tilts: tuple[Features, ...]

    @property
    def vocab_size(self) -> int:
        return self.model.vocab_size

    @property
    def context_length(self) -> int:
        return self.model.context_length

    def prefill(
        self,
        variables: Any,
        tokens: jax.Array,
        lengths: jax.Array,
        samples: int,
        steps: int,
        condition: Any = None,
    ) -> tuple[NextLogits, GuidedState]:
        base = self.model.apply({"params": variables["base"]}, tokens)
        last = last_token_states(base.hidden, lengths)
        scores = log_base = logits(last, base.vocabulary, self.model.excluded_ids)
        prompts, states, starts = Prompts(tokens, lengths, condition), [], []
        for part in self._parts(variables):
            values, state = part.guide.prefill(
                part.params, variables["base"], base, prompts, samples, steps
            )
            start = PromptValue.of(values) if part.tilt.target_rate else None
            scores += part.tilt(part.numbers, values, start)
            states.append(state)
            starts.append(_per_row(start, samples))
        cache = allocate(base.cache, lengths, samples, steps)
        state = GuidedState(cache, tuple(states), tuple(starts))
        return _per_row(NextLogits(scores, log_base), samples), state

    def step(
        self, variables: Any, carry: GuidedState, tokens: jax.Array
    ) -> tuple[NextLogits, GuidedState]:
        base = self.model.apply({"params": variables["base"]}, tokens[:, None], carry.cache)
        scores = log_base = logits(base.hidden[:, 0], base.vocabulary, self.model.excluded_ids)
        states = []
        for part, state, start in zip(
            self._parts(variables), carry.guides, carry.starts, strict=True
        ):
            values, state = part.guide.step(part.params, variables["base"], base, tokens, state)
            scores += part.tilt(part.numbers, values, start)
            states.append(state)
        state = GuidedState(base.cache, tuple(states), carry.starts)
        return NextLogits(scores, log_base), state

    def log_probs(self, variables: Any, batch: Batch) -> jax.Array:
        """As decoding computes them, one token after another: R may depend on all tokens before."""
        tokens, start = jnp.asarray(batch.tokens), jnp.asarray(batch.prompt_length)
        T = tokens.shape[1]
        rows = jnp.arange(tokens.shape[0])

        def position(state, index):
            scores, carry = state
            at = jnp.minimum(start + index, T - 1)
            token = tokens[rows, at]
            log_prob = jax.nn.log_softmax(scores.policy)[rows, token]
            return self.step(variables, carry, token), (at - 1, log_prob)

        state = self.prefill(variables, tokens, start, 1, T - 1, batch.condition)
        _, (columns, log_probs) = scan_steps(position, state, T - 1)
        # Beyond its end a row reads its last token again and again: only the first time counts.
        order = jnp.arange(T - 1)[:, None]
        inside = order < T - start[None]
        out = jnp.zeros((tokens.shape[0], T - 1), jnp.float32)
        return out.at[jnp.broadcast_to(rows, columns.shape), columns].add(
            jnp.where(inside, log_probs, 0.0)
        )

    def _parts(self, variables: Any) -> list[_Part]:
        arrays = zip(self.guides, variables["guides"], self.tilts, variables["tilts"], strict=True)
        return [_Part(*each) for each in arrays]


def _per_row(tree: Any, samples: int) -> Any:
    """[B, ...] -> [R, ...] for every leaf."""
    return jax.tree.map(lambda x: jnp.repeat(x, samples, 0), tree)

"""Decoding under controls beside the base: q(v | x) proportional to p(v | x) prod_k f_k(R_k(x, v)).

B rows, T prompt tokens, V vocabulary. Several controls compose as a product of experts: exact only
for oracles independent under p. The exact way trains the second control on the first one's q
(`Controlled.as_base`).
"""

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dinado_jax.controls.recursion import FLOOR
from dinado_jax.decoding.policy import last_token_states
from dinado_jax.guides.tilt import Features, Start
from dinado_jax.models.cache import Cache, allocate, scan_steps
from dinado_jax.models.output import logits
from dinado_jax.models.protocol import Model

if TYPE_CHECKING:
    from dinado_jax.controls.control import Control


class Guide(NamedTuple):
    """What one control carries from token to token."""

    cache: Cache
    start: Start | None  # for tilts that aim at a rate
    log_r: jax.Array | None  # [R, V] log R after each next token, for controls that recur on it


@dataclasses.dataclass(frozen=True)
class Guided:
    """A policy. variables: {"base": base parameters, "controls": one set of parameters each,
    "tilts": one `Tilt.numbers` each}."""

    model: Model
    controls: tuple["Control", ...]
    tilts: tuple[Features, ...]

    @property
    def vocab_size(self) -> int:
        return self.model.vocab_size

    @property
    def context_length(self) -> int:
        return self.model.context_length

    def prefill(self, variables, tokens, lengths, samples, steps):
        def per_row(x):
            return jnp.repeat(x, samples, 0)

        base = self.model.apply({"params": variables["base"]}, tokens)
        state = last_token_states(base.hidden, lengths), base.vocabulary
        scores, guides = logits(*state, self.model.excluded_ids), []
        for control, params, tilt, numbers in self._parts(variables):
            out = control.direction.forward(variables["base"], params["direction"], base, tokens)
            own = last_token_states(out.hidden, lengths), out.vocabulary
            values = control.log_values(params, state, own, None)
            start = Start(values.log_value, values.value_logit) if tilt.target_rate else None
            scores += tilt(numbers, values, start)
            kept = per_row(values.log_after) if control.recursive else None
            cache = allocate(out.cache, lengths, samples, steps)
            guides.append(Guide(cache, jax.tree.map(per_row, start), kept))
        cache = allocate(base.cache, lengths, samples, steps)
        return per_row(scores), (cache, tuple(guides))

    def step(self, variables, carry, tokens):
        cache, guides = carry
        new = tokens[:, None]
        base = self.model.apply({"params": variables["base"]}, new, cache)
        state = base.hidden[:, 0], base.vocabulary
        scores, after = logits(*state, self.model.excluded_ids), []
        for part, guide in zip(self._parts(variables), guides, strict=True):
            control, params, tilt, numbers = part
            out = control.direction.forward(
                variables["base"], params["direction"], base, new, guide.cache
            )
            prev = None
            if control.recursive:
                drawn = jnp.take_along_axis(guide.log_r, tokens[:, None], 1)[:, 0]
                prev = jnp.maximum(drawn, FLOOR)
            values = control.log_values(params, state, (out.hidden[:, 0], out.vocabulary), prev)
            scores += tilt(numbers, values, guide.start)
            kept = values.log_after if control.recursive else None
            after.append(Guide(out.cache, guide.start, kept))
        return scores, (base.cache, tuple(after))

    def log_probs(self, variables, batch):
        """As decoding has them, one token after another: R may depend on all tokens before."""
        tokens, start = batch.tokens, batch.prompt_length
        T = tokens.shape[1]
        rows = jnp.arange(tokens.shape[0])

        def position(state, index):
            scores, carry = state
            at = jnp.minimum(start + index, T - 1)
            token = tokens[rows, at]
            log_prob = jax.nn.log_softmax(scores)[rows, token]
            return self.step(variables, carry, token), (at - 1, log_prob)

        state = self.prefill(variables, tokens, start, 1, T - 1)
        _, (columns, log_probs) = scan_steps(position, state, T - 1)
        # Once a row is at its end its last token comes again and again: the first time stands.
        order = jnp.arange(T - 1)[:, None]
        inside = order < T - start[None]
        out = jnp.zeros((tokens.shape[0], T - 1), jnp.float32)
        return out.at[jnp.broadcast_to(rows, columns.shape), columns].add(
            jnp.where(inside, log_probs, 0.0)
        )

    def _parts(self, variables: Any):
        return list(
            zip(self.controls, variables["controls"], self.tilts, variables["tilts"], strict=True)
        )

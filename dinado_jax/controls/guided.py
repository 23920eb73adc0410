"""Decoding under controls beside the base: q(v | x) proportional to p(v | x) prod_k f_k(R_k(x, v)).

B rows, T prompt tokens, V vocabulary. Several controls compose as a product of experts: exact only
for oracles independent under p. The exact way trains the second control on the first one's q
(`Controlled.as_base`).
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.controls.recursion import FLOOR, NextValues
from dinado_jax.decoding.policy import last_token_states
from dinado_jax.errors import InputError
from dinado_jax.models.cache import Cache, allocate, scan_steps
from dinado_jax.models.gpt2 import GPT2, logits

if TYPE_CHECKING:
    from dinado_jax.controls.base import Control


@dataclasses.dataclass(frozen=True)
class Tilt:
    """How much of a control is wanted: f(R) = rho(R)^strength.

    strength: 0 is the base (except for `reject`), 1 the control as trained; above 1 it is
      exaggerated.
    target_rate: the success rate r to aim for, by rho(R) = R r / R0 + (1 - R) (1 - r) / (1 - R0)
      with R0 the value of the prompt; 1 leaves rho(R) = R / R0.
    reject: tokens with R(x, v) < reject R(x), which the control makes that much rarer than the base
      has them, are never drawn; 0 is off. A token at least as likely as under the base remains.
    """

    strength: float = 1.0
    target_rate: float = 1.0
    reject: float = 0.0

    def __post_init__(self):
        if not 0 <= self.strength < math.inf:
            raise InputError(f"strength = {self.strength}: it must be 0 (the base) or more, finite")
        if not 0 <= self.target_rate <= 1:
            raise InputError(f"target_rate = {self.target_rate}: it must lie in [0, 1]")
        if not 0 <= self.reject < 1:
            raise InputError(f"reject = {self.reject}: it must lie in [0, 1), 0 is off")

    @property
    def features(self) -> "Features":
        return Features(self.strength != 1, self.target_rate < 1, self.reject > 0)

    @property
    def numbers(self) -> dict[str, np.float32]:
        """Those of the features in use, as arrays: others of the same features compile nothing."""
        used = zip(Features._fields, self.features)
        return {name: np.float32(getattr(self, name)) for name, on in used if on}


class Features(NamedTuple):
    """Which parts of a `Tilt` are not neutral: all that a program depends on."""

    strength: bool = False
    target_rate: bool = False
    reject: bool = False

    def __call__(
        self, numbers: dict[str, jax.Array], values: NextValues, start: "Start | None"
    ) -> jax.Array:
        """log f(R), up to a constant, of every next token: [B, V]."""
        kept = values.log_after
        if self.target_rate:
            rate = numbers["target_rate"]
            success = jnp.log(rate) - start.log_value
            failure = jnp.log1p(-rate) - jax.nn.log_sigmoid(-start.odds)
            log_not = jax.nn.log_sigmoid(-values.after_logit)
            kept = jnp.logaddexp(kept + success[:, None], log_not + failure[:, None])
        if self.strength:
            kept = numbers["strength"] * kept
        if self.reject:
            change = values.log_after - values.log_value[:, None]
            kept = jnp.where(change < jnp.log(numbers["reject"]), -jnp.inf, kept)
        return kept


NEUTRAL = Tilt()


class Start(NamedTuple):
    """The value of a row's prompt, [R]."""

    log_value: jax.Array
    odds: jax.Array


class Guide(NamedTuple):
    """What one control carries from token to token."""

    cache: Cache
    start: Start | None  # for tilts that aim at a rate
    log_r: jax.Array | None  # [R, V] log R after each next token, for controls that recur on it


@dataclasses.dataclass(frozen=True)
class Guided:
    """A policy. variables: {"base": base parameters, "controls": one set of parameters each,
    "tilts": one `Tilt.numbers` each}."""

    model: GPT2
    controls: tuple["Control", ...]
    tilts: tuple[Features, ...]

    @property
    def vocab_size(self) -> int:
        return self.model.config.vocab_size

    @property
    def n_positions(self) -> int:
        return self.model.config.n_positions

    def prefill(self, variables, tokens, lengths, samples, steps):
        def per_row(x):
            return jnp.repeat(x, samples, 0)

        base = self.model.apply({"params": variables["base"]}, tokens)
        state = last_token_states(base.hidden, lengths), base.vocabulary
        scores, guides = logits(*state, self.model.config.excluded_ids), []
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
        scores, after = logits(*state, self.model.config.excluded_ids), []
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
        tokens, start = batch["tokens"], batch["prompt_length"]
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

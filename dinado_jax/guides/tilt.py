"""How strongly a guide acts on the base's next-token distribution."""

import dataclasses
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.config import schema
from dinado_jax.guides.protocol import NextValues
from dinado_jax.utils.arguments import require_number_field


@dataclasses.dataclass(frozen=True)
class Tilt:
    """How strongly a guide acts: f(R) = rho(R)^strength.

    Attributes:
      strength: 0 is the base (except for `reject`), 1 the guide as it is; above 1 exaggerates it.
      target_rate: the success rate r to aim for, by rho(R) = R r / R0 + (1 - R) (1 - r) / (1 - R0)
        with R0 the value of the prompt; with 1, rho(R) = R / R0.
      reject: masks tokens with R(x, v) < reject R(x), those that the guide makes 1 / reject times
        rarer than under the base; 0 is off. Some token that is at least as likely as under the
        base always remains.
    """

    strength: float = 1.0
    target_rate: float = 1.0
    reject: float = 0.0

    def __post_init__(self):
        require_number_field(self, "strength", "0 (the base) or more, finite", lambda x: x >= 0)
        require_number_field(self, "target_rate", "in [0, 1]", lambda x: 0 <= x <= 1)
        require_number_field(self, "reject", "in [0, 1), 0 is off", lambda x: 0 <= x < 1)

    @classmethod
    def of(cls, decode: schema.Decode) -> "Tilt":
        """That of a run's settings."""
        return cls(decode.strength, decode.target_rate, decode.reject)

    @property
    def flags(self) -> "TiltFlags":
        """Which of the fields that add operations are in use."""
        return TiltFlags(self.target_rate < 1, self.reject > 0)

    @property
    def numbers(self) -> dict[str, np.float32]:
        """The strength and the fields in use, as arrays: changing them compiles nothing new."""
        used = (name for name, on in zip(TiltFlags._fields, self.flags) if on)
        return {name: np.float32(getattr(self, name)) for name in ("strength", *used)}


NEUTRAL = Tilt()


class TiltFlags(NamedTuple):
    """What programs are compiled for of a `Tilt`."""

    target_rate: bool = False
    reject: bool = False


class PromptValue(NamedTuple):
    """V of each row's prompt."""

    log_value: jax.Array  # [R] nats
    logit: jax.Array  # [R] log-odds

    @classmethod
    def of(cls, values: NextValues) -> "PromptValue":
        """Selects V from the values of a prefill."""
        return cls(values.log_value, values.value_logit)


def apply_tilt(
    flags: TiltFlags, numbers: dict[str, jax.Array], values: NextValues, start: PromptValue | None
) -> jax.Array:
    """Computes log f(R) of every next token, up to a constant per prefix.

    Args:
      flags: the `Tilt.flags`.
      numbers: the `Tilt.numbers`.
      values: of the prefixes, [B] and [B, V].
      start: V of their prompts, [B]; used only with `target_rate`.

    Returns:
      float32 [B, V] nats.
    """
    chex.assert_rank([values.log_after, values.after_logit], 2)
    tilted = values.log_after
    if flags.target_rate and start is not None:
        rate = numbers["target_rate"]
        success = jnp.log(rate) - start.log_value
        failure = jnp.log1p(-rate) - jax.nn.log_sigmoid(-start.logit)
        log_not = jax.nn.log_sigmoid(-values.after_logit)
        tilted = jnp.logaddexp(tilted + success[:, None], log_not + failure[:, None])
    # A guide may forbid tokens: 0 times its log R of -inf would be nan.
    strength = numbers["strength"]
    tilted = jnp.where(strength == 0, 0.0, strength * tilted)
    if flags.reject:
        change = values.log_after - values.log_value[:, None]
        tilted = jnp.where(change < jnp.log(numbers["reject"]), -jnp.inf, tilted)
    return tilted

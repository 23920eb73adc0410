"""DiNADO-Merge: the direction is a delta of the base itself, so q = pi decodes in one pass.

log R(x_<i, v) = log beta + r_v - max r      with r = log pi - log p, pi = base + delta
"""

import dataclasses

import jax

from dinado_jax.adapters import lora
from dinado_jax.config import Delta
from dinado_jax.controls import norm
from dinado_jax.controls.base import Evidence
from dinado_jax.decoding.policy import Trunk
from dinado_jax.models.gpt2 import GPT2
from dinado_jax.ops.vocab import policy_scalars


@dataclasses.dataclass(frozen=True)
class Merge:
    """Pure functions over its parameters {"delta": .., "norm": ..} and the base's."""

    model: GPT2
    config: Delta

    def init(self, key: jax.Array, base_params: dict, success_rate: float) -> dict:
        """Parameters that leave the base as it is, with R = success_rate everywhere."""
        delta_key, norm_key = jax.random.split(key)
        return {
            "delta": lora.init(
                delta_key, base_params, self.config.rank, self.config.low_rank, self.config.full
            ),
            "norm": norm.init(norm_key, self.model.config.n_embd, success_rate),
        }

    @property
    def policy(self) -> Trunk:
        """Decodes the composed distribution with `composed` as its variables."""
        return Trunk(self.model)

    def composed(self, base_params: dict, params: dict) -> dict:
        """Variables of the composed distribution, one trunk: the delta merged in float32; applied
        on the fly in lower precision, which would round a small delta away."""
        if self.model.config.dtype != "float32":
            return self._adapted(base_params, params)
        return {"params": lora.merge(base_params, params["delta"], self._scale)}

    def log_policy(self, base_params: dict, params: dict, tokens: jax.Array) -> jax.Array:
        """log q of each next token: [B, T] int32 -> [B, T-1] float32 nats."""
        return self.policy.log_probs(self._adapted(base_params, params), tokens)

    def evidence(self, base_params: dict, params: dict, tokens: jax.Array) -> Evidence:
        """Scalars and norm at every position; gradients reach delta and norm, never the base."""
        base = self.model.apply({"params": base_params}, tokens)
        out = self.model.apply(self._adapted(base_params, params), tokens)
        states = base.hidden[:, :-1]
        scalars = policy_scalars(
            (out.hidden[:, :-1], out.vocabulary), (states, base.vocabulary), tokens[:, 1:]
        )
        return Evidence(scalars, norm.log_beta(params["norm"], states))

    @property
    def _scale(self) -> float:
        return self.config.alpha / self.config.rank

    def _adapted(self, base_params, params):
        return {"params": base_params, "delta": lora.variables(params["delta"], self._scale)}

"""The norm of a control: beta = sigmoid(MLP(state)), a value in (0, 1) for every prefix.

It reads last hidden states, the base's or the direction's own (DiNADO, arXiv 2306.11825; width 4 D,
ReLU, zero-initialised output as in the public release). The output bias starts at the log-odds of
the oracle's success rate; the release starts at 0.

Shapes: D width of the states.
"""

import dataclasses

import jax
import jax.numpy as jnp

from dinado_jax.distributed.constraints import all_gather_param


@dataclasses.dataclass(frozen=True)
class MLP:
    """A `Norm` with one hidden layer of width 4 D."""

    width: int  # D

    def init(self, key: jax.Array, base_params: dict, success_rate: float) -> dict:
        """Float32 parameters with beta = success_rate, in (0, 1), everywhere."""
        bound = self.width**-0.5
        shape = (self.width, 4 * self.width)
        return {
            "hidden": jax.random.uniform(key, shape, jnp.float32, -bound, bound),
            "hidden_bias": jnp.zeros((4 * self.width,), jnp.float32),
            "out": jnp.zeros((4 * self.width,), jnp.float32),
            "out_bias": jnp.log(jnp.float32(success_rate)) - jnp.log1p(-jnp.float32(success_rate)),
        }

    def logit(self, params: dict, states: jax.Array) -> jax.Array:
        """Log-odds of beta: [..., D] -> [...] float32 nats."""
        states, params = states.astype(jnp.float32), jax.tree.map(all_gather_param, params)
        bias = jnp.expand_dims(params["hidden_bias"], tuple(range(states.ndim - 1)))
        inner = jax.nn.relu(states @ params["hidden"] + bias)
        return inner @ params["out"] + params["out_bias"]

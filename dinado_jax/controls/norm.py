"""The norm of a control: beta = sigmoid(MLP(state)), a value in (0, 1) for every prefix.

It reads the base's last hidden states, detached: the norm never moves a trunk (DiNADO,
arXiv 2306.11825; width 4 D, ReLU, zero-initialised output as in the public release). The output
bias starts at the log-odds of the oracle's success rate, where the release starts at 0.
"""

import jax
import jax.numpy as jnp


def init(key: jax.Array, width: int, success_rate: float) -> dict[str, jax.Array]:
    """Parameters for states of `width` values; at first beta = success_rate everywhere."""
    bound = width**-0.5
    return {
        "hidden": jax.random.uniform(key, (width, 4 * width), minval=-bound, maxval=bound),
        "hidden_bias": jnp.zeros((4 * width,)),
        "out": jnp.zeros((4 * width,)),
        "out_bias": jnp.log(success_rate) - jnp.log1p(-jnp.float32(success_rate)),
    }


def log_beta(params: dict[str, jax.Array], hidden: jax.Array) -> jax.Array:
    """[..., D] -> [...] float32, log beta (nats), < 0."""
    states = jax.lax.stop_gradient(hidden).astype(jnp.float32)
    bias = jnp.expand_dims(params["hidden_bias"], tuple(range(states.ndim - 1)))
    inner = jax.nn.relu(states @ params["hidden"] + bias)
    return jax.nn.log_sigmoid(inner @ params["out"] + params["out_bias"])

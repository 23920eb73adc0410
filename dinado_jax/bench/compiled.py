"""Programs compiled ahead by XLA, with what it says of them; and this machine's best rates."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.bench.measure import Program, Request
from dinado_jax.config import schema
from dinado_jax.models.architectures import new_model
from dinado_jax.models.params import abstract_params
from dinado_jax.models.protocol import BaseModel

SIDES = {"cpu": 4096, "gpu": 8192, "tpu": 8192}  # of the matrices whose product sets the rate
COPIED = {"cpu": 2**28, "gpu": 2**32, "tpu": 2**32}  # bytes, far more than any cache holds


def compiled(function: Callable, *args: Any) -> tuple[Callable, dict[str, Any]]:
    """A jitted function compiled for these arrays (static arguments first, then not to be given
    again), and what is known of it; XLA counts the FLOPs in the body of a loop once."""
    began = time.monotonic()
    made = function.lower(*args).compile()
    memory = made.memory_analysis()
    figures = {
        "compile_s": round(time.monotonic() - began, 2),
        "temp_bytes": memory.temp_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "counted_flops": made.cost_analysis().get("flops", 0.0),
        "device": jax.devices()[0].device_kind,
    }
    return made, figures


def device_peak() -> int | None:
    """Most bytes in use on an accelerator; None on a CPU."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def pure(function: Callable, *args: Any) -> Program:
    """A pure function of these arrays."""
    call, figures = compiled(jax.jit(function), *args)
    return Program(lambda: jax.block_until_ready(call(*args)), figures, device_peak)


def base_model(request: Request) -> BaseModel:
    sizes = schema.Base(**request.model, dtype=request.dtype, param_dtype=request.dtype)
    return new_model(sizes)


def random_params(model: BaseModel) -> dict:
    """A base's parameters, made one by one on the host: initialising them together would take more
    memory than anything that is measured after it."""
    rng = np.random.default_rng(0)

    def made(shape):
        values = rng.standard_normal(shape.shape, np.float32)
        values *= 0.02
        return jnp.asarray(values, shape.dtype)

    return jax.tree.map(made, abstract_params(model))


def _matrix_product(request: Request) -> Program:
    """A large product; its floating-point operations are a figure."""
    side = SIDES[jax.default_backend()]
    a = jax.random.normal(jax.random.key(0), (side, side), request.dtype)
    made = pure(jnp.dot, a, a)
    return made._replace(figures=made.figures | {"operations": 2.0 * side**3})


def _copy(request: Request) -> Program:
    """A large array changed in place; the bytes read and written are a figure."""
    size = COPIED[jax.default_backend()]
    x = jnp.zeros(size // 4, jnp.float32)
    call, figures = compiled(jax.jit(lambda x: x + 1, donate_argnums=0), x)

    def run():
        nonlocal x
        x = jax.block_until_ready(call(x))

    return Program(run, figures | {"operations": 2.0 * size}, device_peak)


PROBES = {"matmul": _matrix_product, "copy": _copy}

"""Programs compiled ahead of time, with XLA's figures; probes of the machine's rates."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dinado_jax.bench.measure import Program, Request
from dinado_jax.models.architectures import parse_model
from dinado_jax.models.params import abstract_params
from dinado_jax.models.protocol import BaseModel

SIDES = {"cpu": 4096, "gpu": 8192, "tpu": 8192}  # of the square matrices of the matmul probe
COPIED = {"cpu": 2**28, "gpu": 2**32, "tpu": 2**32}  # bytes, far more than any cache holds


def compiled(function: Any, *args: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Compiles a jitted function for these arguments.

    Returns:
      The program, which takes the arguments that are not static, and its figures. XLA counts the
      FLOPs in the body of a loop once.
    """
    started = time.monotonic()
    program = function.lower(*args).compile()
    memory = program.memory_analysis()
    figures = {
        "compile_s": round(time.monotonic() - started, 2),
        "temp_bytes": memory.temp_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "counted_flops": program.cost_analysis().get("flops", 0.0),
        "device": jax.devices()[0].device_kind,
    }
    return program, figures


def device_peak() -> int | None:
    """Returns the peak bytes in use on an accelerator; None on a CPU."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def pure(function: Callable[..., Any], *args: Any) -> Program:
    """Returns the program of a pure function of these arrays."""
    call, figures = compiled(jax.jit(function), *args)
    return Program(lambda: jax.block_until_ready(call(*args)), figures, device_peak)


def base_model(request: Request) -> BaseModel:
    """Returns the base, all of it in the dtype of the request."""
    model = parse_model(request.model, f"size {request.model}")
    return model.replace(dtype=request.dtype, param_dtype=request.dtype)


def random_params(model: BaseModel) -> dict[str, Any]:
    """Returns random parameters of a base, created one by one: a program that initialises all of
    them would set the peak of memory.
    """

    @functools.partial(jax.jit, static_argnums=1)
    def values(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return (0.02 * jax.random.normal(key, shape)).astype(model.param_dtype)

    leaves, tree = jax.tree.flatten(abstract_params(model))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return jax.tree.unflatten(tree, [values(key, leaf.shape) for key, leaf in zip(keys, leaves)])


def _matrix_product(request: Request) -> Program:
    """A large matrix product; figure "operations": its FLOPs."""
    side = SIDES[jax.default_backend()]
    a = jax.random.normal(jax.random.key(0), (side, side), request.dtype)
    product = pure(jnp.dot, a, a)
    return product._replace(figures=product.figures | {"operations": 2.0 * side**3})


def _copy(request: Request) -> Program:
    """A large array changed in place; figure "operations": the bytes read and written."""
    size = COPIED[jax.default_backend()]
    x = jnp.zeros(size // 4, jnp.float32)
    call, figures = compiled(jax.jit(lambda x: x + 1, donate_argnums=0), x)

    def run() -> None:
        nonlocal x
        x = jax.block_until_ready(call(x))

    return Program(run, figures | {"operations": 2.0 * size}, device_peak)


PROBES = {"matmul": _matrix_product, "copy": _copy}

"""Fair timing: compiled apart, warmed up, run in turns, told as the median with its spread."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_SIDE = {"cpu": 2048, "gpu": 8192, "tpu": 8192}  # of the matrices whose product sets the rate


class Program(NamedTuple):
    """Something to time. `run` returns when its work is done."""

    run: Callable[[], Any]
    figures: dict[str, float]  # what is known without running: compile_s, temp_bytes


def program(function: Callable, *args: Any) -> Program:
    """A pure function compiled for these arrays."""
    began = time.monotonic()
    compiled = jax.jit(function).lower(*args).compile()
    figures = {
        "compile_s": round(time.monotonic() - began, 2),
        "temp_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }
    return Program(lambda: jax.block_until_ready(compiled(*args)), figures)


def in_turns(programs: dict[str, Program], repeats: int) -> dict[str, dict[str, float]]:
    """Figures of each program: those it came with, and median, least and most seconds of
    `repeats` runs. One round runs every program once, so that a noisy neighbour meets all alike."""
    seconds = {name: [] for name in programs}
    for each in programs.values():
        each.run()
    for _ in range(repeats):
        for name, each in programs.items():
            began = time.perf_counter()
            each.run()
            seconds[name].append(time.perf_counter() - began)
    return {
        name: {
            **programs[name].figures,
            "seconds": statistics.median(taken),
            "seconds_least": min(taken),
            "seconds_most": max(taken),
        }
        for name, taken in seconds.items()
    }


def matrix_product(dtype: str) -> tuple[Program, float]:
    """A large product, and its floating-point operations: what this machine can do at best."""
    side = _SIDE[jax.default_backend()]
    a = jax.random.normal(jax.random.key(0), (side, side), dtype)
    return program(jnp.dot, a, a), 2.0 * side**3

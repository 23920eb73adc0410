"""The time that JAX has spent on compiling programs, which says nothing about their rate."""

import functools

import jax

# One after the other; that of tracing, of which a part may be counted within another, is left out.
_EVENTS = (
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)


@functools.cache
def _counted() -> list[float]:
    """The sum so far, as one number that a listener adds to."""
    total = [0.0]

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event in _EVENTS:
            total[0] += duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)
    return total


def compile_seconds() -> float:
    """Seconds of this process since the first call."""
    return _counted()[0]

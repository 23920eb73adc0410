"""The platform that programs are compiled for, where their shape depends on it."""

import contextlib
from collections.abc import Iterator

import jax

_target: str | None = None


def target() -> str:
    """The platform, "cpu", "gpu" or "tpu", while tracing: JAX's default or that of
    `compiling_for`.
    """
    return _target or jax.default_backend()


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Programs traced inside are laid out for another platform, as ahead-of-time compilation
    needs.
    """
    global _target
    before, _target = _target, platform
    try:
        yield
    finally:
        _target = before

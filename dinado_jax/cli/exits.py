"""How a command ends when it fails: one line on standard error, told to the other processes."""

import contextlib
import sys
from collections.abc import Iterator
from typing import NoReturn

from dinado_jax.utils import streams


def fail(message: object, code: int) -> NoReturn:
    """Prints what is wrong in one line, and exits with that code in all processes."""
    streams.print_status(f"dinado: error: {message}")
    leave(code, str(message))


def leave(code: int, why: str) -> NoReturn:
    """Exits with that code in all processes; `why` is what the others say."""
    if "dinado_jax.distributed.processes" in sys.modules:  # else there is one process
        sys.modules["dinado_jax.distributed.processes"].abort(code, why)
    sys.exit(code)


@contextlib.contextmanager
def diverging() -> Iterator[None]:
    """Reports a loss that is not finite in one line."""
    from dinado_jax.training.loop import Diverged

    try:
        yield
    except Diverged as error:
        fail(error, 1)

"""Isolates user code: the import of an oracle, its calls and its answers."""

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Iterator

import numpy as np

from dinado_jax.errors import one_line

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ForeignError(Exception):
    """An exception raised by user code.

    The message may contain secrets: show it on a terminal, never write it to files.

    Attributes:
      kind: the name of the exception's type.
    """

    def __init__(self, error: BaseException):
        super().__init__(one_line(error))
        self.kind = type(error).__name__


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Runs user code and restores the state of the process.

    Working directory, standard streams, signal handlers, warning filters and NumPy's error settings
    are restored. A KeyboardInterrupt that Python raises for Ctrl-C passes through; runs install
    their own handlers (distributed/signals.py), so none is raised there.

    Raises:
      ForeignError: for any exception of the code, SystemExit included.
    """
    folder = _folder()
    streams = {name: getattr(sys, name) for name in ("stdin", "stdout", "stderr")}
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        with warnings.catch_warnings(), np.errstate():
            yield
    except BaseException as error:
        python_raises = handlers[signal.SIGINT] is signal.default_int_handler
        if isinstance(error, KeyboardInterrupt) and python_raises:
            raise
        raise ForeignError(error) from None
    finally:
        for name, stream in streams.items():
            setattr(sys, name, stream)
            if getattr(stream, "closed", False):  # losing output is better than losing the run
                setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: SIM115
        if folder and _folder() != folder:
            os.chdir(folder)
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return ""

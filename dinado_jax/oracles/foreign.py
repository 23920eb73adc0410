"""Isolates user code: the import of an oracle, its calls and its answers."""

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Iterator

import numpy as np

from dinado_jax.errors import InputError, escape, one_line

# This package, the libraries and Python itself.
_NOT_THE_USERS = tuple(
    os.path.realpath(path) + os.sep
    for path in (
        os.path.dirname(os.path.dirname(__file__)),
        os.path.dirname(os.__file__),
        os.path.dirname(os.path.dirname(np.__file__)),
    )
)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ForeignError(Exception):
    """An exception raised by user code.

    The message may contain secrets: show it on a terminal, never write it to files.

    Attributes:
      kind: the name of the exception's type.
    """

    def __init__(self, error: BaseException):
        line = _line_of(error)
        super().__init__(f"{one_line(error)} ({line})" if line else one_line(error))
        self.kind = type(error).__name__


class AnswerError(InputError):
    """An oracle answers with something that is no label: a fault of the oracle, not of a sample."""


def _line_of(error: BaseException) -> str:
    """Names the last line of the user's own code that an exception passed; "" if there is none.

    A SyntaxError says itself where it is.
    """
    found, trace = "", error.__traceback__
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        if os.path.isabs(path) and not os.path.realpath(path).startswith(_NOT_THE_USERS):
            found = escape(f"{os.path.basename(path)}, line {trace.tb_lineno}")
        trace = trace.tb_next
    return "" if isinstance(error, SyntaxError) else found


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
    except (ForeignError, AnswerError):
        raise
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

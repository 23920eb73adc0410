"""One guard around code that is not ours: an oracle's import, its calls and what it returns."""

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
    """Whatever foreign code raised.

    kind: the name of its type. The message may quote anything, secrets too: for a terminal, not
    for files.
    """

    def __init__(self, error: BaseException):
        super().__init__(one_line(error))
        self.kind = type(error).__name__


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Runs foreign code: what it raises, SystemExit and its like included, is a ForeignError, and
    the working directory, standard streams, signal handlers, filters of warnings and NumPy's error
    settings are afterwards what they were.

    Only a KeyboardInterrupt that Python itself raises for Ctrl-C passes: a run has handlers of its
    own (dinado_jax/signals.py) and gets none.
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
            if getattr(stream, "closed", False):  # what is printed is lost, the run is not
                setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: SIM115
        if folder and _folder() != folder:
            os.chdir(folder)
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it is gone
        return ""

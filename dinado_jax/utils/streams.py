"""Standard output and error: the one place through which text reaches people.

A terminal that cannot encode a text gets escapes. A reader of progress that has gone does not stop
the work; a reader of results that has gone ends the command quietly, with UNREAD.
"""

import contextlib
import os
import sys
from typing import TextIO

from dinado_jax.errors import InputError, one_line

READER_GONE = 141  # 128 + SIGPIPE, as a shell reports other programs whose reader has gone


class ReaderGone(Exception):
    """Nobody reads standard output any more."""


def prepare() -> None:
    """To be called first: no text can break the streams, and no file gets a closed one's number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def print_result(text: str) -> None:
    """A result, on standard output. Unread if its reader has gone; InputError if it cannot be
    written, as on a full disk."""
    try:
        print(text, flush=True)
    except OSError as error:
        _mute(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise ReaderGone from None
        said = error.strerror or one_line(error)
        raise InputError(
            f"standard output, cannot be written ({said}): make room or send it elsewhere"
        ) from None


def print_status(line: str) -> None:
    """A line for people, on standard error; dropped where that cannot be written."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        _mute(sys.stderr)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def _mute(stream: TextIO) -> None:
    """What is written to the stream from now on, and what it still holds, goes nowhere: Python
    would try again at exit, and fail again."""
    with contextlib.suppress(OSError, ValueError):  # streams without a number
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)

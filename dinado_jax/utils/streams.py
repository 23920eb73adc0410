"""Standard output and standard error: everything that the package prints is printed here.

Characters that the terminal cannot encode are escaped. If standard error is closed, work goes on;
if standard output is closed, the command ends quietly with exit code READER_GONE.
"""

import contextlib
import io
import os
import sys
from typing import TextIO

from dinado_jax.errors import InputError, one_line

READER_GONE = 141  # 128 + SIGPIPE, the exit code of a program that SIGPIPE ends


class ReaderGone(Exception):
    """The reader of standard output has closed it."""


def prepare() -> None:
    """Makes both streams accept any text; call it before any file is opened.

    A stream that is closed at the start is opened on the null device: otherwise the next file that
    the program opens would get its descriptor, and receive everything that is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor
    sys.stdout, sys.stderr = sys.stdout or _null(), sys.stderr or _null()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_result(text: str, end: str = "\n") -> None:
    """Prints a result on standard output, and `end` after it.

    Raises:
      ReaderGone: the reader has closed standard output.
      InputError: the text cannot be written, as on a full disk.
    """
    try:
        print(text, end=end, flush=True)
    except OSError as error:
        _mute(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise ReaderGone from None
        reason = error.strerror or one_line(error)
        raise InputError(
            f"standard output, cannot be written ({reason}): make room or redirect it"
        ) from None


def takes_colours() -> bool:
    """Whether standard output is a terminal whose user has not asked for no colours."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain


def print_status(line: str) -> None:
    """Prints a status line on standard error; drops it if that cannot be written."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        _mute(sys.stderr)


def _null() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def _mute(stream: TextIO) -> None:
    """Redirects a stream to the null device: Python flushes it at exit, and would fail again."""
    with contextlib.suppress(OSError, ValueError):  # the stream has no descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)

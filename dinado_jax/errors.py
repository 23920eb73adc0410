"""The one exception that means "your input": the command line prints it and exits with 2."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

ELSEWHERE = (
    "make room or choose another folder with run.folder=DIR or --out DIR; finished stages are kept"
)
# How safetensors, tokenizers and Orbax say it, each with an exception of its own.
_FULL = ("No space left", "os error 28", "RESOURCE_EXHAUSTED")
_FIXES = {
    errno.ENOENT: "correct the path",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOTDIR: "a part of this path is a file, correct it",
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links lead back to themselves, remove them",
    errno.EEXIST: "a file stands where a folder belongs, move it away",
    errno.ENOTEMPTY: "a folder stands where a file belongs, move it away",
    errno.EROFS: ELSEWHERE,
    errno.ENOSPC: ELSEWHERE,
    errno.EDQUOT: ELSEWHERE,
}
_SHOWN = 120  # characters of a value that a message repeats
_LINE = 1600  # characters of a message


class InputError(Exception):
    """Bad input, in one line: what is wrong, where, and how to fix it.

    The line may quote any input, so that it is bounded, and has nothing that a terminal would obey.
    """

    def __init__(self, message: str):
        line = escape(str(message)[: 2 * _LINE])
        middle = "" if len(line) <= _LINE else " ... "
        super().__init__(f"{line[: _LINE // 2]}{middle}{line[-_LINE // 2 :]}" if middle else line)


def quote(value: object) -> str:
    """A value as a message repeats it: its repr without control characters, cut in the middle."""
    try:
        text = escape(repr(value))
    except Exception:  # foreign objects may raise on repr
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 40]}...{text[-30:]}"


def escape(text: str) -> str:
    """Text with what a terminal would obey, or could not encode, written as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(error: BaseException) -> str:
    """The kind of an error and its message, printable, in one line of at most 200 characters."""
    try:
        message = str(error)
    except BaseException:  # foreign exceptions may raise anything when they are read
        message = "its message cannot be read"
    return escape(" ".join(f"{type(error).__name__}: {message[:2000]}".split()))[:200]


def os_error(path: object, error: OSError | ValueError) -> InputError:
    """What the operating system said of a path, with the fix that fits it.

    ValueError stands for a path that holds a NUL character.
    """
    if not isinstance(error, OSError):
        return InputError(f"{quote(os.fspath(path))}, not a path ({one_line(error)}): correct it")
    fix = _FIXES.get(error.errno, "check the path and the device it is on")
    said = error.strerror or one_line(error)
    said = said[:1].lower() + said[1:]
    return InputError(f"{escape(str(path))[: _SHOWN * 2]}, {said}: {fix}")


def _story(error: BaseException | None) -> str:
    """The messages of an error and of those that led to it."""
    return f"{error} {_story(error.__cause__ or error.__context__)}" if error else ""


@contextlib.contextmanager
def catch_disk_full(path: Path) -> Iterator[None]:
    """While `path` is written: a full disk is an InputError, whatever the library raises."""
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or not any(sign in _story(error) for sign in _FULL):
            raise
        raise InputError(f"cannot write {path} (no space left on device): {ELSEWHERE}") from error

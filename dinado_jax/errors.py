"""InputError, the exception for bad user input: `dinado` prints its one line and exits with 2."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

ELSEWHERE = (
    "make room or choose another folder with run.folder=DIR or --out DIR; finished stages are kept"
)
# Texts by which the exceptions of safetensors, tokenizers and Orbax report a full disk.
_FULL = ("No space left", "os error 28", "RESOURCE_EXHAUSTED")
_FIXES = {
    errno.ENOENT: "correct the path",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOTDIR: "a part of this path is a file, correct it",
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links lead back to themselves, remove them",
    errno.EEXIST: "expected a folder but found a file, move it",
    errno.ENOTEMPTY: "expected a file but found a folder, move it",
    errno.EROFS: ELSEWHERE,
    errno.ENOSPC: ELSEWHERE,
    errno.EDQUOT: ELSEWHERE,
}
_SHOWN = 120  # characters of a quoted value
_LINE = 1600  # characters of a message


class InputError(Exception):
    """Bad user input; the message says in one line what is wrong, where, and how to fix it.

    A message may quote any input, so it is escaped and bounded in length.
    """

    def __init__(self, message: str):
        """Escapes control characters in the message, and cuts the middle out of a long one."""
        line = escape(str(message)[: 2 * _LINE])
        middle = "" if len(line) <= _LINE else " ... "
        super().__init__(f"{line[: _LINE // 2]}{middle}{line[-_LINE // 2 :]}" if middle else line)


def quote(value: object) -> str:
    """Returns the repr of a value for a message, escaped and at most 120 characters long."""
    try:
        text = escape(repr(value))
    except Exception:  # repr of user-defined objects may raise
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 40]}...{text[-30:]}"


def escape(text: str) -> str:
    """Escapes control and unprintable characters, some of which terminals would interpret."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(error: BaseException) -> str:
    """Returns the type and message of an exception in one line of at most 200 characters."""
    try:
        message = str(error)
    except BaseException:  # str of user-defined exceptions may raise anything
        message = "its message cannot be read"
    return escape(" ".join(f"{type(error).__name__}: {message[:2000]}".split()))[:200]


def os_error(path: object, error: OSError | ValueError) -> InputError:
    """Converts an error of the operating system about a path to an InputError with a fix.

    Args:
      path: the path of the failed operation.
      error: an OSError, or the ValueError that Python raises for a path with a NUL character.
    """
    if not isinstance(error, OSError):
        return InputError(f"{quote(str(path))}, not a path ({one_line(error)}): correct it")
    fix = _FIXES.get(error.errno or 0, "check the path and the device it is on")
    reason = error.strerror or one_line(error)
    reason = reason[:1].lower() + reason[1:]
    return InputError(f"{escape(str(path))[: _SHOWN * 2]}, {reason}: {fix}")


def _messages(error: BaseException | None) -> str:
    """Joins the messages of an exception and of its causes."""
    return f"{error} {_messages(error.__cause__ or error.__context__)}" if error else ""


@contextlib.contextmanager
def catch_disk_full(path: Path) -> Iterator[None]:
    """A context in which `path` is written: raises InputError if the disk is full.

    Libraries report a full disk by exceptions of their own.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or not any(text in _messages(error) for text in _FULL):
            raise
        raise InputError(f"cannot write {path} (no space left on device): {ELSEWHERE}") from error

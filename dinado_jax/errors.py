"""The one exception that means "your input": the command line prints it and exits with 2."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

ELSEWHERE = (
    "make room or choose another folder with run.folder=DIR (dinado demo: --out DIR); "
    "finished stages are kept"
)
# How safetensors, tokenizers and Orbax say it, each with an exception of its own.
_FULL = ("No space left", "os error 28", "RESOURCE_EXHAUSTED")


class InputError(Exception):
    """Bad input, told in one line: what is wrong, where, and how to mend it."""


def one_line(error: BaseException) -> str:
    """The kind of an error and its message, without line breaks, at most 200 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _story(error: BaseException | None) -> str:
    """The messages of an error and of those that led to it."""
    return f"{error} {_story(error.__cause__ or error.__context__)}" if error else ""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """While `path` is written: a full disk is an InputError, whatever the library raises."""
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or not any(sign in _story(error) for sign in _FULL):
            raise
        raise InputError(f"cannot write {path} (no space left on device): {ELSEWHERE}") from error

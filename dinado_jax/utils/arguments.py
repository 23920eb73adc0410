"""What a caller in Python gives, checked: one line of InputError for any value of another kind."""

import numbers
from collections.abc import Callable
from typing import Any

from dinado_jax.errors import InputError, quote

SEEDS = 2**32  # what a random key tells apart
POSITIVE = "at least 1", lambda x: x >= 1


def _real(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def require_integer(name: str, value: Any, wanted: str, holds: Callable[[int], bool]) -> int:
    """The value as an int, numpy's included. InputError for anything but a whole number that
    `holds`, which is `wanted` in words."""
    if not _real(value, numbers.Integral):
        raise InputError(f"{name} = {quote(value)}: it must be an integer, {wanted}")
    if not holds(int(value)):
        raise InputError(f"{name} = {quote(int(value))}: it must be {wanted}")
    return int(value)


def require_number(name: str, value: Any, wanted: str, holds: Callable[[float], bool]) -> float:
    """The value as a finite float. InputError as for `checked_integer`, and for nan, infinity."""
    if not _real(value, numbers.Real):
        raise InputError(f"{name} = {quote(value)}: it must be a number, {wanted}")
    try:
        require_number_field = float(value)
    except OverflowError:
        require_number_field = float("inf")
    if not (abs(require_number_field) < float("inf") and holds(require_number_field)):
        raise InputError(f"{name} = {quote(value)}: it must be {wanted}")
    return require_number_field


def require_seed(value: Any, name: str = "seed") -> int:
    """A seed in [0, 2^32): beyond, different seeds would be the same random stream."""
    return require_integer(name, value, "in [0, 2^32)", lambda x: 0 <= x < SEEDS)


def require_integer_field(owner: Any, name: str, wanted: str, holds: Callable[[int], bool]) -> None:
    """Checks a field of a frozen dataclass, and leaves it as a plain int."""
    object.__setattr__(owner, name, require_integer(name, getattr(owner, name), wanted, holds))


def require_number_field(
    owner: Any, name: str, wanted: str, holds: Callable[[float], bool]
) -> None:
    """Checks a field of a frozen dataclass, and leaves it as a plain float."""
    object.__setattr__(owner, name, require_number(name, getattr(owner, name), wanted, holds))

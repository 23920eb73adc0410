"""What a caller in Python gives, checked: one line of InputError for any value of another kind."""

import numbers
from collections.abc import Callable
from typing import Any

from dinado_jax.errors import InputError, shown

SEEDS = 2**32  # what a random key tells apart
POSITIVE = "at least 1", lambda x: x >= 1


def _real(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def checked_integer(name: str, value: Any, wanted: str, holds: Callable[[int], bool]) -> int:
    """The value as an int, numpy's included. InputError for anything but a whole number that
    `holds`, which is `wanted` in words."""
    if not _real(value, numbers.Integral):
        raise InputError(f"{name} = {shown(value)}: it must be an integer, {wanted}")
    if not holds(int(value)):
        raise InputError(f"{name} = {shown(int(value))}: it must be {wanted}")
    return int(value)


def checked_number(name: str, value: Any, wanted: str, holds: Callable[[float], bool]) -> float:
    """The value as a finite float. InputError as for `checked_integer`, and for nan, infinity."""
    if not _real(value, numbers.Real):
        raise InputError(f"{name} = {shown(value)}: it must be a number, {wanted}")
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    if not (abs(number) < float("inf") and holds(number)):
        raise InputError(f"{name} = {shown(value)}: it must be {wanted}")
    return number


def seed(value: Any, name: str = "seed") -> int:
    """A seed in [0, 2^32): beyond, different seeds would be the same random stream."""
    return checked_integer(name, value, "in [0, 2^32)", lambda x: 0 <= x < SEEDS)


def integer(owner: Any, name: str, wanted: str, holds: Callable[[int], bool]) -> None:
    """Checks a field of a frozen dataclass, and leaves it as a plain int."""
    object.__setattr__(owner, name, checked_integer(name, getattr(owner, name), wanted, holds))


def number(owner: Any, name: str, wanted: str, holds: Callable[[float], bool]) -> None:
    """Checks a field of a frozen dataclass, and leaves it as a plain float."""
    object.__setattr__(owner, name, checked_number(name, getattr(owner, name), wanted, holds))

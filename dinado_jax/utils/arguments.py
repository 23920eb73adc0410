"""Checks of arguments passed in Python; each failure is an InputError of one line."""

import difflib
import functools
import inspect
import numbers
import typing
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from dinado_jax.errors import InputError, quote

_Given = ParamSpec("_Given")
_Returned = TypeVar("_Returned")
SEEDS = 2**32  # number of distinct random keys: jax.random.key uses 32 bits of its seed
POSITIVE = "at least 1", lambda x: x >= 1


def up_to(most: int) -> tuple[str, Callable[[int], bool]]:
    """The condition of `require_integer` that a number is in [1, most]."""
    return f"1 to {most:,}", lambda x: 1 <= x <= most


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def require_integer(name: str, value: Any, wanted: str, holds: Callable[[int], bool]) -> int:
    """Returns `value` as an int if it is an integer (NumPy's included) that satisfies `holds`.

    Args:
      name: of the argument, for the message.
      value: of any type; a bool is not an integer here.
      wanted: the condition in words, for the message.
      holds: the condition.

    Raises:
      InputError: `value` is not an integer, or `holds(value)` is false.
    """
    if not _is_number(value, numbers.Integral):
        raise InputError(f"{name} = {quote(value)}: it must be an integer, {wanted}")
    if not holds(int(value)):
        raise InputError(f"{name} = {quote(int(value))}: it must be {wanted}")
    return int(value)


def require_number(name: str, value: Any, wanted: str, holds: Callable[[float], bool]) -> float:
    """Returns `value` as a float if it is a finite number that satisfies `holds`.

    Args and Raises as for `require_integer`; nan and infinity are refused too.
    """
    if not _is_number(value, numbers.Real):
        raise InputError(f"{name} = {quote(value)}: it must be a number, {wanted}")
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    if not (abs(number) < float("inf") and holds(number)):
        raise InputError(f"{name} = {quote(value)}: it must be {wanted}")
    return number


def require_seed(value: Any, name: str = "seed") -> int:
    """Returns a seed in [0, 2^32); larger ones would repeat the random streams of smaller ones."""
    return require_integer(name, value, "in [0, 2^32)", lambda x: 0 <= x < SEEDS)


def require_integer_field(owner: Any, name: str, wanted: str, holds: Callable[[int], bool]) -> None:
    """Checks a field of a frozen dataclass and converts it to int, in `__post_init__`."""
    object.__setattr__(owner, name, require_integer(name, getattr(owner, name), wanted, holds))


def require_number_field(
    owner: Any, name: str, wanted: str, holds: Callable[[float], bool]
) -> None:
    """Checks a field of a frozen dataclass and converts it to float, in `__post_init__`."""
    object.__setattr__(owner, name, require_number(name, getattr(owner, name), wanted, holds))


def require_instance(name: str, value: Any, kind: Any, wanted: str) -> None:
    """InputError for a value that is none of a class, or of a union of classes; `wanted` says what
    to give, in words.
    """
    if not isinstance(value, kind):
        raise InputError(f"{name} = {quote(value)}: give {wanted}")


def require_texts(name: str, values: Any) -> list[str]:
    """Returns a list of texts, at least one.

    Args:
      name: of one of them, for messages.
      values: of any type.

    Raises:
      InputError: for one text instead of several, something else among them, or none at all.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise InputError(f"{name}s is {quote(values)}: give a list of {name}s")
    texts = list(values)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"{name} {index} is {quote(text)}: give text")
    if not texts:
        raise InputError(f"there are no {name}s: give at least one")
    return texts


def known_keywords(
    elsewhere: str = "",
) -> Callable[[Callable[_Given, _Returned]], Callable[_Given, _Returned]]:
    """Decorates a function of the Python interface: an argument by a name that it does not have is
    an InputError with the nearest one, also where it takes the keys of a TypedDict.

    Args:
      elsewhere: how to set what is not among its arguments, in words, for the message.
    """

    def decorate(function: Callable[_Given, _Returned]) -> Callable[_Given, _Returned]:
        known = _keywords(function)

        @functools.wraps(function)
        def checked(*args: _Given.args, **given: _Given.kwargs) -> _Returned:
            for name in given:
                if name in known:
                    continue
                near = difflib.get_close_matches(name, known, 1, 0.7)
                others = f"; {elsewhere}" if elsewhere else ""
                hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}{others}"
                what = f"{getattr(function, '__name__', '')} has no argument {quote(name)}"
                raise InputError(f"{what}: {hint}")
            return function(*args, **given)

        return checked

    return decorate


def _keywords(function: Callable[..., Any]) -> list[str]:
    """The names of the arguments that may be given by name."""
    found: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            (keys,) = typing.get_args(parameter.annotation)  # of Unpack
            found += typing.get_type_hints(keys)
        else:
            found.append(name)
    return found

"""SHA-256 of what a callable does, as far as that can be seen: its code and the values it reads."""

import dataclasses
import dis
import hashlib
import inspect
import json
import re
import types
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from dinado_jax.utils.files import json_digest

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))


def code_digest(function: Any) -> str:
    """Computes the SHA-256 of a callable's bytecode and of the values that it reads.

    These are its constants, defaults, closure and globals: numbers, texts, NumPy arrays, regular
    expressions, functions, frozen dataclasses, and lists, tuples, sets and dicts of them. Of a
    function in another module the globals do not count, and of other objects (classifiers, files)
    nothing but their type. A dict that a function fills does count: keep such a cache in an object,
    or use functools.cache. Where the code stands, and how it is laid out, does not matter; another
    version of Python may compile it otherwise.
    """
    owner = function
    while isinstance(owner, partial):
        owner = owner.func
    return json_digest(_Reader(getattr(owner, "__module__", None)).content(function))


class _Reader:
    """Reads a callable once."""

    def __init__(self, module: str | None):
        """Takes the module whose globals count."""
        self._module, self._functions = module, []  # read so far

    def content(self, value: Any, outer: tuple[Any, ...] = ()) -> Any:
        """What the digest of a value depends on, as JSON.

        Args:
          value: any object.
          outer: the values that it is a part of, from the outermost on.
        """
        if any(value is each for each in outer):
            return "what it is a part of"
        inner = partial(self.content, outer=(*outer, value))

        def parts(*values: Any) -> list[Any]:
            return [type(value).__qualname__, *map(inner, values)]

        match value:
            case types.FunctionType():
                return self._function(value, inner)
            case types.CodeType():
                return parts(
                    value.co_code, value.co_exceptiontable, value.co_names, value.co_consts
                )
            case types.MethodType():
                return parts(value.__func__, value.__self__)
            case partial():
                return parts(value.func, value.args, value.keywords)
            case list() | tuple():
                return parts(*value)
            case dict():
                return parts(*value.items())
            case set() | frozenset():  # in another order in every process
                return sorted(parts(*value), key=json.dumps)
            case re.Pattern():
                return parts(value.pattern, value.flags)
            case np.ndarray() if not value.dtype.hasobject:
                digest = hashlib.sha256(value.tobytes()).hexdigest()
                return parts(str(value.dtype), value.shape, digest)
        if isinstance(value, _PLAIN):
            return [type(value).__qualname__, repr(value)]
        settings = getattr(type(value), "__dataclass_params__", None)
        if settings is not None and settings.frozen:
            return parts(*(getattr(value, field.name) for field in dataclasses.fields(value)))
        if wrapped := inspect.getattr_static(value, "__wrapped__", None):  # as of functools.cache
            return parts(wrapped)
        named = value if hasattr(value, "__name__") else type(value)
        name = str(getattr(named, "__qualname__", named.__name__))
        call = None if outer else inspect.getattr_static(type(value), "__call__", None)
        return parts(str(getattr(named, "__module__", "")), name, call)

    def _function(self, function: types.FunctionType, inner: partial) -> Any:
        if function in self._functions:
            return ["function", self._functions.index(function)]
        self._functions.append(function)
        read = _globals(function) if function.__module__ == self._module else {}
        cells = [_in_cell(cell) for cell in function.__closure__ or ()]
        defaults = function.__defaults__, function.__kwdefaults__
        return ["function", *map(inner, (function.__code__, *defaults, cells, read))]


def _in_cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _globals(function: types.FunctionType) -> dict[str, Any]:
    """The globals that a function reads, by name."""
    known = function.__globals__
    return {name: known[name] for name in sorted(set(_names(function.__code__))) if name in known}


def _names(code: types.CodeType) -> Iterator[str]:
    """Yields the names of globals that code reads, and the code inside of it."""
    for each in dis.get_instructions(code):
        if each.opname == "LOAD_GLOBAL":
            yield each.argval
        elif isinstance(each.argval, types.CodeType):
            yield from _names(each.argval)

"""Frozen dataclasses from JSON objects, checked field by field."""

import dataclasses
import math
import types
import typing
from typing import Any, TypeVar, cast

from dinado_jax.utils.files import Schema, validate

T = TypeVar("T")


def read_record(kind: type[T], tree: Any, where: str, fix: str, **given: Any) -> T:
    """Constructs a dataclass from a JSON object with its fields; other keys are ignored.

    A float that is null becomes nan, the inverse of `write_json`; a field with a default may be
    missing.

    Args:
      kind: a dataclass with fields of JSON types, optional ones (`int | None`) included.
      given: the fields that are not read.

    Raises:
      InputError: "where, which field is what: fix", for a missing field or one of another type.
    """
    hints = typing.get_type_hints(kind)
    fields = [field for field in dataclasses.fields(cast(Any, kind)) if field.name not in given]
    validate(tree, dict, where, fix)
    read = [
        field.name for field in fields if field.name in tree or field.default is dataclasses.MISSING
    ]
    validate(tree, {name: _schema(hints[name]) for name in read}, where, fix)
    values = {name: _value(hints[name], tree[name]) for name in read}
    return kind(**values, **given)


def _schema(hint: Any) -> Schema:
    if hint is float:
        return (float, type(None))
    if isinstance(hint, types.UnionType):
        return typing.get_args(hint)
    return typing.get_origin(hint) or hint


def _value(hint: Any, value: Any) -> Any:
    return math.nan if hint is float and value is None else value

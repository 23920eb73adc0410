"""Reads a run's configuration from TOML and applies `section.key=value` overrides.

An unknown key is an error that suggests the nearest known one.
"""

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dinado_jax.config.schema import Config, flatten
from dinado_jax.config.toml_text import toml_value
from dinado_jax.errors import (
    InputError,
    escape,
    one_line,
    quote,
)
from dinado_jax.utils.files import exists, parse_toml, read_text

COMMAND_LINE = "the command line"
Given = dict[str, tuple[Any, str]]  # "section.key": (value, where it was written)


def _typed(key: str, value: Any, kind: Any, where: str) -> Any:
    if isinstance(kind, types.GenericAlias):
        element = typing.get_args(kind)[0]
        if dataclasses.is_dataclass(element):
            return _tables(key, value, element, where)
        items = list(value) if isinstance(value, (list, tuple)) else [value]
        if element is float:
            items = [_float(item) if type(item) is int else item for item in items]
        if all(type(item) is element for item in items):
            return tuple(items)
        wanted = f"a list of {'strings' if element is str else 'numbers'}"
    else:
        if kind is float and type(value) is int:
            return _float(value)
        if type(value) is kind:
            return value
        wanted = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}[
            kind
        ]
    raise InputError(f"{key} = {quote(value)} in {where}: it must be {wanted}")


def _tables(key: str, value: Any, kind: Any, where: str) -> tuple[Any, ...]:
    """Reads a list of tables with exactly the fields of the dataclass `kind`."""
    hints = typing.get_type_hints(kind)
    form = f"write it as {_example(tuple[kind, ...])}"
    if not isinstance(value, (list, tuple)) or not all(isinstance(row, dict) for row in value):
        raise InputError(f"{key} = {quote(value)} in {where}: it must be a list of tables, {form}")
    rows = []
    for number, row in enumerate(value, start=1):
        if odd := [name for name in (*row, *hints) if name not in hints or name not in row]:
            what = "lacks" if odd[0] in hints else "has no use for"
            raise InputError(f"{key} in {where}, table {number} {what} {quote(odd[0])}: {form}")
        values = {
            name: _typed(f"{key}, table {number}, {name}", row[name], hint, where)
            for name, hint in hints.items()
        }
        rows.append(kind(**values))
    return tuple(rows)


def _example(kind: Any) -> str:
    """Shows how a list setting is written."""
    element = typing.get_args(kind)[0] if isinstance(kind, types.GenericAlias) else str
    if not dataclasses.is_dataclass(element):
        return "['..', '..']" if element is str else "[0.5, 2]"
    return "[{" + ", ".join(f"{name} = .." for name in typing.get_type_hints(element)) + "}]"


def _float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:  # hundreds of digits
        return math.inf if value > 0 else -math.inf


def _unknown(key: str, keys: list[str], where: str) -> InputError:
    return InputError(f"unknown config key {quote(key)} in {where}: {_hint(key, keys)}")


def _hint(key: str, keys: list[str]) -> str:
    """Says which key may have been meant; section and name are matched separately."""
    names: dict[str, list[str]] = {}
    for known in keys:
        section, _, name = known.rpartition(".")
        names.setdefault(section, []).append(name)
    section, _, name = key.rpartition(".")
    if key and key in names:
        return f"it is a section, write {key}.KEY with one of its keys: {' '.join(names[key])}"
    near = [section] if section in names else _near(section, names)
    elsewhere = [f"{other}.{name}" for other, inner in names.items() if other and name in inner]
    if near and (found := _near(name, names[near[0]])):
        meant = [f"{near[0]}.{one}".lstrip(".") for one in found]
    elif elsewhere:
        meant = elsewhere
    elif near and near[0]:
        return f"[{near[0]}] has {' '.join(names[near[0]])}"
    else:
        close = {one for inner in names.values() for one in _near(name, inner)}
        meant = [known for known in keys if known.rpartition(".")[2] in close]
        if section or not meant:
            sections = " ".join(f"[{one}]" for one in names if one)
            return f"the keys are {' '.join(names[''])} and those of {sections}"
    return f"did you mean {' or '.join(map(repr, meant))}?"


def _near(word: str, words: Iterable[str]) -> list[str]:
    """Returns the word itself, or the nearest one if there is one."""
    return difflib.get_close_matches(word, list(words), 1, 0.7)


def _override(text: str, kinds: dict[str, Any]) -> tuple[str, Any]:
    key, equals, raw = text.partition("=")
    where = f"override {quote(text)} on the command line"
    if not equals:
        raise InputError(f"{where}: write it as section.key=value, without spaces")
    if not text.isprintable() and any("\ud800" <= char <= "\udfff" for char in text):
        raise InputError(f"{where}, not UTF-8 text: write it in UTF-8")
    key = key.strip()
    try:
        parsed = tomllib.loads(f"value = {raw}")
    except RecursionError:
        raise InputError(f"{where}, nested too deep: write it as section.key=value") from None
    except ValueError as error:  # integers of thousands of digits are no TOMLDecodeError
        if raw.lstrip().startswith("[") and kinds.get(key) is not str:
            raise InputError(
                f"{where}, not a list ({one_line(error)}): write it as {_example(kinds.get(key))}"
            ) from None
        return key, raw
    if len(parsed) > 1:
        raise InputError(f"{where}, several lines: give each value an argument of its own")
    value = parsed["value"]
    # 1e3 and true are fine names for a run: where text is wanted, it needs no quotes.
    return key, raw if kinds.get(key) is str and not isinstance(value, str) else value


def parse_overrides(texts: Sequence[str]) -> Given:
    """Parses `section.key=value` texts of the command line.

    Raises:
      InputError: for a text of another form.
    """
    kinds = {key: kind for key, (_, kind) in flatten(Config()).items()}
    return {key: (value, COMMAND_LINE) for key, value in (_override(t, kinds) for t in texts)}


def assign(config: Config, given: Given) -> Config:
    """Returns `config` with values changed.

    Raises:
      InputError: for an unknown key, or a value of the wrong type.
    """
    known = flatten(config)
    for key, (value, where) in given.items():
        if key not in known:
            raise _unknown(key, list(known), where)
        value = _typed(key, value, known[key][1], where)
        section, _, name = key.rpartition(".")
        if section:
            inner = dataclasses.replace(getattr(config, section), **{name: value})
            config = dataclasses.replace(config, **{section: inner})
        else:
            config = dataclasses.replace(config, **{name: value})
    return config


def leaves(tree: dict[str, Any], where: str) -> Given:
    """Flattens the tables of a configuration, which was read from `where`.

    Raises:
      InputError: for a section that there is not.
    """
    sections = [f.name for f in dataclasses.fields(Config) if dataclasses.is_dataclass(f.type)]
    given = {}
    for key, value in tree.items():
        if "." in key or (value == {} and key not in sections):
            raise _unknown(key, [*sections, *flatten(Config())], where)
        if isinstance(value, dict):
            given |= {f"{key}.{name}": (inner, where) for name, inner in value.items()}
        else:
            given[key] = (value, where)
    return given


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A configuration and what was given for it."""

    config: Config
    file: Given  # what the file gave
    given: Given  # what the file and the overrides gave, the last one where a key comes twice


def load(path: str | Path | None, overrides: Sequence[str] = ()) -> Loaded:
    """Reads a TOML file and applies `section.key=value` overrides.

    Args:
      path: None for the demo's defaults.

    Raises:
      InputError: for a missing or malformed file, an unknown key (with the nearest known one), or a
        value of the wrong type. Ranges are left to `checks` and `stages/settings.py`.
    """
    file: Given = {}
    if path is not None:
        path = Path(path)
        if not exists(path) or path.is_dir():
            raise InputError(f"no config file {quote(str(path))}: {_other_file(path)}")
        name, text = escape(str(path)), read_text(path, "save it as UTF-8 text")
        fix = (
            "correct it, texts are in quotes, paths of Windows in 'single' ones, true and false in "
            "lower case, and no [section] or key comes twice"
        )
        file = leaves(parse_toml(text, f"config {name}", fix), name)
    given = file | parse_overrides(overrides)
    return Loaded(assign(Config(), given), file, given)


def _other_file(path: Path) -> str:
    """Says what to give in place of a path that is no file."""
    if path.is_dir():
        run = "it is the folder of a run, `dinado inspect` shows it: " * exists(path / "sft")
        return f"{run}give the path of a .toml file"
    if "=" in path.name:
        return "a setting comes after the path of a .toml file"
    there = {str(found) for home in (path.parent, Path("configs")) for found in home.glob("*.toml")}
    named = {found: Path(found).name for found in sorted(there)}
    near = difflib.get_close_matches(path.with_suffix(".toml").name, named.values(), 1, 0.8)
    meant = [found for found, name in named.items() if name in near]
    return f"did you mean {meant[0]}?" if meant else "give the path of a .toml file"


def different(config: Config) -> dict[str, Any]:
    """The settings that differ from the defaults, by "section.key"."""
    defaults = flatten(Config())
    settings = {key: value for key, (value, _) in flatten(config).items()}
    return {key: value for key, value in settings.items() if value != defaults[key][0]}


def toml_lines(config: Config) -> list[str]:
    """Lists all settings, as lines "section.key = value"."""
    return [f"{key} = {toml_value(value)}" for key, (value, _) in flatten(config).items()]


def differences(config: Config) -> list[str]:
    """Lists what differs from the defaults, as lines "section.key = value"."""
    return [f"{key} = {toml_value(value)}" for key, value in different(config).items()]

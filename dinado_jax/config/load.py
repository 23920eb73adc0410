"""Reads a run's configuration from TOML and applies `section.key=value` overrides.

An unknown key is an error that suggests the nearest known one.
"""

import dataclasses
import difflib
import itertools
import json
import math
import tomllib
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dinado_jax.config import checks, relevance
from dinado_jax.config.schema import Config, flatten
from dinado_jax.errors import (
    InputError,
    escape,
    one_line,
    quote,
)
from dinado_jax.utils.files import exists, parse_toml, read_text

_LINE = "the command line"
Given = dict[str, tuple[Any, str]]  # "section.key": (value, where it was written)


def _typed(key: str, value: Any, kind: Any, where: str) -> Any:
    if isinstance(kind, types.GenericAlias):
        if isinstance(value, str):
            value = [value]
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(value)
        wanted = "a list of strings"
    else:
        if kind is float and type(value) is int:
            return _float(value)
        if type(value) is kind:
            return value
        wanted = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}[
            kind
        ]
    raise InputError(f"{key} = {quote(value)} in {where}: it must be {wanted}")


def _float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:  # hundreds of digits
        return math.inf if value > 0 else -math.inf


def _unknown(key: str, keys: list[str], where: str) -> InputError:
    return InputError(f"unknown config key {quote(key)} in {where}: {_hint(key, keys)}")


def _hint(key: str, keys: list[str]) -> str:
    """What may have been meant: section and name are matched each by itself."""
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
        alike = {one: None for inner in names.values() for one in _near(name, inner)}
        meant = [known for known in keys if known.rpartition(".")[2] in alike]
        if section or not meant:
            sections = " ".join(f"[{one}]" for one in names if one)
            return f"the keys are {' '.join(names[''])} and those of {sections}"
    return f"did you mean {' or '.join(map(repr, meant))}?"


def _near(word: str, words: Iterable[str]) -> list[str]:
    """The word itself, or the nearest one, if any is near."""
    return difflib.get_close_matches(word, list(words), 1, 0.7)


def _override(text: str, kinds: dict[str, Any]) -> tuple[str, Any]:
    key, equals, raw = text.partition("=")
    where = f"override {quote(text)} on the command line"
    if not equals:
        raise InputError(f"{where}: write it as section.key=value")
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
                f"{where}, not a list ({one_line(error)}): write it as ['..', '..']"
            ) from None
        return key, raw
    if len(parsed) > 1:
        raise InputError(f"{where}, several lines: give each value an argument of its own")
    value = parsed["value"]
    # 1e3 and true are fine names for a run: where text is wanted, it needs no quotes.
    return key, raw if kinds.get(key) is str and not isinstance(value, str) else value


def _overrides(texts: list[str] | tuple[str, ...]) -> Given:
    kinds = {key: kind for key, (_, kind) in flatten(Config()).items()}
    return {key: (value, _LINE) for key, value in (_override(t, kinds) for t in texts)}


def _validate(config: Config, idle: Iterable[str] = ()) -> None:
    """InputError for the first fault; values are compared only once each is in its range, and
    plays a part (`idle`: what does not)."""
    values = {key: value for key, (value, _) in flatten(config).items()}
    wrong = checks.out_of_range(values)
    for fault in itertools.chain(wrong, idle, checks.contradictions(config)):
        raise InputError(fault)


def _idle(config: Config, given: Given, file: Given) -> Iterator[str]:
    """What is wrong with given values that play no part, the schema's defaults aside.

    A file describes a whole run: where an override takes its part from one of its values, as
    base.path does from the sizes of a new model, that value is left alone.
    """
    defaults, values = flatten(Config()), flatten(config)
    before = dict(relevance.unused_settings(_assigned(Config(), file), file))
    for key, only in relevance.unused_settings(config, given):
        value, where = values[key][0], given[key][1]
        if value != defaults[key][0] and (key in before or where == _LINE):
            given_as = f"{key} = {quote(value)} in {where}"
            yield f"{given_as} plays no part in this run, {only}: leave it out"


def _replace(config: Config, given: Given) -> Config:
    """`config` with values changed, checked."""
    config = _assigned(config, given)
    _validate(config)
    return config


def _assigned(config: Config, given: Given) -> Config:
    """`config` with values changed, of the right types."""
    leaves = flatten(config)
    for key, (value, where) in given.items():
        if key not in leaves:
            raise _unknown(key, list(leaves), where)
        value = _typed(key, value, leaves[key][1], where)
        section, _, name = key.rpartition(".")
        if section:
            inner = dataclasses.replace(getattr(config, section), **{name: value})
            config = dataclasses.replace(config, **{section: inner})
        else:
            config = dataclasses.replace(config, **{name: value})
    return config


def _leaves(tree: dict[str, Any], where: str) -> dict[str, tuple[Any, str]]:
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


def from_dict(tree: dict[str, Any], where: str = "the stored configuration") -> Config:
    """The inverse of `Config.as_dict`; absent keys keep their defaults."""
    return _replace(Config(), _leaves(tree, where))


def load(path: str | Path | None, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Reads a TOML file (None: the demo's defaults) and applies `section.key=value` overrides.

    InputError for a missing or malformed file, an unknown key (with the nearest known one), a value
    of the wrong type, one that plays no part, or values that contradict each other.
    """
    given: dict[str, tuple[Any, str]] = {}
    if path is not None:
        path, fix = Path(path), "correct it, see configs/"
        if not exists(path) or path.is_dir():
            raise InputError(f"no config file {quote(str(path))}: give the path of a .toml file")
        name = escape(str(path))
        given = _leaves(parse_toml(read_text(path, fix), f"config {name}", fix), name)
    everything = given | _overrides(overrides)
    config = _assigned(Config(), everything)
    _validate(config, _idle(config, everything, given))
    return config


def changed(config: Config, overrides: list[str]) -> Config:
    """`config` with `section.key=value` overrides; InputError as for `load`."""
    return _replace(config, _overrides(overrides))


def differences(config: Config) -> list[str]:
    """What of a configuration differs from the defaults, as lines "section.key = value"."""
    defaults = flatten(Config())
    return [
        f"{key} = {json.dumps(value, ensure_ascii=False)}"
        for key, (value, _) in flatten(config).items()
        if value != defaults[key][0]
    ]

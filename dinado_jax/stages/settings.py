"""The configuration of a run, checked against the tables of tasks, objectives and controls."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dinado_jax.config.checks import not_among, out_of_range
from dinado_jax.config.load import (
    COMMAND_LINE,
    Given,
    Loaded,
    assign,
    leaves,
    load,
    parse_overrides,
)
from dinado_jax.config.schema import Config, flatten
from dinado_jax.controls.make import DIRECTIONS, KINDS
from dinado_jax.errors import InputError, quote
from dinado_jax.objectives.table import OBJECTIVES
from dinado_jax.oracles.table import NamedOracle
from dinado_jax.stages.contradictions import contradictions
from dinado_jax.stages.relevance import unused_settings
from dinado_jax.tasks.table import TASKS


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Reads a TOML file and applies `section.key=value` overrides.

    Args:
      path: None for the demo's defaults.

    Raises:
      InputError: for a missing or malformed file, an unknown key (with the nearest known one), a
        value of the wrong type, out of range or without effect, or values that contradict each
        other.
    """
    loaded = load(path, overrides)
    _validate(loaded.config, _unused(loaded))
    return loaded.config


def stored_config(tree: dict[str, Any], where: str = "the stored configuration") -> Config:
    """The inverse of `Config.as_dict`; absent keys keep their defaults.

    Raises:
      InputError: as `load_config`, except that values may have no effect.
    """
    return _changed(Config(), leaves(tree, where))


def changed(config: Config, overrides: Sequence[str]) -> Config:
    """Returns `config` with `section.key=value` overrides.

    Raises:
      InputError: as `load_config`, except that values may have no effect.
    """
    return _changed(config, parse_overrides(overrides))


def with_decoding(config: Config, overrides: Sequence[str]) -> Config:
    """Returns the settings of a run with other settings of [decode].

    Raises:
      InputError: as `changed`, and for a setting of [decode] that has no effect beside them.
    """
    config = changed(config, overrides)
    decode = {
        key: (value, "the run")
        for key, (value, _) in flatten(config).items()
        if key.startswith("decode.")
    }
    for fault in _without_effect(config, decode):
        raise InputError(fault)
    return config


def python_config(
    defaults: Mapping[str, Any], settings: Mapping[str, Any], given: NamedOracle | None
) -> Config:
    """Makes the configuration of a call from Python.

    Args:
      defaults: of the call, by "section.key": in place of the schema's.
      settings: what was asked for, by "section.key"; they go before the defaults.
      given: the oracle, if it was given as an object.

    Raises:
      InputError: as `load_config`; only `settings` are refused where they have no effect.
    """
    asked = {key: (value, "settings") for key, value in settings.items()}
    config = assign(Config(), {key: (value, "fit") for key, value in defaults.items()} | asked)
    _validate(config, _without_effect(config, asked), given)
    return config


def _changed(config: Config, given: Given) -> Config:
    config = assign(config, given)
    _validate(config)
    return config


def _validate(config: Config, unused: Iterable[str] = (), given: NamedOracle | None = None) -> None:
    """Raises InputError for the first fault.

    Values are compared with each other only after each is in range and, by `unused`, has an effect.
    """
    values = {key: value for key, (value, _) in flatten(config).items()}
    for fault in itertools.chain(
        _unknown_names(config), out_of_range(values), unused, contradictions(config, given)
    ):
        raise InputError(fault)


def _unknown_names(config: Config) -> Iterator[str]:
    yield from not_among("task.name", config.task.name, TASKS)
    yield from not_among("control.kind", config.control.kind, KINDS)
    yield from not_among("control.direction", config.control.direction, DIRECTIONS)
    yield from not_among("train.objective", config.train.objective, OBJECTIVES)


def _unused(loaded: Loaded) -> Iterator[str]:
    """Yields a fault for each given value that has no effect, except the schema's defaults.

    A file describes a whole run: it is not a fault if an override deprives one of its values of
    effect, as base.path does the sizes of a new model.
    """
    whole = assign(Config(), loaded.file)
    # A name that only an override corrects cannot be looked up here.
    by_file = {} if any(_unknown_names(whole)) else dict(unused_settings(whole, loaded.file))
    asked = {
        key: (value, where)
        for key, (value, where) in loaded.given.items()
        if key in by_file or where == COMMAND_LINE
    }
    yield from _without_effect(loaded.config, asked)


def _without_effect(config: Config, asked: Given) -> Iterator[str]:
    """Yields a fault for each of these settings without effect, except the schema's defaults."""
    defaults, values = flatten(Config()), flatten(config)
    for key, only in unused_settings(config, asked):
        value, where = values[key][0], asked[key][1]
        if value != defaults[key][0]:
            given_as = f"{key} = {quote(value)} in {where}"
            yield f"{given_as} has no effect in this run ({only}): leave it out"

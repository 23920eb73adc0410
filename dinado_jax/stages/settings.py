"""The configuration of a run, checked against the tables of tasks, objectives and controls."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
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
from dinado_jax.stages.contradictions import contradictions
from dinado_jax.stages.relevance import unused_settings
from dinado_jax.tasks.table import TASKS


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Reads a TOML file and applies `section.key=value` overrides.

    Args:
      path: None for the demo's defaults.

    Raises:
      InputError: for a missing or malformed file, an unknown key (with the nearest known one), a
        value of the wrong type or out of range, one that plays no part, or values that contradict
        each other.
    """
    loaded = load(path, overrides)
    _validate(loaded.config, _unused(loaded))
    return loaded.config


def stored_config(tree: dict[str, Any], where: str = "the stored configuration") -> Config:
    """The inverse of `Config.as_dict`; absent keys keep their defaults.

    Raises:
      InputError: as `load_config`, except that values may play no part.
    """
    return _changed(Config(), leaves(tree, where))


def changed(config: Config, overrides: Sequence[str]) -> Config:
    """Returns `config` with `section.key=value` overrides.

    Raises:
      InputError: as `load_config`, except that values may play no part.
    """
    return _changed(config, parse_overrides(overrides))


def _changed(config: Config, given: Given) -> Config:
    config = assign(config, given)
    _validate(config)
    return config


def _validate(config: Config, unused: Iterable[str] = ()) -> None:
    """Raises InputError for the first fault.

    Values are compared with each other only once each is in its range and, by `unused`, plays a
    part.
    """
    values = {key: value for key, (value, _) in flatten(config).items()}
    for fault in itertools.chain(
        _unknown_names(config), out_of_range(values), unused, contradictions(config)
    ):
        raise InputError(fault)


def _unknown_names(config: Config) -> Iterator[str]:
    yield from not_among("task.name", config.task.name, TASKS)
    yield from not_among("control.kind", config.control.kind, KINDS)
    yield from not_among("control.direction", config.control.direction, DIRECTIONS)
    yield from not_among("train.objective", config.train.objective, OBJECTIVES)


def _unused(loaded: Loaded) -> Iterator[str]:
    """Yields the given values that play no part, except the schema's defaults.

    A file describes a whole run: a value of it that loses its part to an override, as the sizes of
    a new model do to base.path, is not a fault.
    """
    config, given = loaded.config, loaded.given
    defaults, values = flatten(Config()), flatten(config)
    whole = assign(Config(), loaded.file)
    # Names that an override corrects are of no use here.
    by_file = {} if any(_unknown_names(whole)) else dict(unused_settings(whole, loaded.file))
    for key, only in unused_settings(config, given):
        value, where = values[key][0], given[key][1]
        if value != defaults[key][0] and (key in by_file or where == COMMAND_LINE):
            given_as = f"{key} = {quote(value)} in {where}"
            yield f"{given_as} plays no part in this run, {only}: leave it out"

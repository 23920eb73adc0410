"""The schema of a run: frozen dataclasses, read from TOML and changed by `section.key=value`.

The defaults are the demo's. Every run prints its resolved configuration and stores it beside its
results. A key nobody knows is an error that suggests the nearest one.
"""

import dataclasses
import difflib
import itertools
import json
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dinado_jax import limits, relevance
from dinado_jax.errors import InputError, escape, one_line, quote
from dinado_jax.files import exists, parse_toml, read_text

_LINE = "the command line"
Given = dict[str, tuple[Any, str]]  # "section.key": (value, where it was written)


@dataclasses.dataclass(frozen=True)
class Task:
    name: str = "toy"  # toy | commongen
    source: str = ""  # commongen: a folder of local files or a hub name
    train_examples: int = 40_000  # toy: captions drawn for sft and rollout prompts


@dataclasses.dataclass(frozen=True)
class Base:
    path: str = ""  # a GPT-2 folder or hub name; empty: a new model of the sizes below
    vocab_size: int = 1024  # at most; tokens of the byte-level BPE trained for a new model
    n_positions: int = 24
    n_embd: int = 64
    n_layer: int = 2
    n_head: int = 4
    param_dtype: str = "float32"
    dtype: str = "float32"  # of activations
    remat: bool = False  # training recomputes blocks: less memory (GPU, TPU), a third more time


@dataclasses.dataclass(frozen=True)
class Optim:
    """One optimiser, used by the sft and train sections."""

    steps: int = 1000
    batch: int = 128  # rows per step, over all micro-batches
    accumulate: int = 1  # micro-batches per step
    learning_rate: float = 1e-3  # peak
    warmup: int = 50  # steps of linear increase
    decay: str = "cosine"  # cosine | constant
    weight_decay: float = 0.0
    beta2: float = 0.99
    clip: float = 1.0  # global gradient norm; 0 is off


@dataclasses.dataclass(frozen=True)
class Sft(Optim):
    steps: int = 1200
    batch: int = 64
    learning_rate: float = 5e-3
    pretrain_path: str = ""  # plain text, one sentence per line: mined for pairs to train on first
    pretrain_steps: int = 0
    max_length: int = 32  # tokens; longer examples are left out


@dataclasses.dataclass(frozen=True)
class Delta:
    rank: int = 16
    alpha: float = 16.0  # scale = alpha / rank
    low_rank: tuple[str, ...] = (r"h_\d+/(attn|mlp)/c_\w+/kernel",)
    full: tuple[str, ...] = (r".*/ln_\d/\w+", r"ln_f/\w+", r".*/bias")

    @property
    def scale(self) -> float:
        """What multiplies the product of the factors."""
        return self.alpha / self.rank


@dataclasses.dataclass(frozen=True)
class Control:
    kind: str = "merge"  # nado | soft | merge | hard
    direction: str = "merge"  # hard: nado | soft | merge
    form: str = "clamped"  # hard: clamped | projected (R <= 1 always; bends q if tokens are many)
    trunk: str = "small"  # soft: small | copy | low_rank (a delta of the base)
    layers: int = 4  # of nado's head and of soft's small trunk
    norm_bias: str = "success_rate"  # success_rate | zero: the norm's initial bias


@dataclasses.dataclass(frozen=True)
class Sampling:
    temperature: float = 1.0  # 0 is greedy
    top_k: int = 0  # 0 is off
    top_p: float = 1.0
    max_new_tokens: int = 16
    batch: int = 512  # rows decoded at once


@dataclasses.dataclass(frozen=True)
class Decode(Sampling):
    strength: float = 1.0  # of the control: R^strength
    target_rate: float = 1.0  # success rate to aim for
    reject: float = 0.0  # tokens that q has this much rarer than p are never drawn; 0 is off


@dataclasses.dataclass(frozen=True)
class Rollout(Sampling):
    oracle: str = "lexical"  # lexical, or "package.module:function"(prompts, texts) -> scores
    prompts: int = 2500
    samples: int = 8  # per prompt
    references: bool = False  # the task's references join the rollouts, judged like any sample


@dataclasses.dataclass(frozen=True)
class Train(Optim):
    steps: int = 900
    batch: int = 256
    learning_rate: float = 5e-3
    objective: str = "regression"  # matching | regression | ratio | prefixes | published
    warmup_direction: int = 180  # first steps: likelihood on successes
    rounds: int = 5  # steps are divided evenly among them; each but the first samples again from q
    refresh_prompts: int = 2500
    refresh_samples: int = 8
    mixture: float = 0.0  # share of a refresh round's samples that is drawn from the base
    margin: float = 6.0  # nats; regression takes log C of a failure for -margin
    bellman: float = 1.0  # lambda
    bellman_start: int = 0  # steps with lambda = 0 first
    # Objective published has all rollouts alike: the others are not for it, except in warm-ups.
    weights: str = "importance"  # importance (p / proposal) | none: the proposals' q*, not p's
    weight_clip: float = 0.98  # quantile at which importance weights are cut
    reference_weight: float = 0.0  # a successful reference's share relative to a sample's
    balance: bool = True  # as many successes as failures for the norm, log-odds corrected
    detach: bool = True  # the norm's losses do not move the direction
    base_states: str = "recompute"  # recompute | float32 | bfloat16: on disk, once for all epochs


@dataclasses.dataclass(frozen=True)
class Evaluate:
    split: str = "test"
    prompts: int = 500
    samples: int = 4
    prompt_file: str = ""  # prompts to continue, one per line, instead of the split's


@dataclasses.dataclass(frozen=True)
class Parallel:
    mode: str = "jit"  # jit | shard_map | pmap: how a training step is spread over devices
    fsdp: int = (
        1  # devices that share one copy of base, trainable parameters and optimiser state (jit)
    )
    devices: int = 0  # of each process; 0 is all


@dataclasses.dataclass(frozen=True)
class Run:
    folder: str = "runs"
    log_every: int = 20  # steps
    save_every: int = 200  # steps


@dataclasses.dataclass(frozen=True)
class Config:
    name: str = "demo"
    seed: int = 0
    task: Task = Task()
    base: Base = Base()
    sft: Sft = Sft()
    delta: Delta = Delta()
    control: Control = Control()
    rollout: Rollout = Rollout()
    train: Train = Train()
    decode: Decode = Decode()
    evaluate: Evaluate = Evaluate()
    parallel: Parallel = Parallel()
    run: Run = Run()

    def as_dict(self) -> dict[str, Any]:
        return json.loads(json.dumps(dataclasses.asdict(self)))


def _flat(config: Config) -> dict[str, tuple[Any, Any]]:
    """Every leaf as {"section.key": (value, type)}."""
    leaves = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            hints = typing.get_type_hints(type(value))
            for inner in dataclasses.fields(value):
                leaves[f"{field.name}.{inner.name}"] = (
                    getattr(value, inner.name),
                    hints[inner.name],
                )
        else:
            leaves[field.name] = (value, field.type)
    return leaves


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
    kinds = {key: kind for key, (_, kind) in _flat(Config()).items()}
    return {key: (value, _LINE) for key, value in (_override(t, kinds) for t in texts)}


def _validate(config: Config, idle: Iterable[str] = ()) -> None:
    """InputError for the first fault; values are compared only once each is in its range, and
    plays a part (`idle`: what does not)."""
    values = {key: value for key, (value, _) in _flat(config).items()}
    wrong = limits.out_of_range(values)
    for fault in itertools.chain(wrong, idle, limits.contradictions(config)):
        raise InputError(fault)


def _idle(config: Config, given: Given, file: Given) -> Iterator[str]:
    """What is wrong with given values that play no part, the schema's defaults aside.

    A file describes a whole run: where an override takes its part from one of its values, as
    base.path does from the sizes of a new model, that value is left alone.
    """
    defaults, values = _flat(Config()), _flat(config)
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
    leaves = _flat(config)
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
            raise _unknown(key, [*sections, *_flat(Config())], where)
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
    defaults = _flat(Config())
    return [
        f"{key} = {json.dumps(value, ensure_ascii=False)}"
        for key, (value, _) in _flat(config).items()
        if value != defaults[key][0]
    ]

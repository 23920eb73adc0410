"""`dinado evaluate --text FILE` and `--few-shot FILE`: a base that reads, with hidden-state
optimisation or without.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinado_jax.cli.tables import table, without_nan
from dinado_jax.errors import InputError, quote
from dinado_jax.utils import arguments, streams

if TYPE_CHECKING:
    from dinado_jax.hidden_states.text import Reading
    from dinado_jax.language_model import Base
    from dinado_jax.metrics.protocol import Measured

_OF_TEXT = ("window",)
_OF_FEW_SHOT = ("words", "shots", "draws")
_OF_BOTH = ("step_size", "chunk", "seed")
_ELSEWHERE = (
    "config", "overrides", "out", "print_config", "dry_run", "predictions", "references", "formal",
    "informal", "metrics", "baseline", "text_field", "references_field", "prompt_field",
)  # fmt: skip


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options."""
    group = command.add_argument_group(
        "a base that reads", "in place of CONFIG, with --model BASE; see docs/neighbours.md"
    )
    group.add_argument("--text", type=Path, metavar="FILE", help="its bits per token")
    group.add_argument(
        "--few-shot",
        type=Path,
        metavar="FILE",
        help="accuracy on labelled texts, .jsonl with text and label, after some of them",
    )
    group.add_argument(
        "--step-size",
        type=float,
        metavar="X",
        help="of Adam on the cache, compared with none (0: no updates)",
    )
    group.add_argument("--chunk", type=int, metavar="N", help="tokens between updates (16)")
    group.add_argument(
        "--window", type=int, metavar="N", help="tokens of --text with one cache (the context)"
    )
    group.add_argument(
        "--words",
        nargs="+",
        metavar="LABEL=WORD",
        help="by which --few-shot predicts each label (the labels)",
    )
    group.add_argument("--shots", type=int, metavar="N", help="demonstrations of each label (4)")
    group.add_argument("--draws", type=int, metavar="N", help="of demonstrations (10)")
    group.add_argument("--seed", type=int, metavar="N", help="of draws and intervals (0)")


def is_given(args: argparse.Namespace) -> bool:
    """Whether a base is to read.

    Raises:
      InputError: for options that do not go together.
    """
    wanted = [name for name in ("text", "few_shot") if getattr(args, name) is not None]
    for name in (*_OF_TEXT, *_OF_FEW_SHOT, *_OF_BOTH) if not wanted else ():
        if getattr(args, name) is not None:
            what = "--text" if name in _OF_TEXT else "--few-shot"
            what = "--text FILE or --few-shot" if name in _OF_BOTH else what
            raise InputError(f"{_flag(name)} is for a base that reads: give {what} FILE")
    if not wanted:
        return False
    if len(wanted) > 1:
        raise InputError("--text and --few-shot are two measurements: leave out one of them")
    others = _OF_FEW_SHOT if wanted == ["text"] else _OF_TEXT
    for name in (*others, *_ELSEWHERE):
        if getattr(args, name) not in (None, False, []):
            flag = name.upper() if name == "config" else _flag(name)
            raise InputError(f"{flag} has no effect with {_flag(wanted[0])} FILE: leave it out")
    if args.chunk is not None and not args.step_size:
        raise InputError("--chunk has no effect without updates: give --step-size, or leave it out")
    if args.model is None:
        raise InputError(f"{_flag(wanted[0])} FILE needs a base that reads it: give --model BASE")
    return True


def evaluate_reading(args: argparse.Namespace) -> None:
    """Measures, without updates and with those that are asked for, and prints a table or JSON.

    Raises:
      InputError: for files that cannot be read, texts that are too long and settings out of range.
    """
    from dinado_jax.evaluation.intervals import bootstrap_interval_of_sums, compare
    from dinado_jax.hidden_states.text import PLAIN, Reading
    from dinado_jax.loading import load_base

    seed = arguments.require_seed(0 if args.seed is None else args.seed)
    reading = Reading(
        PLAIN.step_size if args.step_size is None else args.step_size,
        PLAIN.chunk if args.chunk is None else args.chunk,
    ).check()
    name, measure = (_bits if args.text else _accuracy)(args, seed)
    base = load_base(args.model)
    ways = {"plain": reading._replace(step_size=0.0), "updated": reading}
    found = {way: measure(base, how) for way, how in ways.items() if way == "plain" or how.updates}
    sums = {way: each.sums for way, each in found.items() if each.sums}
    values: dict[str, Any] = {
        way: {"value": each.value, "interval": bootstrap_interval_of_sums(sums[way], seed)}
        for way, each in found.items()
    }
    if "updated" in found:
        other = compare(sums["plain"], sums["updated"], seed)
        values["difference"] = {"value": other.difference, "interval": other.interval}
        values["difference"]["p_value"] = other.p_value
    streams.print_result(_shown(name, values, args.json))


_Measure = Callable[["Base", "Reading"], "Measured"]


def _bits(args: argparse.Namespace, seed: int) -> tuple[str, _Measure]:
    from dinado_jax.evaluation.bits import bits_per_token
    from dinado_jax.hidden_states.text import score_text
    from dinado_jax.utils.files import read_lines

    text = "\n".join(read_lines(args.text))
    if not text.strip():
        raise InputError(f"{args.text} is empty: give a text")
    return "bits per token", lambda base, reading: bits_per_token(
        score_text(base, text, reading, window=args.window)
    )


def _accuracy(args: argparse.Namespace, seed: int) -> tuple[str, _Measure]:
    from dinado_jax.evaluation.few_shot import few_shot, read_examples

    examples = read_examples(args.few_shot)
    words = None if args.words is None else _pairs(args.words)
    given = {name: getattr(args, name) for name in ("shots", "draws")}
    given = {name: value for name, value in given.items() if value is not None}
    return "accuracy", lambda base, reading: few_shot(
        base, examples, reading, words=words, seed=seed, **given
    )


def _pairs(given: list[str]) -> dict[str, str]:
    words: dict[str, str] = {}
    for pair in given:
        label, equals, word = pair.partition("=")
        if not equals or label in words:
            fault = "is no LABEL=WORD" if not equals else "gives a label its second word"
            raise InputError(f"--words {quote(pair)} {fault}: give each label one, as in 1=good")
        words[label] = word
    return words


def _shown(name: str, values: dict[str, dict[str, Any]], as_json: bool) -> str:
    if as_json:
        return json.dumps(without_nan({"metric": name, **values}), indent=1)
    rows = [(name, "value", "95% interval", "p")]
    for way, each in values.items():
        low, high = each["interval"]
        interval = "" if math.isnan(low) else f"{low:.4g} to {high:.4g}"
        p_value = f"{each['p_value']:.3g}" if "p_value" in each else ""
        rows.append((way, f"{each['value']:.4g}", interval, p_value))
    return table(rows)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")

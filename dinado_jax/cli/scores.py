"""`dinado evaluate --predictions FILE`: scores of texts that may come from anywhere."""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dinado_jax.cli.tables import without_nan
from dinado_jax.data.records import has_objects
from dinado_jax.errors import InputError, quote
from dinado_jax.evaluation.intervals import Interval
from dinado_jax.evaluation.outputs import Fields, read_items
from dinado_jax.evaluation.text_metrics import METRICS, Score, applicable, check, score
from dinado_jax.metrics.protocol import Item, TextMetric
from dinado_jax.utils import streams


def evaluate_files(args: argparse.Namespace) -> None:
    """Reads the files, and prints a table or JSON.

    Raises:
      InputError: for files that cannot be read or do not match, and for a metric that cannot be
        computed.
    """
    _check_fields(args)
    metrics = _metrics(args)
    items, unused = _read(args, args.predictions)
    baseline = _baseline(args, items) if args.baseline else None
    if args.metrics:
        names, left_out = list(dict.fromkeys(args.metrics)), {}
        check(names, items, metrics)
    else:
        names, left_out = applicable(items, metrics)
    scores = score(names, items, baseline, metrics=metrics)
    for warning in _warnings(items, scores):
        streams.print_status(f"warning: {warning}")
    found = {
        "prompts": len(items),
        "texts": sum(len(item.texts) for item in items),
        "prompts_without_texts": unused,
    }
    if args.json:
        values = {name: _as_dict(each) for name, each in scores.items()}
        whole = {**found, "metrics": values, "left_out": left_out}
        return streams.print_result(json.dumps(whole, indent=1))
    streams.print_result("\n".join(_lines(found, scores, left_out)))


def _warnings(items: Sequence[Item], scores: dict[str, Score]) -> Iterator[str]:
    """What makes scores say little or nothing."""
    if not any(text.strip() for item in items for text in item.texts):
        yield "all texts are empty: check the file of predictions"
    if len(items) == 1 and (found := [name for name in scores if name.startswith("cider")]):
        yield (
            f"{' and '.join(found)} weigh words by how few prompts have them, and there is one "
            "prompt: give more"
        )
    if found := [name for name, each in scores.items() if math.isnan(each.value)]:
        yield f"no value of {', '.join(found)} is defined for these texts: give more or others"


def _metrics(args: argparse.Namespace) -> dict[str, TextMetric]:
    """All that there are, and perplexity if there is a model that judges."""
    if args.model is None:
        return METRICS
    if args.metrics and "perplexity" not in args.metrics:
        raise InputError("--model is for the metric perplexity: add it to --metrics, or leave out")
    from dinado_jax.evaluation.perplexity import perplexity
    from dinado_jax.loading import load_base

    metric = perplexity(load_base(args.model))
    return {**METRICS, metric.name: metric}


def _check_fields(args: argparse.Namespace) -> None:
    """Raises InputError for the name of a field of .jsonl where no such file is read."""
    outputs = [args.predictions, *filter(None, [args.baseline])]
    references = args.references or []
    for name, files in (
        ("text", outputs),
        ("references", references),
        ("prompt", [*outputs, *references]),
    ):
        if getattr(args, f"{name}_field") is not None and not any(
            has_objects(file, tabs=True) for file in files
        ):
            raise InputError(
                f"--{name}-field has no effect without such a .jsonl file: leave it out"
            )


def _read(
    args: argparse.Namespace, outputs: Path, system: Path | None = None
) -> tuple[list[Item], int]:
    annotated = None if args.formal is None else (args.formal, args.informal)
    return read_items(outputs, args.references or (), _fields(args), annotated, system)


def _fields(args: argparse.Namespace) -> Fields:
    default = Fields()
    given = {
        kind: (name,)
        for kind in default._fields
        if (name := getattr(args, f"{kind}_field")) is not None
    }
    return default._replace(**given)


def _baseline(args: argparse.Namespace, items: Sequence[Item]) -> list[Item]:
    """The items of the baseline in the order of the system's."""
    read, _ = _read(args, args.baseline, args.predictions)
    if all(item.prompt for item in (*items, *read)):
        known = {item.prompt: item for item in read}
        for item in items:
            if item.prompt not in known:
                raise InputError(
                    f"{args.baseline} has no text for prompt {quote(item.prompt)} of "
                    f"{args.predictions}: give both for the same prompts"
                )
        if len(known) == len(items):
            return [known[item.prompt] for item in items]
    if len(read) != len(items):
        raise InputError(
            f"{args.predictions} has {len(items)} prompts, {args.baseline} has {len(read)}: give "
            "both for the same prompts"
        )
    return read


def _as_dict(each: Score) -> dict[str, Any]:
    tree: dict[str, Any] = {"value": each.value}
    if each.interval:
        tree["interval"] = list(each.interval)
    if each.signature:
        tree["signature"] = each.signature
    if each.baseline is not None:
        tree |= {"baseline": each.baseline, "difference": each.value - each.baseline}
    if each.comparison:
        tree["difference_interval"] = list(each.comparison.interval)
        tree["p_value"] = each.comparison.p_value
    return without_nan(tree)


def _lines(found: dict[str, int], scores: dict[str, Score], left_out: dict[str, str]) -> list[str]:
    """A table, and what is to be known of it."""
    compared = any(each.baseline is not None for each in scores.values())
    rows = [("", "value", "95% interval", *(("baseline", "difference", "p") if compared else ()))]
    rows += [_row(name, each) for name, each in scores.items()]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [f"{found['texts']} texts of {found['prompts']} prompts", ""]
    for name, *cells in rows:
        aligned = (f"{cell:>{width}}" for cell, width in zip(cells, widths[1:]))
        lines.append("  ".join((f"{name:{widths[0]}}", *aligned)).rstrip())
    lines += [""] if left_out or found["prompts_without_texts"] else []
    if found["prompts_without_texts"]:
        lines.append(f"{found['prompts_without_texts']} prompts of the references have no text")
    lines += [f"left out: {_label(name)}, {why}" for name, why in left_out.items()]
    lines += [f"{name}: {each.signature}" for name, each in scores.items() if each.signature]
    return lines


def _label(name: str) -> str:
    return METRICS[name].label if name in METRICS else name


def _row(name: str, each: Score) -> tuple[str, ...]:
    row = (name, f"{each.value:.4g}", _interval(each.interval, ".4g"))
    if each.baseline is None:
        return row
    if math.isnan(each.value - each.baseline):
        return (*row, f"{each.baseline:.4g}", "", "")
    difference, p = f"{each.value - each.baseline:+.4g}", ""
    if each.comparison:
        interval = _interval(each.comparison.interval, "+.4g")
        difference += f" ({interval})" if interval else ""
        p = "" if math.isnan(each.comparison.p_value) else f"{each.comparison.p_value:.3g}"
    return (*row, f"{each.baseline:.4g}", difference, p)


def _interval(interval: Interval | None, form: str) -> str:
    """Its ends; nothing where it has none."""
    if interval is None or math.isnan(interval.low):
        return ""
    return f"{interval.low:{form}} to {interval.high:{form}}"

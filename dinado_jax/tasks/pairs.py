"""Pairs of your own: a prompt, as it is written, and the texts that may follow it."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from dinado_jax.config import schema
from dinado_jax.data.records import Record, is_table, read_records
from dinado_jax.errors import InputError, quote
from dinado_jax.tasks.bleu import BLEU
from dinado_jax.tasks.own_data import OwnData, settings_read
from dinado_jax.tasks.protocol import Example, Task
from dinado_jax.utils.files import check_regular
from dinado_jax.utils.progress import print_once

_NULL = type(None)


def pairs(settings: schema.Task) -> Task:
    """`task.name = "pairs"`: the columns `task.field` and `task.target_field` of `task.source`.

    Rows of one prompt are one example with several references; equal ones count once. Rows with
    nothing in one of the columns are counted and left out. BLEU is reported where sacrebleu is
    installed.
    """
    field, target = settings.field, settings.target_field

    def make(source: str, records: Iterator[Record]) -> list[Example]:
        return _examples(source, ((where, row[field], row[target]) for where, row in records))

    columns = {field: (str, _NULL), target: (str, list, _NULL)}
    fix = (
        f'give one {{"{field}": "...", "{target}": "..."}} per line, or name its columns by '
        "task.field and task.target_field"
    )
    data = OwnData(columns, fix, _refuse, make)
    fault = "task.source is empty: give pairs in .jsonl, .csv or .tsv, task.source=FILE"
    if field == target:
        fault = f"task.field and task.target_field are both {quote(field)}: name two columns"
    return Task(
        data.reader(settings),
        oracle="",
        settings_read=settings_read(settings, frozenset({"field", "target_field"})),
        source=settings.source,
        fault="" if settings.source and field != target else fault,
        metrics=(BLEU,) if importlib.util.find_spec(BLEU.package) else (),
    )


def read_pairs(path: Path) -> list[Example]:
    """Reads a file of pairs: .jsonl, .csv or .tsv (or .jsonl.gz, ..) with the columns "prompt" and
    "target"; examples as of `pairs`.

    Raises:
      InputError: with file and line, if the file cannot be read or a line is malformed, and if it
        holds no pair.
    """
    fix = 'give one {"prompt": "...", "target": "..."} per line'
    columns = {"prompt": (str, _NULL), "target": (str, list, _NULL)}
    records = read_records(path, columns, fix) if is_table(path) else _refuse(path)
    rows = ((where, row["prompt"], row["target"]) for where, row in records)
    if not (found := _examples(str(path), rows)):
        raise InputError(f"{path} holds no pair: {fix}")
    return found


def _examples(
    source: str, rows: Iterator[tuple[str, str | None, str | list | None]]
) -> list[Example]:
    """One example for each prompt, in order of first appearance."""
    groups: dict[str, dict[str, None]] = {}
    count = left_out = 0
    for where, prompt, targets in rows:
        texts = targets if isinstance(targets, list) else [targets or ""]
        if not all(isinstance(text, str) for text in texts):
            raise InputError(f"{where}, targets {quote(targets)}: give a text or a list of texts")
        prompt, texts = (prompt or "").strip(), [text.strip() for text in texts if text.strip()]
        count += 1
        if prompt and texts:
            groups.setdefault(prompt, {}).update(dict.fromkeys(texts))
        else:
            left_out += 1
    if left_out:
        print_once(f"{source}: {left_out} of {count} rows have no prompt or no target, left out")
    return [Example(prompt, tuple(texts)) for prompt, texts in groups.items()]


def _refuse(path: Path) -> Iterator[Record]:
    check_regular(path)
    raise InputError(f"{path}, no file of pairs by its name: give .jsonl, .csv or .tsv")

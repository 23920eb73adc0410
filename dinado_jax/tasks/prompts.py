"""Prompts of your own: exactly as they are written, without references.

Any oracle may judge what follows them; the task has none itself.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from dinado_jax.config import schema
from dinado_jax.data.records import Record, is_table, read_records
from dinado_jax.errors import InputError
from dinado_jax.tasks.own_data import OwnData, settings_read
from dinado_jax.tasks.protocol import Example, Task
from dinado_jax.utils.files import read_lines, suffix_of_content, write_text


def prompts(settings: schema.Task) -> Task:
    """`task.name = "prompts"`: those of `task.source`, one per line or in the column `task.field`;
    blank lines are left out.
    """
    field = settings.field

    def make(source: str, records: Iterator[Record]) -> list[Example]:
        return [Example(row[field], ()) for _, row in records]

    fix = f"{_form(field)}, or name its field by task.field"
    data = OwnData({field: str}, fix, lambda path: _lines(path, field), make)
    fault = "task.source is empty: give a file with a prompt per line, task.source=FILE"
    return Task(
        data.reader(settings),
        oracle="",
        settings_read=settings_read(settings, frozenset({"field"})),
        source=settings.source,
        fault="" if settings.source else fault,
    )


def read_prompts(source: str | Path) -> list[str]:
    """Reads a file of prompts: one per line, blank lines left out; or .jsonl, .csv or .tsv (or
    .jsonl.gz, ..), whose column "prompt" holds them, empty ones too.

    Raises:
      InputError: with file and line, if the file cannot be read or a line is malformed, and if it
        holds no prompt.
    """
    path, field = Path(source), "prompt"
    named = is_table(path)
    records = read_records(path, {field: str}, _form(field)) if named else _lines(path, field)
    found = [row[field] for _, row in records]
    if not found:
        raise InputError(f"{path} holds no prompt: write one per line")
    return found


def _lines(path: Path, field: str) -> Iterator[Record]:
    if suffix_of_content(path) == ".json":
        raise InputError(f"{path}, a .json file: name it .jsonl, and {_form(field)}")
    lines = read_lines(path, "give a text file with one prompt per line")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{path}:{number}", {field: line}


def _form(field: str) -> str:
    return f'give one {{"{field}": "..."}} per line'


def write_prompts(path: Path, texts: Sequence[str]) -> None:
    """Writes a .jsonl file that `read_prompts` reads as these texts, whatever is in them."""
    write_text(path, "".join(json.dumps({"prompt": text}) + "\n" for text in texts))

"""Prompts of your own, from a file: exactly as they are written there, without references.

Any oracle may judge what follows them; the task has none itself.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from dinado_jax.config import schema
from dinado_jax.errors import InputError
from dinado_jax.tasks.protocol import Example, Task, of_split
from dinado_jax.utils.files import parse_json, read_lines, validate, write_text


def prompts(settings: schema.Task) -> Task:
    """`task.name = "prompts"`: those of the file `task.source`."""

    def read(split: str, seed: int, count: int | None = None) -> list[Example]:
        return examples(settings, split)[:count]

    read_too = {"field"} if _has_objects(Path(settings.source)) else set()
    fault = "task.source is empty: give a file with a prompt per line, task.source=FILE"
    return Task(
        read,
        oracle="",
        settings_read=frozenset({"source", "held_out"} | read_too),
        source=settings.source,
        fault="" if settings.source else fault,
    )


def examples(settings: schema.Task, split: str) -> list[Example]:
    """Returns the prompts of a split, in the order of the file.

    Raises:
      InputError: for another split, for one without prompts, and as `read_prompts`.
    """
    texts = read_prompts(settings.source, settings.field)
    if not texts:
        raise InputError(f"{settings.source} holds no prompt: write one per line")
    found = of_split(texts, split, settings.held_out)
    if not found:
        raise InputError(
            f"{settings.source}, none of its {len(texts)} prompts is of the {split} split "
            f"(task.held_out = {settings.held_out}): give more, or change task.held_out"
        )
    return [Example(text, ()) for text in found]


def read_prompts(source: str | Path, field: str) -> list[str]:
    """Reads a file of prompts: one per line, blank lines left out; or .jsonl (or .jsonl.gz, ..)
    with an object per line, whose `field` is a prompt, an empty one too.

    Raises:
      InputError: with file and line, if the file cannot be read or a line is malformed.
    """
    path = Path(source)
    fix = f'give one {{"{field}": "..."}} per line, or name its field by task.field'
    lines = read_lines(path, "give a text file with one prompt per line")
    written = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not _has_objects(path):
        return [line for _, line in written]
    rows = [(f"{path}:{number}", line) for number, line in written]
    return [
        validate(parse_json(line, where, fix), {field: str}, where, fix)[field]
        for where, line in rows
    ]


def _has_objects(path: Path) -> bool:
    return ".jsonl" in path.suffixes


def write_prompts(path: Path, texts: Sequence[str]) -> None:
    """Writes a .jsonl file that `read_prompts` reads as these texts, whatever is in them."""
    write_text(path, "".join(json.dumps({"prompt": text}) + "\n" for text in texts))

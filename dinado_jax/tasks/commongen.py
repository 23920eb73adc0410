"""CommonGen and similar data: sets of concepts with sentences that use all of them."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dinado_jax.config import schema
from dinado_jax.errors import InputError, one_line, os_error, quote
from dinado_jax.tasks.bleu import BLEU
from dinado_jax.tasks.captions import CAPTIONS
from dinado_jax.tasks.keyword.format import format_prompt
from dinado_jax.tasks.keyword.task import keyword_task
from dinado_jax.tasks.protocol import Example, Task
from dinado_jax.utils.files import exists, parse_json, read_lines

# Names of each split in files.
_ALIASES = {"train": ("train",), "dev": ("dev", "valid", "validation"), "test": ("test",)}
_HUB_SPLITS = {"train": "train", "dev": "validation", "test": "test"}

# Where it was read ("FILE:LINE"), its concepts, its references.
Row = tuple[str, list[str], list[str]]


def commongen(settings: schema.Task) -> Task:
    """`task.name = "commongen"`: concept sets with several human references each."""

    def read(split: str, seed: int, count: int | None = None) -> list[Example]:
        return examples(settings.source, split)[:count]

    fault = "task.source is empty: give CommonGen's folder or hub name, task.source=FOLDER"
    return keyword_task(
        read,
        "source",
        source=settings.source,
        fault="" if settings.source else fault,
        metrics=(BLEU, *CAPTIONS),
    )


def examples(source: str, split: str) -> list[Example]:
    """Reads the examples of a split, one per set of concepts, in order of first appearance.

    The order of the concepts in a set does not matter; equal references count once.

    Args:
      source: a folder, or the name of a hub dataset. A folder has per split, gzipped or not, either
        `*train*.jsonl` with lines {"concepts": ["dog", "run"] or "concept_set": "dog#run",
        "scene", "references" or "target": a text or list of texts}, or the pair `train_src.txt`,
        `train_trg.txt` of one concept line and one reference per line. The dev split may be called
        dev, valid or validation. Only the test split may lack references.
      split: "train", "dev" or "test".

    Raises:
      InputError: with file and line, for missing, empty, malformed or mismatched data.
    """
    if split not in _ALIASES:
        raise InputError(f"split {quote(split)}, concept data: give one of {', '.join(_ALIASES)}")
    folder = _found(source)
    rows = _folder(folder, split) if folder else _hub(source, split)
    groups: dict[tuple[str, ...], tuple[str, dict[str, None]]] = {}
    for where, concepts, references in rows:
        try:
            prompt = format_prompt(concepts)
        except InputError as error:
            raise InputError(f"{where}, {error}") from None
        texts = [text.strip() for text in references if text.strip()]
        if not texts and split != "test":
            raise InputError(f"{where}, no reference: only the test split may lack them")
        _, seen = groups.setdefault(tuple(sorted(concepts)), (prompt, {}))
        seen.update(dict.fromkeys(texts))
    if not groups:
        raise InputError(f"{source}, the {split} split is empty: give one example per line")
    return [Example(prompt, tuple(seen)) for prompt, seen in groups.values()]


def _found(source: str) -> Path | None:
    """Returns the folder `source`, or None if it may be a name on the hub."""
    path = Path(os.path.expanduser(source))
    if exists(path):
        if not path.is_dir():
            raise InputError(f"concept data {quote(source)}, not a folder: name the one it is in")
        return path
    if source.startswith((".", "/", "~")):
        raise InputError(f"concept data {quote(source)}, no such folder: correct the path")
    return None


def _folder(folder: Path, split: str) -> Iterator[Row]:
    aliases = "|".join(_ALIASES[split])
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise os_error(folder, error) from error

    def matching(pattern: str) -> list[Path]:
        return [folder / name for name in names if re.fullmatch(pattern + r"(\.gz)?", name)]

    json_files = matching(rf"(.*[._-])?({aliases})([._-].*)?\.jsonl")
    sources = matching(rf"({aliases})_src\.txt")
    targets = matching(rf"({aliases})_(trg|tgt)\.txt")
    if json_files:
        for path in json_files:
            yield from _json_rows(path)
    elif not sources:
        raise InputError(
            f"{folder}, no files of the {split} split: put {split}.jsonl or {split}_src.txt there"
        )
    elif len(sources) > 1 or len(targets) > 1:
        several = ", ".join(path.name for path in [*sources, *targets])
        raise InputError(f"{folder}, several {split} splits: keep one pair of {several}")
    elif not targets and split != "test":
        raise InputError(f"{folder}, {sources[0].name} has no references: add {split}_trg.txt")
    else:
        yield from _paired_rows(sources[0], *targets)


def _json_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        row = parse_json(line, where, "one object per line")
        if not isinstance(row, dict):
            raise InputError(f"{where}, not a JSON object: one object per line")
        concepts = row.get("concepts", row.get("concept_set"))
        if isinstance(concepts, str):
            # A concept may carry its part of speech: dog_N#run_V.
            concepts = [re.sub(r"_[A-Z]+$", "", concept) for concept in concepts.split("#")]
        references = next((row[key] for key in ("scene", "references", "target") if key in row), [])
        if isinstance(references, str):
            references = [references]
        yield _row(where, concepts, references)


def _row(where: str, concepts: Any, references: Any) -> Row:
    for name, value in (("concepts", concepts), ("references", references)):
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise InputError(f"{where}, {name} is not a list of texts: see the format of the task")
    return where, concepts, references


def _paired_rows(source: Path, target: Path | None = None) -> Iterator[Row]:
    lines = read_lines(source)
    references = [[text] for text in read_lines(target)] if target else [[]] * len(lines)
    if len(references) != len(lines):
        there = target.name if target else "no file"
        raise InputError(
            f"{source} has {len(lines)} lines, {there} has {len(references)}: "
            "give one reference per concept line"
        )
    for number, (line, texts) in enumerate(zip(lines, references), start=1):
        yield f"{source}:{number}", line.split(), texts


def _hub(name: str, split: str) -> Iterator[Row]:
    try:
        import datasets

        rows: Any = datasets.load_dataset(name, split=_HUB_SPLITS[split])
    except Exception as error:
        raise InputError(
            f"concept data {quote(name)}, neither a folder nor loaded from the hub "
            f"({one_line(error)}): correct the name"
        ) from error
    for i, row in enumerate(rows):
        if not {"concepts", "target"} <= row.keys():
            raise InputError(
                f"{name}, columns {', '.join(row)}: a dataset with concepts and target is needed"
            )
        yield _row(f"{name} row {i}", row["concepts"], [row["target"] or ""])

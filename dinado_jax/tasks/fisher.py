"""Fisher and CALLHOME (Post et al., IWSLT 2013): Spanish telephone speech in English."""

import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from dinado_jax.config import schema
from dinado_jax.errors import InputError, os_error, quote
from dinado_jax.tasks.protocol import SPLITS, Example, Task
from dinado_jax.tasks.translation import (
    BLEU,
    folder_of,
    grouped,
    mine_pairs,
    read_parallel,
    without_gaps,
)
from dinado_jax.utils.progress import print_once

_PATTERN = r"(\w+_{})(?:(?:\.\w+)?\.(es)|\.(en)(?:\.\d)?)(?:\.gz)?"  # of a split
_Pair = tuple[str, tuple[str, ...]]  # a source and its references


def fisher(settings: schema.Task) -> Task:
    """`task.name = "fisher"`: the folder of the corpus in `task.source`; it has no oracle."""
    whole = functools.cache(lambda split: _read(folder_of(settings.source), split))

    def read(split: str, seed: int, count: int | None = None) -> list[Example]:
        return whole(split)[:count]

    fault = "task.source is empty: give the folder of Fisher and CALLHOME, task.source=FOLDER"
    return Task(
        read,
        oracle="",
        settings_read=frozenset({"source"}),
        source=settings.source,
        fault="" if settings.source else fault,
        metrics=(BLEU,),
        mine=mine_pairs,
    )


def _report_others(folder: Path, names: Sequence[str]) -> None:
    """Prints which files of texts belong to no split by their names."""
    others = [
        name
        for name in names
        if re.fullmatch(r".+\.(es|en)(\.\d+)?(\.gz)?", name)
        and not any(re.fullmatch(_PATTERN.format(split), name) for split in SPLITS)
    ]
    if others:
        print_once(
            f"{folder}: {', '.join(others)} are not read, because their names have no split: copy "
            "what you want to NAME_dev.es and NAME_dev.en, or NAME_test.es and NAME_test.en"
        )


def _read(folder: Path, split: str) -> list[Example]:
    """Reads every corpus NAME of a split: its source `NAME_train.es` (or `NAME_train.KIND.es`), and
    its references `NAME_train.en`, or `NAME_train.en.0`, `NAME_train.en.1` and so on. Only the test
    split may lack references.
    """
    if split not in SPLITS:
        raise InputError(f"split {quote(split)}, no such split: give one of {', '.join(SPLITS)}")
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise os_error(folder, error) from error
    _report_others(folder, names)
    corpora: dict[str, tuple[list[Path], list[Path]]] = {}
    for name in names:
        if match := re.fullmatch(_PATTERN.format(split), name):
            sources, references = corpora.setdefault(match[1], ([], []))
            (sources if match[2] else references).append(folder / name)
    if not corpora:
        raise InputError(
            f"{folder}, no files of the {split} split: put NAME_{split}.es and NAME_{split}.en, or "
            f"NAME_{split}.en.0 to NAME_{split}.en.3, there"
        )
    pairs: list[_Pair] = []
    for corpus, (sources, references) in corpora.items():
        if len(sources) != 1:
            several = ", ".join(path.name for path in sources) or "none"
            raise InputError(f"{folder}, sources of {corpus}: {several}: keep one {corpus}.es")
        plain = {path.name.removesuffix(".gz") for path in references}
        if len(plain) < len(references):
            raise InputError(
                f"{folder}, a file of references of {corpus} is there with .gz and without: keep "
                "one of them"
            )
        if not references and split != "test":
            raise InputError(f"{folder}, {corpus} has no references: add {corpus}.en")
        rows = [
            (source, tuple(filter(None, texts)))
            for source, *texts in read_parallel([*sources, *references])
        ]
        whole = _has_source_and_reference if references else _has_source
        pairs += without_gaps(rows, whole, sources[0])
    if not pairs:
        raise InputError(f"{folder}, the {split} split is empty: give some lines")
    return grouped(pairs)


def _has_source(pair: _Pair) -> bool:
    return bool(pair[0])


def _has_source_and_reference(pair: _Pair) -> bool:
    return all(pair)

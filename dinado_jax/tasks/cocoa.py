"""CoCoA-MT (Nadejde et al., Findings of NAACL 2022): translations that are formal or informal."""

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from dinado_jax.config import schema
from dinado_jax.errors import InputError, quote
from dinado_jax.metrics.matched_accuracy import (
    Matched,
    Phrases,
    marked_phrases,
    matched_accuracy,
    without_marks,
)
from dinado_jax.tasks.protocol import SPLITS, Example, Metric, Task
from dinado_jax.tasks.translation import (
    BLEU,
    folder_of,
    grouped,
    mine_pairs,
    read_parallel,
    translation_prompt,
    without_gaps,
)

_KINDS = ("", ".formal.annotated", ".informal.annotated")
_PERIOD = 10  # of each ten sources to train on one is of the dev split


class _Segment(NamedTuple):
    """A source sentence with its references, in which formal or informal phrases are marked."""

    source: str
    formal: str
    informal: str


def cocoa(settings: schema.Task) -> Task:
    """`task.name = "cocoa"`: the folder CoCoA-MT, or one like it, in `task.source`, of which the
    pair `task.languages` is read.

    Every source has two references, so that a base that is tuned on them writes either. Of the
    sources to train on every tenth is of the dev split.
    """
    segments = functools.cache(
        lambda split: _read(folder_of(settings.source), split, settings.languages)
    )

    def read(split: str, seed: int, count: int | None = None) -> list[Example]:
        if split not in SPLITS:
            raise InputError(
                f"split {quote(split)}, no such split: give one of {', '.join(SPLITS)}"
            )
        rows = segments("test" if split == "test" else "train")
        found = grouped(
            [(row.source, (without_marks(row.formal), without_marks(row.informal))) for row in rows]
        )
        if split != "test":
            dev = split == "dev"
            found = [one for i, one in enumerate(found) if (i % _PERIOD == _PERIOD - 1) == dev]
        return found[:count]

    fault = "task.source is empty: give the folder CoCoA-MT, task.source=FOLDER"
    return Task(
        read,
        oracle=f"formal_{settings.languages.partition('-')[2]}",
        settings_read=frozenset({"source", "languages"}),
        source=settings.source,
        fault="" if settings.source else fault,
        metrics=(BLEU, *_matched(lambda: [*segments("train"), *segments("test")])),
        mine=mine_pairs,
    )


def _matched(segments: Callable[[], list[_Segment]]) -> tuple[Metric, Metric]:
    """M-Acc of formal, and the share of texts that it counts."""

    @functools.cache
    def phrases() -> dict[str, Phrases]:
        found: dict[str, Phrases] = {}
        for row in segments():
            prompt = translation_prompt(row.source)
            formal, informal = found.get(prompt, Phrases((), ()))
            found[prompt] = Phrases(
                formal + marked_phrases(row.formal), informal + marked_phrases(row.informal)
            )
        return found

    def of(prompts: Sequence[str], texts: Sequence[str]) -> Matched:
        nothing = Phrases((), ())
        return matched_accuracy(texts, [phrases().get(prompt, nothing) for prompt in prompts])

    accuracy = Metric(
        "m_acc_formal",
        "M-Acc formal",
        "{:.1%}",
        lambda prompts, texts, references: of(prompts, texts).accuracy,
        meaning="Of the texts with phrases of one reference alone, how many have the formal one's.",
    )
    counted = Metric(
        "m_acc_counted",
        "counted by M-Acc",
        "{:.1%}",
        lambda prompts, texts, references: of(prompts, texts).counted,
        meaning="How many texts have phrases of one reference alone.",
    )
    return accuracy, counted


def _read(folder: Path, split: str, languages: str) -> list[_Segment]:
    """Reads all domains of a split: `*.SPLIT.DOMAIN.en-de` and beside it `.formal.annotated` and
    `.informal.annotated`, each with or without its language at the end, as `.en`, anywhere in the
    folder.
    """
    stem = rf"(.+\.{split}\.[\w-]+\.{languages})"
    source, _, target = languages.partition("-")
    found: dict[Path, dict[str, Path]] = {}
    for path, kind in itertools.product(sorted(folder.rglob(f"*.{split}.*.{languages}*")), _KINDS):
        language = target if kind else source
        if match := re.fullmatch(rf"{stem}{re.escape(kind)}(\.{language})?(\.gz)?", path.name):
            files = found.setdefault(path.with_name(match[1]), {})
            if kind in files:
                raise InputError(f"{files[kind]} and {path} are the same part: keep one of them")
            files[kind] = path
    if not found:
        raise InputError(
            f"{folder}, no files of the {split} split of {languages}: give the folder CoCoA-MT, "
            "or another one by task.languages"
        )
    segments = []
    for stem, files in found.items():
        if missing := [kind for kind in _KINDS if kind not in files]:
            what = "source" if not missing[0] else f"file {missing[0]}"
            raise InputError(f"{stem} has no {what}: add it, or remove the others of this name")
        rows = [_Segment(*row) for row in read_parallel([files[kind] for kind in _KINDS])]
        segments += without_gaps(rows, _is_whole, files[""])
    if not segments:
        raise InputError(f"{folder}, the {split} split of {languages} is empty: give some lines")
    return segments


def _is_whole(row: _Segment) -> bool:
    texts = [without_marks(text) for text in row]
    return all(map(str.strip, texts)) and not any("[F]" in x or "[/F]" in x for x in texts)

"""Translation by a language model: "Are you sure? =" is continued by the translation."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from dinado_jax.errors import InputError
from dinado_jax.metrics.protocol import items_of
from dinado_jax.metrics.translation import sacrebleu_bleu
from dinado_jax.tasks.protocol import Example, Metric
from dinado_jax.utils.files import exists, read_lf_lines
from dinado_jax.utils.progress import print_once

Row = TypeVar("Row")


def translation_prompt(source: str) -> str:
    """The prompt of a source sentence, its white space made single spaces."""
    return f"{' '.join(source.split())} ="


def _bleu(
    prompts: Sequence[str], texts: Sequence[str], references: Sequence[tuple[str, ...]]
) -> float:
    return sacrebleu_bleu(items_of(prompts, texts, references)).value


BLEU = Metric(
    key="bleu",
    label="BLEU",
    form="{:.1f}",
    measure=_bleu,
    meaning="How many runs of up to four words a text shares with the references, from 0 to 100.",
    needs_references=True,
    package="sacrebleu",
    extra="eval",
)


def read_parallel(files: Sequence[Path]) -> list[tuple[str, ...]]:
    """Reads files whose lines belong together.

    Raises:
      InputError: for a file that cannot be read, or has another number of lines than the first.
    """
    columns = [[line.strip() for line in read_lf_lines(file)] for file in files]
    for file, lines in zip(files, columns):
        if len(lines) != len(columns[0]):
            raise InputError(
                f"{file} has {len(lines)} lines, {files[0]} has {len(columns[0])}: their lines "
                "must belong together"
            )
    return list(zip(*columns))


def folder_of(source: str) -> Path:
    """The folder that task.source names. InputError if there is none."""
    folder = Path(source).expanduser()
    if not exists(folder) or not folder.is_dir():
        raise InputError(
            f"task.source = {folder}, no such folder: give the one that the data is in"
        )
    return folder


def without_gaps(rows: Sequence[Row], whole: Callable[[Row], bool], where: Path) -> list[Row]:
    """The rows that are whole; the number of others is printed."""
    kept = [row for row in rows if whole(row)]
    if left_out := len(rows) - len(kept):
        print_once(
            f"{where}: {left_out} of {len(rows)} lines have no source or no reference, or marks "
            "that do not close, left out"
        )
    return kept


def grouped(pairs: Sequence[tuple[str, Sequence[str]]]) -> list[Example]:
    """One example of each source, in order of first appearance; equal references count once."""
    groups: dict[str, dict[str, None]] = {}
    for source, references in pairs:
        groups.setdefault(translation_prompt(source), {}).update(dict.fromkeys(references))
    return [Example(prompt, tuple(texts)) for prompt, texts in groups.items()]


def mine_pairs(lines: Sequence[str], examples: Sequence[Example], seed: int) -> list[Example]:
    r"""Makes examples from lines "source\ttranslation"; what follows a second tab is not read.
    Other lines are counted and left out.

    Raises:
      InputError: if no line has a source and a translation.
    """
    split = [[part.strip() for part in line.split("\t")] for line in lines]
    pairs = [(parts[0], parts[1:2]) for parts in split if len(parts) > 1 and all(parts[:2])]
    if not pairs:
        raise InputError(
            f"sft.pretrain_path, none of its {len(lines)} lines has a source, a tab and a "
            "translation: give such lines, or sft.pretrain_steps=0"
        )
    if left_out := len(lines) - len(pairs):
        print_once(
            f"sft.pretrain_path: {left_out} of {len(lines)} lines have no source and translation, "
            "divided by a tab, left out"
        )
    return grouped(pairs)

"""Texts with a label: reading them, and which of them train, calibrate and test a classifier."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dinado_jax.data.records import is_table, read_records
from dinado_jax.errors import InputError, quote
from dinado_jax.utils.progress import print_once

LEAST = 40  # texts with the label, and without it
_FIX = 'give a text and its label per row of .jsonl ({"text": "..", "label": ".."}), .csv or .tsv'
_COLUMNS = {"text": str, "label": (str, int, float, bool)}
_PROMPTS = ("prompt", "source")  # the columns that may hold the prompt of a text
_NUMBERS = {"True": "1", "False": "0", "1.0": "1", "0.0": "0"}
_PERIOD = 10  # of each ten texts one calibrates and one tests


class Labelled(NamedTuple):
    """N texts."""

    prompts: list[str]  # "" where the data has none
    texts: list[str]
    labels: np.ndarray  # bool [N]: whether a text has the label

    def select(self, index: np.ndarray) -> "Labelled":
        """The texts numbered `index`, in its order."""
        prompts, texts = ([each[i] for i in index] for each in (self.prompts, self.texts))
        return Labelled(prompts, texts, self.labels[index])


class Parts(NamedTuple):
    """The texts of one classifier, none in two of its parts."""

    train: Labelled
    calibrate: Labelled
    test: Labelled


def read_labelled(path: Path, label: str = "") -> tuple[Labelled, str]:
    """Reads texts and whether they have a label.

    The columns are text and label, and prompt or source where the texts follow one. Rows without
    text or label are left out, and so are texts that were there before; both are counted.

    Args:
      path: .jsonl, .csv or .tsv, compressed or not.
      label: that texts have or lack; "" for 1, where labels are 0 and 1.

    Returns:
      The texts, and the label.

    Raises:
      InputError: with file and line for what is malformed; for a label that no text has, and for
        fewer than `LEAST` texts with it or without.
    """
    if not is_table(path):
        raise InputError(f"{path}, no labelled texts by its name: {_FIX}")
    rows: dict[tuple[str, str], str] = {}
    count = 0
    for where, row in read_records(path, _COLUMNS, _FIX):
        count += 1
        prompt, text, own = _prompt_of(row, where), row["text"].strip(), str(row["label"]).strip()
        if text and own:
            rows.setdefault((prompt, text), _NUMBERS.get(own, own))
    if left_out := count - len(rows):
        print_once(
            f"{path}: {left_out} of {count} rows repeat a text, or have no text or no label, "
            "left out"
        )
    known = sorted(set(rows.values()))
    wanted = label or ("1" if known == ["0", "1"] else "")
    if wanted not in known:
        fault = f"no text has the label {quote(label)}" if label else "no label is named"
        some = ", ".join(map(quote, known[:8])) or "none"
        raise InputError(f"{path}, {fault}: give one of its labels by --label, {some}")
    labels = np.array([own == wanted for own in rows.values()], bool)
    for there, number in (("with", labels.sum()), ("without", (~labels).sum())):
        if number < LEAST:
            raise InputError(
                f"{path} has {number} texts {there} the label {quote(wanted)}: give at least "
                f"{LEAST}"
            )
    return Labelled([p for p, _ in rows], [t for _, t in rows], labels), wanted


def divide(texts: Labelled, halves: int, seed: int) -> list[Parts]:
    """Divides texts among classifiers, and those of each among its parts, at random; each part has
    its share of the texts with the label.

    Args:
      texts: of `read_labelled`.
      halves: number of classifiers.
      seed: of the order.
    """
    rng, rank = np.random.default_rng(seed), np.zeros(len(texts.texts), np.int64)
    for own in (texts.labels, ~texts.labels):
        rank[own] = rng.permutation(own.sum())

    def part(half: int, places: tuple[int, ...]) -> Labelled:
        inside = (rank % halves == half) & np.isin(rank // halves % _PERIOD, places)
        return texts.select(rng.permutation(np.flatnonzero(inside)))

    most = tuple(range(_PERIOD - 2))
    return [
        Parts(part(half, most), part(half, (_PERIOD - 2,)), part(half, (_PERIOD - 1,)))
        for half in range(halves)
    ]


def _prompt_of(row: dict[str, Any], where: str) -> str:
    prompt = next((row[name] for name in _PROMPTS if name in row), "")
    if not isinstance(prompt, str):
        raise InputError(f"{where}, its prompt is {quote(prompt)}: give a text")
    return prompt.strip()

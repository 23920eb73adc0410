"""Texts with a label: reading them, and which of them train, calibrate and test a classifier."""

from collections.abc import Sequence
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
_PERIOD = 10  # of each ten texts eight train
_MOST = 2000  # texts to measure by: they tell calibration errors of .02
_MANY = 200  # prompts, so that each part has enough of them


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
    text or label are left out, and so are texts that were there before, and all rows of a text of
    which some have the label and others do not; they are counted.

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
    rows: dict[tuple[str, str], set[str]] = {}
    count = 0
    for where, row in read_records(path, _COLUMNS, _FIX):
        count += 1
        prompt, text, own = _prompt_of(row, where), row["text"].strip(), str(row["label"]).strip()
        if text and own:
            rows.setdefault((prompt, text), set()).add(_NUMBERS.get(own, own))
    if left_out := count - len(rows):
        print_once(
            f"{path}: {left_out} of {count} rows repeat a text, or have no text or no label, "
            "left out"
        )
    if not rows:
        raise InputError(f"{path} holds no text with a label: {_FIX}")
    known = sorted(set().union(*rows.values()))
    if len(known) == 1:
        raise InputError(
            f"{path}, all texts have the label {quote(known[0])}: give texts without it, too"
        )
    wanted = label or ("1" if known == ["0", "1"] else "")
    if wanted not in known:
        fault = f"no text has the label {quote(label)}" if label else "no label is named"
        some = ", ".join(map(quote, known[:8]))
        raise InputError(f"{path}, {fault}: give one of its labels by --label, {some}")
    certain = {
        key: wanted in own for key, own in rows.items() if wanted not in own or len(own) == 1
    }
    if left_out := len(rows) - len(certain):
        print_once(
            f"{path}: {left_out} of {len(rows)} texts have the label {quote(wanted)} in one row "
            "and another in the next, left out"
        )
    labels = np.array(list(certain.values()), bool)
    for there, number in (("with", labels.sum()), ("without", (~labels).sum())):
        if number < LEAST:
            raise InputError(
                f"{path} has {number} texts {there} the label {quote(wanted)}: give at least "
                f"{LEAST}"
            )
    return Labelled([p for p, _ in certain], [t for _, t in certain], labels), wanted


def divide(texts: Labelled, halves: int, seed: int) -> list[Parts]:
    """Divides texts among classifiers, and those of each among its parts, at random; each part has
    its share of the texts with the label. Texts of one prompt stay together where there are many
    prompts, so that no classifier is measured on a prompt that it has seen.

    Args:
      texts: of `read_labelled`.
      halves: number of classifiers. Of two each is measured on texts of the other.
      seed: of the order.

    Raises:
      InputError: for a part without a text that has the label, or without one that lacks it, as
        where few prompts have all the texts with the label.
    """
    rng = np.random.default_rng(seed)
    rank = _rank(texts, rng)
    half, place = rank % halves, rank // halves % _PERIOD

    def part(inside: np.ndarray, most: int | None = None) -> Labelled:
        return texts.select(rng.permutation(np.flatnonzero(inside))[:most])

    divided = []
    for number in range(halves):
        own, train = half == number, place < _PERIOD - 2
        other = half != number if halves > 1 else place == _PERIOD - 1
        calibrate = own & ~train & ~other
        divided.append(Parts(part(own & train), part(calibrate), part(other, _MOST)))
    _require_both(divided)
    return divided


def folds(texts: Labelled, count: int) -> np.ndarray:
    """Divides texts into folds, each with its share of the texts with the label; texts of one
    prompt are in one fold where there are prompts enough.

    Args:
      texts: N of them.
      count: number of folds.

    Returns:
      int [N], the fold of each text.
    """
    return _rank(texts, np.random.default_rng(0), many=10 * count) % count


def _require_both(divided: Sequence[Parts]) -> None:
    """Raises InputError for a part whose texts all have the label, or all lack it."""
    for name, parts in zip("ab", divided):
        whose = f" classifier {name}" if len(divided) > 1 else ""
        for purpose, part in parts._asdict().items():
            for there, found in (("with", part.labels), ("without", ~part.labels)):
                if not found.any():
                    raise InputError(
                        f"no text {there} the label is among the {len(part.texts)} to {purpose}"
                        f"{whose}: give more such texts, of more prompts, or leave the column of "
                        "prompts out"
                    )


def _rank(texts: Labelled, rng: np.random.Generator, many: int = _MANY) -> np.ndarray:
    """A number of each text, int [N], from 0: of its prompt where there are `many`. In any sequence
    of ranks the share of texts with the label is nearly that of all.
    """
    number: dict[str, int] = {}
    keys = (prompt or text for prompt, text in zip(texts.prompts, texts.texts, strict=True))
    group = np.array([number.setdefault(key, len(number)) for key in keys])
    if len(number) < many:
        group = np.arange(len(group))
    share = np.bincount(group, texts.labels) / np.bincount(group)
    rank = np.empty(len(share), np.int64)
    rank[np.lexsort((rng.random(len(share)), share))] = np.arange(len(share))
    return rank[group]


def _prompt_of(row: dict[str, Any], where: str) -> str:
    prompt = next((row[name] for name in _PROMPTS if name in row), "")
    if not isinstance(prompt, str):
        raise InputError(f"{where}, its prompt is {quote(prompt)}: give a text")
    return prompt.strip()

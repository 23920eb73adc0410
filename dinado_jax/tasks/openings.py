"""Openings of plain English sentences, for a pretrained base that continues them without tuning.

They have no references: the base is not tuned on the task, and any oracle may judge what follows.
"""

import itertools
from pathlib import Path

import numpy as np

from dinado_jax.config import schema
from dinado_jax.errors import InputError, quote
from dinado_jax.tasks.protocol import SPLITS, Example, Task
from dinado_jax.utils.files import read_lines

WHEN = (
    "Yesterday", "Last winter", "One morning", "After the rain", "On her birthday", "Before dinner",
    "In the evening", "During the holidays", "On the way home", "When the music stopped,",
)  # fmt: skip
WHO = (
    "my neighbour", "the old sailor", "a young painter", "her brother", "our teacher", "the farmer",
    "the girl next door", "a tired nurse", "his grandmother", "the new student", "a tall stranger",
    "the baker", "an actor", "the captain", "a little boy", "their cousin", "the gardener",
    "a retired judge", "the musician", "my best friend",
)  # fmt: skip
DID = (
    "bought a", "was wearing a", "looked at the", "put on a", "painted the wall", "opened the",
    "carried a", "was given a", "picked a flower that was", "saw a bird with", "found a box of",
    "sat under a sky that was", "noticed a", "drew a cat that was", "walked past a house with",
)  # fmt: skip


def openings(settings: schema.Task) -> Task:
    """`task.name = "openings"`: those of this file, or the lines of the text file `task.source`."""

    def read(split: str, seed: int, count: int | None = None) -> list[Example]:
        return examples(settings.source, split)[:count]

    return Task(
        read,
        oracle="mentions_colour",
        settings_read=frozenset({"source"}),
        source=settings.source,
    )


def examples(source: str, split: str) -> list[Example]:
    """Returns the openings of a split, without references.

    Eight of every ten consecutive openings belong to train, one to dev and one to test.

    Args:
      source: a text file with one opening per line; "" for those of this file.
      split: "train", "dev" or "test".

    Raises:
      InputError: for another split, and a file that cannot be read or has fewer than ten openings.
    """
    if split not in SPLITS:
        raise InputError(f"split {quote(split)}, openings: give one of {', '.join(SPLITS)}")
    texts = _lines(source) if source else _built_in()
    held_out = {8: "dev", 9: "test"}
    return [
        Example(text, ())
        for index, text in enumerate(texts)
        if held_out.get(index % 10, "train") == split
    ]


def _lines(source: str) -> list[str]:
    lines = read_lines(Path(source), "give a text file with one opening per line")
    texts = [line.strip() for line in lines if line.strip()]
    if len(texts) < 10:
        raise InputError(f"{source}, {len(texts)} openings: give ten or more, for all splits")
    return texts


def _built_in() -> list[str]:
    texts = [" ".join(words) for words in itertools.product(WHEN, WHO, DID)]
    return [texts[index] for index in np.random.default_rng(0).permutation(len(texts))]

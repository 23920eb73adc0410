"""Openings of plain English sentences, for a pretrained base that continues them without tuning.

They have no references: the base is not tuned on the task, and any oracle may judge what follows.
"""

import itertools

import numpy as np

from dinado_jax.config import schema
from dinado_jax.tasks.protocol import Example, Task, of_split

_HELD_OUT = 0.2

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
    """`task.name = "openings"`: those of this file. `tasks/prompts.py` has those of your own."""

    def read(split: str, seed: int, count: int | None = None) -> list[Example]:
        return examples(split)[:count]

    return Task(read, oracle="mentions_colour")


def examples(split: str) -> list[Example]:
    """Returns the openings of a split, without references. InputError for another split."""
    texts = [" ".join(words) for words in itertools.product(WHEN, WHO, DID)]
    shuffled = [texts[index] for index in np.random.default_rng(0).permutation(len(texts))]
    return [Example(text, ()) for text in of_split(shuffled, split, _HELD_OUT)]

"""The interface of a task: examples, a default oracle, metrics, and the settings it reads."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from dinado_jax.errors import InputError, quote

Row = TypeVar("Row")
SPLITS = ("train", "dev", "test")


@dataclasses.dataclass(frozen=True)
class Example:
    """A prompt in the format of its task, with its references (possibly none).

    A base is fine-tuned on f"{prompt} {reference}" and continues the prompt alone, which may be "".
    """

    prompt: str
    references: tuple[str, ...]


class ReadExamples(Protocol):
    """Reads the examples of a split."""

    def __call__(self, split: str, seed: int, count: int | None = None) -> list[Example]:
        """Returns at most `count` examples; those of "train" may repeat a prompt.

        Args:
          split: "train", "dev" or "test".
          seed: of a task that draws its examples.
          count: None for all of the split.

        Raises:
          InputError: for a missing split or malformed data.
        """
        ...


Mine = Callable[[Sequence[str], Sequence[Example], int], list[Example]]
"""(lines of plain text, train examples, seed) -> examples in the format of the task."""

Measure = Callable[[Sequence[str], Sequence[str], Sequence[tuple[str, ...]]], float]
"""(prompts, texts, references), one of each per sample -> a figure."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure of a model's samples, reported in addition to those that every task has."""

    key: str  # in summary.json
    label: str  # in the report
    form: str  # format of its value in the report, such as "{:.1%}"
    measure: Measure
    meaning: str = ""  # in one sentence
    oracle: str = ""  # reported only with this oracle; "" for any
    needs_references: bool = False  # reported only if every prompt has references
    package: str = ""  # optional package that it imports
    extra: str = ""  # the optional dependency of dinado-jax that installs it


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Something that an oracle wants of a text, for readers of samples."""

    name: str
    present: bool  # whether the text has it
    spans: tuple[tuple[int, int], ...]  # where, as [begin, end) in characters, if that is known


WantedIn = Callable[[str, str], Sequence[Wanted]]
"""(prompt, text) -> what the oracle wants of that text."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A task, constructed from the `task` section of a configuration without reading anything.

    A new task is one file (or folder) with a function `schema.Task -> Task` and one line in
    `tasks/table.py`.
    """

    examples: ReadExamples
    # The default of rollout.oracle: a name of `oracles/table.py` or "module:function"; "": none.
    oracle: str
    settings_read: frozenset[str] = frozenset()  # of the `task` section, besides `name`
    source: str = ""  # folder or hub name of its examples; "" if built in
    fault: str = ""  # what is wrong with its settings, in one line
    metrics: tuple[Metric, ...] = ()
    mine: Mine | None = None  # makes examples from plain text for pretraining, if it can
    # Whether sft cuts long references into windows, instead of leaving them out.
    windows: bool = False


def of_split(rows: Sequence[Row], split: str, held_out: float) -> list[Row]:
    """Returns the rows of a split: of every 2 / held_out consecutive rows the last two are held
    out, one for dev and one for test.

    Args:
      rows: of all splits.
      split: "train", "dev" or "test".
      held_out: share of rows that are not for train, in [0, 0.5].

    Raises:
      InputError: for another split.
    """
    if split not in SPLITS:
        raise InputError(f"split {quote(split)}, no such split: give one of {', '.join(SPLITS)}")
    period = round(2 / held_out) if held_out else len(rows) + 2
    parts = {period - 2: "dev", period - 1: "test"}
    return [row for i, row in enumerate(rows) if parts.get(i % period, "train") == split]

"""What oracles made of others want of a text, and where a text has it, for readers of samples."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from dinado_jax.tasks.protocol import Wanted, WantedIn

_CHUNK = re.compile(r'[^\s.,;:!?()"]+')


def wanted_by(oracle: Any) -> WantedIn | None:
    """What an oracle says that it wants; None for one that does not say, as other people's do."""
    own = type(oracle).__module__.startswith("dinado_jax.")
    return getattr(oracle, "wanted", None) if own else None


def all_wanted(parts: Sequence[WantedIn | None]) -> WantedIn | None:
    """What every part wants, None for parts that do not say; None if no part says it."""
    saying = [part for part in parts if part is not None]
    if not saying:
        return None

    def wanted(prompt: str, text: str) -> list[Wanted]:
        found = [each for part in saying for each in part(prompt, text)]
        return list({each.name: each for each in found}.values())

    return wanted


def any_wanted(parts: Sequence[WantedIn | None]) -> WantedIn | None:
    """What a text has of that which one of the parts wants, as for `all_wanted`.

    What it has nothing of is one thing that it lacks, such as "dog or cat"; nothing if a part does
    not say what would do instead.
    """
    saying = [part for part in parts if part is not None]
    if not saying:
        return None

    def wanted(prompt: str, text: str) -> list[Wanted]:
        choices = [part(prompt, text) for part in saying]
        there = [each for choice in choices for each in choice if each.present]
        satisfied = any(all(each.present for each in choice) for choice in choices)
        if satisfied or len(saying) < len(parts):
            return list({each.name: each for each in there}.values())
        names = (" and ".join(each.name for each in choice) for choice in choices)
        return [*there, Wanted(" or ".join(dict.fromkeys(names)), False, ())]

    return wanted


def shortest_runs(
    holds: Callable[[str], bool], longest: int, text: str
) -> tuple[tuple[int, int], ...]:
    """The shortest runs of words of a text that satisfy `holds`, as [begin, end) in characters.

    Args:
      holds: asked about parts of the text.
      longest: words of the longest run.
      text: is split at white space and punctuation.
    """
    chunks = [match.span() for match in _CHUNK.finditer(text)]
    for size in range(1, longest + 1):
        runs = [(chunks[i][0], chunks[i + size - 1][1]) for i in range(len(chunks) - size + 1)]
        found = tuple(run for run in runs if holds(text[slice(*run)]))
        if found:
            return found
    return ()

"""Where a text has the keywords of its prompt, for readers of samples."""

from functools import lru_cache

from dinado_jax.tasks.keyword.format import concepts_of
from dinado_jax.tasks.keyword.lexical import patterns, present
from dinado_jax.tasks.protocol import Wanted
from dinado_jax.tasks.wanted import shortest_runs


def wanted(prompt: str, text: str) -> list[Wanted]:
    """Returns each concept of the prompt, whether the oracle finds it in the text, and where.

    Raises InputError for a prompt of another format.
    """
    concepts = tuple(dict.fromkeys(concepts_of(prompt)))
    return [
        Wanted(concept, found, _spans(concept, text) if found else ())
        for concept, found in zip(concepts, present(concepts, text), strict=True)
    ]


@lru_cache(2**16)  # texts share most of their words
def _holds(text: str, concept: str) -> bool:
    return present([concept], text)[0]


def _spans(concept: str, text: str) -> tuple[tuple[int, int], ...]:
    """The shortest runs of words of the text that the oracle accepts, as [begin, end)."""
    longest = max(len(pattern.split()) for pattern in patterns(concept))
    return shortest_runs(lambda part: _holds(part, concept), longest, text)

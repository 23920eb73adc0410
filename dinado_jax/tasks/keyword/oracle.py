"""The lexical oracle with the automata that can guarantee it."""

from collections.abc import Sequence

from dinado_jax.automata.automaton import Automaton
from dinado_jax.tasks.keyword.automaton import concept_automaton
from dinado_jax.tasks.keyword.format import concepts_of
from dinado_jax.tasks.keyword.lexical import lexical
from dinado_jax.tasks.keyword.wanted import wanted
from dinado_jax.tasks.protocol import Wanted


class LexicalOracle:
    """Whether every concept of the prompt is present in the text, in any inflection."""

    def __call__(self, prompts: Sequence[str], texts: Sequence[str]) -> list[bool]:
        """See `lexical`."""
        return lexical(prompts, texts)

    def automata(self, prompt: str) -> list[Automaton]:
        """One per concept: a text that all of them accept satisfies the oracle.

        Raises:
          InputError: for a prompt of another format, and for a concept without letters or digits.
        """
        return [concept_automaton(concept) for concept in dict.fromkeys(concepts_of(prompt))]

    def wanted(self, prompt: str, text: str) -> list[Wanted]:
        """See `wanted`."""
        return wanted(prompt, text)


LEXICAL = LexicalOracle()

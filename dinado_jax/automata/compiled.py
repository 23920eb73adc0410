"""Automata compiled to the tokens of a model. Host side."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from dinado_jax.automata.automaton import Automaton
from dinado_jax.automata.conjunction import Conjunction, conjunction
from dinado_jax.automata.sentence_end import SENTENCE_END
from dinado_jax.automata.token_texts import token_texts
from dinado_jax.automata.tokens import TokenAutomaton, Vocabulary, token_automaton
from dinado_jax.models.codec import Codec

AutomataOf = Callable[[str], Sequence[Automaton]]
"""Of a prompt: a text satisfies the oracle if all of its automata accept it."""


class AutomataOracle(Protocol):
    """An oracle that automata decide."""

    def __call__(self, prompts: list[str], texts: list[str]) -> Sequence[bool] | Sequence[float]:
        """The labels of texts, as of every oracle."""
        ...

    def automata(self, prompt: str) -> Sequence[Automaton]:
        """At least one: a text that all of them accept satisfies the oracle.

        Each is compiled once, so that the same prompt should get the same objects.
        """
        ...


def conjunctions(
    automata: Iterable[Sequence[Automaton]], codec: Codec, vocab_size: int
) -> list[Conjunction]:
    """Compiles the automata of several prompts, the same object once, and with each prompt's what
    sees the ends of sentences.

    Args:
      automata: of each prompt, at least one.
      codec: of a transformers tokenizer.
      vocab_size: V, of the model.
    """
    sentence_end = compiled(SENTENCE_END, codec, vocab_size)
    return [
        conjunction(
            [compiled(each, codec, vocab_size) for each in own], codec.stop_ids, sentence_end
        )
        for own in automata
    ]


@functools.lru_cache(maxsize=8192)
def compiled(automaton: Automaton, codec: Codec, vocab_size: int) -> TokenAutomaton:
    """Compiles an automaton to the tokens of a model."""
    return token_automaton(automaton, _vocabulary(automaton.read, codec, vocab_size))


@functools.lru_cache(maxsize=16)
def _vocabulary(read: Callable[[str], str], codec: Codec, vocab_size: int) -> Vocabulary:
    return Vocabulary.of([read(text) for text in token_texts(codec, vocab_size)])

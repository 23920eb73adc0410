"""Automata of prompts, compiled to the tokens of a model. Host side."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from dinado_jax.automata.automaton import Automaton
from dinado_jax.automata.conjunction import Conjunction, conjunction, stack
from dinado_jax.automata.token_texts import token_texts
from dinado_jax.automata.tokens import TokenAutomaton, Vocabulary, token_automaton
from dinado_jax.models.codec import Codec

AutomataOf = Callable[[str], Sequence[Automaton]]
"""Of a prompt: a text satisfies the oracle if all of its automata accept it."""


def conjunctions(
    automata_of: AutomataOf, prompts: Sequence[str], codec: Codec, vocab_size: int
) -> list[Conjunction]:
    """Compiles the automata of each prompt.

    Args:
      automata_of: equal automata should be the same objects, which are compiled once.
      prompts: P texts.
      codec: of a transformers tokenizer.
      vocab_size: V, of the model.
    """
    return [
        conjunction(
            [compiled(automaton, codec, vocab_size) for automaton in automata_of(prompt)],
            codec.stop_ids,
        )
        for prompt in prompts
    ]


def numbered(
    automata_of: AutomataOf, prompts: Sequence[str], codec: Codec, vocab_size: int
) -> tuple[Conjunction, np.ndarray]:
    """As `conjunctions`, of the distinct prompts, stacked; and the number of each prompt's own.

    Numbers depend on the prompts alone: several guides may share them.

    Returns:
      The automata of P distinct prompts, and int32 [N].
    """
    number = {text: i for i, text in enumerate(dict.fromkeys(prompts))}
    automata = stack(conjunctions(automata_of, list(number), codec, vocab_size))
    return automata, np.array([number[text] for text in prompts], np.int32)


@functools.lru_cache(maxsize=8192)
def compiled(automaton: Automaton, codec: Codec, vocab_size: int) -> TokenAutomaton:
    """An automaton over the tokens of a model."""
    return token_automaton(automaton, _vocabulary(automaton.read, codec, vocab_size))


@functools.lru_cache(maxsize=8)
def _vocabulary(read: Callable[[str], str], codec: Codec, vocab_size: int) -> Vocabulary:
    return Vocabulary.of([read(text) for text in token_texts(codec, vocab_size)])

"""A base of which every text satisfies an oracle that has automata, by masks of next tokens."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.automata.automaton import Automaton
from dinado_jax.automata.conjunction import conjunction, stack
from dinado_jax.automata.token_texts import token_texts
from dinado_jax.automata.tokens import NEVER, TokenAutomaton, Vocabulary, token_automaton
from dinado_jax.data.prompts import PromptSet
from dinado_jax.errors import InputError, quote
from dinado_jax.guides.constraint import KEY, Constraint, tokens_needed
from dinado_jax.language_model import Base, Controlled
from dinado_jax.models.codec import Codec


class HasAutomata(Protocol):
    """An oracle that automata decide."""

    def automata(self, prompt: str) -> Sequence[Automaton]:
        """At least one: a text that all of them accept satisfies the oracle.

        Each is compiled once, so that the same prompt should get the same objects.
        """
        ...


def guarantee(
    base: Base, prompts: Sequence[str] | PromptSet, max_new_tokens: int, oracle: HasAutomata
) -> tuple[Controlled, PromptSet]:
    """Puts a base under the guide that keeps to texts which satisfy an oracle.

    Its texts after the returned prompts do: sampled or found by beams, at any temperature and
    truncation, with `max_new_tokens` new tokens or more. So do those of
    `compose(control, guaranteed)`, with a trained control of the same base. Only a ban of repeated
    n-grams, or a tilt that rejects tokens, may leave a prompt without any text.

    Args:
      base: to sample.
      prompts: as the oracle reads them.
      max_new_tokens: the most that will be drawn of each text.
      oracle: such as those of `dinado_jax.constraints`.

    Returns:
      The guaranteed model, and the prompts with the condition that it reads.

    Raises:
      InputError: for a prompt that the oracle cannot judge, one with an automaton that no text of
        the model's tokens satisfies, and one whose automata may need more tokens.
    """
    given = prompts if isinstance(prompts, PromptSet) else PromptSet(prompts)
    automata = [tuple(oracle.automata(text)) for text in given.texts]
    number = {each: i for i, each in enumerate(dict.fromkeys(automata))}
    compiled = {each: _compiled(each, base) for each in number}
    arrays = stack([conjunction(each, base.codec.stop_ids) for each in compiled.values()])
    starts = jnp.zeros((len(number), arrays.table.shape[1], 1), jnp.int32)
    needed = np.asarray(tokens_needed(arrays, jnp.arange(len(number)), starts))[:, 0]
    for index, each in enumerate(automata):
        if needed[number[each]] > max_new_tokens:
            name = given.names[index] if given.names else f"prompt {index}"
            where = f"{name}, {quote(given.texts[index])}"
            for one, over_tokens in zip(each, compiled[each]):
                if over_tokens.worst_settled >= NEVER:
                    raise InputError(
                        f"{where}: the model's tokens cannot spell {one.name} after every text, so "
                        "that nothing guarantees it; leave it out"
                    )
            raise InputError(
                f"{where}: its constraints may need {needed[number[each]]} tokens, and "
                f"max_new_tokens is {max_new_tokens}; raise it, or ask for less"
            )
    own = np.array([number[each] for each in automata], np.int32)
    condition = {**(given.condition or {}), KEY: own}
    guaranteed = Controlled(base, Constraint(), jax.device_put(arrays))
    return guaranteed, dataclasses.replace(given, condition=condition)


def _compiled(automata: Sequence[Automaton], base: Base) -> list[TokenAutomaton]:
    return [_over_tokens(each, base.codec, base.model.vocab_size) for each in automata]


@functools.lru_cache(maxsize=2048)
def _over_tokens(automaton: Automaton, codec: Codec, vocab_size: int) -> TokenAutomaton:
    return token_automaton(automaton, _vocabulary(automaton.read, codec, vocab_size))


@functools.lru_cache(maxsize=16)
def _vocabulary(read: Callable[[str], str], codec: Codec, vocab_size: int) -> Vocabulary:
    return Vocabulary.of([read(text) for text in token_texts(codec, vocab_size)])

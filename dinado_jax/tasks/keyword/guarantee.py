"""A base of which every text satisfies the lexical oracle, by masks of next tokens."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.automata.conjunction import Conjunction, conjunction, stack
from dinado_jax.automata.token_texts import token_texts
from dinado_jax.automata.tokens import NEVER, TokenAutomaton, Vocabulary, token_automaton
from dinado_jax.data.prompts import PromptSet
from dinado_jax.errors import InputError, quote
from dinado_jax.guides.constraint import KEY, Constraint, tokens_needed
from dinado_jax.language_model import Base, Controlled
from dinado_jax.models.codec import Codec
from dinado_jax.tasks.keyword.automaton import concept_automaton
from dinado_jax.tasks.keyword.format import concepts_of
from dinado_jax.tasks.keyword.symbols import symbols_of


def guarantee(
    base: Base, prompts: Sequence[str] | PromptSet, max_new_tokens: int
) -> tuple[Controlled, PromptSet]:
    """Puts a base under the guide that keeps to texts with every concept of their prompt, in any
    inflection.

    Its texts after the returned prompts satisfy the lexical oracle: sampled or found by beams, at
    any temperature and truncation, with `max_new_tokens` new tokens or more. So do those of
    `compose(control, guaranteed)`, with a trained control of the same base. Only a ban of repeated
    n-grams, or a tilt that rejects tokens, may leave a prompt without any text.

    Args:
      base: to sample.
      prompts: in the format of keyword tasks.
      max_new_tokens: the most that will be drawn of each text.

    Returns:
      The guaranteed model, and the prompts with the condition that it reads.

    Raises:
      InputError: for a prompt of another format, one with a concept that the model's tokens cannot
        spell, and one whose concepts may need more tokens.
    """
    given = prompts if isinstance(prompts, PromptSet) else PromptSet(prompts)
    concepts = [tuple(dict.fromkeys(concepts_of(text))) for text in given.texts]
    number = {each: i for i, each in enumerate(dict.fromkeys(concepts))}
    arrays = stack([_conjunction(each, base) for each in number])
    starts = jnp.zeros((len(number), arrays.table.shape[1], 1), jnp.int32)
    needed = np.asarray(tokens_needed(arrays, jnp.arange(len(number)), starts))[:, 0]
    for index, each in enumerate(concepts):
        if needed[number[each]] > max_new_tokens:
            name = given.names[index] if given.names else f"prompt {index}"
            where = f"{name}, {quote(given.texts[index])}"
            raise _refusal(where, each, base, int(needed[number[each]]), max_new_tokens)
    own = np.array([number[each] for each in concepts], np.int32)
    condition = {**(given.condition or {}), KEY: own}
    guaranteed = Controlled(base, Constraint(), jax.device_put(arrays))
    return guaranteed, dataclasses.replace(given, condition=condition)


def _refusal(
    where: str, concepts: Sequence[str], base: Base, needed: int, max_new_tokens: int
) -> InputError:
    for concept in concepts:
        if _automaton(concept, base.codec, base.model.vocab_size).worst_settled >= NEVER:
            return InputError(
                f"{where}: the model's tokens cannot spell {quote(concept)} after every text, so "
                "that nothing guarantees it; leave it out"
            )
    return InputError(
        f"{where}: its concepts may need {needed} tokens, and max_new_tokens is {max_new_tokens}; "
        "raise it, or give fewer concepts"
    )


def _conjunction(concepts: Sequence[str], base: Base) -> Conjunction:
    automata = [_automaton(each, base.codec, base.model.vocab_size) for each in concepts]
    return conjunction(automata, base.codec.stop_ids)


@functools.lru_cache(maxsize=2048)
def _automaton(concept: str, codec: Codec, vocab_size: int) -> TokenAutomaton:
    return token_automaton(concept_automaton(concept), _vocabulary(codec, vocab_size))


@functools.lru_cache(maxsize=4)
def _vocabulary(codec: Codec, vocab_size: int) -> Vocabulary:
    return Vocabulary.of([symbols_of(text) for text in token_texts(codec, vocab_size)])

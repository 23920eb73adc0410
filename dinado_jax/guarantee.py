"""A base of which every text satisfies an oracle that has automata, by masks of next tokens."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.automata.automaton import Automaton, TooLarge
from dinado_jax.automata.compiled import AutomataOracle, compiled
from dinado_jax.automata.conjunction import Conjunction, conjunction, stack
from dinado_jax.automata.joint import maskable
from dinado_jax.automata.tokens import NEVER, TokenAutomaton
from dinado_jax.data.prompts import PromptSet
from dinado_jax.errors import InputError, quote
from dinado_jax.guides.constraint import KEY, Constraint, tokens_needed
from dinado_jax.language_model import Base, Controlled
from dinado_jax.tasks.keyword.oracle import LEXICAL


def guarantee(
    base: Base,
    prompts: Sequence[str] | PromptSet,
    max_new_tokens: int,
    oracle: AutomataOracle = LEXICAL,
    ends: bool = False,
) -> tuple[Controlled, PromptSet]:
    """Puts a base under the guide that keeps to texts which satisfy an oracle.

    Its texts after the returned prompts do: sampled, found by beams or chosen among particles, at
    any temperature and truncation. So do those of `compose(control, guaranteed)`, with a trained
    control of the same base. Fewer new tokens than `max_new_tokens` are refused there, and two
    guarantees at once. Only a ban of repeated n-grams, or a tilt that rejects tokens, may leave a
    prompt without any text.

    Args:
      base: to sample.
      prompts: as the oracle reads them.
      max_new_tokens: the most tokens of a text, its stop token included.
      oracle: such as those of `dinado_jax.constraints`. By default a text has every concept of its
        prompt, in any inflection, and prompts are those of keyword tasks.
      ends: whether every text ends by itself too, before what is drawn is cut.

    Returns:
      The guaranteed model, and the prompts with the condition that it reads.

    Raises:
      InputError: for a prompt that the oracle cannot judge, one with an automaton that no text of
        the model's tokens satisfies, and one whose automata may need more tokens.
    """
    given = prompts if isinstance(prompts, PromptSet) else PromptSet(prompts)
    automata = [tuple(oracle.automata(text)) for text in given.texts]
    names = given.names or [f"prompt {index}" for index in range(len(automata))]
    where = {  # the first prompt of each
        each: f"{name}, {quote(text)}"
        for each, name, text in reversed(list(zip(automata, names, given.texts)))
    }
    if () in automata:
        raise InputError(f"{where[()]}: the oracle has no automaton for it, return at least one")
    order = list(dict.fromkeys(automata))
    arrays = stack([_conjunction(each, base, where[each]) for each in order])
    starts = jnp.zeros((len(order), arrays.table.shape[1], 1), jnp.int32)
    needed = np.asarray(tokens_needed(arrays, jnp.arange(len(order)), starts))[:, 0]
    for each, tokens in zip(order, needed.tolist()):
        if tokens >= NEVER:
            raise InputError(f"{where[each]}: {_impossible(each, base)}")
        if tokens + ends > max_new_tokens:
            to_end = " and one to end" if ends else ""
            raise InputError(
                f"{where[each]}: its constraints may need {tokens} tokens{to_end}, and "
                f"max_new_tokens is {max_new_tokens}; raise it, or ask for less"
            )
    number = {each: i for i, each in enumerate(order)}
    own = np.array([number[each] for each in automata], np.int32)
    condition = {**(given.condition or {}), KEY: own}
    guaranteed = Controlled(base, Constraint(max_new_tokens, ends), jax.device_put(arrays))
    return guaranteed, dataclasses.replace(given, condition=condition)


def _conjunction(automata: Sequence[Automaton], base: Base, where: str) -> Conjunction:
    try:
        over_tokens = maskable([_of_base(each, base) for each in automata])
    except TooLarge as error:
        names = " & ".join(each.name for each in automata)
        raise InputError(f"{where}: {names}, {error}: ask for less") from None
    return conjunction(over_tokens, base.codec.stop_ids)


def _impossible(automata: Sequence[Automaton], base: Base) -> str:
    for each in automata:
        if _of_base(each, base).to_accepting[0] >= NEVER:
            return f"the model's tokens cannot spell {each.name}; leave it out"
    names = " & ".join(each.name for each in automata)
    return f"no text of the model's tokens satisfies {names}; leave one of them out"


def _of_base(automaton: Automaton, base: Base) -> TokenAutomaton:
    return compiled(automaton, base.codec, base.model.vocab_size)

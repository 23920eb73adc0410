"""A base of which every text satisfies an oracle that has automata, by masks of next tokens."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.automata.automaton import Automaton
from dinado_jax.automata.compiled import compiled, numbered
from dinado_jax.automata.conjunction import KEY
from dinado_jax.automata.tokens import NEVER
from dinado_jax.data.prompts import PromptSet
from dinado_jax.errors import InputError, quote
from dinado_jax.guides.constraint import Constraint, tokens_needed
from dinado_jax.language_model import Base, Controlled


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
    arrays, number = numbered(oracle.automata, given.texts, base.codec, base.model.vocab_size)
    starts = jnp.zeros((len(arrays.table), arrays.table.shape[1], 1), jnp.int32)
    needed = np.asarray(tokens_needed(arrays, jnp.arange(len(starts)), starts))[number, 0]
    for index, text in enumerate(given.texts):
        if needed[index] > max_new_tokens:
            name = given.names[index] if given.names else f"prompt {index}"
            where = f"{name}, {quote(text)}"
            for one in oracle.automata(text):
                if compiled(one, base.codec, base.model.vocab_size).worst_settled >= NEVER:
                    raise InputError(
                        f"{where}: the model's tokens cannot spell {one.name} after every text, so "
                        "that nothing guarantees it; leave it out"
                    )
            raise InputError(
                f"{where}: its constraints may need {needed[index]} tokens, and "
                f"max_new_tokens is {max_new_tokens}; raise it, or ask for less"
            )
    condition = {**(given.condition or {}), KEY: number}
    guaranteed = Controlled(base, Constraint(), jax.device_put(arrays))
    return guaranteed, dataclasses.replace(given, condition=condition)

"""A base of which every text satisfies an oracle that has automata, by a guide that forbids next
tokens: a mask, or with an HMM of the base one that knows what is likely, too.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.automata.automaton import Automaton, TooLarge
from dinado_jax.automata.compiled import AutomataOracle, compiled
from dinado_jax.automata.conjunction import conjunction, stack
from dinado_jax.automata.joint import maskable, product
from dinado_jax.automata.tokens import NEVER, TokenAutomaton
from dinado_jax.data.prompts import PromptSet
from dinado_jax.errors import InputError, quote
from dinado_jax.guides.constraint import KEY, Constraint, tokens_needed
from dinado_jax.guides.hmm import KEY as HMM_KEY
from dinado_jax.guides.hmm import hmm_guide
from dinado_jax.guides.protocol import Guide
from dinado_jax.hmm.model import Hmm
from dinado_jax.language_model import Base, Controlled, require_base
from dinado_jax.oracles.expression import find_automata
from dinado_jax.tasks.keyword.oracle import LEXICAL
from dinado_jax.utils.arguments import POSITIVE, require_integer, require_texts

Automata = tuple[Automaton, ...]  # of a prompt
_Joined = TypeVar("_Joined")


def guarantee(
    base: Base,
    prompts: Sequence[str] | PromptSet,
    max_new_tokens: int,
    oracle: str | AutomataOracle = LEXICAL,
    *,
    ends: bool = False,
    hmm: Hmm | None = None,
    weight: float | None = None,
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
      oracle: such as those of `dinado_jax.constraints`, or its name or expression as of
        rollout.oracle. By default a text has every concept of its prompt, in any inflection, and
        prompts are those of keyword tasks.
      ends: whether every text of the mask ends by itself too, before what is drawn is cut.
      hmm: of the base, as `load_hmm` returns it: the guide then weighs what the oracle leaves
        possible by how likely it is to be satisfied, exactly so for texts of the HMM. None: a mask.
      weight: of the HMM in a geometric mean with the base, see `guides.hmm.HmmGuide`.

    Returns:
      The guaranteed model, and the prompts with the condition that it reads.

    Raises:
      InputError: for an oracle without automata, a prompt that it cannot judge, one with an
        automaton that no text of the model's tokens satisfies, one whose automata may need more
        tokens, and an HMM of other tokens or constraints that are too large for it.
    """
    require_base(base)
    _check_options(ends, hmm, weight)
    max_new_tokens = require_integer("max_new_tokens", max_new_tokens, *POSITIVE)
    given = prompts if isinstance(prompts, PromptSet) else PromptSet(prompts)
    require_texts("prompt", given.texts)
    automata, where = _automata(given, oracle)
    order = list(dict.fromkeys(automata))

    def each_compiled(join: Callable[[Sequence[TokenAutomaton]], _Joined]) -> list[_Joined]:
        return [_compiled(join, each, base, where[each]) for each in order]

    if hmm is None:
        made = _mask(each_compiled(maskable), base, max_new_tokens, ends)
    else:
        made = _of_hmm(hmm, each_compiled(product), base, max_new_tokens, weight)
    for each, tokens in zip(order, made.needed):
        _check_needed(each, tokens, max_new_tokens, ends, base, where[each])
    number = {each: i for i, each in enumerate(order)}
    own = np.array([number[each] for each in automata], np.int32)
    condition = {**(given.condition or {}), made.key: own}
    guaranteed = Controlled(base, made.guide, made.arrays)
    return guaranteed, dataclasses.replace(given, condition=condition)


def _automata(given: PromptSet, oracle: Any) -> tuple[list[Automata], dict[Automata, str]]:
    """The automata of each prompt, and how messages name the first prompt of each constraint."""
    automata_of = find_automata(oracle)
    if automata_of is None:
        raise InputError(
            f"oracle = {quote(oracle)} has no automata: give one of dinado_jax.constraints, or an "
            "expression of such oracles"
        )
    automata = [tuple(automata_of(text)) for text in given.texts]
    names = given.names or [f"prompt {index}" for index in range(len(automata))]
    found = [f"{name}, {quote(text)}" for name, text in zip(names, given.texts)]
    where = dict(reversed(list(zip(automata, found))))
    if () in where:
        raise InputError(f"{where[()]}: the oracle has no automaton for it, return at least one")
    return automata, where


def _check_options(ends: bool, hmm: Hmm | None, weight: float | None) -> None:
    if weight is not None and hmm is None:
        raise InputError("weight is that of an HMM: give hmm, or leave it out")
    if hmm is not None and not isinstance(hmm, Hmm):
        raise InputError(f"hmm = {quote(hmm)}: give what load_hmm returns")
    if ends and hmm is not None:
        raise InputError("ends is for the mask alone: leave out ends, or hmm")


class _Made(NamedTuple):
    """A guide of some constraints."""

    key: str  # of the condition that numbers them
    guide: Guide
    arrays: Any
    needed: list[int]  # tokens that each may need, at least `NEVER` where it may be impossible


def _mask(
    automata: Sequence[Sequence[TokenAutomaton]], base: Base, max_new_tokens: int, ends: bool
) -> _Made:
    arrays = stack([conjunction(each, base.codec.stop_ids) for each in automata])
    starts = jnp.zeros((*arrays.table.shape[:2], 1), jnp.int32)
    needed = np.asarray(tokens_needed(arrays, jnp.arange(len(automata)), starts))[:, 0]
    guide = Constraint(max_new_tokens, ends)
    return _Made(KEY, guide, jax.device_put(arrays), needed.tolist())


def _of_hmm(
    hmm: Hmm,
    automata: Sequence[TokenAutomaton],
    base: Base,
    max_new_tokens: int,
    weight: float | None,
) -> _Made:
    if hmm.vocab_size != base.model.vocab_size:
        raise InputError(
            f"the HMM has {hmm.vocab_size:,} tokens, the base {base.model.vocab_size:,}: give one "
            "that `dinado hmm train` has made of this base"
        )
    guide, arrays = hmm_guide(hmm, automata, base.codec.stop_ids, max_new_tokens, weight)
    return _Made(HMM_KEY, guide, arrays, [int(each.to_accepting[0]) for each in automata])


def _compiled(
    join: Callable[[Sequence[TokenAutomaton]], _Joined],
    automata: Sequence[Automaton],
    base: Base,
    where: str,
) -> _Joined:
    try:
        return join([_of_base(each, base) for each in automata])
    except TooLarge as error:
        names = " & ".join(each.name for each in automata)
        raise InputError(f"{where}: {names}, {error}: ask for less") from None


def _check_needed(
    automata: Sequence[Automaton],
    tokens: int,
    max_new_tokens: int,
    ends: bool,
    base: Base,
    where: str,
) -> None:
    """InputError for automata that may need more tokens than there are."""
    if tokens >= NEVER:
        raise InputError(f"{where}: {_impossible(automata, base)}")
    if tokens + ends > max_new_tokens:
        to_end = " and one to end" if ends else ""
        raise InputError(
            f"{where}: its constraints may need {tokens} tokens{to_end}, and "
            f"max_new_tokens is {max_new_tokens}; raise it, or ask for less"
        )


def _impossible(automata: Sequence[Automaton], base: Base) -> str:
    for each in automata:
        if _of_base(each, base).to_accepting[0] >= NEVER:
            return f"the model's tokens cannot spell {each.name}; leave it out"
    names = " & ".join(each.name for each in automata)
    return f"no text of the model's tokens satisfies {names}; leave one of them out"


def _of_base(automaton: Automaton, base: Base) -> TokenAutomaton:
    return compiled(automaton, base.codec, base.model.vocab_size)

"""Text in, text out by beam search, ranked at the end by an oracle where there is one."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypedDict, Unpack

import numpy as np

from dinado_jax.data.prompts import PromptSet
from dinado_jax.decoding.beam import Beam, Hypotheses, beam_prompts
from dinado_jax.generation import (
    Completion,
    Decodable,
    Found,
    as_completions,
    begin,
    rows_at_once,
)
from dinado_jax.oracles.callables import named_oracle
from dinado_jax.oracles.judge import Oracle, judge, require_labels
from dinado_jax.utils.arguments import known_keywords


class Searchable(Decodable, Protocol):
    """A base, or a base under guides."""

    def for_search(self) -> Decodable:
        """The same distribution, decoded so that beams are ranked by log p + log R."""
        ...


class BeamSettings(TypedDict, total=False):
    """Fields of `Beam`."""

    length_penalty: float
    no_repeat_ngram: int


@known_keywords()
def beam_search(
    model: Searchable,
    prompts: Sequence[str] | PromptSet,
    *,
    oracle: str | Callable[..., Any] | None = None,
    max_new_tokens: int | None = None,
    beams: int = 8,
    hypotheses: int = 1,
    batch: int = 64,
    **settings: Unpack[BeamSettings],
) -> list[Completion]:
    """Finds the likeliest continuations of each prompt by a beam search.

    Under guides, beams are ranked by the base's log p plus log R of what they have written, so that
    what is found is a likely text of the base that succeeds: with beams enough and length_penalty 0
    the mode of p C, if R is right. An oracle has the last word, its C in the place of R.

    Args:
      model: to search.
      prompts: as for `generate`.
      oracle: as for `evaluate`: it judges all beams of a prompt. Those that it accepts come first,
        in the order of (log p + log C) / length^penalty; then the others, as they were found, with
        those on which it fails. None: no oracle.
      max_new_tokens: as for `generate`.
      beams: running hypotheses per prompt.
      hypotheses: of the beams, how many to return.
      batch: beams searched at once.
      **settings: length_penalty, by whose power of their length the scores of hypotheses are
        divided, 1 by default, 0 for the mode; no_repeat_ngram, of which none occurs twice in prompt
        and continuation, except that a text may always end, 0 is off.

    Returns:
      The completions, prompt by prompt, best first, with their label if there is an oracle. A
      prompt with fewer hypotheses of probability above 0 has fewer.

    Raises:
      InputError: as for `generate` and, with an oracle, `evaluate`.
    """
    model, texts, tokens, new_tokens = begin(model, prompts, max_new_tokens)
    decoded, stop_ids = model.for_search(), model.base.codec.stop_ids
    search = Beam(decoded.policy, stop_ids, new_tokens, beams, hypotheses, **settings, scores=True)
    judged = None if oracle is None else named_oracle(oracle, texts).function
    if judged is not None:
        search = dataclasses.replace(search, hypotheses=search.beams)
    batch = rows_at_once(len(texts) * search.beams, batch)
    best = beam_prompts(search, decoded.variables, tokens, batch)
    found = _found(best)
    made = as_completions(model, texts, tokens, found, batch)
    if judged is None:
        return made
    made = _judged(judged, made)
    of_prompt = itertools.groupby(zip(found.prompt, made), key=lambda pair: pair[0])
    ranked = [_ranked([one for _, one in own], search.length_penalty) for _, own in of_prompt]
    return [one for own in ranked for one in own[:hypotheses]]


def _found(best: Hypotheses) -> Found:
    """The hypotheses that have tokens, prompt by prompt."""
    prompt, which = np.nonzero(best.length)
    assert best.log_policy is not None  # the search scores
    return Found(
        prompt=prompt,
        tokens=[best.tokens[i, j, : best.length[i, j]] for i, j in zip(prompt, which)],
        finished=best.finished[prompt, which],
        log_policy=best.log_policy[prompt, which],
        log_base=None if best.log_base is None else best.log_base[prompt, which],
    )


def _judged(oracle: Oracle, made: list[Completion]) -> list[Completion]:
    """The same with labels, 0 where the oracle fails."""
    result = judge(oracle, [one.prompt for one in made], [one.text for one in made])
    require_labels(oracle, result)
    labels = np.where(result.failed, 0.0, result.labels).tolist()
    return [dataclasses.replace(one, label=label) for one, label in zip(made, labels)]


def _ranked(found: list[Completion], length_penalty: float) -> list[Completion]:
    """The hypotheses of a prompt, those that the oracle accepts first."""

    def score(one: Completion) -> float:
        log_joint = float(one.log_probs_base.sum()) + math.log(one.label or 1.0)
        return log_joint / len(one.tokens) ** length_penalty

    accepted = [one for one in found if one.label]
    others = [one for one in found if not one.label]
    return sorted(accepted, key=score, reverse=True) + others

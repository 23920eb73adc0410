"""Text in, text out: decoding from Python."""

import dataclasses
from collections.abc import Sequence
from typing import TypedDict, Unpack

import jax
import numpy as np

from dinado_jax.data.prompts import PromptSet, TokenizedPrompts
from dinado_jax.data.sequences import sequences
from dinado_jax.decoding.batching import check_prompts
from dinado_jax.decoding.beam import Beam, beam_prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler, sample_in_groups
from dinado_jax.decoding.score import score as score_rows
from dinado_jax.errors import InputError, quote
from dinado_jax.language_model import Base, LanguageModel
from dinado_jax.utils import arguments
from dinado_jax.utils.arguments import POSITIVE

_LEAST_ROWS = 8  # as fast as one: a step's time is that of reading the parameters


@dataclasses.dataclass(frozen=True, repr=False)
class Completion:
    """One sample; the three arrays are [tokens], log-probabilities in nats."""

    prompt: str
    text: str
    tokens: np.ndarray  # int32, the stop token included
    log_probs: np.ndarray  # under the composed distribution q (temperature and truncation aside)
    log_probs_base: np.ndarray  # under the base p
    finished: bool  # ended by itself, not cut at max_new_tokens

    def __repr__(self) -> str:
        end = "finished" if self.finished else "cut"
        return (
            f"Completion({quote(self.prompt)} -> {quote(self.text)}, {len(self.tokens)} tokens, "
            f"{end}; {self.log_probs.sum():.2f} nats, {self.log_probs_base.sum():.2f} in the base)"
        )


class MethodSettings(TypedDict, total=False):
    """The fields of `Method`."""

    temperature: float
    top_k: int
    top_p: float


def generate(
    model: LanguageModel,
    prompts: Sequence[str] | PromptSet,
    *,
    max_new_tokens: int | None = None,
    samples: int = 1,
    seed: int = 0,
    batch: int = 64,
    **method: Unpack[MethodSettings],
) -> list[Completion]:
    """Continues each prompt `samples` times with a base or a controlled model.

    A completion depends on its prompt, its number and the seed, not on the batch around it.

    Args:
      model: to sample.
      prompts: texts; as a `PromptSet` with the condition that a guide of the model reads.
      max_new_tokens: None: the model's own (a run's decode.max_new_tokens, else 32), or what the
        longest prompt leaves of the context.
      samples: per prompt.
      seed: in [0, 2^32).
      batch: rows drawn at once.
      **method: temperature, top_k and top_p, as for `Method`: 0 is greedy, 0 and 1 are off.

    Returns:
      The completions, prompt by prompt.

    Raises:
      InputError: for bad settings, no or too long prompts, one text instead of a list, or logits
        that are nan or infinite.
    """
    key, how = jax.random.key(arguments.require_seed(seed)), Method(**method)
    model, texts, tokens, new_tokens = _begin(model, prompts, max_new_tokens)
    stop_ids = model.base.codec.stop_ids
    sampler = Sampler(model.policy, how, stop_ids, new_tokens, samples, scores=True)
    batch = _rows(len(texts) * sampler.samples, batch)
    drawn = sample_in_groups(sampler, model.variables, tokens, key, batch)
    assert drawn.log_policy is not None  # the sampler scores
    found = _Found(
        prompt=np.arange(len(drawn.length)) // sampler.samples,
        tokens=[row[:length] for row, length in zip(drawn.tokens, drawn.length)],
        finished=drawn.finished,
        log_policy=drawn.log_policy,
        log_base=drawn.log_base,
    )
    return _completions(model, texts, tokens, found, batch)


def beam_search(
    model: LanguageModel,
    prompts: Sequence[str] | PromptSet,
    *,
    max_new_tokens: int | None = None,
    beams: int = 8,
    hypotheses: int = 1,
    length_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
    batch: int = 64,
) -> list[Completion]:
    """Finds the likeliest continuations of each prompt by a beam search.

    Args:
      model: to search.
      prompts: as for `generate`.
      max_new_tokens: as for `generate`.
      beams: running hypotheses per prompt.
      hypotheses: of the beams, how many to return.
      length_penalty: hypotheses are ranked by log q / length^penalty.
      no_repeat_ngram: no n-gram occurs twice in prompt and continuation, except that a text may
        always end; 0 is off.
      batch: beams searched at once.

    Returns:
      The completions, prompt by prompt, best first. A prompt with fewer hypotheses of probability
      above 0 has fewer.

    Raises:
      InputError: as for `generate`.
    """
    model, texts, tokens, new_tokens = _begin(model, prompts, max_new_tokens)
    search = Beam(
        model.policy,
        model.base.codec.stop_ids,
        new_tokens,
        beams,
        hypotheses,
        length_penalty,
        no_repeat_ngram,
        scores=True,
    )
    batch = _rows(len(texts) * search.beams, batch)
    best = beam_prompts(search, model.variables, tokens, batch)
    prompt, which = np.nonzero(best.length)
    assert best.log_policy is not None  # the search scores
    found = _Found(
        prompt=prompt,
        tokens=[best.tokens[i, j, : best.length[i, j]] for i, j in zip(prompt, which)],
        finished=best.finished[prompt, which],
        log_policy=best.log_policy[prompt, which],
        log_base=None if best.log_base is None else best.log_base[prompt, which],
    )
    return _completions(model, texts, tokens, found, batch)


def score(
    model: LanguageModel,
    prompts: Sequence[str] | PromptSet,
    texts: Sequence[str],
    *,
    batch: int = 64,
) -> list[np.ndarray]:
    """Computes the log-probability of each text after its prompt.

    Args:
      model: base or controlled model.
      prompts: N texts, as for `generate`.
      texts: N texts that continue them and end there.
      batch: rows scored at once.

    Returns:
      N arrays [tokens], float32: nats of each token under q, the stop token included.

    Raises:
      InputError: as for `generate`; for another number of texts; and for texts too long for the
        model.
    """
    asked = arguments.require_texts("text", texts)
    model, known, tokens, _ = _begin(model, prompts, None)
    if len(known) != len(asked):
        raise InputError(f"{len(known)} prompts and {len(asked)} texts: give one text per prompt")
    targets, limit = model.base.codec.targets(asked), model.base.model.context_length
    for index, (prompt, target) in enumerate(zip(tokens.tokens, targets)):
        if (over := len(prompt) + len(target) - limit) > 0:
            raise InputError(
                f"text {index} and its prompt are {over} tokens more than the context of {limit} "
                "holds: shorten one of them"
            )
    rows = sequences(tokens.tokens, targets, model.base.codec.eos_id, limit)
    rows = dataclasses.replace(rows, condition=tokens.condition)
    scores = score_rows(model.policy, model.variables, rows, _rows(len(rows), batch))
    ends = zip(scores, rows.prompt_length - 1, rows.length - 1)
    return [row[start:end] for row, start, end in ends]


def _rows(wanted: int, batch: int) -> int:
    """Rows at a time: at most `batch`, and else a power of two from 8, so that few programs do."""
    batch = arguments.require_integer("batch", batch, *POSITIVE)
    return min(batch, 1 << (max(_LEAST_ROWS, wanted) - 1).bit_length())


def _begin(
    model: LanguageModel, prompts: Sequence[str] | PromptSet, max_new_tokens: int | None
) -> tuple[LanguageModel, list[str], TokenizedPrompts, int]:
    """The model with what it reads of the prompts, the prompts, their token ids, and how many
    tokens to draw at most.
    """
    given = prompts if isinstance(prompts, PromptSet) else PromptSet(prompts)
    texts = arguments.require_texts("prompt", given.texts)
    model, given = model.for_prompts(dataclasses.replace(given, texts=texts))
    names = given.names or [f"prompt {i} ({quote(text[:40])})" for i, text in enumerate(texts)]
    ids = model.base.codec.prompts(texts)
    tokens = TokenizedPrompts(ids, given.condition, names, given.ids)
    asked = max_new_tokens is not None
    least = arguments.require_integer("max_new_tokens", max_new_tokens, *POSITIVE) if asked else 1
    check_prompts(model.policy, tokens, least)
    room = model.policy.context_length - max(map(len, ids))
    return model, texts, tokens, least if asked else min(model.base.max_new_tokens, room)


@dataclasses.dataclass(frozen=True)
class _Found:
    """R continuations."""

    prompt: np.ndarray  # int [R], the number of the prompt that each continues
    tokens: list[np.ndarray]  # int32 [length] each
    finished: np.ndarray  # bool [R]
    log_policy: np.ndarray  # float32 [R, N] nats of each token, 0 after the end
    log_base: np.ndarray | None  # None where decoding did not know the base


def _completions(
    model: LanguageModel, texts: list[str], prompts: TokenizedPrompts, found: _Found, batch: int
) -> list[Completion]:
    """With text, and log-probabilities cut to the length of each row."""
    under_p = found.log_base
    if under_p is None:  # q was decoded in a single pass
        base = isinstance(model, Base)
        under_p = found.log_policy if base else _score_base(model.base, prompts, found, batch)
    return [
        Completion(
            prompt=texts[prompt],
            text=text,
            tokens=tokens,
            log_probs=log_policy[: len(tokens)],
            log_probs_base=log_base[: len(tokens)],
            finished=bool(finished),
        )
        for prompt, text, tokens, log_policy, log_base, finished in zip(
            found.prompt,
            model.base.codec.decode([row.tolist() for row in found.tokens]),
            found.tokens,
            found.log_policy,
            under_p,
            found.finished,
            strict=True,
        )
    ]


def _score_base(
    base: Base, prompts: TokenizedPrompts, found: _Found, batch: int
) -> list[np.ndarray]:
    """Log-probabilities of every new token under the base, nats, by a pass over whole rows."""
    prefixes = [prompts.tokens[i] for i in found.prompt]
    rows = sequences(
        prefixes,
        [row.tolist() for row in found.tokens],
        base.codec.eos_id,
        base.model.context_length,
    )
    # As wide as prompts and new tokens may be, whatever was drawn.
    width = max(map(len, prefixes)) + found.log_policy.shape[1]
    scores = score_rows(base.policy, base.variables, rows, batch, width=width)
    return [row[start:] for row, start in zip(scores, rows.prompt_length - 1)]

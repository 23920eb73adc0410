"""Text in, text out: the Python door to decoding."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from dinado_jax.data.sequences import sequences
from dinado_jax.decoding.beam import Beam, beam_prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler, check_prompts, sample_in_groups
from dinado_jax.decoding.score import score
from dinado_jax.errors import InputError, quote
from dinado_jax.language_model import Base, LanguageModel
from dinado_jax.models.tokenizer import Codec
from dinado_jax.utils import arguments
from dinado_jax.utils.arguments import POSITIVE


@dataclasses.dataclass(frozen=True, repr=False)
class Completion:
    """One sample; the three arrays are [tokens], log-probabilities in nats."""

    prompt: str
    text: str
    tokens: np.ndarray  # int32, the closing eos included
    log_probs: np.ndarray  # under the composed distribution q (temperature and truncation aside)
    log_probs_base: np.ndarray  # under the base p
    finished: bool  # ended by itself, not cut at max_new_tokens

    def __repr__(self) -> str:
        end = "finished" if self.finished else "cut"
        return (
            f"Completion({quote(self.prompt)} -> {quote(self.text)}, {len(self.tokens)} tokens, "
            f"{end}; {self.log_probs.sum():.2f} nats, {self.log_probs_base.sum():.2f} in the base)"
        )


def generate(
    model: LanguageModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int | None = None,
    samples: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    batch: int = 64,
) -> list[Completion]:
    """Continues each prompt `samples` times with a base or a controlled model.

    A completion depends on its prompt, its number and the seed, not on the batch around it.
    max_new_tokens None is the model's own (a run's decode.max_new_tokens, else 32), or what the
    longest prompt leaves of the context. temperature 0 is greedy; top_k 0 and top_p 1 are off. A
    seed lies in [0, 2^32). Returns the completions prompt by prompt. InputError for bad settings,
    no or too long prompts, one text instead of a list, or logits that are nan or infinite.
    """
    key = jax.random.key(arguments.require_seed(seed))
    method = Method(temperature, top_k, top_p)
    prompts, prompt_ids, new_tokens = _begun(model, prompts, max_new_tokens)
    codec = model.base.codec
    sampler = Sampler(model.policy, method, codec.eos_id, new_tokens, samples, scores=True)
    batch = _rows(len(prompts) * sampler.samples, batch)
    drawn = sample_in_groups(sampler, model.variables, prompt_ids, key, batch)
    new = [row[:length] for row, length in zip(drawn.tokens, drawn.length)]
    found = _Found(np.arange(len(new)) // sampler.samples, new, drawn.finished)
    under_q, under_p = drawn.log_policy, drawn.log_base
    assert under_q is not None  # the sampler scores
    if under_p is None:  # a single pass knows its own distribution alone
        own = isinstance(model, Base)
        under_p = under_q if own else _scored(model.base, prompt_ids, found, batch)
    return _completions(codec, prompts, found, under_q, under_p)


def beam_search(
    model: LanguageModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int | None = None,
    beams: int = 8,
    hypotheses: int = 1,
    length_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
    batch: int = 64,
) -> list[Completion]:
    """The likeliest continuations that a beam search finds, prompt by prompt, best first.

    length_penalty: hypotheses are ranked by log q / length^penalty. no_repeat_ngram: no n-gram
    occurs twice in prompt and continuation, except that a text may always end; 0 is off. batch:
    beams searched at once. A prompt with fewer hypotheses of probability above 0 has fewer
    completions. max_new_tokens and InputError as for `generate`.
    """
    prompts, prompt_ids, new_tokens = _begun(model, prompts, max_new_tokens)
    search = Beam(
        model.policy,
        model.base.codec.eos_id,
        new_tokens,
        beams,
        hypotheses,
        length_penalty,
        no_repeat_ngram,
    )
    batch = _rows(len(prompts) * search.beams, batch)
    best = beam_prompts(search, model.variables, prompt_ids, batch)
    of, which = np.nonzero(best.length)
    new = [best.tokens[i, j, : best.length[i, j]] for i, j in zip(of, which)]
    found = _Found(of, new, best.finished[of, which])
    under_q = _scored(model, prompt_ids, found, batch)
    own = isinstance(model, Base)
    under_p = under_q if own else _scored(model.base, prompt_ids, found, batch)
    return _completions(model.base.codec, prompts, found, under_q, under_p)


def _rows(wanted: int, batch: int) -> int:
    """Rows at a time: at most `batch`, and else a power of two, so that few programs do."""
    batch = arguments.require_integer("batch", batch, *POSITIVE)
    return min(batch, 1 << (max(1, wanted) - 1).bit_length())


def _begun(model, prompts, max_new_tokens) -> tuple[list[str], list[list[int]], int]:
    """The prompts, their token ids, and how many tokens to draw at most."""
    if isinstance(prompts, (str, bytes)) or not isinstance(prompts, Iterable):
        raise InputError(f"prompts is {quote(prompts)}: give a list of prompts")
    prompts = list(prompts)
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise InputError(f"prompt {index} is {quote(prompt)}: give text")
    ids = model.base.codec.prompts(prompts)
    given = max_new_tokens is not None
    least = arguments.require_integer("max_new_tokens", max_new_tokens, *POSITIVE) if given else 1
    names = [f"prompt {index} ({quote(text[:40])})" for index, text in enumerate(prompts)]
    check_prompts(model.policy, ids, least, names)
    room = model.policy.context_length - max(map(len, ids))
    return prompts, ids, least if given else min(model.base.max_new_tokens, room)


class _Found(NamedTuple):
    """Continuations: row i are the tokens new[i] after prompt of[i]."""

    of: np.ndarray
    new: list[np.ndarray]
    finished: np.ndarray


def _scored(
    model: LanguageModel, prompts: list[list[int]], found: _Found, batch: int
) -> list[np.ndarray]:
    """Log-probability of every new token, nats, by a pass over whole rows."""
    prefixes, base = [prompts[i] for i in found.of], model.base
    rows = sequences(prefixes, found.new, base.codec.eos_id, base.model.context_length)
    scores = score(model.policy, model.variables, rows, batch)
    return [row[start:] for row, start in zip(scores, rows.prompt_length - 1)]


def _completions(
    codec: Codec,
    prompts: list[str],
    found: _Found,
    under_q: Sequence[np.ndarray],
    under_p: Sequence[np.ndarray],
) -> list[Completion]:
    """With text; log-probabilities are cut to the length of each row."""
    return [
        Completion(
            prompts[found.of[i]],
            said,
            found.new[i],
            under_q[i][: len(found.new[i])],
            under_p[i][: len(found.new[i])],
            bool(found.finished[i]),
        )
        for i, said in enumerate(codec.decode(found.new))
    ]

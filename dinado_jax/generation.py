"""Text in, text out: the Python door to decoding."""

import dataclasses
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from dinado_jax.data.sequences import sequences
from dinado_jax.decoding.beam import Beam, beam_prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler, check_prompts, sample_in_groups
from dinado_jax.decoding.score import score
from dinado_jax.errors import InputError, quote
from dinado_jax.language_model import LanguageModel
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
    sampler = Sampler(model.policy, method, codec.eos_id, new_tokens, samples)
    batch = _rows(len(prompts) * sampler.samples, batch)
    drawn = sample_in_groups(sampler, model.variables, prompt_ids, key, batch)
    new = [row[:length] for row, length in zip(drawn.tokens, drawn.length)]
    of = np.arange(len(new)) // sampler.samples
    return _completions(model, prompts, prompt_ids, of, new, drawn.finished, batch)


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
    found = beam_prompts(search, model.variables, prompt_ids, batch)
    of, which = np.nonzero(found.length)
    new = [found.tokens[i, j, : found.length[i, j]] for i, j in zip(of, which)]
    return _completions(model, prompts, prompt_ids, of, new, found.finished[of, which], batch)


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


def _completions(model, prompts, prompt_ids, of, new, finished, batch) -> list[Completion]:
    """New tokens, row i of them after prompt of[i], with text and log-probabilities."""
    base, codec = model.base, model.base.codec
    prefixes = [prompt_ids[i] for i in of]
    rows = sequences(prefixes, new, codec.eos_id, base.model.context_length)
    under_q, under_p = (
        score(which.policy, which.variables, rows, batch) for which in (model, base)
    )
    return [
        Completion(
            prompts[of[i]],
            said,
            new[i],
            under_q[i, start : start + len(new[i])],
            under_p[i, start : start + len(new[i])],
            bool(finished[i]),
        )
        for i, (said, start) in enumerate(zip(codec.decode(new), rows.prompt_length - 1))
    ]

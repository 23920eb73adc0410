"""Text in, text out: the Python door to decoding."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from dinado_jax import text
from dinado_jax.base import LanguageModel
from dinado_jax.decoding.beam import Beam, beam_prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.sampler import Sampler, sample_in_groups
from dinado_jax.decoding.score import score
from dinado_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Completion:
    """One sample; the three arrays are [tokens], log-probabilities in nats."""

    prompt: str
    text: str
    tokens: np.ndarray  # int32, the closing eos included
    log_probs: np.ndarray  # under the composed distribution q (temperature and truncation aside)
    log_probs_base: np.ndarray  # under the base p
    finished: bool  # ended by itself, not cut at max_new_tokens


def generate(
    model: LanguageModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 32,
    samples: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    batch: int = 64,
) -> list[Completion]:
    """Continues each prompt `samples` times with a base or a controlled model.

    A completion depends on its prompt, its number and the seed, not on the batch around it.
    temperature 0 is greedy; top_k 0 and top_p 1 are off. Returns the completions prompt by prompt.
    InputError for bad settings, no or too long prompts, or one text instead of a list.
    """
    codec, prompt_ids = _begun(model, prompts)
    batch = _rows(len(prompts) * samples, batch)
    method = Method(temperature, top_k, top_p)
    sampler = Sampler(model.policy, method, codec.eos_id, max_new_tokens, samples)
    drawn = sample_in_groups(sampler, model.variables, prompt_ids, jax.random.key(seed), batch)
    new = [row[:length] for row, length in zip(drawn.tokens, drawn.length)]
    of = np.arange(len(new)) // samples
    return _completions(model, prompts, prompt_ids, of, new, drawn.finished, batch)


def beam_search(
    model: LanguageModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 32,
    beams: int = 8,
    hypotheses: int = 1,
    length_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
    batch: int = 64,
) -> list[Completion]:
    """The likeliest continuations that a beam search finds, prompt by prompt, best first.

    length_penalty: hypotheses are ranked by log q / length^penalty. no_repeat_ngram: no n-gram
    occurs twice in prompt and continuation; 0 is off. batch: beams searched at once. A prompt with
    fewer hypotheses of probability above 0 has fewer completions. InputError as for `generate`.
    """
    codec, prompt_ids = _begun(model, prompts)
    batch = _rows(len(prompts) * beams, batch)
    search = Beam(
        model.policy,
        codec.eos_id,
        max_new_tokens,
        beams,
        hypotheses,
        length_penalty,
        no_repeat_ngram,
    )
    found = beam_prompts(search, model.variables, prompt_ids, batch)
    of, which = np.nonzero(found.length)
    new = [found.tokens[i, j, : found.length[i, j]] for i, j in zip(of, which)]
    return _completions(model, prompts, prompt_ids, of, new, found.finished[of, which], batch)


def _rows(wanted: int, batch: int) -> int:
    """Rows at a time: at most `batch`, and else a power of two, so that few programs do."""
    return min(batch, 1 << (max(1, wanted) - 1).bit_length())


def _begun(model, prompts):
    """The codec, and the token ids of the prompts."""
    if isinstance(prompts, str):
        raise InputError(f"prompts is one text, {prompts!r}: give a list of prompts")
    return model.base.codec, model.base.codec.prompts(prompts)


def _completions(model, prompts, prompt_ids, of, new, finished, batch) -> list[Completion]:
    """New tokens, row i of them after prompt of[i], with text and log-probabilities."""
    base, codec = model.base, model.base.codec
    prefixes = [prompt_ids[i] for i in of]
    rows = text.sequences(prefixes, new, codec.eos_id, base.model.config.n_positions)
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

"""Text in, text out: sampling from Python.

The functions take any model that has a base, a policy and variables, as `Decodable` says. Those of
language_model.py have them as methods too.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import (
    Any,
    Literal,
    NamedTuple,
    Protocol,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

import jax
import numpy as np

from dinado_jax.data.prompts import PromptSet, TokenizedPrompts
from dinado_jax.data.sequences import sequences
from dinado_jax.decoding.batching import check_prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.policy import Policy
from dinado_jax.decoding.sampler import Sampler, sample_in_groups
from dinado_jax.decoding.score import score as score_rows
from dinado_jax.decoding.stream import NewTokens, iter_tokens
from dinado_jax.errors import InputError, quote
from dinado_jax.models.codec import Codec
from dinado_jax.models.protocol import BaseModel
from dinado_jax.utils import arguments
from dinado_jax.utils.arguments import POSITIVE

_LEAST_ROWS = 8  # as fast as one: a step's time is that of reading the parameters


class Decodable(Protocol):
    """A model to decode from: a base, or a base under controls."""

    @property
    def base(self) -> "DecodableBase":
        """Of a base, itself."""
        ...

    @property
    def policy(self) -> Policy: ...

    @property
    def variables(self) -> Any:
        """Of the policy."""
        ...

    @property
    def least_new_tokens(self) -> int:
        """How many a text may need; with fewer a guarantee would not hold."""
        ...

    def for_prompts(self, prompts: PromptSet) -> tuple[Self, PromptSet]:
        """The model with what it reads of these prompts, and the prompts with their condition."""
        ...


class DecodableBase(Decodable, Protocol):
    """A frozen model with its tokenizer."""

    @property
    def model(self) -> BaseModel: ...

    @property
    def params(self) -> Any: ...

    @property
    def codec(self) -> Codec: ...

    @property
    def max_new_tokens(self) -> int:
        """The most that is drawn where nothing else is asked for."""
        ...


Model = TypeVar("Model", bound=Decodable)


@dataclasses.dataclass(frozen=True, repr=False)
class Completion:
    """One sample; the three arrays are [tokens], log-probabilities in nats."""

    prompt: str
    text: str
    tokens: np.ndarray  # int32, the stop token included
    log_probs: np.ndarray  # under the composed distribution q (temperature and truncation aside)
    log_probs_base: np.ndarray  # under the base p
    finished: bool  # ended by itself, not cut at max_new_tokens
    label: float | None = None  # of the oracle, in [0, 1], where one has judged it

    @property
    def log_prob(self) -> float:
        """Nats of the whole text under q."""
        return float(self.log_probs.sum())

    def __repr__(self) -> str:
        end = "finished" if self.finished else "cut"
        return (
            f"Completion({quote(self.prompt)} -> {quote(self.text)}, {len(self.tokens)} tokens, "
            f"{end}; {self.log_probs.sum():.2f} nats, {self.log_probs_base.sum():.2f} in the base)"
        )


class Piece(NamedTuple):
    """A part of a text that is being drawn: joined, those of one index are the text."""

    index: int  # of the text among all that are drawn, prompt by prompt
    prompt: str
    text: str
    last: bool  # whether nothing follows


class MethodSettings(TypedDict, total=False):
    """The fields of `Method`."""

    temperature: float
    top_k: int
    top_p: float


@overload
def generate(  # noqa: D418
    model: Decodable,
    prompts: Sequence[str] | PromptSet,
    *,
    max_new_tokens: int | None = None,
    samples: int = 1,
    seed: int = 0,
    batch: int = 64,
    stream: Literal[False] = False,
    **method: Unpack[MethodSettings],
) -> list[Completion]:
    """Returns whole texts."""
    ...


@overload
def generate(  # noqa: D418
    model: Decodable,
    prompts: Sequence[str] | PromptSet,
    *,
    max_new_tokens: int | None = None,
    samples: int = 1,
    seed: int = 0,
    batch: int = 64,
    stream: Literal[True],
    **method: Unpack[MethodSettings],
) -> Iterator[Piece]:
    """Yields texts piece by piece."""
    ...


@arguments.known_keywords("how much control is set by model.tilted(strength=0.5)")
def generate(
    model: Decodable,
    prompts: Sequence[str] | PromptSet,
    *,
    max_new_tokens: int | None = None,
    samples: int = 1,
    seed: int = 0,
    batch: int = 64,
    stream: bool = False,
    **method: Unpack[MethodSettings],
) -> list[Completion] | Iterator[Piece]:
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
      stream: whether to hand out the same texts piece by piece, while they are drawn.
      **method: temperature, top_k and top_p, as for `Method`: 0 is greedy, 0 and 1 are off.

    Returns:
      The completions, prompt by prompt; with `stream` an iterator of pieces of all texts of a
      batch, then of the next one.

    Raises:
      InputError: for bad settings, no or too long prompts, one text instead of a list, or logits
        that are nan or infinite.
    """
    key, how = jax.random.key(arguments.require_seed(seed)), Method(**method)
    model, texts, tokens, new_tokens = begin(model, prompts, max_new_tokens)
    codec = model.base.codec
    sampler = Sampler(model.policy, how, codec.stop_ids, new_tokens, samples, scores=True)
    batch = rows_at_once(len(texts) * sampler.samples, batch)
    if stream:
        drawn = iter_tokens(sampler, model.variables, tokens, key, batch)
        return _pieces(codec, texts, samples, drawn)
    drawn = sample_in_groups(sampler, model.variables, tokens, key, batch)
    assert drawn.log_policy is not None  # the sampler scores
    found = Found(
        prompt=np.arange(len(drawn.length)) // sampler.samples,
        tokens=[row[:length] for row, length in zip(drawn.tokens, drawn.length)],
        finished=drawn.finished,
        log_policy=drawn.log_policy,
        log_base=drawn.log_base,
    )
    return as_completions(model, texts, tokens, found, batch)


def _pieces(
    codec: Codec, texts: list[str], samples: int, drawn: Iterable[NewTokens]
) -> Iterator[Piece]:
    """The text that each row's new tokens add to what is there of it."""
    ids: dict[int, list[int]] = {}
    sent: dict[int, str] = {}
    for row, tokens, ended in drawn:
        for index, new in zip(row.tolist(), tokens):
            ids.setdefault(index, []).extend(new.tolist())
        known = codec.decode([ids[index] for index in row.tolist()])
        for index, text, last in zip(row.tolist(), known, ended.tolist()):
            if not last:
                text = text.rstrip("\ufffd")  # in place of a part of a character
            before = sent.get(index, "")
            sent[index] = text
            if last or text != before:
                yield Piece(index, texts[index // samples], text[len(before) :], last)


def rows_at_once(wanted: int, batch: int) -> int:
    """Rows at a time: at most `batch`, and else a power of two from 8, so that few programs do."""
    batch = arguments.require_integer("batch", batch, *POSITIVE)
    return min(batch, 1 << (max(_LEAST_ROWS, wanted) - 1).bit_length())


def begin(
    model: Model, prompts: Sequence[str] | PromptSet, max_new_tokens: int | None
) -> tuple[Model, list[str], TokenizedPrompts, int]:
    """The model with what it reads of the prompts, the prompts, their token ids, and how many
    tokens to draw at most.

    Raises:
      InputError: for fewer than the texts of the model may need, too.
    """
    model, texts, tokens = read(model, prompts)
    least = model.least_new_tokens
    if max_new_tokens is not None:
        asked = arguments.require_integer("max_new_tokens", max_new_tokens, *POSITIVE)
        if asked < least:
            raise InputError(
                f"max_new_tokens = {asked}: the guarantee was made for texts of {least} tokens, "
                "raise it, or call guarantee with fewer"
            )
        check_prompts(model.policy, tokens, asked)
        return model, texts, tokens, asked
    check_prompts(model.policy, tokens, least)
    room = model.policy.context_length - max(map(len, tokens.tokens))
    return model, texts, tokens, min(max(model.base.max_new_tokens, least), room)


def read(
    model: Model, prompts: Sequence[str] | PromptSet
) -> tuple[Model, list[str], TokenizedPrompts]:
    """The model with what it reads of the prompts, the prompts, and their token ids."""
    given = prompts if isinstance(prompts, PromptSet) else PromptSet(prompts)
    texts = arguments.require_texts("prompt", given.texts)
    model, given = model.for_prompts(dataclasses.replace(given, texts=texts))
    names = given.names or names_of(texts)
    ids = model.base.codec.prompts(texts)
    return model, texts, TokenizedPrompts(ids, given.condition, names, given.ids)


def names_of(prompts: Sequence[str]) -> list[str]:
    """What messages call them."""
    return [f"prompt {i} ({quote(text[:40])})" for i, text in enumerate(prompts)]


@dataclasses.dataclass(frozen=True)
class Found:
    """R continuations."""

    prompt: np.ndarray  # int [R], the number of the prompt that each continues
    tokens: list[np.ndarray]  # int32 [length] each
    finished: np.ndarray  # bool [R]
    log_policy: np.ndarray  # float32 [R, N] nats of each token, 0 after the end
    log_base: np.ndarray | None  # None where decoding did not know the base


def as_completions(
    model: Decodable, texts: list[str], prompts: TokenizedPrompts, found: Found, batch: int
) -> list[Completion]:
    """With text, and log-probabilities cut to the length of each row."""
    under_p = found.log_base
    if under_p is None:  # q was decoded in a single pass
        base = model.base
        under_p = found.log_policy if base is model else _score_base(base, prompts, found, batch)
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
    base: DecodableBase, prompts: TokenizedPrompts, found: Found, batch: int
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

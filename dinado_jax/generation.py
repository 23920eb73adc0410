"""Text in, text out: decoding from Python.

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
from dinado_jax.data.sequences import Sequences, sequences
from dinado_jax.decoding.batching import check_prompts
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.policy import Policy
from dinado_jax.decoding.sampler import Sampler, sample_in_groups
from dinado_jax.decoding.score import score as score_rows
from dinado_jax.decoding.stream import NewTokens, iter_tokens
from dinado_jax.errors import InputError, quote
from dinado_jax.guides.alternatives import best_tokens
from dinado_jax.guides.prompt_values import prefix_values
from dinado_jax.guides.protocol import Guide
from dinado_jax.guides.tilt import Tilt
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


class Guided(Decodable, Protocol):
    """A `Decodable` of one guide, such as a trained control."""

    @property
    def control(self) -> Guide: ...

    @property
    def tilt(self) -> Tilt: ...

    @property
    def params(self) -> Any:
        """Of the guide."""
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


@dataclasses.dataclass(frozen=True, repr=False)
class PrefixValues:
    """What a control makes of a text, token by token; it has L tokens."""

    prompt: str
    text: str
    tokens: list[str]  # [L] the text that each adds; the stop token by its name
    values: np.ndarray  # float32 [L + 1]: V(prompt), then R after each token
    log_probs: np.ndarray  # float32 [L] nats of each token under q
    log_probs_base: np.ndarray  # float32 [L] nats of each token under the base p
    finished: bool  # the last token is the stop token

    def __repr__(self) -> str:
        return (
            f"PrefixValues({quote(self.prompt)} -> {quote(self.text)}, {len(self.tokens)} tokens, "
            f"R {self.values[0]:.3g} -> {self.values[-1]:.3g})"
        )


@dataclasses.dataclass(frozen=True)
class Alternative:
    """A next token that may follow a prefix."""

    token: str  # the text that it adds; a special token's is its name
    log_prob: float  # nats under q
    log_prob_base: float  # nats under the base p
    value: float  # R after it


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


def score(
    model: Decodable,
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
    model, _, rows = _joined(model, prompts, texts, None)
    return _scores(model, rows, batch)


def values(
    model: Guided,
    prompts: Sequence[str] | PromptSet,
    texts: Sequence[str],
    *,
    finished: Sequence[bool] | None = None,
    batch: int = 64,
) -> list[PrefixValues]:
    """Computes R, the success rate of the base that a control predicts, after each token of texts.

    R after a token is what decoding weighs it by: q(v | x) = p(v | x) R(x, v) / V(x). The kind
    `hard` has V(x) = R(x), the value after the token before; the norm of the others estimates V of
    every prefix anew, and only that of the prompt is among the values. Hard controls of form
    clamped may have R above 1. The tilt has an effect on `log_probs` alone.

    Args:
      model: a base under one control or guide.
      prompts: N texts, as for `generate`.
      texts: N texts that continue them.
      finished: [N], whether each text ends there, so that the stop token is scored; None: all do.
      batch: rows read at once.

    Returns:
      N results.

    Raises:
      InputError: as for `score`.
    """
    model, asked, rows = _joined(model, prompts, texts, finished)
    parts = (model.base.model, model.control, model.base.params, model.params)
    own = prefix_values(*parts, rows, rows_at_once(len(rows), batch))
    codec = model.base.codec
    return [
        PrefixValues(
            prompt=prompt,
            text=text,
            tokens=codec.pieces(tokens[start:end]),
            values=value[: 1 + end - start],
            log_probs=log_q,
            log_probs_base=log_p,
            finished=bool(end > start and tokens[end - 1] == codec.eos_id),
        )
        for (prompt, text), value, log_q, log_p, tokens, start, end in zip(
            asked,
            own,
            _scores(model, rows, batch),
            _scores(model.base, rows, batch),
            rows.tokens.tolist(),
            rows.prompt_length.tolist(),
            rows.length.tolist(),
            strict=True,
        )
    ]


def alternatives(
    model: Guided, prompt: str, text: str, *, finished: bool = True, count: int = 3
) -> list[list[Alternative]]:
    """Finds what q would most probably have drawn in place of each token of a text.

    Args:
      model: a base under one control or guide.
      prompt: that the text continues.
      text: as for `values`, which says what its tokens are.
      finished: whether it ends there, so that the stop token is one of its L tokens.
      count: of tokens at each place, the token of the text left out.

    Returns:
      L lists, the most probable token first.

    Raises:
      InputError: as for `score`, and for a bad count.
    """
    count = arguments.require_integer("count", count, *POSITIVE)
    model, _, rows = _joined(model, [prompt], [text], [finished])
    base, codec = model.base, model.base.codec
    parts = (base.model, model.control, model.tilt, base.params, model.params, rows)
    best = best_tokens(*parts, min(count + 1, base.model.vocab_size))
    start, end = int(rows.prompt_length[0]), int(rows.length[0])
    before, found = rows.tokens[0, start:end].tolist(), []
    for place, own in enumerate(before):
        of_place = zip(*(leaf[0, place].tolist() for leaf in best), strict=True)
        others = [each for each in of_place if each[0] != own and each[1] > -np.inf][:count]
        found.append(
            [
                Alternative(codec.pieces([*before[:place], token])[-1], *numbers)
                for token, *numbers in others
            ]
        )
    return found


def _joined(
    model: Model,
    prompts: Sequence[str] | PromptSet,
    texts: Sequence[str],
    finished: Sequence[bool] | None,
) -> tuple[Model, list[tuple[str, str]], Sequences]:
    """The model with what it reads of the prompts, the pairs of prompt and text, and their rows."""
    asked = arguments.require_texts("text", texts)
    model, known, tokens = _read(model, prompts)
    check_prompts(model.policy, tokens, 1)
    ends = [True] * len(asked) if finished is None else list(finished)
    if not len(known) == len(asked) == len(ends):
        flags = "" if finished is None else f" and {len(ends)} values of finished"
        raise InputError(
            f"{len(known)} prompts and {len(asked)} texts{flags}: give one text per prompt"
        )
    codec, limit = model.base.codec, model.base.model.context_length
    targets = [ids if end else ids[:-1] for ids, end in zip(codec.targets(asked), ends)]
    for index, (prompt, target) in enumerate(zip(tokens.tokens, targets)):
        if (over := len(prompt) + len(target) - limit) > 0:
            raise InputError(
                f"text {index} and its prompt are {over} tokens more than the context of {limit} "
                "holds: shorten one of them"
            )
    rows = sequences(tokens.tokens, targets, codec.eos_id, limit)
    rows = dataclasses.replace(rows, condition=tokens.condition)
    return model, list(zip(known, asked)), rows


def _scores(model: Decodable, rows: Sequences, batch: int) -> list[np.ndarray]:
    """Log-probabilities of the targets, [tokens] nats each."""
    scores = score_rows(model.policy, model.variables, rows, rows_at_once(len(rows), batch))
    ends = zip(scores, rows.prompt_length - 1, rows.length - 1)
    return [row[start:end] for row, start, end in ends]


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
    model, texts, tokens = _read(model, prompts)
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


def _read(
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

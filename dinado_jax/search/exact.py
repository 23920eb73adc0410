"""Exact search for the likeliest text of every length, for small models and short texts.

The likeliest of all texts is often empty or cut short, while the likeliest of a given length is
fluent (arXiv 2311.08817). Depth first, with the best finished text of every length in hand: a
prefix is left where its probability is not above that of the best text of any length it can still
have. No probability grows with more tokens, so nothing is lost.

L tokens of a text, its stop token included; N the most; V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from dinado_jax.data.batching import bucket
from dinado_jax.data.prompts import Prompts
from dinado_jax.data.sequences import pad
from dinado_jax.decoding.policy import ModelPolicy
from dinado_jax.errors import InputError, quote
from dinado_jax.generation import Decodable, begin
from dinado_jax.oracles.callables import named_oracle
from dinado_jax.oracles.judge import Oracle, judge
from dinado_jax.utils import arguments

Prefix = tuple[int, ...]


@dataclasses.dataclass(frozen=True, repr=False)
class Mode:
    """The likeliest finished text of its number of tokens after a prompt."""

    prompt: str
    text: str
    tokens: np.ndarray  # int32 [L], the stop token included
    log_prob: float  # nats of the whole text
    label: float | None  # C of the oracle, above 0; None without one
    # Nats: no text of L tokens has more, log C included. It is the text's own unless the search
    # ended before it was over.
    bound: float

    @property
    def exact(self) -> bool:
        """Whether no text of so many tokens is likelier."""
        return self.bound <= _joint(self.log_prob, self.label)

    def __repr__(self) -> str:
        end = "exact" if self.exact else f"at most {self.bound:.2f}"
        return (
            f"Mode({quote(self.prompt)} -> {quote(self.text)}, {len(self.tokens)} tokens, "
            f"{self.log_prob:.2f} nats, {end})"
        )


def length_modes(
    model: Decodable,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    oracle: str | Callable[..., Any] | None = None,
    expansions: int = 20_000,
    batch: int = 64,
) -> list[Mode]:
    """Finds the likeliest finished text of each prompt for every number of tokens.

    Args:
      model: a base, or a base under an untilted merge control without state, whose q is one model.
      prompts: as for `generate`.
      max_new_tokens: N, the stop token included.
      oracle: as for `evaluate`: the texts are the modes of p C instead of p. It is asked about
        those that are likelier than the best so far, and refuses those on which it fails.
      expansions: prefixes of each prompt that the model may read; more than a few tokens from a
        large vocabulary may take any number. Where they run out, `Mode.exact` and `Mode.bound` say
        of each length what is known.
      batch: prefixes read at once.

    Returns:
      The modes, prompt by prompt, from the shortest on. A length with no text is left out.

    Raises:
      InputError: as for `generate`, and for a model that is several models at once.
    """
    count = arguments.require_integer("expansions", expansions, *arguments.POSITIVE)
    rows = arguments.require_integer("batch", batch, *arguments.POSITIVE)
    model, texts, tokens, N = begin(model, prompts, max_new_tokens)
    if not isinstance(model.policy, ModelPolicy):
        raise InputError(
            "exact search reads one model: give a base or an untilted merge control without "
            "state, and what guides it as oracle; beam_search takes any"
        )
    judged = None if oracle is None else named_oracle(oracle, texts).function
    modes = []
    for text, prompt in zip(texts, tokens.tokens):
        search = _Search(model, model.policy, text, tuple(prompt), N, judged, rows)
        search.run(count)
        modes += search.modes()
    return modes


def _joint(log_prob: float, label: float | None) -> float:
    return log_prob if label is None else log_prob + float(np.log(label))


@dataclasses.dataclass
class _Frame:
    """A prefix, and those of its next tokens that have not been read, the likeliest first."""

    prefix: Prefix
    tokens: np.ndarray  # int64
    log_probs: np.ndarray  # float64 nats of the prefix with the token

    def take(self, count: int, above: float) -> list[tuple[Prefix, float]]:
        """Takes up to `count` of the continuations of log-probability above `above`."""
        n = min(count, int((self.log_probs > above).sum()))
        taken = [
            ((*self.prefix, int(token)), float(log_prob))
            for token, log_prob in zip(self.tokens[:n], self.log_probs[:n])
        ]
        self.tokens, self.log_probs = self.tokens[n:], self.log_probs[n:]
        return taken


@dataclasses.dataclass
class _Search:
    """Of one prompt."""

    model: Decodable
    policy: ModelPolicy
    text: str  # the prompt
    prompt: Prefix
    most: int  # N
    oracle: Oracle | None
    batch: int

    def __post_init__(self):
        self.best = np.full(self.most + 1, -np.inf)  # of each L, nats, log C included
        self.found: dict[int, tuple[Prefix, float, float | None]] = {}
        self.frames: list[_Frame] = []
        self.read = 0

    def run(self, expansions: int) -> None:
        """Reads as many prefixes, or all that matter."""
        (root,) = self._expanded([((), 0.0)])
        # A beam search first: the better the texts in hand, the sooner prefixes are left.
        level = [dataclasses.replace(root)]
        while level and self.read + self.batch <= expansions:
            above = self._threshold(len(level[0].prefix) + 1)
            nexts = [one for frame in level for one in frame.take(self.batch, above)]
            nexts = sorted(nexts, key=lambda one: -one[1])[: self.batch]
            level = self._expanded(nexts) if nexts else []
        self.frames = [root]
        while self.frames and self.read < expansions:
            frame = self.frames[-1]
            count = min(self.batch, expansions - self.read)
            nexts = frame.take(count, self._threshold(len(frame.prefix) + 1))
            if nexts:
                self.frames += reversed(self._expanded(nexts))
            else:
                self.frames.pop()

    def modes(self) -> list[Mode]:
        """What has been found."""
        bound = self.best.copy()
        for frame in self.frames:
            if frame.log_probs.size:
                later = slice(len(frame.prefix) + 2, None)
                bound[later] = np.maximum(bound[later], frame.log_probs[0])
        decode = self.model.base.codec.decode
        return [
            Mode(
                self.text,
                decode([list(tokens)])[0],
                np.array(tokens, np.int32),
                log_prob,
                label,
                float(bound[length]),
            )
            for length, (tokens, log_prob, label) in sorted(self.found.items())
        ]

    def _threshold(self, length: int) -> float:
        """What a prefix of so many tokens must exceed to be worth reading."""
        return float(self.best[length + 1 :].min(initial=np.inf))

    def _expanded(self, prefixes: Sequence[tuple[Prefix, float]]) -> list[_Frame]:
        """Reads prefixes, of these log-probabilities, and takes up the texts that end there."""
        self.read += len(prefixes)
        tables = self._next_log_probs([prefix for prefix, _ in prefixes])
        stop_ids = list(self.model.base.codec.stop_ids)
        ended = [
            ((*prefix, stop), log_prob + float(table[stop]))
            for (prefix, log_prob), table in zip(prefixes, tables)
            for stop in stop_ids
        ]
        self._take_up([one for one in ended if one[1] > self.best[len(one[0])]])
        frames = []
        for (prefix, log_prob), table in zip(prefixes, tables):
            total = log_prob + table
            total[stop_ids] = -np.inf
            worth = np.flatnonzero(total > self._threshold(len(prefix) + 1))
            worth = worth[np.argsort(-total[worth], kind="stable")]
            frames.append(_Frame(prefix, worth, total[worth]))
        return frames

    def _take_up(self, ended: list[tuple[Prefix, float]]) -> None:
        """Keeps the best of some finished texts for each length."""
        labels: list[float | None] = [None] * len(ended)
        if self.oracle is not None and ended:
            texts = self.model.base.codec.decode([list(tokens) for tokens, _ in ended])
            result = judge(self.oracle, [self.text] * len(texts), texts)
            labels = np.where(result.failed, 0.0, result.labels).tolist()
        for (tokens, log_prob), label in zip(ended, labels):
            if label == 0:
                continue
            joint = _joint(log_prob, label)
            if joint > self.best[len(tokens)]:
                self.best[len(tokens)] = joint
                self.found[len(tokens)] = tokens, log_prob, label

    def _next_log_probs(self, prefixes: list[Prefix]) -> np.ndarray:
        """float64 [n, V] nats."""
        rows = [[*self.prompt, *prefix] for prefix in prefixes]
        filled = rows + [list(self.prompt)] * (self.batch - len(rows))
        width = bucket(len(self.prompt) + self.most, self.policy.context_length)
        lengths = np.array([len(row) for row in filled], np.int32)
        given = Prompts(pad(filled, self.model.base.codec.eos_id, width), lengths)
        log_probs = _log_probs(self.policy, self.model.variables, given)
        return np.asarray(log_probs, np.float64)[: len(rows)]


@functools.partial(jax.jit, static_argnums=0)
def _log_probs(policy: ModelPolicy, variables: Any, prompts: Prompts) -> jax.Array:
    # The carry is not used, so its caches are never computed.
    return jax.nn.log_softmax(policy.prefill(variables, prompts, 1, 1)[0].policy)

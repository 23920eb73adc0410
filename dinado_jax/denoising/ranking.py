"""Candidates that a denoiser has written, and their order by a model and an oracle."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from dinado_jax.errors import quote
from dinado_jax.generation import Decodable
from dinado_jax.oracles.judge import Oracle, judge, require_labels
from dinado_jax.scoring import score


@dataclasses.dataclass(frozen=True, repr=False)
class Candidate:
    """A text that `Writer.write` has written."""

    text: str
    tokens: list[int]
    log_probs: np.ndarray  # float32 [N] nats, its sum after each step, see `decoding.Drawn`
    score: float  # nats, by which candidates are ranked, see `Writer.write`
    label: float | None = None  # of the oracle, in [0, 1]; None without one

    def __repr__(self) -> str:
        label = "" if self.label is None else f", label {self.label:.3g}"
        return f"Candidate({quote(self.text)}, score {self.score:.4g}{label})"


@dataclasses.dataclass(frozen=True, repr=False)
class Written:
    """What was written for a prompt."""

    prompt: str
    candidates: list[Candidate]  # K, the best first

    @property
    def text(self) -> str:
        """Of the best candidate."""
        return self.candidates[0].text

    def __repr__(self) -> str:
        return f"Written({quote(self.prompt)} -> {self.candidates[0]!r})"


def scored_by(model: Decodable, written: Sequence[Written], batch: int) -> list[Written]:
    """Replaces the scores by the log-probability of each whole text after its prompt (nats).

    InputError as `scoring.score`.
    """
    scores = score(model, *_pairs(written), batch=batch)
    return _with(written, "score", [float(own.sum()) for own in scores])


def labelled_by(oracle: Oracle, written: Sequence[Written]) -> list[Written]:
    """Adds the oracle's labels; 0 where it fails. InputError if it fails on every text."""
    result = judge(oracle, *_pairs(written))
    require_labels(oracle, result)
    labels = np.where(result.failed, 0.0, np.float64(result.labels))
    return _with(written, "label", labels.tolist())


def ranked(written: Sequence[Written]) -> list[Written]:
    """Sorts the candidates of each prompt by score + log C, those with C = 0 last, by score."""
    return [
        dataclasses.replace(one, candidates=sorted(one.candidates, key=_rank, reverse=True))
        for one in written
    ]


def _rank(one: Candidate) -> tuple[float, float]:
    log_label = 0.0 if one.label is None else math.log(one.label) if one.label else -math.inf
    return one.score + log_label, one.score


def _pairs(written: Sequence[Written]) -> tuple[list[str], list[str]]:
    """The prompts and the texts of all candidates."""
    pairs = [(one.prompt, each.text) for one in written for each in one.candidates]
    return [prompt for prompt, _ in pairs], [text for _, text in pairs]


def _with(written: Sequence[Written], name: str, values: Sequence[float]) -> list[Written]:
    """Sets a field of all candidates, in their order."""
    rest = iter(values)
    return [
        dataclasses.replace(
            one,
            candidates=[dataclasses.replace(each, **{name: next(rest)}) for each in one.candidates],
        )
        for one in written
    ]

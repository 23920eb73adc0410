"""What a model makes of given texts: log-probabilities, values of prefixes, other next tokens.

The functions take models as `generation.generate` does. Those of language_model.py have them as
methods too.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from dinado_jax.data.prompts import PromptSet
from dinado_jax.data.sequences import Sequences, sequences
from dinado_jax.decoding.batching import check_prompts
from dinado_jax.decoding.score import score as score_rows
from dinado_jax.errors import InputError, quote
from dinado_jax.generation import Decodable, Model, read, rows_at_once
from dinado_jax.guides.alternatives import best_tokens
from dinado_jax.guides.prompt_values import prefix_values
from dinado_jax.guides.protocol import Guide
from dinado_jax.guides.tilt import Tilt
from dinado_jax.utils import arguments
from dinado_jax.utils.arguments import POSITIVE


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

    Decoding weights each next token by its R: q(v | x) = p(v | x) R(x, v) / V(x). For the kind
    `hard` V(x) = R(x), the value after the previous token. For the other kinds the norm predicts V
    of every prefix separately, and only that of the prompt is among the values. Hard controls of
    form clamped may have R above 1. The tilt has an effect on `log_probs` alone.

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
    model, known, tokens = read(model, prompts)
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

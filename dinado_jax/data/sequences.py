"""Rows of prompt and target token ids in padded arrays, on the host."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from dinado_jax.errors import InputError


def check_tokens(rows: Sequence[Sequence[int]], vocab_size: int, what: str) -> None:
    """Checks that token ids lie in the vocabulary: devices would clamp them silently.

    Args:
      rows: of token ids.
      vocab_size: V.
      what: rows are, for the message.

    Raises:
      InputError: naming the first id outside [0, V).
    """
    for index, row in enumerate(rows):
        bad = [token for token in row if not 0 <= token < vocab_size]
        if bad:
            raise InputError(
                f"token id {bad[0]} in {what} {index} is outside the vocabulary of {vocab_size}: "
                "use the model's own tokenizer"
            )


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Rows of prompt and target in one padded array: N rows of at most T tokens."""

    tokens: np.ndarray  # int32 [N, T], right-padded with the eos id
    prompt_length: np.ndarray  # int32 [N], tokens before the target, >= 1
    length: np.ndarray  # int32 [N], tokens in all, the closing eos included
    condition: Any = dataclasses.field(default=None, kw_only=True)  # pytree of [N, ...]

    def __len__(self) -> int:
        return len(self.length)


def pad(rows: Sequence[Sequence[int]], fill: int, width: int | None = None) -> np.ndarray:
    """Pads rows on the right with the token id `fill`: int32 [N, width], as wide as the longest row
    by default.
    """
    width = max(map(len, rows)) if width is None else width
    out = np.full((len(rows), width), fill, np.int32)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
    return out


def sequences(
    prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], fill: int, max_length: int
) -> Sequences:
    """Joins prompts and targets, without the rows longer than `max_length` tokens.

    Args:
      prompts: N rows of token ids.
      targets: N rows, eos included.
      fill: token id to pad with.
      max_length: tokens of prompt and target.

    Raises:
      InputError: if no row fits.
    """
    pairs = [(p, t) for p, t in zip(prompts, targets, strict=True) if len(p) + len(t) <= max_length]
    if not pairs:
        raise InputError(
            f"no example fits in {max_length} tokens: raise sft.max_length and base.n_positions"
        )
    return Sequences(
        pad([[*p, *t] for p, t in pairs], fill),
        np.array([len(p) for p, _ in pairs], np.int32),
        np.array([len(p) + len(t) for p, t in pairs], np.int32),
    )


def windows(
    prompts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    fill: int,
    length: int,
    fix: str = "raise sft.max_length and base.n_positions",
) -> Sequences:
    """Joins prompts and targets, and cuts the rows into windows, so that each token of a target is
    a target in exactly one of them.

    With length 4, p a prompt of one token and a .. e its target:

        p a b c    prompt p
        c d e      prompt c: a window begins with the last token of the one before

    Args:
      prompts: N rows of token ids.
      targets: N rows, eos included.
      fill: token id to pad with.
      length: tokens of the longest window.
      fix: ends the message.

    Raises:
      InputError: if the prompts leave no room for a token of the target.
    """
    longest = max(map(len, prompts))
    if longest >= length:
        raise InputError(f"{longest} tokens before the text leave no room in {length}: {fix}")
    rows, before = [], []
    for prompt, target in zip(prompts, targets, strict=True):
        row = [*prompt, *target]
        for start in range(0, len(row) - 1, length - 1):
            rows.append(row[start : start + length])
            before.append(1 if start else len(prompt))
    lengths = np.array([len(row) for row in rows], np.int32)
    return Sequences(pad(rows, fill), np.array(before, np.int32), lengths)

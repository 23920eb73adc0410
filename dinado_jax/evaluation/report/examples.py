"""Samples side by side, failures first, with what the oracle wanted marked in the text."""

import dataclasses
import html
from collections.abc import Sequence
from itertools import groupby

from dinado_jax.evaluation.samples import Sample
from dinado_jax.oracles.judge import is_success
from dinado_jax.tasks.protocol import Wanted, WantedIn

_LONGEST = 2000  # characters of a text that are shown
_MARKUP = 500  # bytes around the texts of a pair


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of a text that is shown in one way."""

    text: str
    wanted: bool  # whether the oracle wanted it


@dataclasses.dataclass(frozen=True)
class Text:
    """A sample as it is shown."""

    succeeds: bool
    pieces: tuple[Piece, ...]
    lacks: tuple[str, ...]  # what the oracle wanted and the text does not have


@dataclasses.dataclass(frozen=True)
class Pair:
    """A sample of each model for the same prompt."""

    prompt: str
    base: Text
    control: Text


def pairs(
    base: Sequence[Sample], control: Sequence[Sample], wanted_in: WantedIn | None, most: int
) -> list[Pair]:
    """Pairs the samples of each prompt in their order: where control fails first, then where the
    base fails.

    Args:
      base, control: in the order of the prompts.
      wanted_in: what the oracle wants of a text; None if it does not say.
      most: bytes of HTML; the last pairs are left out beyond that.
    """
    before, after = (
        {number: list(group) for number, group in groupby(side, lambda s: s.prompt_id)}
        for side in (base, control)
    )
    matched = [
        pair
        for number in sorted(before.keys() & after.keys())
        for pair in zip(before[number], after[number])
    ]
    matched.sort(
        key=lambda pair: (bool(is_success(pair[1].label)), bool(is_success(pair[0].label)))
    )
    found, length = [], 0
    for first, second in matched:
        shown = [_short(text) for text in (first.prompt, first.text, second.text)]
        length += _MARKUP + sum(len(html.escape(text).encode()) for text in shown)
        if length > most:
            break
        found.append(Pair(shown[0], _shown(first, wanted_in), _shown(second, wanted_in)))
    return found


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " …"


def _shown(sample: Sample, wanted_in: WantedIn | None) -> Text:
    wanted = wanted_in(sample.prompt, sample.text) if wanted_in else ()
    return Text(
        bool(is_success(sample.label)),
        _pieces(_short(sample.text), wanted),
        tuple(each.name for each in wanted if not each.present),
    )


def _pieces(text: str, wanted: Sequence[Wanted]) -> tuple[Piece, ...]:
    """Cuts a text where what was wanted begins and ends; what else is to be shown by token would
    cut it here, too.
    """
    spans = sorted(span for each in wanted for span in each.spans)
    pieces, at = [], 0
    for begin, end in spans:
        if begin >= at and end <= len(text):
            pieces += [Piece(text[at:begin], False), Piece(text[begin:end], True)]
            at = end
    return tuple(piece for piece in (*pieces, Piece(text[at:], False)) if piece.text)

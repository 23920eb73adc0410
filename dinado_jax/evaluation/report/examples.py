"""Samples side by side, failures first, with what the oracle wanted and R marked in the text."""

import dataclasses
import html
from collections.abc import Sequence
from itertools import pairwise

from dinado_jax.evaluation.samples import Sample
from dinado_jax.evaluation.token_values import TokenValues, ValuesOf
from dinado_jax.oracles.judge import is_success
from dinado_jax.tasks.protocol import Wanted, WantedIn

_LONGEST = 2000  # characters of a text that are shown
_MARKUP = 500  # bytes around the texts of a pair
_PIECE = 45  # bytes of markup per token that has a value


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of a text that is shown in one way."""

    text: str
    wanted: bool  # whether the oracle wanted it
    value: float | None  # R after the token that it belongs to


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
    prompt_value: float | None  # V(prompt), where the values of the tokens are known
    base: Text
    control: Text


def matched(base: Sequence[Sample], control: Sequence[Sample]) -> list[tuple[int, int]]:
    """Pairs the samples of each prompt in their order: where control fails first, then where the
    base fails.

    Args:
      base, control: in the order of the prompts.

    Returns:
      The number of each sample among those of its model.
    """
    before, after = map(_numbers, (base, control))
    found = [
        pair
        for prompt in sorted(before.keys() & after.keys())
        for pair in zip(before[prompt], after[prompt])
    ]
    return sorted(
        found,
        key=lambda pair: (is_success(control[pair[1]].label), is_success(base[pair[0]].label)),
    )


def _numbers(samples: Sequence[Sample]) -> dict[int, list[int]]:
    """The numbers of the samples of each prompt."""
    found: dict[int, list[int]] = {}
    for number, sample in enumerate(samples):
        found.setdefault(sample.prompt_id, []).append(number)
    return found


def pairs(
    base: Sequence[Sample],
    control: Sequence[Sample],
    wanted_in: WantedIn | None,
    values: ValuesOf,
    most: int,
) -> list[Pair]:
    """The samples as they are shown, in the order of `matched`.

    Args:
      base, control: in the order of the prompts.
      wanted_in: what the oracle wants of a text; None if it does not say.
      values: R after each token, of some samples.
      most: bytes of HTML; the last pairs are left out beyond that.
    """
    found, length = [], 0
    for before, after in matched(base, control):
        own = [values.get(key) for key in (("base", before), ("control", after))]
        first, second = base[before], control[after]
        shown = [_short(text) for text in (first.prompt, first.text, second.text)]
        length += _MARKUP + sum(len(html.escape(text).encode()) for text in shown)
        length += _PIECE * sum(len(each.values) for each in own if each)
        if length > most:
            break
        texts = [_shown(sample, wanted_in, each) for sample, each in zip((first, second), own)]
        found.append(Pair(shown[0], own[1].prompt_value if own[1] else None, *texts))
    return found


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " …"


def _shown(sample: Sample, wanted_in: WantedIn | None, values: TokenValues | None) -> Text:
    wanted = wanted_in(sample.prompt, sample.text) if wanted_in else ()
    return Text(
        bool(is_success(sample.label)),
        _pieces(_short(sample.text), wanted, values),
        tuple(each.name for each in wanted if not each.present),
    )


def _pieces(text: str, wanted: Sequence[Wanted], values: TokenValues | None) -> tuple[Piece, ...]:
    """Cuts a text where what was wanted begins and ends, and after each token."""
    marks, at = [], 0
    for begin, end in sorted(span for each in wanted for span in each.spans):
        if begin >= at and end <= len(text):
            marks.append((begin, end))
            at = end
    tokens, at = [], 0
    for added, value in zip(values.pieces, values.values) if values else ():
        tokens.append((at, at + len(added), value))
        at += len(added)
    cuts = {0, len(text), *(cut for span in marks for cut in span)}
    cuts |= {min(end, len(text)) for _, end, _ in tokens}

    def piece(begin: int, end: int) -> Piece:
        inside = any(a <= begin and end <= b for a, b in marks)
        own = next((value for a, b, value in tokens if a <= begin < b), None)
        return Piece(text[begin:end], inside, own)

    return tuple(piece(*span) for span in pairwise(sorted(cuts)))

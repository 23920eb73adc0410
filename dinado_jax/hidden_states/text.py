"""Log-probabilities of a long text, with hidden-state optimisation or without."""

from typing import NamedTuple

import numpy as np

from dinado_jax.errors import InputError
from dinado_jax.generation import DecodableBase
from dinado_jax.hidden_states.chunks import Windows, read_in_chunks
from dinado_jax.models.params import has_prefix
from dinado_jax.utils import arguments
from dinado_jax.utils.arguments import POSITIVE

CHUNK = 16  # tokens
_LARGEST = 1e6  # step size: keys and values are far smaller


class Reading(NamedTuple):
    """How a text is read."""

    step_size: float = 0.0  # of Adam on the cache; 0: the cache is not updated
    chunk: int = CHUNK  # tokens between updates

    def check(self) -> "Reading":
        """Returns it with numbers of Python. InputError for what is out of range."""
        within = f"0 to {_LARGEST:g}", lambda x: 0 <= x <= _LARGEST
        return Reading(
            arguments.require_number("step_size", self.step_size, *within),
            arguments.require_integer("chunk", self.chunk, *POSITIVE),
        )

    @property
    def updates(self) -> float | None:
        """The step size; None for no updates."""
        return self.step_size or None


PLAIN = Reading()


def check_base(base: DecodableBase) -> None:
    """InputError for a base with a prefix, which no cache that is read in chunks begins with."""
    if has_prefix(base.params):
        raise InputError("the base has a prefix, which is not read in chunks: give one without")


def score_text(
    base: DecodableBase,
    text: str,
    reading: Reading = PLAIN,
    *,
    window: int | None = None,
    batch: int = 8,
) -> list[np.ndarray]:
    """Scores every token of a text; outer white space and the end of the text are left out.

    The text is cut into windows. Each is read as if it were the beginning of a text, with a cache
    of its own; see `chunks.read_in_chunks`.

    Args:
      base: that predicts it.
      text: of any length.
      reading: whether and how the cache is updated.
      window: tokens that are read with one cache, the token that begins a text among them; None for
        the context of the base.
      batch: windows read at once.

    Returns:
      Of each window the log-probabilities of its tokens, float32 [tokens] nats.

    Raises:
      InputError: for a text without tokens or that the tokenizer cannot spell, for settings out of
        range, and for a base with a prefix.
    """
    check_base(base)
    reading, batch = reading.check(), arguments.require_integer("batch", batch, *POSITIVE)
    (begin,) = base.codec.prompts([""])
    room = _room(len(begin), base.model.context_length, window)
    ids = base.codec.targets([text])[0][:-1]
    if not ids:
        raise InputError("the text is empty: give one with at least a word")
    chunk, read = min(reading.chunk, room), min(room, len(begin) + len(ids) - 1)
    if reading.updates and chunk >= read:
        what = "a window" if read == room else "the text"
        raise InputError(
            f"chunk = {reading.chunk}: {what} has {read} tokens, so that no update comes before "
            "its end, give fewer"
        )
    most = room - len(begin) + 1  # tokens of a window: the last one is not read
    rows = [ids[start : start + most] for start in range(0, len(ids), most)]
    batch = min(batch, len(rows))
    scores = []
    for first in range(0, len(rows), batch):
        part = rows[first : first + batch]
        windows = _windows(begin, part, batch, rounded(room, chunk), base.codec.eos_id)
        found, _ = read_in_chunks(base.model, base.params, windows, reading.updates, chunk=chunk)
        start = len(begin) - 1
        scores += [row[start : start + len(own)] for row, own in zip(np.asarray(found), part)]
    require_finite(np.concatenate(scores), reading)
    return scores


def _room(begin: int, context: int, window: int | None) -> int:
    """The tokens of a window, of which `begin` come before the text."""
    if begin > context:
        raise InputError(
            f"{begin} tokens come before a text, and the context has {context}: load the base with "
            "a shorter prompt template"
        )
    within = f"in [{begin}, {context}]", lambda x: begin <= x <= context
    return arguments.require_integer("window", context if window is None else window, *within)


def require_finite(scores: np.ndarray, reading: Reading) -> None:
    """InputError for scores that are not finite."""
    if not np.isfinite(scores).all():
        fix = "check the base's weights"
        if reading.updates:
            fix = f"step_size = {reading.step_size:g} may be too large, lower it"
        raise InputError(f"the base's log-probabilities are not finite: {fix}")


def rounded(tokens: int, chunk: int) -> int:
    """The slots of as many whole chunks as `tokens` need."""
    return -(-tokens // chunk) * chunk


def _windows(begin: list[int], rows: list[list[int]], batch: int, slots: int, pad: int) -> Windows:
    """Arrays [batch, slots] of rows, each after `begin`; missing rows count for nothing."""
    tokens = np.full((batch, slots + 1), pad, np.int32)
    counted = np.zeros((batch, slots), bool)
    for index, row in enumerate(rows):
        ids = [*begin, *row]
        tokens[index, : len(ids)] = ids
        counted[index, len(begin) - 1 : len(ids) - 1] = True
    return Windows(tokens[:, :-1], tokens[:, 1:], counted)  # pyright: ignore[reportArgumentType]

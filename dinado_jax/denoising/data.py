"""Rows of texts and of pairs, and the batches of each step."""

import hashlib
from collections.abc import Sequence

import jax
import numpy as np

from dinado_jax.data.batching import Epochs, bucket
from dinado_jax.data.sequences import Sequences, pad
from dinado_jax.denoising.objective import Pairs
from dinado_jax.errors import InputError, quote
from dinado_jax.models.codec import Codec
from dinado_jax.objectives.sft import NoisyBatch, with_noise
from dinado_jax.objectives.terms import BatchAt
from dinado_jax.tasks.protocol import Example
from dinado_jax.utils.arguments import require_instance
from dinado_jax.utils.progress import print_once

_TRIED = 100  # targets


def source_rows(codec: Codec, texts: Sequence[str]) -> list[list[int]]:
    """Texts between the begin and the end token. InputError as `Codec.prompts`."""
    return [[*ids, codec.eos_id] for ids in codec.prompts(texts)]


def text_rows(codec: Codec, texts: Sequence[str], longest: int, fill: int) -> Sequences:
    """Rows of plain text for a masked language model; longer texts are cut into several rows.

    Args:
      codec: of the model.
      texts: at least one that is not blank; blank ones are left out.
      longest: maximum length of a row in tokens, at least 3.
      fill: id of the padding token.

    Raises:
      InputError: if all texts are blank; as `Codec.prompts`.
    """
    begin, end, room = codec.begin_ids, codec.eos_id, longest - len(codec.begin_ids) - 1
    bodies = [ids[:-1] for ids in codec.targets([text for text in texts if text.strip()])]
    rows = [
        [*begin, *ids[start : start + room], end]
        for ids in bodies
        for start in range(0, len(ids), room)
    ]
    if not rows:
        raise InputError("there is no text to train on: give some")
    lengths = np.array([len(row) for row in rows], np.int32)
    return Sequences(pad(rows, fill), np.ones(len(rows), np.int32), lengths)


def pair_rows(
    codec: Codec, examples: Sequence[Example], longest: tuple[int, int], fill: int
) -> Sequences:
    """Rows of targets, each with its source in `condition`; an example has one per reference.

    Args:
      codec: of the model.
      examples: pairs.
      longest: the most tokens of a source's text and of a target's; longer pairs are counted and
        left out.
      fill: id of the padding token.

    Raises:
      InputError: if none is left; as `Codec.prompts`.
    """
    for one in examples:
        require_instance("example", one, Example, "dinado_jax.tasks.protocol.Example(..)")
        if isinstance(one.references, str):
            raise InputError(f"references = {quote(one.references)}: give a tuple of texts")
    pairs = [(one.prompt, text) for one in examples for text in one.references if text.strip()]
    if not pairs:
        raise InputError("no example has a reference to train on: give pairs")
    _report_changed(codec, [text for _, text in pairs[:_TRIED]])
    sources = source_rows(codec, [prompt for prompt, _ in pairs])
    targets = source_rows(codec, [text for _, text in pairs])
    most = longest[0] + 2, longest[1] + 2
    kept = [
        (source, target)
        for source, target in zip(sources, targets)
        if len(source) <= most[0] and 2 < len(target) <= most[1]
    ]
    if not kept:
        raise InputError(
            f"none of {len(pairs)} pairs fits: sources may have {most[0] - 2} tokens and targets "
            f"{most[1] - 2} (max_length), give shorter ones or a model with more positions"
        )
    if left_out := len(pairs) - len(kept):
        print_once(
            f"{left_out} of {len(pairs)} pairs have more than {most[0] - 2} tokens in the source "
            f"or {most[1] - 2} in the target, left out"
        )
    lengths = [np.array([len(pair[side]) for pair in kept], np.int32) for side in (0, 1)]
    padded = [pad([pair[side] for pair in kept], fill) for side in (0, 1)]
    condition = {"source": padded[0], "source_length": lengths[0]}
    return Sequences(padded[1], np.ones(len(kept), np.int32), lengths[1], condition=condition)


def _report_changed(codec: Codec, texts: Sequence[str]) -> None:
    """Prints that a tokenizer has other forms of texts, as one without capitals."""
    spelled = codec.decode([ids[:-1] for ids in codec.targets(texts)])
    changed = [
        (text, own) for text, own in zip(texts, spelled, strict=True) if text.split() != own.split()
    ]
    if changed:
        text, own = map(quote, changed[0])
        print_once(
            f"warning: the tokenizer changes {len(changed)} of the first {len(texts)} targets, "
            f"{text} to {own}: texts are written so, choose another model if that matters"
        )


def digest(rows: Sequences) -> str:
    """SHA-256 of all tokens of rows."""
    arrays = [rows.tokens, *jax.tree.leaves(rows.condition)]
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def text_batches(rows: Sequences, batch: int, seed: int) -> BatchAt:
    """The `NoisyBatch` of each step, a pure function of the step."""
    return with_noise(Epochs(rows, batch, seed).at, seed)


def pair_batches(rows: Sequences, batch: int, seed: int) -> BatchAt:
    """The `Pairs` of each step, a pure function of the step; rows as `pair_rows` makes them."""
    batch_at = text_batches(rows, batch, seed)

    def at(step: int) -> Pairs:
        found: NoisyBatch = batch_at(step)
        source, lengths = found.condition["source"], found.condition["source_length"]
        width = bucket(int(lengths.max()), source.shape[1])
        columns = {**vars(found), "condition": None}
        return Pairs(**columns, source=source[:, :width], source_length=lengths)

    return at

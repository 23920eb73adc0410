"""R after each token of the samples that the report shows first."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from dinado_jax.data.batch import rows_of
from dinado_jax.data.prompts import PromptSet
from dinado_jax.data.sequences import Sequences, sequences
from dinado_jax.evaluation.report.examples import matched
from dinado_jax.evaluation.samples import Sample
from dinado_jax.evaluation.token_values import TokenValues
from dinado_jax.guides.prompt_values import prefix_values
from dinado_jax.language_model import Base, Controlled
from dinado_jax.rollouts.arrays import Rollouts

_PAIRS = 40
_TOKENS = 10_000  # of all of them: about half a megabyte of the page


def shown_values(
    model: Controlled,
    prompts: PromptSet,
    samples: Mapping[str, Sequence[Sample]],
    rollouts: Mapping[str, Rollouts],
    batch: int,
) -> list[TokenValues]:
    """Values the pairs of samples that the report shows first, and of long ones fewer.

    Args:
      model: the base under its control; the tilt has no effect.
      prompts: that the samples continue.
      samples: of "base" and "control".
      rollouts: their rows, in the same order.
      batch: rows read at once.
    """
    names = ("base", "control")
    numbers, tokens = [], 0
    for pair in matched(samples["base"], samples["control"])[:_PAIRS]:
        tokens += sum(samples[name][number].tokens for name, number in zip(names, pair))
        if tokens > _TOKENS:
            break
        numbers += zip(names, pair)
    if not numbers:
        return []
    model, known = model.for_prompts(prompts)
    rows = _rows(model.base, known, [(rollouts[name], number) for name, number in numbers])
    parts = (model.base.model, model.control, model.base.params, model.params)
    found = prefix_values(*parts, rows, min(batch, len(rows)))
    codec = model.base.codec
    values = []
    for (name, number), row, start, end, own in zip(
        numbers, rows.tokens, rows.prompt_length, rows.length, found
    ):
        ids = row[start:end].tolist()
        pieces = [
            "" if token in codec.special_ids else piece
            for token, piece in zip(ids, codec.pieces(ids), strict=True)
        ]
        before, *after = (round(float(value), 4) for value in own[: 1 + len(ids)])
        values.append(TokenValues(name, number, before, tuple(pieces), tuple(after)))
    return values


def _rows(base: Base, prompts: PromptSet, chosen: Sequence[tuple[Rollouts, int]]) -> Sequences:
    """The chosen rows, with the condition of their prompts."""
    spans = [
        (rows.tokens[i].tolist(), int(rows.prompt_length[i]), int(rows.length[i]))
        for rows, i in chosen
    ]
    found = sequences(
        [row[:start] for row, start, _ in spans],
        [row[start:end] for row, start, end in spans],
        base.codec.eos_id,
        base.model.context_length,
    )
    of_prompt = np.array([rows.prompt_id[i] for rows, i in chosen]) - prompts.first_id
    return dataclasses.replace(found, condition=rows_of(prompts.condition, of_prompt))

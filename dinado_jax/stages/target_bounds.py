"""What KL(q* || p) lies between, in a run that decodes by particles: see evaluation/rate_bounds.py.

The run has R0 from below already, by the particles that it chooses texts from; here it is bounded
from above, by particles around a text of the base that is a sample of q*. So both bounds are known
on prompts for which the base has drawn such a text.
"""

from collections.abc import Sequence

import jax
import numpy as np

from dinado_jax.data.prompts import PromptSet
from dinado_jax.evaluation.aggregate import kl_of_target
from dinado_jax.evaluation.rate_bounds import log_rates
from dinado_jax.evaluation.samples import Sample
from dinado_jax.evaluation.stage_figures import TargetBounds
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.search.particles import Drawing, GuidedModel
from dinado_jax.stages.context import Context


def target_bounds(
    context: Context,
    model: GuidedModel,
    prompts: PromptSet,
    base: Rollouts,
    control: Sequence[Sample],
) -> TargetBounds:
    """Draws particles around one sample of the base per prompt, where there is one of q*.

    Args:
      context: of the run.
      model: that particles follow.
      prompts: with the condition that the model reads.
      base: its samples; each is one of q* with probability C.
      control: samples that were chosen among particles of the same prompts.
    """
    decode, seed = context.config.decode, context.config.seed
    label = np.asarray(base.label, np.float64)
    rows = np.flatnonzero(np.random.default_rng(seed).random(len(label)) < label)
    owner, first = np.unique(base.prompt_id[rows], return_index=True)
    rows = rows[first]
    if not len(rows):
        return TargetBounds(0)
    spans = zip(base.tokens[rows], base.prompt_length[rows], base.length[rows])
    kept = [row[start:end].tolist() for row, start, end in spans]
    key = jax.random.key((seed + 2) % 2**32)  # another stream than those of both models' samples
    how = Drawing(decode.particles, decode.max_new_tokens, key, decode.batch)
    above = log_rates(model, prompts.select(owner), context.oracle_calls, how, kept)
    known = set(owner.tolist())
    return TargetBounds(
        len(rows),
        float((np.log(label[rows]) - above).mean()),
        kl_of_target([one for one in control if one.prompt_id in known]),
    )

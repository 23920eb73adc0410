"""Plain samples of base and q as draws of their mixture."""

import dataclasses

from jax.sharding import Mesh

from dinado_jax.decoding.score import score
from dinado_jax.language_model import LanguageModel
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.rollouts.weighting import exclusive_cumsum, log_mixture_weight


def as_mixture(
    rollouts: Rollouts, q: LanguageModel, alpha: float, batch: int, mesh: Mesh | None = None
) -> Rollouts:
    """Reweights plain samples of base and q as draws of the mixture alpha p + (1 - alpha) q.

    p / proposal is then at most 1 / alpha (defensive importance sampling).

    Args:
      rollouts: a share `alpha` of them the base's samples, the rest q's.
      q: a controlled model.
      alpha: in (0, 1).
      batch: rows scored at a time.
      mesh: devices of this process.
    """
    under_p, under_q = (score(m.policy, m.variables, rollouts, batch, mesh) for m in (q.base, q))
    log_ratio = under_q - under_p
    return dataclasses.replace(
        rollouts,
        log_proposal=rollouts.log_base - log_mixture_weight(log_ratio.sum(1), alpha),
        log_prefix=log_mixture_weight(exclusive_cumsum(log_ratio), alpha),
    )

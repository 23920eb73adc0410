"""The objectives by `train.objective`."""

from collections.abc import Callable

from dinado_jax.config.schema import Train
from dinado_jax.objectives.consistency import Consistency
from dinado_jax.objectives.contrastive import GROUP as CONTRAST
from dinado_jax.objectives.contrastive import Contrastive
from dinado_jax.objectives.direction_and_norm import DirectionAndNorm
from dinado_jax.objectives.matching import Likelihood
from dinado_jax.objectives.policy_iteration import PolicyIteration
from dinado_jax.objectives.ppo import Ppo
from dinado_jax.objectives.prefixes import Prefixes
from dinado_jax.objectives.published import Published
from dinado_jax.objectives.ratio import Divergence
from dinado_jax.objectives.regression import RowRegression
from dinado_jax.objectives.reinforce import Reinforce
from dinado_jax.objectives.terms import Objective
from dinado_jax.objectives.variance import GROUP, Variance
from dinado_jax.objectives.warmup import Warmup

OBJECTIVES: dict[str, Callable[[Train], Objective]] = {
    "matching": lambda train: DirectionAndNorm(train, Likelihood()),
    "regression": lambda train: DirectionAndNorm(train, RowRegression.of(train), reads_base=True),
    "variance": lambda train: DirectionAndNorm(train, Variance(train.margin), parts=2 * GROUP),
    "consistency": Consistency,
    "policy_iteration": PolicyIteration,
    "ratio": lambda train: DirectionAndNorm(train, Divergence()),
    "contrastive": lambda train: DirectionAndNorm(
        train, Contrastive(), parts=2 * CONTRAST, reads_base=True, trains_hard=False
    ),
    "reinforce": lambda train: DirectionAndNorm(train, Reinforce(train.margin)),
    "ppo": lambda train: DirectionAndNorm(
        train, Ppo(train.margin), reads_base=True, on_policy=True
    ),
    "prefixes": Prefixes,
    "published": Published,
}


def phases(train: Train) -> list[tuple[int, Objective]]:
    """Returns the objectives of a training run in order, each with the step at which it ends."""
    objective = OBJECTIVES[train.objective](train)
    return [(train.warmup_direction, Warmup(train)), (train.steps, objective)]

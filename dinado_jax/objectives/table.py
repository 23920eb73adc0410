"""The objectives by `train.objective`."""

from collections.abc import Callable

from dinado_jax.config.schema import Train
from dinado_jax.objectives.matching import matching
from dinado_jax.objectives.prefixes import Prefixes
from dinado_jax.objectives.published import Published
from dinado_jax.objectives.ratio import ratio
from dinado_jax.objectives.regression import regression
from dinado_jax.objectives.terms import Objective
from dinado_jax.objectives.warmup import Warmup

OBJECTIVES: dict[str, Callable[[Train], Objective]] = {
    "matching": matching,
    "regression": regression,
    "ratio": ratio,
    "prefixes": Prefixes,
    "published": Published,
}


def phases(train: Train) -> list[tuple[int, Objective]]:
    """Returns the objectives of a training run in order, each with the step at which it ends."""
    objective = OBJECTIVES[train.objective](train)
    return [(train.warmup_direction, Warmup(train)), (train.steps, objective)]

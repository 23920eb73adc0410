"""The interface of an objective: the rollouts of each step, and their loss as sums and weights."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from dinado_jax.controls.control import Control
from dinado_jax.data.batch import Batch
from dinado_jax.rollouts.arrays import Rollouts

BatchAt = Callable[[int], Any]  # of a step: a `Batch`, or a pytree of several
RowsAt = Callable[[int, int], Batch]  # of a step and the number of rows


class Term(NamedTuple):
    """One part of a loss: coefficient * sum / (total weight of the whole batch).

    Sums, never means: they add up exactly over micro-batches and devices that hold different
    numbers of tokens. The weight depends on the batch alone, never on parameters.
    """

    sum: jax.Array  # float32 []
    weight: jax.Array  # float32 []
    coefficient: jax.Array | float = 1.0


class Objective(Protocol):
    """One way to train a control, static and pure. Constructed from the settings of training.

    A new objective is one file with a class of this shape and one line in `objectives/table.py`.
    """

    @property
    def parts(self) -> int:
        """Number of equal parts into which a batch is divided."""
        ...

    @property
    def least_samples(self) -> int:
        """Minimum number of samples per prompt."""
        ...

    @property
    def trains_nado(self) -> bool:
        """Whether it trains the direction nado, whose level is that of R itself."""
        ...

    @property
    def trains_hard(self) -> bool:
        """Whether it trains recursive forms, whose R is a function of q."""
        ...

    @property
    def on_policy(self) -> bool:
        """Whether it needs the newest rollouts to be samples of q, not of a mixture."""
        ...

    @property
    def draws_references(self) -> bool:
        """Whether it trains on the task's references too, if there are any."""
        ...

    def batches(self, rollouts: Rollouts, weight: np.ndarray, seed: int) -> BatchAt:
        """Returns the batch of each step as a pure function of the step.

        Args:
          rollouts: the N rows of all rounds so far.
          weight: float [N], importance weights.
          seed: of the sampling of rows.
        """
        ...

    def terms(
        self, control: Control, params: dict, base_params: dict, batch: Any
    ) -> dict[str, Term]:
        """Computes the terms of the loss (nats) on a micro-batch."""
        ...

    def reads_states(self, control: Control) -> tuple[str, ...]:
        """Names the fields of a batch that need the base's states; ("",) for the batch itself."""
        ...

    def settings_read(self, kind: str) -> set[str]:
        """Names the settings of `train` that it reads for this kind of control, among those that
        not every objective reads.
        """
        ...

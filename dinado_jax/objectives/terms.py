"""What an objective is: which rollouts a step sees, and the loss on them as sums and weights."""

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
    """One part of a loss: coefficient * sum / (weight added up over the whole batch).

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
        """Equal parts that the rows of a batch are divided into."""
        ...

    @property
    def least_samples(self) -> int:
        """Samples per prompt, at least, from which it can learn."""
        ...

    @property
    def draws_references(self) -> bool:
        """Whether references of the task, if there are any, are among its rows."""
        ...

    def batches(self, rollouts: Rollouts, weight: np.ndarray, seed: int) -> BatchAt:
        """The batch of every step, a pure function of it.

        Args:
          rollouts: the N rows of all rounds so far.
          weight: float [N], importance weights.
          seed: of the draws.
        """
        ...

    def terms(
        self, control: Control, params: dict, base_params: dict, batch: Any
    ) -> dict[str, Term]:
        """The terms of the loss (nats) on a micro-batch."""
        ...

    def reads_states(self, control: Control) -> tuple[str, ...]:
        """The fields of a batch whose rows need the base's states; ("",) for the batch itself."""
        ...

    def settings_read(self, kind: str) -> set[str]:
        """The settings of `train` that play a part for this kind of control, of those that not
        every objective reads.
        """
        ...

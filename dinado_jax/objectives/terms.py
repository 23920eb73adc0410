"""What a loss hands to the training step: a sum and its weight, never a mean.

Sums add up exactly over micro-batches and devices that hold different numbers of tokens.
"""

from typing import NamedTuple

import jax


class Term(NamedTuple):
    """One part of a loss: coefficient * sum / (weight added up over the whole batch).

    The weight depends on the batch alone, never on parameters.
    """

    sum: jax.Array
    weight: jax.Array
    coefficient: float = 1.0

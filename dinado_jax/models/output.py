"""What a forward pass returns.

Shapes: B rows, T tokens, D model width, V vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from dinado_jax.ops.linear import linear
from dinado_jax.ops.masks import fill_ids
from dinado_jax.ops.vocab import Classes, Ranges


@struct.dataclass
class Output:
    """Logits in factored form, and the cache.

    Whole logits are large; what is computed from the factors in pieces (ops/vocab.py) never holds
    them.
    """

    hidden: jax.Array  # [B, T, D] states after the final normalisation, activation dtype
    vocabulary: jax.Array  # [V, D] the output head, with its delta, activation dtype
    cache: Any  # a `Cache`; None where no model has been run
    # [B, T, D] states entering each layer that has been run, by its number, activation dtype.
    inputs: dict[int, jax.Array] = struct.field(default_factory=dict)
    classes: Classes | None = None  # [B, T, ..], what a direction adds to these logits

    @property
    def logits(self) -> jax.Array:
        """[B, T, V] float32, the checkpoint's own: also of the model's `excluded_ids`, which p
        leaves out.
        """
        return logits(self.hidden, self.vocabulary)


def logits(hidden: jax.Array, vocabulary: jax.Array, excluded_ids: Ranges = ()) -> jax.Array:
    """Multiplies states by the vocabulary matrix.

    Args:
      hidden: [..., D].
      vocabulary: [V, D].
      excluded_ids: ranges [first, end) of ids whose logits become -inf.

    Returns:
      [..., V] float32.
    """
    with jax.named_scope("unembed"):
        return fill_ids(linear(hidden, vocabulary, jnp.float32), excluded_ids, -jnp.inf)

"""Which tokens would complete an n-gram that a row has had before.

R rows, W columns, V vocabulary.
"""

import chex
import jax
import jax.numpy as jnp

from dinado_jax.ops.masks import among


def repeating(
    history: jax.Array, newest: jax.Array, ignored: tuple[int, ...], vocab_size: int
) -> jax.Array:
    """Marks the tokens that would complete an n-gram of their row's history.

    Args:
      history: int32 [R, W], W >= n - 1; V or more in columns without a token.
      newest: int32 [R, n - 1], the last tokens of each row.
      ignored: ids that are never marked, not empty.
      vocab_size: V.

    Returns:
      bool [R, V].
    """
    chex.assert_rank([history, newest], 2)
    chex.assert_equal_shape_prefix([history, newest], 1)
    m = newest.shape[1]
    # after[:, j] follows the m tokens history[:, j : j + m]: a repetition of `newest`, it would
    # complete the same n-gram.
    after = history[:, m:]
    same = jnp.ones(after.shape, bool)
    for i in range(m):
        same &= history[:, i : i + after.shape[1]] == newest[:, i : i + 1]
    marked = jnp.where(same & ~among(after, ignored), after, vocab_size)
    rows = jnp.broadcast_to(jnp.arange(len(history))[:, None], marked.shape)
    return jnp.zeros((len(history), vocab_size), bool).at[rows, marked].set(True, mode="drop")


def right_aligned(tokens: jax.Array, lengths: jax.Array, before: int, fill: int) -> jax.Array:
    """Moves right-padded rows to the last column, with `before` columns more than they need. For
    `before` 2 and T = 4, with `fill` F:

        tokens     a b c .        returned   F F F a b c
                   d . . .                   F F F F F d

    Args:
      tokens: int32 [R, T].
      lengths: int32 [R], tokens of each row.
      before: columns.
      fill: what stands where there is no token.

    Returns:
      int32 [R, before + T].
    """
    chex.assert_rank([tokens, lengths], [2, 1])
    T = tokens.shape[1]
    column = jnp.arange(-before, T, dtype=jnp.int32)[None] - T + lengths[:, None]
    shifted = jnp.take_along_axis(tokens, jnp.maximum(column, 0), 1)
    return jnp.where(column < 0, fill, shifted)

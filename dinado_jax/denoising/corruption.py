"""What a denoiser restores: texts some of whose tokens were replaced.

    random    by uniformly random ones, at a rate of each row's own, itself uniform in [0, 1)
              (SUNDAE, Savinov et al., arXiv 2112.06749)
    masked    by the mask token, at a rate that all rows share (masked language models)

Shapes: B rows, T tokens.
"""

import jax
import jax.numpy as jnp

from dinado_jax.denoising.noise import fold_in, uniforms
from dinado_jax.denoising.vocabulary import Vocabulary


def random_tokens(vocabulary: Vocabulary, keys_B: jax.Array, positions: int) -> jax.Array:
    """Uniformly random tokens of text, int32 [B, T], from which decoding starts."""
    return vocabulary.random_text(uniforms(keys_B, positions))


def corrupt_at_random(
    vocabulary: Vocabulary, tokens_BT: jax.Array, text_BT: jax.Array, keys_B: jax.Array
) -> jax.Array:
    """Replaces a share of each row's text that is uniform in [0, 1), position by position.

    A random token may be the one that it replaces.

    Args:
      vocabulary: of the tokens.
      tokens_BT: int32.
      text_BT: bool, the positions that hold text: others stay as they are.
      keys_B: a key of each row.

    Returns:
      int32 [B, T].
    """
    rate_B = jax.vmap(jax.random.uniform)(fold_in(keys_B, 0))
    chosen_BT = uniforms(fold_in(keys_B, 1), tokens_BT.shape[1]) < rate_B[:, None]
    others_BT = random_tokens(vocabulary, fold_in(keys_B, 2), tokens_BT.shape[1])
    return jnp.where(text_BT & chosen_BT, others_BT, tokens_BT)


def masked_positions(rate: float, text_BT: jax.Array, keys_B: jax.Array) -> jax.Array:
    """Chooses the positions that a masked language model restores, each with probability `rate`.

    Args:
      rate: in (0, 1].
      text_BT: bool, the positions that hold text.
      keys_B: a key of each row.

    Returns:
      bool [B, T], within `text_BT`.
    """
    return text_BT & (uniforms(keys_B, text_BT.shape[1]) < rate)

"""What a denoiser knows of its tokenizer, static and hashable."""

import dataclasses

import jax
import jax.numpy as jnp

from dinado_jax.ops.masks import fill_ids
from dinado_jax.ops.vocab import Ranges

_LOW = -1e30  # the logit of an id that is no text; finite, so that 0 times it is 0


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """V token ids, of which some are no text."""

    size: int  # V
    pad_id: int
    begin_id: int  # [CLS], before every text
    end_id: int  # [SEP], after every text
    mask_id: int
    excluded_ids: Ranges  # [first, end) each, in order: these four, and whatever else is no text

    @property
    def texts(self) -> int:
        """How many ids are text."""
        return self.size - sum(end - first for first, end in self.excluded_ids)

    def random_text(self, uniform: jax.Array) -> jax.Array:
        """Uniformly random ids of text, int32, of random numbers float32 in [0, 1) of any shape."""
        tokens = jnp.minimum((uniform * self.texts).astype(jnp.int32), self.texts - 1)
        for first, end in self.excluded_ids:
            tokens = jnp.where(tokens >= first, tokens + (end - first), tokens)
        return tokens

    def text_logits(self, logits: jax.Array) -> jax.Array:
        """Logits [..., V] as float32; ids that are no text have some so low that none occurs."""
        return fill_ids(logits.astype(jnp.float32), self.excluded_ids, _LOW)

"""A trained classifier of texts, on the host."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
import scipy.special

from dinado_jax.classifiers.prefixes import log_odds_after
from dinado_jax.data.batching import by_length
from dinado_jax.data.sequences import Sequences, pad
from dinado_jax.models.codec import Codec
from dinado_jax.models.protocol import BaseModel

# All batches have one shape, so that one program is compiled, and a probability does not depend on
# the texts that it is computed with.
_BATCH = 16


@dataclasses.dataclass(frozen=True)
class Classifier:
    """p(label | text), of whole texts and of their beginnings."""

    model: BaseModel  # the trunk
    codec: Codec
    params: dict[str, Any]  # "trunk", "head" and "bag"
    label: str
    reads_prompt: bool  # or the text alone
    context: int  # tokens that are read of prompt and text
    temperature: float = 1.0  # that log-odds are divided by

    def probabilities(self, prompts: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """The probability that each text, which follows its prompt, has the label.

        Args:
          prompts: [N].
          texts: [N], complete ones; what is beyond the context is not read.

        Returns:
          float64 [N].

        Raises:
          InputError: for a text that the tokenizer cannot spell.
        """
        if not len(texts):
            return np.zeros(0)
        rows = to_rows(self.codec, prompts if self.reads_prompt else None, texts, self.context)
        log_odds = log_odds_of(self.model, self.params, rows)
        return scipy.special.expit(log_odds / self.temperature)


def to_rows(
    codec: Codec, prompts: Sequence[str] | None, texts: Sequence[str], context: int
) -> Sequences:
    """Rows of `context` columns: of a long prompt the last half of that many tokens, of a long text
    its beginning.

    Args:
      codec: of the trunk.
      prompts: [N]; None: each text is read alone.
      texts: [N].
      context: tokens.
    """
    before = [ids[-context // 2 :] for ids in codec.prompts(prompts or [""] * len(texts))]
    rows = [[*p, *t][:context] for p, t in zip(before, codec.targets(texts), strict=True)]
    return Sequences(
        pad(rows, codec.eos_id, context),
        np.array([len(ids) for ids in before], np.int32),
        np.array([len(ids) for ids in rows], np.int32),
    )


def log_odds_of(model: BaseModel, params: dict[str, Any], rows: Sequences) -> np.ndarray:
    """The log-odds after the last token of each row, float64 [N], before the temperature."""
    found, width = np.zeros(len(rows)), rows.tokens.shape[1]
    for index, batch in by_length(rows, _BATCH, width, width):
        last = _last(model, params, batch.tokens, batch.prompt_length, batch.length)
        found[index] = np.asarray(last)[: len(index)]
    return found


@partial(jax.jit, static_argnums=0)
def _last(
    model: BaseModel,
    params: dict[str, Any],
    tokens: jax.Array,
    prompt_length: jax.Array,
    length: jax.Array,
) -> jax.Array:
    log_odds = log_odds_after(model, params, tokens, prompt_length)
    return jax.numpy.take_along_axis(log_odds, length[:, None] - 1, 1)[:, 0]

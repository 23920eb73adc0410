"""Perplexity of texts under a language model, such as another one than the base that wrote them."""

from collections.abc import Sequence

import numpy as np

from dinado_jax.generation import Decodable
from dinado_jax.metrics.protocol import Item, Measured, Sums, TextMetric
from dinado_jax.scoring import score


def perplexity(model: Decodable) -> TextMetric:
    """The metric exp(-log p / tokens) of all texts together, each on its own, without its prompt,
    and with the stop token that ends it. Of equal tokenizers only do values compare.

    Args:
      model: that judges.

    Raises:
      InputError: when measured, for a text too long for the model.
    """

    def measure(items: Sequence[Item]) -> Measured:
        texts = [text for item in items for text in item.texts]
        found = score(model, [""] * len(texts), texts)
        nats = np.array([[-each.sum(dtype=np.float64), len(each)] for each in found])
        ends = np.cumsum([len(item.texts) for item in items])[:-1]
        rows = np.stack([own.sum(0) for own in np.split(nats, ends)])
        return Measured.of_sums(Sums(rows, lambda sums: np.exp(sums[:, 0] / sums[:, 1])))

    return TextMetric("perplexity", "perplexity under --model", measure, needs_references=False)

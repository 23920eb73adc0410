"""A bag of tokens: log-odds that are a sum over the tokens of a text, whatever their order.

Of few texts that is most of what can be learned. It is logistic regression on TF-IDF whose norm
adds up token by token, as if no token were repeated:

    log-odds = bias + sum_t weight[t] / sqrt(sum_t square[t])

Every token counts twice, as itself and as its form, the text that it stands for without case and
outer spaces, which it shares with other tokens. Tokens of which neither was in the texts that were
learned from count nothing, and so does the token that ends texts.

Shapes: N rows, T tokens, V vocabulary, F forms.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from dinado_jax.classifiers.logistic import fit_logistic
from dinado_jax.data.sequences import Sequences
from dinado_jax.models.codec import Codec

_PENALTY = 0.03
_SMALLEST = 1e-6  # of the sum of squares: of a text without a known token both sums are 0


class Bag(NamedTuple):
    """The parameters, arrays of float32."""

    weight: jax.Array  # [V]
    square: jax.Array  # [V]
    bias: jax.Array  # []


def empty_bag(vocab_size: int) -> Bag:
    """The bag that says nothing."""
    nothing = jnp.zeros(vocab_size, jnp.float32)
    return Bag(nothing, nothing, jnp.float32(0))


def bag_log_odds(bag: Bag, weight: jax.Array, square: jax.Array) -> jax.Array:
    """The log-odds of texts, from the sums of their tokens' weights and squares, any shape."""
    return bag.bias + weight * jax.lax.rsqrt(jnp.maximum(square, _SMALLEST))


def bag_log_odds_after(
    bag: Bag, tokens: jax.Array | np.ndarray, prompt_length: jax.Array | np.ndarray
) -> jax.Array:
    """The log-odds after every token, of the text so far: float32 [N, T].

    Args:
      bag: the parameters.
      tokens: int32 [N, T], right-padded.
      prompt_length: int32 [N], tokens before the text, which do not count.
    """
    inside = jnp.arange(tokens.shape[1])[None] >= prompt_length[:, None]
    sums = (jnp.cumsum(jnp.where(inside, of[tokens], 0), 1) for of in (bag.weight, bag.square))
    return bag_log_odds(bag, *sums)


def forms(codec: Codec, vocab_size: int) -> np.ndarray:
    """Maps tokens to their forms: ids from 0, int64 [V]. A token without text is its own form."""
    texts = [text.lower() for text in codec.decode([[id] for id in range(vocab_size)])]
    no_text = "\ufffd"  # in place of a part of a character
    names = [
        text if text and no_text not in text else f"{no_text}{id}" for id, text in enumerate(texts)
    ]
    return np.unique(names, return_inverse=True)[1]


def fit_bag(rows: Sequences, labels: np.ndarray, form: np.ndarray, stop: int) -> Bag:
    """Fits the bag to whole texts.

    Args:
      rows: the texts, behind prompts that do not count.
      labels: bool [N].
      form: int [V], as `forms` returns.
      stop: the token that ends texts.
    """
    position = np.arange(rows.tokens.shape[1])[None]
    counted = (position >= rows.prompt_length[:, None]) & (position < rows.length[:, None])
    row, column = np.nonzero(counted & (rows.tokens != stop))
    token, V, F = rows.tokens[row, column], len(form), 1 + int(form.max())
    scale = np.concatenate(
        [
            _inverse_frequency(len(rows), row, each, count)
            for each, count in ((token, V), (form[token], F))
        ]
    )
    square = scale[:V] ** 2 + scale[V:][form] ** 2
    square[stop] = 0
    norm = np.sqrt(np.bincount(row, square[token], len(rows)))
    features = scipy.sparse.csr_array(
        (
            np.concatenate([scale[token], scale[V:][form[token]]]) / np.tile(norm[row], 2),
            (np.tile(row, 2), np.concatenate([token, V + form[token]])),
        ),
        shape=(len(rows), V + F),
    )
    weights, bias = fit_logistic(features, labels, _PENALTY)
    weights *= scale
    weight = weights[:V] + weights[V:][form]
    weight[stop] = 0
    return Bag(*(jnp.asarray(x, jnp.float32) for x in (weight, square, bias)))


def _inverse_frequency(N: int, row: np.ndarray, feature: np.ndarray, count: int) -> np.ndarray:
    """The weight of each of `count` features by how few of N rows have it, 0 where none has."""
    rows = np.bincount(np.unique(row * count + feature) % count, minlength=count)
    return np.where(rows > 0, np.log((1 + N) / (1 + rows)) + 1, 0)


def held_out_log_odds(
    rows: Sequences, labels: np.ndarray, form: np.ndarray, stop: int, fold: np.ndarray
) -> np.ndarray:
    """The log-odds after every token of each row, by the bag of the rows of all other folds:
    float32 [N, T]. Of a bag's own rows they would be too sure.

    Args:
      fold: int [N], of each row.
      rows, labels, form, stop: as of `fit_bag`.
    """
    found = np.zeros(rows.tokens.shape, np.float32)
    for each in np.unique(fold):
        own = fold == each
        arrays = (x[~own] for x in (rows.tokens, rows.prompt_length, rows.length))
        bag = fit_bag(Sequences(*arrays), labels[~own], form, stop)
        found[own] = bag_log_odds_after(bag, rows.tokens[own], rows.prompt_length[own])
    return found

"""Trains a classifier on every prefix of its texts, as FUDGE does (arXiv 2104.05218).

What is trained corrects a bag of tokens (bag.py), which is fitted before. Of a small language model
trained from scratch all parameters are learned, of a base only a head on its hidden states. The
parameters that are kept are those of the epoch whose loss on other texts is least, or the first
ones, which correct nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.special

from dinado_jax.classifiers.bag import Bag, bag_log_odds_after
from dinado_jax.classifiers.classifier import log_odds_of
from dinado_jax.classifiers.prefixes import Head, correction_after, init_head, states_of
from dinado_jax.data.batching import by_length
from dinado_jax.data.sequences import Sequences
from dinado_jax.models.params import init_params
from dinado_jax.models.protocol import BaseModel
from dinado_jax.ops.bernoulli import cross_entropy
from dinado_jax.utils.progress import print_progress

_BATCH = 32
_LEARNING_RATE = 1e-3
_WEIGHT_DECAY = 0.1
_HIDDEN_TOKENS = 0.2  # share of tokens that training hides from a model trained from scratch
_PREFIXES = 8  # of each text, whose states under a base are kept
_AVERAGED = 0.02  # share of the newest parameters in the average that is judged and kept
# Epochs, and steps, without improvement. Of few texts an epoch is so short that the average lags
# behind by several, and that learning may begin after many.
_PATIENCE, _PATIENT_STEPS = 4, 200

Loss = Callable[[Any, Any, jax.Array], jax.Array]  # of parameters, a batch and a random key
Judge = Callable[[Any], np.ndarray]  # of parameters: the log-odds of the other texts


def train_small(
    model: BaseModel,
    rows: tuple[Sequences, Sequences],
    labels: tuple[np.ndarray, np.ndarray],
    bags: tuple[Bag, np.ndarray],
    stop: int,
    epochs: int,
    seed: int,
) -> dict[str, Any]:
    """Trains a model and its head from scratch, to correct a bag of tokens.

    Args:
      model: the trunk.
      rows: to train on, and others by which an epoch is chosen.
      labels: bool [N] of both.
      bags: the bag fitted to all training rows, and for each training row the log-odds after every
        token by a bag that was fitted without that row, float32 [N, T].
      stop: the token that stands for hidden ones.
      epochs: at most.
      seed: of the parameters, of batches and of hidden tokens.

    Returns:
      The parameters, "trunk", "head" and "bag".
    """
    data, own, (bag, known) = rows[0], labels[0].astype(np.float32), bags

    def batches(epoch: int) -> Iterator[Any]:
        for i in _order(len(own), (seed, epoch)):
            yield data.tokens[i], data.prompt_length[i], data.length[i], known[i], own[i]

    def loss(params: Any, batch: Any, key: jax.Array) -> jax.Array:
        tokens, start, length, known, label = batch
        hidden = jax.random.bernoulli(key, _HIDDEN_TOKENS, tokens.shape)
        correction = correction_after(model, params, jnp.where(hidden, stop, tokens), start)
        position = jnp.arange(tokens.shape[1])[None]
        inside = (position >= start[:, None] - 1) & (position < length[:, None])
        return _mean(cross_entropy(known + correction, label[:, None]), inside)

    def judge(params: Any) -> np.ndarray:
        return log_odds_of(model, {**params, "bag": bag}, rows[1])

    params = {"trunk": init_params(model, seed), "head": init_head(model.width, seed)}
    return {**_descend(params, loss, batches, judge, labels[1], epochs, seed), "bag": bag}


def train_head(
    model: BaseModel,
    trunk: dict,
    rows: tuple[Sequences, Sequences],
    labels: tuple[np.ndarray, np.ndarray],
    bags: tuple[Bag, np.ndarray],
    epochs: int,
    seed: int,
) -> dict[str, Any]:
    """Trains a head on the states of a base, which stays as it is; `trunk` are its parameters, the
    other arguments and the result as of `train_small`.
    """
    places = [_places(each) for each in rows]
    read, other = (_states(model, trunk, each, at) for each, at in zip(rows, places, strict=True))
    inside = np.diff(places[0], axis=1, prepend=-1) > 0  # a short row has fewer prefixes
    inside[:, -1] = True
    own, (bag, known) = labels[0].astype(np.float32), bags
    known = np.take_along_axis(known, places[0], 1)
    whole = bag_log_odds_after(bag, rows[1].tokens, rows[1].prompt_length)
    of_other = np.take_along_axis(np.asarray(whole), places[1][:, -1:], 1)[:, 0]

    def batches(epoch: int) -> Iterator[Any]:
        for index in _order(len(own), (seed, epoch)):
            yield *(each[index] for each in read), inside[index], known[index], own[index]

    def loss(params: Any, batch: Any, key: jax.Array) -> jax.Array:
        last, mean, inside, known, label = batch
        correction = jnp.asarray(Head().apply({"params": params}, last, mean))
        return _mean(cross_entropy(known + correction, label[:, None]), inside)

    def judge(params: Any) -> np.ndarray:
        states = (each[:, -1] for each in other)
        return of_other + np.asarray(Head().apply({"params": params}, *states))

    head = _descend(init_head(model.width, seed), loss, batches, judge, labels[1], epochs, seed)
    return {"trunk": trunk, "head": head, "bag": bag}


def _order(count: int, seed: tuple[int, int]) -> np.ndarray:
    """Row numbers [steps, B] of an epoch; what does not fill a batch is left out, and fewer rows
    than one are repeated.
    """
    order = np.random.default_rng(seed).permutation(count)
    return np.resize(order, max(1, count // _BATCH) * _BATCH).reshape(-1, _BATCH)


def _mean(losses: jax.Array, inside: jax.Array) -> jax.Array:
    """The mean over rows of the mean over prefixes, [B, T] each."""
    weight = inside.astype(jnp.float32)
    return ((losses * weight).sum(1) / weight.sum(1)).mean()


def _places(rows: Sequences) -> np.ndarray:
    """The last tokens of some prefixes of each row, int [N, K], the whole row last."""
    first = rows.prompt_length - 1
    span = (rows.length - 1 - first)[:, None]
    return first[:, None] + span * np.arange(1, _PREFIXES + 1)[None] // _PREFIXES


def _states(
    model: BaseModel, trunk: dict, rows: Sequences, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What a head reads at these places [N, K] of each row, float32 [N, K, D] twice."""
    N, D = len(rows), model.width
    last, mean = (np.zeros((N, _PREFIXES, D), np.float32) for _ in range(2))
    width = rows.tokens.shape[1]
    for index, batch in by_length(rows, _BATCH, width, width):
        found = states_of(model, trunk, batch.tokens, batch.prompt_length)
        for whole, kept in zip(found, (last, mean)):
            at = places[index][..., None]
            kept[index] = np.take_along_axis(np.asarray(whole)[: len(index)], at, 1)
    return last, mean


def _descend(
    params: Any,
    loss: Loss,
    batches: Callable[[int], Iterator[Any]],
    judge: Judge,
    labels: np.ndarray,
    epochs: int,
    seed: int,
) -> Any:
    """AdamW until the loss of the other texts, whose labels these are, falls no more; returns the
    average of its iterates where that loss is least, which may be the first.
    """
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            _LEARNING_RATE,
            weight_decay=_WEIGHT_DECAY,
            mask=lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree),
        ),
    )

    @jax.jit
    def step(now: Any, batch: Any, number: jax.Array) -> tuple[Any, jax.Array]:
        params, mean, state = now
        key = jax.random.fold_in(jax.random.key(seed), number)
        value, gradient = jax.value_and_grad(loss)(params, batch, key)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        share = jnp.maximum(_AVERAGED, 1 / (number + 1))
        return (params, optax.incremental_update(params, mean, share), state), value

    signs = np.where(labels, 1.0, -1.0)

    def loss_of_others(mean: Any) -> float:
        return float(-scipy.special.log_expit(signs * judge(mean)).mean())

    now, number = (params, params, optimizer.init(params)), 0
    best, least, improved = params, loss_of_others(params), (-1, 0)  # by which epoch and step
    print_progress(f"a bag of tokens: loss {least:.3f} of other texts")
    for epoch in range(epochs):
        losses = []
        for batch in batches(epoch):
            now, value = step(now, batch, np.int32(number))
            losses.append(value)
            number += 1
        other = loss_of_others(now[1])
        print_progress(
            f"epoch {epoch + 1}: loss {float(np.mean(losses)):.3f} over prefixes, {other:.3f} of "
            "other texts"
        )
        if other < least:
            best, least, improved = now[1], other, (epoch, number)
        if epoch - improved[0] >= _PATIENCE and number - improved[1] >= _PATIENT_STEPS:
            break
    return best

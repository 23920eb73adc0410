"""Reductions over the vocabulary: the only place in training that sees arrays of [.., V].

Logits stay factored, a hidden state and a vocabulary matrix, and are multiplied out for one chunk
of tokens at a time; the backward pass makes each chunk's logits again (jax.checkpoint), so that
nothing of size [tokens, V] is kept. All arithmetic on logits is float32.

N tokens, D width, V vocabulary.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

CHUNK = 512  # tokens whose logits are alive at once


class Scalars(NamedTuple):
    """What every control needs of the vocabulary at one position (float32, nats), with q the
    distribution proportional to p e^r.

    log_policy, log_base: [..] log-probability of the token that was drawn, under q and p.
    peak: [..] M = max_v [log q(v) - log p(v)], >= 0 up to rounding.
    top: [..] max_v r(v).
    """

    log_policy: jax.Array
    log_base: jax.Array
    peak: jax.Array
    top: jax.Array

    @property
    def log_ratio(self) -> jax.Array:
        """A = log q(x) - log p(x)."""
        return self.log_policy - self.log_base


def _logits(hidden_D, matrix_VD):
    return jnp.einsum("D,VD->V", hidden_D, matrix_VD, preferred_element_type=jnp.float32)


def _log_probs(hidden_D, matrix_VD):
    return jax.nn.log_softmax(_logits(hidden_D, matrix_VD))


def _chunked(reduce_one, arrays, chunk):
    """Maps a function of one token over [N, ..] arrays, one chunk at a time.

    N is rounded up to whole chunks and the surplus cut off: a lone remainder would compile twice.
    """
    N = arrays[0].shape[0]
    chunk = max(1, min(chunk, N))  # N is 0 for rows of a single token
    surplus = -N % chunk
    padded = [jnp.pad(x, [(0, surplus)] + [(0, 0)] * (x.ndim - 1)) for x in arrays]
    tiles = [x.reshape(-1, chunk, *x.shape[1:]) for x in padded]
    reduce_tile = jax.checkpoint(jax.vmap(reduce_one))
    _, out = jax.lax.scan(lambda _, tile: (None, reduce_tile(*tile)), None, tiles)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:N], out)


@functools.partial(jax.named_call, name="token_log_probs")
def token_log_probs(
    hidden: jax.Array, matrix: jax.Array, tokens: jax.Array, chunk: int = CHUNK
) -> jax.Array:
    """Log-probability of each token under softmax(hidden matrix^T).

    Args:
      hidden: [..., D] states, each predicting its token.
      matrix: [V, D].
      tokens: [...] int32.

    Returns [...] float32, nats.
    """
    flat = (hidden.reshape(-1, hidden.shape[-1]), tokens.reshape(-1))
    out = _chunked(lambda h_D, token: _log_probs(h_D, matrix)[token], flat, chunk)
    return out.reshape(tokens.shape)


def direction(link: str, logits: jax.Array, log_base: jax.Array) -> jax.Array:
    """r over the vocabulary (last axis) from a direction's logits l and log p:

    policy    r = log softmax(l) - log p    l are the logits of q itself (merge)
    plain     r = l                         (soft)
    sigmoid   r = log sigmoid(l)            r is log R itself (nado)
    """
    if link == "policy":
        return jax.nn.log_softmax(logits) - log_base
    return jax.nn.log_sigmoid(logits) if link == "sigmoid" else logits


@functools.partial(jax.named_call, name="direction_scalars")
def direction_scalars(
    link: str,
    factors: tuple[jax.Array, jax.Array],
    base: tuple[jax.Array, jax.Array],
    tokens: jax.Array,
    chunk: int = CHUNK,
) -> Scalars:
    """The scalars of a direction whose logits, and the base's, come factored.

    Args:
      link: how logits become r, see `direction`.
      factors, base: (hidden [..., D], matrix [V, D]) each; widths may differ.
      tokens: [...] int32.

    Both sides of a policy go through the same arithmetic: equal factors give A = M = 0 exactly.
    """
    (hidden, matrix), (base_hidden, base_matrix) = factors, base

    def one(hidden_D, base_D, token):
        log_p_V = _log_probs(base_D, base_matrix)
        r_V = direction(link, _logits(hidden_D, matrix), log_p_V)
        top = r_V.max()
        # log sum_v p e^{r - top} = -M: differences first, large logits would swallow them.
        peak = top if link == "policy" else -jax.nn.logsumexp(log_p_V + (r_V - top))
        log_q = log_p_V[token] + (r_V[token] - top) + peak
        return Scalars(log_q, log_p_V[token], peak, top)

    flat = (
        hidden.reshape(-1, hidden.shape[-1]),
        base_hidden.reshape(-1, base_hidden.shape[-1]),
        tokens.reshape(-1),
    )
    return jax.tree.map(lambda x: x.reshape(tokens.shape), _chunked(one, flat, chunk))

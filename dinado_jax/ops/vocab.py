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
    """What every control needs of the vocabulary at one position (float32, nats).

    log_policy, log_base: [..] log-probability of the token that was drawn, under q and p.
    peak: [..] M = max_v [log q(v) - log p(v)], >= 0 up to rounding.
    """

    log_policy: jax.Array
    log_base: jax.Array
    peak: jax.Array

    @property
    def log_ratio(self) -> jax.Array:
        """A = log q(x) - log p(x)."""
        return self.log_policy - self.log_base


def _log_probs(hidden_D, matrix_VD):
    logits_V = jnp.einsum("D,VD->V", hidden_D, matrix_VD, preferred_element_type=jnp.float32)
    return jax.nn.log_softmax(logits_V)


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


@functools.partial(jax.named_call, name="policy_scalars")
def policy_scalars(
    policy: tuple[jax.Array, jax.Array],
    base: tuple[jax.Array, jax.Array],
    tokens: jax.Array,
    chunk: int = CHUNK,
) -> Scalars:
    """Log-probabilities and peak from two factored distributions (hidden [..., D], matrix [V, D]).

    Both sides go through the same arithmetic, so equal factors give A = M = 0 exactly.
    """
    (policy_hidden, policy_matrix), (base_hidden, base_matrix) = policy, base

    def one(policy_D, base_D, token):
        log_q, log_p = _log_probs(policy_D, policy_matrix), _log_probs(base_D, base_matrix)
        return Scalars(log_q[token], log_p[token], jnp.max(log_q - log_p))

    flat = (
        policy_hidden.reshape(-1, policy_hidden.shape[-1]),
        base_hidden.reshape(-1, base_hidden.shape[-1]),
        tokens.reshape(-1),
    )
    return jax.tree.map(lambda x: x.reshape(tokens.shape), _chunked(one, flat, chunk))

"""Reductions over the vocabulary: the only place in training that sees arrays of [.., V].

Logits stay factored, a hidden state and a vocabulary matrix, and are multiplied out for one chunk
of tokens at a time. With w the probabilities of q (times sigmoid' where a sigmoid links), m the
token of the peak and E = sum_v w_v W_v,

    d log q(x) / d h = s_x W[x] - E       d M / d h = s_m W[m] - E

so the forward pass leaves E, one more product while the chunk's w is at hand, and the backward pass
gathers and adds [N, D] arrays: it never touches the vocabulary, and recomputes nothing. Only a
trained matrix needs the chunks again, for its own gradient. All arithmetic on logits is float32.

N tokens, n of them a chunk, D width, V vocabulary.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

CHUNK = 512  # tokens whose logits are alive at once

Factors = tuple[jax.Array, jax.Array]  # hidden [.., D] and matrix [V, D]


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
    flat = hidden.reshape(-1, hidden.shape[-1])
    out = _reduced("policy", chunk, flat, matrix, None, tokens.reshape(-1))
    return out.log_policy.reshape(tokens.shape)


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
    link: str, factors: Factors, base: Factors, tokens: jax.Array, chunk: int = CHUNK
) -> Scalars:
    """The scalars of a direction whose logits, and the base's, come factored.

    Args:
      link: how logits become r, see `direction`.
      factors, base: (hidden [..., D], matrix [V, D]) each; widths may differ. The base is frozen:
        no gradient reaches it.
      tokens: [...] int32.

    Both sides of a policy go through the same arithmetic: equal factors give A = M = 0 exactly.
    """
    hidden, base_hidden = (x.reshape(-1, x.shape[-1]) for x in (factors[0], base[0]))
    frozen = base_hidden, base[1]
    out = _reduced(link, chunk, hidden, factors[1], frozen, tokens.reshape(-1))
    return jax.tree.map(lambda x: x.reshape(tokens.shape), out)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _reduced(link, chunk, hidden_ND, matrix, base, tokens_N):
    """Scalars of N tokens; without a base the log-probability of the token alone."""
    scalars, _ = _forward(link, chunk, False, hidden_ND, matrix, base, tokens_N)
    return scalars


def _reduced_forward(link, chunk, hidden_ND, matrix, base, tokens_N):
    scalars, left = _forward(link, chunk, True, hidden_ND, matrix, base, tokens_N)
    return scalars, (hidden_ND, matrix, base, tokens_N, scalars, left)


def _reduced_backward(link, chunk, kept, given):
    hidden_ND, matrix, base, tokens_N, scalars, (mean_ND, peak_N) = kept
    of_token, of_peak, of_mean = _weights(link, scalars, given)
    hidden = of_token[:, None] * matrix[tokens_N] - of_mean[:, None] * mean_ND
    if base is not None:
        hidden += of_peak[:, None] * matrix[peak_N]
    arrays = hidden_ND, base and base[0], tokens_N, peak_N, of_token, of_peak, of_mean

    def tile(total, arrays):
        hidden_nD, base_nD, tokens_n, peak_n, of_token, of_peak, of_mean = arrays
        frozen = base and (base_nD, base[1])
        *_, weight_nV = _over_vocabulary(link, hidden_nD, matrix, frozen)
        slope_nV = -of_mean[:, None] * weight_nV
        rows = jnp.arange(len(tokens_n))
        slope_nV = slope_nV.at[rows, tokens_n].add(of_token)
        if base is not None:
            slope_nV = slope_nV.at[rows, peak_n].add(of_peak)
        part = _product("nV,nD->VD", slope_nV.astype(matrix.dtype), hidden_nD)
        return total + part, None

    # Dead code, and removed as such, unless the matrix is trained.
    zeros = jnp.zeros(matrix.shape, jnp.float32)
    of_matrix, _ = jax.lax.scan(tile, zeros, _tiles(arrays, chunk))
    return hidden.astype(hidden_ND.dtype), of_matrix.astype(matrix.dtype), None, None


_reduced.defvjp(_reduced_forward, _reduced_backward)


def _weights(link, scalars, given):
    """What the gradients of a token's scalars weigh W[x], W[m] and -E with: [N] each."""
    if scalars.peak is None:
        return given.log_policy, None, given.log_policy
    of_mean = given.log_policy + given.peak
    if link == "policy":  # top is the peak
        of_mean += given.top
    slope_token, slope_peak = 1.0, 1.0
    if link == "sigmoid":  # sigmoid(-l) = 1 - e^r
        slope_token = -jnp.expm1(scalars.top + scalars.log_ratio - scalars.peak)
        slope_peak = -jnp.expm1(scalars.top)
    return slope_token * given.log_policy, slope_peak * (given.peak + given.top), of_mean


def _forward(link, chunk, differentiated, hidden_ND, matrix, base, tokens_N):
    """Scalars, and of a differentiated call (E [N, D], m [N])."""

    def tile(_, arrays):
        hidden_nD, base_nD, tokens_n = arrays
        frozen = base and (base_nD, base[1])
        log_p_nV, r_nV, top_n, peak_n, weight_nV = _over_vocabulary(link, hidden_nD, matrix, frozen)
        left = None
        if differentiated:
            mean_nD = _product("nV,VD->nD", weight_nV.astype(matrix.dtype), matrix)
            left = mean_nD, r_nV.argmax(-1)
        drawn_n = jnp.take_along_axis(r_nV, tokens_n[:, None], 1)[:, 0]
        if base is None:
            return None, (Scalars(drawn_n, None, None, None), left)
        log_p_n = jnp.take_along_axis(log_p_nV, tokens_n[:, None], 1)[:, 0]
        log_q_n = log_p_n + (drawn_n - top_n) + peak_n
        return None, (Scalars(log_q_n, log_p_n, peak_n, top_n), left)

    arrays = hidden_ND, base and base[0], tokens_N
    _, out = jax.lax.scan(tile, None, _tiles(arrays, chunk))
    count = len(tokens_N)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], out)


def _over_vocabulary(link, hidden_nD, matrix, base):
    """One chunk: log p, r and the weights w [n, V], top and peak [n]. Without a base r is log q."""
    l_nV = _product("nD,VD->nV", hidden_nD, matrix)
    if base is None:
        log_q_nV = jax.nn.log_softmax(l_nV)
        return None, log_q_nV, None, None, jnp.exp(log_q_nV)
    log_p_nV = jax.nn.log_softmax(_product("nD,VD->nV", *base))
    r_nV = direction(link, l_nV, log_p_nV)
    top_n = r_nV.max(-1)
    if link == "policy":
        return log_p_nV, r_nV, top_n, top_n, jax.nn.softmax(l_nV)
    # log sum_v p e^{r - top} = -M: differences first, large logits would swallow them.
    below_nV = log_p_nV + (r_nV - top_n[:, None])
    peak_n = -jax.nn.logsumexp(below_nV, axis=-1)
    weight_nV = jnp.exp(below_nV + peak_n[:, None])
    if link == "sigmoid":
        weight_nV *= jax.nn.sigmoid(-l_nV)
    return log_p_nV, r_nV, top_n, peak_n, weight_nV


def _product(axes, a, b):
    return jnp.einsum(axes, a, b, preferred_element_type=jnp.float32)


def _tiles(arrays, chunk):
    """[N, ..] -> [chunks, n, ..]. N is rounded up to whole chunks, with zeros: a lone remainder
    would compile twice."""

    def cut(x):
        chunk_ = max(1, min(chunk, x.shape[0]))  # N is 0 for rows of a single token
        padded = jnp.pad(x, [(0, -x.shape[0] % chunk_)] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape(-1, chunk_, *x.shape[1:])

    return jax.tree.map(cut, arrays)

"""Reductions over the vocabulary: the only place in training that sees arrays of [.., V].

Logits stay factored, a hidden state h and a vocabulary matrix W, and are multiplied out for one
chunk of tokens at a time. With x the token drawn, m that of the peak (the first, if several tie),
s = dr/dl (1, or the slope of a log-sigmoid), w = s q and E = sum_v w_v W_v,

    d log q(x) / dh = s_x W_x - E      dM / dh = s_m W_m - E      d max r / dh = s_m W_m

so the forward pass also computes E, one more product while the chunk's w is at hand, and the
backward pass gathers and adds [N, D] arrays: it neither touches the vocabulary nor recomputes
anything. Only a trained matrix needs the chunks again, for its own gradient. All arithmetic on
logits is float32. x and m are left out of E itself: next to q(x) = 1 the difference s_x W_x - E
would drown in the rounding of w to the matrix's precision.

A direction may add a score to the logits by the class of each token (`Classes`); the derivative by
the score of a class is that of all its logits together.

N tokens, n of them per chunk, D width, V vocabulary, Z classes.
"""

import functools
from typing import Any, NamedTuple, cast

import chex
import jax
import jax.numpy as jnp

from dinado_jax.distributed.constraints import shard_count
from dinado_jax.ops.backend import target
from dinado_jax.ops.masks import fill_ids

# Tokens whose logits are alive at once: few on a CPU, whose caches are small; elsewhere enough to
# keep the matrix units busy.
CHUNKS = {"cpu": 128, "gpu": 1024, "tpu": 1024}

Factors = tuple[jax.Array, jax.Array]  # hidden [.., D] and matrix [V, D]
Ranges = tuple[tuple[int, int], ...]  # of ids, [first, end) each
_LOW = -1e30  # the logit of an excluded id; finite, so that 0 times it is 0


class VocabScalars(NamedTuple):
    """Reductions over the vocabulary that every control needs, per token; float32 nats.

    q is the distribution proportional to p e^r, and x the token drawn.

    Attributes:
      log_policy: [..] log q(x).
      log_base: [..] log p(x).
      peak: [..] M = max_v [log q(v) - log p(v)], >= 0 up to rounding.
      top: [..] max_v r(v); for link "sigmoid" the logit there.
      below: [..] A - M = r(x) - max_v r(v) <= 0.
      gap: [..] 1 - e^-M, summed as sum_v p(v) (1 - e^(r(v) - max r)): exact next to 0.
      logit: [..] r(x); for link "sigmoid" its logit.
      excluded: [..] sum of p over the tokens of class 0, which R excludes; 0 without classes. No
        gradient.
    """

    log_policy: jax.Array
    log_base: jax.Array
    peak: jax.Array
    top: jax.Array
    below: jax.Array
    gap: jax.Array
    logit: jax.Array
    excluded: jax.Array

    @property
    def log_ratio(self) -> jax.Array:
        """A = log q(x) - log p(x)."""
        return self.below + self.peak


class Classes(NamedTuple):
    """Scores that are added to logits, by the class of each token.

    Attributes:
      scores: float32 [.., Z] nats.
      of_token: uint8 [.., V], the class of every token of the vocabulary.
    """

    scores: jax.Array
    of_token: jax.Array

    @property
    def of_vocabulary(self) -> jax.Array:
        """The score of every token, float32 [.., V] nats."""
        return jnp.take_along_axis(self.scores, self.of_token, -1, mode="promise_in_bounds")


@functools.partial(jax.named_call, name="token_log_probs")
def token_log_probs(
    hidden: jax.Array,
    matrix: jax.Array,
    tokens: jax.Array,
    chunk: int | None = None,
    excluded_ids: Ranges = (),
    classes: Classes | None = None,
) -> jax.Array:
    """Log-probability of each token under softmax(hidden matrix^T).

    Args:
      hidden: [..., D] states, each predicting its token.
      matrix: [V, D], the vocabulary.
      tokens: [...] int32.
      chunk: tokens at a time; by default that of `CHUNKS` for the target backend.
      excluded_ids: ranges [first, end) of ids without probability; theirs is about -1e30 nats.
      classes: of the tokens, whose scores are added to the logits.

    Returns:
      [...] float32, nats.
    """
    chex.assert_shape(tokens, hidden.shape[:-1])
    chex.assert_rank(matrix, 2)
    flat, classes = _flat(hidden), _flat(classes)
    chunk = chunk or CHUNKS[target()]
    out = _reduced("policy", chunk, excluded_ids, flat, matrix, classes, None, tokens.reshape(-1))
    return cast(VocabScalars, out).log_policy.reshape(tokens.shape)


def direction(link: str, logits: jax.Array, log_base: jax.Array) -> jax.Array:
    """Computes r over the vocabulary (the last axis) from a direction's logits l and log p.

        policy    r = log softmax(l) - log p    l are the logits of q itself (merge)
        plain     r = l                         (soft)
        sigmoid   r = log sigmoid(l)            r is log R itself (nado)

    Args:
      link: which of the three.
      logits: [..., V] float32.
      log_base: [..., V] float32, nats.

    Returns:
      [..., V] float32, nats.
    """
    if link == "policy":
        return jax.nn.log_softmax(logits) - log_base
    if link == "sigmoid":  # one use of every array: XLA then keeps none
        return jnp.minimum(logits, 0) - jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return logits


def masked_direction(
    link: str, logits: jax.Array, log_base: jax.Array, excluded_ids: Ranges
) -> jax.Array:
    """As `direction`, with -1e30 at excluded ids, so that none of them is the peak."""
    return fill_ids(direction(link, logits, log_base), excluded_ids, _LOW)


@functools.partial(jax.named_call, name="direction_scalars")
def direction_scalars(
    link: str,
    factors: Factors,
    base: Factors,
    tokens: jax.Array,
    chunk: int | None = None,
    excluded_ids: Ranges = (),
    classes: Classes | None = None,
) -> VocabScalars:
    """Reduces a direction's and the base's factored logits to the scalars of each token.

    Both sides of a policy go through the same arithmetic: equal factors give A = M = 0 exactly.

    Args:
      link: how logits become r, see `direction`.
      factors: (hidden [..., D], matrix [V, D]) of the direction.
      base: the same of the base, of any width. It is frozen: no gradient reaches it.
      tokens: [...] int32.
      chunk: tokens at a time; by default that of `CHUNKS` for the target backend.
      excluded_ids: ranges [first, end) of ids that have no part in p, q and the peak.
      classes: of the tokens, whose scores are added to the direction's logits.

    Returns:
      Scalars of shape [...].
    """
    for hidden, matrix in (factors, base):
        chex.assert_shape(tokens, hidden.shape[:-1])
        chex.assert_rank(matrix, 2)
    hidden, base_hidden, classes = _flat((factors[0], base[0], classes))
    frozen, of_direction = (base_hidden, base[1]), (hidden, factors[1], classes)
    chunk = chunk or CHUNKS[target()]
    out = _reduced(link, chunk, excluded_ids, *of_direction, frozen, tokens.reshape(-1))
    return jax.tree.map(lambda x: x.reshape(tokens.shape), out)


def _flat(tree: Any) -> Any:
    """[.., X] -> [N, X] for every leaf."""
    return jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), tree)


class _Kept(NamedTuple):
    """Residuals for the backward pass: [N], except for mean [N, D]."""

    mean: Any  # E without x and m
    weight: jax.Array  # w of x
    slope: jax.Array  # s of x
    peak: jax.Array | None  # m
    peak_weight: jax.Array | None  # w of m; 0 where m is x
    by_class: jax.Array | None  # [N, Z] w summed over each class, without x and m


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _reduced(link, chunk, excluded_ids, hidden_ND, matrix, classes, base, tokens_N) -> VocabScalars:
    """Scalars of N tokens; without a base the token's log-probability alone.

    Under vmap the gradient of a trained matrix would be one matrix per example: flatten rows
    instead.
    """
    arrays = hidden_ND, matrix, classes, base, tokens_N
    return _forward(link, chunk, excluded_ids, False, arrays)[0]


def _reduced_forward(link, chunk, excluded_ids, hidden_ND, matrix, classes, base, tokens_N):
    arrays = hidden_ND, matrix, classes, base, tokens_N
    scalars, kept = _forward(link, chunk, excluded_ids, True, arrays)
    return scalars, (*arrays, scalars, kept)


def _reduced_backward(link, chunk, excluded_ids, left, given):
    hidden_ND, matrix, classes, base, tokens_N, scalars, kept = left
    of_token, of_peak, of_mean = given.log_policy * kept.slope, None, given.log_policy
    if base is not None:
        of_excess = given.peak + given.gap * jnp.exp(-scalars.peak)
        of_peak, of_mean = of_excess - given.below, of_mean + of_excess
        if link == "policy":  # its r is log q - log p
            of_mean += given.top + given.logit
        if link == "sigmoid":
            of_peak *= jax.nn.sigmoid(-scalars.top)
        of_peak += given.top
        of_token += given.below * kept.slope + given.logit

    pulls = [(of_token - of_mean * kept.weight, tokens_N)]
    if base is not None:
        pulls.append((of_peak - of_mean * kept.peak_weight, kept.peak))
    hidden = -of_mean[:, None] * kept.mean
    for weight, at in pulls:
        hidden += weight[:, None] * matrix[at]
    of_classes = None
    if classes is not None:
        of_scores = -of_mean[:, None] * kept.by_class
        for weight, at in pulls:
            of_scores = _added(of_scores, _at(classes.of_token, at), weight)
        of_classes = Classes(of_scores, cast(Any, None))
    frozen = hidden_ND, classes, base and base[0], tokens_N
    arrays = *frozen, kept.peak, of_token, of_peak, of_mean

    def tile(total, arrays):
        hidden_nD, own, base_nD, tokens_n, peak_n, of_token, of_peak, of_mean = arrays
        frozen = base and (base_nD, base[1])
        *_, weight_nV = _over_vocabulary(link, excluded_ids, hidden_nD, matrix, own, frozen)
        slope_nV = -of_mean[:, None] * weight_nV
        slope_nV = _added(slope_nV, tokens_n, of_token)
        if base is not None:
            slope_nV = _added(slope_nV, peak_n, of_peak)
        shares = (x.reshape(devices, -1, x.shape[1]) for x in (slope_nV, hidden_nD))
        part = _product("knV,knD->kVD", *(x.astype(matrix.dtype) for x in shares))
        return total + part, None

    # Unless the matrix is trained the compiler removes this as dead code. Each of k devices adds up
    # its own rows; there is one reduction at the end.
    devices = shard_count(len(tokens_N))
    zeros = jnp.zeros((devices, *matrix.shape), jnp.float32)
    of_matrix, _ = jax.lax.scan(tile, zeros, _tiles(arrays, chunk))
    of_matrix = of_matrix.sum(0).astype(matrix.dtype)
    return hidden.astype(hidden_ND.dtype), of_matrix, of_classes, None, None


_reduced.defvjp(_reduced_forward, _reduced_backward)


def _forward(link, chunk, excluded_ids, differentiated, arrays):
    """Scalars and, if differentiated, the residuals."""
    hidden_ND, matrix, classes, base, tokens_N = arrays

    def tile(_, arrays):
        hidden_nD, own, base_nD, tokens_n = arrays
        frozen = base and (base_nD, base[1])
        log_p_nV, l_nV, r_nV, peak_n, gap_n, weight_nV = _over_vocabulary(
            link, excluded_ids, hidden_nD, matrix, own, frozen
        )
        drawn_n = _at(r_nV, tokens_n)
        scalars = VocabScalars(drawn_n, *cast(Any, 7 * [None]))
        # The larger the logit the larger r, and next to r = 0 only the logit tells tokens apart.
        score_nV = l_nV if link == "sigmoid" else r_nV
        if base is not None:
            log_p_n, below_n = _at(log_p_nV, tokens_n), drawn_n - r_nV.max(-1)
            scalars = VocabScalars(
                log_policy=log_p_n + below_n + peak_n,
                log_base=log_p_n,
                peak=peak_n,
                top=score_nV.max(-1),
                below=below_n,
                gap=gap_n,
                logit=_at(score_nV, tokens_n),
                excluded=jnp.zeros_like(gap_n)
                if own is None
                else jnp.where(own.of_token == 0, jnp.exp(log_p_nV), 0).sum(-1),
            )
        if not differentiated:
            return None, (scalars, None)
        slope_n = -jnp.expm1(drawn_n) if link == "sigmoid" else jnp.ones_like(drawn_n)
        kept = _Kept(None, _at(weight_nV, tokens_n), slope_n, None, None, None)
        column = jax.lax.broadcasted_iota(jnp.int32, weight_nV.shape, 1)
        weight_nV = jnp.where(column == tokens_n[:, None], 0, weight_nV)
        if base is not None:
            # As argmax, the first of several; on CPUs that reduction is slow.
            highest_n = jnp.where(
                score_nV == score_nV.max(-1, keepdims=True), column, column.shape[1] - 1
            ).min(-1)
            kept = kept._replace(peak=highest_n, peak_weight=_at(weight_nV, highest_n))
            weight_nV = jnp.where(column == highest_n[:, None], 0, weight_nV)
        if own is not None:
            kept = kept._replace(by_class=_by_class(weight_nV, own))
        mean_nD = _product("nV,VD->nD", weight_nV.astype(matrix.dtype), matrix)
        return None, (scalars, kept._replace(mean=mean_nD))

    arrays = hidden_ND, classes, base and base[0], tokens_N
    _, out = jax.lax.scan(tile, None, _tiles(arrays, chunk))
    return jax.tree.map(lambda x: _untiled(x, len(tokens_N)), out)


def _over_vocabulary(link, excluded_ids, hidden_nD, matrix, classes, base) -> tuple[Any, ...]:
    """One chunk: log p, l and r [n, V], peak and gap [n], the weights w [n, V]. Without a base r is
    log q.
    """
    l_nV = _product("nD,VD->nV", hidden_nD, matrix)
    if classes is not None:
        l_nV += classes.of_vocabulary
    l_nV = fill_ids(l_nV, excluded_ids, _LOW)
    if base is None:
        log_q_nV = jax.nn.log_softmax(l_nV)
        return None, l_nV, log_q_nV, None, None, jnp.exp(log_q_nV)
    log_p_nV = jax.nn.log_softmax(fill_ids(_product("nD,VD->nV", *base), excluded_ids, _LOW))
    r_nV = masked_direction(link, l_nV, log_p_nV, excluded_ids)
    # Differences first, large logits would swallow them.
    below_nV = r_nV - r_nV.max(-1, keepdims=True)
    # Of `where` XLA makes one loop with the sum, and keeps no array.
    lost_nV = jnp.where(below_nV < 0, -jnp.exp(log_p_nV) * jnp.expm1(below_nV), 0)
    gap_n = lost_nV.sum(-1)
    if link == "policy":
        peak_n = _peak(gap_n, r_nV.max(-1))
        return log_p_nV, l_nV, r_nV, peak_n, gap_n, jax.nn.softmax(l_nV)
    # log sum_v p e^{r - top} = -M
    joint_nV = log_p_nV + below_nV
    peak_n = -jax.nn.logsumexp(joint_nV, axis=-1)
    weight_nV = jnp.exp(joint_nV + peak_n[:, None])
    if link == "sigmoid":
        weight_nV *= jax.nn.sigmoid(-l_nV)
    return log_p_nV, l_nV, r_nV, _peak(gap_n, peak_n), gap_n, weight_nV


def _peak(gap_n, peak_n):
    """M from the gap where that is more exact."""
    return jnp.where(gap_n < 0.5, -jnp.log1p(-jnp.minimum(gap_n, 0.5)), peak_n)


def _at(x_nV, tokens_n):
    """[n]: a token's value in each row. By rows: on several devices nothing is sent."""
    return jnp.take_along_axis(x_nV, tokens_n[:, None], 1)[:, 0]


def _by_class(x_nV, classes):
    """[n, Z]: the sum over each class, one after another: XLA's scatter is slow on accelerators,
    and its fusion of all these sums on CPUs.
    """
    every = jnp.arange(classes.scores.shape[1], dtype=classes.of_token.dtype)
    return jax.lax.map(lambda z: jnp.where(classes.of_token == z, x_nV, 0).sum(-1), every).T


def _added(x_nV, tokens_n, values_n):
    """With a value added at a token of each row."""
    return jax.vmap(lambda x, token, value: x.at[token].add(value))(x_nV, tokens_n, values_n)


def _product(axes, a, b):
    return jnp.einsum(axes, a, b, preferred_element_type=jnp.float32)


def _tiles(arrays, chunk):
    """[N, ..] -> [chunks, n, ..], n at most `chunk` on each device, whose rows are in every chunk:
    none is sent. N is rounded up to whole chunks, with zeros: a lone remainder would compile
    twice.
    """

    def cut(x):
        devices = shard_count(x.shape[0])
        x = x.reshape(devices, -1, *x.shape[1:])
        size = max(1, min(chunk, x.shape[1]))  # N is 0 for rows of a single token
        padded = jnp.pad(x, [(0, 0), (0, -x.shape[1] % size)] + [(0, 0)] * (x.ndim - 2))
        chunks = padded.reshape(devices, -1, size, *x.shape[2:]).swapaxes(0, 1)
        return chunks.reshape(-1, devices * size, *x.shape[2:])

    return jax.tree.map(cut, arrays)


def _untiled(x, count):
    """The inverse of `_tiles`."""
    devices, (chunks, n) = shard_count(count), x.shape[:2]
    x = x.reshape(chunks, devices, n // devices, *x.shape[2:]).swapaxes(0, 1)
    x = x.reshape(devices, chunks * n // devices, *x.shape[3:])[:, : count // devices]
    return x.reshape(count, *x.shape[2:])

"""Sequential Monte Carlo: particles of a prompt that follow a guide's idea of success together.

N particles of each prompt draw their next tokens under a guide, from p(v | s) R(s v) / V(s), and
carry the weight that makes up for what the guide has got wrong:

    w(y_1 .. y_t) = prod_{i <= t} V(s_i) / R(s_i),    V(s) = sum_v p(v | s) R(s v),  R(s_1) := 1

Whenever the effective sample size of a prompt falls below N / 2, its particles are resampled in
proportion to their weights (systematically): dead ends die, and others take their place. At the end
w is divided by R of the whole text. Then, for any guide that is not 0 where p C is not,

    E[ (1 / N) sum_n w_n C(y_n) ] = R0                     the base's success rate, without bias
    E[ (1 / N) sum_n w_n C(y_n) f(y_n) ] = R0 E_{q*}[f]    and so for any f

(Del Moral, Doucet and Jasra, 2006; the guide is the twist of arXiv 2404.17546.) The better the
guide, the less the weights differ. Particles of a prompt share ancestors, and are not independent.

Conditional SMC retains a given text y* among the particles, which is never replaced: the others are
drawn around it. If y* is drawn from q*, what comes out has the density

    ((1 / N) sum_n w_n C(y_n)) / R0

relative to what is drawn without it (Andrieu, Doucet and Holenstein, 2010; systematic resampling is
conditioned as by Chopin and Singh, 2015), so that the mean of log((1 / N) sum_n w_n C(y_n)) is at
most log R0 without y*, and at least log R0 with it (bidirectional Monte Carlo, arXiv 1511.02543).

A prompt's particles depend on the prompt, its id and the key, never on the prompts beside it.

B prompts, N particles of each, R = B N rows, T prompt tokens, L new tokens, V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh

from dinado_jax.data.batch import Array
from dinado_jax.data.prompts import Prompts, TokenizedPrompts
from dinado_jax.decoding.batching import check_finite, prompt_batches
from dinado_jax.decoding.methods import inverse_cdf
from dinado_jax.decoding.policy import Carry, NextLogits, Policy
from dinado_jax.distributed.partitioning import replicate, shard_rows
from dinado_jax.models.cache import reorder, scan_steps, update_where
from dinado_jax.ops.masks import among
from dinado_jax.utils.arguments import POSITIVE, require_integer_field

_RESAMPLE = 0.5  # of N, the effective sample size below which particles are resampled
_LEAST = -1e30  # nats: subtracted from -inf it leaves -inf
_FLOOR = 100.0  # nats below the largest weight of a prompt: e^-100 of it has no part in anything


class Particles(NamedTuple):
    """New tokens of every row, the particles of one prompt together."""

    tokens: Array  # int32 [R, L]; after the stop token the sampler's first one
    length: Array  # int32 [R] new tokens, the stop token included
    finished: Array  # bool [R]: ended by a stop token, not cut at L
    log_weight: Array  # float32 [R] nats, log w; -inf: the guide rules the text out
    log_base: Array  # float32 [R, L] nats under the base; 0 after the end


class Retained(NamedTuple):
    """A text of each prompt that stays among its particles."""

    tokens: jax.Array  # int32 [B, L]
    place: jax.Array  # int32 [B], which of the N particles it is


@struct.dataclass
class ParticleState:
    """The carry of a step."""

    text: Particles  # so far
    log_after: jax.Array  # float32 [R] nats, log R after the newest token
    resampled: jax.Array  # float32 [B] nats, log of the mean weights that resampling has removed
    streams: jax.Array  # keys [B]
    carry: Carry  # the policy's, with its caches
    retained: Retained | None = None


@dataclasses.dataclass(frozen=True)
class ParticleSampler:
    """Everything static about sampling; calls with equal shapes compile once."""

    policy: Policy  # a base under guides, which knows the base: policy = base + log R
    stop_ids: tuple[int, ...]
    max_new_tokens: int  # L
    particles: int  # N
    mesh: Mesh | None = None  # devices that share the prompts of a call, a multiple of them

    def __post_init__(self):
        for name in ("max_new_tokens", "particles"):
            require_integer_field(self, name, *POSITIVE)

    def __call__(
        self,
        variables: Any,
        prompts: Prompts,
        ids: Array,
        key: jax.Array,
        retained: Array | None = None,
    ) -> Particles:
        """Continues a batch of prompts.

        Args:
          variables: the policy's arrays.
          prompts: [B, T].
          ids: int32 [B]; prompts of different ids draw from independent streams.
          key: typed PRNG key.
          retained: int32 [B, L], a text of each prompt that is one of its particles; None for none.
        """
        return self.decode(variables, self.prefill(variables, prompts, ids, key, retained))[1]

    @functools.partial(jax.jit, static_argnums=0)
    def prefill(
        self,
        variables: Any,
        prompts: Prompts,
        ids: Array,
        key: jax.Array,
        retained: Array | None = None,
    ) -> ParticleState:
        """Reads the prompts once and draws the first token of every particle; see `__call__`."""
        prompts.check()
        chex.assert_equal_shape([prompts.lengths, ids])
        rows = prompts, ids, retained
        return shard_rows(self.mesh, self._prefill, (variables, key), rows)

    def _prefill(
        self,
        variables: Any,
        key: jax.Array,
        prompts: Prompts,
        ids: jax.Array,
        retained: jax.Array | None,
    ) -> ParticleState:
        B, N, L = len(ids), self.particles, self.max_new_tokens
        with jax.named_scope("prefill"):
            logits, carry = self.policy.prefill(variables, prompts, N, L - 1)
        zeros = jnp.zeros((B * N, L), jnp.float32)
        none = Particles(
            tokens=jnp.full((B * N, L), self.stop_ids[0], jnp.int32),
            length=jnp.zeros(B * N, jnp.int32),
            finished=jnp.zeros(B * N, bool),
            log_weight=zeros[:, 0],
            log_base=zeros,
        )
        streams = jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)
        start = ParticleState(none, zeros[:, 0], jnp.zeros(B), streams, carry)
        if retained is not None:
            place = (_uniform(streams, L, 1)[:, 0] * N).astype(jnp.int32)  # no step is number L
            start = dataclasses.replace(start, retained=Retained(retained, place))
        return self._advanced(start, logits, 0)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
    def decode(self, variables: Any, state: ParticleState) -> tuple[ParticleState, Particles]:
        """Draws all further tokens. The state is donated: its caches are written in place."""
        return shard_rows(self.mesh, self._decode, (variables,), (state,))

    def _decode(self, variables: Any, state: ParticleState) -> tuple[ParticleState, Particles]:
        def advance(state: ParticleState, index: jax.Array) -> ParticleState:
            newest = jax.lax.dynamic_index_in_dim(state.text.tokens, index, 1, keepdims=False)
            with jax.named_scope("step"):
                logits, carry = self.policy.step(variables, state.carry, newest)
            return self._advanced(dataclasses.replace(state, carry=carry), logits, index + 1)

        def step(state: ParticleState, index: jax.Array) -> tuple[ParticleState, None]:
            unfinished = ~state.text.finished.all()
            return update_where(unfinished, lambda s: advance(s, index), state), None

        state, _ = scan_steps(step, state, self.max_new_tokens - 1)
        log_weight = state.text.log_weight - state.log_after
        log_weight += jnp.repeat(state.resampled, self.particles)
        log_weight = jnp.where(state.log_after > -jnp.inf, log_weight, -jnp.inf)
        return state, state.text._replace(log_weight=log_weight)

    @jax.named_scope("draw")
    def _advanced(
        self, state: ParticleState, logits: NextLogits, index: jax.Array | int
    ) -> ParticleState:
        """The state after token `index` of every particle, whose logits these are: [R, V]."""
        N, done = self.particles, state.text.finished
        assert logits.base is not None
        log_base, scores = jax.nn.log_softmax(logits.base), logits.log_weighed
        log_value = jax.nn.logsumexp(scores, axis=-1)
        grown = state.text.log_weight + log_value - state.log_after
        # One that is dead stays so, whatever its guide says of what follows.
        grown = jnp.where(state.log_after > -jnp.inf, grown, -jnp.inf)
        log_weight = jnp.where(done, state.text.log_weight, grown)
        uniform = _uniform(state.streams, index, N + 1)
        parents, mean, retained = _resampled(
            log_weight.reshape(-1, N), uniform[:, N], state.retained
        )
        rows = (jnp.arange(len(parents), dtype=jnp.int32)[:, None] * N + parents).reshape(-1)
        log_weight = jnp.where(jnp.repeat(mean > -jnp.inf, N), 0.0, log_weight)
        text, log_after, carry, scores, log_base = update_where(
            (mean > -jnp.inf).any(),
            lambda each: reorder(each, rows),
            (state.text, state.log_after, state.carry, scores, log_base),
        )
        done = text.finished
        most = scores.max(-1, keepdims=True)
        token, _ = inverse_cdf(scores - jnp.maximum(most, _LEAST), uniform[:, :N].ravel())
        if retained is not None:
            given = jax.lax.dynamic_index_in_dim(retained.tokens, index, 1)  # [B, 1]
            here = jnp.arange(N)[None] == retained.place[:, None]
            token = jnp.where(here, given, token.reshape(-1, N)).ravel()
        chosen, of_base = (
            jnp.take_along_axis(x, token[:, None], 1)[:, 0] for x in (scores, log_base)
        )
        here = (jnp.arange(self.max_new_tokens) == index)[None] & ~done[:, None]
        log_r = jnp.where(chosen > -jnp.inf, chosen - of_base, -jnp.inf)
        return dataclasses.replace(
            state,
            text=Particles(
                tokens=jnp.where(here, token[:, None], text.tokens),
                length=text.length + ~done,
                finished=done | among(token, self.stop_ids),
                log_weight=log_weight,
                log_base=jnp.where(here, of_base[:, None], text.log_base),
            ),
            log_after=jnp.where(done, log_after, log_r),
            resampled=state.resampled + jnp.where(mean > -jnp.inf, mean, 0.0),
            carry=carry,
            retained=retained,
        )


def _resampled(
    log_weight: jax.Array, uniform: jax.Array, retained: Retained | None
) -> tuple[jax.Array, jax.Array, Retained | None]:
    """See `resample`; what is retained is among the particles afterwards, and says where."""
    if retained is None:
        return *resample(log_weight, uniform), None
    uniform, place = survival(log_weight, uniform, retained.place)
    parents, mean = resample(log_weight, uniform)
    wanted = mean > -jnp.inf
    column = jnp.arange(log_weight.shape[1], dtype=jnp.int32)[None]
    # With this `uniform` it survives there anyway, except for rounding errors.
    survives = wanted[:, None] & (column == place[:, None])
    parents = jnp.where(survives, retained.place[:, None], parents)
    return parents, mean, retained._replace(place=jnp.where(wanted, place, retained.place))


def survival(
    log_weight: jax.Array, uniform: jax.Array, place: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The random number of `resample` given that a particle survives, and which one it becomes.

    A point that is uniform in the particle's share of the cumulative weights is the (n + u)-th of N
    for n the particle that it becomes and u the number: u is as likely as its particle then has
    offspring, and n any of these.

    Args:
      log_weight: float32 [B, N] nats.
      uniform: float32 [B] in [0, 1).
      place: int32 [B], the particle.

    Returns:
      float32 [B] in [0, 1) and int32 [B]; of no meaning where the particle has no weight.
    """
    N = log_weight.shape[1]
    probs = jnp.exp(log_weight - jnp.maximum(log_weight.max(1, keepdims=True), _LEAST))
    upto = jnp.cumsum(probs, axis=1)
    own, end = (jnp.take_along_axis(x, place[:, None], 1)[:, 0] for x in (probs, upto))
    point = N * (end - own * (1 - uniform)) / jnp.maximum(upto[:, -1], 1e-30)
    place = jnp.clip(jnp.floor(point), 0, N - 1).astype(jnp.int32)
    return jnp.clip(point - place, 0.0, 1 - 2**-23), place


def resample(log_weight: jax.Array, uniform: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Resamples the particles of each prompt where their weights have come to differ too much.

    Systematically: particle n becomes the one at the n-th of N points, one in each N-th of
    the cumulative weights, so that none of weight 1 or more in the mean dies.

    Args:
      log_weight: float32 [B, N] nats.
      uniform: float32 [B] in [0, 1).

    Returns:
      int32 [B, N], which particle each becomes, itself where nothing is resampled; float32 [B]
      nats, the log of the mean weight, which all have after it, -inf where nothing is resampled.
    """
    chex.assert_rank([log_weight, uniform], [2, 1])
    N = log_weight.shape[1]
    total = jax.nn.logsumexp(log_weight, axis=1)
    probs = jnp.exp(log_weight - jnp.maximum(total, _LEAST)[:, None])
    size = probs.sum(1) ** 2 / jnp.maximum((probs**2).sum(1), 1e-30)
    wanted = (size < _RESAMPLE * N) & (total > -jnp.inf)
    upto = jnp.cumsum(probs, axis=1)
    points = (jnp.arange(N)[None] + uniform[:, None]) / N
    points = jnp.minimum(points, 1 - 2**-23) * upto[:, -1:]
    parents = (upto[:, None] > points[..., None]).argmax(-1)
    parents = jnp.where(wanted[:, None], parents, jnp.arange(N)[None])
    return parents.astype(jnp.int32), jnp.where(wanted, total - jnp.log(N), -jnp.inf)


def choose(
    log_weight: np.ndarray, label: np.ndarray, key: jax.Array
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses one of the particles of each prompt, in proportion to w C; to w where all have C = 0.

    What is chosen follows q* the more closely the more particles there are. It has no density in
    closed form, but the KL of its distribution q to the base is at most the mean of the excess that
    is returned:

        KL(q || p) <= E[log C(y) - log((1 / N) sum_n w_n C(y_n))]

    (The data-processing inequality on the space of particles, ancestors and choice, where q* with
    particles around it has the density (1 / N) sum_n w_n C(y_n) / R0 relative to what is drawn:
    Andrieu, Doucet and Holenstein, 2010.) Where all have C = 0, this is the limit of a least C.

    Args:
      log_weight: float [B, N] nats, above -inf.
      label: float [B, N], C in [0, 1].
      key: typed PRNG key.

    Returns:
      int [B], the particle that is chosen; float [B] nats, the excess, with C = 1 for all where all
      have C = 0.
    """
    some = (label > 0).any(1, keepdims=True)
    with np.errstate(divide="ignore"):
        log_label = np.where(some, np.log(label), 0.0)
    total = log_weight + log_label
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    chosen = (total + rng.gumbel(size=total.shape)).argmax(1)
    log_mean = np.logaddexp.reduce(total, axis=1) - np.log(total.shape[1])
    return chosen, log_label[np.arange(len(chosen)), chosen] - log_mean


def floored(log_weight: np.ndarray) -> np.ndarray:
    """Makes weights finite, so that every text has a proposal.

    Args:
      log_weight: float [B, N] nats; -inf of a particle that has nowhere to go.

    Returns:
      float [B, N] nats, clipped from below at the maximum per row minus 100; a row of which every
      entry is -inf becomes all -100.
    """
    most = log_weight.max(1, keepdims=True)
    least = np.where(most > -np.inf, most, 0.0) - _FLOOR
    return np.maximum(log_weight, least).astype(log_weight.dtype)


def _uniform(streams: jax.Array, index: jax.Array | int, count: int) -> jax.Array:
    """Random numbers of step `index`: float32 [B, count]."""
    return jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, index), (count,)))(streams)


def particles_of_prompts(
    sampler: ParticleSampler,
    variables: Any,
    prompts: TokenizedPrompts,
    key: jax.Array,
    batch: int,
    retained: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, Particles]]:
    """Samples any number of prompts.

    Args:
      sampler: of N particles of each prompt.
      variables: the policy's arrays.
      prompts: checked against vocabulary and context.
      key: typed PRNG key.
      batch: rows drawn at once.
      retained: int32 [P, L], see `ParticleSampler.__call__`.

    Yields:
      Host arrays as they come: row numbers, counted prompt by prompt, and the particles.

    Raises:
      InputError: for bad prompts or a bad batch, and for a prompt after which nothing can be drawn.
    """
    variables, ids = replicate(sampler.mesh, variables), prompts.stream_ids()
    waiting: list[tuple[np.ndarray, Particles]] = []
    for part in prompt_batches(sampler, prompts, batch, sampler.particles):
        own = None if retained is None else retained[part.filled]
        drawn = sampler(variables, part.prompts, ids[part.filled], key, own)
        if waiting:
            yield _to_host(sampler, prompts, *waiting.pop())
        waiting.append((part.index, drawn))
    yield _to_host(sampler, prompts, *waiting.pop())


def _to_host(
    sampler: ParticleSampler, prompts: TokenizedPrompts, index: np.ndarray, drawn: Particles
) -> tuple[np.ndarray, Particles]:
    """Row numbers and particles of the prompts numbered `index`, without what filled the batch."""
    rows = (index[:, None] * sampler.particles + np.arange(sampler.particles)).ravel()
    drawn = jax.tree.map(lambda x: x[: len(rows)], jax.device_get(drawn))
    check_finite(prompts, rows // sampler.particles, drawn.log_base)
    return rows, drawn

"""Beam search as two compiled programs: prefill, then a `lax.scan` over tokens in donated caches.

The search is that of transformers' `generate(num_beams=K, do_sample=False, early_stopping=False)`:
finished hypotheses are kept apart from the running beams, K of each. It differs in one thing: a
stop token ends a text and may also begin every prompt; it is no text, so no ban of repeated n-grams
applies to it.

A policy that knows the base, p under guides, has its beams ranked by what their texts and prefixes
have of p C (conditional beam search, arXiv 2311.08817; y_1 .. y_t after a prompt, s_i before y_i):

    log p(y_1 .. y_t) + log R(y_1 .. y_t) - log V(prompt),    V(s) = sum_v p(v | s) R(s v)

which is log q for a consistent R. Where R is not consistent, as that of a mask, log q would favour
beams that have come where little is allowed: each q(v | s) = p(v | s) R(s v) / V(s) forgets V(s).
A policy that is one model has beams ranked by log q.

B prompts, K beams of each, R = B K rows, H hypotheses of each, C candidates of each, T prompt
tokens, N new tokens, V vocabulary.
"""

import dataclasses
import functools
import operator
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh

from dinado_jax.data.batch import Array
from dinado_jax.data.prompts import Prompts, TokenizedPrompts
from dinado_jax.decoding.batching import check_finite, prompt_batches, restore_order
from dinado_jax.decoding.policy import Carry, NextLogits, Policy
from dinado_jax.distributed.partitioning import replicate, shard_rows
from dinado_jax.errors import InputError
from dinado_jax.models.cache import reorder, scan_steps, update_where
from dinado_jax.ops.blocks import block_reduce
from dinado_jax.ops.masks import among
from dinado_jax.ops.ngrams import repeating, right_aligned
from dinado_jax.utils.arguments import POSITIVE, require_integer_field, require_number_field

_BLOCK = 128


class Beams(NamedTuple):
    """The running beams of every prompt, best first; the token V stands where there is none yet."""

    tokens: jax.Array  # int32 [B, K, N]
    log_probs: jax.Array  # float32 [B, K] nats, by which they are ranked; -inf: no beam
    # float32 [B, K] nats, to which a next token adds: the same, without R of the newest token
    log_prefix: jax.Array
    # Of a search with `scores`, else None: float32 [B, K, N] nats of each token, 0 where none is.
    log_policy: jax.Array | None
    log_base: jax.Array | None  # None too where the policy does not know the base


class Hypotheses(NamedTuple):
    """The best of every prompt, best first. Where a prompt has fewer of probability above 0, the
    rest have no tokens and a score of -inf.
    """

    tokens: Array  # int32 [B, H, N]; after the stop token the search's first one
    log_probs: Array  # float32 [B, H] nats of all new tokens together, see above
    scores: Array  # float32 [B, H]: log_probs / length^penalty
    length: Array  # int32 [B, H] new tokens, the stop token included
    finished: Array  # bool [B, H]: ended by a stop token, not cut at N
    # Of a search with `scores`, else None: float32 [B, H, N] nats of each token, 0 after the end.
    log_policy: Array | None = None
    log_base: Array | None = None  # None too where the policy does not know the base


@struct.dataclass
class BeamState:
    """The carry of a step."""

    beams: Beams  # [B, K]
    rows: jax.Array  # int32 [R], the row of the step before whose caches each beam continues
    kept: Hypotheses  # [B, K], finished; V stands where there is no token
    settled: jax.Array  # bool [B], whether nothing better is to come
    past: jax.Array | None  # int32 [B, T + n - 1] right-aligned prompts, to find n-grams
    carry: Carry  # the policy's, with its caches


@dataclasses.dataclass(frozen=True)
class Beam:
    """Everything static about a search; calls with equal shapes compile once."""

    policy: Policy
    stop_ids: tuple[int, ...]  # a text ends with any of them; (-1,): all have N tokens
    max_new_tokens: int
    beams: int
    hypotheses: int = 1  # per prompt, of the `beams` found
    length_penalty: float = 1.0  # score = log_probs / length^penalty: 0 sums, 1 averages
    # No n-gram occurs twice in prompt and new tokens, except one that a stop token ends; 0 is off.
    no_repeat_ngram: int = 0
    mesh: Mesh | None = None  # devices that share the prompts of a call, a multiple of them
    scores: bool = False  # whether hypotheses carry log_policy and log_base

    def __post_init__(self):
        for name in ("max_new_tokens", "beams", "hypotheses"):
            require_integer_field(self, name, *POSITIVE)
        if self.hypotheses > self.beams:
            raise InputError(
                f"hypotheses = {self.hypotheses}: there are {self.beams} beams, ask for no more"
            )
        require_number_field(
            self, "length_penalty", "finite, between -10 and 10", lambda x: abs(x) <= 10
        )
        require_integer_field(self, "no_repeat_ngram", "0 (off) or more", lambda x: x >= 0)
        if self.no_repeat_ngram > self.policy.context_length:  # nothing so long fits in twice
            object.__setattr__(self, "no_repeat_ngram", 0)

    def __call__(self, variables: Any, prompts: Prompts) -> Hypotheses:
        """Continues a batch of prompts.

        Args:
          variables: the policy's arrays.
          prompts: [B, T].
        """
        return self.decode(variables, self.prefill(variables, prompts))[1]

    @functools.partial(jax.jit, static_argnums=0)
    def prefill(self, variables: Any, prompts: Prompts) -> BeamState:
        """Reads the prompts once and takes the first token of every beam."""
        prompts.check()
        return shard_rows(self.mesh, self._prefill, (variables,), (prompts,))

    def _prefill(self, variables: Any, prompts: Prompts) -> BeamState:
        B, K, N = len(prompts.lengths), self.beams, self.max_new_tokens
        with jax.named_scope("prefill"):
            logits, carry = self.policy.prefill(variables, prompts, K, N - 1)
        nothing = jnp.full((B, K, N), self.policy.vocab_size, jnp.int32)
        zeros = jnp.zeros((B, K, N), jnp.float32)
        scores = [zeros if self.scores and x is not None else None for x in logits]
        none = jnp.full((B, K), -jnp.inf, jnp.float32)
        # The beams of a prompt are still the same: all but the first are none.
        start = none.at[:, 0].set(-self._log_value(logits).reshape(B, K)[:, 0])
        beams = Beams(nothing, start, start, *scores)
        length, finished = jnp.zeros((B, K), jnp.int32), jnp.zeros((B, K), bool)
        state = BeamState(
            beams=beams,
            rows=jnp.arange(B * K, dtype=jnp.int32),
            kept=Hypotheses(nothing, none, none, length, finished, *scores),
            settled=jnp.zeros(B, bool),
            past=self._past(prompts) if self.no_repeat_ngram else None,
            carry=carry,
        )
        return self._advanced(state, logits, 0)

    def _past(self, prompts: Prompts) -> jax.Array:
        tokens, lengths = jnp.asarray(prompts.tokens), jnp.asarray(prompts.lengths)
        return right_aligned(tokens, lengths, self.no_repeat_ngram - 1, self.policy.vocab_size)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
    def decode(self, variables: Any, state: BeamState) -> tuple[BeamState, Hypotheses]:
        """Takes all further tokens. The state is donated: its caches are written in place."""
        return shard_rows(self.mesh, self._decode, (variables,), (state,))

    def _decode(self, variables: Any, state: BeamState) -> tuple[BeamState, Hypotheses]:
        def advance(state, index):
            newest = _newest(state.beams.tokens, index)
            with jax.named_scope("step"):
                carry = reorder(state.carry, state.rows)
                logits, carry = self.policy.step(variables, carry, newest.reshape(-1))
            return self._advanced(dataclasses.replace(state, carry=carry), logits, index + 1)

        def step(state, index):
            return update_where(~state.settled.all(), lambda s: advance(s, index), state), None

        state, _ = scan_steps(step, state, self.max_new_tokens - 1)
        best = jax.tree.map(lambda x: x[:, : self.hypotheses], state.kept)
        tokens = jnp.where(best.tokens < self.policy.vocab_size, best.tokens, self.stop_ids[0])
        return state, best._replace(tokens=tokens)

    @jax.named_scope("choose")
    def _advanced(self, state: BeamState, logits: NextLogits, index: jax.Array | int) -> BeamState:
        """The state after token `index` of every beam, whose logits these are: [R, V]."""
        (B, K), N = state.beams.log_probs.shape, self.max_new_tokens
        candidates, parents = self._candidates(state, logits, index)  # [B, C]
        length = jnp.int32(index + 1)
        ends = among(_newest(candidates.tokens, index), self.stop_ids)
        per = length.astype(jnp.float32) ** self.length_penalty

        running, which = jax.lax.top_k(jnp.where(ends, -jnp.inf, candidates.log_probs), K)
        joins = (ends | (length == N)) & ~state.settled[:, None]
        found = Hypotheses(
            candidates.tokens,
            candidates.log_probs,
            jnp.where(joins, candidates.log_probs / per, -jnp.inf),
            jnp.full_like(parents, length),
            ends,
            candidates.log_policy,
            candidates.log_base,
        )
        # Candidates after the first K only stand in for those that ended.
        both = jax.tree.map(lambda x, y: jnp.concatenate([x, y[:, :K]], 1), state.kept, found)
        kept = _taken(both, jax.lax.top_k(both.scores, K)[1])
        rows = jnp.arange(B, dtype=jnp.int32)[:, None] * K + _taken(parents, which)
        beams = _taken(candidates, which)
        log_prefix = jnp.where(running > -jnp.inf, beams.log_prefix, -jnp.inf)
        # R may rise to 1 yet, or be above it.
        hope = jnp.maximum(running, log_prefix).max(1)
        return dataclasses.replace(
            state,
            beams=beams._replace(log_probs=running, log_prefix=log_prefix),
            rows=rows.reshape(-1),
            kept=kept,
            settled=state.settled | (hope / per <= kept.scores[:, -1]),
        )

    def _candidates(
        self, state: BeamState, logits: NextLogits, index: jax.Array | int
    ) -> tuple[Beams, jax.Array]:
        """The C best continuations of each prompt's beams by one token, and the beams [B, C] that
        they continue. C = (1 + stop tokens) K: K of them do not end, even if every beam ends with
        every stop token.
        """
        (B, K), N = state.beams.log_probs.shape, self.max_new_tokens
        scores, added = self._ranking(state.beams, logits)
        if self.no_repeat_ngram:
            scores = self._unrepeated(state, scores, index)
        log_probs, parents, new = best_next(scores, added, (1 + len(self.stop_ids)) * K)
        log_prefix = log_probs
        if logits.base is not None:
            log_p = _log_prob(logits.base.reshape(B, K, -1), parents, new)
            log_prefix = _taken(state.beams.log_prefix, parents) + log_p
        here = jnp.arange(N)[None, None] == index

        def extended(history: jax.Array, newest: jax.Array) -> jax.Array:
            """[B, K, N], [B, C] -> [B, C, N]."""
            return jnp.where(here, newest[..., None], _taken(history, parents))

        def scored(history: jax.Array | None, logits: jax.Array | None) -> jax.Array | None:
            if history is None or logits is None:
                return None
            return extended(history, _log_prob(logits.reshape(B, K, -1), parents, new))

        beams = Beams(
            extended(state.beams.tokens, new),
            log_probs,
            log_prefix,
            scored(state.beams.log_policy, logits.policy),
            scored(state.beams.log_base, logits.base),
        )
        return beams, parents

    def _ranking(self, beams: Beams, logits: NextLogits) -> tuple[jax.Array, jax.Array]:
        """What beams would be ranked by after each next token, as a sum: [B, K, V] and [B, K]."""
        shape = *beams.log_probs.shape, -1
        if logits.base is not None:
            return logits.log_weighed.reshape(shape), beams.log_prefix
        scores = logits.policy.reshape(shape)
        most = _tops(scores).max(-1)
        total = jnp.exp(scores - most[..., None]).sum(-1)
        return scores, beams.log_prefix - most - jnp.log(total)

    def _log_value(self, logits: NextLogits) -> jax.Array:
        """log V of prompts: float32 [R] nats; 0 where the policy is one model, or nothing can
        follow.
        """
        if logits.base is None:
            return jnp.zeros(len(logits.policy), jnp.float32)
        log_value = jax.nn.logsumexp(logits.log_weighed, axis=-1)
        return jnp.where(log_value == -jnp.inf, 0.0, log_value)

    def _unrepeated(self, state: BeamState, logits: jax.Array, index: jax.Array | int) -> jax.Array:
        """The logits [B, K, V] with -inf at tokens, except stop tokens, that would end an n-gram a
        second time.
        """
        B, K, V = logits.shape
        assert state.past is not None  # kept where n-grams may not repeat
        past = jnp.broadcast_to(state.past[:, None], (B, K, state.past.shape[1]))
        history = jnp.concatenate([past, state.beams.tokens], -1)
        m = self.no_repeat_ngram - 1
        newest = jax.lax.dynamic_slice_in_dim(history, past.shape[-1] + index - m, m, 2)
        rows = history.reshape(B * K, -1), newest.reshape(B * K, m)
        banned = repeating(*rows, self.stop_ids, V).reshape(B, K, V)
        return jnp.where(banned, -jnp.inf, logits)


def beam_prompts(beam: Beam, variables: Any, prompts: TokenizedPrompts, batch: int) -> Hypotheses:
    """Searches any number of prompts.

    Args:
      beam: the search.
      variables: the policy's arrays.
      prompts: checked against vocabulary and context.
      batch: beams searched at once.

    Returns:
      Host arrays in the order of the prompts.

    Raises:
      InputError: for bad prompts or a bad batch, and for a prompt after which nothing can be drawn.
    """
    numbers, parts, variables = [], [], replicate(beam.mesh, variables)
    for part in prompt_batches(beam, prompts, batch, beam.beams):
        found = jax.device_get(beam(variables, part.prompts))
        found = jax.tree.map(operator.itemgetter(slice(len(part.index))), found)
        check_finite(prompts, part.index, found.scores)
        numbers.append(part.index)
        parts.append(found)
    return restore_order(numbers, parts)


def best_next(
    logits: jax.Array, added: jax.Array, count: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Finds each prompt's largest logits + added.

    They lie in the `count` blocks of tokens with the largest maxima: nothing else is sorted.

    Args:
      logits: float32 [B, K, V].
      added: float32 [B, K], to every token of a beam.
      count: how many; all K V, if there are fewer.

    Returns:
      Scores [B, count] in falling order, beams int32 [B, count], tokens int32 [B, count].
    """
    chex.assert_rank([logits, added], [3, 2])
    chex.assert_equal_shape_prefix([logits, added], 2)
    B, K, V = logits.shape
    tops = _tops(logits) + added[..., None]
    blocks = tops.shape[-1]
    _, block = jax.lax.top_k(tops.reshape(B, -1), min(count, K * blocks))
    beams, first = block // blocks, block % blocks * _BLOCK
    column = first[..., None] + jnp.arange(_BLOCK, dtype=jnp.int32)[None, None]
    tokens = jnp.minimum(column, V - 1)
    places = (beams[..., None] * V + tokens).reshape(B, -1)
    scores = jnp.take_along_axis(logits.reshape(B, -1), places, 1).reshape(tokens.shape)
    scores += jnp.take_along_axis(added, beams, 1)[..., None]
    scores = jnp.where(column < V, scores, -jnp.inf).reshape(B, -1)
    scores, place = jax.lax.top_k(scores, min(count, K * V))
    return scores, _taken(beams, place // _BLOCK), _taken(tokens.reshape(B, -1), place)


def _log_prob(logits: jax.Array, beams: jax.Array, tokens: jax.Array) -> jax.Array:
    """The log-softmax of tokens [B, C] after beams [B, C], from logits [B, K, V]: [B, C]."""
    B, K, V = logits.shape
    chosen = jnp.take_along_axis(logits.reshape(B, K * V), beams * V + tokens, 1)
    return chosen - jnp.take_along_axis(jax.nn.logsumexp(logits, axis=-1), beams, 1)


def _newest(tokens: jax.Array, index: jax.Array | int) -> jax.Array:
    """Token `index` of each: [B, C, N] -> [B, C]."""
    return jax.lax.dynamic_index_in_dim(tokens, index, 2, keepdims=False)


def _tops(logits: jax.Array) -> jax.Array:
    """The largest of every block of tokens: [B, K, V] -> [B, K, blocks]."""
    return block_reduce(logits, _BLOCK, jax.lax.max, -jnp.inf)


def _taken(tree: Any, index: jax.Array) -> Any:
    """Each prompt's entries `index` [B, n] of every array [B, ..]: [B, n, ..]."""
    return jax.tree.map(lambda x: jax.vmap(lambda own, at: own[at])(x, index), tree)

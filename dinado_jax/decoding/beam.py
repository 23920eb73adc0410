"""Beam search as two compiled programs: prefill, then a `lax.scan` over tokens in donated caches.

The search is that of transformers' `generate(num_beams=K, do_sample=False, early_stopping=False)`:
finished hypotheses are kept apart from the running beams, K of each. It differs in one thing: eos
ends a text and, by our format, begins every prompt; it is no text, so no ban of repeated n-grams
holds it back.

B prompts, K beams of each, R = B K rows, T prompt tokens, N new tokens, V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh

from dinado_jax.data.batch import Array, rows_of
from dinado_jax.decoding.policy import Carry, Policy
from dinado_jax.decoding.sampler import check_finite, prompt_batches, restore_order
from dinado_jax.distributed.partitioning import replicate, shard_rows
from dinado_jax.errors import InputError
from dinado_jax.models.cache import reorder, scan_steps, update_where
from dinado_jax.ops.blocks import block_reduce
from dinado_jax.utils.arguments import POSITIVE, require_integer_field, require_number_field

_BLOCK = 128


class Hypotheses(NamedTuple):
    """The best of every prompt, best first, H of them. Where a prompt has fewer of probability
    above 0, the rest have no tokens and a score of -inf."""

    tokens: Array  # int32 [B, H, N]; eos, where found, is kept, and what follows it is eos too
    log_probs: Array  # float32 [B, H] nats: log q of all new tokens together
    scores: Array  # float32 [B, H]: log_probs / length^penalty
    length: Array  # int32 [B, H] new tokens, eos included
    finished: Array  # bool [B, H]: ended by eos, not cut at N


@struct.dataclass
class BeamState:
    """What one step hands to the next; V stands where there is no token."""

    tokens: jax.Array  # int32 [B, K, N] of the running beams, best first
    log_probs: jax.Array  # float32 [B, K] nats, their own; -inf: no beam
    rows: jax.Array  # int32 [R], whose caches they continue
    kept: Hypotheses  # [B, K]
    settled: jax.Array  # bool [B], nothing better is to come
    past: jax.Array | None  # int32 [B, T + n - 1] right-aligned prompts, to find n-grams
    carry: Carry  # the policy's caches


@dataclasses.dataclass(frozen=True)
class Beam:
    """Everything static about a search; calls with equal shapes compile once."""

    policy: Policy
    eos_id: int
    max_new_tokens: int
    beams: int
    hypotheses: int = 1  # per prompt, of the `beams` found
    length_penalty: float = 1.0  # score = log q / length^penalty: 0 sums, 1 averages
    # No n-gram occurs twice in prompt and new tokens, except one that eos ends; 0 is off.
    no_repeat_ngram: int = 0
    mesh: Mesh | None = None  # devices that share the prompts out, a multiple of their number

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

    def __call__(
        self, variables: Any, prompts: Array, lengths: Array, condition: Any = None
    ) -> Hypotheses:
        """Continues right-padded prompts.

        Args:
          variables: the policy's arrays.
          prompts: [B, T] int32.
          lengths: [B] int32, tokens of each prompt, >= 1.
          condition: pytree of [B, ...], what guides know of each prompt.
        """
        state = self.prefill(variables, prompts, lengths, condition)
        return self.decode(variables, state)[1]

    @functools.partial(jax.jit, static_argnums=0)
    def prefill(self, variables, prompts, lengths, condition=None) -> BeamState:
        """Reads the prompts once and takes the first token of every beam."""
        rows = prompts, lengths, condition
        return shard_rows(self.mesh, self._prefill, (variables,), rows)

    def _prefill(self, variables, prompts, lengths, condition):
        (B, T), K, N, n = prompts.shape, self.beams, self.max_new_tokens, self.no_repeat_ngram
        scores, carry = self.policy.prefill(variables, prompts, lengths, K, N - 1, condition)
        nothing = self.policy.vocab_size
        past = None
        if n:
            column = jnp.arange(1 - n, T, dtype=jnp.int32)[None] - T + lengths[:, None]
            shifted = jnp.take_along_axis(prompts, jnp.maximum(column, 0), 1)
            past = jnp.where(column < 0, nothing, shifted)
        tokens = jnp.full((B, K, N), nothing, jnp.int32)
        none = jnp.full((B, K), -jnp.inf, jnp.float32)
        state = BeamState(
            tokens=tokens,
            log_probs=none.at[:, 0].set(0),  # the beams of a prompt are still the same
            rows=jnp.arange(B * K, dtype=jnp.int32),
            kept=Hypotheses(
                tokens, none, none, jnp.zeros((B, K), jnp.int32), jnp.zeros((B, K), bool)
            ),
            settled=jnp.zeros(B, bool),
            past=past,
            carry=carry,
        )
        return self._advanced(state, scores.policy, 0)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
    def decode(self, variables, state: BeamState) -> tuple[BeamState, Hypotheses]:
        """All further tokens. The state is donated: its caches are written in place."""
        return shard_rows(self.mesh, self._decode, (variables,), (state,))

    def _decode(self, variables, state):
        def advance(state, index):
            newest = jax.lax.dynamic_index_in_dim(state.tokens, index, 2, keepdims=False)
            carry = reorder(state.carry, state.rows)
            scores, carry = self.policy.step(variables, carry, newest.reshape(-1))
            return self._advanced(state.replace(carry=carry), scores.policy, index + 1)

        def step(state, index):
            return update_where(~state.settled.all(), lambda s: advance(s, index), state), None

        state, _ = scan_steps(step, state, self.max_new_tokens - 1)
        best = jax.tree.map(lambda x: x[:, : self.hypotheses], state.kept)
        tokens = jnp.where(best.tokens < self.policy.vocab_size, best.tokens, self.eos_id)
        return state, best._replace(tokens=tokens)

    def _advanced(self, state: BeamState, logits: jax.Array, index) -> BeamState:
        """After token `index` of every beam, of which these are the logits [R, V]."""
        (B, K), N = state.log_probs.shape, self.max_new_tokens
        logits = logits.reshape(B, K, -1)
        most = _tops(logits).max(-1)
        total = jnp.exp(logits - most[..., None]).sum(-1)
        added = state.log_probs - most - jnp.log(total)
        if self.no_repeat_ngram:
            logits = self._unrepeated(state, logits, index)
        log_probs, beams, new = best_next(logits, added, 2 * K)
        here = jnp.arange(N)[None, None] == index
        tokens = jnp.where(here, new[..., None], _taken(state.tokens, beams))
        length, ends = jnp.int32(index + 1), new == self.eos_id
        per = length.astype(jnp.float32) ** self.length_penalty

        running, which = jax.lax.top_k(jnp.where(ends, -jnp.inf, log_probs), K)
        joins = (ends | (length == N)) & ~state.settled[:, None]
        scores = jnp.where(joins, log_probs / per, -jnp.inf)
        found = Hypotheses(tokens, log_probs, scores, jnp.full_like(new, length), ends)
        # Candidates after the first K only stand in for those that ended.
        both = jax.tree.map(lambda x, y: jnp.concatenate([x, y[:, :K]], 1), state.kept, found)
        kept = _taken(both, jax.lax.top_k(both.scores, K)[1])
        hopeless = running[:, 0] / per <= kept.scores[:, -1]
        rows = jnp.arange(B, dtype=jnp.int32)[:, None] * K + _taken(beams, which)
        return state.replace(
            tokens=_taken(tokens, which),
            log_probs=running,
            rows=rows.reshape(-1),
            kept=kept,
            settled=state.settled | hopeless,
        )

    def _unrepeated(self, state: BeamState, logits: jax.Array, index) -> jax.Array:
        """The logits [B, K, V] with -inf at tokens, except eos, that would end an n-gram a second
        time."""
        B, K, V = logits.shape
        past = jnp.broadcast_to(state.past[:, None], (B, K, state.past.shape[1]))
        history = jnp.concatenate([past, state.tokens], -1)
        m = self.no_repeat_ngram - 1
        newest = jax.lax.dynamic_slice_in_dim(history, past.shape[-1] + index - m, m, 2)
        after = history[..., m:]
        same = jnp.ones(after.shape, bool)
        for i in range(m):
            same &= history[..., i : i + after.shape[-1]] == newest[..., i : i + 1]
        banned = jnp.where(same & (after != self.eos_id), after, V).reshape(B * K, -1)
        rows = jnp.broadcast_to(jnp.arange(B * K)[:, None], banned.shape)
        flat = logits.reshape(B * K, V)
        return flat.at[rows, banned].set(-jnp.inf, mode="drop").reshape(B, K, V)


def beam_prompts(
    beam: Beam,
    variables: Any,
    prompts: Sequence[Sequence[int]],
    batch: int,
    condition: Any = None,
) -> Hypotheses:
    """Searches any number of prompts, `batch` beams at a time; host arrays in their order.

    InputError for bad prompts or batch, and for a prompt after which no token can be drawn.
    """
    numbers, parts, variables = [], [], replicate(beam.mesh, variables)
    for part, filled, tokens, lengths in prompt_batches(
        beam.policy, prompts, beam.max_new_tokens, beam.eos_id, batch, beam.beams, beam.mesh
    ):
        found = beam(variables, tokens, lengths, rows_of(condition, filled))
        found = jax.device_get(found)
        found = Hypotheses(*(x[: len(part)] for x in found))
        check_finite(part, found.scores)
        numbers.append(part)
        parts.append(found)
    return restore_order(numbers, parts)


def best_next(
    logits: jax.Array, added: jax.Array, count: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The `count` largest of logits [B, K, V] + added [B, K] of each prompt, in order (all K V, if
    fewer): scores [B, count], beams [B, count] and tokens [B, count] int32.

    They lie in the `count` blocks of tokens with the largest maxima: nothing else is sorted.
    """
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


def _tops(logits: jax.Array) -> jax.Array:
    """The largest of every block of tokens: [B, K, V] -> [B, K, blocks]."""
    return block_reduce(logits, _BLOCK, jax.lax.max, -jnp.inf)


def _taken(tree: Any, index: jax.Array) -> Any:
    """Entries index [B, n] of each prompt's, of every array [B, .., ..]."""
    return jax.tree.map(lambda x: jax.vmap(lambda own, at: own[at])(x, index), tree)

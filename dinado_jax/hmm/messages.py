"""The probability under an HMM that an automaton accepts, from each of its states.

    C_k[q, z] = a[q] e[stop, z] + sum_v e[v, z] D_{k-1}[next(q, v), z],    C_0[q, z] = a[q]
    D_k[q, z] = sum_y t[z, y] C_k[q, y]

with k tokens that may still be drawn, q a state of the automaton, z the state of the HMM that emits
the next token; a: it accepts, e: emission, t: transition. A text ends with a stop token, or is cut
when no token is left. (GeLaTo, arXiv 2304.07438; Ctrl-G, 2406.13892.)

Tokens that lead from q to the same state are one edge, so that a step is a sum over edges and a
matrix product. The values of each state are stored by their largest, as logarithm, and in relation
to it: they may be as small as they like.

S states, C classes of tokens, L tokens, H states of the HMM, V vocabulary.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.automata.tokens import TokenAutomaton
from dinado_jax.data.batch import Array
from dinado_jax.hmm.model import EXACT, Hmm

_LEAST = -1e30  # nats: subtracted from -inf it leaves -inf


class Messages(NamedTuple):
    """D_k for k = 0 .. L - 1."""

    relative: Array  # float32 [L, S, H], in [0, 1]
    log_scale: Array  # float32 [L, S] nats; -inf where it cannot accept


class _Edges(NamedTuple):
    """The edges of an automaton, in the order of their sources; padded with edges of no tokens."""

    source: np.ndarray  # int32 [E]
    target: np.ndarray  # int32 [E]
    of_class: np.ndarray  # int32 [C, S], the edge by which each class leaves each state
    class_of: np.ndarray  # int32 [V], with class C of the tokens that end a text
    accepting: np.ndarray  # bool [S]


def messages(hmm: Hmm, automaton: TokenAutomaton, stop_ids: Sequence[int], length: int) -> Messages:
    """Computes them for one automaton, on the host.

    Args:
      hmm: over the tokens of the automaton.
      automaton: over V tokens.
      stop_ids: tokens that end a text.
      length: L, the most tokens of a text.
    """
    S = len(automaton.table)
    found = _messages(hmm, _edges(automaton, stop_ids), length)
    return Messages(*(np.asarray(each)[:, :S] for each in found))


def _edges(automaton: TokenAutomaton, stop_ids: Sequence[int]) -> _Edges:
    """Padded to powers of two, so that automata of similar sizes share a program. The spare edge
    leaves the last state: one that is padding, or else it has no tokens.
    """
    S, C = automaton.table.shape
    code = np.arange(S)[:, None] * S + automaton.table
    known, number = np.unique(code, return_inverse=True)
    states, classes, edges = (_power_of_two(n) for n in (S, C, len(known) + 1))
    spare = edges - 1
    of_class = np.full((classes, states), spare, np.int32)
    of_class[:C, :S] = number.reshape(S, C).T
    fill = (0, edges - len(known))
    class_of = automaton.class_of.astype(np.int32)
    class_of[list(stop_ids)] = classes
    return _Edges(
        np.pad(known // S, fill, constant_values=states - 1).astype(np.int32),
        np.pad(known % S, fill).astype(np.int32),
        of_class,
        class_of,
        np.pad(automaton.accepting, (0, states - S)),
    )


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


@functools.partial(jax.jit, static_argnums=2)
def _messages(hmm: Hmm, edges: _Edges, length: int) -> Messages:
    S, E, C = len(edges.accepting), len(edges.source), len(edges.of_class)
    H = hmm.states
    of_class = jax.ops.segment_sum(jnp.asarray(hmm.emission), edges.class_of, C + 1)  # [C + 1, H]

    def add_class(weight: jax.Array, each: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        edge, prob = each
        return weight.at[edge].add(jnp.broadcast_to(prob[None], (S, H))), None

    zeros = jnp.zeros((E, H), jnp.float32)
    weight, _ = jax.lax.scan(add_class, zeros, (jnp.asarray(edges.of_class), of_class[:C]))
    some = (weight > 0).any(1)
    accepts = jnp.asarray(edges.accepting)
    stop = jnp.where(accepts[:, None], of_class[C][None], 0.0)
    log_stop = jnp.where(stop.any(1), 0.0, -jnp.inf)

    def step(later: Messages, _: None) -> tuple[Messages, Messages]:
        relative, log_scale = later
        reach = jnp.where(some, log_scale[edges.target], -jnp.inf)
        most = jax.ops.segment_max(reach, edges.source, S, indices_are_sorted=True)
        most = jnp.maximum(jnp.maximum(most, log_stop), _LEAST)
        share = jnp.exp(reach - most[edges.source])
        onward = weight * relative[edges.target] * share[:, None]
        total = jax.ops.segment_sum(onward, edges.source, S, indices_are_sorted=True)
        total += stop * jnp.exp(log_stop - most)[:, None]
        moved = jnp.matmul(total, jnp.asarray(hmm.transition).T, precision=EXACT)
        return _scaled(moved, most), later

    start = jnp.broadcast_to(accepts[:, None], (S, H)).astype(jnp.float32)
    _, found = jax.lax.scan(step, _scaled(start, jnp.zeros(S)), None, length)
    return found


def _scaled(values: jax.Array, log_scale: jax.Array) -> Messages:
    """Values [S, H] times e^log_scale [S]."""
    most = values.max(1)
    relative = values / jnp.where(most > 0, most, 1.0)[:, None]
    return Messages(relative, jnp.where(most > 0, jnp.log(most) + log_scale, -jnp.inf))

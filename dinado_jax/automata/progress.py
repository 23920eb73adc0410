"""How far each row's text is from satisfying its constraint: a class of every next token.

Of what the automata of a constraint know, a class keeps how many of them still ask for something,
whether any of these has been begun, and whether too few tokens are left; and whether a sentence has
just ended. So constraints of all prompts share the few classes:

    0                 the text can no longer satisfy the constraint, or ends without satisfying it
    1                 the text ends here and satisfies it
    2 + 4 m + 2 b + c m automata do not accept yet; b = 1 if one of them is nearer to it than at
                      first, c = 1 if a sentence has just ended

B rows, n prefixes of each, K automata, J joint classes, V vocabulary; `rows` is a `Conjunction`
with the row as leading axis of every array.
"""

import jax
import jax.numpy as jnp

from dinado_jax.automata.conjunction import Conjunction

IMPOSSIBLE, ENDS = 0, 1
SATISFIED = [2, 3]  # if nothing follows
_MOST = 7  # automata that are told apart by number
COUNT = 6 + 4 * _MOST  # of classes


def rows_of_prompts(prompts: Conjunction, number: jax.Array) -> Conjunction:
    """The automata of rows, by the number of each one's prompt, int32 [B]."""
    return jax.tree.map(lambda x: jnp.asarray(x)[number], prompts)


def start_states(rows: Conjunction) -> jax.Array:
    """The states before any token: int32 [B, K]."""
    return jnp.zeros(rows.table.shape[:2], jnp.int32)


def next_states(rows: Conjunction, states: jax.Array, tokens: jax.Array) -> jax.Array:
    """The states [B, K] after one more token [B] of each row."""
    row, automata = jnp.arange(len(tokens)), jnp.arange(states.shape[1])[None]
    joint = jnp.asarray(rows.joint_of)[row, tokens].astype(jnp.int32)
    own = jnp.asarray(rows.class_of)[row[:, None], automata, joint[:, None]]
    table = jnp.asarray(rows.table)
    return table[row[:, None], automata, states, own].astype(jnp.int32)


def of_prefixes(rows: Conjunction, states: jax.Array, left: jax.Array) -> jax.Array:
    """The class of each prefix: int32 [B, n].

    Args:
      rows: of B rows.
      states: int32 [B, n, K], after the prefixes.
      left: int32 [B, n], tokens that may still follow.
    """
    start = _distance(rows, start_states(rows)[:, None])
    closed = _closed(rows, states)
    return _class(_distance(rows, states), start, left, _together(rows)[:, None], closed)


def of_next_tokens(rows: Conjunction, states: jax.Array, left: jax.Array) -> jax.Array:
    """The class after every next token: uint8 [B, n, V]; arguments as for `of_prefixes`."""
    row, automata = jnp.arange(len(states))[:, None, None], jnp.arange(states.shape[2])[None, None]
    following = jnp.asarray(rows.table)[row, automata, states]  # [B, n, K, C]
    own = jnp.asarray(rows.class_of).astype(jnp.int32)[:, None]
    after = jnp.take_along_axis(following, own, 3).swapaxes(2, 3)  # [B, n, J, K]
    B, n, J, K = after.shape
    flat = after.reshape(B, n * J, K)
    distance = _distance(rows, flat).reshape(after.shape)
    closed = _closed(rows, flat).reshape(B, n, J)
    start = _distance(rows, start_states(rows)[:, None])[:, None]
    classes = _class(distance, start, left[..., None] - 1, _together(rows)[:, None, None], closed)
    satisfied = (_distance(rows, states) == 0).all(-1)
    classes = classes.at[..., 0].set(jnp.where(satisfied, ENDS, IMPOSSIBLE))
    classes = _computed(classes).astype(jnp.uint8)
    joint = jnp.asarray(rows.joint_of)[:, None]
    return jnp.take_along_axis(classes, joint, 2, mode="promise_in_bounds")


def _computed(classes: jax.Array) -> jax.Array:
    """Returns classes [.., J], multiplied by the identity.

    XLA would fuse their computation into the gather that follows, and repeat it for every token of
    the vocabulary. It does not fuse a matrix product; optimization barriers it drops on CPUs.
    """
    J, block = classes.shape[-1], 16
    padded = jnp.pad(classes, [(0, 0)] * (classes.ndim - 1) + [(0, -J % block)])
    blocks = padded.reshape(*classes.shape[:-1], -1, block).astype(jnp.float32)
    return (blocks @ jnp.eye(block)).reshape(padded.shape)[..., :J]


def _distance(rows: Conjunction, states: jax.Array) -> jax.Array:
    """The least number of tokens until each automaton accepts: int32 [B, n, K]."""
    row, automata = jnp.arange(len(states))[:, None, None], jnp.arange(states.shape[2])[None, None]
    return jnp.asarray(rows.to_accepting)[row, automata, states].astype(jnp.int32)


def _closed(rows: Conjunction, states: jax.Array) -> jax.Array:
    """Whether a sentence has just ended: bool [B, n], of states [B, n, K]."""
    row, automata = jnp.arange(len(states))[:, None, None], jnp.arange(states.shape[2])[None, None]
    return jnp.asarray(rows.closed)[row, automata, states].any(-1)


def _together(rows: Conjunction) -> jax.Array:
    """float32 [B, K]: see `Conjunction`."""
    return jnp.maximum(jnp.asarray(rows.together), 1).astype(jnp.float32)


def _class(
    distance: jax.Array, start: jax.Array, left: jax.Array, together: jax.Array, closed: jax.Array
) -> jax.Array:
    """Distances [.., K], those at the start, tokens left [..], `_together` [.., K] and `_closed`
    [..] -> [..].
    """
    asks = distance > 0
    begun = (asks & (distance < start)).any(-1)
    missing = jnp.minimum(asks.sum(-1), _MOST)
    # A lower bound: a token brings at most `together` automata nearer, each by one.
    shared = jnp.ceil((distance / together).sum(-1) - 1e-3).astype(jnp.int32)
    needed = jnp.maximum(distance.max(-1), shared)
    return jnp.where(needed > left, IMPOSSIBLE, 2 + 4 * missing + 2 * begun + closed)

"""Texts of any length from a cache of one window.

When a window is full, the mean of its states becomes the memory, the cache is dropped, and a new
window begins with the last token: what is drawn has the likelihood that scoring.py gives it.

    window 1    p p p x x x          p prompt, x drawn; T = 6
    window 2              x y y y y y
    window 3                        y z z ..

Shapes: R rows, P prompt tokens of a window, T tokens of a full one, D width, V vocabulary.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.data.batching import bucket
from dinado_jax.data.sequences import pad
from dinado_jax.decoding.methods import Method
from dinado_jax.models.cache import Cache, allocate
from dinado_jax.models.output import Output, logits
from dinado_jax.recurrence.module import Params, Recurrence
from dinado_jax.recurrence.scoring import memory_after


class Drawn(NamedTuple):
    """The new tokens of a window, n of every row."""

    tokens: Any  # int32 [R, n]
    log_probs: Any  # float32 [R, n] nats, as drawn


class _Carry(NamedTuple):
    """Of a step within a window."""

    count: jax.Array  # int32 [], tokens drawn in this window
    hidden: jax.Array  # [R, D], the state that predicts the next token
    total: jax.Array  # float32 [R, D], the sum of the states that are averaged
    cache: Cache
    drawn: Drawn  # [R, T - 1], the first `count` of them


def draw_windows(
    recurrence: Recurrence,
    variables: dict,
    params: Params,
    prompt: Sequence[int],
    method: Method,
    keys: jax.Array,
    steps: int,
) -> Iterator[Drawn]:
    """Continues a prompt, window by window, until so many tokens are drawn; nothing ends a row.

    The random numbers of a row come from its key and the number of the token.

    Args:
      recurrence: the model and its network.
      variables: of the model.
      params: of the network.
      prompt: token ids, one or more, of any length.
      method: how tokens are drawn.
      keys: [R], of each row.
      steps: tokens of each row.
    """
    T, R = recurrence.window, len(keys)
    whole = (len(prompt) - 1) // (T - 1)
    full = [prompt[i * (T - 1) : i * (T - 1) + T] for i in range(whole)]
    memory = recurrence.empty(1)
    if full:
        memory = memory_after(recurrence, variables, params, np.asarray(full, np.int32))
    memory = jnp.repeat(memory, R, 0)
    rest = list(prompt[whole * (T - 1) :])
    tokens, length = np.repeat(pad([rest], 0, bucket(len(rest), T)), R, 0), len(rest)
    done = 0
    while done < steps:
        count = min(T - length, steps - done)
        given = memory, jnp.asarray(tokens), np.int32(length), np.int32(count), np.int32(done), keys
        drawn, memory = _window(recurrence, method, variables, params, *given)
        found = Drawn(*(np.asarray(x)[:, :count] for x in drawn))
        yield found
        done += count
        tokens, length = found.tokens[:, -1:], 1


@functools.partial(jax.jit, static_argnums=(0, 1))
def _window(
    recurrence: Recurrence, method: Method, variables: dict, params: Params, *given: jax.Array
) -> tuple[Drawn, jax.Array]:
    """Draws `count` tokens after the `length` ones that a window has, [R, P]; `done` is the number
    of those drawn before. Returns the tokens and the memory of the window.
    """
    memory, tokens, length, count, done, keys = given
    (R, P), model = tokens.shape, recurrence.model
    variables = recurrence.variables(variables, memory)

    def total_of(out: Output, mask: jax.Array) -> jax.Array:
        return jnp.where(mask, recurrence.states(out).astype(jnp.float32), 0).sum(1)

    def step(carry: _Carry) -> _Carry:
        scores = logits(carry.hidden, vocabulary, model.excluded_ids)
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, done + carry.count)
        token, log_prob = method.draw(scores, jax.vmap(jax.random.uniform)(own))
        out = model.apply(variables, token[:, None], carry.cache)
        drawn = Drawn(
            *(x.at[:, carry.count].set(y) for x, y in zip(carry.drawn, (token, log_prob)))
        )
        total = carry.total + total_of(out, jnp.ones((1, 1, 1), bool))
        return _Carry(carry.count + 1, out.hidden[:, 0], total, out.cache, drawn)

    out = model.apply(variables, tokens)
    vocabulary, room = out.vocabulary, recurrence.window - 1
    lengths = jnp.full(R, length)
    cache = allocate(out.cache, lengths, 1, room, segment=room).open_next()
    blank = Drawn(jnp.zeros((R, room), jnp.int32), jnp.zeros((R, room), jnp.float32))
    inside = jnp.arange(P)[None, :, None] < length
    begun = _Carry(
        jnp.zeros((), jnp.int32),
        jnp.take_along_axis(out.hidden, lengths[:, None, None] - 1, 1)[:, 0],
        total_of(out, inside),
        cache,
        blank,
    )
    end = jax.lax.while_loop(lambda carry: carry.count < count, step, begun)
    return end.drawn, recurrence.memory(params, end.total / (length + count))

"""Adam on a cache: each entry is updated as if by an Adam of its own that began with it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dinado_jax.hidden_states.adam import adam_step, init_moments
from dinado_jax.models.cache import KV

HEADS, SLOTS, K, CHUNK, STEP = 2, 6, 3, 2, 0.1


def test_entries_are_updated_as_by_adams_that_begin_with_them():
    rng = np.random.default_rng(0)
    lengths = range(CHUNK, SLOTS + 1, CHUNK)
    held = [np.arange(SLOTS)[None, :, None] < length for length in lengths]
    shape = (HEADS, SLOTS, K)
    gradients = [KV(*(where * rng.normal(size=(2, *shape)))) for where in held]
    gradients = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), gradients)
    start = KV(*jnp.asarray(rng.normal(size=(2, *shape)), jnp.float32))
    found, moments, step = (start,), init_moments((start,)), jax.jit(adam_step)
    for length, gradient in zip(lengths, gradients):
        found, moments = step(found, (gradient,), moments, jnp.int32(length), STEP)
    optimizer = optax.adam(STEP)
    for chunk in range(len(lengths)):
        slots = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        own = jax.tree.map(lambda x, slots=slots: x[:, slots], (start, *gradients[chunk:]))
        wanted, state = own[0], optimizer.init(own[0])
        for gradient in own[1:]:
            change, state = optimizer.update(gradient, state)
            wanted = optax.apply_updates(wanted, change)
        for after, x in zip(found[0], wanted):
            np.testing.assert_allclose(after[:, slots], x, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(moments.count, np.repeat([3, 2, 1], CHUNK))

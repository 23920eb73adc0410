"""The product with a low-rank matrix, and a gradient that never moves a large array.

N rows, I in, O out, r rank.
"""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def low_rank_product(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """(x a) b: [.., I], [I, r], [r, O] -> [.., O], all of one dtype.

    The gradient of a is u^T x, transposed, with u = g b^T [N, r]: as x^T u a compiler copies x into
    another order first, which took a third of a training step on CPUs.
    """
    return (x @ a) @ b


def _forward(x, a, b):
    inner = x @ a
    return inner @ b, (x, a, b, inner)


def _backward(kept, g):
    x, a, b, inner = kept
    u = g @ b.T

    def summed(left, right):
        """left^T right over all rows, in float32."""
        left, right = (z.reshape(-1, z.shape[-1]) for z in (left, right))
        return jnp.einsum("nr,nk->rk", left, right, preferred_element_type=jnp.float32)

    of_a, of_b = summed(u, x).T, summed(inner, g)
    return u @ a.T, of_a.astype(a.dtype), of_b.astype(b.dtype)


low_rank_product.defvjp(_forward, _backward)

"""Reductions over blocks: the form for CPUs and the one for all else, against numpy."""

import jax
import numpy as np
import pytest

from dinado_jax.ops import blocks
from dinado_jax.ops.backend import compiling_for


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("size", [1, 7, 8, 9, 50])
def test_both_forms_are_numpys(platform, size):
    x = np.random.default_rng(size).normal(size=(2, 3, size)).astype(np.float32)
    for monoid, start, reduce in ((jax.lax.add, 0.0, np.add), (jax.lax.max, -np.inf, np.maximum)):
        wanted = reduce.reduceat(x, np.arange(0, size, 8), axis=-1)
        with compiling_for(platform):
            found = blocks.block_reduce(x, 8, monoid, start)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)

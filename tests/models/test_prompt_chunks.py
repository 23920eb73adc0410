"""Prompts that are read in chunks, with a cache of what came before, are read as a whole is."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny

from dinado_jax.models.cache import empty_prompts
from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.layers import causal_attention
from dinado_jax.models.llama import Llama, LlamaConfig
from dinado_jax.models.params import init_params

pytestmark = pytest.mark.usefixtures("compiled_quickly")
MODELS = {
    "gpt2": GPT2(GPT2Config(vocab_size=11, n_positions=16, n_embd=16, n_layer=2, n_head=4)),
    "llama": Llama(  # groups of query heads, and a window shorter than the row
        LlamaConfig(
            vocab_size=11,
            max_position_embeddings=16,
            hidden_size=16,
            intermediate_size=20,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=4,
            sliding_window=5,
        )
    ),
}
B, T, SLOTS, CHUNK = 3, 12, 14, 4
TOKENS = np.random.default_rng(0).integers(0, 11, (B, T)).astype(np.int32)


@pytest.fixture(scope="module", params=MODELS)
def apply(request):
    model = MODELS[request.param]
    with jax.ensure_compile_time_eval():
        params = tiny.noisy(init_params(model, seed=0), 0.2)
    return jax.jit(functools.partial(model.apply, {"params": params}))


@pytest.fixture(scope="module")
def whole(apply):
    return apply(TOKENS)


def test_chunks_give_the_logits_and_the_cache_of_the_whole(apply, whole):
    cache, hidden = empty_prompts(whole.cache, SLOTS), []
    for start in range(0, T, CHUNK):
        out = apply(TOKENS[:, start : start + CHUNK], cache)
        cache = out.cache
        hidden.append(out.hidden)
    np.testing.assert_allclose(np.concatenate(hidden, 1), whole.hidden, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(cache.lengths, [T] * B)
    for found, wanted in zip(jax.tree.leaves(cache.prompt), jax.tree.leaves(whole.cache.prompt)):
        np.testing.assert_allclose(found[:, :T], wanted, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(found[:, T:], 0)


def test_rows_have_lengths_of_their_own(apply, whole):
    lengths = np.int32([2, 5, 8])
    heads = len(whole.cache.prompt[0].k) // B
    held = np.repeat(np.arange(SLOTS) < lengths[:, None], heads, 0)[..., None]
    prompt = jax.tree.map(
        lambda x: np.where(held, np.pad(x, ((0, 0), (0, SLOTS - T), (0, 0))), 0), whole.cache.prompt
    )
    cache = dataclasses.replace(whole.cache, prompt=prompt, lengths=lengths)
    found = apply(TOKENS[:, -CHUNK:], cache).hidden
    alone = TOKENS.copy()
    for row, length in enumerate(lengths):
        alone[row, length : length + CHUNK] = TOKENS[row, -CHUNK:]
    for row, (length, wanted) in enumerate(zip(lengths, apply(alone).hidden)):
        np.testing.assert_allclose(found[row], wanted[length : length + CHUNK], rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [None, 3])
def test_causal_attention_over_earlier_positions(window):
    """By hand, in float64: two query heads for each of two heads, four earlier positions."""
    rng, P, T, K = np.random.default_rng(0), 4, 3, 8
    q, k, v = (rng.normal(size=(2, n, h, K)) for n, h in ((T, 4), (P + T, 2), (P + T, 2)))
    found = jax.jit(causal_attention, static_argnums=3)(
        *(jnp.asarray(x, jnp.float32) for x in (q, k, v)), window
    )
    for row, t, head in np.ndindex(2, T, 4):
        first = 0 if window is None else max(0, P + t + 1 - window)
        seen = slice(first, P + t + 1)
        scores = k[row, seen, head // 2] @ q[row, t, head] / np.sqrt(K)
        weights = np.exp(scores) / np.exp(scores).sum()
        wanted = weights @ v[row, seen, head // 2]
        np.testing.assert_allclose(found[row, t, head], wanted, rtol=0, atol=1e-5)

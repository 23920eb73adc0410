"""The Llama family against numbers from the PyTorch ones (tests/golden/make_llama.py)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support

from dinado_jax.data.prompts import Prompts
from dinado_jax.decoding.beam import Beam
from dinado_jax.decoding.policy import ModelPolicy
from dinado_jax.models import cache
from dinado_jax.models.architectures import load_model, load_params
from dinado_jax.models.llama_checkpoint import to_tensors

pytestmark = pytest.mark.usefixtures("compiled_quickly")

FOLDERS = sorted(path.name for path in support.GOLDEN.glob("llama_*") if path.is_dir())
DECODED = [
    f"llama_{name}"
    for name in ("groups_3", "groups_8", "llama3", "mistral", "qwen2", "qwen2_window", "qwen3")
]


def test_the_shapes_are_all_there():
    models = [load_model(support.GOLDEN / name).config for name in FOLDERS]
    assert {m.model_type for m in models} == {"llama", "mistral", "qwen2", "qwen3"}
    assert {m.num_attention_heads // m.num_key_value_heads for m in models} >= {1, 2, 3, 8}
    assert {m.rope.scaling for m in models} == {"default", "linear", "llama3"}
    assert any(m.head_dim * m.num_attention_heads != m.hidden_size for m in models)
    assert {m.full_layers for m in models} == {0, 1}


@functools.cache
def load(name):
    """(model, params, golden arrays) of one stored model."""
    folder = support.GOLDEN / name
    model = load_model(folder)
    with np.load(folder / "golden.npz") as arrays:
        return model, load_params(folder, model), dict(arrays)


@pytest.mark.parametrize("name", FOLDERS)
def test_logits_and_gradients(name):
    model, params, golden = load(name)
    tokens = golden["tokens"]

    def log_prob(params):
        logits = model.apply({"params": params}, tokens).logits
        log_p = jax.nn.log_softmax(logits[:, :-1])
        return jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1).sum(), logits

    with jax.default_matmul_precision("highest"):
        (value, logits), gradients = jax.jit(jax.value_and_grad(log_prob, has_aux=True))(params)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, golden["logits"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(value, golden["log_prob"], rtol=0, atol=2e-4)
    gradients = to_tensors(jax.device_get(gradients), model)
    wanted = {key[5:]: array for key, array in golden.items() if key.startswith("grad:")}
    assert gradients.keys() == wanted.keys()
    for key, array in wanted.items():
        np.testing.assert_allclose(gradients[key], array, rtol=0, atol=1e-4, err_msg=key)


@pytest.mark.parametrize("name", DECODED)
def test_cached_decoding(name):
    """A prompt and then ten single tokens, in three segments of the cache."""
    model, params, golden = load(name)
    tokens = golden["tokens"]
    B, T = tokens.shape
    prompt = T - 10

    @jax.jit
    def run(variables):
        out = model.apply(variables, tokens[:, :prompt])
        state = cache.allocate(out.cache, jnp.full(B, prompt), 1, T - prompt, segment=3)

        def step(state, index):
            one = model.apply(variables, jnp.asarray(tokens)[:, prompt + index][:, None], state)
            return one.cache, one.logits[:, 0]

        _, later = cache.scan_steps(step, state, T - prompt)
        return jnp.concatenate([out.logits, later.swapaxes(0, 1)], axis=1)

    with jax.default_matmul_precision("highest"):
        found = run({"params": params})
    np.testing.assert_allclose(found, golden["logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", DECODED)
def test_beams(name):
    model, params, golden = load(name)
    prompts, wanted = golden["prompts"], golden["beam_tokens"]
    B, K, N = wanted.shape
    beam = Beam(ModelPolicy(model), 0, N, K, K)
    lengths = np.full(B, prompts.shape[1], np.int32)
    found = beam({"params": params}, Prompts(prompts, lengths))
    np.testing.assert_array_equal(found.tokens, wanted)
    np.testing.assert_allclose(found.scores, golden["beam_scores"], rtol=0, atol=2e-5)

"""What every architecture promises: see models/protocol.py."""

import jax
import numpy as np
import pytest

from dinado_jax.models.gpt2 import GPT2, GPT2Config
from dinado_jax.models.layers import attention_kernel
from dinado_jax.models.llama import Llama, LlamaConfig
from dinado_jax.models.params import abstract_params
from dinado_jax.ops.backend import compiling_for

pytestmark = pytest.mark.usefixtures("compiled_quickly")

LLAMA = Llama(
    LlamaConfig(
        vocab_size=11,
        max_position_embeddings=14,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
    )
)
MODELS = {
    "gpt2": GPT2(
        GPT2Config(vocab_size=11, n_positions=14, n_embd=16, n_layer=2, n_head=2, n_inner=24)
    ),
    "llama": LLAMA,
    "tied": LLAMA.replace(model_type="qwen3", attention_bias=True, tie_word_embeddings=True),
    "window": LLAMA.replace(model_type="mistral", sliding_window=4),
}
B, T = 3, 9
TOKENS = np.random.default_rng(0).integers(0, 11, (B, T)).astype(np.int32)


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


@pytest.mark.parametrize(
    "platform, dtype, width, kernel",
    [
        ("gpu", "bfloat16", 64, "cudnn"),
        ("gpu", "float32", 64, "xla"),
        ("gpu", "bfloat16", 20, "xla"),
        ("gpu", "bfloat16", 160, "xla"),
        ("cpu", "bfloat16", 64, "xla"),
    ],
)
def test_attention_is_fused_where_cudnn_can(platform, dtype, width, kernel):
    with compiling_for(platform):
        assert attention_kernel(dtype, width) == kernel


@pytest.mark.parametrize("platform, kernel", [("gpu", "cudnn"), ("tpu", "xla")])
def test_attention_is_that_of_the_platform_it_is_compiled_for(model, monkeypatch, platform, kernel):
    model, asked = model.replace(dtype="bfloat16"), []

    def record(q, k, v, implementation, **options):
        asked.append(implementation)
        return q

    monkeypatch.setattr(jax.nn, "dot_product_attention", record)
    with compiling_for(platform):
        jax.eval_shape(lambda p: model.apply({"params": p}, TOKENS).hidden, abstract_params(model))
    assert set(asked) == {kernel}

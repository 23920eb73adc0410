"""GPT-2 against numbers from the PyTorch implementation (tests/golden/make_gpt2.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support

from dinado_jax.models import cache
from dinado_jax.models.architectures import load_model, load_params
from dinado_jax.models.gpt2_checkpoint import to_tensors

pytestmark = pytest.mark.usefixtures("compiled_quickly")

GOLDEN = support.GOLDEN
FOLDERS = ("heads", "odd_vocab", "inner", "deep", "bare", "sharded")


def load(name):
    """(model, params, golden arrays) of one stored model."""
    folder = GOLDEN / f"gpt2_{name}"
    model = load_model(folder)
    with np.load(folder / "golden.npz") as arrays:
        return model, load_params(folder, model), dict(arrays)


@pytest.mark.parametrize("name", FOLDERS)
def test_logits_and_gradients(name):
    model, params, golden = load(name)
    tokens = golden["tokens"]

    def nll(params):
        logits = model.apply({"params": params}, tokens).logits
        log_p = jax.nn.log_softmax(logits[:, :-1])
        return -jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1).mean(), logits

    with jax.default_matmul_precision("highest"):
        (value, logits), gradients = jax.jit(jax.value_and_grad(nll, has_aux=True))(params)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, golden["logits"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(value, golden["nll"], rtol=0, atol=2e-5)
    gradients = to_tensors(jax.device_get(gradients), model)
    compared = [key for key in golden if key.startswith("grad:")]
    assert len(compared) == 5
    for key in compared:
        ours = gradients["transformer." + key.removeprefix("grad:")]
        np.testing.assert_allclose(ours, golden[key], rtol=0, atol=1e-4, err_msg=key)


def test_cache_gives_the_same_logits():
    """A prompt and then single tokens."""
    model, params, golden = load("odd_vocab")
    tokens, prompt = golden["tokens"], 5
    B, T = tokens.shape

    @jax.jit
    def run(variables):
        out = model.apply(variables, tokens[:, :prompt])
        state = cache.allocate(out.cache, jnp.full(B, prompt), 1, T - prompt)

        def step(state, index):
            one = model.apply(variables, jnp.asarray(tokens)[:, prompt + index][:, None], state)
            return one.cache, one.logits[:, 0]

        _, later = cache.scan_steps(step, state, T - prompt)
        return jnp.concatenate([out.logits, later.swapaxes(0, 1)], axis=1)

    with jax.default_matmul_precision("highest"):
        found = run({"params": params})
    np.testing.assert_allclose(found, golden["logits"], rtol=0, atol=2e-5)

"""No folder loads as another model than in transformers: tests/golden/make_llama_mutations.py."""

import jax
import numpy as np
import pytest
import support
from support.llama_mutations import MUTATIONS

from dinado_jax.errors import InputError
from dinado_jax.models.architectures import load_model, load_params

pytestmark = pytest.mark.usefixtures("compiled_quickly")

with np.load(support.GOLDEN / "llama_mutations.npz") as arrays:
    THEIRS = dict(arrays)
EQUAL = [name for name, mutation in MUTATIONS.items() if mutation.equal]


def loaded(name, path):
    mutation = MUTATIONS[name]
    mutation.write(path / "model")
    model = load_model(path / "model")
    return model, load_params(path / "model", model)


@pytest.mark.parametrize("name", EQUAL)
def test_equal(tmp_path, name):
    model, params = loaded(name, tmp_path)
    with np.load(support.GOLDEN / f"llama_{MUTATIONS[name].model}" / "golden.npz") as golden:
        tokens = golden["tokens"]
    with jax.default_matmul_precision("highest"):
        logits = jax.jit(model.apply)({"params": params}, tokens).logits[:, -1]
    np.testing.assert_allclose(logits, THEIRS[name], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", [name for name in MUTATIONS if name not in EQUAL])
def test_refused(tmp_path, name):
    with pytest.raises(InputError) as caught:
        loaded(name, tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_most_mutations_change_what_is_computed():
    """A test of the mutations: all but a few of those that load."""
    same = [name for name in EQUAL if MUTATIONS[name].model == "plain"]
    same = [name for name in same if np.abs(THEIRS[name] - THEIRS["nothing"]).max() < 1e-4]
    assert "another theta" not in same and "another epsilon" not in same
    assert len(same) < len(EQUAL) / 2

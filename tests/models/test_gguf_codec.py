"""The codec of a GGUF file: from its own metadata, or from a tokenizer beside it."""

import json

import numpy as np
import pytest
from support import gguf_files
from support.refusal import error_of

import dinado_jax
from dinado_jax.models.tokenizer import load_codec, train_codec

TEXTS = ["The dog caught 12 kites, didn't it?", "a na\u00efve cat", "two  spaces"]
TRAINED = train_codec(TEXTS * 3, 300)
SIZE = len(TRAINED.tokenizer)


def write(path, rows, **changes):
    """A small model of `rows` tokens that has the tokenizer TRAINED."""
    model = json.loads(TRAINED.tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    ggml = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [3] + [1] * (len(tokens) - 1),
        "merges": [" ".join(pair) for pair in model["merges"]],
        "bos_token_id": TRAINED.eos_id,
        "eos_token_id": TRAINED.eos_id,
    }
    tensors = gguf_files.gguf_tensors(gguf_files.hf_tensors(tied=True))
    rng = np.random.default_rng(1)
    tensors["token_embd.weight"] = rng.normal(0, 0.2, (rows, 32)).astype(np.float32)
    ggml = {f"tokenizer.ggml.{name}": value for name, value in (ggml | changes).items()}
    return gguf_files.write(path, gguf_files.metadata() | ggml, tensors)


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "model.gguf", SIZE)


def test_it_is_the_codec_of_the_files_own_tokenizer(path):
    codec = load_codec(path, SIZE)
    assert codec.stop_ids == (TRAINED.eos_id,)
    assert codec.prompts(TEXTS) == TRAINED.prompts(TEXTS)
    assert codec.targets(TEXTS) == TRAINED.targets(TEXTS)
    assert codec.decode(codec.targets(TEXTS)) == TEXTS


def test_every_end_that_the_file_names_stops_a_row(tmp_path):
    kinds = [3, 3] + [1] * (SIZE - 2)
    path = write(tmp_path / "x.gguf", SIZE, eot_token_id=1, token_type=kinds)
    assert load_codec(path, SIZE).stop_ids == (TRAINED.eos_id, 1)


def test_a_tokenizer_beside_the_file_goes_first(path):
    other = train_codec(["other words"] * 3, 280)
    other.save(path.parent)
    assert load_codec(path).prompts(TEXTS) == other.prompts(TEXTS)


def test_a_model_of_another_vocabulary_is_refused(tmp_path):
    path = write(tmp_path / "x.gguf", SIZE - 1)
    message = error_of(load_codec, path, SIZE - 1)
    assert f"the tokenizer in {path} has {SIZE} tokens, the model {SIZE - 1}" in message


def test_a_base_of_a_file_is_saved_as_a_folder(path, tmp_path):
    base = dinado_jax.load(path)
    base.save(tmp_path / "folder")
    again = dinado_jax.load(tmp_path / "folder")
    assert again.model == base.model
    assert again.codec.prompts(TEXTS) == base.codec.prompts(TEXTS)
    tokens = np.int32(base.codec.prompts(TEXTS[:1]))
    logits = [x.model.apply({"params": x.params}, tokens).logits for x in (base, again)]
    np.testing.assert_array_equal(*logits)

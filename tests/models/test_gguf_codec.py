"""The codec of a GGUF file: from its own metadata, or from a tokenizer beside it."""

import json

import numpy as np
import pytest
from support import gguf_files, tokenizer_folders
from support.refusal import error_of

import dinado_jax
from dinado_jax.models.tokenizer import load_codec, train_codec

TEXTS = ["The dog caught 12 kites, didn't it?", "a na\u00efve cat", "two  spaces"]
TRAINED = train_codec(TEXTS * 3, 300)
SIZE = len(TRAINED.tokenizer)


def write(path, rows, codec=TRAINED, **changes):
    """A small model of `rows` tokens that has the tokenizer of a codec, a byte-level BPE."""
    model = json.loads(codec.tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    ggml = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [3 if id in codec.special_ids else 1 for id in range(len(tokens))],
        "merges": [" ".join(pair) for pair in model["merges"]],
        "bos_token_id": codec.bos_id,
        "eos_token_id": codec.eos_id,
        "add_bos_token": bool(codec.begin_ids),
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


def folder_codec(folder, kind):
    made = {"gpt2": None, "qwen2 base": "<|endoftext|>", "qwen2 instruct": "<|im_end|>"}[kind]
    return TRAINED if made is None else load_codec(tokenizer_folders.qwen2(folder, made))


@pytest.mark.parametrize("kind", ["gpt2", "qwen2 base", "qwen2 instruct"])
def test_rows_are_those_of_the_models_folder(tmp_path, kind):
    """Qwen2's begin-of-text token is its end of text, as GPT-2's, but begins no row."""
    wanted = folder_codec(tmp_path / "folder", kind)
    path = write(tmp_path / "x.gguf", len(wanted.tokenizer), wanted)
    codec = load_codec(path)
    assert codec.prompts([*TEXTS, ""]) == wanted.prompts([*TEXTS, ""])
    assert codec.targets(TEXTS) == wanted.targets(TEXTS)
    assert (codec.bos_id, codec.stop_ids) == (wanted.bos_id, wanted.stop_ids)
    codec.save(tmp_path / "saved")
    (tmp_path / "saved/config.json").write_text(json.dumps({"model_type": "llama"} | codec.ends()))
    assert load_codec(tmp_path / "saved").prompts([*TEXTS, ""]) == wanted.prompts([*TEXTS, ""])


@pytest.mark.parametrize("beside", [False, True])
def test_tokens_that_the_file_names_begin_and_end_a_row(tmp_path, beside):
    """Whichever tokenizer is used: that of Qwen2 knows of one of them only."""
    codec = folder_codec(tmp_path, "qwen2 base")
    path = write(tmp_path / "x.gguf", len(codec.tokenizer), codec, eot_token_id=2, eom_token_id=1)
    (tmp_path / "config.json").unlink()
    if not beside:
        (tmp_path / "tokenizer.json").unlink()
    codec = load_codec(path)
    assert (codec.bos_id, codec.stop_ids, codec.begin_ids) == (0, (0, 2, 1), ())


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("end", [5, [0], "end", 10**6])
def test_ends_that_are_no_special_tokens_are_refused(tmp_path, beside, end):
    path = write(tmp_path / "x.gguf", SIZE, eot_token_id=end)
    if beside:
        TRAINED.save(tmp_path)
    assert "is no special token of the tokenizer" in error_of(load_codec, path)


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

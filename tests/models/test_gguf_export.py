"""Models written as GGUF, read back by our own loader: the same function, the same token ids."""

import dataclasses

import jax
import numpy as np
import pytest
import support
from support import tokenizer_folders
from support.folders import refused
from tokenizers import models, pre_tokenizers

import dinado_jax
from dinado_jax.models.architectures import load_model, load_params
from dinado_jax.models.gguf_export import write_gguf
from dinado_jax.models.tokenizer import load_codec

GOLDEN = support.ROOT / "tests" / "golden"
TEXTS = ["the dog runs , 12345 ?", "I'LL\n\n  two caf\u00e9s", "<|end|> a"]
BOS, EOS = "<|begin|>", "<|end|>"


def codec(folder, adds_bos=False, change=lambda bpe: None, bos=BOS):
    bpe = tokenizer_folders.byte_level([BOS, EOS], bos if adds_bos else None)
    change(bpe)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": EOS}
    ids = {"bos_token_id": 0 if bos == BOS else 1, "eos_token_id": 1}
    return load_codec(tokenizer_folders.write(folder, bpe, settings, **ids))


def model_of(name):
    model = load_model(GOLDEN / name)
    return model, load_params(GOLDEN / name, model)


def widened(name):
    """A golden model with rows for all tokens of the tokenizer."""
    model, params = model_of(name)
    model = model.replace(vocab_size=300)

    def rows(path, leaf):
        table = any("embed" in str(key) or "lm_head" in str(key) for key in path)
        return np.resize(leaf, (300, leaf.shape[1])) if table else np.asarray(leaf)

    return model, jax.tree_util.tree_map_with_path(rows, params)


READ = ("llama_groups_2", "llama_linear", "llama_qwen2", "llama_qwen3_biases")


@pytest.mark.parametrize("name", [*READ, "llama_mistral_full"])
def test_the_same_logits(name, tmp_path):
    model, params = widened(name)
    write_gguf(tmp_path / "model.gguf", model, params, codec(tmp_path / "t", adds_bos=True))
    found = dinado_jax.load(tmp_path / "model.gguf")
    tokens = np.arange(3 * 16, dtype=np.int32).reshape(3, 16) * 6 % 300
    logits = [
        np.asarray(each.apply({"params": own}, tokens).logits)
        for each, own in ((model, params), (found.model, found.params))
    ]
    np.testing.assert_allclose(*logits, rtol=0, atol=1e-5)
    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(found.params), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("bos", [BOS, EOS])
def test_the_same_rows(adds_bos, bos, tmp_path):
    own = codec(tmp_path / "t", adds_bos, bos=bos)
    write_gguf(tmp_path / "model.gguf", *widened("llama_qwen2"), own)
    found = load_codec(tmp_path / "model.gguf", 300)
    assert found.prompts(TEXTS) == own.prompts(TEXTS) and found.targets(TEXTS) == own.targets(TEXTS)
    assert (found.stop_ids, found.begin_ids) == (own.stop_ids, own.begin_ids)
    assert found.special_ids == own.special_ids
    assert found.decode(own.targets(TEXTS)) == own.decode(own.targets(TEXTS))
    assert found.excluded_ids(300) == own.excluded_ids(300)


def digits(bpe):
    parts = [pre_tokenizers.Digits(individual_digits=True), bpe.pre_tokenizer]
    bpe.pre_tokenizer = pre_tokenizers.Sequence(parts)


@pytest.mark.parametrize("change", [lambda bpe: None, digits], ids=["gpt-2", "smollm"])
def test_words_are_cut_alike(change, tmp_path):
    own = codec(tmp_path / "t", change=change)
    write_gguf(tmp_path / "model.gguf", *widened("llama_qwen2"), own)
    cut = [
        [word for word, _ in each.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)]
        for each in (own, load_codec(tmp_path / "model.gguf", 300))
        for text in TEXTS
    ]
    assert cut[:3] == cut[3:] and (" 12345" in cut[0]) is False


def whole_lines(bpe):
    bpe.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")


def no_merges(bpe):
    bpe.model = models.WordLevel({BOS: 0, EOS: 1, "a": 2}, unk_token=EOS)


@pytest.mark.parametrize(
    "change, said", [(whole_lines, "cuts text into words"), (no_merges, "no byte-level BPE")]
)
def test_tokenizers_that_would_not_be_the_same(change, said, tmp_path):
    own = codec(tmp_path / "t")
    change(own.tokenizer.backend_tokenizer)
    refused(said, write_gguf, tmp_path / "a", *widened("llama_qwen2"), own)


@pytest.mark.parametrize(
    "name, said",
    [
        ("gpt2_bare", "a gpt2 is not written as GGUF, only llama, mistral, qwen2, qwen3"),
        ("llama_mistral", "sliding window"),
        ("llama_qwen2_window", "sliding window"),
        ("llama_biases", "mlp_bias = true"),
        ("llama_llama3", "are not those of Llama 3"),
    ],
)
def test_models_that_would_not_be_the_same(name, said, tmp_path):
    refused(said, write_gguf, tmp_path / "a", *model_of(name), codec(tmp_path / "t"))
    assert not (tmp_path / "a").exists()


def test_positions_of_llama_3(tmp_path):
    model, params = widened("llama_llama3")
    rope = dataclasses.replace(
        model.config.rope, theta=1e8, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_context=8192,
    )  # fmt: skip
    model = model.replace(rope=rope)
    write_gguf(tmp_path / "model.gguf", model, params, codec(tmp_path / "t"))
    assert load_model(tmp_path / "model.gguf").config.rope == rope

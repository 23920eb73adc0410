"""Tokenizers of GGUF files: the same ids as the tokenizers they were written from."""

import json

import pytest
import transformers
from support import gguf_files
from support.refusal import error_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dinado_jax.models.gguf_tokenizer import load_tokenizer

TEXTS = [
    " The dog caught 12 Kites , didn't it ? na\u00efve",
    "I'LL count 12345 dogs\n\n  and  two   cats.\r\n\tEnd",
    "",
    "\u4f60\u597d \U0001f600 caf\u00e9!!! ... x_y-z 3.14",
]
BOS, EOS, USER, UNUSED = "<|begin|>", "<|end|>", "<think>", "[PAD9]"
NORMAL, CONTROL, USER_DEFINED, UNUSED_KIND, BYTE, UNKNOWN = 1, 3, 4, 5, 6, 2
SPLITS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    ),
    "qwen2": transformers.Qwen2Tokenizer().backend_tokenizer.pre_tokenizer,
}


def trained(split):
    """A byte-level BPE that has merges across digits, spaces and apostrophes where `split` lets."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = split, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    bpe.train_from_iterator(TEXTS * 3, trainer)
    return bpe


def byte_level(bpe, pre, **changes):
    """Metadata of a byte-level BPE with a few special tokens behind it."""
    model = json.loads(bpe.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    kinds = [NORMAL] * len(tokens) + [CONTROL, CONTROL, USER_DEFINED, UNUSED_KIND]
    own = {
        "model": "gpt2",
        "pre": pre,
        "tokens": [*tokens, BOS, EOS, USER, UNUSED],
        "token_type": kinds,
        "merges": [" ".join(pair) for pair in model["merges"]],
        "bos_token_id": len(tokens),
        "eos_token_id": len(tokens) + 1,
    }
    return own | changes


def load(tmp_path, ggml, **more):
    values = gguf_files.metadata() | more
    values |= {f"tokenizer.ggml.{name}": value for name, value in ggml.items()}
    path = gguf_files.write(tmp_path / "model.gguf", values, {})
    return load_tokenizer(path)


@pytest.mark.parametrize("pre", SPLITS)
def test_byte_level_ids_are_those_it_was_written_from(tmp_path, pre):
    bpe = trained(SPLITS[pre])
    tokenizer = load(tmp_path, byte_level(bpe, pre))
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert ids == bpe.encode(text).ids
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("smollm", ["I", "'LL", " count", " ", "1", "2", "3", "4", "5", " dogs"]),
        ("gpt-2", ["I", "'", "LL", " count", " 12345", " dogs"]),
        ("qwen2", ["I", "'LL", " count", " ", "1", "2", "3", "4", "5", " dogs"]),
        ("llama-bpe", ["I", "'LL", " count", " ", "123", "45", " dogs"]),
    ],
)
def test_words_are_cut_as_the_model_was_trained(tmp_path, pre, words):
    if pre == "smollm":
        words = ["I", "'", "LL", *words[2:]]
    tokenizer = load(tmp_path, byte_level(trained(SPLITS["gpt-2"]), pre))
    split = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("I'LL count 12345 dogs")
    assert [word.replace("\u0120", " ") for word, _ in split] == words


def test_llama3_takes_a_token_as_it_is(tmp_path):
    """No merges lead to ' zq', which is a token."""
    ggml = byte_level(trained(SPLITS["gpt-2"]), "llama-bpe")
    whole = ggml["tokens"].index("\u0120c")
    ggml["tokens"][whole] = "\u0120zq"
    ggml["merges"] = [merge for merge in ggml["merges"] if "\u0120c" not in merge.replace(" ", "")]
    tokenizer = load(tmp_path, ggml)
    assert tokenizer(" zq", add_special_tokens=False)["input_ids"] == [whole]
    assert len(load(tmp_path, ggml | {"pre": "gpt-2"})(" zq")["input_ids"]) > 1


def test_qwen2_composes_accents(tmp_path):
    tokenizer = load(tmp_path, byte_level(trained(SPLITS["qwen2"]), "qwen2"))
    assert tokenizer("cafe\u0301")["input_ids"] == tokenizer("caf\u00e9")["input_ids"]


def test_special_tokens(tmp_path):
    bpe = trained(SPLITS["smollm"])
    size = bpe.get_vocab_size()
    tokenizer = load(tmp_path, byte_level(bpe, "smollm"), **{"tokenizer.chat_template": "{{x}}"})
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (size, size + 1)
    assert tokenizer.unk_token is None
    assert tokenizer.chat_template == "{{x}}"
    ids = tokenizer(f"a{EOS}{USER}")["input_ids"]
    assert ids[-2:] == [size + 1, size + 2]
    assert tokenizer.decode(ids, skip_special_tokens=True) == f"a{USER}"
    spelled = tokenizer(f"a{EOS}", split_special_tokens=True)["input_ids"]
    assert size + 1 not in spelled
    assert UNUSED not in tokenizer.get_vocab()
    assert max(tokenizer.get_vocab().values()) == size + 2


@pytest.mark.parametrize(
    "pre, default",
    [("gpt-2", False), ("smollm", False), ("qwen2", False), ("deepseek-r1-qwen", False)]
    + [(pre, True) for pre in ("llama-bpe", "llama3", "llama-v3")],
)
def test_bos_is_added_where_the_file_says_so_or_llama3_does(tmp_path, pre, default):
    ggml = byte_level(trained(SPLITS["gpt-2"]), pre)
    bare = load(tmp_path, ggml | {"add_bos_token": False})("a dog")["input_ids"]
    whole = load(tmp_path, ggml | {"add_bos_token": True})("a dog")["input_ids"]
    assert ggml["bos_token_id"] not in bare and whole == [ggml["bos_token_id"], *bare]
    assert load(tmp_path, ggml)("a dog")["input_ids"] == (whole if default else bare)


def sentencepiece():
    """Metadata of a SentencePiece vocabulary: bytes, letters, and some words with their scores."""
    words = [
        "\u2581the",
        "th",
        "he",
        "\u2581t",
        "\u2581th",
        "do",
        "og",
        "dog",
        "\u2581dog",
        "\u2581d",
    ]
    letters = sorted({*"\u2581the dogcauin'123,?KsÏ"} - {" "})
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    kinds = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(words + letters)
    scores = [0.0] * 259 + [-float(i) for i in range(len(words))] + [-99.0] * len(letters)
    return {
        "model": "llama",
        "tokens": tokens + words + letters,
        "token_type": kinds,
        "scores": scores,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }


def test_sentencepiece_ids_are_those_of_transformers(tmp_path):
    from transformers.tokenization_utils_base import generate_merges

    ggml = sentencepiece()
    vocab = {token: id for id, token in enumerate(ggml["tokens"])}
    merges = generate_merges(vocab, dict(zip(ggml["tokens"], ggml["scores"])))
    expected = transformers.LlamaTokenizer(vocab=vocab, merges=merges)
    tokenizer = load(tmp_path, ggml)
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == 1  # a SentencePiece model begins with it unless its file says otherwise
        assert ids[1:] == expected(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids[1:]) == text.removeprefix(" ")
    assert tokenizer.convert_tokens_to_ids("\u2581dog") in tokenizer("the dog")["input_ids"]


def test_sentencepiece_without_a_space_before(tmp_path):
    tokenizer = load(tmp_path, sentencepiece() | {"add_space_prefix": False})
    ids = tokenizer(" dog", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["\u2581dog"]
    assert tokenizer.decode(ids) == " dog"


@pytest.mark.parametrize("pre", ["smollm", None])
def test_it_is_saved_and_loaded_as_it_is(tmp_path, pre):
    ggml = sentencepiece() if pre is None else byte_level(trained(SPLITS[pre]), pre)
    tokenizer = load(tmp_path, ggml, **{"tokenizer.chat_template": "{{x}}"})
    tokenizer.save_pretrained(tmp_path / "saved")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in [*TEXTS, f"a{EOS}b</s>"]:
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.chat_template == "{{x}}"
    assert again.eos_token_id == tokenizer.eos_token_id


REFUSED = {
    "none": ({"tokens": None}, "no tokenizer.ggml.tokens"),
    "numbers": ({"tokens": [1, 2]}, "no tokenizer.ggml.tokens"),
    "twice": ({"tokens": ["a", "a"]}, "has one of them twice"),
    "kind": ({"model": "bert"}, "tokenizer.ggml.model is 'bert', not gpt2 or llama"),
    "no kind": ({"model": None}, "tokenizer.ggml.model is None"),
    "pre": ({"pre": "default"}, "tokenizer.ggml.pre is 'default', none of gpt-2, smollm"),
    "merges": ({"merges": ["a b c"]}, "no tokenizer in"),
    "no merges": ({"merges": None}, "no tokenizer in"),
    "unknown merge": ({"merges": ["zz yy"]}, "no tokenizer in"),
    "kinds": ({"token_type": [1]}, "no tokenizer in"),
    "eos": ({"eos_token_id": 10**6}, "no tokenizer in"),
    "eos of a text": ({"eos_token_id": "end"}, "no tokenizer in"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_tokenizer_is_refused(tmp_path, case):
    changes, expected = REFUSED[case]
    message = error_of(load, tmp_path, byte_level(trained(SPLITS["gpt-2"]), "gpt-2") | changes)
    assert expected in message
    assert message.endswith("put the model's tokenizer.json beside it")
    assert str(tmp_path / "model.gguf") in message

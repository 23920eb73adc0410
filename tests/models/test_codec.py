"""Rows of text for each kind of tokenizer that pretrained models have."""

import json

import pytest
from support import tokenizer_folders
from support.tokenizer_folders import KINDS, byte_level, qwen2, write

from dinado_jax.errors import InputError
from dinado_jax.models.tokenizer import load_codec

BEGIN = {"llama3": (0,), "qwen2": ()} | dict.fromkeys(set(KINDS) - {"llama3", "qwen2"}, (1,))
TEXTS = ["a dog", "The  dogs\nran , na\u00efve \U0001f600", "\u4e16\u754c :\t[x]", "a"]
NAMES = ["a <|eot|> dog", "<s> dog </s>", "<unk>", "dog<|im_end|>"]


@pytest.fixture(scope="module")
def codecs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    return {kind: load_codec(make(folder / kind)) for kind, make in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_begins_as_the_tokenizer_begins_a_text(codecs, kind):
    codec, begin = codecs[kind], BEGIN[kind]
    tokenizer, space = codec.tokenizer, "" if "llama2" in kind or kind == "unigram" else " "
    assert codec.begin_ids == begin
    assert codec.prompts(TEXTS) == [tokenizer(space + text)["input_ids"] for text in TEXTS]
    assert codec.prompts([" a  "]) == codec.prompts(["a"])


@pytest.mark.parametrize("kind", KINDS)
def test_text_stays_text(codecs, kind):
    codec = codecs[kind]
    # A unigram model takes the name of one of its tokens for it, and has no other way to spell it.
    texts = TEXTS if kind == "unigram" else TEXTS + NAMES
    prompts, targets = codec.prompts(texts), codec.targets(texts)
    assert codec.decode(prompts) == codec.decode(targets) == texts
    for prompt, target in zip(prompts, targets):
        assert prompt == [*codec.begin_ids, *target[:-1]] and target[-1] == codec.eos_id
        assert codec.special_ids.isdisjoint(target[:-1])


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_the_same_tokens_wherever_they_stand(codecs, kind):
    targets = codecs[kind].targets(["the dogs run", "the dogs", "run"])
    assert targets[0] == targets[1][:-1] + targets[2]


def test_texts_that_a_tokenizer_cannot_spell(codecs):
    for encode in (codecs["unigram"].prompts, codecs["unigram"].targets):
        with pytest.raises(InputError, match=r"text 'a </s>', .* the special token '</s>': leave"):
            encode(["a", "a </s>"])


def test_an_empty_prompt(codecs, tmp_path):
    """It begins with the begin of text, as in transformers' generate, or where there is none with
    what ends texts."""
    for codec in codecs.values():
        assert codec.prompts([" "]) == [[codec.bos_id]]
    settings = {"eos_token": "<|end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    bare = load_codec(write(tmp_path, byte_level(["<|end|>"]), settings))
    assert bare.bos_id is None and bare.prompts(["a"]) == [bare.targets(["a"])[0][:-1]]
    assert bare.prompts(["a", ""])[1] == [bare.eos_id]


def test_stop_tokens_of_all_files(codecs, tmp_path):
    codec = codecs["llama3"]
    assert codec.stop_ids == (1, 2, 3) and codec.eos_id == 1
    size = len(codec.tokenizer)
    assert codec.excluded_ids(size + 3) == ((0, 1), (4, 6), (size, size + 3))
    (ids,) = codec.targets(["a dog"])
    assert codec.decode([[*ids[:-1], stop] for stop in codec.stop_ids]) == ["a dog"] * 3
    path = qwen2(tmp_path, "<|endoftext|>") / "config.json"
    path.write_text(json.dumps({"model_type": "qwen2", "eos_token_id": 2}))
    assert load_codec(tmp_path).stop_ids == (0, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_has_the_same_rows(codecs, kind, tmp_path):
    codec = codecs[kind]
    codec.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"} | codec.ends()))
    again = load_codec(tmp_path)
    assert (again.stop_ids, again.bos_id) == (codec.stop_ids, codec.bos_id)
    assert again.prompts([*TEXTS, ""]) == codec.prompts([*TEXTS, ""])
    assert again.targets(TEXTS) == codec.targets(TEXTS)


def test_padded_vocabularies(tmp_path):
    """Models round their vocabularies up, large ones further than small ones."""
    folder = tokenizer_folders.llama3(tmp_path)
    size = len(load_codec(folder).tokenizer)
    codec = load_codec(folder, size + 512)
    assert codec.excluded_ids(size + 512)[-1] == (size, size + 512)
    for wrong in (size + 513, size - 1):
        with pytest.raises(InputError, match=f"has {size} tokens, the model {wrong}: they belong"):
            load_codec(folder, wrong)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["zz"] = 100_014
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert load_codec(folder, 102_400).excluded_ids(102_400)[-1] == (100_015, 102_400)
    with pytest.raises(InputError, match="has 100015 tokens, the model 104000"):
        load_codec(folder, 104_000)


def test_two_begins_of_text(tmp_path):
    folder = tokenizer_folders.llama3(tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 2}))
    with pytest.raises(InputError, match=r"_config.json has bos_token_id = 2, the .* has id 0"):
        load_codec(folder)

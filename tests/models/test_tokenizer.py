"""Tokenizers of folders: what changes text or tokens behind our back is refused."""

import json
import os

import pytest

from dinado_jax.errors import InputError
from dinado_jax.models.tokenizer import load_codec, train_codec

MADE = train_codec(["a dog runs fast", "the dogs run"] * 3, 300)
SIZE = len(MADE.tokenizer)


@pytest.fixture
def folder(tmp_path):
    MADE.save(tmp_path)
    return tmp_path


def edit(folder, name, **changes):
    path = folder / name
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | changes))


def refused(match, function, *args):
    with pytest.raises(InputError, match=match) as caught:
        function(*args)
    assert str(caught.value).isprintable()


def test_tokens_come_back(folder):
    codec = load_codec(folder, SIZE)
    assert codec.prompts(["Dogs run ,"]) == MADE.prompts(["Dogs run ,"])
    assert codec.decode(codec.prompts(["Dogs run , don 't"])) == ["Dogs run , don 't"]


def test_spaces_before_punctuation_stay(folder):
    """transformers joins them to the word before, where a folder asks for it."""
    edit(folder, "tokenizer_config.json", clean_up_tokenization_spaces=True)
    codec = load_codec(folder, SIZE)
    assert codec.decode(codec.prompts(["Dogs run , don 't"])) == ["Dogs run , don 't"]


def test_a_prefix_space_or_lengths_of_its_own_change_nothing(folder):
    edit(folder, "tokenizer_config.json", add_prefix_space=True, model_max_length=2)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["pre_tokenizer"]["add_prefix_space"] = True
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    edit(folder, "tokenizer.json", pre_tokenizer=content["pre_tokenizer"], truncation=cut)
    texts = ["a dog runs fast", ""]
    assert load_codec(folder, SIZE).prompts(texts) == MADE.prompts(texts)


@pytest.mark.parametrize(
    "normalizer",
    [
        {"type": "Lowercase"},
        {"type": "NFD"},
        {"type": "Strip", "strip_left": True, "strip_right": True},
        {"type": "Replace", "pattern": {"String": "12"}, "content": "7"},
    ],
)
def test_normalisers_that_change_text(folder, normalizer):
    edit(folder, "tokenizer.json", normalizer=normalizer)
    refused("makes .* of .*: use one that keeps text as it is", load_codec, folder, SIZE)


def test_a_vocabulary_of_whole_words(folder):
    words = {"<|endoftext|>": 0, "dog": 1, "?": 2}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "?"}
    edit(folder, "tokenizer.json", model=model, pre_tokenizer={"type": "Whitespace"}, decoder=None)
    refused("makes .* of ", load_codec, folder, 3)


def test_tokens_at_random(folder):
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    edit(folder, "tokenizer.json", model=model | {"dropout": 0.3})
    refused(r"leaves out merges at random \(dropout = 0.3", load_codec, folder, SIZE)


def test_ids_beyond_the_model(folder):
    """Few tokens, but one of a large id."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    model["vocab"]["zz"] = 5000
    edit(folder, "tokenizer.json", model=model)
    refused(f"has 5001 tokens, the model {SIZE + 1}", load_codec, folder, SIZE + 1)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("name", ["bos_token_id", "eos_token_id"])
def test_ends_of_the_model(folder, file, name):
    for same in (MADE.eos_id, None):
        edit(folder, file, model_type="gpt2", **{name: same})
        assert load_codec(folder, SIZE).ends() == MADE.ends()
    for other in (MADE.eos_id + 1, 50256):
        edit(folder, file, **{name: other})
        refused(f"{file} has {name} = .* is no special token of the", load_codec, folder, SIZE)


def test_several_ends(folder):
    edit(folder, "config.json", model_type="gpt2", eos_token_id=[MADE.eos_id])
    assert load_codec(folder, SIZE).stop_ids == (MADE.eos_id,)
    edit(folder, "config.json", eos_token_id=[MADE.eos_id, 3])
    refused(r"eos_token_id = \[0, 3\], and 3 is no special", load_codec, folder, SIZE)


def test_no_end_of_text(folder):
    content = json.loads((folder / "tokenizer_config.json").read_text())
    del content["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    refused("has no end-of-text token: set eos_token", load_codec, folder, SIZE)


@pytest.mark.parametrize(
    "text", ["", "[1]", "{}", "[" * 10**5, '{"a": ' + "9" * 5000 + "}", '{"model": {"type": 3}}']
)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_damage(folder, name, text):
    (folder / name).write_text(text)
    if name == "tokenizer.json" or text not in ("{}", '{"model": {"type": 3}}'):
        refused("tokenizer", load_codec, folder, SIZE)


def test_code_of_its_own(folder):
    edit(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.Mine", None]})
    refused("names code of its own", load_codec, folder, SIZE)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "added_tokens.json"])
def test_pipes_and_links_to_nowhere(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    refused("a pipe or a device", load_codec, folder, SIZE)
    (folder / name).unlink()
    (folder / name).symlink_to(name)
    refused("links lead back", load_codec, folder, SIZE)


def test_no_folder(tmp_path):
    refused("no tokenizer in", load_codec, tmp_path / "gone", SIZE)


@pytest.mark.parametrize("text", ["a \ud800 dog", "\udcff", b"bytes", None, 3])
def test_no_text(text):
    for encode in (MADE.prompts, MADE.targets):
        refused("text 1", encode, ["a dog", text])

"""Between text and token ids: text stays text, also where it spells a special token."""

import json

import pytest
from transformers import AutoTokenizer

from dinado_jax.errors import InputError
from dinado_jax.models.codec import Codec
from dinado_jax.models.tokenizer import EOS, load_codec, train_codec

SPECIAL = [EOS, "<pad>", "<|im_start|>", "</s>"]
# {} stands for the literal.
TEXTS = ["{}", "a dog {} chased", "{}a dog", "a dog{}", "{} {}", "a <{} dog"]


@pytest.fixture(scope="module")
def codecs(tmp_path_factory):
    """The three ways to a tokenizer: trained here, tokenizer.json, vocab.json and merges.txt."""
    folder = tmp_path_factory.mktemp("codecs")
    trained = train_codec(["a dog chased a cat", f"all ends {EOS} here"] * 3, 320)
    trained.save(folder / "saved")
    with_more = AutoTokenizer.from_pretrained(folder / "saved")
    with_more.add_special_tokens(
        {"pad_token": "<pad>", "additional_special_tokens": ["<|im_start|>", "</s>"]}
    )
    with_more.save_pretrained(folder / "more")
    bpe = json.loads((folder / "saved" / "tokenizer.json").read_text())["model"]
    (folder / "gpt2").mkdir()
    (folder / "gpt2" / "vocab.json").write_text(json.dumps(bpe["vocab"]))
    (folder / "gpt2" / "merges.txt").write_text(
        "\n".join(["#version: 0.2", *map(" ".join, bpe["merges"])]) + "\n"
    )
    (folder / "gpt2" / "config.json").write_text('{"model_type": "gpt2"}')
    made = {name: load_codec(folder / name) for name in ("saved", "more", "gpt2")}
    return {"trained": trained, "folder": folder, **made}


@pytest.mark.parametrize("name", ["trained", "saved", "more", "gpt2"])
def test_names_of_special_tokens_are_text_and_come_back(codecs, name):
    codec = codecs[name]
    texts = [text.replace("{}", literal) for text in TEXTS for literal in SPECIAL]
    special = set(codec.tokenizer.all_special_ids)
    prompts, targets = codec.prompts(texts), codec.targets(texts)
    assert all(row[0] == codec.eos_id and not special & set(row[1:]) for row in prompts)
    assert all(row[-1] == codec.eos_id and not special & set(row[:-1]) for row in targets)
    assert codec.decode(prompts) == codec.decode(targets) == texts
    assert [codec.prompts([text])[0] for text in texts] == prompts  # alone as in a batch


def test_a_tokenizer_trained_on_the_name_of_its_special_token(codecs):
    codec = codecs["trained"]
    assert codec.tokenizer.convert_ids_to_tokens(codec.eos_id) == EOS
    ids = codec.targets([f"ends {EOS} here"])[0][:-1]
    assert codec.eos_id not in ids and len(ids) < len(f"ends {EOS} here")  # learnt, as any text


def test_a_text_stays_the_same_from_one_tokenizer_folder_to_the_next(codecs):
    text = [f"a dog {EOS} chased"]
    assert codecs["saved"].prompts(text) == codecs["gpt2"].prompts(text)
    assert codecs["saved"].prompts(text) == codecs["trained"].prompts(text)


def test_control_tokens_in_a_sample_are_dropped_but_their_names_stay(codecs):
    codec = codecs["more"]
    pad = codec.tokenizer.pad_token_id
    (ids,) = codec.targets([f"a dog {EOS} <pad>"])
    assert codec.decode([[*ids[:2], pad, *ids[2:]]]) == [f"a dog {EOS} <pad>"]


def test_a_tokenizer_that_cannot_spell_its_end_token_is_refused_for_such_texts():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    whole_words = Tokenizer(models.WordLevel({EOS: 0, "a": 1}, unk_token=EOS))
    whole_words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=whole_words, bos_token=EOS, eos_token=EOS)
    codec = Codec(tokenizer, (0,), 0)
    assert codec.prompts(["a a"]) == [[0, 1, 1]]
    with pytest.raises(InputError, match=r"text 'a <\|endoftext\|>', .* special token '<\|endof"):
        codec.prompts(["a", f"a {EOS}"])


def damaged(folder, name, change):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    return folder


@pytest.fixture
def copy(codecs, tmp_path):
    """Of the folder that holds a named tokenizer file."""
    import shutil

    def of(name):
        kind = "gpt2" if name in ("vocab.json", "merges.txt") else "saved"
        return shutil.copytree(codecs["folder"] / kind, tmp_path / "copy")

    return of


TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"]


@pytest.mark.parametrize("name", TOKENIZER_FILES)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: b"\xef\xbb\xbf" + data, "byte-order mark: save it as UTF-8 without one"),
        (lambda data: data.decode().encode("utf-16"), "UTF-16 text: save it as UTF-8"),
        (lambda data: data.decode().encode("utf-32-le"), "NUL at byte 1"),
    ],
)
def test_tokenizer_files_in_other_encodings(copy, name, change, said):
    folder = damaged(copy(name), name, change)
    with pytest.raises(InputError) as caught:
        load_codec(folder)
    assert name in str(caught.value) and said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", TOKENIZER_FILES)
def test_tokenizer_files_with_other_line_ends(codecs, copy, name):
    text = ["a dog chased"]
    folder = damaged(copy(name), name, lambda data: data.replace(b"\n", b"\r\n"))
    assert load_codec(folder).prompts(text) == codecs["trained"].prompts(text)
    damaged(folder, name, lambda data: data.replace(b"\r\n", b"\r"))
    if name == "merges.txt":  # transformers would read it as one comment, and merge nothing
        with pytest.raises(InputError, match=r"merges.txt, lines that end in CR alone"):
            load_codec(folder)
    else:
        assert load_codec(folder).prompts(text) == codecs["trained"].prompts(text)

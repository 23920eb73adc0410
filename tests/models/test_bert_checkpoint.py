"""Reading and writing folders of BERT and RoBERTa: what goes round, and what is refused."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
import support
from safetensors.numpy import load_file
from support.folders import edit, refused, shard
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dinado_jax.models.bert import BertConfig, with_cross_attention
from dinado_jax.models.bert_checkpoint import (
    load_masked,
    names,
    parse_config,
    read_params,
    to_config,
    to_tensors,
)
from dinado_jax.models.hf_folder import read_config
from dinado_jax.models.params import by_path

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SPECIAL = {"mask": "[MASK]", "pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]"}
WORDS = ["[CLS]", "[PAD]", "[SEP]", "[MASK]", "[UNK]", *"abcdefghijklmnopqrstuvwx"]
KINDS = ("plain", "roberta")


def write_tokenizer(folder, special=SPECIAL, words=WORDS):
    vocabulary = {word: id for id, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens = {f"{name}_token": token for name, token in special.items()}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", **tokens
    ).save_pretrained(folder)


@pytest.fixture
def copy(tmp_path):
    """Copies a golden model, to be damaged, with a tokenizer."""

    def made(name="plain"):
        folder = tmp_path / name
        shutil.copytree(support.GOLDEN / f"bert_{name}", folder)
        write_tokenizer(folder)
        return folder

    return made


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def read(folder):
    """(config, parameters by path, paths of new ones) of a folder."""
    config = parse_config(read_config(folder))
    params, new = read_params(folder, config)
    return config, by_path(params), new


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for path, array in theirs.items():
        assert ours[path].dtype == array.dtype, path
        np.testing.assert_array_equal(ours[path], array, err_msg=path)


# There and back


@pytest.mark.parametrize("name", KINDS)
def test_the_tensors_of_transformers_come_back(name):
    """The keys of a file that `save_pretrained` of PyTorch has written, and no others."""
    folder = support.GOLDEN / f"bert_{name}"
    config = parse_config(read_config(folder))
    params, new = read_params(folder, config)
    assert not new
    assert_same(to_tensors(params, config), load_file(folder / "model.safetensors"))


@pytest.mark.parametrize("name", ["older", *KINDS])
def test_saved_and_loaded(copy, tmp_path, name):
    folder = copy(name)
    masked = load_masked(folder)
    masked.save(tmp_path / "again")
    again = load_masked(tmp_path / "again")
    assert again.model == masked.model
    assert not again.new_params
    assert_same(by_path(again.params), by_path(masked.params))
    for model in (masked, again):
        ids = model.cls_id, model.pad_id, model.sep_id, model.mask_id
        assert ids == (0, 1, 2, 3)
        assert model.tokenizer("b a z")["input_ids"] == [6, 5, 4]
    assert again.folder == str(tmp_path / "again")
    config = read_config(tmp_path / "again")
    assert config["pad_token_id"] == 1
    assert config["dtype"] == "float32"
    assert config["architectures"] == [
        "RobertaForMaskedLM" if name == "roberta" else "BertForMaskedLM"
    ]


@pytest.mark.parametrize("name", ["older", *KINDS])
def test_transformers_loads_what_is_saved(copy, tmp_path, name):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    load_masked(copy(name)).save(tmp_path / "again")
    model, report = AutoModelForMaskedLM.from_pretrained(
        tmp_path / "again", output_loading_info=True
    )
    assert not any(report.values())
    assert AutoTokenizer.from_pretrained(tmp_path / "again").mask_token_id == 3
    with np.load(support.GOLDEN / f"bert_{name}" / "golden.npz") as golden, torch.no_grad():
        mask = golden["mask"]
        # The older model's padding is the token 0.
        tokens = np.where(mask, golden["tokens"], 1)
        logits = model.eval()(torch.tensor(tokens), torch.tensor(mask)).logits.numpy()
        np.testing.assert_allclose(logits[mask], golden["logits"][mask], rtol=0, atol=1e-5)


def test_weights_of_16_bits_are_widened(copy):
    folder = copy()
    wanted = load_masked(folder).params

    def narrow(tensors):
        for key in tensors:
            tensors[key] = tensors[key].astype(ml_dtypes.bfloat16)

    edit(folder, narrow)
    config, stored, _ = read(folder)
    assert {array.dtype.name for array in stored.values()} == {"bfloat16"}
    found = by_path(load_masked(folder).params)
    for path, array in by_path(wanted).items():
        assert found[path].dtype == np.float32
        np.testing.assert_array_equal(found[path], array.astype(ml_dtypes.bfloat16))
    assert config.param_dtype == "float32"


def test_a_decoder_is_not_saved_as_a_language_model(copy, tmp_path):
    masked = load_masked(copy())
    decoder = with_cross_attention(masked.params, masked.model.config)
    object.__setattr__(masked, "params", decoder)
    refused("layer_0/cross_attention/key/bias expected nothing", masked.save, tmp_path / "decoder")
    assert not (tmp_path / "decoder").exists()


# Forms of the same weights


@pytest.mark.parametrize("name", KINDS)
def test_an_encoder_without_prefix_or_head(copy, name):
    folder = copy(name)
    edit_config(folder, architectures=["RobertaModel" if name == "roberta" else "BertModel"])
    config, wanted, _ = read(folder)

    def bare(tensors):
        for key in list(tensors):
            tensor = tensors.pop(key)
            if not key.startswith(("cls.", "lm_head.")):
                tensors[key.removeprefix("bert.").removeprefix("roberta.")] = tensor
        tensors["pooler.dense.weight"] = np.zeros((12, 12), np.float32)

    edit(folder, bare)
    masked = load_masked(folder)
    found = by_path(masked.params)
    head = {path for path in wanted if path.startswith("head/")}
    assert set(masked.new_params) == head
    for path in wanted.keys() - head:
        np.testing.assert_array_equal(found[path], wanted[path], err_msg=path)
    np.testing.assert_array_equal(found["head/dense/kernel"], np.eye(config.hidden_size))
    np.testing.assert_array_equal(found["head/norm/scale"], 1)
    for path in ("head/dense/bias", "head/norm/bias", "head/bias"):
        assert not np.any(found[path])


def test_shards(copy):
    folder = copy()
    _, wanted, _ = read(folder)
    shard(folder)
    _, found, _ = read(folder)
    assert_same(found, wanted)


@pytest.mark.parametrize("name", KINDS)
def test_a_copy_stands_for_the_tied_tensor(copy, name):
    """safetensors.torch.save_model keeps one of two tied names, and that may be this one."""
    folder = copy(name)
    _, wanted, _ = read(folder)
    encoder, head = ("bert.", "cls.predictions.") if name == "plain" else ("roberta.", "lm_head.")

    def moved(tensors):
        words = tensors.pop(f"{encoder}embeddings.word_embeddings.weight")
        tensors[f"{head}decoder.weight"] = words
        tensors[f"{head}decoder.bias"] = tensors.pop(f"{head}bias")

    edit(folder, moved)
    _, found, _ = read(folder)
    assert_same(found, wanted)


# What is refused: weights


def test_pickled_weights(copy):
    folder = copy()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused("no safetensors but pytorch_model.bin.* can run code", load_masked, folder)


@pytest.mark.parametrize(
    "key, message",
    [
        ("bert.encoder.layer.1.output.LayerNorm.bias", r"expected \(12,\), found nothing"),
        ("cls.predictions.transform.dense.weight", r"expected \(12, 12\), found nothing"),
        ("cls.predictions.bias", r"expected \(29,\), found nothing"),
    ],
)
def test_a_missing_tensor(copy, key, message):
    folder = copy()
    edit(folder, lambda tensors: tensors.pop(key))
    refused(key.removeprefix("bert.") + " " + message, load_masked, folder)


def test_a_missing_head(copy):
    """Of a file that should have one."""
    folder = copy()

    def headless(tensors):
        for key in [key for key in tensors if key.startswith("cls.")]:
            del tensors[key]

    edit(folder, headless)
    refused("no tensors of the head.* it is a BertForMaskedLM", load_masked, folder)


@pytest.mark.parametrize(
    "key, tensor, message",
    [
        ("cls.predictions.decoder.weight", np.zeros((29, 12), np.float32), "untied heads"),
        ("cls.predictions.decoder.bias", np.zeros(29, np.float32), "untied heads"),
        ("embeddings.LayerNorm.weight", np.ones(12, np.float32), "by two keys, with and without"),
        ("bert.embeddings.LayerNorm.gamma", np.ones(12, np.float32), "by two keys, .* older name"),
        (
            "bert.encoder.layer.0.crossattention.self.key.bias",
            np.ones(12, np.float32),
            r"crossattention.self.key.bias expected nothing, found \(12,\)",
        ),
        (
            "bert.encoder.layer.0.intermediate.dense.weight",
            np.ones((12, 20), np.float32),
            r"intermediate.dense.weight expected \(20, 12\), found \(12, 20\)",
        ),
        ("cls.predictions.bias", np.full(29, np.nan, np.float32), "not finite"),
        ("cls.predictions.bias", np.zeros(29, np.int32), "expected float32 .*, found int32"),
    ],
)
def test_other_tensors(copy, key, tensor, message):
    folder = copy()
    edit(folder, lambda tensors: tensors.update({key: tensor}))
    refused(message, load_masked, folder)


# What is refused: config.json

CONFIG = BertConfig(
    vocab_size=29,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
    max_position_embeddings=9,
    hidden_act="gelu_new",
)
ROBERTA = BertConfig(**(vars(CONFIG) | {"position_offset": 3, "hidden_act": "gelu"}))


@pytest.mark.parametrize("config", [CONFIG, ROBERTA])
def test_a_config_goes_round(config):
    assert parse_config(to_config(config)) == config
    assert len(set(names(config).values())) == len(names(config))


@pytest.mark.parametrize(
    "name, value",
    [
        ("model_type", "xlm-roberta"),
        ("model_type", "mpnet"),
        ("model_type", None),
        ("architectures", ["BertForSequenceClassification"]),
        ("architectures", 3),
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
        ("add_cross_attention", True),
        ("tie_word_embeddings", False),
        ("embedding_size", 6),
        ("hidden_act", "relu"),
        ("hidden_act", ["gelu"]),
        ("layer_norm_eps", 0),
        ("layer_norm_eps", float("nan")),
        ("layer_norm_eps", "1e-5"),
        ("vocab_size", True),
        ("vocab_size", None),
        ("hidden_size", 12.0),
        ("num_hidden_layers", 10**7),
        ("num_attention_heads", 5),
        ("type_vocab_size", 0),
        ("max_position_embeddings", [9]),
    ],
)
def test_an_option_that_would_be_ignored(name, value):
    assert len(refused(name, parse_config, to_config(CONFIG) | {name: value})) < 400


@pytest.mark.parametrize(
    "name, value",
    [
        ("hidden_act", "gelu_new"),  # its head has the exact GELU in any case
        ("pad_token_id", None),
        ("pad_token_id", -1),
        ("pad_token_id", 8),
        ("architectures", ["BertForMaskedLM"]),
    ],
)
def test_an_option_of_roberta(name, value):
    refused(name, parse_config, to_config(ROBERTA) | {name: value})


def test_absent_options_have_the_defaults_of_transformers():
    from transformers import BertConfig as Theirs
    from transformers import RobertaConfig

    bare = to_config(CONFIG)
    for name in ("hidden_act", "layer_norm_eps", "position_embedding_type", "tie_word_embeddings"):
        del bare[name]
    assert parse_config(bare).hidden_act == Theirs().hidden_act
    assert parse_config(bare).layer_norm_eps == Theirs().layer_norm_eps
    bare |= {"model_type": "roberta", "architectures": None}
    assert parse_config(bare).position_offset == RobertaConfig().pad_token_id + 1


# What is refused: tokenizers


@pytest.mark.parametrize("name", SPECIAL)
def test_no_special_token(copy, name):
    folder = copy()
    write_tokenizer(folder, {other: token for other, token in SPECIAL.items() if other != name})
    refused(f"has no {name} token: set {name}_token", load_masked, folder)


def test_no_tokenizer(copy):
    folder = copy()
    (folder / "tokenizer.json").unlink()
    refused("no tokenizer in", load_masked, folder)


def test_a_tokenizer_of_another_model(copy):
    folder = copy()
    write_tokenizer(folder, words=[*WORDS, "y", "z"])
    refused("has 31 tokens, the model 29", load_masked, folder)


def test_padding_that_differs(copy):
    """RoBERTa's rows begin behind the position of its padding."""
    folder = copy("roberta")
    write_tokenizer(folder, SPECIAL | {"pad": "[SEP]", "sep": "[PAD]"})
    refused("pad_token_id = 1, the tokenizer's pad_token has id 2", load_masked, folder)

"""Folders with tiny tokenizers of each kind that pretrained models have."""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

LINES = [" a dog runs fast", "the dogs run, then user and assistant : run"] * 3
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|head|>{{ m.role }}<|/head|>\n\n"
    "{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)


def write(folder: Path, tokenizer: Tokenizer, settings: dict, **config) -> Path:
    """The files of a tokenizer; `config` is the model's config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | config))
    return folder


def byte_level(
    special: list[str],
    bos: str | None = None,
    lines: Sequence[str] = LINES,
    vocab_size: int = 290,
) -> Tokenizer:
    """As of GPT-2, Llama 3 and Qwen2; it adds `bos` before a text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size + len(special),
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    bpe.train_from_iterator(lines, trainer)
    if bos:
        bpe.post_processor = _adding(bpe, bos)
    return bpe


def sentencepiece(kind: str = "bpe", prefix: str = "legacy") -> Tokenizer:
    """As of Llama 2 and Mistral: words begin with a space, bytes stand for unknown characters.

    Args:
      kind: bpe | unigram.
      prefix: where a space is added: legacy | always (before a text and after each special token) |
        first (before a text).
    """
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["\u2581", *"abcdefghijklmnopqrstuvwxyz[]/INST.,:"]
    merges = [("\u2581", "d"), ("o", "g"), ("\u2581d", "og"), ("\u2581", "r"), ("u", "n")]
    merges += [("\u2581r", "un"), ("\u2581", "a"), ("\u2581", "["), ("IN", "ST"), ("I", "N")]
    merges += [("S", "T"), ("t", "h"), ("\u2581", "th")]
    pieces += [left + right for left, right in merges]
    if kind == "bpe":
        vocabulary = {piece: id for id, piece in enumerate(dict.fromkeys(pieces))}
        options = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
        model = models.BPE(vocabulary, [m for m in merges if "".join(m) in vocabulary], **options)
    else:
        scored = [(piece, -float(len(pieces)) / len(piece)) for piece in dict.fromkeys(pieces)]
        model = models.Unigram(scored, unk_id=0, byte_fallback=True)
    tokenizer = Tokenizer(model)
    if prefix == "legacy":
        steps = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        tokenizer.normalizer = normalizers.Sequence(steps)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix, split=False)
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    named = [AddedToken(name, special=True, normalized=False) for name in pieces[:3]]
    tokenizer.add_special_tokens(named)
    tokenizer.post_processor = _adding(tokenizer, "<s>")
    return tokenizer


def _adding(tokenizer: Tokenizer, bos: str) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )


def llama3(folder: Path, **training) -> Path:
    """Begins with a token of its own and ends with three others, of which a turn ends with one;
    `training` as `byte_level` takes it."""
    special = ["<|begin|>", "<|end|>", "<|eom|>", "<|eot|>", "<|head|>", "<|/head|>"]
    settings = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "chat_template": LLAMA3}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    made = byte_level(special, "<|begin|>", **training)
    write(folder, made, settings, bos_token_id=0, eos_token_id=1)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2, 3]}))
    return folder


def qwen2(folder: Path, eos: str = "<|im_end|>") -> Path:
    """Adds nothing and has no begin of text, though config.json names one."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    settings = {"bos_token": None, "eos_token": eos, "pad_token": special[0]}
    settings |= {"chat_template": CHATML, "tokenizer_class": "Qwen2Tokenizer"}
    ids = {"bos_token_id": 0, "eos_token_id": special.index(eos)}
    return write(folder, byte_level(special), settings, **(ids | {"model_type": "qwen2"}))


def llama2(folder: Path, kind: str = "bpe", prefix: str = "legacy") -> Path:
    """SentencePiece."""
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings |= {"chat_template": INST, "tokenizer_class": "PreTrainedTokenizerFast"}
    if (kind, prefix) == ("bpe", "always"):
        settings |= {"tokenizer_class": "LlamaTokenizer", "legacy": True}
    return write(folder, sentencepiece(kind, prefix), settings, bos_token_id=1, eos_token_id=2)


KINDS = {
    "llama3": llama3,
    "qwen2": qwen2,
    "llama2": llama2,
    "llama2 always": lambda folder: llama2(folder, prefix="always"),
    "llama2 first": lambda folder: llama2(folder, prefix="first"),
    "unigram": lambda folder: llama2(folder, "unigram", "always"),
}

"""The tokenizer of a GGUF file, built from its metadata.

transformers has a converter, but it needs PyTorch, and splits numbers of SmolLM otherwise than
SmolLM's own tokenizer does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from dinado_jax.errors import InputError, one_line, quote
from dinado_jax.models.gguf_file import read_gguf

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5  # of tokenizer.ggml.token_type
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_TAIL}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_TAIL}"
# How text is cut into words before merges, by tokenizer.ggml.pre: one expression after the other.
SPLITS = {
    "gpt-2": [_GPT2],
    "smollm": [r"\p{N}", _GPT2],
    "llama3": [_LLAMA3],
    "llama-v3": [_LLAMA3],
    "llama-bpe": [_LLAMA3],
    "qwen2": [_QWEN2],
    "deepseek-r1-qwen": [_QWEN2],
}
_FIX = "put the model's tokenizer.json beside it"
_NAMES = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}  # of special tokens


def load_tokenizer(path: Path) -> Any:
    """Builds the tokenizer of a file.

    Returns:
      A transformers `PreTrainedTokenizerFast` with the file's special tokens, chat_template and
      add_bos_token. Where a file lacks that, SentencePiece and Llama 3 begin a text with the
      bos_token and others do not, as in llama.cpp.

    Raises:
      InputError: as `read_gguf`; for a file without a tokenizer, or with one of another kind.
    """
    from transformers import PreTrainedTokenizerFast

    metadata = read_gguf(path).metadata
    ggml = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in metadata.items()
        if key.startswith("tokenizer.ggml.")
    }
    tokens, kind = ggml.get("tokens"), ggml.get("model")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise InputError(f"no tokenizer.ggml.tokens, {path}: {_FIX}")
    if len(set(tokens)) < len(tokens):
        raise InputError(f"tokenizer.ggml.tokens has one of them twice, {path}: {_FIX}")
    if kind not in ("gpt2", "llama"):
        what = f"tokenizer.ggml.model is {quote(kind)}, not gpt2 or llama"
        raise InputError(f"{what}, {path}: {_FIX}")
    if kind == "gpt2" and ggml.get("pre") not in list(SPLITS):
        what = f"tokenizer.ggml.pre is {quote(ggml.get('pre'))}, none of {', '.join(SPLITS)}"
        raise InputError(f"{what}, {path}: {_FIX}")
    adds_bos = ggml.get("add_bos_token", kind == "llama" or SPLITS[ggml["pre"]] == [_LLAMA3])
    try:
        return PreTrainedTokenizerFast(
            tokenizer_object=(byte_level if kind == "gpt2" else _sentencepiece)(ggml),
            chat_template=metadata.get("tokenizer.chat_template"),
            add_bos_token=adds_bos,
            add_eos_token=ggml.get("add_eos_token", False),
            clean_up_tokenization_spaces=False,
            **_special_tokens(ggml, adds_bos),
        )
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # a PanicException is how an error in Rust arrives
        raise InputError(f"no tokenizer in {path} ({one_line(error)}): {_FIX}") from None


def _special_tokens(ggml: Mapping[str, Any], adds_bos: bool) -> dict[str, str]:
    """Special tokens by their names in transformers.

    A bos_token that is the eos_token, too, would begin rows, as GPT-2's does (`Codec.begin_ids`). A
    tokenizer that adds none has none, as Qwen2's.
    """
    found = {
        f"{name}_token": ggml["tokens"][ggml[f"{key}_token_id"]]
        for key, name in _NAMES.items()
        if f"{key}_token_id" in ggml
    }
    if not adds_bos and "bos_token" in found and found["bos_token"] == found.get("eos_token"):
        del found["bos_token"]
    return found


def byte_level(ggml: Mapping[str, Any]) -> Tokenizer:
    """A byte-level BPE of the metadata under "tokenizer.ggml."."""
    merges = [tuple(merge.split(" ")) for merge in ggml["merges"]]
    # Llama 3 takes a word that is a token as it is, whether merges lead to it or not.
    whole_words = SPLITS[ggml["pre"]] == [_LLAMA3]
    bpe = Tokenizer(models.BPE(_vocabulary(ggml), merges, ignore_merges=whole_words))
    if SPLITS[ggml["pre"]] == [_QWEN2]:
        bpe.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(split), "isolated") for split in SPLITS[ggml["pre"]]]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
    bpe.decoder = decoders.ByteLevel()
    return _with_added_tokens(bpe, ggml)


def _sentencepiece(ggml: Mapping[str, Any]) -> Tokenizer:
    vocabulary, tokens = _vocabulary(ggml), ggml["tokens"]
    unknown = tokens[ggml["unknown_token_id"]] if "unknown_token_id" in ggml else None
    bpe = Tokenizer(
        models.BPE(
            vocabulary,
            _merges(vocabulary, dict(zip(tokens, ggml["scores"], strict=True))),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefixed = ggml.get("add_space_prefix", True)
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(
        prepend_scheme="first" if prefixed else "never", split=False
    )
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    bpe.decoder = decoders.Sequence(parts + prefixed * [decoders.Strip(" ", 1, 0)])
    return _with_added_tokens(bpe, ggml)


def _merges(vocabulary: Mapping[str, int], scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every way to make a token of two others, best token first; SentencePiece stores no merges."""
    pairs = [
        (scores[token], token[:cut], token[cut:])
        for token in vocabulary
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]
    pairs.sort(key=lambda pair: (-pair[0], -len(pair[1]), -len(pair[2])))
    return [(left, right) for _, left, right in pairs]


def _vocabulary(ggml: Mapping[str, Any]) -> dict[str, int]:
    """Ids by token, without those that only fill the vocabulary up."""
    tokens = ggml["tokens"]
    kinds = ggml.get("token_type") or [0] * len(tokens)
    return {
        token: id
        for id, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind != UNUSED
    }


def _with_added_tokens(bpe: Tokenizer, ggml: Mapping[str, Any]) -> Tokenizer:
    """Adds the tokens that are found in text before it is cut into words."""
    for token, kind in zip(ggml["tokens"], ggml.get("token_type") or []):
        if kind in (UNKNOWN, CONTROL):
            bpe.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == USER_DEFINED:
            bpe.add_tokens([AddedToken(token, normalized=False)])
    return bpe

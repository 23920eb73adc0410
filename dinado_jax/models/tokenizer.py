"""Where tokenizers come from: a folder, a GGUF file, or training on text. See models/codec.py."""

import codecs
import os
import re
import types
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dinado_jax.errors import InputError, one_line
from dinado_jax.models.codec import Codec, codec_from
from dinado_jax.models.gguf_checkpoint import bos_and_eos, tokenizer_beside
from dinado_jax.models.gguf_file import read_gguf
from dinado_jax.utils.files import exists, read_json, read_text

EOS = "<|endoftext|>"
_UNKNOWN = "<unknown>"
_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja",
)  # fmt: skip


def _transformers() -> types.ModuleType:
    """Imports transformers when first needed (seconds), without its advice to install PyTorch."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    return transformers


def train_codec(lines: Iterable[str], vocab_size: int) -> Codec:
    """Trains a byte-level BPE of at most `vocab_size` tokens on the lines; deterministic.

    InputError for fewer tokens than there are bytes.
    """
    transformers = _transformers()

    if vocab_size < 257:
        raise InputError(f"base.vocab_size = {vocab_size}: a byte-level BPE needs at least 257")
    bpe = train_bpe(lines, vocab_size, [EOS])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=EOS, eos_token=EOS, clean_up_tokenization_spaces=False
    )
    return Codec(tokenizer, (tokenizer.eos_token_id,), tokenizer.bos_token_id)


def train_bpe(lines: Iterable[str], vocab_size: int, special_tokens: list[str]) -> Any:
    """Trains a byte-level BPE, a `tokenizers.Tokenizer`; deterministic.

    Args:
      lines: to train on, each as if it followed a space.
      vocab_size: the most tokens, at least 256 and the special ones.
      special_tokens: that have the first ids.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((f" {line.strip()}" for line in lines), trainer)
    return bpe


def train_words(lines: Iterable[str], most: int) -> Codec:
    """Makes a tokenizer of the words and signs of the lines, the most frequent `most`, for models
    that do not write: any other word is one and the same token, so that it does not spell text.

    A BPE that is trained on few lines learns every word as a token, and splits unknown words into
    pieces that are other words.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    counts = Counter(word for line in lines for word in re.findall(r"\w+|[^\w\s]+", line))
    known = sorted(counts, key=lambda word: (-counts[word], word))[:most]
    tokens = dict.fromkeys([EOS, _UNKNOWN, *known])
    words = Tokenizer(models.WordLevel({word: id for id, word in enumerate(tokens)}, _UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = _transformers().PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token=EOS, eos_token=EOS, clean_up_tokenization_spaces=False
    )
    return Codec(tokenizer, (tokenizer.eos_token_id,), tokenizer.bos_token_id)


def _check_plain(path: Path) -> None:
    """InputError for text that transformers misreads: it takes byte-order marks for content, and
    merges.txt with line ends of CR alone for one line.
    """
    read_text(path)  # refuses what is not UTF-8
    data = path.read_bytes()
    if data.startswith(codecs.BOM_UTF8):
        raise InputError(f"{path}, begins with a byte-order mark: save it as UTF-8 without one")
    if path.name == "merges.txt" and data.count(b"\r") > data.count(b"\r\n"):
        raise InputError(f"{path}, lines that end in CR alone: save it with LF line ends")


def load_codec(folder: Path, vocab_size: int | None = None, *, spells: bool = True) -> Codec:
    """Loads the tokenizer of a Hugging Face folder or of a GGUF file.

    Args:
      folder: with tokenizer.json, or vocab.json and merges.txt; or a file, whose own tokenizer is
        read unless there is a tokenizer.json beside it. The tokens that begin and end a text are
        those that the file names, in both cases.
      vocab_size: of the model; None: any.
      spells: whether its tokens have to spell any text.

    Raises:
      InputError: if there is none, and as `codec_from`.
    """
    if folder.is_file():
        declared = {str(folder): bos_and_eos(read_gguf(folder))}
        if beside := tokenizer_beside(folder):
            return _folder_codec(beside, vocab_size, declared, spells)
        from dinado_jax.models.gguf_tokenizer import load_tokenizer

        return codec_from(load_tokenizer(folder), declared, folder, vocab_size, spells=spells)
    return _folder_codec(folder, vocab_size, {}, spells)


def read_tokenizer(folder: Path) -> Any:
    """The transformers tokenizer of a Hugging Face folder.

    Raises:
      InputError: if there is none that can be read, or it is code of its own.
    """
    transformers = _transformers()
    fix = "put tokenizer.json, or vocab.json and merges.txt, there"
    files = [name for name in _FILES if exists(folder / name)]
    # Without them transformers makes a tokenizer that knows no words.
    if "tokenizer.json" not in files and not {"vocab.json", "merges.txt"} <= set(files):
        raise InputError(f"no tokenizer in {folder}: {fix}")
    for name in files:
        _check_plain(folder / name)
    settings = folder / "tokenizer_config.json"
    # transformers would ask on the terminal whether to run it.
    if settings.name in files and read_json(settings, fix).get("auto_map"):
        raise InputError(f"{settings} names code of its own (auto_map): remove that, or {fix}")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
        tokenizer.get_vocab()
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # a PanicException is how an error in Rust arrives
        raise InputError(f"no tokenizer in {folder} ({one_line(error)}): {fix}") from None
    return tokenizer


def _folder_codec(
    folder: Path,
    vocab_size: int | None,
    declared: Mapping[str, Mapping[str, Any]],
    spells: bool,
) -> Codec:
    """The codec of a folder; `declared` as for `codec_from`, besides what is in the folder."""
    tokenizer = read_tokenizer(folder)
    in_folder = {
        str(folder / name): read_json(folder / name, "copy or download it again")
        for name in ("config.json", "generation_config.json")
        if exists(folder / name)
    }
    return codec_from(tokenizer, {**in_folder, **declared}, folder, vocab_size, spells=spells)

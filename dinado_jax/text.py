"""Between text and token ids, on the host: tokenizers, checks, and padded arrays of sequences.

The format of a row is `<|endoftext|> prompt target<|endoftext|>`: prompt and target each begin with
a space, so that words are the same tokens wherever they stand.
"""

import codecs
import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dinado_jax.errors import InputError, one_line, shown, writing
from dinado_jax.files import read_text

EOS = "<|endoftext|>"
_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
_SPARE = 512  # rows a model may have beyond its tokenizer: vocabularies are rounded up for speed


@dataclasses.dataclass(frozen=True)
class Codec:
    """A transformers tokenizer and the id that begins and ends every row."""

    tokenizer: object
    eos_id: int

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text after eos_id. InputError for a text that holds that token itself."""
        return [[self.eos_id, *ids] for ids in self._ids(texts)]

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text before eos_id. InputError for a text that holds that token itself."""
        return [[*ids, self.eos_id] for ids in self._ids(texts)]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        spaced = [f" {text.strip()}" if text.strip() else "" for text in texts]
        # Text is text: the name of a special token in it must not become that token.
        rows = self.tokenizer(spaced, add_special_tokens=False, split_special_tokens=True)
        for text, ids in zip(texts, rows["input_ids"]):
            if self.eos_id in ids:
                raise InputError(
                    f"text {shown(text)}, the tokenizer turns a word of it into its end-of-text "
                    "token: leave the word out, or choose another eos_token"
                )
        return rows["input_ids"]

    def decode(self, ids: Iterable[Sequence[int]]) -> list[str]:
        """Text of each row, special tokens dropped, outer spaces stripped.

        Undoes the encoding: names of special tokens that stand in a text, spelled in ordinary
        tokens, stay.
        """
        rows = [list(map(int, row)) for row in ids]
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def save(self, folder: Path) -> None:
        """Writes the tokenizer as transformers does. InputError if the disk is full."""
        with writing(folder):
            self.tokenizer.save_pretrained(str(folder))


def _transformers():
    """Imported when first needed (seconds), without its advice to install PyTorch."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    return transformers


def train_codec(lines: Iterable[str], vocab_size: int) -> Codec:
    """A byte-level BPE of at most `vocab_size` tokens, trained on the lines; deterministic."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    transformers = _transformers()

    if vocab_size < 257:
        raise InputError(f"base.vocab_size = {vocab_size}: a byte-level BPE needs at least 257")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((f" {line.strip()}" for line in lines), trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=EOS, eos_token=EOS, clean_up_tokenization_spaces=False
    )
    return Codec(tokenizer, tokenizer.eos_token_id)


def _check_plain(path: Path) -> None:
    """InputError for text that transformers misreads: byte-order marks are content to it, and
    merges.txt with line ends of CR alone is one line."""
    read_text(path)  # refuses what is not UTF-8
    data = path.read_bytes()
    if data.startswith(codecs.BOM_UTF8):
        raise InputError(f"{path}, begins with a byte-order mark: save it as UTF-8 without one")
    if path.name == "merges.txt" and data.count(b"\r") > data.count(b"\r\n"):
        raise InputError(f"{path}, lines that end in CR alone: save it with LF line ends")


def load_codec(folder: Path, vocab_size: int | None = None) -> Codec:
    """The tokenizer of a Hugging Face folder.

    InputError if there is none, or if it is not one for a model of `vocab_size` tokens: larger, or
    much smaller.
    """
    transformers = _transformers()
    fix = "put tokenizer.json, or vocab.json and merges.txt, there"
    files = {path.name for path in folder.iterdir()}
    # Without them transformers makes a tokenizer that knows no words.
    if "tokenizer.json" not in files and not {"vocab.json", "merges.txt"} <= files:
        raise InputError(f"no tokenizer in {folder}: {fix}")
    for name in files.intersection(_FILES):
        _check_plain(folder / name)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:
        raise InputError(f"no tokenizer in {folder} ({one_line(error)}): {fix}") from None
    if vocab_size is not None and not 0 <= vocab_size - len(tokenizer) <= _SPARE:
        raise InputError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens, the model {vocab_size}: "
            "they belong to different models"
        )
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer in {folder} has no end-of-text token: set eos_token")
    return Codec(tokenizer, tokenizer.eos_token_id)


def check_tokens(rows: Sequence[Sequence[int]], vocab_size: int, what: str) -> None:
    """InputError for an id outside the vocabulary; on the device it would be clamped silently."""
    for index, row in enumerate(rows):
        bad = [token for token in row if not 0 <= token < vocab_size]
        if bad:
            raise InputError(
                f"token id {bad[0]} in {what} {index} is outside the vocabulary of {vocab_size}: "
                "use the model's own tokenizer"
            )


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Rows of prompt and target in one padded array: N rows of at most T tokens."""

    tokens: np.ndarray  # int32 [N, T], right-padded with the eos id
    prompt_length: np.ndarray  # int32 [N], tokens before the target, >= 1
    length: np.ndarray  # int32 [N], tokens in all, the closing eos included

    def __len__(self) -> int:
        return len(self.length)


def pad(rows: Sequence[Sequence[int]], fill: int, width: int | None = None) -> np.ndarray:
    """int32 [N, width], right-padded; width defaults to the longest row."""
    width = max(map(len, rows)) if width is None else width
    out = np.full((len(rows), width), fill, np.int32)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
    return out


def sequences(
    prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], fill: int, max_length: int
) -> Sequences:
    """Joins prompts and targets; rows longer than `max_length` tokens are left out."""
    pairs = [(p, t) for p, t in zip(prompts, targets, strict=True) if len(p) + len(t) <= max_length]
    if not pairs:
        raise InputError(
            f"no example fits in {max_length} tokens: raise sft.max_length and base.n_positions"
        )
    return Sequences(
        pad([[*p, *t] for p, t in pairs], fill),
        np.array([len(p) for p, _ in pairs], np.int32),
        np.array([len(p) + len(t) for p, t in pairs], np.int32),
    )

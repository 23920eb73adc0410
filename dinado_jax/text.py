"""Between text and token ids, on the host: tokenizers, checks, and padded arrays of sequences.

The format of a row is `<|endoftext|> prompt target<|endoftext|>`: prompt and target each begin with
a space, so that words are the same tokens wherever they stand.
"""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dinado_jax.errors import InputError, one_line, shown, writing

EOS = "<|endoftext|>"
_SPARE = 512  # rows a model may have beyond its tokenizer: vocabularies are rounded up for speed


@dataclasses.dataclass(frozen=True, repr=False)
class Codec:
    """A transformers tokenizer and the id that begins and ends every row."""

    tokenizer: object
    eos_id: int

    def __repr__(self) -> str:
        kind = type(self.tokenizer).__name__
        return f"Codec({kind} of {len(self.tokenizer)} tokens, end of text {self.eos_id})"

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        return [[self.eos_id, *ids] for ids in self._ids(texts)]

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        """InputError for a text that spells out a special token: no model draws it."""
        rows, special = self._ids(texts), self._special
        for text, ids in zip(texts, rows):
            if found := special.intersection(ids):
                token = self.tokenizer.convert_ids_to_tokens(min(found))
                raise InputError(
                    f"the text {shown(text)} holds the special token {token}, which is never "
                    "drawn: leave it out"
                )
        return [[*ids, self.eos_id] for ids in rows]

    @property
    def _special(self) -> set[int]:
        """Special tokens other than the end of text: decoding drops them."""
        added = self.tokenizer.added_tokens_decoder.items()
        special = {id for id, token in added if token.special}
        return special.union(self.tokenizer.all_special_ids) - {self.eos_id}

    def silent(self, vocab_size: int) -> tuple[tuple[int, int], ...]:
        """The ids of a model of `vocab_size` tokens that stand for no text, as ranges [first, end):
        those the tokenizer lacks, and special tokens other than the end of text."""
        spoken = np.zeros(vocab_size + 2, bool)  # one on each side ends the ranges there
        spoken[[0, -1]] = True
        known = set(self.tokenizer.get_vocab().values()) - self._special | {self.eos_id}
        spoken[[1 + id for id in known if id < vocab_size]] = True
        edges = np.flatnonzero(np.diff(spoken)).tolist()
        return tuple(zip(edges[::2], edges[1::2]))

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        spaced = [f" {text.strip()}" if text.strip() else "" for text in texts]
        return self.tokenizer(spaced, add_special_tokens=False)["input_ids"]

    def decode(self, ids: Iterable[Sequence[int]]) -> list[str]:
        """Text of each row, special tokens dropped, outer spaces stripped."""
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


def load_codec(folder: Path, vocab_size: int | None = None) -> Codec:
    """The tokenizer of a Hugging Face folder.

    InputError if there is none, or if it is not one for a model of `vocab_size` tokens: larger, or
    much smaller.
    """
    transformers = _transformers()
    mend = "put tokenizer.json, or vocab.json and merges.txt, there"
    files = {path.name for path in folder.iterdir()}
    # Without them transformers makes a tokenizer that knows no words.
    if "tokenizer.json" not in files and not {"vocab.json", "merges.txt"} <= files:
        raise InputError(f"no tokenizer in {folder}: {mend}")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:
        raise InputError(f"no tokenizer in {folder} ({one_line(error)}): {mend}") from None
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

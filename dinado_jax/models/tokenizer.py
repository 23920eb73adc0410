"""Between text and token ids, on the host: tokenizers, and checks that they keep text as it is.

The format of a row is `<|endoftext|> prompt target<|endoftext|>`: prompt and target each begin with
a space, so that words are the same tokens wherever they stand.
"""

import codecs
import dataclasses
import os
import types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dinado_jax.errors import InputError, catch_disk_full, one_line, quote
from dinado_jax.ops.vocab import Ranges
from dinado_jax.utils.files import exists, read_json, read_text

EOS = "<|endoftext|>"
_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
)  # fmt: skip
# Of both cases, with accents, numbers and spaces before punctuation: what normalisers change.
_SAMPLE = " The dog caught 12 Kites , didn't it ? na\u00efve"
_SPARE = 512  # rows a model may have beyond its tokenizer: vocabularies are rounded up for speed


@dataclasses.dataclass(frozen=True, repr=False)
class Codec:
    """A transformers tokenizer and the id that begins and ends every row."""

    tokenizer: Any  # transformers' PreTrainedTokenizerBase
    eos_id: int

    def __repr__(self) -> str:
        kind = type(self.tokenizer).__name__
        return f"Codec({kind} of {len(self.tokenizer)} tokens, end of text {self.eos_id})"

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text after eos_id. InputError for a text that holds that token itself."""
        return [[self.eos_id, *ids] for ids in self._ids(texts)]

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text before eos_id. InputError for a text that holds that token itself."""
        return [[*ids, self.eos_id] for ids in self._ids(texts)]

    def excluded_ids(self, vocab_size: int) -> Ranges:
        """The ids of a model of `vocab_size` tokens that stand for no text: those the tokenizer
        lacks, and special tokens other than the end of text. See `Model.excluded_ids`.
        """
        added = self.tokenizer.added_tokens_decoder.items()
        special = {id for id, token in added if token.special}
        special = special.union(self.tokenizer.all_special_ids) - {self.eos_id}
        has_text = np.zeros(vocab_size + 2, bool)  # one on each side ends the ranges there
        has_text[[0, -1]] = True
        known = set(self.tokenizer.get_vocab().values()) - special | {self.eos_id}
        has_text[[1 + id for id in known if id < vocab_size]] = True
        edges = np.flatnonzero(np.diff(has_text)).tolist()
        return tuple(zip(edges[::2], edges[1::2]))

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"text {index} is {quote(text)}: give texts, of type str")
            try:
                text.encode()
            except UnicodeEncodeError:
                raise InputError(
                    f"text {index}, {quote(text)}, holds half a surrogate pair (\\ud800), which is "
                    "no character: remove it"
                ) from None
        spaced = [f" {text.strip()}" if text.strip() else "" for text in texts]
        # Text is text: the name of a special token in it must not become that token.
        rows = self.tokenizer(spaced, add_special_tokens=False, split_special_tokens=True)
        for text, ids in zip(texts, rows["input_ids"]):
            if self.eos_id in ids:
                raise InputError(
                    f"text {quote(text)}, the tokenizer turns a word of it into its end-of-text "
                    "token: leave the word out, or choose another eos_token"
                )
        return rows["input_ids"]

    def decode(self, ids: Iterable[Sequence[int]]) -> list[str]:
        """Text of each row, special tokens dropped, outer spaces stripped.

        The inverse of the encoding: a special token's name within a text, which is spelled in
        ordinary tokens, stays.
        """
        rows = [list(map(int, row)) for row in ids]
        texts = self.tokenizer.batch_decode(
            rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [text.strip() for text in texts]

    def save(self, folder: Path) -> None:
        """Writes the tokenizer as transformers does. InputError for a full disk."""
        with catch_disk_full(folder):
            self.tokenizer.save_pretrained(str(folder))


def _transformers() -> types.ModuleType:
    """Imports transformers when first needed (seconds), without its advice to install PyTorch."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    return transformers


def train_codec(lines: Iterable[str], vocab_size: int) -> Codec:
    """Trains a byte-level BPE of at most `vocab_size` tokens on the lines; deterministic.

    InputError for fewer tokens than there are bytes.
    """
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
    """InputError for text that transformers misreads: it takes byte-order marks for content, and
    merges.txt with line ends of CR alone for one line.
    """
    read_text(path)  # refuses what is not UTF-8
    data = path.read_bytes()
    if data.startswith(codecs.BOM_UTF8):
        raise InputError(f"{path}, begins with a byte-order mark: save it as UTF-8 without one")
    if path.name == "merges.txt" and data.count(b"\r") > data.count(b"\r\n"):
        raise InputError(f"{path}, lines that end in CR alone: save it with LF line ends")


def load_codec(folder: Path, vocab_size: int | None = None) -> Codec:
    """Loads the tokenizer of a Hugging Face folder.

    Args:
      folder: with tokenizer.json, or vocab.json and merges.txt.
      vocab_size: of the model; None: any.

    Raises:
      InputError: if there is none, if it is larger or much smaller than `vocab_size`, if it changes
        text, or if its end of text is not that of the folder's config.json.
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
        size, eos_id = 1 + max(tokenizer.get_vocab().values()), tokenizer.eos_token_id
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # a PanicException is how an error in Rust arrives
        raise InputError(f"no tokenizer in {folder} ({one_line(error)}): {fix}") from None
    if vocab_size is not None and not 0 <= vocab_size - size <= _SPARE:
        raise InputError(
            f"the tokenizer in {folder} has {size} tokens, the model {vocab_size}: "
            "they belong to different models"
        )
    if eos_id is None:
        raise InputError(f"the tokenizer in {folder} has no end-of-text token: set eos_token")
    codec = Codec(tokenizer, eos_id)
    _check_round_trip(codec, folder)
    for name in ("config.json", "generation_config.json"):
        if name in files:
            _check_ends(
                read_json(folder / name, "copy or download it again"), eos_id, folder / name
            )
    return codec


def _check_round_trip(codec: Codec, folder: Path) -> None:
    """InputError for a tokenizer that changes text (lower case, unknown words, ...): an oracle
    would judge, and a model continue, other texts than those given.
    """
    (ids,) = codec.prompts([_SAMPLE])
    again = codec.tokenizer.decode(ids[1:], clean_up_tokenization_spaces=False)
    model = getattr(codec.tokenizer.backend_tokenizer, "model", None)
    dropout = getattr(model, "dropout", None)
    if again == _SAMPLE and not dropout:
        return
    what = f"makes {quote(again)} of {quote(_SAMPLE)}"
    if again == _SAMPLE:
        what = f"leaves out merges at random (dropout = {dropout})"
    raise InputError(
        f"the tokenizer in {folder} {what}: use one that keeps text as it is, such as GPT-2's "
        "byte-level BPE"
    )


def _check_ends(settings: dict[str, Any], eos_id: int, path: Path) -> None:
    """InputError where a model's first or last token is not the tokenizer's, with which every row
    begins and ends.
    """
    for name in ("bos_token_id", "eos_token_id"):
        if settings.get(name) not in (None, eos_id, [eos_id]):
            raise InputError(
                f"{path} has {name} = {quote(settings[name])}, the tokenizer's eos_token, which "
                f"begins and ends every row, has id {eos_id}: correct one of them"
            )

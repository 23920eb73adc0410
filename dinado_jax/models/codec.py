"""Between text and token ids, on the host: what a row is, with and without a prompt template.

Without a template a row is `BEGIN prompt target STOP`. Prompt and target each begin with a space,
so that words are the same tokens wherever they stand; SentencePiece tokenizers add it themselves.
BEGIN is what the tokenizer itself puts before a text (Llama: <s>); where that is nothing, the
begin-of-text token if it also ends texts (GPT-2: <|endoftext|>), and else nothing (Qwen2): such a
row begins with its prompt. STOP is the first of the stop tokens; a sampled row ends with any.
An empty prompt without BEGIN still needs a token: the model's begin-of-text token, and of a model
without one STOP, which ended the text before where texts were joined for pretraining.

With a template a prompt is tokenized as part of it, see models/prompt_template.py.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dinado_jax.errors import InputError, catch_disk_full, quote
from dinado_jax.models.prompt_template import PromptTemplate, parse_template
from dinado_jax.ops.vocab import Ranges

# Of both cases, with accents, numbers, spaces before punctuation, two in a row and a new line: what
# normalisers change.
_SAMPLE = "The dog caught 12 Kites , didn't it ? na\u00efve  ones\nran"
# Rows a model may have beyond its tokenizer: vocabularies are rounded up for speed, by up to 2.3%
# (deepseek-llm-7b: 102,400 for 100,015).
_SPARE, _SPARE_SHARE = 512, 1 / 32


@dataclasses.dataclass(frozen=True, repr=False)
class Codec:
    """A transformers tokenizer, the tokens at the ends of a row, and a template for prompts."""

    tokenizer: Any  # transformers' PreTrainedTokenizerBase
    stop_ids: tuple[int, ...]  # a row ends with any of them; targets end with the first
    bos_id: int | None = None  # begin-of-text token of the model, if it has one
    template: PromptTemplate | None = None

    def __repr__(self) -> str:
        kind, ends = type(self.tokenizer).__name__, ", ".join(map(str, self.stop_ids))
        return f"Codec({kind} of {len(self.tokenizer)} tokens, end of text {ends})"

    @property
    def eos_id(self) -> int:
        """The stop token that ends targets, and pads rows."""
        return self.stop_ids[0]

    @functools.cached_property
    def begin_ids(self) -> tuple[int, ...]:
        """What a row begins with, before its prompt."""
        ids, plain = self.tokenizer("a")["input_ids"], self._tokenize(["a"])[0]
        starts = (n for n in range(len(ids)) if ids[n : n + len(plain)] == plain)
        if start := next(starts, 0):
            return tuple(ids[:start])
        ends = self.tokenizer.eos_token_id
        return () if ends is None or ends != self.tokenizer.bos_token_id else (ends,)

    @functools.cached_property
    def adds_space(self) -> bool:
        """Whether the tokenizer takes text to begin with a space, as SentencePiece does."""
        joined, first, second = self._tokenize([f"a {_SAMPLE}", "a", _SAMPLE])
        return joined == first + second

    @functools.cached_property
    def special_ids(self) -> frozenset[int]:
        """The tokens that stand for no text."""
        return _special_ids(self.tokenizer).union(self.stop_ids)

    @functools.cached_property
    def _special_names(self) -> re.Pattern[str]:
        names = self.tokenizer.convert_ids_to_tokens(sorted(self.special_ids))
        return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))

    def with_template(self, text: str) -> "Codec":
        """This codec with a prompt template; none for "".

        Args:
          text: a string with {prompt} in it, "chat" for the tokenizer's own chat template, or
            "hidden" for the row of an empty prompt, whatever the prompt is.

        Raises:
          InputError: as `parse_template`.
        """
        if not text:
            return self
        template = parse_template(text, self.tokenizer)
        stops = self.stop_ids
        # A chat template says for certain how a turn ends. In a string only a known stop token can.
        end = template.answer_end if template.chat else template.after
        if found := self._special_names.match(end.lstrip()):
            last = self.tokenizer.convert_tokens_to_ids(found[0])
            if template.chat or last in stops:
                stops = (last, *(id for id in stops if id != last))
        return dataclasses.replace(self, stop_ids=stops, template=template)

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text as a prompt, in the template if there is one.

        An empty row holds the begin-of-text token, as in transformers' `generate`, or STOP.

        Raises:
          InputError: for a text that the tokenizer cannot spell.
        """
        texts = list(_checked(texts))
        if self.template is not None and self.template.hidden:
            begin, rows = self.begin_ids, self._text_ids([""] * len(texts))
        elif self.template is None:
            begin, rows = self.begin_ids, self._text_ids(texts)
        else:
            begin = () if self.template.chat else self.begin_ids
            rows = self._within(self.template.before, texts, self.template.after)
        # A template may write the begin-of-text token out.
        rows = [ids if begin == tuple(ids[: len(begin)]) else [*begin, *ids] for ids in rows]
        return [row or [self.eos_id if self.bos_id is None else self.bos_id] for row in rows]

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text as it continues a prompt, before the stop token.

        Raises:
          InputError: for a text that the tokenizer cannot spell.
        """
        texts = list(_checked(texts))
        if self.template is None or not self.template.after:
            rows = self._text_ids(texts)
        else:
            rows = self._after(self.template.after, texts)
        return [[*ids, self.eos_id] for ids in rows]

    def excluded_ids(self, vocab_size: int) -> Ranges:
        """The ids of a model of `vocab_size` tokens that stand for no text: those the tokenizer
        lacks, and special tokens other than the stop tokens. See `Model.excluded_ids`.
        """
        known = set(self.tokenizer.get_vocab().values()) - self.special_ids | set(self.stop_ids)
        has_text = np.zeros(vocab_size + 2, bool)  # one on each side ends the ranges there
        has_text[[0, -1]] = True
        has_text[[1 + id for id in known if id < vocab_size]] = True
        edges = np.flatnonzero(np.diff(has_text)).tolist()
        return tuple(zip(edges[::2], edges[1::2]))

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

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text that each token of a row adds, a special token's being its name.

        Without those, joined they are the text of `decode`; of a character that is made of several
        tokens, the last has it.
        """
        texts = self.decode([ids[:end] for end in range(len(ids) + 1)])
        known = [text.rstrip("\ufffd") for text in texts]  # in place of a part of a character
        return [
            self.tokenizer.convert_ids_to_tokens(id)
            if id in self.special_ids
            else after[len(text) :]
            for id, text, after in zip(ids, known, known[1:])
        ]

    def save(self, folder: Path) -> None:
        """Writes the tokenizer as transformers does. InputError for a full disk."""
        with catch_disk_full(folder):
            self.tokenizer.save_pretrained(str(folder))

    def ends(self) -> dict[str, Any]:
        """The settings of a config.json that say which tokens begin and end a text."""
        stops = list(self.stop_ids) if len(self.stop_ids) > 1 else self.eos_id
        return {"bos_token_id": self.bos_id, "eos_token_id": stops}

    def _tokenize(self, texts: list[str], names_are_text: bool = True) -> list[list[int]]:
        """Ids of each text, nothing added; special tokens' names are text, or those tokens."""
        if not texts:
            return []
        return self.tokenizer(texts, add_special_tokens=False, split_special_tokens=names_are_text)[
            "input_ids"
        ]

    def _text_ids(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text after a space."""
        space = "" if self.adds_space else " "
        rows = self._tokenize([space + text if text else "" for text in texts])
        for text, ids in zip(texts, rows, strict=True):
            self._check_spelled(text, ids)
        return rows

    def _after(self, context: str, texts: list[str]) -> list[list[int]]:
        """Ids of each text as it follows the end of a template.

        A space comes between where the template ends with a word: not after white space, and not
        after a special token.
        """
        (context_ids,) = self._tokenize([context], names_are_text=False)
        bare = context[-1].isspace() or self._special_in(context_ids[-1:])
        space = "" if bare else " "
        rows = self._within(context, [space + text if text else "" for text in texts], "")
        start = len(context_ids)
        # Where a merge reaches over the end of the template, the prompt has its tokens already.
        apart = [row[:start] != context_ids for row in rows]
        return [
            self._text_ids([text])[0] if merged else row[start:]
            for text, row, merged in zip(texts, rows, apart, strict=True)
        ]

    def _within(self, before: str, texts: list[str], after: str) -> list[list[int]]:
        """Ids of `before`, each text and `after` as one text, in which only the names of special
        tokens in `before` and `after` are those tokens.
        """
        wanted = [self._special_in(ids) for ids in self._tokenize([before, after], False)]
        rows = self._tokenize([before + text + after for text in texts], False)
        for index, text in enumerate(texts):
            if self._special_in(rows[index]) != wanted[0] + wanted[1]:  # it names some
                rows[index] = self._in_pieces(before, text, after)
        return rows

    def _in_pieces(self, before: str, text: str, after: str) -> list[int]:
        """As `_within`, from the last special token of `before` to the first of `after` apart."""
        *_, start = 0, *(found.end() for found in self._special_names.finditer(before))
        first = self._special_names.search(after)
        end = first.start() if first else len(after)
        (middle,) = self._tokenize([before[start:] + text + after[:end]])
        self._check_spelled(text, middle)
        outer = self._tokenize([before[:start], after[end:]], names_are_text=False)
        return [*outer[0], *middle, *outer[1]]

    def _special_in(self, ids: list[int]) -> list[int]:
        return [id for id in ids if id in self.special_ids]

    def _check_spelled(self, text: str, ids: list[int]) -> None:
        """InputError where ids of a text are no text: an unknown character, or the name of a
        special token taken for that token.
        """
        if found := self._special_in(ids):
            name = self.tokenizer.convert_ids_to_tokens(found[0])
            raise InputError(
                f"text {quote(text)}, the tokenizer turns a part of it into the special token "
                f"{quote(name)}: leave that part out"
            )


def codec_from(
    tokenizer: Any,
    declared: Mapping[str, Mapping[str, Any]],
    where: Path,
    vocab_size: int | None = None,
    *,
    spells: bool = True,
) -> Codec:
    """Makes the codec of a tokenizer, whatever it was read from.

    Stop tokens are its eos_token, which comes first, and all that the model's settings name.

    Args:
      tokenizer: transformers' fast one; with `add_special_tokens` it puts the begin-of-text token
        before a text if rows of the model begin with it.
      declared: bos_token_id and eos_token_id, an id or a list, where the model's settings have
        them, by the name of the file.
      where: the tokenizer was found, for messages.
      vocab_size: of the model; None: any.
      spells: whether its tokens have to spell any text.

    Raises:
      InputError: if the tokenizer is larger or much smaller than `vocab_size`, if it changes text,
        if nothing ends a text, or if the settings name tokens that are text or contradict it.
    """
    if vocab_size is not None:
        check_size(tokenizer, vocab_size, where)
    bos, stops = tokenizer.bos_token_id, [tokenizer.eos_token_id]
    for file, settings in declared.items():
        for id in _declared_ids(tokenizer, settings, "bos_token_id", file):
            if bos not in (None, id):
                raise InputError(
                    f"{file} has bos_token_id = {id}, the tokenizer's bos_token has id {bos}: "
                    "correct one of them"
                )
            bos = id
        stops += _declared_ids(tokenizer, settings, "eos_token_id", file)
    stop_ids = tuple(dict.fromkeys(id for id in stops if id is not None))
    if not stop_ids:
        raise InputError(f"the tokenizer in {where} has no end-of-text token: set eos_token")
    codec = Codec(tokenizer, stop_ids, bos)
    if spells:
        _check_round_trip(codec, where)
    return codec


def check_size(tokenizer: Any, vocab_size: int, where: Path) -> None:
    """InputError for a tokenizer that is larger or much smaller than a model of `vocab_size`;
    `where` it was found is for the message.
    """
    size = 1 + max(tokenizer.get_vocab().values(), default=-1)
    if not 0 <= vocab_size - size <= max(_SPARE, _SPARE_SHARE * vocab_size):
        raise InputError(
            f"the tokenizer in {where} has {size} tokens, the model {vocab_size}: "
            "they belong to different models"
        )


def _special_ids(tokenizer: Any) -> frozenset[int]:
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(tokenizer.all_special_ids).union(id for id, token in added if token.special)


def _declared_ids(
    tokenizer: Any, settings: Mapping[str, Any], name: str, file: str
) -> Iterator[int]:
    """Yields the tokens that a setting names. InputError for one that stands for text, or none."""
    value = settings.get(name)
    for id in value if isinstance(value, list) else [] if value is None else [value]:
        if type(id) is not int or id not in _special_ids(tokenizer):
            raise InputError(
                f"{file} has {name} = {quote(value)}, and {quote(id)} is no special token of the "
                "tokenizer: correct one of them"
            )
        yield id


def _checked(texts: Sequence[str]) -> Iterator[str]:
    """Yields the texts without outer spaces. InputError for what is no text."""
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"text {index} is {quote(text)}: give texts, of type str")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"text {index}, {quote(text)}, holds half a surrogate pair (\\ud800), which is no "
                "character: remove it"
            ) from None
        yield text.strip()


def _check_round_trip(codec: Codec, where: Path) -> None:
    """InputError for a tokenizer that changes text (lower case, unknown words, ...): an oracle
    would judge, and a model continue, other texts than those given.
    """
    (ids,) = codec.targets([_SAMPLE])
    again = codec.tokenizer.decode(ids[:-1], clean_up_tokenization_spaces=False)
    model = getattr(codec.tokenizer.backend_tokenizer, "model", None)
    dropout = getattr(model, "dropout", None)
    wanted = (" " + _SAMPLE, _SAMPLE) if codec.adds_space else (" " + _SAMPLE,)
    if again in wanted and not dropout:
        return
    what = f"makes {quote(again)} of {quote(_SAMPLE)}"
    if again in wanted:
        what = f"leaves out merges at random (dropout = {dropout})"
    raise InputError(
        f"the tokenizer in {where} {what}: use one that keeps text as it is, such as GPT-2's "
        "byte-level BPE"
    )

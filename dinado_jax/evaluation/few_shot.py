"""Few-shot classification: a base reads labelled texts and then judges others by which label's word
it expects most (Brown et al., arXiv 2005.14165).

A prompt is the demonstrations, each as "Text: .. Label: WORD" on two lines, with blank lines
between them. With a step size, the cache of the prompt is updated by the prompt's own loss, chunk
by chunk (hidden_states/chunks.py), once for all texts that are judged with it; a text itself, and
the words, are read with that cache and update nothing.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.data.records import is_table, read_records
from dinado_jax.errors import InputError, quote
from dinado_jax.generation import DecodableBase
from dinado_jax.hidden_states.chunks import Windows, read_in_chunks
from dinado_jax.hidden_states.text import PLAIN, Reading, check_base, require_finite, rounded
from dinado_jax.metrics.protocol import Measured
from dinado_jax.models.cache import Cache
from dinado_jax.models.protocol import Model
from dinado_jax.ops.vocab import token_log_probs
from dinado_jax.utils import arguments
from dinado_jax.utils.arguments import POSITIVE

_FIX = 'give a text and its label per line, {"text": "..", "label": ".."}'
_COLUMNS = {"text": str, "label": (str, int, bool)}
# Prompts and rows are padded to multiples of so many chunks and tokens: few programs serve all.
_CHUNKS, _TOKENS = 8, 16


class Example(NamedTuple):
    """A text with its label."""

    text: str
    label: str


def read_examples(path: Path) -> list[Example]:
    """Reads labelled texts.

    Args:
      path: .jsonl, .csv or .tsv, compressed or not, with the columns text and label.

    Raises:
      InputError: with file and line for what is malformed or blank, and for a file without rows.
    """
    if not is_table(path):
        raise InputError(f"{path}, no labelled texts by its name: {_FIX} of a .jsonl file")
    examples = []
    for where, row in read_records(path, _COLUMNS, _FIX):
        example = Example(row["text"].strip(), str(row["label"]).strip())
        if not (example.text and example.label):
            raise InputError(f"{where}, its text or label is blank: {_FIX}")
        examples.append(example)
    if not examples:
        raise InputError(f"{path} is empty: {_FIX}")
    return examples


def few_shot(
    base: DecodableBase,
    examples: Sequence[Example],
    reading: Reading = PLAIN,
    *,
    words: Mapping[str, str] | None = None,
    shots: int = 4,
    draws: int = 10,
    seed: int = 0,
) -> Measured:
    """Measures how well a base classifies texts after a few demonstrations.

    In each draw, `shots` examples of every label, in random order, are the prompt, and all others
    are classified. Draws depend on the seed alone: with equal ones every reading gets the same
    prompts.

    Args:
      base: that classifies.
      examples: texts with labels.
      reading: whether and how the prompt's cache is updated; step size 0 is plain prompting.
      words: of each label, by which it is predicted; None: the labels themselves.
      shots: demonstrations of each label.
      draws: number of prompts.
      seed: of the draws.

    Returns:
      Accuracies: their mean, and that of each draw.

    Raises:
      InputError: as `classify`, for a label with fewer examples than shots, if no text is left, and
        for numbers out of range.
    """
    draws = arguments.require_integer("draws", draws, *POSITIVE)
    seed = arguments.require_seed(seed)
    accuracies = []
    for number in range(draws):
        prompt, others = draw(examples, shots, (seed, number))
        found = classify(base, prompt, [each.text for each in others], reading, words=words)
        right = [label == each.label for label, each in zip(found, others, strict=True)]
        accuracies.append(float(np.mean(right)))
    return Measured.of_means(accuracies)


def draw(
    examples: Sequence[Example], shots: int, seed: int | Sequence[int]
) -> tuple[list[Example], list[Example]]:
    """Draws `shots` examples of every label.

    Returns:
      The examples that are drawn, in random order, and all others in theirs.

    Raises:
      InputError: for fewer than two labels, a label with fewer examples, or none left.
    """
    shots = arguments.require_integer("shots", shots, *POSITIVE)
    rng, labels = np.random.default_rng(seed), sorted({each.label for each in examples})
    if len(labels) < 2:
        raise InputError(f"the examples have {len(labels)} label: give texts of two at least")
    chosen = []
    for label in labels:
        own = [index for index, each in enumerate(examples) if each.label == label]
        if len(own) < shots:
            raise InputError(
                f"label {quote(label)} has {len(own)} examples, {shots} shots: give more examples, "
                "or fewer shots"
            )
        chosen += rng.permutation(own)[:shots].tolist()
    if len(chosen) == len(examples):
        raise InputError(f"all {len(examples)} examples are shots: give more, or fewer shots")
    prompt = [examples[index] for index in rng.permutation(chosen)]
    taken = set(chosen)
    return prompt, [each for index, each in enumerate(examples) if index not in taken]


def classify(
    base: DecodableBase,
    prompt: Sequence[Example],
    texts: Sequence[str],
    reading: Reading = PLAIN,
    *,
    words: Mapping[str, str] | None = None,
    batch: int = 16,
) -> list[str]:
    """Classifies texts by the likeliest label's word after the demonstrations and the text.

    Args:
      base: that classifies.
      prompt: the demonstrations, which have every label.
      texts: to classify.
      reading: whether and how the prompt's cache is updated.
      words: of each label, of one token or more; None: the labels themselves.
      batch: rows at once.

    Returns:
      The label of each text; of equally likely ones the first in order of their names.

    Raises:
      InputError: for settings out of range, no texts, a label without a word or a word without a
        label, two labels of one word, prompts that are too long, and a base with a prefix.
    """
    check_base(base)
    reading, batch = reading.check(), arguments.require_integer("batch", batch, *POSITIVE)
    texts = arguments.require_texts("text", texts)
    _check_demonstrations(prompt)
    words = _words({each.label for each in prompt}, words)
    shared, rests = _tokens(base, prompt, texts, words)
    if not shared:
        raise InputError("the base's prompt template leaves out prompts: load it without")
    spelled = [ids[:-1] for ids in base.codec.targets(list(words.values()))]
    stems = list(dict.fromkeys(tuple(ids[:-1]) for ids in spelled))
    rows = [(*rest, *stem) for rest in rests for stem in stems]
    longest = max(map(len, rows))
    if len(shared) + longest > base.model.context_length:
        raise InputError(
            f"the prompt and a text are {len(shared) + longest} tokens, the context "
            f"{base.model.context_length}: give fewer shots, or shorter texts"
        )
    cache = _read(base, shared, reading)
    ends = jnp.array([ids[-1] for ids in spelled], jnp.int32)
    scores = np.zeros((len(rows), len(words)), np.float32)
    order = np.argsort([len(row) for row in rows], kind="stable")  # little padding in each batch
    for first in range(0, len(rows), batch):
        part = order[first : first + batch]
        lengths = [len(stems[index % len(stems)]) for index in part]
        windows, last = _windows([rows[index] for index in part], lengths, batch, base.codec.eos_id)
        found = _score_after(base.model, base.params, cache, windows, last, ends)
        scores[part] = np.asarray(found)[: len(part)]
    require_finite(scores, reading)
    by_text = scores.reshape(len(texts), len(stems), len(words))
    own = [stems.index(tuple(ids[:-1])) for ids in spelled]
    best = by_text[:, own, np.arange(len(words))].argmax(1)
    return [list(words)[index] for index in best]


def _check_demonstrations(prompt: Sequence[Example]) -> None:
    """InputError for none, and for what is no text with a label."""
    if not prompt:
        raise InputError("there are no demonstrations: give at least one of every label")
    for each in prompt:
        arguments.require_instance("a demonstration", each, Example, "Example(text, label)")
        for value in each:
            arguments.require_instance("its text or label", value, str, "a text")


def _words(labels: set[str], words: Mapping[str, str] | None) -> dict[str, str]:
    """The word of each label, in order of the labels."""
    arguments.require_instance("words", words, Mapping | None, "a word for every label by its name")
    words = {label: label for label in labels} if words is None else words
    for label in sorted(labels):
        arguments.require_instance("a word", word := words.get(label, ""), str, "a text")
        if not word.strip():
            raise InputError(f"label {quote(label)} has no word: give one for every label")
    for label in sorted(words):
        if label not in labels:
            raise InputError(f"no example has the label {quote(label)}: give no word for it")
    if len({word.strip() for word in words.values()}) < len(words):
        raise InputError(f"two labels have one word, {quote(dict(words))}: give different ones")
    return {label: words[label] for label in sorted(labels)}


def _tokens(
    base: DecodableBase, prompt: Sequence[Example], texts: Sequence[str], words: Mapping[str, str]
) -> tuple[list[int], list[list[int]]]:
    """The tokens that all rows begin with, at most the demonstrations; and what follows in each."""
    shown = "\n\n".join(f"Text: {text}\nLabel: {words[label]}" for text, label in prompt)
    rows = base.codec.prompts([f"{shown}\n\nText: {text}\nLabel:" for text in texts])
    columns = zip(base.codec.prompts([shown])[0], *(row[:-1] for row in rows))
    shared = [ids[0] for ids in itertools.takewhile(lambda ids: len(set(ids)) == 1, columns)]
    return shared, [row[len(shared) :] for row in rows]


def _read(base: DecodableBase, ids: Sequence[int], reading: Reading) -> Cache:
    """The cache of a prompt, updated by the prompt's own loss. InputError for a prompt that ends
    before its first update.
    """
    chunk = min(reading.chunk, len(ids))
    if reading.updates and chunk == len(ids):
        raise InputError(
            f"chunk = {reading.chunk}: the demonstrations have {len(ids)} tokens, so that no "
            "update comes before their end, give fewer"
        )
    slots = rounded(len(ids), _CHUNKS * chunk)
    tokens = np.full((1, slots + 1), base.codec.eos_id, np.int32)
    tokens[0, : len(ids)] = ids
    counted = (np.arange(slots) < len(ids) - 1)[None]
    windows = Windows(*map(jnp.asarray, (tokens[:, :-1], tokens[:, 1:], counted)))
    parts = (base.model, base.params, windows, reading.updates)
    _, cache = read_in_chunks(*parts, chunk=chunk)
    held = (np.arange(slots) < len(ids))[None, :, None]
    kept = jax.tree.map(lambda x: jnp.where(held, x, 0), cache.prompt)
    return Cache(kept, jnp.array([len(ids)], jnp.int32))


def _windows(
    rows: Sequence[Sequence[int]], stems: Sequence[int], batch: int, pad: int
) -> tuple[Windows, jax.Array]:
    """Arrays of rows, the last tokens of which, as many as `stems` says, are counted; and the index
    of each row's last token, int32 [batch].
    """
    width = rounded(max(map(len, rows)), _TOKENS)
    tokens = np.full((batch, width + 1), pad, np.int32)
    counted = np.zeros((batch, width), bool)
    last = np.zeros(batch, np.int32)
    for index, (row, stem) in enumerate(zip(rows, stems, strict=True)):
        last[index] = len(row) - 1
        tokens[index, : len(row)] = row
        counted[index, len(row) - 1 - stem : len(row) - 1] = True
    return Windows(*map(jnp.asarray, (tokens[:, :-1], tokens[:, 1:], counted))), jnp.asarray(last)


@functools.partial(jax.jit, static_argnames="model")
def _score_after(
    model: Model, params: Any, cache: Cache, rows: Windows, last: jax.Array, ends: jax.Array
) -> jax.Array:
    """Log-probabilities of words, float32 [R, words] nats, in rows that follow one prompt.

    Args:
      model: that predicts.
      params: of it.
      cache: of the prompt.
      rows: R of a text's tokens, and all but the last one of a word, which are counted.
      last: int32 [R], the index of each row's last token.
      ends: int32 [words], the last token of each word.
    """
    R, T = rows.tokens.shape

    def repeated(x: jax.Array) -> jax.Array:
        """[H, P, K] -> [R H, P + T, K], with room for the row."""
        return jnp.tile(jnp.pad(x, ((0, 0), (0, T), (0, 0))), (R, 1, 1))

    own = dataclasses.replace(
        cache, prompt=jax.tree.map(repeated, cache.prompt), lengths=jnp.repeat(cache.lengths, R)
    )
    out = model.apply({"params": params}, rows.tokens, own)

    def log_probs(hidden: jax.Array, targets: jax.Array) -> jax.Array:
        return token_log_probs(hidden, out.vocabulary, targets, excluded_ids=model.excluded_ids)

    stems = jnp.where(rows.counted, log_probs(out.hidden, rows.targets), 0.0).sum(-1)
    hidden = jnp.repeat(out.hidden[jnp.arange(R), last][:, None], len(ends), 1)
    return stems[:, None] + log_probs(hidden, jnp.broadcast_to(ends[None], (R, len(ends))))

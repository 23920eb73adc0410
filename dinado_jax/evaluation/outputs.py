"""Anybody's outputs and references from files.

Outputs are a .txt file with a text per line, or .jsonl with an object per line, such as a run's
generate/*.jsonl. References are such files too: .jsonl with a text or a list of texts per object,
or one or more text files, of which each line holds references of the same line of the outputs,
with a tab between two of them. Where both sides have prompts they are matched by these, otherwise
line by line. References whose formal and informal phrases are marked, as those of CoCoA-MT, are two
text files that belong to the outputs line by line.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dinado_jax.errors import InputError, quote
from dinado_jax.metrics.matched_accuracy import marked_phrases, without_marks
from dinado_jax.metrics.protocol import Item, Phrases, items_of
from dinado_jax.tasks.keyword.format import concepts_of, format_prompt
from dinado_jax.utils.files import parse_json, read_lines


class Fields(NamedTuple):
    """Fields of .jsonl files; of each kind the first that an object has is read."""

    text: tuple[str, ...] = ("text", "prediction")
    references: tuple[str, ...] = ("references", "scene", "target")
    prompt: tuple[str, ...] = ("prompt", "concepts")


_DEFAULT = Fields()


class _Line(NamedTuple):
    where: str  # FILE:LINE
    prompt: str  # "" if unknown
    texts: tuple[str, ...]


def read_items(
    outputs: Path,
    references: Sequence[Path],
    fields: Fields = _DEFAULT,
    annotated: tuple[Path, Path] | None = None,
) -> tuple[list[Item], int]:
    """Reads outputs with their references.

    Args:
      outputs: a file of texts.
      references: files; none if there are no references.
      fields: of .jsonl files.
      annotated: files of formal and of informal references, which are references too.

    Returns:
      The items, and how many prompts of the references have no output.

    Raises:
      InputError: with file and line, for a malformed line and one that has no match.
    """
    texts = list(_read(outputs, fields.text, fields))
    if not texts:
        raise InputError(f"{outputs}, no texts: give one per line")
    for line in texts:
        if len(line.texts) != 1:
            raise InputError(f"{line.where}, {len(line.texts)} texts: give one output per line")
    groups, unused = _references(texts, references, fields)
    prompts = [line.prompt for line in texts]
    if len(groups) == len(texts):
        prompts = [prompt or known for prompt, (known, _) in zip(prompts, groups, strict=True)]
    given, own = [line.texts[0] for line in texts], [own for _, own in groups]
    if annotated is None:
        return items_of(prompts, given, own), unused
    both = [_annotated(texts, path) for path in annotated]
    phrases = [Phrases(*map(marked_phrases, pair)) for pair in zip(*both, strict=True)]
    marked = [tuple(map(without_marks, pair)) for pair in zip(*both, strict=True)]
    together = [(*more, *pair) for more, pair in zip(own, marked, strict=True)]
    return items_of(prompts, given, together, phrases), unused


def _annotated(texts: Sequence[_Line], path: Path) -> list[str]:
    """The reference of each text, with its marks."""
    lines = [_Line(f"{path}:{i}", "", (line,)) for i, line in enumerate(read_lines(path), start=1)]
    _check_equally_many(texts, lines, path)
    for line in lines:
        (text,) = line.texts
        if not text.strip() or any(mark in without_marks(text) for mark in ("[F]", "[/F]")):
            raise InputError(
                f"{line.where}, {quote(text)}: give a reference, its phrases marked [F]..[/F]"
            )
    if not any(marked_phrases(line.texts[0]) for line in lines):
        raise InputError(f"{path}, no phrase is marked [F]..[/F]: give an annotated file")
    return [line.texts[0].strip() for line in lines]


def _read(path: Path, names: tuple[str, ...], fields: Fields) -> Iterator[_Line]:
    """The lines of a file; the texts of a text file's line are whole."""
    as_json = ".jsonl" in path.suffixes
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path}:{number}"
        if not as_json:
            yield _Line(where, "", (line,))
        elif line.strip():
            yield _parsed(line, where, names, fields)


def _parsed(line: str, where: str, names: tuple[str, ...], fields: Fields) -> _Line:
    row = parse_json(line, where, "give one object per line")
    if not isinstance(row, dict):
        raise InputError(f"{where}, not a JSON object: give one object per line")
    name = next((name for name in names if name in row), None)
    if name is None:
        raise InputError(
            f"{where}, no field {' or '.join(names)}: name the field that holds the texts, "
            "--text-field of outputs, --references-field of references"
        )
    prompt = next((row[name] for name in fields.prompt if name in row), "")
    return _Line(where, _prompt(prompt, where), _texts(row[name], name, where))


def _texts(value: Any, name: str, where: str) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{where}, {name} is {quote(value)}: give a text or a list of texts")
    return tuple(texts)


def _prompt(value: Any, where: str) -> str:
    """A prompt as it is written, or concepts in the format of keyword tasks."""
    if isinstance(value, str):
        return value
    concepts = _texts(value, "the prompt", where)
    try:
        return format_prompt(concepts)
    except InputError as error:
        raise InputError(f"{where}, {error}") from None


def _references(
    texts: Sequence[_Line], paths: Sequence[Path], fields: Fields
) -> tuple[list[tuple[str, tuple[str, ...]]], int]:
    """The prompt and the references of each text, and the number of prompts not used."""
    if not paths:
        return [("", ())] * len(texts), 0
    files = [list(_read(path, fields.references, fields)) for path in paths]
    if all(line.prompt for file in (texts, *files) for line in file):
        return _by_prompt(texts, [line for file in files for line in file], paths)
    for path, file in zip(paths, files):
        _check_equally_many(texts, file, path)
    groups = []
    for rows in zip(*files):
        parts = [part.strip() for row in rows for text in row.texts for part in text.split("\t")]
        own = tuple(part for part in parts if part)
        if not own:
            raise InputError(f"{rows[0].where}, no reference: give one for every output")
        groups.append((next((row.prompt for row in rows if row.prompt), ""), own))
    return groups, 0


def _check_equally_many(texts: Sequence[_Line], file: Sequence[_Line], path: Path) -> None:
    both = min(len(texts), len(file))
    if len(texts) > both:
        raise InputError(f"{path} has no line for {texts[both].where}: give one for every output")
    if len(file) > both:
        raise InputError(f"{file[both].where} has no output: give one for every line")


def _by_prompt(
    texts: Sequence[_Line], rows: Sequence[_Line], paths: Sequence[Path]
) -> tuple[list[tuple[str, tuple[str, ...]]], int]:
    known: dict[tuple[str, ...], dict[str, None]] = {}
    for row in rows:
        own = {text: None for text in row.texts if text.strip()}
        known.setdefault(_key(row.prompt), {}).update(own)
    for line in texts:
        if not known.get(_key(line.prompt)):
            names = ", ".join(map(str, paths))
            raise InputError(
                f"{line.where}, prompt {quote(line.prompt)} has no reference in {names}: give one"
            )
    unused = len(known.keys() - {_key(line.prompt) for line in texts})
    return [(line.prompt, tuple(known[_key(line.prompt)])) for line in texts], unused


def _key(prompt: str) -> tuple[str, ...]:
    """The same for the same concepts in another order."""
    try:
        return tuple(sorted(concepts_of(prompt)))
    except InputError:
        return ("", prompt)

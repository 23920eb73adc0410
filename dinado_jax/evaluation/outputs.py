"""Anybody's outputs and references from files.

Outputs are a .txt file with a text per line, or .jsonl with an object per line, such as a run's
generate/*.jsonl. References are such files too: .jsonl with a text or a list of texts per object,
or one or more text files, of which each line holds references of the same line of the outputs,
with a tab between two of them. Where every line has a prompt they are matched by these, otherwise
line by line. Where some prompts are given as lists of concepts their order does not matter.
References whose formal and informal phrases are marked, as those of CoCoA-MT, are two text files
that belong to the outputs line by line.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dinado_jax.data.records import has_objects
from dinado_jax.errors import InputError, quote
from dinado_jax.metrics.matched_accuracy import marked_phrases, without_marks
from dinado_jax.metrics.protocol import Item, Phrases, items_of
from dinado_jax.tasks.keyword.format import concepts_of, format_prompt
from dinado_jax.utils.files import parse_json, read_lf_lines


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
    listed: bool = False  # whether the prompt was given as a list of concepts


def read_items(
    outputs: Path,
    references: Sequence[Path],
    fields: Fields = _DEFAULT,
    annotated: tuple[Path, Path] | None = None,
    system: Path | None = None,
) -> tuple[list[Item], int]:
    """Reads outputs with their references.

    Args:
      outputs: a file of texts.
      references: files; none if there are no references.
      fields: of .jsonl files.
      annotated: files of formal and of informal references, which are references too.
      system: of outputs that are a baseline's, the file of the system that they are compared with:
        their prompts are written as there, and if they have none they are those of the same lines.

    Returns:
      The items, and how many prompts of the references have no output.

    Raises:
      InputError: with file and line, for a malformed line and one that has no match.
    """
    texts = _outputs(outputs, fields)
    if system is not None:
        texts = _prompted(texts, _outputs(system, fields), outputs)
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


def _outputs(path: Path, fields: Fields) -> list[_Line]:
    """The lines of a file of outputs, at least one, each with one text."""
    objects = has_objects(path)
    lines = list(_read(path, fields.text, fields))
    if not lines:
        raise InputError(f"{path}, no texts: give one per line")
    for line in lines:
        if len(line.texts) != 1:
            raise InputError(f"{line.where}, {len(line.texts)} texts: give one output per line")
    if objects and fields.prompt != _DEFAULT.prompt and not any(x.prompt for x in lines):
        (name,) = fields.prompt
        raise InputError(f"{path}, no field {name} in any line: name that of the prompts, or none")
    return lines


def _prompted(lines: Sequence[_Line], system: Sequence[_Line], path: Path) -> list[_Line]:
    """The lines of a baseline with the prompts of the system's, as these are written."""
    if not any(line.prompt for line in lines):
        if any(line.prompt for line in system):
            _check_equally_many(system, lines, path)
            lines = [
                line._replace(prompt=own.prompt, listed=own.listed)
                for line, own in zip(lines, system)
            ]
        return list(lines)
    listed = any(line.listed for line in (*lines, *system))
    key_of = _concepts if listed else _prompt_of
    known = {key_of(line): line.prompt for line in system}
    return [
        line._replace(prompt=known.get(key_of(line), line.prompt), listed=listed) for line in lines
    ]


def _annotated(texts: Sequence[_Line], path: Path) -> list[str]:
    """The reference of each text, with its marks."""
    if has_objects(path, tabs=True):
        raise InputError(f"{path}, objects: give a text file with a marked reference per line")
    lines = [
        _Line(f"{path}:{i}", "", (line,)) for i, line in enumerate(read_lf_lines(path), start=1)
    ]
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
    objects = has_objects(path, tabs=True)
    for number, line in enumerate(read_lf_lines(path), start=1):
        where = f"{path}:{number}"
        if not objects:
            yield _Line(where, "", (line,))
        elif line.strip():
            yield _parsed(line, where, names, fields)


def _references_of(path: Path, fields: Fields) -> list[_Line]:
    """The lines of a file of references; a tab divides those of a text file's line."""
    lines = list(_read(path, fields.references, fields))
    if has_objects(path, tabs=True):
        return lines
    return [line._replace(texts=tuple(line.texts[0].split("\t"))) for line in lines]


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
    texts = _texts(row[name], name, where)
    return _Line(where, _prompt(prompt, where), texts, isinstance(prompt, list))


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
    files = [_references_of(path, fields) for path in paths]
    lines = [line for file in (texts, *files) for line in file]
    key_of = _concepts if any(line.listed for line in lines) else _prompt_of
    if all(line.prompt for line in lines):
        return _by_prompt(texts, lines[len(texts) :], paths, key_of)
    for path, file in zip(paths, files):
        _check_equally_many(texts, file, path)
    groups = []
    for text, *rows in zip(texts, *files):
        own = tuple(part.strip() for row in rows for part in row.texts if part.strip())
        if not own:
            raise InputError(f"{rows[0].where}, no reference: give one for every output")
        known = [line for line in (text, *rows) if line.prompt]
        if other := next((line for line in known if key_of(line) != key_of(known[0])), None):
            raise InputError(
                f"{known[0].where} has the prompt {quote(known[0].prompt)}, {other.where} "
                f"{quote(other.prompt)}: give a prompt in every line of all files, or files that "
                "belong together line by line"
            )
        groups.append((next((row.prompt for row in rows if row.prompt), ""), own))
    return groups, 0


def _check_equally_many(texts: Sequence[_Line], file: Sequence[_Line], path: Path) -> None:
    both = min(len(texts), len(file))
    if len(texts) > both:
        raise InputError(f"{path} has no line for {texts[both].where}: give one for every output")
    if len(file) > both:
        raise InputError(f"{file[both].where} has no output: give one for every line")


def _by_prompt(
    texts: Sequence[_Line],
    rows: Sequence[_Line],
    paths: Sequence[Path],
    key_of: Callable[[_Line], Hashable],
) -> tuple[list[tuple[str, tuple[str, ...]]], int]:
    known: dict[Hashable, dict[str, None]] = {}
    for row in rows:
        own = {text: None for text in row.texts if text.strip()}
        known.setdefault(key_of(row), {}).update(own)
    for line in texts:
        if not known.get(key_of(line)):
            names = ", ".join(map(str, paths))
            raise InputError(
                f"{line.where}, prompt {quote(line.prompt)} has no reference in {names}: give one"
            )
    unused = len(known.keys() - {key_of(line) for line in texts})
    return [(line.prompt, tuple(known[key_of(line)])) for line in texts], unused


def _prompt_of(line: _Line) -> Hashable:
    return line.prompt


def _concepts(line: _Line) -> Hashable:
    """The same for the same concepts in another order."""
    try:
        return tuple(sorted(concepts_of(line.prompt)))
    except InputError:
        return line.prompt

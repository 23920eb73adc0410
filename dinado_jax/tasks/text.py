"""Plain text of your own: a language model without prompts.

Every document is a reference of the empty prompt, which is the row's BEGIN alone: see
models/codec.py for what that is where a model has no begin-of-text token.
"""

from collections.abc import Iterator
from pathlib import Path

from dinado_jax.config import schema
from dinado_jax.data.records import Record
from dinado_jax.data.text_files import read_paragraphs, text_paths
from dinado_jax.errors import InputError
from dinado_jax.tasks.own_data import OwnData, settings_read
from dinado_jax.tasks.protocol import Example, Task
from dinado_jax.utils.files import read_lines
from dinado_jax.utils.progress import print_once

_SUFFIXES = (".txt", ".jsonl", ".gz", ".xz")
_SPLITS = ("train", "dev", "valid", "validation", "test")


def text(settings: schema.Task) -> Task:
    """`task.name = "text"`: the documents of `task.source`: lines or paragraphs of text files, or
    the column `task.text_field`. Those with nothing in it are counted and left out.
    """
    field = settings.text_field

    def plain(path: Path) -> Iterator[Record]:
        lines = enumerate(read_lines(path), start=1)
        numbered = read_paragraphs(path) if settings.document == "paragraph" else lines
        return ((f"{path}:{number}", {field: part}) for number, part in numbered if part.strip())

    def make(source: str, records: Iterator[Record]) -> list[Example]:
        documents = [row[field] or "" for _, row in records]
        written = [document for document in documents if document.strip()]
        if left_out := len(documents) - len(written):
            print_once(f"{source}: {left_out} of {len(documents)} rows have no text, left out")
        return [Example("", (document,)) for document in written]

    fix = f'give one {{"{field}": "..."}} per line, or name its field by task.text_field'
    data = OwnData({field: (str, type(None))}, fix, plain, make, _files)
    fault = "task.source is empty: give a text file or a folder of them, task.source=PATH"
    return Task(
        data.reader(settings),
        oracle="",
        settings_read=settings_read(settings, frozenset({"text_field"}), frozenset({"document"})),
        source=settings.source,
        fault="" if settings.source else fault,
        windows=True,
    )


def _files(path: Path) -> list[Path]:
    """The text files of a folder, all of one split."""
    files = text_paths(path, _SUFFIXES)
    named = [file.name for file in files if file.name.split(".")[0] in _SPLITS]
    if path.is_dir() and named:
        raise InputError(
            f"{path}, {named[0]} is named after a split: give one file by task.source, and those "
            "of other splits by task.dev and task.test"
        )
    return files

"""Plain text of one's own: documents of files, folders and data sets."""

import gzip

from support import tiny_run
from support.refusal import error_of

from dinado_jax.config import schema
from dinado_jax.tasks.table import make_task


def documents(source, split="train", count=None, **settings):
    task = make_task(schema.Task(name="text", source=str(source), **settings))
    found = task.examples(split, 0, count)
    assert all(example.prompt == "" and len(example.references) == 1 for example in found)
    return [example.references[0] for example in found]


def test_lines_or_paragraphs(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeff  one\r\n two \r\n\r\n \t\r\nthree\r\n".encode())
    assert documents(file) == ["  one", " two ", "three"]
    assert documents(file, document="paragraph") == ["  one\n two ", "three"]


def test_all_files_of_a_folder(tmp_path):
    (tmp_path / "b.txt").write_text("three\n")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one\ntwo\n"))
    (tmp_path / "c.jsonl").write_text('{"text": "four\\nlines"}\n')
    (tmp_path / "README.txt").write_text("not this\n")
    assert documents(tmp_path) == ["one", "two", "three", "four\nlines"]
    (tmp_path / "test.txt").write_text("held out\n")
    said = error_of(documents, tmp_path)
    assert "test.txt is named after a split: give one file by task.source" in said


def test_objects_by_name_and_what_is_left_out(tmp_path, capsys):
    file = tmp_path / "a.jsonl"
    file.write_text('{"body": "one"}\n\n{"body": ""}\n{"body": null}\n{"body": "two"}\n')
    assert documents(file, text_field="body") == ["one", "two"]
    assert f"{file}: 2 of 4 rows have no text, left out" in capsys.readouterr().err
    assert "a.jsonl:1, text is missing: give one" in error_of(documents, file)


def test_shares_and_files_of_splits(tmp_path):
    for name in ("all", "dev"):
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} {i}\n" for i in range(20)))
    assert documents(tmp_path / "all.txt", "dev") == ["all 8", "all 18"]
    assert len(documents(tmp_path / "all.txt")) == 16
    own = {"dev": str(tmp_path / "dev.txt"), "test": str(tmp_path / "dev.txt")}
    assert len(documents(tmp_path / "all.txt", **own)) == 20
    assert documents(tmp_path / "all.txt", "test", 2, **own) == ["dev 0", "dev 1"]


def test_what_is_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    assert "empty.txt, no examples there" in error_of(documents, tmp_path / "empty.txt")
    assert "none.txt, no such file" in error_of(documents, tmp_path / "none.txt")
    assert "none.txt, no such file" in error_of(documents, "none.txt")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    assert "latin.txt, not UTF-8 text" in error_of(documents, tmp_path / "latin.txt")
    assert "task.source is empty" in error_of(tiny_run.config, "task.name=text")

"""Plain text from a file or a folder."""

import gzip
import lzma

from support.refusal import error_of

from dinado_jax.data.text_files import read_text_lines


def write(path, content):
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with opener(path, "wt", encoding="utf-8") as handle:
        handle.write(content)


def test_lines_of_a_file_and_of_a_folder(tmp_path):
    write(tmp_path / "b.txt.gz", "two\n\n  \nthree\n")
    write(tmp_path / "a.txt", "one\r\n")
    write(tmp_path / "c.txt.xz", "four é")
    for name in ("SOURCE.txt", "README.txt", "LICENSE.txt", "notes.md"):
        write(tmp_path / name, "not a text\n")
    assert read_text_lines(tmp_path / "b.txt.gz") == ["two", "three"]
    assert read_text_lines(str(tmp_path)) == ["one", "two", "three", "four é"]


def test_missing_empty_and_broken_text(tmp_path):
    assert "no such file" in error_of(read_text_lines, tmp_path / "none.txt")
    assert "no text" in error_of(read_text_lines, tmp_path)
    (tmp_path / "broken.gz").write_bytes(b"not gzip")
    assert "cannot be read" in error_of(read_text_lines, tmp_path / "broken.gz")
    (tmp_path / "broken.xz").write_bytes(lzma.compress(b"some text")[:-4])
    assert "cannot be read" in error_of(read_text_lines, tmp_path / "broken.xz")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    assert "UTF-8" in error_of(read_text_lines, tmp_path / "latin.txt")

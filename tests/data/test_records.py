"""Records of .jsonl, .csv and .tsv, as other programs write them."""

import gzip

import pytest
from support.refusal import error_of

from dinado_jax.data.records import is_table, read_records

FIX = "name the columns"


def records(path, content, **columns):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    columns = columns or {"prompt": str, "target": str}
    return list(read_records(path, columns, FIX))


def values(*args, **columns):
    return [tuple(row.values()) for _, row in records(*args, **columns)]


def test_which_files_have_columns(tmp_path):
    names = ("a.jsonl", "a.csv", "a.tsv.gz", "a.train.jsonl.xz")
    assert all(is_table(tmp_path / name) for name in names)
    assert not any(is_table(tmp_path / name) for name in ("a.txt", "a", "csv", "a.txt.gz"))


def test_two_columns_without_a_header(tmp_path):
    file = tmp_path / "a.tsv"
    assert values(file, "one\tun\n\ntwo, 2\tdeux\n") == [("one", "un"), ("two, 2", "deux")]
    assert [where for where, _ in records(file, "a\tb\n\n\nc\td\n")] == [f"{file}:1", f"{file}:4"]


def test_a_header_names_columns_in_any_order(tmp_path):
    rows = records(tmp_path / "a.csv", "\ufeffid,target,prompt\r\n7,un,one\r\n8,,two\r\n")
    assert [(row["prompt"], row["target"]) for _, row in rows] == [("one", "un"), ("two", "")]


def test_quoted_values_hold_new_lines_and_marks(tmp_path):
    file = tmp_path / "a.csv"
    text = 'one,"un\r\nune, ""1"""\r\n\r\n"",vide\r\n"two",deux\r\n'
    rows = records(file, text)
    assert [tuple(row.values()) for _, row in rows] == [
        ("one", 'un\nune, "1"'), ("", "vide"), ("two", "deux"),
    ]  # fmt: skip
    assert [where.rpartition(":")[2] for where, _ in rows] == ["1", "4", "5"]


def test_objects_are_read_by_name(tmp_path):
    file = tmp_path / "a.jsonl.gz"
    lines = '\ufeff{"prompt": "a", "target": ["b", "c"], "more": 1}\r\n\r\n'
    found = values(file, gzip.compress(lines.encode()), prompt=str, target=list)
    assert found == [("a", ["b", "c"], 1)]


REFUSED = {
    "a.tsv": ("a\tb\nc\n", "a.tsv:2, a row of 1 columns where 2 are needed: correct it"),
    "b.csv": ("a,b\nc,d,e\n", "b.csv:2, a row of 3 columns where 2 are needed"),
    "c.csv": ("prompt,target,n\na,b\n", "c.csv:2, a row of 2 columns where 3"),
    "d.csv": ("prompt,targte\na,b\n", "d.csv:1, the header has no column 'target': correct"),
    "l.csv": ("Prompt, Target\na,b\n", "l.csv:1, the header has no column 'prompt': correct"),
    "e.csv": ('a,b\n\n"c,d\n', "e.csv:3, malformed row (Error: unexpected end of data"),
    "f.csv": ('"a"b,c\n', "f.csv:1, malformed row (Error: ',' expected after '\"')"),
    "g.csv": ("prompt,target,target\na,b,c\n", "g.csv:1, the header has two columns 'target'"),
    "h.jsonl": ('{"prompt": "a"}', "h.jsonl:1, target is missing: name the columns"),
    "i.jsonl": ('{"prompt": "a", "target": 3}', "i.jsonl:1, target is 3, not a text"),
    "j.tsv": ("é\tb\n".encode("latin-1"), "j.tsv, not UTF-8 text (byte 0)"),
    "k.csv": ("a,b\n".encode("utf-16"), "k.csv, UTF-16 text: save it as UTF-8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path, name):
    content, fault = REFUSED[name]
    assert fault in error_of(records, tmp_path / name, content)


def test_long_values_and_names_with_several_suffixes(tmp_path):
    columns = {"prompt": str, "target": str}
    (tmp_path / "a.csv").write_text(f"a,{'b' * 200_000}\n")
    [(_, row)] = read_records(tmp_path / "a.csv", columns, "")
    assert len(row["target"]) == 200_000
    (tmp_path / "b.csv.jsonl").write_text('{"prompt": "q", "target": "a, b"}\n')
    [(_, row)] = read_records(tmp_path / "b.csv.jsonl", columns, "")
    assert row == {"prompt": "q", "target": "a, b"}
    assert is_table(tmp_path / "b.tsv.gz") and not is_table(tmp_path / "b.csv.txt")

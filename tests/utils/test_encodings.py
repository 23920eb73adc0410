"""Every reader of text gets the same from a file, whatever its byte-order mark and line ends, and
refuses other encodings in one line."""

import gzip
import json
import lzma

import pytest

from dinado_jax.data import text_files as text
from dinado_jax.errors import InputError
from dinado_jax.models.hf_folder import read_config
from dinado_jax.stages.context import Context
from dinado_jax.stages.settings import load_config
from dinado_jax.tasks import commongen
from dinado_jax.utils.files import read_json, read_lines

OPENERS = {".gz": gzip.open, ".xz": lzma.open}
BOM = "\ufeff"


def read_toml(path):
    loaded = load_config(path)
    return loaded.seed, loaded.sft.steps


def read_prompts(path):
    given = [f"evaluate.prompt_file={json.dumps(str(path))}"]
    return Context.of(load_config(None, given)).held_out


def read_split(path):
    return commongen.examples(str(path.parent), "dev")


def read_pair(path):
    """Both files of the pair in the same encoding."""
    (path.parent / "dev_trg.txt").write_bytes(path.read_bytes())
    return read_split(path)


def read_model(path):
    return read_config(path.parent)


READERS = {
    "toml": (read_toml, "some.toml", "seed = 3\n[sft]\nsteps = 7\n"),
    "prompts": (read_prompts, "prompts.txt", "dog run =\ncat sit =\n"),
    "prompts.gz": (read_prompts, "prompts.txt.gz", "dog run =\ncat sit =\n"),
    "jsonl": (
        read_split,
        "dev.jsonl",
        '{"concepts": ["dog"], "scene": ["A dog."]}\n{"concepts": ["cat"], "scene": ["A cat."]}\n',
    ),
    "jsonl.gz": (read_split, "dev.jsonl.gz", '{"concepts": ["dog"], "scene": ["A dog."]}\n'),
    "pair": (read_pair, "dev_src.txt", "dog run\ncat sit\n"),
    "text": (text.read_text_lines, "some.txt", "A dog runs.\nA cat sits.\n"),
    "text.gz": (text.read_text_lines, "some.txt.gz", "A dog runs.\nA cat sits.\n"),
    "text.xz": (text.read_text_lines, "some.txt.xz", "A dog runs.\nA cat sits.\n"),
    "text of a folder": (
        lambda path: text.read_text_lines(path.parent),
        "a.txt",
        "A dog runs.\nA cat.\n",
    ),
    "config.json": (read_model, "config.json", '{"model_type": "gpt2",\n "n_embd": 8}\n'),
}
SAME = {
    "mark": lambda text: BOM + text,
    "two marks": lambda text: BOM + BOM + text,
    "marks at line starts": lambda text: (BOM + text).replace("\n", f"\n{BOM}"),
    "CR LF": lambda text: text.replace("\n", "\r\n"),
    "CR": lambda text: text.replace("\n", "\r"),
    "mark and CR LF": lambda text: (BOM + text).replace("\n", f"\r\n{BOM}"),
    "mark and CR": lambda text: (BOM + text).replace("\n", f"\r{BOM}"),
}
OTHERS = {
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 text": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "UTF-32 text": lambda text: b"\0\0\xfe\xff" + text.encode("utf-32-be"),
    "NUL at byte 1,": lambda text: text.encode("utf-16-le"),
    "not UTF-8 text (byte 1)": lambda text: text[0].encode() + b"\xe9\n" + text.encode(),
}


def write(path, data: bytes):
    with OPENERS.get(path.suffix, open)(path, "wb") as file:
        file.write(data)
    return path


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("change", SAME)
def test_marks_and_line_ends_are_no_text(tmp_path, reader, change):
    read, name, content = READERS[reader]
    expected = read(write(tmp_path / name, content.encode()))
    assert read(write(tmp_path / name, SAME[change](content).encode())) == expected


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("said", OTHERS)
def test_other_encodings_are_refused_in_one_line(tmp_path, reader, said):
    read, name, content = READERS[reader]
    path = write(tmp_path / name, OTHERS[said](content))
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert said in message and "UTF-8" in message and str(path) in message
    assert "\n" not in message


def test_the_byte_that_is_not_text_is_counted_from_the_start_of_the_file(tmp_path):
    path = write(tmp_path / "long.txt", b"dog\n" * 50_000 + b"\xff\n")
    with pytest.raises(InputError, match=r"long.txt, not UTF-8 text \(byte 200000\)"):
        read_lines(path)


def test_what_cannot_be_a_line_end_is_none(tmp_path):
    path = write(tmp_path / "odd.txt", "a\u2028b\x0bc\x85d\n\ne\n".encode())
    assert read_lines(path) == ["a\u2028b\x0bc\x85d", "", "e"]


def test_json_with_a_mark(tmp_path):
    path = write(tmp_path / "some.json", (BOM + '{"a": "é"}').encode())
    assert read_json(path, "write it again") == {"a": "é"}

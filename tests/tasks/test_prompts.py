"""Prompts of one's own: as they are written, divided among the splits."""

import gzip

import pytest
from support import tiny_run
from support.refusal import error_of

from dinado_jax.config import schema
from dinado_jax.stages.pipeline import check, run_stages
from dinado_jax.stages.run_folder import STAGES
from dinado_jax.tasks.prompts import read_prompts, write_prompts
from dinado_jax.tasks.table import make_task


def prompts(file, split="train", count=None, **settings):
    task = make_task(schema.Task(name="prompts", source=str(file), **settings))
    found = task.examples(split, 0, count)
    assert all(example.references == () for example in found)
    return [example.prompt for example in found]


def test_lines_are_left_as_they_are_written(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_bytes("\ufeff  two spaces \r\n\r\n\ttab\u2028inside\r\nlast =".encode())
    assert prompts(file) == ["  two spaces ", "\ttab\u2028inside", "last ="]


def test_objects_may_hold_any_prompt(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "two\\nlines ", "id": 1}\n\n{"prompt": ""}\n')
    assert prompts(file) == ["two\nlines ", ""]
    packed = tmp_path / "mine.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"question": "Who?"}\n'))
    assert prompts(packed, field="question") == ["Who?"]


def test_what_is_written_is_read_again(tmp_path):
    texts = ["", " a ", "b\r\nc\u2028", "\ufeffd", "e\0", '"{prompt}"', "f"]
    write_prompts(tmp_path / "all.jsonl", texts)
    assert read_prompts(tmp_path / "all.jsonl") == texts


@pytest.mark.parametrize("held_out, dev", [(0.2, [8, 18]), (0.5, [2, 6, 10, 14, 18]), (0.0, [])])
def test_a_share_is_held_out(tmp_path, held_out, dev):
    file = tmp_path / "mine.txt"
    file.write_text("".join(f"{i}\n" for i in range(20)))
    train = prompts(file, held_out=held_out)
    assert train == [str(i) for i in range(20) if i not in dev and i - 1 not in dev]
    assert prompts(file, count=3, held_out=held_out) == train[:3]
    if dev:
        assert prompts(file, "dev", held_out=held_out) == [str(i) for i in dev]
        assert prompts(file, "test", held_out=held_out) == [str(i + 1) for i in dev]


def test_what_is_refused(tmp_path):
    few, odd = tmp_path / "few.txt", tmp_path / "odd.jsonl"
    few.write_text("The\nA\n")
    said = error_of(prompts, few, "dev")
    assert "none of its 2 examples is of the dev split (task.held_out = 0.2): give more" in said
    assert "none.txt, no such file" in error_of(prompts, tmp_path / "none.txt")
    assert "give one of train, dev, test" in error_of(prompts, few, "valid")
    for line, fault in {
        '{"text": "The"}': "odd.jsonl:2, prompt is missing: give one",
        '{"prompt": 3}': "odd.jsonl:2, prompt is 3, not a text: give one",
        '"The"': "odd.jsonl:2, its content is 'The', not an object",
        "The": "odd.jsonl:2, malformed JSON",
    }.items():
        odd.write_text('{"prompt": "A"}\n' + line)
        assert fault in error_of(prompts, odd)
    assert "name its field by task.field" in error_of(prompts, odd)
    said = error_of(read_prompts, odd)
    assert 'give one {"prompt": "..."} per line' in said and "task.field" not in said


@pytest.mark.parametrize("read", [prompts, read_prompts])
def test_what_is_no_file_of_prompts(tmp_path, read):
    whole = tmp_path / "whole.json"
    whole.write_text('["The", "A"]\n')
    assert "whole.json, a .json file: name it .jsonl, and give one" in error_of(read, whole)


@pytest.mark.parametrize("name", ["blank.txt", "blank.jsonl", "blank.csv"])
def test_a_file_without_prompts(tmp_path, name):
    (tmp_path / name).write_text("\n \n")
    assert f"{name} holds no prompt: write one per line" in error_of(read_prompts, tmp_path / name)


def test_a_run_needs_a_file_and_an_oracle():
    given = ("task.name=prompts", "task.source=mine.txt")
    assert "task.source is empty" in error_of(tiny_run.config, given[0])
    said = error_of(check, tiny_run.config(*given, "rollout.oracle="), STAGES)
    assert "rollout.oracle is empty, and task prompts has no oracle of its own: give lex" in said


def test_a_run_checks_its_prompts_and_cannot_tune_on_them(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("dog chase kite =\n" * 9)
    config = tiny_run.config("task.name=prompts", f"task.source={file}", "task.held_out=0.5")
    check(config, STAGES)
    assert "this task has no references" in error_of(run_stages, config, STAGES, tmp_path / "run")

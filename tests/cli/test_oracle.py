"""`dinado oracle check`: labels and times, and one line for every way to be wrong."""

import re

import pytest
from support.commands import refused

from dinado_jax import cli

SOURCE = """
def red(prompts, texts):
    return ["red" in text or prompt == "red" for prompt, text in zip(prompts, texts)]


def misspelt(prompts, texts):
    return [txet for text in texts]


def words(prompts, texts):
    return ["yes" for text in texts]


def arity(text):
    return True


def nothing(prompts, texts):
    pass


def undefined(prompts, texts):
    return [float("nan") for text in texts]


def percent(prompts, texts):
    return [100.0 for text in texts]


def shares(prompts, texts):
    return [1 / len(text) for text in texts]


def relative(prompts, texts):
    return [len(text) == max(map(len, texts)) for text in texts]


number = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(capsys, *argv):
    cli.main(["oracle", "check", *argv])
    return capsys.readouterr().out.splitlines()


def labels(lines):
    """Label and text of each row."""
    rows = (re.fullmatch(r" *(\S+) +[\d.e-]+  (.*)", line) for line in lines[1:-2])
    return [row.groups() for row in rows]


def test_labels_and_times_of_given_texts(capsys, here):
    lines = check(capsys, "mine.py:red", "--text", "a red one", "--text", "another")
    assert labels(lines) == [("1", "a red one"), ("0", "another")]
    assert lines[-2].startswith("2 texts: 1 satisfy it (label above 0.5), 0 failed, mean label 0.5")
    assert re.fullmatch(r"time: .* ms for all in one batch, .* per text; .* alone", lines[-1])
    with_prompt = check(capsys, "mine.py:red", "--text", "a", "--text", "b", "--prompt", "red")
    assert [label for label, _ in labels(with_prompt)] == ["1", "1"]
    assert len(check(capsys, "lexical")) == 5


def test_texts_of_a_file(capsys, here):
    (here / "texts.txt").write_bytes(b"\xef\xbb\xbfred\r\n\r\nblue\r\n")
    assert labels(check(capsys, "mine.py:red", "--texts", "texts.txt")) == [
        ("1", "red"),
        ("0", "blue"),
    ]
    (here / "texts.jsonl").write_text('{"prompt": "red", "text": "a"}\n{"prompt": "b", "text": ""}')
    assert labels(check(capsys, "mine.py:red", "--texts", "texts.jsonl")) == [("1", "a"), ("0", "")]
    argv = ["oracle", "check", "mine.py:red", "--texts"]
    mixed = '{"text": "a"}\n{"text": "b", "prompt": "red"}'
    for content, said in [
        ("{}", "texts.jsonl:1, text is missing"), ("\n", "holds no text"),
        (mixed, "texts.jsonl:2, some lines have a prompt and others none"),
    ]:  # fmt: skip
        (here / "texts.jsonl").write_text(content)
        assert said in refused(capsys, [*argv, "texts.jsonl"])
    assert "nowhere.txt, no such file" in refused(capsys, [*argv, "nowhere.txt"])


def test_labels_that_depend_on_the_batch_are_told(capsys, here):
    lines = check(capsys, "mine.py:relative", "--text", "a", "--text", "ab")
    assert lines[-1].startswith("warning: 1 labels differ when a text is judged alone")


def test_a_text_on_which_it_raises_is_shown(capsys, here):
    with pytest.raises(SystemExit) as caught:
        check(capsys, "mine.py:shares", "--text", "", "--text", "four")
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert [label for label, _ in labels(out.splitlines())] == ["failed", "0.25"]
    assert "raised for 1 of 2 texts, the first ZeroDivisionError" in err
    assert "(mine.py, line 31): a run leaves such samples out" in err


def test_it_may_raise_on_the_first_texts(capsys, here):
    texts = ["--text", "", "--text", "", "--text", "four"]
    with pytest.raises(SystemExit):
        check(capsys, "mine.py:shares", *texts)
    out, err = capsys.readouterr()
    assert [label for label, _ in labels(out.splitlines())] == ["failed", "failed", "0.25"]
    assert "raised for 2 of 3 texts" in err


def test_a_prompt_that_it_cannot_judge(capsys, here):
    said = refused(capsys, ["oracle", "check", "keywords", "--prompt", "bad", "--text", "x"])
    assert "prompt 1, prompt 'bad', keyword task" in said and "raised" not in said


@pytest.mark.parametrize(
    "oracle, said",
    [
        ("mine.py:words", "words, returned 'yes' (str) for 2 texts: write it as function(prom"),
        ("mine.py:arity", "arity(text), cannot take two lists (too many positional arguments): "),
        ("mine.py:nothing", "nothing, returned None for 2 texts: write it as function(prompts, "),
        ("mine.py:misspelt", "NameError: name 'txet' is not defined (mine.py, line 7): correct it"),
        ("mine.py:undefined", "undefined, returned nan for 2 texts: write it as function("),
        ("mine.py:percent", "percent, returned 100.0 for 2 texts: write it as function(pr"),
        ("mine.py:rde", "mine.py has no function rde: did you mean red?"),
        ("mine.py:number", "oracle 'mine.py:number', number is 3: name a function"),
        ("mine.py", "no such oracle: add the name of its function, mine.py:FUNCTION"),
        ("nowhere.py:red", "nowhere.py, no such file or directory: correct the path"),
        ("nowhere:red", "No module named 'nowhere': correct the name or install the module"),
        ("lexicl", "no such oracle: did you mean lexical?"),
        ("syntax.py:red", "SyntaxError: expected ':' (syntax.py, line 1): correct syntax.py"),
        ("needs.py:red", "No module named 'nothing_such' (needs.py, line 1): correct needs.py"),
    ],
)
def test_what_is_wrong_with_an_oracle(capsys, here, oracle, said):
    (here / "syntax.py").write_text("def red(prompts, texts)\n    return []\n")
    (here / "needs.py").write_text("import nothing_such\n")
    assert said in refused(capsys, ["oracle", "check", oracle])


@pytest.mark.parametrize(
    "more, said",
    [
        (["--text", "a", "--prompt", "p", "--prompt", "q"], "2 prompts for 1 texts: give one "),
        (["--text", "a", "--texts", "b.txt"], "two sources of texts: leave out one"),
        (["a text"], "'a text' is one argument too many: leave it out"),
        (["--txet", "a"], "unrecognized arguments: --txet: did you mean --text?"),
    ],
)
def test_arguments_that_contradict_each_other(capsys, here, more, said):
    assert said in refused(capsys, ["oracle", "check", "mine.py:red", *more])

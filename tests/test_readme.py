"""README and docs/: programs run, commands parse and run, paths, settings and messages exist."""

import ast
import functools
import re
import shlex

import pytest
import support

from dinado_jax import cli
from dinado_jax.cli.parser import parse
from dinado_jax.config.schema import Config
from dinado_jax.stages import fit
from dinado_jax.tasks.keyword.lexical import lexical

ROOT = support.ROOT
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
QUICK = {
    "delta.rank": 2,
    "train.steps": 4,
    "train.rounds": 1,
    "train.warmup_direction": 0,
    "train.batch": 8,
    "parallel.devices": 1,
}
# docs/constraints.md has a test of its own; the program of docs/results.md goes on from README's.
OTHER_PROGRAMS = ("docs/constraints.md", "docs/results.md")
PROGRAM = re.compile(r"```python\n(.*?)```", re.DOTALL)
PROGRAMS = [
    (page, program)
    for page, text in PAGES.items()
    if page not in OTHER_PROGRAMS
    for program in PROGRAM.findall(text)
]
PROSE = {
    page: re.sub(r" *\\\n +", " ", re.sub(r"```\w*\n.*?```", "", text, flags=re.DOTALL))
    for page, text in PAGES.items()
}
QUOTED = {page: re.findall(r"`([^`\n]+)`", prose) for page, prose in PROSE.items()}
COMMANDS = sorted(
    {
        re.split(r" {2,}#| \| ", command)[0].strip()
        for page, prose in PROSE.items()
        for text in (*re.findall(r"^    (.+)$", prose, re.MULTILINE), *QUOTED[page])
        for command in re.findall(r"(?:^|-- )(dinado [a-z].*)", text)
        # Neither the name of a command alone, nor a value that stands for several.
        if re.search(r"[^a-z ]", command) and not re.search(r"--(size|variant|seed) [A-Z]", command)
    }
)
# What a first hour's transcript has is only parsed: some of it is there to fail.
TYPED = re.findall(r"^\$ (dinado [^|\n]*)", PAGES["docs/first_hour.md"], re.MULTILINE)
CHEAP = r"dinado (doctor|init|oracle check|inspect|generate|export|run .*--print-config)\b"
# Those that name what is made here: no FILE or [--option], and no run that peft has no form for.
RUN = [one for one in COMMANDS if re.match(CHEAP, one) and not re.search(r"[A-Z]{3}|\[|peft", one)]
PATHS = sorted(
    {
        (page, text)
        for page, quoted in QUOTED.items()
        for text in quoted
        if page == "README.md" and re.fullmatch(r"[\w/]*(\w/|\w\.(py|toml|md|sh))", text)
    }
    | {
        (page, link)
        for page, prose in PROSE.items()
        for link in re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", prose)
    }
)
MESSAGES = re.findall(r"^\| `([^`]+)` \|", PAGES["docs/troubleshooting.md"], re.MULTILINE)


@pytest.fixture(scope="module")
def where_it_ran(finished_run, tmp_path_factory):
    """A folder in which runs/demo and runs/mine are finished runs."""
    return _folder(tmp_path_factory.mktemp("readme"), finished_run)


def _folder(folder, finished_run):
    (folder / "runs").mkdir()
    for name in ("demo", "mine"):
        (folder / "runs" / name).symlink_to(finished_run)
    (program,) = PROGRAM.findall(PAGES["docs/own_oracle.md"])
    (folder / "short.py").write_text(program)
    return folder


@pytest.mark.parametrize("page, program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_programs_run(page, program, where_it_ran, monkeypatch, compiled_quickly):
    monkeypatch.chdir(where_it_ran)
    names = {}
    quick = functools.partial(fit.fit, rollouts=512, settings=QUICK)
    monkeypatch.setattr(fit, "fit", quick)
    exec(compile(program, page, "exec"), names)
    if "milder" in names:
        assert len(names["prompts"]) == 96 and len(names["scores"][0]) > 6
        assert names["model"].base.folder == names["base"].folder
    elif "logits" in names:
        assert names["logits"].shape[-1] == names["base"].model.config.vocab_size
        assert names["best"][0].log_probs.sum() < 0
        assert len(names["red"].values) == len(names["red"].tokens) + 1
    elif "whole" in names:
        (best,) = names["best"]
        assert best.finished and 2 <= len(best.tokens) <= 16
    elif "modes" in names:
        assert [len(one.tokens) for one in names["modes"]] == sorted(
            {len(one.tokens) for one in names["modes"]}
        )
        assert names["modes"][0].exact
    elif "rate_bounds" in names:
        assert names["found"].lower.shape == names["found"].distance.shape == (1,)
    elif "sample_by_rejection" in names:
        assert names["found"].acceptance.shape == (1,)
    elif "chosen" in names:
        assert [one.label == int(one.label) for one in names["chosen"]] == [True] * 4
    elif "same" in names:
        assert names["same"].control == names["model"].control
    elif "mask" in names:
        assert all(lexical([one.prompt for one in names["made"]], [o.text for o in names["made"]]))
    elif "moved" in names:
        assert len(names["values"].values) == len(names["values"].tokens) + 1
    elif "short" in names:
        assert names["short"]([""] * 2, ["a b c d e f g .", "a b c d e f g h ."]) == [True, False]
    else:
        assert len(names["both"].parts) == 2
        assert (where_it_ran / "first_as_base" / "model.safetensors").exists()


def test_there_is_something_to_check():
    assert len(PROGRAMS) > 5 and len(COMMANDS) > 30 and len(PATHS) > 60
    assert len(RUN) > 8 and len(TYPED) > 8 and len(MESSAGES) > 40


@pytest.mark.parametrize("command", [*COMMANDS, *TYPED])
def test_commands_parse(command):
    words = [word for word in shlex.split(command)[1:] if word != ".."]
    parse(cli.make_parser(), words)


@pytest.mark.parametrize("command", RUN)
def test_cheap_commands_run(command, finished_run, tmp_path, monkeypatch, compiled_quickly):
    monkeypatch.chdir(_folder(tmp_path, finished_run))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "mine.txt").write_text("dog chase kite =\ncat find ball =\n" * 5)
    cli.main(shlex.split(command)[1:])


@pytest.mark.parametrize("page, path", PATHS)
def test_paths_exist(page, path):
    homes = [(ROOT / page).parent]
    if page == "README.md":
        homes += [home for home in (ROOT / "dinado_jax").rglob("") if home.is_dir()]
    assert any((home / path).exists() for home in homes)


@pytest.mark.parametrize("page", PAGES)
def test_settings_exist(page):
    schema = {name: value for name, value in vars(Config()).items() if hasattr(value, "__dict__")}
    sections = "|".join(schema)
    named = re.findall(rf"(?<![\w/.])({sections})\.(\w+)", PROSE[page])
    named = {(section, key) for section, key in named if key not in ("py", "jsonl")}
    assert all(hasattr(schema[section], key) for section, key in named), named


def test_messages_are_those_of_the_code():
    """Each part of a message in docs/troubleshooting.md, between its "..", is in some text."""
    modules = (ROOT / "dinado_jax").rglob("*.py")
    nodes = (node for path in modules for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    texts = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    code = "\n".join(texts)
    parts = [part for message in MESSAGES for part in message.split("..")]
    assert not [part for part in parts if part not in code]

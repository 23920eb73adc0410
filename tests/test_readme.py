"""README: its programs run, its commands parse, its paths and settings exist."""

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
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK = {
    "delta.rank": 2,
    "train.steps": 4,
    "train.rounds": 1,
    "train.warmup_direction": 0,
    "train.batch": 8,
    "parallel.devices": 1,
}
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
PROSE = re.sub(r"```python\n.*?```", "", TEXT, flags=re.DOTALL)
QUOTED = re.findall(r"`([^`\n]+)`", PROSE)
LINES = re.findall(r"^    (.+)$", PROSE, re.MULTILINE)  # of shells
COMMANDS = sorted(
    {
        command.partition("  #")[0].partition(" | ")[0].replace("\\", "").strip()
        for text in (*LINES, *QUOTED)
        for command in re.findall(r"(?:^|-- )(dinado [a-z].*)", text)
    }
    - {"dinado bench"}  # what the section is about
)
PATHS = sorted(
    {text for text in QUOTED if re.fullmatch(r"[\w/]*(\w/|\w\.(py|toml|md|sh))", text)}
    | set(re.findall(r"\]\(([^):#]+)\)", PROSE))
)


@pytest.fixture(scope="module")
def where_it_ran(finished_run, tmp_path_factory):
    """A folder in which runs/demo is a finished run."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "runs").mkdir()
    (folder / "runs" / "demo").symlink_to(finished_run)
    return folder


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_programs_run(program, where_it_ran, monkeypatch, compiled_quickly):
    monkeypatch.chdir(where_it_ran)
    names = {}
    quick = functools.partial(fit.fit, rollouts=512, settings=QUICK)
    monkeypatch.setattr(fit, "fit", quick)
    exec(compile(program, "README.md", "exec"), names)
    if "milder" in names:
        assert len(names["prompts"]) == 96 and len(names["scores"][0]) > 6
        assert names["model"].base.folder == names["base"].folder
    elif "logits" in names:
        assert names["logits"].shape[-1] == names["base"].model.config.vocab_size
        assert names["best"][0].log_probs.sum() < 0
        assert len(names["red"].values) == len(names["red"].tokens) + 1
    elif "same" in names:
        assert names["same"].control == names["model"].control
    elif "mask" in names:
        assert all(lexical([one.prompt for one in names["made"]], [o.text for o in names["made"]]))
    else:
        assert len(names["both"].parts) == 2
        assert (where_it_ran / "first_as_base" / "model.safetensors").exists()


def test_there_is_something_to_check():
    assert len(PROGRAMS) == 5 and len(COMMANDS) > 8 and len(PATHS) > 20


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command):
    words = [word for word in shlex.split(command)[1:] if word != ".."]
    parse(cli.make_parser(), words)


@pytest.mark.parametrize("path", PATHS)
def test_paths_exist(path):
    homes = [ROOT, *(ROOT / "dinado_jax").rglob("")]
    assert any((home / path).exists() for home in homes if home.is_dir())


def test_settings_exist():
    schema = {name: value for name, value in vars(Config()).items() if hasattr(value, "__dict__")}
    sections = "|".join(schema)
    named = re.findall(rf"(?<![\w/.])({sections})\.(\w+)", PROSE)
    named = {(section, key) for section, key in named if key not in ("py", "jsonl")}
    assert len(named) > 10
    assert all(hasattr(schema[section], key) for section, key in named), named

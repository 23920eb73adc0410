"""`dinado init`: what it writes is accepted by `dinado run`, and nothing is written otherwise."""

import json
import re

import pytest
import support
from support import tiny_run
from support.commands import refused

from dinado_jax import cli
from dinado_jax.config.load import different
from dinado_jax.config.schema import Config
from dinado_jax.models.llama import Llama, LlamaConfig
from dinado_jax.models.llama_checkpoint import to_config
from dinado_jax.stages import pipeline
from dinado_jax.stages.run_folder import STAGES
from dinado_jax.stages.settings import load_config

CONFIGS = support.ROOT / "configs"
ORACLE = "def red(prompts, texts):\n    return ['red' in text for text in texts]\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(ORACLE)
    (tmp_path / "prompts.txt").write_text("".join(f"The house {n} is\n" for n in range(12)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(capsys, *argv):
    """The configuration of `dinado init run.toml argv`, as `dinado run` reads it."""
    cli.main(["init", "run.toml", *map(str, argv)])
    assert capsys.readouterr() == ("run.toml\n", "")
    config = load_config("run.toml")
    pipeline.check(config, STAGES)
    return config


def pretrained(folder, layers=6):
    """A base that is larger than the demo's by far, without weights."""
    sizes = {"vocab_size": 30_000, "hidden_size": 384, "num_hidden_layers": layers}
    config = LlamaConfig(
        **sizes,
        model_type="llama",
        max_position_embeddings=512,
        intermediate_size=384,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=96,
    )
    folder.mkdir()
    made = {"model_type": "llama"} | to_config(Llama(config))
    (folder / "config.json").write_text(json.dumps(made))
    return folder


def test_without_options_it_is_the_demo(capsys, here):
    config = written(capsys)
    assert different(config) == {"name": "run"}
    assert load_config(CONFIGS / "demo.toml").train == config.train == Config().train


def test_your_own_prompts_oracle_and_small_base(capsys, here, finished_run):
    base = finished_run / "sft" / "base"
    config = written(capsys, "--prompts", "prompts.txt", "--oracle", "mine.py:red", "--base", base)
    assert different(config) == {
        "name": "run",
        "task.name": "prompts",
        "task.source": "prompts.txt",
        "base.path": str(base),
        "sft.steps": 0,
        "rollout.oracle": "mine.py:red",
    }


def test_a_pretrained_base_has_the_values_of_its_demo(capsys, here):
    config = written(capsys, "--base", pretrained(here / "base"), "--oracle", "mentions_colour")
    demo = load_config(CONFIGS / "demo_smollm2.toml")
    assert config.task == demo.task and config.train == demo.train
    assert config.decode == demo.decode and config.evaluate == demo.evaluate
    assert (config.delta.rank, config.delta.from_layer) == (demo.delta.rank, 3)
    assert (config.rollout.prompts, config.rollout.batch) == (96, 64)


def test_the_hub_is_not_asked(capsys, here):
    config = written(capsys, "--base", "some/model")
    assert config.base.path == "some/model" and config.delta.from_layer == 0
    assert config.train.objective == "matching"


def test_every_setting_has_a_comment(capsys, here):
    written(capsys, "--base", pretrained(here / "base"), "--oracle", "mine.py:red")
    lines = (here / "run.toml").read_text().splitlines()
    settings = [line for line in lines if re.match(r"\w+ = ", line)]
    assert len(settings) > 25
    bare = [line for line in settings if not re.search(r"  # \S", line)]
    assert bare == ["seed = 0"]


def test_nothing_is_written_over(capsys, here):
    (here / "run.toml").write_text("mine")
    assert "run.toml is there already: name another file" in refused(capsys, ["init"])
    assert (here / "run.toml").read_text() == "mine"


@pytest.mark.parametrize(
    "argv, said",
    [
        (["run.yaml"], "run.yaml, no .toml file: name it run.toml"),
        (["a/b.toml"], "a/b.toml, no such file or directory: correct the path"),
        (["--prompts", "prompts.txt"], "--prompts needs a base that can continue them"),
        (["--prompts", "prompts.txt", "--base", "BASE"], "--prompts needs an oracle"),
        (["--base", "./gone"], "no such folder, './gone'"),
        (["--base", "RUN"], "is the folder of a run: give its base, "),
        (["--oracle", "lexicl"], "did you mean lexical?"),
        (["--oracle", "mine.py:blue"], "mine.py has no function blue: correct the name"),
        (["--oracle", "mine.py:open"], "mine.py has no function open"),
        (
            ["--oracle", "lexical", "--prompts", "prompts.txt", "--base", "BASE"],
            "prompts.txt, prompt 'The house 0 is', keyword task: write it as",
        ),
        (
            ["--oracle", "mine.py:red", "--prompts", "gone.txt", "--base", "BASE"],
            "gone.txt, no such file or directory: correct the path",
        ),
    ],
)
def test_what_a_run_would_refuse_is_not_written(capsys, here, finished_run, argv, said):
    names = {"BASE": finished_run / "sft" / "base", "RUN": finished_run}
    before = sorted(here.iterdir())
    assert said in refused(capsys, ["init", *(names.get(word, word) for word in argv)])
    assert sorted(here.iterdir()) == before


def test_an_oracle_that_fails_is_not_written(capsys, here):
    argv = ["init", "--oracle", "support.tiny_run:undefined"]
    assert "returned nan for 2 texts" in refused(capsys, argv)
    assert tiny_run.undefined([], []) == [] and not (here / "run.toml").exists()

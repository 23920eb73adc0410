"""How a report says to make its run again."""

import dataclasses

from support import reports, tiny_run

from dinado_jax.config.load import load
from dinado_jax.config.schema import Config, flatten
from dinado_jax.evaluation.report.settings import settings


def of(config):
    return settings(reports.records(config=config.as_dict()).summary)


def test_the_lines_shown_first_are_a_file_of_the_run(tmp_path):
    config = tiny_run.config()
    file = tmp_path / "run.toml"
    file.write_text("\n".join(of(config).changed))
    assert load(file).config == config


def test_every_setting_is_shown_once():
    shown = of(tiny_run.config())
    lines = [*shown.changed, *(line for _, lines in shown.defaults for line in lines)]
    names = [line.partition(" = ")[0] for line in lines]
    assert sorted(names) == sorted(flatten(Config()))
    for section, lines in shown.defaults:
        assert all(line.partition(" = ")[0].rpartition(".")[0] == section for line in lines)


def test_an_oracle_that_was_given_as_an_object_has_no_command():
    named = dataclasses.replace(Config(), name="two words")
    assert of(Config()).command == "dinado demo"
    assert of(named).command == "dinado run 'two words.toml'"
    rollout = dataclasses.replace(Config().rollout, oracle="callable is_red")
    assert of(dataclasses.replace(Config(), rollout=rollout)).command == ""

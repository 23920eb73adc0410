"""`dinado completion`: what bash makes of the script."""

import importlib
import subprocess
import sys

import pytest
from support.commands import refused

from dinado_jax import cli

TRY = """
source "$1"
cd "$2"
shift 2
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMPREPLY=()
_shtab_dinado
echo "${COMPREPLY[*]}"
"""


@pytest.fixture
def complete(capsys, tmp_path):
    """What bash offers for the last of some words, in a folder with a file and a folder."""
    pytest.importorskip("shtab")
    cli.main(["completion", "bash"])
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    (tmp_path / "here" / "runs").mkdir(parents=True)
    (tmp_path / "here" / "rare.toml").write_text("")

    def offered(*words):
        argv = ["bash", "-c", TRY, "bash", script, tmp_path / "here", "dinado", *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        return done.stdout.split()

    return offered


def test_commands_options_values_and_paths(complete):
    assert complete("comp") == ["compare", "completion"]
    assert complete("run", "--pri") == ["--print-config"]
    assert complete("bench", "decode", "--variant", "m") == ["merge"]
    assert complete("oracle", "ch") == ["check"]
    assert set(complete("run", "r")) == {"rare.toml", "runs"}
    assert complete("inspect", "r") == ["runs"]


def test_a_script_for_zsh(capsys):
    pytest.importorskip("shtab")
    cli.main(["completion", "zsh"])
    script = capsys.readouterr().out
    assert script.startswith("#compdef dinado") and "--print-config" in script


def test_without_the_package(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("shtab")
    said = refused(capsys, ["completion", "bash"])
    assert said == "completion needs the package shtab: pip install '.[completion]'"
    assert "did you mean bash?" in refused(capsys, ["completion", "bsh"])

"""Finding oracles by name."""

import importlib
import sys

import pytest
from support.refusal import error_of

from dinado_jax.oracles.expression import find_oracle
from dinado_jax.oracles.table import ORACLES, NamedOracle, resolve
from dinado_jax.tasks.keyword.lexical import lexical
from dinado_jax.tasks.keyword.oracle import LEXICAL


def test_names_resolve_also_in_the_working_directory(tmp_path, monkeypatch):
    assert resolve("lexical") == NamedOracle("lexical", LEXICAL)
    assert resolve("dinado_jax.tasks.keyword.lexical:lexical").function is lexical
    (tmp_path / "oracle_of_mine.py").write_text("def short(prompts, texts):\n    return [True]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert resolve("oracle_of_mine:short").function(["p ="], ["t"]) == [True]
    assert "no function long" in error_of(resolve, "oracle_of_mine:long")
    (tmp_path / "oracle_with_a_bug.py").write_text("1 / 0\n")
    assert "ZeroDivisionError" in error_of(resolve, "oracle_with_a_bug:short")


def test_files_in_the_working_directory_hide_no_library(tmp_path, monkeypatch):
    (tmp_path / "colorsys.py").write_text("1 / 0\n")
    (tmp_path / "oracle_beside_it.py").write_text("def short(prompts, texts):\n    return [True]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    resolve("oracle_beside_it:short")
    assert not importlib.import_module("colorsys").__file__.startswith(str(tmp_path))


def test_a_file_is_imported_with_what_lies_beside_it(tmp_path, monkeypatch):
    folder = tmp_path / "oracles"
    folder.mkdir()
    (folder / "json.py").write_text("from beside_json import judge\n")
    (folder / "beside_json.py").write_text("def judge(prompts, texts):\n    return [False]\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"{folder}/json.py:judge"
    assert resolve(name).function([], []) == [False]
    assert resolve(name).function is resolve(name).function
    assert importlib.import_module("json").loads("3") == 3
    monkeypatch.chdir(folder)
    assert resolve("json.py:judge").function is resolve(name).function
    other = tmp_path / "other"
    other.mkdir()
    (other / "json.py").write_text("def judge(prompts, texts):\n    return [True]\n")
    monkeypatch.chdir(other)
    assert resolve("json.py:judge").function([], []) == [True]


@pytest.mark.parametrize("name", ["lexicon", "no_such_module:f", "sys:", ":f", "sys:maxsize"])
def test_names_that_lead_nowhere(name):
    assert repr(name) in error_of(resolve, name)


def test_an_oracle_of_the_table_is_found_and_checks_prompts(monkeypatch):
    def polite(prompts, texts):
        return ["please" in text for text in texts]

    monkeypatch.setitem(ORACLES, "polite", polite)
    assert resolve("polite") == NamedOracle("polite", polite)
    resolve("polite").check_prompts({"file:1": "any prompt"})
    assert all(name in error_of(find_oracle, "xyz") for name in ORACLES)
    assert "did you mean polite?" in error_of(find_oracle, "impolite")
    said = error_of(resolve("lexical").check_prompts, {"file:1": "dog =", "file:2": "dog"})
    assert said.startswith("file:2, prompt 'dog'")
    resolve("builtins:max").check_prompts({"file:1": "a user's oracle is not asked"})

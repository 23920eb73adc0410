"""R after each token of samples, as a file."""

import pytest
from support.folders import refused

from dinado_jax.evaluation.token_values import TokenValues, read_token_values, write_token_values

ROWS = [
    TokenValues("base", 0, 0.25, ("a", " dög", ""), (0.2, 0.9, 1.0)),
    TokenValues("control", 7, 0.25, (), ()),
]


def test_what_is_written_is_read(tmp_path):
    write_token_values(tmp_path / "values.jsonl", ROWS)
    found = read_token_values(tmp_path / "values.jsonl")
    assert found == {("base", 0): ROWS[0], ("control", 7): ROWS[1]}
    assert [path.name for path in tmp_path.iterdir()] == ["values.jsonl"]


def test_runs_of_older_versions_have_none(tmp_path):
    assert read_token_values(tmp_path / "values.jsonl") == {}


@pytest.mark.parametrize("line", ["{", "[]", '{"model": "base"}', '{"values": [true]}'])
def test_damaged_files(line, tmp_path):
    path = tmp_path / "values.jsonl"
    write_token_values(path, ROWS[:1])
    with path.open("a") as file:
        file.write(line + "\n")
    refused("values.jsonl:2.*delete the generate stage's folder", read_token_values, path)

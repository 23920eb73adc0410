"""`dinado doctor`: what works here, and one line for what does not."""

import importlib.metadata
import json
import os
import shutil
import tomllib

import jax
import pytest
import support

from dinado_jax import cli
from dinado_jax.cli import doctor


def examined(capsys, *argv):
    """What is found, the exit code, and the line on standard error."""
    code = 0
    try:
        cli.main(["doctor", *map(str, argv), "--json"])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return json.loads(out), code, err


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)


def test_what_works(capsys, tmp_path):
    found, code, err = examined(capsys, "--out", tmp_path / "runs")
    assert (code, err, found["problems"]) == (0, "", [])
    assert found["versions"]["jax"] == jax.__version__
    assert [device["platform"] for device in found["devices"]] == ["cpu"] * 8
    assert found["program_seconds"] > 0 and found["cache"] is None
    free = shutil.disk_usage(tmp_path).free
    assert found["disk"]["free"] == pytest.approx(free, rel=0.2)
    assert found["extras"]["gguf"] == []
    assert not list(tmp_path.iterdir())
    cli.main(["doctor", "--out", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "all that is needed works"
    (absent,) = (line for line in lines if line.startswith("[tpu]"))
    assert absent.endswith("absent: pip install '.[tpu]'")


def test_every_extra_is_looked_for():
    """Each by the packages that pyproject.toml lists; those of jax by their own names."""
    project = tomllib.loads((support.ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert doctor.EXTRAS.keys() == extras.keys() - {"docs", "test"}
    for name in doctor.EXTRAS.keys() - {"cuda", "tpu"}:
        listed = {text.partition(">")[0] for text in extras[name]}
        assert set(doctor.EXTRAS[name]) == listed


def test_packages_of_other_versions(capsys, monkeypatch, tmp_path):
    version = importlib.metadata.version

    def other(name):
        if name == "tqdm":
            raise importlib.metadata.PackageNotFoundError
        return {"optax": "0.1.0"}.get(name) or version(name)

    monkeypatch.setattr(importlib.metadata, "version", other)
    found, code, err = examined(capsys, "--out", tmp_path)
    assert code == 1 and len(found["problems"]) == 2
    assert "optax is 0.1.0: pip install 'optax>=0.2.6'" in found["problems"]
    assert "tqdm is not installed: pip install 'tqdm>=4.66'" in found["problems"]
    assert err.startswith("dinado: error: optax is") and "(and 1 more, see above)" in err


def test_folders_that_cannot_be_written(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "file"))
    found, code, err = examined(capsys, "--out", tmp_path / "file" / "runs")
    assert code == 1 and found["disk"]["free"] is None
    first, second = found["problems"]
    assert first.startswith("JAX_COMPILATION_CACHE_DIR, ") and first.endswith(
        "is a file: name another folder"
    )
    assert second.startswith("the folder of runs, ") and len(err.splitlines()) == 1


def test_a_full_disk(capsys, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    (problem,) = examined(capsys, "--out", tmp_path)[0]["problems"]
    assert problem == f"{tmp_path} has 1 MB of disk left: make room, or give --out"


def test_what_jax_cannot_do(capsys, monkeypatch, tmp_path):
    def broken(*args, **kwargs):
        raise RuntimeError("no\nluck")

    with monkeypatch.context() as patch:
        patch.setattr(jax, "jit", broken)
        found, code, _ = examined(capsys, "--out", tmp_path)
    assert code == 1 and found["program_seconds"] is None
    (problem,) = found["problems"]
    assert "cannot compile and run a program (RuntimeError: no luck)" in problem
    with monkeypatch.context() as patch:
        patch.setattr(jax, "devices", broken)
        found, code, _ = examined(capsys, "--out", tmp_path)
    assert code == 1 and found["devices"] == [] and "JAX finds no device" in found["problems"][0]


def test_a_package_that_cannot_be_imported(capsys, monkeypatch, tmp_path):
    def broken(name):
        if name == "optax":
            raise ImportError("it is broken")
        return os

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    found, code, _ = examined(capsys, "--out", tmp_path)
    (problem,) = found["problems"]
    assert code == 1 and problem.startswith("importing optax raised ImportError: it is broken")

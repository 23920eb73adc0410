"""The public names of the package."""

import ast
import importlib.metadata
import subprocess
import sys

import pytest
import support

import dinado_jax


def test_version():
    assert dinado_jax.__version__ == importlib.metadata.version("dinado-jax")


def test_every_public_name_is_found_and_known_to_type_checkers():
    for name in dinado_jax.__all__:
        assert callable(getattr(dinado_jax, name)), name
    with pytest.raises(AttributeError, match="no attribute 'git'") as caught:
        _ = dinado_jax.git
    assert (caught.value.name, caught.value.obj) == ("git", dinado_jax)  # what Python suggests from
    text = (support.ROOT / "dinado_jax" / "__init__.py").read_text()
    (block,) = [node for node in ast.parse(text).body if isinstance(node, ast.If)]
    typed = {alias.asname: node.module for node in block.body for alias in node.names}
    assert typed == dinado_jax._HOMES
    assert (support.ROOT / "dinado_jax" / "py.typed").exists()


def test_importing_it_imports_nothing_else():
    program = "import dinado_jax, sys; print({'jax', 'numpy', 'dinado_jax'} & {*sys.modules})"
    run = [sys.executable, "-c", program]
    assert subprocess.run(run, capture_output=True, text=True).stdout == "{'dinado_jax'}\n"

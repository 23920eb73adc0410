"""docs/constraints.md: its program runs, its command parses."""

import re
import shlex

import support

from dinado_jax.stages.settings import load_config

TEXT = (support.ROOT / "docs/constraints.md").read_text(encoding="utf-8")


def test_the_program_and_the_command(tmp_path, monkeypatch):
    program = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[0]
    (tmp_path / "my_constraints.py").write_text(program)
    monkeypatch.chdir(tmp_path)
    _, _, path, *overrides = shlex.split(re.search(r"^    (dinado run .*)$", TEXT, re.MULTILINE)[1])
    config = load_config(support.ROOT / path, overrides)
    assert config.decode.guarantee and config.rollout.oracle == "my_constraints:short"

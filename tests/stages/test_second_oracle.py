"""evaluate.oracle: another oracle judges what a run has generated, and belongs to its record."""

import json
import re
import shutil

import numpy as np
import pytest
from support import tiny_run
from support.refusal import error_of

from dinado_jax.evaluation.samples import read_samples
from dinado_jax.stages.context import Context
from dinado_jax.stages.pipeline import run_stages
from dinado_jax.stages.run_folder import STAGES


def test_a_second_oracle_judges_what_was_generated(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "evaluate")
    (tmp_path / "thirds.py").write_text(
        "def thirds(prompts, texts):\n    return [len(text) % 3 == 0 for text in texts]\n"
    )
    config = tiny_run.config(f"evaluate.oracle={tmp_path / 'thirds.py'}:thirds")
    run_stages(config, STAGES, tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    for name in ("base", "control"):
        samples = read_samples(tmp_path / "run" / "generate" / f"{name}.jsonl")
        wanted = np.mean([len(sample.text) % 3 == 0 for sample in samples])
        assert 0 < wanted < 1
        found = summary[name]["success_by_second_oracle"]
        assert found == pytest.approx(wanted)
    assert re.search("success by evaluate.oracle", (tmp_path / "run" / "report.html").read_text())
    (tmp_path / "thirds.py").write_text(
        "def thirds(prompts, texts):\n    return [True for _ in texts]\n"
    )
    line = error_of(run_stages, config, STAGES, tmp_path / "run")
    assert "evaluate.oracle (the source of" in line


def test_the_first_one_again_is_refused(tmp_path):
    config = tiny_run.config("rollout.oracle=length <= 9", "evaluate.oracle=length <= 9")
    line = error_of(lambda: Context.of(config, tmp_path / "run").second_oracle)
    assert line.startswith("evaluate.oracle = 'length <= 9' is rollout.oracle, and would say the s")

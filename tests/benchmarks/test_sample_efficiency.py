"""benchmarks/sample_efficiency.py: what it makes of finished runs."""

import runpy
from types import SimpleNamespace

import numpy as np
import support

from dinado_jax.evaluation.intervals import bootstrap_interval
from dinado_jax.evaluation.samples import Sample, write_samples

path = support.ROOT / "benchmarks" / "sample_efficiency.py"
study = SimpleNamespace(**runpy.run_path(str(path)))


def record(kind, count, seed, success, weighting="none"):
    of_prompts = {"success": success, "kl": [2 * value for value in success]}
    return dict(zip(study.KEYS, (kind, weighting, 0, count, seed))) | {"of_prompts": of_prompts}


RECORDS = [
    record("merge", 1, 3, [0.0, 0.5]),
    record("merge", 1, 4, [1.0]),
    record("merge", 2, 3, [1.0, 1.0]),
    record("nado", 2, 3, [0.25, 0.75], "importance"),
    {"kind": "soft", "weighting": "none", "prompts": 0, "per_prompt": 1, "seed": 3, "error": "no"},
]


def test_prompts_of_all_seeds_are_pooled():
    found = study.pooled(RECORDS, "success")
    assert found.keys() == {("merge", "none", 1), ("merge", "none", 2), ("nado", "importance", 2)}
    one = found["merge", "none", 1]
    assert one["mean"] == 0.5 and one["interval"] == list(bootstrap_interval([0.0, 0.5, 1.0], 0))


def test_the_table_has_a_cell_for_each_number_of_rollouts():
    lines = study.table(RECORDS).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "---" not in line]
    assert rows[0] == ["success", "weights", "1", "2"]
    assert rows[1][:2] == ["merge", "none"] and rows[1][2].startswith("0.500 (")
    assert rows[1][3] == "1.000 (1.000 to 1.000)" and rows[2][2] == ""
    assert ["KL to the base (nats)", "weights", "1", "2"] in rows


def test_prompts_may_differ_instead():
    records = [
        {**record("merge", 8, 3, [float(count > 50)]), "prompts": count} for count in (12, 100)
    ]
    assert study.table(records).splitlines()[0] == "| success | weights | 96 | 800 |"


def test_the_figure_has_a_panel_for_each_reweighting(tmp_path):
    study.plot(RECORDS, tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text()
    assert "weights: none" in drawn and "weights: importance" in drawn
    study.plot(RECORDS[-1:], tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()


def test_figures_of_prompts(tmp_path):
    rows = [
        Sample(number, "a =", "b", label, -1.0, -1.0 - gap, 3, True, 0.5)
        for number, label, gap in [(1, 1.0, 2.0), (0, 0.0, 1.0), (1, 0.0, 3.0)]
    ]
    write_samples(tmp_path / "control.jsonl", rows)
    found = study.per_prompt_figures(tmp_path / "control.jsonl")
    assert found["success"] == [0, 0.5]
    np.testing.assert_allclose(found["kl"], [1, 2.5])
    assert study.figures([1.0, 1.0]) == {"mean": 1.0, "interval": [1.0, 1.0]}

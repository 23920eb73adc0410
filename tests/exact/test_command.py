"""`dinado exact`: its table, its record, its figure, and every slip in one line."""

import json
import sys
import types

import numpy as np
import pytest

from dinado_jax import cli
from dinado_jax.exact.compare import VARIANTS

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TINY = ["--vocabulary", "3", "--length", "3", "--rarity", "0.1", "--rollouts", "300"]
TRAIN = ["train.steps=12", "train.rounds=2", "train.batch=8"]


def exact(*more):
    cli.main(["exact", *TINY, *more, *TRAIN])


def refused(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        cli.main(["exact", *TINY, *argv])
    assert caught.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    (line,) = lines
    return line


def test_every_variant_is_told_and_written(tmp_path, capsys):
    out = tmp_path / "exact.json"
    exact("--out", str(out))
    rate, head, *rows = capsys.readouterr().out.splitlines()
    assert rate.startswith("R0 = 0.") and head.split()[:2] == ["variant", "satisfied"]
    assert [row.split()[0] for row in rows] == ["optimum", *VARIANTS]
    written = json.loads(out.read_text())
    assert list(written["variants"]) == list(VARIANTS)
    for row, record in zip(rows[1:], written["variants"].values(), strict=True):
        for name in ("satisfaction", "total_variation", "kl_optimum", "bellman"):
            assert np.isfinite(record[name])
        assert float(row.split()[1]) == pytest.approx(record["satisfaction"], abs=6e-4)
        assert record["rollouts"] == 300 and len(record["curve"]) == 2
    settings = written["settings"]
    assert settings["world"]["vocabulary"] == 3 and settings["world"]["kind"] == "table"
    assert settings["rollouts"] == 300 and settings["train"]["steps"] == 12


@pytest.mark.parametrize(
    "argv, told",
    [
        (["--rarity", "2"], "rarity = 2"),
        (["--vocabulary", "100", "--length", "4"], "sequences"),
        (["--length", "0"], "length = 0"),
        (["base.n_embd=3"], "only train.*, control.norm_bias and control.state"),
        (["control.state=true"], "the oracle of the table world has none"),
        (["--rollouts", "1"], "--rollouts 1"),
        (["train.steps=many"], "train.steps"),
        (["train.stepz=3"], "train.steps"),
        (["--variant", "none"], "none"),
        (["--out", "/nowhere/at/all.json", "--variant", "merge", *TRAIN], "/nowhere"),
        (["--seed", "-1"], "--seed = -1: it must be in [0, 2^32)"),
        (["--seed", str(2**32)], "--seed = 4294967296"),
    ],
)
def test_slips_are_one_line(capsys, argv, told):
    assert told in refused(capsys, *argv)


def test_a_figure_of_no_known_kind_is_refused_before_training(tmp_path, capsys):
    assert ".svg" in refused(capsys, "--plot", str(tmp_path / "figure.jpgx"))


def test_a_figure_has_a_line_a_variant(tmp_path, monkeypatch):
    """A stand-in records what matplotlib would be told."""
    told = []

    class Axes:
        def plot(self, x, y, label):
            told.append((label, list(x), len(y)))

        def set(self, **labels):
            pass

        def set_yscale(self, scale):
            pass

        def legend(self):
            pass

    class Figure:
        def __init__(self, **shape):
            pass

        def subplots(self, rows, columns):
            return [Axes() for _ in range(columns)]

        def savefig(self, path, **options):
            path.write_text("figure")

    monkeypatch.setitem(sys.modules, "matplotlib", types.ModuleType("matplotlib"))
    module = types.ModuleType("matplotlib.figure")
    module.Figure = Figure
    monkeypatch.setitem(sys.modules, "matplotlib.figure", module)
    path = tmp_path / "figure.svg"
    exact("--variant", "merge", "--variant", "soft", "--plot", str(path))
    assert path.read_text() == "figure"
    assert [label for label, *_ in told] == ["merge", "soft"] * 2
    assert all(x == [150, 300] and y == 2 for _, x, y in told)


@pytest.mark.parametrize(
    "argv, key",
    [
        (["train.accumulate=2"], "train.accumulate"),
        (["train.refresh_prompts=9"], "train.refresh_prompts"),
        (["train.roll_out=0.25"], "train.roll_out"),
        (["train.margin=3"], "train.margin"),  # tables are trained by matching
        (["--variant", "nado", "train.detach=false"], "train.detach"),
        (["--variant", "hard", "--variant", "hard_clamped", "train.bellman=0"], "train.bellman"),
        (["--world", "neural", "--concentration", "2"], "--concentration"),
    ],
)
def test_settings_that_play_no_part_are_refused(capsys, argv, key):
    said = refused(capsys, *argv)
    assert f"{key} " in said and said.endswith(": leave it out")


def test_a_setting_may_be_for_one_of_the_variants(tmp_path):
    out = tmp_path / "exact.json"
    exact("--variant", "nado", "--variant", "merge", "train.detach=false", "--out", str(out))
    assert json.loads(out.read_text())["settings"]["train"]["detach"] is False

"""`dinado bench`: ways that are compared do the same, and records hold what they promise."""

import json

import chex
import jax
import pytest
from tiny import model

from dinado_jax import cli
from dinado_jax.bench import command, measure, vocab


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("variant", ["merge", "soft", "nado"])
def test_both_ways_of_the_scalars_give_the_same(variant, trained):
    fused, naive = vocab.programs(model().config, variant, 7, trained).values()
    chex.assert_trees_all_close(fused.run(), naive.run(), rtol=1e-4, atol=1e-4)


def test_turns_are_taken_by_all_alike():
    order = []
    programs = {
        name: measure.Program(lambda name=name: order.append(name), {"temp_bytes": 3})
        for name in ("one", "other")
    }
    found = measure.in_turns(programs, 4)
    assert order == ["one", "other"] * 5
    for figures in found.values():
        assert figures["temp_bytes"] == 3
        assert 0 <= figures["seconds_least"] <= figures["seconds"] <= figures["seconds_most"]


def test_records(monkeypatch, capsys):
    monkeypatch.setitem(command.SIZES, "tiny", model().config)
    monkeypatch.setattr(measure, "_SIDE", {"cpu": 8})
    cli.main(
        ["bench", "vocab", "--size", "tiny", "--batch", "2", "--length", "3", "--repeats", "2"]
    )
    told = capsys.readouterr()
    records = [json.loads(line) for line in told.out.splitlines()]
    assert [record["way"] for record in records] == ["fused", "naive"]
    for record in records:
        assert record["tokens_per_s"] == pytest.approx(6 / record["seconds"])
        assert record["compile_s"] >= 0 and record["temp_bytes"] > 0
        assert record["share_of_matmul_rate"] > 0
        assert record["device"] == jax.devices()[0].device_kind
    assert len(told.err.splitlines()) == 3


@pytest.mark.parametrize("flag", ["--batch", "--length", "--repeats"])
def test_numbers_that_are_none(capsys, flag):
    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", "vocab", flag, "0"])
    assert caught.value.code == 2
    assert f"{flag} 0: it must be at least 1" in capsys.readouterr().err

"""`dinado bench`: ways that are compared do the same, and records hold what they promise."""

import json

import chex
import jax
import pytest

from dinado_jax import cli
from dinado_jax.bench import (
    command,
    compiled,
    decode,
    measure,
    train,
    vocab,
    worker,
)
from dinado_jax.bench.measure import Request
from dinado_jax.config.schema import Control
from dinado_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SIZES = {"vocab_size": 41, "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}


def request_of(what, way="ours", **given):
    return Request(what, way, SIZES, "float32", **{"batch": 4, "length": 7, "prompt": 3, **given})


class Here:
    """A worker in this very process."""

    def __init__(self, request, errors):
        self.program = worker.program(request)
        self.figures = self.program.figures

    def run(self):
        self.program.run()
        return 0.25

    def end(self):
        return {"peak_bytes": 5}

    def kill(self):
        pass


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(command.SIZES, "tiny", SIZES)
    monkeypatch.setattr(measure, "Worker", Here)
    monkeypatch.setattr(compiled, "SIDES", {"cpu": 8})
    monkeypatch.setattr(compiled, "COPIED", {"cpu": 64})


def bench(capsys, *arguments):
    """(records, lines of the table)."""
    cli.main(["bench", *arguments, "--size", "tiny", "--repeats", "2"])
    told = capsys.readouterr()
    return [json.loads(line) for line in told.out.splitlines()], told.err.splitlines()


# What is timed


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("variant", ["merge", "soft", "nado"])
def test_both_ways_of_the_scalars_give_the_same(variant, trained):
    fused, naive = (
        vocab.program(request_of("vocab", way, variant=variant, trained=trained)).run()
        for way in ("fused", "naive")
    )
    chex.assert_trees_all_close(fused, naive, rtol=1e-4, atol=1e-4)


def test_every_run_is_a_step_of_training():
    program = train.program(request_of("train", variant="merge"))
    losses = [float(program.run()["loss"]) for _ in range(20)]
    assert losses[-1] < losses[0]
    assert program.figures["alias_bytes"] >= 12 * program.figures["trainable_parameters"]


@pytest.mark.parametrize("variant", ["base", "merge", "nado"])
def test_every_row_is_decoded_to_its_end(variant):
    program = decode.program(request_of("decode", variant=variant, length=9))
    assert program.run().shape == (4, 9)
    assert program.figures["logits_bytes"] == 4 * 4 * 41
    assert program.figures["cache_layer_bytes"] == 4 * 2 * 4 * (3 + 8) * 16


def test_a_step_of_decoding_reads_parameters_and_cache():
    figures = decode.program(request_of("decode", length=8, batch=2)).figures
    layer = 12 * 16**2 + 13 * 16
    values = (41 + 32) * 16 + layer + 2 * 16
    counters = 2 + 1  # a prompt's length each, and the tokens so far
    assert figures["step_bytes"] == 4 * (values + 2 * (3 + 4) * 2 * 16 + counters)


@pytest.mark.parametrize("variant", ["base", "nado"])
def test_beams(variant):
    program = decode.program(request_of("beam", variant=variant, beams=3))
    assert program.run().shape == (4, 1, 7)
    assert program.figures["logits_bytes"] == 4 * 12 * 41


def test_rollouts_are_judged():
    labels = decode.program(request_of("rollout", samples=2)).run()
    assert labels.shape == (4,)
    assert measure.oracle([[17], [1]], [[1, 2, 16], [3, 17, 3]]) == [False, True]


# How


def test_turns_are_taken_by_all_alike():
    order = []

    class Fake:
        def __init__(self, name, seconds):
            self.name, self.seconds, self.figures = name, iter(seconds), {"temp_bytes": 3}

        def run(self):
            order.append(self.name)
            return next(self.seconds)

        def end(self):
            return {"peak_bytes": 7}

    found = measure.in_turns({"one": Fake("one", [3, 1, 8]), "other": Fake("other", [2, 2, 2])}, 3)
    assert order == ["one", "other"] * 3
    assert found["one"] == {
        "temp_bytes": 3,
        "seconds": 3,
        "seconds_least": 1,
        "seconds_most": 8,
        "peak_bytes": 7,
    }


def test_a_process_of_its_own():
    """The real thing: a child compiles, runs when asked, tells its memory and is gone."""
    asked = request_of("vocab", "naive", variant="merge")
    with measure.workers([asked]) as started:
        child = started["naive"]
        assert child.figures["compile_s"] > 0 and child.figures["temp_bytes"] > 0
        assert 0 < child.run() < 10
        assert child.end()["peak_bytes"] > 10**7
        process = child._process
    assert process.returncode is not None


@pytest.mark.parametrize(
    "given, kind, said",
    [
        ({"what": "decode", "top_p": 3.0}, InputError, "top_p = 3.0: it must be in"),
        ({"what": "vocab", "variant": "none"}, measure.Failed, "ours: KeyError: "),
    ],
)
def test_a_failing_worker_says_why(given, kind, said):
    with pytest.raises(kind, match=said), measure.workers([request_of(**given)]):
        pass


def test_a_worker_that_dies_is_told():
    with measure.workers([request_of("vocab", "fused", variant="merge")]) as started:
        child = started["fused"]
        child._process.kill()
        with pytest.raises(measure.Failed, match="fused: ended with exit code -9: it may want"):
            child.run()


# The command


def test_records_of_vocab(small, capsys):
    records, table = bench(capsys, "vocab", "--batch", "2", "--length", "3")
    assert [record["way"] for record in records] == ["fused", "naive"]
    for record in records:
        assert record["tokens_per_s"] == 6 / 0.25
        assert record["compile_s"] >= 0 and record["temp_bytes"] > 0
        assert record["flops"] == 3 * 2 * 6 * 16 * 41
        # The product of two matrices of side 8 took as long.
        assert record["share_of_matmul_rate"] == pytest.approx(record["flops"] / (2 * 8**3))
        assert record["device"] == jax.devices()[0].device_kind
        assert record["time_to_naive"] == 1
    assert records[1]["memory_to_naive"] == 1
    assert len(table) == 3


def test_records_of_train(small, capsys):
    options = ("--batch", "2", "--length", "6", "--prompt", "2", "--layers", "1")
    (record, other), table = bench(capsys, "train", *options, "--variant", "nado")
    assert other["way"] == "trunk too" and other["counted_flops"] > record["counted_flops"]
    assert (record["way"], record["layers"], record["peak_bytes"]) == ("ours", 1, 5)
    assert record["tokens_per_s"] == 12 / 0.25
    assert record["flops"] == 2 * 12 * (3 * 12 * 16**2 + 4 * 16 * 41)
    assert len(table) == 3


def test_records_of_decoding(small, capsys):
    options = ("--batch", "4", "--length", "6", "--prompt", "2", "--top-k", "5")
    (record,), table = bench(capsys, "decode", *options)
    assert record["ms_per_token"] == pytest.approx(250 / 6)
    # A copy read and wrote 128 bytes in as long.
    assert record["share_of_copy_rate"] == pytest.approx(record["step_bytes"] * 6 / 128)
    assert "of copy" in table[0] and "of matmul" not in table[0]
    (record,), table = bench(capsys, "rollout", *options, "--samples", "2")
    assert record["rollouts_per_s"] == 4 / 0.25
    assert "rollouts/s" in table[0]
    (record,), _ = bench(capsys, "beam", *options[:-2], "--beams", "3")
    assert record["tokens_per_s"] == 24 / 0.25 and record["beams"] == 3


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["vocab", "--batch", "0"], "--batch 0: it must be at least 1"),
        (["vocab", "--length", "0"], "--length 0: it must be at least 1"),
        (["vocab", "--repeats", "0"], "--repeats 0: it must be at least 1"),
        (["decode", "--prompt", "0"], "--prompt 0: it must be at least 1"),
        (["beam", "--beams", "0"], "--beams 0: it must be at least 1"),
        (["train", "--length", "16"], "--prompt 16: it must be less than --length, 16"),
        (["decode", "--length", "1020"], "rows of 1036 tokens: the context holds 1024"),
        (["rollout", "--batch", "6", "--samples", "4"], "must be a multiple of --samples, 4"),
        (["decode", "--recomputed"], "--recomputed is a peer of controls: give --peer"),
        (["train", "--peer"], "--peer needs torch: pip install 'dinado-jax[peer]'"),
        (["vocab", "--prompt", "3"], "unrecognized arguments: --prompt"),
        (["train", "--variant", "base"], "invalid choice: 'base'"),
        (["decode", "--trained"], "unrecognized arguments: --trained"),
    ],
)
def test_what_is_refused(monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", *arguments])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_a_failure_is_one_line(small, monkeypatch, capsys):
    def failing(*given):
        raise measure.Failed("ours: it broke")

    monkeypatch.setattr(measure, "Worker", failing)
    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", "train", "--size", "tiny", "--length", "20"])
    assert caught.value.code == 1
    assert capsys.readouterr().err == "dinado: error: ours: it broke\n"


def test_a_control_is_as_deep_as_a_run_has_it():
    assert cli._parse(["bench", "train"]).layers == Control().layers


WITH_PEERS = (("train", "merge"), ("decode", "base"), ("rollout", "nado"), ("beam", "nado"))


def test_peers_stand_beside_ours():
    ways = {
        what: command._ways(request_of(what, variant=variant), True, True)
        for what, variant in WITH_PEERS
    }
    assert ways["train"] == ["ours", "trunk too", "torch"]
    assert ways["decode"] == ways["beam"] == ["ours", "generate"]
    assert ways["rollout"] == ["ours", "generate", "cached head", "recomputed head"]
    theirs = {way for each in ways.values() for way in each} - {"ours", "trunk too"}
    assert theirs == set(worker.PEERS)

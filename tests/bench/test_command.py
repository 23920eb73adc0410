"""`dinado bench`: ways that are compared do the same, and records hold what they promise."""

import dataclasses
import json

import chex
import jax
import numpy as np
import pytest

from dinado_jax import cli
from dinado_jax.bench import command, compiled, decode, measure, train, vocab, worker
from dinado_jax.bench.measure import Request
from dinado_jax.cli.parser import parse
from dinado_jax.config.schema import Control
from dinado_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SIZES = {
    "model_type": "gpt2",
    "vocab_size": 41,
    "max_position_embeddings": 32,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
# The same of all requests, so that equal programs are compiled once.
ROWS = {"batch": 4, "prompt": 3, "length": 7, "layers": 1}
OPTIONS = [word for name, value in ROWS.items() for word in (f"--{name}", str(value))]
PEER = """
from dinado_jax.bench.measure import Program
from dinado_jax.errors import InputError

def ways(request):
    return [f"{request.what} of {request.batch} rows"]

def program(request):
    if request.way == "fails":
        raise ValueError("it broke")
    if request.way == "refuses":
        raise InputError("top_p = 3.0: it must be in (0, 1]")
    return Program(lambda: None, {"device": "none", "step_bytes": 32})
"""


def request_of(what, way="ours", **given):
    return Request(what, way, SIZES, "float32", **{**ROWS, **given})


@pytest.fixture
def peer(tmp_path):
    path = tmp_path / "peer.py"
    path.write_text(PEER)
    return str(path)


class Here:
    """A worker in this very process."""

    def __init__(self, request, errors):
        lines = iter([json.dumps(dataclasses.asdict(request)), "run"])
        answers = []
        worker.serve(lambda: next(lines, "end"), answers.append)
        self.figures = answers[0]

    def run(self):
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
    program = decode.program(request_of("decode", variant=variant))
    assert program.run().shape == (4, 7)
    assert program.figures["logits_bytes"] == 4 * 4 * 41
    assert program.figures["cache_layer_bytes"] == 4 * 2 * 4 * (3 + 6) * 16
    if variant == "base":  # a step reads all parameters, and the cache as it is halfway
        layer = 12 * 16**2 + 13 * 16
        values = (41 + 32) * 16 + layer + 2 * 16
        counters = 4 + 1  # a prompt's length each, and the tokens so far
        assert program.figures["step_bytes"] == 4 * (values + 4 * (3 + 3) * 2 * 16 + counters)


@pytest.mark.parametrize("variant", ["base", "merge"])
def test_beams(variant):
    program = decode.program(request_of("beam", variant=variant, beams=3))
    assert program.run().shape == (4, 1, 7)
    assert program.figures["logits_bytes"] == 4 * 12 * 41


def test_rollouts_are_judged():
    labels = decode.program(request_of("rollout", samples=2)).run()
    assert labels.shape == (4,)
    request = request_of("rollout", samples=2, queues=3, ends=0.3)
    refilled = decode.program(request)
    batches = decode.program(dataclasses.replace(request, way="batches"))
    np.testing.assert_array_equal(refilled.run(), batches.run())
    assert refilled.figures["tokens"] == batches.figures["tokens"] < 12 * 7
    assert 0.3 < refilled.figures["occupancy"] <= 1
    assert measure.oracle([[17], [1]], [[1, 2, 16], [3, 17, 3]]) == [False, True]


# How


def test_all_ways_take_turns():
    order = []

    class Fake:
        def __init__(self, name, seconds):
            self.name, self.seconds, self.figures = name, iter(seconds), {"temp_bytes": 3}

        def run(self):
            order.append(self.name)
            return next(self.seconds)

        def end(self):
            return {"peak_bytes": 7}

    found = measure.interleave(
        {"one": Fake("one", [3, 1, 8]), "other": Fake("other", [2, 2, 2])}, 3
    )
    assert order == ["one", "other"] * 3
    assert found["one"] == {
        "temp_bytes": 3,
        "seconds": 3,
        "seconds_least": 1,
        "seconds_most": 8,
        "peak_bytes": 7,
    }


def test_a_process_of_its_own(monkeypatch):
    """A real child compiles, runs when asked, gives its memory and ends."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    asked = request_of("vocab", "naive", variant="merge")
    with measure.workers([asked]) as started:
        child = started["naive"]
        assert child.figures["compile_s"] > 0 and child.figures["temp_bytes"] > 0
        assert 0 < child.run() < 10
        assert child.end()["peak_bytes"] > 10**7
        process = child._process
    assert process.returncode is not None


@pytest.mark.parametrize(
    "way, kind, said",
    [
        ("refuses", InputError, r"^top_p = 3.0: it must be in"),
        ("fails", measure.Failed, "^fails: ValueError: it broke"),
    ],
)
def test_a_failing_worker_gives_the_reason(peer, way, kind, said):
    with pytest.raises(kind, match=said), measure.workers([request_of("decode", way, peer=peer)]):
        pass


def test_a_worker_that_dies_is_reported(peer):
    with measure.workers([request_of("decode", "dies", peer=peer)]) as started:
        child = started["dies"]
        child._process.kill()
        with pytest.raises(measure.Failed, match="dies: ended with exit code -9: it may need"):
            child.run()


@pytest.mark.parametrize("option", [{"top_p": 3.0}, {"top_k": -1}], ids=str)
def test_options_out_of_range_are_bad_input(option):
    with pytest.raises(InputError, match=r"top_[pk] = "):
        worker.program(request_of("decode", variant="base", **option))


# The command


def test_records_of_vocab(small, capsys):
    records, table = bench(capsys, "vocab", "--batch", "4", "--length", "7")
    assert [record["way"] for record in records] == ["fused", "naive"]
    for record in records:
        assert record["tokens_per_s"] == 28 / 0.25
        assert record["compile_s"] >= 0 and record["temp_bytes"] > 0
        assert record["flops"] == 3 * 2 * 28 * 16 * 41
        # The product of two matrices of side 8 took as long.
        assert record["share_of_matmul_rate"] == pytest.approx(record["flops"] / (2 * 8**3))
        assert record["device"] == jax.devices()[0].device_kind
        assert record["time_to_naive"] == 1
    assert records[1]["memory_to_naive"] == 1
    assert len(table) == 3


def test_records_of_train(small, capsys):
    (record, other), table = bench(capsys, "train", *OPTIONS)
    assert other["way"] == "trunk too" and other["counted_flops"] > record["counted_flops"]
    assert (record["way"], record["layers"], record["peak_bytes"]) == ("ours", 1, 5)
    assert record["tokens_per_s"] == 28 / 0.25
    assert record["flops"] == 2 * 28 * (2 * 12 * 16**2 + 3 * 16 * 41)
    assert len(table) == 3


def test_required_flops_of_a_head():
    request = request_of("train", variant="nado", layers=2)
    assert command.required_flops(request) == 2 * 28 * (3 * 2 * 12 * 16**2 + 4 * 16 * 41)


def test_records_of_decoding(small, capsys):
    (record,), table = bench(capsys, "decode", *OPTIONS)
    assert record["ms_per_token"] == pytest.approx(250 / 7)
    # A copy read and wrote 128 bytes in as long.
    assert record["share_of_copy_rate"] == pytest.approx(record["step_bytes"] * 7 / 128)
    assert "of copy" in table[0] and "of matmul" not in table[0]
    (record,), table = bench(capsys, "rollout", *OPTIONS, "--samples", "2")
    assert record["rollouts_per_s"] == 4 / 0.25
    assert "rollouts/s" in table[0]
    (record,), _ = bench(capsys, "beam", *OPTIONS, "--beams", "3")
    assert record["tokens_per_s"] == 28 / 0.25 and record["beams"] == 3


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
        (["rollout", "--ends", "1.0"], "--ends 1.0: it must lie in [0, 1)"),
        (["rollout", "--queues", "2", "--peer", "x.py"], "--peer: its rows are one queue"),
        (["decode", "--peer-way", "torch"], "--peer-way chooses a program of a peer"),
        (["train", "--peer", "nowhere.py"], "nowhere.py, no such file or directory: correct"),
        (["train", "--peer", "."], "., is a directory: name a file"),
        (["vocab", "--prompt", "3"], "unrecognized arguments: --prompt"),
        (["train", "--variant", "base"], "invalid choice: 'base'"),
        (["decode", "--trained"], "unrecognized arguments: --trained"),
    ],
)
def test_what_is_refused(capsys, arguments, said):
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
    assert parse(cli.make_parser(), ["bench", "train"]).layers == Control().layers


def test_peers_are_timed_beside_ours(small, capsys, peer):
    (ours, theirs), _ = bench(capsys, "decode", *OPTIONS, "--peer", peer)
    assert (ours["way"], theirs["way"]) == ("ours", "decode of 4 rows")
    assert theirs["share_of_copy_rate"] == pytest.approx(32 * 7 / 128)
    assert theirs["device"] == "none" and theirs["time_to_ours"] == 1


@pytest.mark.parametrize(
    "content, said",
    [
        ("import no_such_library", "cannot be imported (ModuleNotFoundError: No module named"),
        ("1 +", "cannot be imported (SyntaxError"),
        ("ways = list", "has no function program(request): define it"),
        ("program = ways = 3", "has no function ways(request): define it"),
        (PEER.replace("[f", "['ours', f"), "the name of its program 'ours' is taken: rename it"),
    ],
)
def test_peers_that_are_refused(tmp_path, capsys, content, said):
    path = tmp_path / "peer.py"
    path.write_text(content)
    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", "decode", "--peer", str(path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and line.startswith("dinado: error: --peer") and said in line


def test_a_peer_that_is_no_python_is_refused(tmp_path, capsys):
    (tmp_path / "peer.txt").write_text(PEER)
    with pytest.raises(SystemExit):
        cli.main(["bench", "decode", "--peer", str(tmp_path / "peer.txt")])
    assert "not a Python file: name a file that ends in .py" in capsys.readouterr().err

"""A whole run of the tiniest model: what it leaves, and how it is continued and refused."""

import functools
import json
import math
import re
import shutil

import jax
import numpy as np
import pytest
import support
from support import stops, tiny_run
from support.html_page import Page

import dinado_jax
import dinado_jax.stages.run_folder
from dinado_jax import cli
from dinado_jax.decoding.sampler import Sampler
from dinado_jax.decoding.score import _score_batch
from dinado_jax.distributed import signals
from dinado_jax.errors import InputError
from dinado_jax.evaluation.metrics import kl_floor_by_prompt, rate_distribution
from dinado_jax.evaluation.stage_figures import RolloutFigures
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.stages.pipeline import load_run, run_stages, show_report
from dinado_jax.stages.run_folder import STAGES, RunFolder


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    with tiny_run.quick_compilation(tmp_path_factory):
        yield


@pytest.fixture(scope="module")
def run(finished_run):
    """The folder of a finished run; not to be changed."""
    return finished_run


@pytest.fixture(scope="module")
def model(run):
    return load_run(run)


@pytest.fixture
def copy(run, tmp_path):
    """`copy(n)`: a run of which the first n stages are done."""

    def make(done):
        for stage in STAGES[:done]:
            shutil.copytree(run / stage, tmp_path / "copy" / stage)
        return tmp_path / "copy"

    return make


def contents(folder):
    """Every file under a folder but its lock, with its time and bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def read(path):
    return json.loads(path.read_text())


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def refused(match, function, *args):
    with pytest.raises(InputError, match=match) as caught:
        function(*args)
    assert "\n" not in str(caught.value)


# What a run leaves


def test_folders_and_records(run):
    assert all((run / stage / "done.json").is_file() for stage in STAGES)
    assert read(run / "config.json") == tiny_run.config().as_dict()
    assert not list(run.rglob("*.partial"))
    assert read(run / "rollout" / "done.json")["figures"]["samples"] == 32
    figures = read(run / "train" / "done.json")["figures"]
    assert (figures["round_0"]["rollouts"], figures["round_1"]["rollouts"]) == (32, 64)


def test_rollouts_are_judged_samples_of_the_base(run):
    rollouts = Rollouts.load(run / "rollout" / "rollouts.npz")
    assert len(rollouts) == 32 and not rollouts.reference.any()
    np.testing.assert_allclose(rollouts.log_base, rollouts.log_proposal, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(np.bincount(rollouts.prompt_id), [4] * 8)
    texts = dinado_jax.load(run / "sft" / "base").codec.decode(
        [row[p:n] for row, p, n in zip(rollouts.tokens, rollouts.prompt_length, rollouts.length)]
    )
    np.testing.assert_array_equal(rollouts.label, tiny_run.even(None, texts))


def test_summary_follows_from_the_samples(run):
    summary = read(run / "summary.json")
    base, control = (read_lines(run / "generate" / f"{n}.jsonl") for n in ("base", "control"))
    for name, samples in (("base", base), ("control", control)):
        labels = tiny_run.even(None, [sample["text"] for sample in samples])
        assert len(labels) == 32 and [sample["label"] for sample in samples] == labels
        assert summary[name]["success_rate"] == np.mean(labels)
        assert summary[name]["coverage"] is None  # keywords are not what this oracle wants
        wanted = np.mean([sample["log_prob_base"] for sample in samples])
        assert summary[name]["log_prob_under_base"] == pytest.approx(wanted)
    assert all(abs(s["log_prob"] - s["log_prob_base"]) < 1e-4 for s in base)
    kl = np.mean([sample["log_prob"] - sample["log_prob_base"] for sample in control])
    assert kl != 0 and summary["control"]["kl_to_base"] == pytest.approx(kl)
    s, r = summary["control"]["success_rate"], summary["base"]["success_rate"]
    floor = s * math.log(s / r) + (1 - s) * math.log((1 - s) / (1 - r))
    assert summary["kl_floor"] == pytest.approx(floor)
    ids = np.array([sample["prompt_id"] for sample in base])
    hits = np.bincount(ids, [sample["label"] for sample in base])
    by_prompt = max(floor, kl_floor_by_prompt(s, *rate_distribution(hits, np.bincount(ids))))
    assert summary["kl_floor_by_prompt"] == pytest.approx(by_prompt)
    if kl > 0:
        assert summary["efficiency"] == pytest.approx(floor / kl)
        assert summary["efficiency_by_prompt"] == pytest.approx(by_prompt / kl)


def test_summary_tells_how_it_came_about(run):
    summary = read(run / "summary.json")
    assert set(summary["seconds"]) >= set(STAGES[:-1])
    assert all(seconds >= 0 for seconds in summary["seconds"].values())
    assert summary["config"] == tiny_run.config().as_dict()
    assert {"jax", "flax", "dinado-jax", "python"} <= summary["versions"].keys()
    assert summary["device"]["platform"] == "cpu" and summary["device"]["count"] == 8


def test_strict_turns_warnings_into_an_exit_code(copy, monkeypatch, capsys):
    path = copy(4)
    monkeypatch.setattr(signals, "install_handlers", lambda: None)
    command = ["evaluate", str(tiny_run.CONFIG), f"--out={path}"]
    cli.main(command)
    summary = read(path / "summary.json")
    assert summary["warnings"][0].startswith("few successes, about ")
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, "train.strict=true"])
    assert caught.value.code == 3 and str(path / "report.html") in capsys.readouterr().out
    assert read(path / "summary.json") == summary


def test_report_is_one_page_and_stands_alone(run, capsys):
    page = (run / "report.html").read_text()
    assert "success rate" in page and page.rstrip().endswith("</html>")
    assert not re.search(r"https?:|src=|href=\"(?!#)|<script|<link|@import|url\((?!#)", page)
    sections = [each["id"] for each in Page(page).of("section")]
    assert sections[-7:] == (
        ["figures", "rounds", "training", "calibration", "prompts", "samples", "run"]
    )
    show_report(tiny_run.config(), run)
    shown = capsys.readouterr().out
    assert "success rate" in shown and str(run / "report.html") in shown


# Done once


def test_a_second_call_does_nothing(run, capsys):
    before = contents(run)
    run_stages(tiny_run.config("run.log_every=7", "name=other"), STAGES, run)
    assert contents(run) == before
    assert capsys.readouterr().err.count("already done") == 5


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "task.train_examples=9",
        "base.n_embd=32",
        "sft.steps=5",
        "rollout.samples=5",
        "delta.rank=3",
        "control.norm_bias=zero",
        "train.steps=7",
        "decode.temperature=0",
        "evaluate.samples=3",
    ],
)
def test_another_configuration_is_refused(run, override):
    before = contents(run)
    config = tiny_run.config(override)
    key = override.split("=")[0]
    refused(rf"begun with another {key} \(.*, now ", run_stages, config, STAGES, run)
    assert contents(run) == before


def test_smaller_batches_continue_a_run(run):
    before = contents(run)
    smaller = ("rollout.batch=8", "decode.batch=8", "sft.accumulate=2", "train.accumulate=2")
    smaller += ("base.remat=true", "train.base_states=bfloat16", "parallel.devices=2")
    run_stages(tiny_run.config(*smaller), STAGES, run)
    assert contents(run) == before


def test_what_earlier_stages_do_not_depend_on_may_change(copy):
    path = copy(2)
    before = contents(path)
    run_stages(tiny_run.config("train.steps=7", "evaluate.samples=3"), STAGES[:2], path)
    assert contents(path) == before


@pytest.mark.parametrize("done, stage", [(0, "rollout"), (1, "train"), (2, "evaluate")])
def test_a_stage_needs_its_predecessors(copy, done, stage):
    refused(
        f"stage {stage} needs stage {STAGES[done]}",
        run_stages,
        tiny_run.config(),
        (stage,),
        copy(done),
    )


# Loading and generating


def test_completions_carry_log_probs_under_both(model):
    prompts = ["dog chase kite =", "cat ="]
    made = dinado_jax.generate(model, prompts, max_new_tokens=8, samples=2, batch=32)
    assert [c.prompt for c in made] == [prompts[0]] * 2 + [prompts[1]] * 2
    for completion in made:
        assert completion.log_probs.shape == completion.log_probs_base.shape
        assert completion.log_probs.shape == completion.tokens.shape
        assert (completion.log_probs < 0).all() and 1 <= len(completion.tokens) <= 8
        assert completion.text == model.base.codec.decode([completion.tokens])[0]
        assert completion.finished == (completion.tokens[-1] == model.base.codec.eos_id)
    moved = np.concatenate([c.log_probs - c.log_probs_base for c in made])
    assert np.abs(moved).max() > 1e-3
    again = dinado_jax.generate(model, prompts, max_new_tokens=8, samples=2, batch=32)
    assert [c.text for c in again] == [c.text for c in made]


def test_other_numbers_of_samples_and_prompts_compile_little(model):
    """And change no completion."""

    def programs():
        return Sampler.prefill._cache_size(), _score_batch._cache_size()

    def made(prompts, samples):
        return dinado_jax.generate(model, prompts, max_new_tokens=8, samples=samples, batch=32)

    prompts = ["dog chase kite =", "cat ="]
    many = made(prompts, 24)
    before = programs()
    for some, samples in ((prompts, 16), (prompts, 40), (prompts[:1], 32), (prompts * 2, 8)):
        assert len(made(some, samples)) == len(some) * samples
    assert programs() == before
    fewer = made(prompts, 12)
    for i in range(2):
        own = [one.text for one in many[24 * i : 24 * i + 12]]
        assert [one.text for one in fewer[12 * i : 12 * i + 12]] == own
    refused("samples = 0", lambda: made(prompts, 0))


def test_the_base_alone_is_q_and_p(model):
    for one in dinado_jax.generate(model.base, ["dog ="], max_new_tokens=8, samples=4, batch=32):
        np.testing.assert_array_equal(one.log_probs, one.log_probs_base)


def test_beam_search_gives_completions_best_first(model):
    prompts = ["dog chase kite =", "cat ="]
    found = dinado_jax.beam_search(model, prompts, max_new_tokens=8, beams=4, hypotheses=2)
    assert [one.prompt for one in found] == [prompts[0]] * 2 + [prompts[1]] * 2
    for best, second in (found[:2], found[2:]):
        assert best.log_probs.mean() >= second.log_probs.mean() - 1e-5
        assert best.text == model.base.codec.decode([best.tokens])[0]
    refused("beams = 0", lambda: dinado_jax.beam_search(model, prompts, beams=0))
    refused("give a list", dinado_jax.beam_search, model, "dog =")


def test_what_cannot_be_generated(model):
    refused("no prompts", dinado_jax.generate, model, [])
    refused("top_p", lambda: dinado_jax.generate(model, ["dog ="], top_p=1.5))
    refused("prompt 0 .* has 31 tokens", lambda: dinado_jax.generate(model, ["dog " * 30]))
    refused("max_new_tokens", lambda: dinado_jax.generate(model, ["dog ="], max_new_tokens=0))
    refused("'dog =': give a list", dinado_jax.generate, model, "dog =")
    refused("batch = 0", lambda: dinado_jax.generate(model, ["dog ="], batch=0))
    refused(r"prompt 1 \('dog dog.* 31 tokens", _generate, model, ["cat =", "dog " * 30])
    for prompts in (None, 3, b"dog =", [None], [3], [b"dog ="]):
        refused("prompt", _generate, model, prompts)
    refused("half a surrogate pair", _generate, model, ["\ud800"])
    for name, values in {
        "seed": (-1, 2**32, 2**40 + 1, 2**70, True, 1.0, "1"),
        "max_new_tokens": (True, 1.5, -1, "8", 2**70),
        "samples": (True, 1.5, -1, "8"),
        "batch": (True, 1.5, -1, "8"),
        "top_k": (True, 1.5, -1, "8"),
        "temperature": (True, "1", float("nan"), float("inf")),
    }.items():
        for value in values:
            refused(name, functools.partial(dinado_jax.generate, model, ["dog ="], **{name: value}))
    refused("did you mean strength", lambda: model.tilted(strenght=0.5))
    refused("no such tilt, 'colour'", lambda: model.tilted(colour=0.5))


def _generate(model, prompts):
    return dinado_jax.generate(model, prompts)


def test_without_a_number_as_many_tokens_as_the_run_says_or_fit(model):
    """The run says 8; its context holds 24 tokens."""
    made = dinado_jax.generate(model, ["dog ="], samples=2, batch=32)
    assert max(len(one.tokens) for one in made) <= 8
    assert all(one.finished or len(one.tokens) == 8 for one in made)

    def tokens(prompt):
        return len(model.base.codec.prompts([prompt])[0])

    def dogs(most):
        """A prompt of at most that many tokens."""
        prompt = "dog " * 40
        while tokens(prompt) > most:
            prompt = prompt[:-1]
        return prompt

    shorter, longest = dogs(18), dogs(22)
    room = 24 - tokens(longest)
    assert 2 <= room < 24 - tokens(shorter) < 8
    made = dinado_jax.generate(model, [shorter, longest], batch=32)
    assert all(len(one.tokens) <= room for one in made)
    found = dinado_jax.beam_search(model, [longest], batch=8)
    assert all(len(one.tokens) <= room for one in found)
    assert dinado_jax.load(model.base.folder).max_new_tokens == 32


def test_models_and_completions_are_shown_in_a_line(model):
    one, _ = dinado_jax.generate(model, ["dog ="], max_new_tokens=8, samples=2, batch=32)
    both = dinado_jax.compose(model, model)
    names = ("Base", "Controlled", "Composed", "Codec", "Completion")
    shown = dict(zip(names, map(repr, (model.base, model, both, model.base.codec, one))))
    for name, text in shown.items():
        assert text.startswith(f"{name}(") and len(text) < 600 and "\n" not in text
        assert "array" not in text
    assert "1 layers of width 16" in shown["Base"] and "merge control" in shown["Controlled"]
    assert repr(one.prompt) in shown["Completion"]


def test_folders_that_are_no_run_are_told_apart(run, tmp_path):
    refused("nowhere, no such folder: give the folder of a run", load_run, tmp_path / "nowhere")
    refused("done.json is a file: give the folder of a run", load_run, run / "sft" / "done.json")
    for part in ("train", "sft/base", "generate"):
        refused(f"{part} is part of the run .*{run.name}: give that folder", load_run, run / part)
    refused(f"holds 1 runs: give one of them, as .*{run.name}", load_run, run.parent)


def test_runs_that_cannot_be_loaded(tmp_path, copy):
    refused("no run folder", load_run, tmp_path)
    path = copy(2)
    (path / "config.json").write_text(json.dumps(tiny_run.config().as_dict()))
    refused("run the train stage first", load_run, path)
    refused("no summary.json", show_report, tiny_run.config(), path)
    for damaged in ('{"name": "ti', "[]", ""):
        (path / "config.json").write_text(damaged)
        refused("copy/config.json", load_run, path)


@pytest.mark.parametrize("name", ["done.json", "config.json"])
def test_a_damaged_record_of_a_stage_is_refused(copy, name):
    path = copy(2)
    (path / "rollout" / name).write_text("")
    refused(f"copy/rollout/{name}", run_stages, tiny_run.config(), ("train",), path)


# Continuing


def judged(monkeypatch):
    """The number of samples in each call of the oracle from now on, rehearsals left out."""
    calls, even = [], tiny_run.even

    @functools.wraps(even)  # an oracle of the same module, so that its source is the same
    def counted(prompts, texts):
        calls.append(len(texts))
        return even(prompts, texts)

    monkeypatch.setattr(tiny_run, "even", counted)
    return calls


def assert_same_control(path, other):
    for one, two in zip(_leaves(load_run(path)), _leaves(load_run(other)), strict=True):
        np.testing.assert_array_equal(one, two)


def _leaves(model):
    return jax.tree.leaves(model.params)


def steps_of(path):
    return [line["step"] for line in read_lines(path / "train" / "train.jsonl")]


def test_training_interrupted_and_continued_is_training_in_one_go(run, copy, monkeypatch):
    """Stopped between the rounds, killed in the second one, and stopped there."""
    path = copy(2)
    log = path / "train" / "train.jsonl"
    with monkeypatch.context() as patch:
        stops.stop_when(patch, stops.at_step(log, 3))
        with pytest.raises(signals.Stopped, match="SIGTERM") as caught:
            run_stages(tiny_run.config(), ("train",), path)
    assert caught.value.exit_code == 143
    assert not (path / "train" / "done.json").exists() and steps_of(path) == [1, 2, 3]
    slower = RunFolder(path, tiny_run.config("train.learning_rate=1e-4"))
    assert slower.finished("train") is None  # a learning rate may change until then
    with monkeypatch.context() as patch:
        stops.die_when(patch, stops.at_step(log, 5))
        with pytest.raises(stops.PowerCut):
            run_stages(tiny_run.config("run.save_every=2"), ("train",), path)
    assert steps_of(path) == [1, 2, 3, 4]  # a step is logged once the next is under way
    calls = judged(monkeypatch)  # the second round has its rollouts
    with monkeypatch.context() as patch:
        stops.stop_when(patch, stops.at_step(log, 5))
        with pytest.raises(signals.Stopped):
            run_stages(tiny_run.config(), ("train",), path)
    assert steps_of(path) == [1, 2, 3, 4, 5]
    steps = []
    monkeypatch.setattr(signals, "received_signal", lambda: steps.append(None) or 0)
    run_stages(tiny_run.config(), ("train",), path)
    assert len(steps) == 1 and calls == [2, 2]  # rehearsals alone
    assert steps_of(path) == steps_of(run) == [1, 2, 3, 4, 5, 6]
    assert_same_control(path, run)
    figures = [read(folder / "train" / "done.json")["figures"] for folder in (path, run)]
    assert figures[0] == figures[1]


def test_another_learning_rate_of_a_finished_stage_is_refused(run):
    slower = tiny_run.config("train.learning_rate=1e-4")
    refused("another train.learning_rate", run_stages, slower, STAGES, run)


def test_rollouts_stopped_and_continued_are_those_of_one_go(run, copy, monkeypatch):
    """Of four batches two are drawn, one of them is damaged afterwards."""
    path, config = copy(1), tiny_run.config("rollout.batch=8")
    parts = path / "rollout" / "shards"
    with monkeypatch.context() as patch:
        stops.stop_when(patch, stops.with_parts(parts, 2))
        with pytest.raises(signals.Stopped):
            run_stages(config, ("rollout",), path)
    first, _ = sorted(parts.iterdir())
    first.write_bytes(first.read_bytes()[:-100])
    calls = judged(monkeypatch)
    run_stages(config, ("rollout",), path)
    assert calls == [2, 8, 8, 8]  # a rehearsal first
    one, other = (Rollouts.load(each / "rollout" / "rollouts.npz") for each in (run, path))
    for name in ("tokens", "length", "label", "prompt_id", "finished"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    np.testing.assert_allclose(one.log_base, other.log_base, rtol=0, atol=1e-5)
    assert not parts.exists()


def test_generation_stopped_and_continued_is_that_of_one_go(run, copy, monkeypatch):
    """The second of its models is being drawn from."""
    path, config = copy(3), tiny_run.config("decode.batch=8")
    with monkeypatch.context() as patch:
        stops.stop_when(patch, stops.with_parts(path / "generate" / "control_shards", 2))
        with pytest.raises(signals.Stopped):
            run_stages(config, ("generate",), path)
    calls = judged(monkeypatch)
    run_stages(config, ("generate",), path)
    assert calls == [2, 8, 8]
    for name in ("base", "control"):
        one, other = (read_lines(each / "generate" / f"{name}.jsonl") for each in (run, path))
        assert [line["text"] for line in one] == [line["text"] for line in other]


def test_strengths_stopped_and_continued_are_those_of_one_go(copy, tmp_path, monkeypatch):
    stopped = copy(3)
    whole = shutil.copytree(stopped, tmp_path / "whole")
    config = tiny_run.config("decode.batch=4", "evaluate.strengths=[0.5, 2]")
    with monkeypatch.context() as patch:
        shards = stopped / "generate" / "strength_0.5_shards"
        stops.stop_when(patch, stops.with_parts(shards, 1))
        with pytest.raises(signals.Stopped):
            run_stages(config, ("generate",), stopped)
    for path in (stopped, whole):
        run_stages(config, ("generate",), path)
    for strength in ("0.5", "2.0"):
        one, other = (
            read_lines(path / "generate" / "strengths" / f"{strength}.jsonl")
            for path in (whole, stopped)
        )
        assert one == other


def test_other_strengths_are_sampled_once_per_prompt_and_measured(copy):
    path, config = copy(3), tiny_run.config("evaluate.strengths=[2, 0, 1]")
    run_stages(config, ("generate", "evaluate"), path)
    folder = path / "generate"
    found = json.loads((path / "summary.json").read_text())["strengths"]
    assert [each["strength"] for each in found] == [0, 2]  # 1 is decode.strength
    for each in found:
        lines = read_lines(folder / "strengths" / f"{each['strength']}.jsonl")
        assert [line["prompt_id"] for line in lines] == list(range(8))
        assert each["success_rate"] == np.mean([line["label"] for line in lines])
        kl = np.mean([line["log_prob"] - line["log_prob_base"] for line in lines])
        assert each["kl_to_base"] == pytest.approx(kl, abs=1e-9)
    assert abs(found[0]["kl_to_base"]) < 1e-4 < abs(found[1]["kl_to_base"])
    assert not list(folder.glob("*_shards"))
    refused(r"strengths/2\.0\.jsonl is missing", _without, folder / "strengths", path)


def _without(folder, path):
    (folder / "2.0.jsonl").unlink()
    run_stages(tiny_run.config("evaluate.strengths=[2, 0, 1]"), ("evaluate",), path)


def test_parts_are_forgotten_once_every_process_has_read_them(tmp_path, monkeypatch):
    """Another process may be late: all must meet between its work and what follows it."""
    parts, seen = tmp_path / "rollout" / "shards", []
    monkeypatch.setattr(
        dinado_jax.stages.run_folder, "barrier", lambda _: seen.append(parts.exists())
    )
    figures = RolloutFigures(1, 1, 1.0, 1.0, 0, "q*")
    run = RunFolder(tmp_path, tiny_run.config())
    run.run("rollout", lambda: parts.mkdir(parents=True) or figures, {})
    assert seen == [False, False, True, False]


def test_a_batch_that_cannot_be_shared_is_told_before_anything_is_done(tmp_path):
    config = tiny_run.config("parallel.devices=8")
    refused("train.batch = 8 cannot be shared by 8", run_stages, config, STAGES, tmp_path / "run")
    assert not (tmp_path / "run" / "sft").exists()


def test_two_commands_in_one_folder(copy):
    path = copy(2)
    with RunFolder(path, tiny_run.config()).locked():
        refused("another command is running in", run_stages, tiny_run.config(), ("train",), path)


def test_a_folder_removed_while_stages_run(tmp_path):
    run = RunFolder(tmp_path / "run", tiny_run.config())

    def write(remove):
        with run.locked():
            if remove:
                shutil.rmtree(run.path)
            (run.path / "train" / "train.jsonl").write_text("")

    refused("run was removed while stages ran: run the same command again", write, True)
    with pytest.raises(FileNotFoundError):  # of another file than the run's: not to be hidden
        write(False)


def test_sft_stopped_and_continued(tmp_path, monkeypatch):
    """Stopped in the second of its phases; the first trains on examples mined from text."""
    line = "the dog chased a ball"
    (tmp_path / "plain.txt").write_text(f"{line}\n" * 20)
    config = tiny_run.config(f"sft.pretrain_path={tmp_path / 'plain.txt'}", "sft.pretrain_steps=4")
    run_stages(config, ("sft",), tmp_path / "whole")
    with monkeypatch.context() as patch:
        stops.stop_when(patch, stops.at_step(tmp_path / "shards" / "sft" / "sft.jsonl", 2))
        with pytest.raises(signals.Stopped):
            run_stages(config, ("sft",), tmp_path / "shards")
    run_stages(config, ("sft",), tmp_path / "shards")
    whole, parts = (tmp_path / name / "sft" / "base" for name in ("whole", "shards"))
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name
    for name in ("pretrain.jsonl", "sft.jsonl"):
        assert [line["step"] for line in read_lines(parts.parent / name)] == [1, 2, 3, 4]


def test_a_run_with_a_delta_of_the_upper_layer(tmp_path):
    """Cached states are those that enter it, from a file per round; the same control comes out."""
    upper = ("base.n_layer=2", "delta.from_layer=1", "decode.strength=0.9")
    run_stages(tiny_run.config(*upper), STAGES[:2], tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    run_stages(tiny_run.config(*upper), STAGES, tmp_path / "one")
    cached = tiny_run.config(*upper, "train.base_states=float32")
    run_stages(cached, ("train",), tmp_path / "other")
    wanted, found = (
        read_lines(tmp_path / name / "train" / "train.jsonl") for name in ("one", "other")
    )
    for one, other in zip(wanted, found, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
    params = load_run(tmp_path / "one").params
    assert {path.partition("/")[0] for path in params["direction"]} == {"h_1", "ln_f"}
    assert read(tmp_path / "one" / "summary.json")["control"]["success_rate"] >= 0


def test_cached_states_of_the_base_train_the_same_control(run, copy):
    path, rtol = copy(2), 0.02
    run_stages(tiny_run.config("train.base_states=bfloat16"), ("train",), path)
    assert not list((path / "train").glob("base_states*"))
    wanted, found = (read_lines(folder / "train" / "train.jsonl") for folder in (run, path))
    for one, other in zip(wanted, found, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=rtol)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=rtol)


# Kinds of control, with the ways to train and to decode shared among them.
WAYS = {
    "nado": (
        2,
        ["train.objective=published", "train.accumulate=2", "control.layers=1"],
        ["train round 0", "train round 1"],
    ),
    "soft": (
        2,
        [
            *("control.trunk=low_rank", "train.detach=false", "train.balance=false"),
            *("train.warmup_direction=4", "train.bellman_start=5"),
            *("train.mixture=0.5", "train.refresh_samples=8", "decode.reject=0.2"),
        ],
        ["warm-up", "train round 1"],
    ),
    "hard": (
        1,
        [
            *("control.form=projected", "train.objective=ratio", "decode.target_rate=0.8"),
            *("rollout.references=true", "train.reference_weight=1.0"),
            *("train.rounds=1", "train.steps=2"),
        ],
        ["train round 0"],
    ),
}


@pytest.mark.parametrize("kind", WAYS)
def test_every_kind_of_control_goes_through_all_stages(copy, capsys, kind):
    done, overrides, phases = WAYS[kind]
    path, config = copy(done), tiny_run.config(f"control.kind={kind}", *overrides)
    run_stages(config, STAGES, path)
    lines = read_lines(path / "train" / "train.jsonl")
    assert [line["step"] for line in lines] == list(range(1, config.train.steps + 1))
    assert list(dict.fromkeys(line["stage"] for line in lines)) == phases
    assert all(math.isfinite(line["loss"]) for line in lines)
    said = capsys.readouterr().err
    counted = re.findall(r"^(.*): (\d+)/(\d+) (?:steps|samples|rows) in", said, re.M)
    assert all(re.match(r"stage \d of 5: [a-z]", what) for what, *_ in counted)
    # Each phase counts its own steps.
    of_training = r"^stage 3 of 5: train, round \d of \d(?:, warm-up)?: (\d)/(\d) steps in"
    shown = re.findall(of_training, said, re.M)
    assert all(done == total for done, total in shown)
    assert sum(int(total) for _, total in shown) == config.train.steps
    rounds = re.findall(r"^stage 3 of 5: train, round (\d) of (\d): success .*%", said, re.M)
    assert rounds == [(str(n + 1), str(len(rounds))) for n in range(config.train.rounds)]
    samples = read_lines(path / "generate" / "control.jsonl")
    assert len(samples) == 32 and all(math.isfinite(s["log_prob"]) for s in samples)
    kl = np.mean([s["log_prob"] - s["log_prob_base"] for s in samples])
    assert read(path / "summary.json")["control"]["kl_to_base"] == pytest.approx(kl)
    if config.train.rounds == 1:
        return
    newest = np.load(path / "train" / "round_1.npz")
    log_weight = newest["log_base"] - newest["log_proposal"]
    assert len(log_weight) == 8 * config.train.refresh_samples
    if config.train.mixture:
        assert log_weight.max() <= -np.log(config.train.mixture) + 1e-4


def test_a_prompt_that_is_too_long_is_named_by_file_and_line(copy, tmp_path):
    path, file = copy(3), tmp_path / "prompts.txt"
    file.write_text("dog chase kite =\n\n" + "dog " * 30 + "=\n")
    config = tiny_run.config(f"evaluate.prompt_file={file}")
    refused(r"prompts.txt:3 has \d+ tokens", run_stages, config, ("generate",), path)


def test_strength_0_generates_what_the_base_does(copy):
    path = copy(3)
    run_stages(tiny_run.config("decode.strength=0"), ("generate",), path)
    base, control = (read_lines(path / "generate" / f"{n}.jsonl") for n in ("base", "control"))
    for one, other in zip(base, control, strict=True):
        assert one["text"] == other["text"]
        assert one["log_prob"] == pytest.approx(other["log_prob"], abs=1e-4)


# Oracles


def test_no_success_is_told_with_advice(copy, monkeypatch):
    path = copy(1)
    before = contents(path / "sft")
    monkeypatch.setattr(tiny_run, "even", tiny_run.never)
    refused(
        "none of the 32 rollouts .* rollout.samples", run_stages, tiny_run.config(), STAGES, path
    )
    assert contents(path / "sft") == before and not (path / "rollout" / "done.json").exists()
    monkeypatch.undo()
    run_stages(tiny_run.config("rollout.prompts=7"), ("rollout",), path)


def test_no_failure_leaves_nothing_to_learn(copy, monkeypatch):
    path = copy(1)
    monkeypatch.setattr(tiny_run, "even", tiny_run.always)
    refused("in 100% of its samples", run_stages, tiny_run.config(), STAGES[:3], path)


@pytest.mark.parametrize(
    "oracle, match",
    [
        ("half", "all 32 samples of the base the same label, 0.5: .* check the oracle"),
        ("hundredths", "the highest label of 32 rollouts is 0.02, .*: rescale the oracle"),
    ],
)
def test_soft_labels_that_leave_nothing_to_learn(copy, monkeypatch, oracle, match):
    path = copy(1)
    monkeypatch.setattr(tiny_run, "even", getattr(tiny_run, oracle))
    refused(match, run_stages, tiny_run.config(), STAGES, path)
    assert len(Rollouts.load(path / "rollout" / "rollouts.npz")) == 32


@pytest.mark.parametrize(
    "oracle, match",
    [("short", "returned 1 value for 2"), ("undefined", "nan"), ("percent", "returned 50.0 for 2")],
)
def test_oracles_that_give_no_labels(copy, monkeypatch, oracle, match):
    path = copy(1)
    monkeypatch.setattr(tiny_run, "even", getattr(tiny_run, oracle))
    refused(f"oracle .*{match}", run_stages, tiny_run.config(), ("rollout",), path)


def test_an_oracle_that_was_mended_is_asked_again(run, copy, monkeypatch):
    path = copy(1)

    calls, even = [], tiny_run.even

    def broken(prompts, texts):
        calls.append(texts)
        if len(calls) > 1:  # the rehearsal is well
            raise ValueError("out of order")
        return even(prompts, texts)

    with monkeypatch.context() as patch:
        patch.setattr(tiny_run, "even", broken)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # the power is cut before it is done
        refused("all 32 samples raised", run_stages, tiny_run.config(), ("rollout",), path)
    run_stages(tiny_run.config(), ("rollout",), path)
    labels = [Rollouts.load(each / "rollout" / "rollouts.npz").label for each in (run, path)]
    np.testing.assert_array_equal(*labels)


def test_an_oracle_that_fails_on_some_samples(run, copy, monkeypatch):
    path = copy(1)
    even = tiny_run.even

    def fragile(prompts, texts):
        if any(len(text) % 3 == 0 for text in texts):
            raise ValueError("a multiple\nof three")
        return even(prompts, texts)

    monkeypatch.setattr(tiny_run, "even", fragile)
    run_stages(tiny_run.config(), ("rollout",), path)
    figures = read(path / "rollout" / "done.json")["figures"]
    rollouts = Rollouts.load(path / "rollout" / "rollouts.npz")
    assert 0 < figures["oracle_failures"] < 32
    assert figures["samples"] == len(rollouts) == 32 - figures["oracle_failures"]
    whole = Rollouts.load(run / "rollout" / "rollouts.npz")
    kept = {tuple(row) for row in whole.tokens.tolist()}
    assert {tuple(row) for row in rollouts.tokens.tolist()} < kept


# Folders


def test_a_full_disk_is_told_in_one_line(copy, monkeypatch, capsys):
    path = copy(1)
    demo = support.ROOT / "configs" / "demo.toml"
    command = ["rollout", str(demo), *tiny_run.SETTINGS, f"run.folder={path.parent}", "name=copy"]
    monkeypatch.setattr(signals, "install_handlers", lambda: None)
    (path / "rollout").mkdir()
    (path / "rollout" / "rollouts.npz.partial").symlink_to("/dev/full")
    with pytest.raises(SystemExit) as caught:
        cli.main(command)
    last = capsys.readouterr().err.splitlines()[-1]
    assert caught.value.code == 2 and last.startswith("dinado: error: cannot write")
    assert not (path / "rollout" / "rollouts.npz").exists()
    (path / "rollout" / "rollouts.npz.partial").unlink()
    cli.main(command)
    assert len(Rollouts.load(path / "rollout" / "rollouts.npz")) == 32


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    refused(
        "a part of this path is a file",
        run_stages,
        tiny_run.config(),
        STAGES,
        tmp_path / "file/run",
    )

"""`dinado hmm train`: an HMM of a base, and what it is refused for."""

import json
import shutil

import jax
import numpy as np
import pytest
from support import word_base, word_run
from support.folders import refused
from support.refusal import error_of
from support.word_run import read_lines

import dinado_jax
from dinado_jax import cli
from dinado_jax.constraints import at_most_words, contains, ends_with, in_order, pattern, without
from dinado_jax.distributed import signals
from dinado_jax.guarantee import guarantee
from dinado_jax.hmm.folder import load_saved, saved_digest
from dinado_jax.hmm.model import random_hmm
from dinado_jax.stages.completions import completions
from dinado_jax.stages.pipeline import run_stages
from dinado_jax.stages.run_folder import STAGES
from dinado_jax.tasks.keyword.lexical import lexical

pytestmark = pytest.mark.usefixtures("compiled_quickly")
SETTINGS = ["--states", "6", "--samples", "1600", "--max-new-tokens", "8", "--batch", "256"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return word_base.write(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def base(folder):
    return dinado_jax.load(folder)


def train(folder, out, *more):
    cli.main(["hmm", "train", str(folder), "--out", str(out), *SETTINGS, *more])


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("hmm") / "hmm"
    train(folder, out, "--epochs", "3")
    return out


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_and_says_how_much_is_lost(trained, base):
    saved, logged = load_saved(trained), lines(trained)
    assert [line["step"] for line in logged] == [1, 2, 3] and saved.epochs == 3
    assert logged[0]["loss"] > logged[1]["loss"] > logged[2]["loss"]
    assert saved.figures["held_out"] == logged[-1]["held_out"]
    assert 0 < saved.figures["held_out_of_base"] < saved.figures["held_out"] < np.log(300)
    hmm = dinado_jax.load_hmm(trained, base)
    assert hmm.states == 6 and hmm.vocab_size == base.model.vocab_size and not hmm.reads_prompt
    assert (hmm.emission > 0).all() and (hmm.transition > 0).all()
    assert hmm.emission[list(base.codec.stop_ids)].sum(0).argmax() == 5
    assert len(list(trained.glob("*.safetensors"))) == 1


def test_a_stopped_training_continues_bit_for_bit(folder, trained, tmp_path, monkeypatch, capsys):
    train(folder, tmp_path / "hmm", "--epochs", "1")
    monkeypatch.setattr(signals, "_received", [15])
    with pytest.raises(SystemExit) as stopped:
        train(folder, tmp_path / "hmm", "--epochs", "3")
    assert stopped.value.code == 143 and load_saved(tmp_path / "hmm").epochs == 1
    monkeypatch.setattr(signals, "_received", [])
    train(folder, tmp_path / "hmm", "--epochs", "3")
    assert "6 states" in capsys.readouterr().out
    found, wanted = (load_saved(each).hmm for each in (tmp_path / "hmm", trained))
    for name in ("initial", "transition", "emission"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert lines(tmp_path / "hmm") == lines(trained)


def test_it_may_read_prompts(folder, base, tmp_path):
    (tmp_path / "prompts.txt").write_text("dog =\ncat fox =\n")
    given = ("--prompts", str(tmp_path / "prompts.txt"), "--reads-prompt", "--epochs", "1")
    train(folder, tmp_path / "hmm", *given)
    hmm = dinado_jax.load_hmm(tmp_path / "hmm", base)
    assert hmm.reads_prompt
    (equals,) = {ids[-1] for ids in base.codec.prompts(["dog =", "cat fox ="])}
    assert hmm.emission[equals].max() > 0.05  # which no text has so often


# With a head


def test_a_head_is_added_and_continues_bit_for_bit(folder, base, trained, tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for each in (whole, stopped):
        shutil.copytree(trained, each)
    head = ("--epochs", "3", "--head")
    train(folder, whole, *head)
    monkeypatch.setattr(signals, "_received", [15])
    with pytest.raises(SystemExit) as caught:
        train(folder, stopped, *head)
    assert caught.value.code == 143 and load_saved(stopped).hmm.head is None
    monkeypatch.setattr(signals, "_received", [])
    train(folder, stopped, *head)
    found, wanted = (load_saved(each) for each in (stopped, whole))
    jax.tree.map(np.testing.assert_array_equal, found.hmm, wanted.hmm)
    np.testing.assert_array_equal(found.hmm.emission, load_saved(trained).hmm.emission)
    assert found.figures == wanted.figures
    assert found.figures["held_out_of_base"] < found.figures["held_out_of_head"] < np.log(300)
    assert sorted(path.name for path in whole.glob("*_head*")) == ["epoch_0003_head.safetensors"]
    assert not list(whole.glob("head_*/")) and (whole / "head_0003.jsonl").is_file()
    assert saved_digest(whole, False) == saved_digest(trained, False) != saved_digest(whole, True)
    assert dinado_jax.load_hmm(whole, base).head is None
    hmm = dinado_jax.load_hmm(whole, base, head=True)
    model, prompts = guarantee(base, ["dog =", "cat fox ="], 8, hmm=hmm)
    made = model.generate(prompts, samples=8, max_new_tokens=8)
    assert all(lexical([one.prompt for one in made], [one.text for one in made]))
    message = error_of(dinado_jax.load_hmm, trained, base, True)
    assert "has no head: train it by the same `dinado hmm train` with --head" in message


def test_checkpoints_of_a_head_that_is_given_up_are_deleted(
    folder, trained, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "hmm"
    shutil.copytree(trained, out)
    left = out / "head_0002" / "7"
    left.mkdir(parents=True)

    def fail(path):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setattr(shutil, "rmtree", fail)
        train(folder, out, "--epochs", "3")
    assert caught.value.code == 2 and "head_0002, permission denied" in capsys.readouterr().err
    train(folder, out, "--epochs", "3")
    assert not left.parent.exists()
    left.mkdir(parents=True)
    train(folder, out, "--epochs", "4")
    assert not left.parent.exists() and load_saved(out).epochs == 4


# As a guide

EVERY_KIND = [
    contains("dog"),
    contains("the fox"),
    in_order("fox", "dog"),
    without("dog", "cat") & contains("fox"),
    at_most_words(2),
    pattern("[a-z ]* fox [a-z ]*[.]"),
    ends_with("."),
]


class Each:
    """Of the prompt "n" the n-th of them."""

    def __call__(self, prompts, texts):
        pairs = zip(prompts, texts)
        return [EVERY_KIND[int(prompt)]([prompt], [text])[0] for prompt, text in pairs]

    def automata(self, prompt):
        return EVERY_KIND[int(prompt)].automata(prompt)


def test_every_text_satisfies_its_own_constraint(trained, base):
    hmm, oracle = dinado_jax.load_hmm(trained, base), Each()
    prompts = [str(number) for number in range(len(EVERY_KIND))]
    model, prompts = guarantee(base, prompts, 8, oracle, hmm=hmm)
    longer = model.generate(prompts, samples=8, max_new_tokens=12, seed=1)
    assert all(one.finished and len(one.tokens) <= 9 for one in longer)  # the end is the ninth
    for made in (
        model.generate(prompts, samples=8, max_new_tokens=8),
        longer,
        model.beam_search(prompts, beams=4, max_new_tokens=8),
    ):
        assert len(made) >= len(EVERY_KIND)
        assert all(oracle([one.prompt for one in made], [one.text for one in made]))


def test_it_composes_and_guides_particles(trained, base):
    """Prompts have constraints of their own."""
    hmm, prompts = dinado_jax.load_hmm(trained, base), ["dog =", "cat fox =", "fox ="]
    control = word_base.controlled(base, "merge").tilted(strength=0.2)
    sure, asked = guarantee(base, prompts, 12, hmm=hmm)
    both = dinado_jax.compose(control, sure)
    made = both.generate(asked, samples=8, max_new_tokens=12)
    assert all(lexical([one.prompt for one in made], [one.text for one in made]))
    chosen = both.sample_by_particles(asked, "lexical", particles=4, samples=2, max_new_tokens=12)
    assert all(one.label == 1 for one in chosen)


def test_a_run_decodes_with_the_hmm_of_its_base(tmp_path_factory, tmp_path):
    data, run = word_run.trained(tmp_path_factory, tmp_path / "run")
    train(run, tmp_path / "hmm", "--epochs", "1", "--max-new-tokens", "10")
    on = ("decode.guarantee=true", "decode.reject=0", "decode.max_new_tokens=10")
    config = word_run.config(data, *on, f"decode.hmm={tmp_path / 'hmm'}")
    run_stages(config, ("generate",), run)
    lines = read_lines(run / "generate" / "control.jsonl")
    assert lines and all(line["label"] for line in lines)
    made = completions(run, ["dog cat ="], samples=4)
    assert all(lexical(["dog cat ="] * len(made), [one.text for one in made]))
    shutil.rmtree(run / "generate")
    other = word_run.config(data, *on, f"decode.hmm={tmp_path / 'nothing'}")
    refused("no hmm.json in", run_stages, other, ("generate",), run)


def test_an_hmm_is_looked_at_before_a_run_trains(folder, trained, tmp_path_factory, tmp_path):
    """Also whether it is one of the run's base, if that is there already."""
    data, run = word_run.trained(tmp_path_factory, tmp_path / "run")
    on = ("decode.guarantee=true", "decode.reject=0", "decode.max_new_tokens=10")

    def told(text, hmm, path, *more):
        config = word_run.config(data, *on, f"decode.hmm={hmm}", *more)
        refused(text, run_stages, config, STAGES, path)

    new = tmp_path / "new"
    told("no hmm.json in .*: give the folder of an HMM", tmp_path / "nothing", new)
    told("hmm.json is a file: give the folder of an HMM", trained / "hmm.json", new)
    told("has no head: ", trained, new, "decode.hmm_head=true")
    assert not new.exists()
    told(f"is an HMM of the base .*{run}/sft/base is another", trained, run)
    assert not (run / "generate").exists()


# Refusals


def test_other_settings_and_bases_are_refused(folder, trained, base, tmp_path, capsys):
    def line(*args):
        with pytest.raises(SystemExit) as caught:
            train(*args)
        assert caught.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    other = word_base.write(tmp_path / "other", seed=1)
    assert "has an HMM of another base: name a new folder" in line(other, trained)
    assert "has an HMM of other states, states = 6" in line(folder, trained, "--states", "7")
    message = error_of(dinado_jax.load_hmm, trained, dinado_jax.load(other))
    assert "is an HMM of the base" in message and "`dinado hmm train" in message
    assert "states = 1: it must be at least 2" in line(folder, tmp_path / "a", "--states", "1")
    assert "samples = 9: it must be at least 20" in line(folder, tmp_path / "a", "--samples", "9")
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in line(folder, tmp_path / "file")
    assert "leaves no room" in line(folder, tmp_path / "a", "--max-new-tokens", "24")
    few = line(folder, tmp_path / "b", "--states", "1000")
    assert "--samples 1600 gives at most" in few and "or ask for fewer states" in few
    assert not (tmp_path / "b").exists()  # nothing has been drawn
    few = line(folder, tmp_path / "b", "--states", "640")
    assert "--samples 1600 gave" in few and "draw more samples or ask for fewer states" in few


def test_folders_with_other_files_are_left_alone(folder, trained, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit):
        train(folder, tmp_path / "mine")
    assert [each.name for each in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    shutil.copytree(trained, tmp_path / "hmm")
    (tmp_path / "hmm" / "head_photos").mkdir()
    (tmp_path / "hmm" / "epoch_notes.safetensors").write_text("mine")
    train(folder, tmp_path / "hmm", "--epochs", "4")
    assert {"head_photos", "epoch_notes.safetensors"} <= {
        each.name for each in (tmp_path / "hmm").iterdir()
    }


def test_a_prompt_that_is_too_long_is_named(folder, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("dog =\n" + "dog " * 40 + "=\n")
    with pytest.raises(SystemExit):
        train(folder, tmp_path / "a", "--prompts", str(tmp_path / "prompts.txt"))
    assert "prompt 1 ('dog dog" in capsys.readouterr().err


def test_what_an_hmm_does_not_go_with(base, trained):
    hmm = dinado_jax.load_hmm(trained, base)
    weighted, prompts = guarantee(base, ["dog ="], 8, hmm=hmm, weight=0.5)
    refused("beams are ranked", lambda: weighted.beam_search(prompts, beams=2))
    for wrong in (str(trained), weighted, None):
        refused("give a loaded base", lambda wrong=wrong: dinado_jax.load_hmm(trained, wrong))
    refused("give a loaded base, its .base", lambda: guarantee(weighted, ["dog ="], 8))
    refused("give what load_hmm returns", lambda: guarantee(base, ["dog ="], 8, hmm=str(trained)))
    refused("at least one", lambda: guarantee(base, [], 8, hmm=hmm))
    for wrong in ("at_most_12_words", len):
        refused("has no automata", lambda wrong=wrong: guarantee(base, ["a"], 8, wrong))
    named, _ = guarantee(base, ["dog ="], 8, "keywords & length <= 5")
    assert named.base is base
    other = random_hmm(2, 7, 0)
    message = error_of(lambda: guarantee(base, ["a"], 8, contains("dog"), hmm=other))
    assert "the HMM has 7 tokens, the base" in message
    message = error_of(lambda: guarantee(base, ["a"], 8, contains("dog"), weight=0.5))
    assert message == "weight is that of an HMM: give hmm, or leave it out"
    for few in (0, -5):
        refused("max_new_tokens = ", lambda few=few: guarantee(base, ["dog ="], few, hmm=hmm))
    refused("may need 3 tokens", lambda: guarantee(base, ["dog cat fox ="], 2, hmm=hmm))
    many = " ".join("abcdefghijklmn") + " ="
    refused("together they need more than .* states", lambda: guarantee(base, [many], 60, hmm=hmm))


def test_a_damaged_folder_is_refused(trained, base, tmp_path):
    assert "no hmm.json in" in error_of(dinado_jax.load_hmm, tmp_path, base)
    (tmp_path / "hmm.json").write_text((trained / "hmm.json").read_text())
    (file,) = trained.glob("*.safetensors")
    assert f"{file.name} is not what" in error_of(dinado_jax.load_hmm, tmp_path, base)
    content = file.read_bytes()
    (tmp_path / file.name).write_bytes(content[:-4] + bytes(4))
    assert f"{file.name} is not what" in error_of(dinado_jax.load_hmm, tmp_path, base)

"""A controlled model in one call, from any callable and a list of prompts."""

import dataclasses
import json

import numpy as np
import pytest
from support.refusal import error_of

import dinado_jax
from dinado_jax.constraints import without
from dinado_jax.stages.run_folder import STAGES

pytestmark = pytest.mark.usefixtures("compiled_quickly")
PROMPTS = ["dog chase kite =", "cat carry ball =", "girl kick box ="]
TINY = {
    "delta.rank": 2,
    "train.steps": 6,
    "train.rounds": 2,
    "train.warmup_direction": 0,
    "train.batch": 8,
    "rollout.batch": 32,
    "rollout.max_new_tokens": 8,
    "parallel.devices": 1,
}


@pytest.fixture(scope="module")
def base(finished_run):
    return dinado_jax.load(finished_run / "sft" / "base")


def even(text):
    return len(text) % 2 == 0


def fit(base, oracle, prompts=PROMPTS, *, settings=None, **others):
    settings = TINY | (settings or {})
    return dinado_jax.fit(base, oracle, prompts, **{"rollouts": 32, "settings": settings, **others})


def refusal(*args, **others):
    return error_of(lambda: fit(*args, **others))


def leaves(model):
    import jax

    return jax.tree.leaves(model.params)


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(leaves(one), leaves(other), strict=True))


@pytest.fixture(scope="module")
def kept(base, tmp_path_factory):
    """A model and its folder."""
    folder = tmp_path_factory.mktemp("fit") / "run"
    return fit(base, even, folder=folder), folder


def test_a_model_of_a_lambda(base, kept, tmp_path, monkeypatch):
    """Of a temporary folder nothing is left, and nothing of it is needed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = fit(base, lambda text: len(text) % 2 == 0)
    assert not list(tmp_path.iterdir())
    assert equal(model, kept[0]) and model.base.folder == base.folder
    assert model.base.max_new_tokens == 8
    (one,) = dinado_jax.generate(model, PROMPTS[:1])
    assert len(one.tokens) <= 8 and not np.allclose(one.log_probs, one.log_probs_base)
    again = fit(model.base, even, seed=1)
    assert not equal(again, model)
    assert len(dinado_jax.compose(model, again).parts) == 2


def test_a_controlled_model_as_the_base_of_another(kept, tmp_path):
    base = kept[0].as_base()
    assert "save it, base.save(FOLDER), and give that folder" in refusal(base, even)
    base.save(tmp_path / "base")
    model = fit(tmp_path / "base", lambda text: len(text) % 3 == 0)
    assert equal(fit(dinado_jax.load(tmp_path / "base"), lambda text: len(text) % 3 == 0), model)


def test_a_template_and_a_precision_are_those_of_the_base(base):
    around = "Say: {prompt} now"
    loaded = dinado_jax.load(base.folder, dtype="bfloat16", prompt_template=around)
    model = fit(loaded, even)
    assert model.base.codec.template == loaded.codec.template
    assert model.base.model.dtype == "bfloat16"
    asked = {"base.dtype": "bfloat16", "base.prompt_template": around}
    assert equal(fit(base.folder, even, settings=asked), model)


def test_a_folder_is_a_run_that_the_same_call_continues(base, kept, capsys):
    model, folder = kept
    assert equal(dinado_jax.load_run(folder), model)
    capsys.readouterr()
    assert equal(fit(str(base.folder), even, folder=folder), model)
    assert capsys.readouterr().err.count("already done") == 3
    assert not any((folder / stage).exists() for stage in STAGES[3:])
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    assert rows == [{"prompt": prompt} for prompt in PROMPTS]


def test_what_is_left_of_a_call_is_continued(base, kept, tmp_path):
    """As if it had been stopped before the training."""
    other = {"train.steps": 2, "train.rounds": 1}
    fit(base, even, folder=tmp_path / "run", settings=other)
    for file in sorted((tmp_path / "run" / "train").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    assert equal(fit(base, even, folder=tmp_path / "run"), kept[0])


def test_what_has_changed_is_named(base, kept, tmp_path):
    folder = {"folder": kept[1]}
    assert "prompts.jsonl has other prompts than" in refusal(base, even, PROMPTS[:2], **folder)
    said = refusal(base, lambda text: len(text) % 3 == 0, **folder)
    assert "begun with another rollout.oracle" in said and "'callable even'" in said
    said = refusal(base, even, settings={"train.learning_rate": 0.5}, **folder)
    assert "begun with another train.learning_rate" in said
    assert "begun with another rollout.prompts (4, now 8)" in refusal(
        base, even, rollouts=64, **folder
    )
    assert "begun with another seed" in refusal(base, even, seed=2, **folder)

    def even_(text):
        return len(text) % 2 == 1

    even_.__qualname__ = "even"
    said = refusal(base, even_, **folder)
    assert "other content of rollout.oracle (the source of callable even)" in said
    base.save(tmp_path / "copy")
    assert "begun with another base.path" in refusal(tmp_path / "copy", even, **folder)


class Judge:
    def __init__(self, remainder):
        self.remainder = remainder

    def judge(self, text):
        return len(text) % 2 == self.remainder

    def __call__(self, prompt, text):
        return self.judge(text)


FORMS = {
    "method": Judge(0).judge,
    "object": Judge(0),
    "pairs": lambda prompt, text: float(prompt.endswith("=") and len(text) % 2 == 0),
    "lists": lambda prompts, texts: [len(text) % 2 == 0 for text in texts],
    "name": "support.tiny_run:even",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_oracle(base, kept, form):
    assert equal(fit(base, FORMS[form]), kept[0])


def test_a_constraint_has_automata(base, tmp_path):
    word = without("dog")
    model = fit(base, word, folder=tmp_path / "run", settings={"control.state": True})
    made = dinado_jax.generate(model, PROMPTS, samples=4)
    assert all(word(PROMPTS, [one.text for one in made if one.finished]))
    for one in made:
        if model.base.codec.targets([one.text]) == [one.tokens.tolist()]:
            (again,) = dinado_jax.score(model, [one.prompt], [one.text])
            np.testing.assert_allclose(again, one.log_probs, atol=1e-4)
    said = error_of(dinado_jax.load_run, tmp_path / "run")
    assert "'callable Constraint' was given to dinado_jax.fit" in said and "call fit again" in said
    assert equal(fit(base, word, folder=tmp_path / "run", settings={"control.state": True}), model)
    said = refusal(base, without("cat"), folder=tmp_path / "run", settings={"control.state": True})
    assert "other content of rollout.oracle" in said
    said = refusal(base, even, settings={"control.state": True})
    assert "control.state = true needs an oracle with automata" in said


def test_one_prompt_and_the_empty_one(base):
    model = fit(base, even, [""], settings={"rollout.max_new_tokens": 23})
    assert model.base.max_new_tokens == 23
    assert dinado_jax.generate(model, [""])[0].prompt == ""


def test_texts_are_as_long_as_there_is_room(base):
    short = {key: value for key, value in TINY.items() if key != "rollout.max_new_tokens"}
    one = dataclasses.replace(base, max_new_tokens=3)
    assert dinado_jax.fit(one, even, PROMPTS, rollouts=32, settings=short).base.max_new_tokens == 3
    words = len(base.codec.prompts(["dog " * 12])[0])
    model = dinado_jax.fit(base, even, ["dog " * 12], rollouts=32, settings=short)
    assert model.base.max_new_tokens == 24 - words


@pytest.mark.parametrize("kind", ["soft", "nado"])
def test_another_kind_of_control(base, kind):
    settings = {key: value for key, value in TINY.items() if key != "delta.rank"}
    model = dinado_jax.fit(base, even, PROMPTS, control=kind, rollouts=32, settings=settings)
    assert f"{kind} control" in repr(model)


def test_faults_of_arguments(base):
    assert "prompts is 'dog =': give a list of prompts" in refusal(base, even, "dog =")
    assert "there are no prompts" in refusal(base, even, [])
    assert "prompt 1 is 3: give text" in refusal(base, even, ["a", 3])
    assert "prompt 0 has " in refusal(base, even, ["dog " * 40])
    assert "rollouts = 0: it must be at least 1" in refusal(base, even, rollouts=0)
    assert "control is 'nadoo': give one of nado, " in refusal(base, even, control="nadoo")
    assert "control is ['nado']: give one of nado, " in refusal(base, even, control=["nado"])
    assert "seed = -1: it must be in [0, 2^32)" in refusal(base, even, seed=-1)
    assert "base is 3: give what dinado_jax.load returns" in refusal(3, even)
    assert "no such folder, './nowhere'" in refusal("./nowhere", even)
    said = refusal(base, "lexical", ["dog =", "a house"])
    assert said.startswith("prompt 1, prompt 'a house'")
    for params in ({}, {**base.params, "wpe": {"embedding": 0}}):
        changed = dataclasses.replace(base, params=params)
        assert "base has other parameters than its folder" in refusal(changed, even)
    assert "none of the 32 rollouts satisfies" in refusal(base, lambda text: False)


def test_faults_of_settings(base):
    def said(**settings):
        settings = {key.replace("__", "."): value for key, value in settings.items()}
        return refusal(base, even, settings=settings)

    assert "unknown config key 'train.step' in settings: did you mean 'train.steps'" in said(
        train__step=3
    )
    assert "train.steps = 'many' in settings: it must be an integer" in said(train__steps="many")
    assert "it is a section, write train.KEY" in said(train={"steps": 3})
    assert "base.n_layer = 3 in settings has no effect" in said(base__n_layer=3)
    assert "base.path in settings is for the argument base" in said(base__path="x")
    assert "control.kind in settings is for the argument control" in said(control__kind="soft")
    assert "task.source in settings is for the argument prompts" in said(task__source="x")
    assert "evaluate.samples in settings has no effect" in said(evaluate__samples=3)
    assert "settings is 3: give a dict" in error_of(
        lambda: dinado_jax.fit(base, even, PROMPTS, settings=3)
    )


def test_several_processes_are_refused(base, monkeypatch):
    monkeypatch.setattr("dinado_jax.stages.fit.process_count", lambda: 2)
    assert "runs in one process" in refusal(base, even)

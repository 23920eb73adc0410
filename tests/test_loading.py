"""A control is two files: what is loaded is what was saved, and anything else is refused."""

import dataclasses
import json
import os
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support import word_base
from support.refusal import error_of

import dinado_jax
from dinado_jax.constraints import without
from dinado_jax.controls.control_file import CONTROL, WEIGHTS
from dinado_jax.data.prompts import PromptSet
from dinado_jax.language_model import Base, Controlled
from dinado_jax.utils.files import file_digest, read_json, write_sealed

pytestmark = pytest.mark.usefixtures("compiled_quickly")
PROMPTS, TEXTS = ["dog =", "cat fox ="], ["the dog saw a cat .", "the fox and a cat"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return dinado_jax.load(word_base.write(tmp_path_factory.mktemp("base") / "base"))


@pytest.fixture(scope="module")
def saved(base, tmp_path_factory):
    """The folder of a merge control."""
    folder = tmp_path_factory.mktemp("control") / "control"
    word_base.controlled(base, "merge").save(folder)
    return folder


@pytest.mark.parametrize("dtype", ["fp16", "float16", "float64", "int32", None, 16])
def test_what_is_no_dtype_of_a_base(base, dtype):
    for name in ("dtype", "param_dtype"):
        said = error_of(lambda name=name: dinado_jax.load(base.folder, **{name: dtype}))
        assert said == f"{name} = {dtype!r}: give 'float32' or 'bfloat16'"


def test_what_is_no_path():
    assert error_of(dinado_jax.load, None) == "None is no path: give a folder or a name on the hub"


def test_any_path_like_object_is_a_path(base):
    class Folder(os.PathLike):
        def __fspath__(self):
            return str(base.folder)

    assert dinado_jax.load(Folder()).model == base.model


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def rewrite(folder, change):
    """Changes control.json as a program that keeps to its format would."""
    tree = read_json(folder / CONTROL, "")
    del tree["digest"]
    change(tree)
    write_sealed(folder / CONTROL, tree)


def edit(folder, change):
    """Changes the tensors, and what control.json says of their file."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    digest = file_digest(folder / WEIGHTS)
    rewrite(folder, lambda tree: tree.update(parameters=digest))


@pytest.mark.parametrize("kind", word_base.KINDS)
def test_what_is_loaded_has_the_same_log_probabilities_to_the_bit(kind, base, tmp_path):
    model = word_base.controlled(base, kind).tilted(strength=0.5)
    model.save(tmp_path / "new" / "control")
    found = dinado_jax.load(tmp_path / "new" / "control")
    assert isinstance(found, Controlled) and found.control == model.control
    assert found.tilt == model.tilt and (found.automata_of is None) == (kind != "state")
    for one, other in zip(found.score(PROMPTS, TEXTS), model.score(PROMPTS, TEXTS)):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(other, model.base.score(PROMPTS, TEXTS)[-1])
    np.testing.assert_array_equal(found.prompt_values(PROMPTS), model.prompt_values(PROMPTS))
    assert sorted(path.name for path in (tmp_path / "new" / "control").iterdir()) == [
        CONTROL,
        WEIGHTS,
    ]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["control"]


def test_what_is_recorded(base, saved):
    tree = json.loads((saved / CONTROL).read_text())
    assert tree["version"] == dinado_jax.__version__ and tree["format"] == 1
    assert tree["settings"]["base"]["path"] == str(base.folder.resolve())
    assert tree["settings"]["control"]["kind"] == "merge"
    assert tree["settings"]["rollout"]["oracle"] == "lexical"
    assert tree["figures"] == {"success_rate": 0.5, "efficiency": None}
    origin = dinado_jax.load_control(saved, base).origin
    assert origin.figures == tree["figures"] and origin.settings.rollout.oracle == "lexical"


def test_how_it_is_loaded_again(base, tmp_path):
    """With the precision, the template and the length of texts that it had."""
    other = dinado_jax.load(base.folder, dtype="bfloat16", prompt_template="Say: {prompt} now")
    other = dataclasses.replace(other, max_new_tokens=7)
    word_base.controlled(other, "merge").save(tmp_path / "control")
    found = dinado_jax.load(tmp_path / "control").base
    assert found.model == other.model and found.prompt_template == "Say: {prompt} now"
    assert found.max_new_tokens == 7
    said = error_of(dinado_jax.load_control, tmp_path / "control", base)
    assert "with prompt_template = 'Say: {prompt} now', not ''" in said


def test_the_base_is_given_or_found_by_its_name(base, saved, tmp_path):
    assert dinado_jax.load_control(saved, base).base.params is base.params
    moved = shutil.copytree(base.folder, tmp_path / "moved")
    assert dinado_jax.load_control(str(saved), moved).base.folder == moved
    word_base.controlled(dinado_jax.load(moved), "merge").save(tmp_path / "control")
    shutil.rmtree(moved)
    said = error_of(dinado_jax.load, tmp_path / "control")
    assert said.startswith(f"the base of the control in {tmp_path / 'control'}, no such folder")
    assert dinado_jax.load_control(tmp_path / "control", base)


def test_another_base_is_refused_by_name(base, saved, tmp_path):
    other = word_base.write(tmp_path / "other", seed=1)
    for given in (other, dinado_jax.load(other)):
        said = error_of(dinado_jax.load_control, saved, given)
        assert f"is a control of the base '{base.folder}'" in said
        assert f"and {other} is another" in said
    changed = word_base.controlled(base, "merge").as_base()
    said = error_of(dinado_jax.load_control, saved, changed)
    assert "base has other parameters than its folder" in said


def test_only_what_is_on_disk_is_a_base_to_save_a_control_of(base, tmp_path):
    model = word_base.controlled(base, "merge")
    said = error_of(word_base.controlled(model.as_base(), "merge").save, tmp_path / "a")
    assert "base has other parameters than its folder" in said
    said = error_of(dataclasses.replace(model, origin=None).save, tmp_path / "a")
    assert "only a trained control is saved" in said
    (tmp_path / "file").write_text("kept")
    assert "is there already" in error_of(model.save, tmp_path)
    wrong = dataclasses.replace(model, params={**model.params, "more": np.zeros(2, np.float32)})
    assert "more expected nothing, found (2,)" in error_of(wrong.save, tmp_path / "a")
    reading, _ = word_base.controlled(base, "state").for_prompts(PromptSet(PROMPTS))
    assert "automata/table expected nothing" in error_of(reading.save, tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files_that_are_missing_or_damaged(copy):
    whole = (copy / WEIGHTS).read_bytes()
    for damaged in (whole[:-1], whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:], b""):
        (copy / WEIGHTS).write_bytes(damaged)
        assert "is not the file that control.json was written with" in error_of(
            dinado_jax.load, copy
        )
    (copy / WEIGHTS).unlink()
    assert f"no {WEIGHTS} in {copy}" in error_of(dinado_jax.load, copy)
    text = (copy / CONTROL).read_text()
    (copy / CONTROL).write_text(text.replace('"merge"', '"nado"', 1))
    assert "changed since it was written" in error_of(dinado_jax.load, copy)
    (copy / CONTROL).write_text(text[: len(text) // 2])
    assert "malformed JSON" in error_of(dinado_jax.load, copy)
    (copy / CONTROL).unlink()
    assert f"no {CONTROL} in {copy}" in error_of(dinado_jax.load_control, copy)


def test_files_of_another_content(copy):
    rewrite(copy, lambda tree: tree.update(format=2, settings="of another form"))
    assert "has format 2, this version of dinado-jax reads 1" in error_of(dinado_jax.load, copy)
    rewrite(copy, lambda tree: tree.update(format=1))
    assert "settings is 'of another form', not an object" in error_of(dinado_jax.load, copy)
    rewrite(copy, lambda tree: tree.update(settings={}, figures={"success_rate": "many"}))
    assert "settings.base is missing" in error_of(dinado_jax.load, copy)


def test_figures_may_be_missing_or_have_no_value(base, copy):
    for figures in (None, {}, {"success_rate": 1, "efficiency": None}):
        rewrite(copy, lambda tree, figures=figures: tree.update(figures=figures))
        assert dinado_jax.load_control(copy, base).origin.figures == figures
    rewrite(copy, lambda tree: tree.update(figures={"success_rate": "many"}))
    said = error_of(dinado_jax.load_control, copy, base)
    assert "figures, success_rate is 'many', not an integer or a number" in said


@pytest.mark.parametrize(
    ("section", "changes", "said"),
    [
        ("control", {"kind": "prompt"}, "control.kind = 'prompt': one of nado, soft, merge, hard"),
        ("control", {"layers": 10**9}, "control.layers = 1000000000: it must be at most"),
        ("control", {"colour": 1}, "unknown config key 'control.colour'"),
        ("delta", {"rank": "many"}, "delta.rank = 'many'"),
        ("delta", {"rank": 3}, "weights do not fit"),
        ("decode", {"strength": -1.0}, "decode.strength = -1.0: it must be 0 or more"),
        ("control", {"kind": "nado"}, "weights do not fit"),
    ],
)
def test_settings_that_no_control_has(section, changes, said, copy):
    rewrite(copy, lambda tree: tree["settings"][section].update(changes))
    line = error_of(dinado_jax.load, copy)
    assert said in line and str(copy) in line


def test_tensors_that_do_not_fit(copy):
    name = "norm/hidden_bias"
    edit(copy, lambda tensors: tensors.update(more=np.zeros(3, np.float32)))
    assert "more expected nothing, found (3,)" in error_of(dinado_jax.load, copy)
    edit(copy, lambda tensors: tensors.pop("more"))
    edit(copy, lambda tensors: tensors.update({name: tensors[name][1:]}))
    assert f"{name} expected (32,), found (31,)" in error_of(dinado_jax.load, copy)
    edit(copy, lambda tensors: tensors.update({name: np.full(32, np.nan, np.float32)}))
    assert f"{name} holds values that are not finite" in error_of(dinado_jax.load, copy)
    edit(copy, lambda tensors: tensors.update({name: np.zeros(32, np.int32)}))
    assert f"{name} expected float32" in error_of(dinado_jax.load, copy)
    edit(copy, lambda tensors: tensors.pop(name))
    assert f"{name} expected (32,), found nothing" in error_of(dinado_jax.load, copy)


def test_the_oracle_of_a_control_with_state(base, saved, tmp_path):
    """Code is not imported because a file names it."""
    model = word_base.controlled(base, "state")
    for name in ("callable Constraint", "support.word_base:automata"):
        rollout = dataclasses.replace(model.origin.settings.rollout, oracle=name)
        settings = dataclasses.replace(model.origin.settings, rollout=rollout)
        folder = tmp_path / name.split()[0]
        dataclasses.replace(
            model, origin=dataclasses.replace(model.origin, settings=settings)
        ).save(folder)
        said = error_of(dinado_jax.load, folder)
        assert f"reads the state of its oracle '{name}'" in said and "oracle=..." in said
        found = dinado_jax.load_control(folder, base, oracle="lexical")
        one, other = (m.score(PROMPTS[:1], TEXTS[:1])[0] for m in (found, model))
        np.testing.assert_array_equal(one, other)
    word = without("cat")
    assert dinado_jax.load_control(folder, base, oracle=word).automata_of == word.automata
    for given in ("mentions_colour", lambda text: True):
        said = error_of(lambda given=given: dinado_jax.load_control(folder, base, oracle=given))
        assert "has no automata" in said
    said = error_of(lambda: dinado_jax.load_control(saved, base, oracle="lexical"))
    assert "reads no state of an oracle: leave it out" in said


def test_load_takes_settings_of_a_base_alone(base, saved):
    said = error_of(lambda: dinado_jax.load(saved, dtype="bfloat16"))
    assert "has a control, and dtype is a setting of bases" in said
    assert isinstance(dinado_jax.load(base.folder), Base)


def test_a_control_of_a_base_on_the_hub_names_it(base, tmp_path, monkeypatch):
    asked = []

    def download(name, allow_patterns):
        asked.append(name)
        return str(base.folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    word_base.controlled(dinado_jax.load("me/base"), "merge").save(tmp_path / "control")
    tree = json.loads((tmp_path / "control" / CONTROL).read_text())
    assert tree["settings"]["base"]["path"] == "me/base"
    asked.clear()
    assert dinado_jax.load(tmp_path / "control").base.name == "me/base" and asked == ["me/base"]


def test_it_is_loaded_from_the_hub(base, saved, monkeypatch):
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, allow_patterns: str(saved)
    )
    for found in (dinado_jax.load("me/control"), dinado_jax.load_control("me/control", base)):
        assert jax.tree.all(
            jax.tree.map(np.array_equal, found.params, dinado_jax.load_control(saved, base).params)
        )

"""Nothing is reused whose input has changed: every file that a stage reads is edited in place, in
the middle of each stage and after the last, and the same command is given again."""

import contextlib
import json
import shutil

import numpy as np
import pytest
from support import stops, tiny_run

from dinado_jax.distributed import signals
from dinado_jax.errors import InputError
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.stages.context import Context
from dinado_jax.stages.input_digests import input_digests
from dinado_jax.stages.pipeline import run_stages
from dinado_jax.stages.run_folder import STAGES
from dinado_jax.tasks import toy

ORACLE = (
    "from oracle_helper import judged\n\n\ndef oracle(prompts, texts):\n    return judged(texts)\n"
)
HELPER = "def judged(texts):\n    return [len(text) % 2 == 0 for text in texts]\n"


class World:
    """A run of the tiniest model that reads everything a run can read, and copies of its folder
    at the moments where it was stopped."""

    def __init__(self, root):
        self.root, self.run = root, root / "run"
        self.snapshots = {}
        data = root / "data"
        data.mkdir()
        for split, count in (("train", 400), ("dev", 4), ("test", 8)):
            rows = [
                {"concepts": example.prompt.removesuffix(" =").split(), "scene": example.references}
                for example in toy.examples(split, count, 0)
            ]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (data / f"{split}.jsonl").write_text(text)
        captions = [example.references[0] for example in toy.examples("train", 20, 1)]
        (root / "plain.txt").write_text("\n".join(captions) + "\n")
        prompts = [example.prompt for example in toy.examples("dev", 8, 1)]
        (root / "prompts.txt").write_text("\n".join(prompts) + "\n")
        (root / "oracle_here.py").write_text(ORACLE)
        (root / "oracle_helper.py").write_text(HELPER)

    def config(self, *more):
        return tiny_run.config(
            "task.name=commongen",
            f"task.source={self.root / 'data'}",
            f"sft.pretrain_path={self.root / 'plain.txt'}",
            "sft.pretrain_steps=4",  # as many as sft.steps: one program
            f"evaluate.prompt_file={self.root / 'prompts.txt'}",
            "rollout.oracle=oracle_here:oracle",
            "rollout.references=true",
            "train.reference_weight=1.0",
            # All rows, references too, have the same width: few programs are compiled.
            "base.vocab_size=1000",
            "base.n_positions=16",
            "rollout.batch=8",
            "decode.batch=8",
            "train.base_states=float32",
            *more,
        )

    def command(self, *more):
        run_stages(self.config(*more), STAGES, self.run)

    def keep(self, name):
        shutil.copytree(self.run, self.root / "kept" / name)

    def restore(self, name):
        kept = self.root / "kept" / name
        if everything(self.run) != everything(kept):
            shutil.rmtree(self.run, ignore_errors=True)
            shutil.copytree(kept, self.run)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Stopped once in each stage; each moment is kept, and so is the end."""
    with tiny_run.quick_compilation(tmp_path_factory), pytest.MonkeyPatch.context() as patch:
        world = World(tmp_path_factory.mktemp("world"))
        patch.syspath_prepend(str(world.root))
        run = world.run
        for stage, reached in {
            "sft": stops.at_step(run / "sft" / "pretrain.jsonl", 2),
            "rollout": stops.with_parts(run / "rollout", 2),
            "train": (run / "train" / "round_1.npz").exists,
            "generate": stops.with_parts(run / "generate", 5),  # four are the base's
        }.items():
            with patch.context() as inner, pytest.raises(signals.Stopped):
                stops.stop_when(inner, reached)
                world.command()
            assert not (run / stage / "done.json").exists()
            world.keep(stage)
        world.command()
        world.keep("end")
        shutil.rmtree(run / "evaluate")
        world.keep("evaluate")
        yield world


# How a message calls what lies outside of the run.
NAMES = {
    "data/train.jsonl": "task.source",
    "plain.txt": "sft.pretrain_path",
    "prompts.txt": "evaluate.prompt_file",
    "oracle_here.py": "rollout.oracle",
    "oracle_helper.py": "rollout.oracle",
}


# What is edited, by the path from the world's folder, and how.


def appended(path):
    path.write_bytes(path.read_bytes() + b"the boy kicks a drum\n")


def another_word(path):
    text = path.read_text()
    assert "dog" in text
    path.write_text(text.replace("dog", "fox"))


def shorter(path):
    path.write_bytes(b"\n".join(path.read_bytes().splitlines()[:-1]) + b"\n")


def reordered(path):
    path.write_text("".join(sorted(path.read_text().splitlines(keepends=True), reverse=True)))


def duplicated(path):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[0]]))


def duplicated_row(path):
    """Another reference of the first example, in a line of its own."""
    first = json.loads(path.read_text().splitlines()[0])
    path.write_text(path.read_text() + json.dumps({**first, "scene": ["one more ."]}) + "\n")


def inverted(path):
    path.write_text(path.read_text().replace("== 0", "== 1"))


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-7])


def removed(path):
    path.unlink()


def swapped_ids(path):
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, two = sorted(vocabulary, key=vocabulary.get)[40:42]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    path.write_text(json.dumps(tokenizer))


def other_value(path):
    content = json.loads(path.read_text())
    name = next(name for name, value in content.items() if isinstance(value, (int, float)))
    path.write_text(json.dumps({**content, name: content[name] + 1}))


def emptied(path):
    path.write_text("{}")


def other_label(path):
    """Written as the file was, except for one label, with the seal that it had."""
    with np.load(path) as arrays:
        arrays = dict(arrays)
    arrays["label"][0] = 1 - arrays["label"][0]
    with path.open("wb") as file:
        np.savez(file, **arrays)


def resealed(path):
    """A file that is whole in itself, but of other rows."""
    rows = Rollouts.load(path)
    rows.tokens[:, -1] += 1
    rows.save(path)


def other_line(change):
    def edit(path):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        change(lines[1])
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    edit.__name__ = f"other_line_{change.__name__}"
    return edit


def label(line):
    line["label"] = 1 - line["label"]


def no_number(line):
    line["log_prob"] = float("nan")


def text(line):
    line["text"] += " and more"


DATA = [
    ("data/train.jsonl", another_word),
    ("data/train.jsonl", shorter),
    ("oracle_here.py", lambda path: path.write_text(ORACLE.replace("texts)", "texts[:])"))),
    ("oracle_helper.py", inverted),
]
PROMPTS = [("prompts.txt", edit) for edit in (another_word, shorter, reordered, duplicated)]
BASE = [
    ("run/sft/base/model.safetensors", flipped),
    ("run/sft/base/tokenizer.json", swapped_ids),
    ("run/sft/base/config.json", other_value),
    ("run/sft/base/tokenizer_config.json", removed),
    ("run/sft/base/added_tokens.json", lambda path: path.write_text('{"<new>": 7}')),
    ("run/sft/done.json", emptied),
]
ROLLOUTS = [
    ("run/rollout/rollouts.npz", other_label),
    ("run/rollout/rollouts.npz", resealed),
    ("run/rollout/rollouts.npz", truncated),
    ("run/rollout/rollouts.npz", removed),
]
CONTROL = [("run/train/control/*/manifest.json", flipped), ("run/train/control/**/d/*", flipped)]
SAMPLES = [
    ("run/generate/control.jsonl", edit)
    for edit in (shorter, truncated, duplicated, *map(other_line, (label, no_number, text)))
] + [("run/generate/base.jsonl", other_line(label)), ("run/generate/base.jsonl", removed)]
REFUSED = {
    "sft": [
        ("data/train.jsonl", another_word),
        ("data/train.jsonl", duplicated_row),
        ("plain.txt", appended),
        ("plain.txt", another_word),
        ("run/sft/tokenizer/tokenizer.json", swapped_ids),
        ("run/sft/config.json", removed),
        ("run/sft/config.json", emptied),
    ],
    "rollout": [*DATA, *BASE, ("run/rollout/config.json", removed)],
    "train": [
        *DATA,
        *BASE,
        *ROLLOUTS,
        ("run/train/round_1.npz", other_label),
        ("run/train/round_1.npz", truncated),
        ("run/train/config.json", flipped),
    ],
    "generate": [*DATA[2:], *PROMPTS, *BASE, *CONTROL, ("run/generate/config.json", removed)],
    "evaluate": [
        *PROMPTS[:2],
        *DATA[3:],
        *SAMPLES,
        *BASE[:2],
        ("run/generate/done.json", flipped),
    ],
    "end": [
        ("plain.txt", appended),
        *DATA,
        *PROMPTS,
        *BASE,
        *ROLLOUTS,
        *CONTROL,
        *SAMPLES,
        *((f"run/{stage}/done.json", edit) for stage in STAGES for edit in (flipped, emptied)),
        ("run/summary.json", other_value),
        ("run/report.html", appended),
    ],
}
CASES = [
    pytest.param(moment, path, edit, id=f"{moment}-{path}-{edit.__name__}")
    for moment, edits in REFUSED.items()
    for path, edit in edits
]


@contextlib.contextmanager
def edited(world, moment, pattern, edit):
    """The world at a moment, one file of it edited; put back afterwards."""
    world.restore(moment)
    paths = sorted(world.root.glob(pattern)) or [world.root / pattern]
    before = paths[0].read_bytes() if paths[0].exists() else None
    edit(paths[0])
    assert not paths[0].exists() or paths[0].read_bytes() != before
    yield
    if before is None:
        paths[0].unlink(missing_ok=True)
    elif paths[0].parent.exists():
        paths[0].write_bytes(before)


def everything(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {path.relative_to(folder): path.read_bytes() for path in files}


@pytest.mark.parametrize("moment, path, edit", CASES)
def test_a_changed_input_is_refused_by_name_and_nothing_is_lost(world, moment, path, edit):
    with edited(world, moment, path, edit):
        before = everything(world.run)
        with pytest.raises(InputError) as caught:
            world.command()
        assert everything(world.run) == before
    message = str(caught.value)
    assert "\n" not in message
    assert NAMES.get(path, str(world.run)) in message


PARTS = {
    "rollout": ["run/rollout/shards/*.npz"],
    "generate": ["run/generate/base_shards/*.npz"],
}


def of_other_prompts(path):
    """A part of a stage with other prompts, put in the place of this one."""
    with np.load(path) as arrays:
        arrays = dict(arrays)
    arrays["tokens"][:, 1] += 1
    with path.open("wb") as file:
        np.savez(file, **arrays)


@pytest.mark.parametrize("edit", [other_label, truncated, of_other_prompts, removed])
@pytest.mark.parametrize("moment", list(PARTS))
def test_a_changed_part_is_made_again(world, moment, edit):
    """Parts are only a stage's own work: what is not as it was written is drawn once more."""
    wanted = {"rollout": "rollout/rollouts.npz", "generate": "generate/base.jsonl"}[moment]
    with edited(world, moment, PARTS[moment][0], edit):
        until = STAGES[: STAGES.index(moment) + 1]
        run_stages(world.config(), until, world.run)
        assert (world.run / wanted).read_bytes() == (world.root / "kept/end" / wanted).read_bytes()


def test_unchanged_inputs_are_no_reason_to_do_anything_again(world):
    world.restore("end")
    before = everything(world.run)
    world.command()
    assert everything(world.run) == before


def test_another_stage_is_named_with_all_that_must_be_run_again(world):
    world.restore("end")
    shutil.rmtree(world.run / "rollout")
    helper = world.root / "oracle_helper.py"
    inverted(helper)
    with pytest.raises(InputError, match="delete the folders train, generate, evaluate in"):
        world.command()
    helper.write_text(HELPER)
    world.command()  # the same rollouts again, so that the rest still holds
    assert everything(world.run / "generate") == everything(world.root / "kept/end/generate")


def test_what_a_user_keeps_in_a_stage_folder_stays(world):
    world.restore("generate")
    notes = world.run / "generate" / "spare_shards" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    (world.run / "generate" / "base_shards" / "mine.txt").write_text("mine too")
    world.command()
    assert notes.read_text() == "mine"
    assert (world.run / "generate" / "base_shards" / "mine.txt").read_text() == "mine too"
    assert not list((world.run / "generate" / "base_shards").glob("*.npz"))


@pytest.mark.parametrize("home", ["constraint_made_here", "constraint_made_here.py"])
def test_a_constraint_is_identified_by_the_module_that_makes_it(tmp_path, monkeypatch, home):
    source = "from dinado_jax.constraints.words import contains\ndog = contains({})\n"
    module = tmp_path / "constraint_made_here.py"
    module.write_text(source.format("'dog'"))
    monkeypatch.chdir(tmp_path)
    config = tiny_run.config(f"rollout.oracle={home}:dog")
    found, key = [], f"rollout.oracle (the source of {home}:dog)"
    for text in ("'dog'", "'dog'", "'dogs'"):
        module.write_text(source.format(text))
        context = Context.of(config, tmp_path / "run")
        found.append(input_digests("rollout", context)[key])
    assert found[0] == found[1] != found[2]

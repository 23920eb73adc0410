"""A run whose every setting is another than its default and than its neighbours'.

Texts of six words, so that a tiny base satisfies the lexical oracle now and then; prompts with
several references, some of which fail; counts that differ, so that none stands for another.
"""

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import numpy as np

from dinado_jax.config.schema import Config
from dinado_jax.loading import load
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.stages.pipeline import run_stages
from dinado_jax.stages.run_folder import STAGES
from dinado_jax.stages.settings import load_config
from support import by_hand, tiny_run

WORDS = ("dog", "cat", "fox", "cow", "ant", "bee")
SETTINGS = """
name=words
seed=3
task.name=commongen
base.vocab_size=281
base.n_positions=20
base.n_embd=12
base.n_layer=1
base.n_head=3
sft.steps=18
sft.batch=10
sft.accumulate=2
sft.learning_rate=0.02
sft.warmup=1
sft.decay=constant
sft.weight_decay=0.1
sft.beta2=0.95
sft.clip=0.7
sft.pretrain_steps=2
sft.max_length=10
delta.rank=2
delta.alpha=3.0
delta.full=ln_f/\\w+
rollout.prompts=6
rollout.samples=3
rollout.max_new_tokens=6
rollout.batch=9
rollout.references=true
train.steps=4
train.rounds=3
train.average=1
train.batch=12
train.accumulate=3
train.learning_rate=0.03
train.warmup=1
train.weight_decay=0.2
train.beta2=0.9
train.clip=0.6
train.warmup_direction=1
train.refresh_prompts=4
train.refresh_samples=4
train.mixture=0.25
train.margin=2.5
train.anchor=0.2
train.bound=0.4
train.bellman=0.6
train.bellman_start=3
train.weight_clip=0.9
train.reference_weight=1.7
decode.temperature=0.9
decode.top_k=30
decode.top_p=0.97
decode.max_new_tokens=5
decode.batch=8
decode.strength=1.6
decode.target_rate=0.8
decode.reject=0.3
evaluate.split=dev
evaluate.prompts=6
evaluate.samples=4
evaluate.strengths=[1.6,0.7]
parallel.devices=1
run.log_every=1
run.save_every=17
"""


def write_data(folder: Path) -> None:
    """Task data and plain text; train has 12 prompts, dev 7, test 3."""
    rng = np.random.default_rng(0)
    concepts = [*itertools.combinations(WORDS, 1), *itertools.combinations(WORDS, 2)]
    order = rng.permutation(len(concepts))
    splits = {"train": order[:12], "dev": order[12:19], "test": order[17:20]}
    for split, chosen in splits.items():
        lines = []
        for number, i in enumerate(chosen):
            scenes = []
            for which in range(1 + number % 3):
                words = [*concepts[i], *rng.choice(WORDS, rng.integers(2, 4))]
                # The last of three misses its concepts.
                words = [w for w in words if which < 2 or w not in concepts[i]] or ["and"]
                scenes.append(" ".join([*rng.permutation(words), "."]))
            lines.append(json.dumps({"concepts": concepts[i], "scene": scenes}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    plain = [" ".join(rng.choice([*WORDS, "and"], rng.integers(1, 7))) for _ in range(40)]
    (folder / "plain.txt").write_text("\n".join([*plain, "nothing of the kind"]) + "\n")


_finished: dict[Path, Path] = {}


def finished(factory) -> Path:
    """The folder of data and of the finished run of these settings, made once a process: "data" and
    "run" in it, not to be changed.

    Args:
      factory: pytest's tmp_path_factory.
    """
    base = factory.getbasetemp()
    if base not in _finished:
        folder = factory.mktemp("words")
        (folder / "data").mkdir()
        write_data(folder / "data")
        with tiny_run.quick_compilation(factory):
            run_stages(config(folder / "data"), STAGES, folder / "run")
        _finished[base] = folder
    return _finished[base]


# What an earlier setting asks for and these runs do not have.
_OFF = """
train.mixture=0 train.margin=6 train.anchor=0.3 train.bound=0.3
train.bellman=1 train.bellman_start=0 train.rounds=1
train.refresh_prompts=1000 train.refresh_samples=8 train.warmup_direction=0
rollout.references=false train.reference_weight=0
decode.top_k=0 decode.top_p=1 decode.strength=1 decode.target_rate=1 decode.reject=0
evaluate.split=test evaluate.prompts=500
"""
TRUNCATED = """
rollout.oracle=support.word_run:by_number_of_words
rollout.temperature=0.8
rollout.top_k=12
rollout.top_p=0.9
rollout.prompts=5
rollout.samples=4
rollout.max_new_tokens=5
control.kind=hard
control.norm_bias=zero
train.objective=matching
train.weight_clip=0.7
train.steps=2
train.batch=8
train.accumulate=1
run.save_every=1
decode.temperature=0
decode.max_new_tokens=4
evaluate.samples=2
evaluate.strengths=[]
"""


def trained(factory, path: Path) -> tuple[Path, Path]:
    """The folder of data, and a copy of the finished run at `path` up to its trained control."""
    folder = finished(factory)
    left = shutil.ignore_patterns("generate", "evaluate")
    shutil.copytree(folder / "run", path, ignore=left)
    return folder / "data", path


def truncated(factory) -> tuple[Path, Config]:
    """A finished run on the base of the other: truncated rollouts, an oracle of soft labels that
    fails now and then, a hard control, greedy decoding of a prompt file. As `finished`."""
    folder = finished(factory)
    path = folder / "truncated"
    prompts = folder / "prompts.txt"
    other = config(
        folder / "data", *_OFF.split(), *TRUNCATED.split(), f"evaluate.prompt_file={prompts}"
    )
    if not path.exists():
        prompts.write_text("bee dog =\n\n  fox =  \ncow ant =\nant dog =\n")
        shutil.copytree(folder / "run" / "sft", path / "sft")
        with tiny_run.quick_compilation(factory):
            run_stages(other, STAGES, path)
    return path, other


@dataclasses.dataclass
class Files:
    """What a run has written."""

    path: Path
    config: Config

    def __post_init__(self):
        self.codec = load(self.path / "sft" / "base").codec
        self.base = by_hand.Model.load(self.path / "sft" / "base", self.config.base.n_head)
        self.scale = self.config.delta.alpha / self.config.delta.rank
        paths = [self.path / "rollout" / "rollouts.npz"]
        paths += sorted((self.path / "train").glob("round_*.npz"))
        self.rounds = [Rollouts.load(path) for path in paths]
        self.log = read_lines(self.path / "train" / "train.jsonl")

    def figures(self, stage: str) -> dict:
        return json.loads((self.path / stage / "done.json").read_text())["figures"]

    def state(self, step: int) -> dict:
        """Of training after a step."""
        return by_hand.load_state(self.path / "train" / "checkpoints" / str(step))

    def control(self, params: dict, form: str = "split") -> by_hand.Merge:
        return by_hand.Merge(self.base, params, self.scale, form)

    def prompts_of(self, rows) -> dict[int, str]:
        """The texts of the prompts of rows, by their numbers."""
        ids, first = np.unique(rows.prompt_id, return_index=True)
        ids_of = [rows.tokens[i, 1 : rows.prompt_length[i]] for i in first]
        return dict(zip(ids.tolist(), self.codec.decode(ids_of)))

    def texts_of(self, rows) -> list[str]:
        spans = zip(rows.tokens, rows.prompt_length, rows.length)
        return self.codec.decode([row[start:end] for row, start, end in spans])


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_examples(path: Path) -> list[tuple[str, list[str]]]:
    """(prompt, references) of a file of the task."""
    return [(" ".join(line["concepts"]) + " =", line["scene"]) for line in read_lines(path)]


def lexical(prompt: str, text: str) -> bool:
    """What the oracle of that name says of these words."""
    return set(prompt.removesuffix(" =").split()) <= set(text.split())


def refuses(text: str) -> bool:
    """Whether the oracle below fails on a text."""
    return "fox cow" in text


def by_number_of_words(prompts, texts):
    """An oracle of soft labels: 0, 1/4 or 1 for no word, one, or different ones."""
    if any(map(refuses, texts)):
        raise ValueError("a fox and a cow")
    return [(0.0, 0.25, 1.0)[min(2, len({*text.split()} - {"."}))] for text in texts]


def config(data: Path, *overrides: str) -> Config:
    """The settings above, with data of `write_data`."""
    given = [f"task.source={data}", f"sft.pretrain_path={data / 'plain.txt'}"]
    return load_config(None, [*SETTINGS.split(), *given, *overrides])

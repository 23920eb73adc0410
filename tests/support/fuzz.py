"""Mutated inputs of every kind: each is refused in one line or taken for what it says, never else.

    PYTHONPATH=tests python -m support.fuzz --count 500 --seed 0    # of each kind
    PYTHONPATH=tests python -m support.fuzz --case model:17         # one case again

A case is a kind and a number, from which everything about it is drawn. What is accepted is compared
with an independent reading of the same input. Nothing may raise anything but InputError, print a
traceback, or take longer than a minute.
"""

import argparse
import collections
import contextlib
import csv
import dataclasses
import gzip
import io
import json
import os
import random
import shutil
import signal
import tempfile
import tomllib
from pathlib import Path

import numpy as np

from dinado_jax.config import schema
from dinado_jax.config.schema import Config
from dinado_jax.distributed import signals
from dinado_jax.errors import InputError
from dinado_jax.loading import load
from dinado_jax.oracles.judge import judge
from dinado_jax.stages.context import Context
from dinado_jax.stages.pipeline import run_stages
from dinado_jax.stages.run_folder import STAGES
from dinado_jax.stages.settings import load_config
from dinado_jax.tasks import commongen, toy
from dinado_jax.tasks.table import make_task
from support import tiny_run

SECONDS = 60
DEEP = 100_000
ODD_TEXTS = [
    "", " ", "\x00", "\x1b[31mred", "\ufeff", "\u202egnp.exe", "é" * 300, "a" * 100_000, "\ud800",
    "../..", "/dev/zero", "~", "1e400", "nan", "None", "true", "<|endoftext|>", "=", " =",
    "\r", "\u2028",
]  # fmt: skip
ODD_NUMBERS = [0, -1, 1, 2, 3.5, -0.0, 1e308, 10**12, 10**30, 10**400, 2**31, 2**63, True, False]
ODD_VALUES = [*ODD_TEXTS, *ODD_NUMBERS, None, [], {}, [[]], [None], {"a": {}}, float("nan")]


class Accepted(AssertionError):
    """An input was taken for something it does not say."""


def require(holds: bool, what: str) -> None:
    if not holds:
        raise Accepted(what)


# Mutations


def of_bytes(rng: random.Random, content: bytes) -> bytes:
    """One or a few edits of a file as bytes."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(content) + 1)
        end = min(len(content), at + rng.choice([1, 2, 8, 50]))
        edit = rng.randrange(7)
        if edit == 0 and content:
            content[min(at, len(content) - 1)] ^= 1 << rng.randrange(8)
        elif edit == 1:
            del content[at:end]
        elif edit == 2:
            content[at:at] = rng.choice(ODD_TEXTS).encode("utf-8", "surrogatepass")[:2000]
        elif edit == 3:
            content[at:at] = content[at:end]
        elif edit == 4:
            del content[at:]
        elif edit == 5:
            content[at:at] = rng.choice([b"[" * DEEP, b"9" * 5000, b'{"a":' * 5000, b"\xff\xfe"])
        else:
            content = bytearray(
                rng.randbytes(len(content)) if rng.random() < 0.2 else content[::-1]
            )
    return bytes(content)


def of_json(rng: random.Random, value):
    """One edit somewhere in a JSON value."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value))
        edit = rng.randrange(6)
        if edit == 0:
            return {k: v for k, v in value.items() if k != key}
        if edit == 1:
            return {(k + "_" if k == key else k): v for k, v in value.items()}
        return {**value, key: of_json(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], of_json(rng, value[at]), *value[at + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.5:
        return value + rng.choice([-1, 1, 7])
    return rng.choice(ODD_VALUES)


def as_json(value) -> bytes:
    text = json.dumps(value)
    return text.replace(f'"{"a" * 100_000}"', '"' + "a" * 100_000 + '"').encode()


def of_place(rng: random.Random, path: Path) -> None:
    """Something else where a file is, or nothing."""
    path.unlink()
    place = rng.randrange(6)
    if place == 0:
        path.mkdir()
    elif place == 1:
        path.symlink_to(path)
    elif place == 2:
        path.symlink_to(path.parent / "nowhere")
    elif place == 3:
        os.mkfifo(path)
    elif place == 4:
        path.symlink_to("/dev/zero")


def of_file(rng: random.Random, path: Path) -> None:
    content = path.read_bytes()
    if rng.random() < 0.15:
        of_place(rng, path)
    elif path.suffix == ".json" and rng.random() < 0.7:
        path.write_bytes(as_json(of_json(rng, json.loads(content))))
    else:
        path.write_bytes(of_bytes(rng, content))


# Kinds: each raises InputError, or returns after checking what was accepted.


SCHEMA = {
    f"{section}.{key}" if isinstance(values, dict) else section: value
    for section, values in Config().as_dict().items()
    for key, value in (values.items() if isinstance(values, dict) else [("", values)])
}


SCHEMA_SECTIONS = {key.partition(".")[0] for key in SCHEMA}


def some_settings(rng: random.Random) -> dict:
    keys = rng.sample(sorted(SCHEMA), rng.randrange(1, 5))
    settings = {}
    for key in keys:
        value = SCHEMA[key]
        if rng.random() < 0.6:
            value = of_json(rng, value)
        if rng.random() < 0.1:
            key = rng.choice([key[1:], key + "x", key.upper(), key.replace(".", ""), "a." + key])
        settings[key] = value
    return settings


def written(value) -> str:
    """A value as TOML, near enough: null and surrogates are not TOML, which is a case too."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {written(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)


def same_settings(config: Config, given: dict) -> None:
    found = config.as_dict()
    for key, value in given.items():
        section, _, name = key.partition(".")
        held = found[section][name] if name else found[section]
        require(
            held == value or [held] == value or held == [value], f"{key}: {value!r} is {held!r}"
        )


def config_file(rng: random.Random, folder: Path, _) -> None:
    sections = collections.defaultdict(list)
    for key, value in some_settings(rng).items():
        section, _, name = key.rpartition(".")
        sections[section].append(f"{name} = {written(value)}")
    text = "\n".join(
        "\n".join([f"[{section}]"] * bool(section) + lines)
        for section, lines in sorted(sections.items())
    )
    content = text.encode("utf-8", "surrogatepass")
    path = folder / "config.toml"
    path.write_bytes(of_bytes(rng, content) if rng.random() < 0.4 else content)
    if rng.random() < 0.05:
        of_place(rng, path)
    config = load_config(path)
    text = path.read_bytes().decode().replace("\ufeff", "")
    tree = tomllib.loads(text.replace("\r\n", "\n").replace("\r", "\n"))
    given = {}
    for name, value in tree.items():
        require(value != {} or name in SCHEMA_SECTIONS, f"section {name}")
        inner = value.items() if isinstance(value, dict) else [("", value)]
        given |= {f"{name}.{key}" if key else name: held for key, held in inner}
    same_settings(config, given)


def overrides(rng: random.Random, *_) -> None:
    words = []
    given = some_settings(rng)
    for key, value in given.items():
        raw = value if isinstance(value, str) and rng.random() < 0.7 else written(value)
        words.append(f"{key}={raw}")
        if isinstance(SCHEMA.get(key), str):  # text needs no quotes, whatever it looks like
            given[key] = value if isinstance(value, str) else raw
    if rng.random() < 0.3:
        at = rng.randrange(len(words))
        words[at] = of_bytes(rng, words[at].encode("utf-8", "surrogatepass")).decode(
            "utf-8", "surrogateescape"
        )
        given = {}
    same_settings(load_config(None, words), given)


def prompt_file(rng: random.Random, folder: Path, _) -> None:
    path = folder / "prompts.txt"
    lines = [example.prompt for example in toy.examples("test", 5, rng.randrange(99))]
    if rng.random() < 0.5:
        lines.insert(rng.randrange(6), rng.choice([t for t in ODD_TEXTS if t != "\ud800"]))
    content = "\n".join(lines).encode()
    path.write_bytes(of_bytes(rng, content) if rng.random() < 0.6 else content)
    if rng.random() < 0.1:
        of_place(rng, path)
    oracle = rng.choice(["lexical", "support.tiny_run:even"])
    config = tiny_run.config(f"evaluate.prompt_file={path}", f"rollout.oracle={oracle}")
    prompts = [example.prompt for example in Context.of(config).held_out]
    text = path.read_bytes().decode().replace("\r\n", "\n").replace("\r", "\n")
    wanted = [line.replace("\ufeff", "").strip() for line in text.split("\n")]
    found = [prompt.replace("\ufeff", "").strip() for prompt in prompts]
    require(found == [line for line in wanted if line], f"prompts {found!r}"[:300])
    require(oracle != "lexical" or all(p.endswith(" =") for p in prompts), "no keywords")


def task_file(rng: random.Random, folder: Path, _) -> None:
    rows = [
        {"concepts": e.prompt.removesuffix(" =").split(), "scene": list(e.references)}
        for e in toy.examples("dev", 5, rng.randrange(99))
    ]
    kind = rng.choice(["jsonl", "pairs", "gz"])
    if kind == "pairs":
        files = {
            "test_src.txt": "\n".join(" ".join(row["concepts"]) for row in rows),
            "test_trg.txt": "\n".join(row["scene"][0] for row in rows),
        }
    else:
        if rng.random() < 0.6:
            at = rng.randrange(5)
            rows[at] = of_json(rng, rows[at])
        files = {"test.jsonl": "\n".join(map(json.dumps, rows))}
    for name, text in files.items():
        content = text.encode()
        if rng.random() < 0.4:
            content = of_bytes(rng, content)
        path = folder / name
        path.write_bytes(content)
        if kind == "gz":
            path.unlink()
            path = folder / f"{name}.gz"
            content = gzip.compress(content, mtime=0)
            path.write_bytes(of_bytes(rng, content) if rng.random() < 0.4 else content)
        if rng.random() < 0.05:
            of_place(rng, path)
    found = commongen.examples(str(folder), "test")
    for example in found:
        concepts = example.prompt.removesuffix(" =").split()
        require(bool(concepts) and all(map(str.strip, example.references)), repr(example)[:200])
    require(0 < len(found) <= 2 * len(rows) + 60, f"{len(found)} examples of {len(rows)} rows")


def own_pairs(rng: random.Random, folder: Path, _) -> None:
    rows = [(f"ask {i}, you", rng.choice(["yes", 'a "b"', "two\nlines", "x, y"])) for i in range(6)]
    kind = rng.choice(["jsonl", "csv", "tsv"])
    path = folder / f"pairs.{kind}"
    made = io.StringIO()
    if kind == "jsonl":
        made.writelines(json.dumps({"prompt": a, "target": b}) + "\n" for a, b in rows)
    else:
        header = [("prompt", "target")] * (rng.random() < 0.5)
        csv.writer(made, delimiter="\t" if kind == "tsv" else ",").writerows([*header, *rows])
    content = made.getvalue().encode()
    changed = of_bytes(rng, content) if rng.random() < 0.7 else content
    path.write_bytes(changed)
    if rng.random() < 0.05:
        of_place(rng, path)
    settings = schema.Task(name="pairs", source=str(path), held_out=0.0)
    found = make_task(settings).examples("train", 0)
    whole = all(example.prompt.strip() and all(example.references) for example in found)
    require(whole, f"{found!r}"[:300])
    pairs = [(example.prompt, example.references) for example in found]
    require(changed != content or pairs == [(a, (b,)) for a, b in rows], f"{pairs!r}"[:300])


def model(rng: random.Random, folder: Path, world: "World") -> None:
    path = folder / "model"
    shutil.copytree(world.model, path)
    chosen = rng.choice(sorted(p for p in path.iterdir() if p.is_file()))
    of_file(rng, chosen)
    base = load(path)
    ids = base.codec.prompts(["dog chase kite ="])[0]
    config = base.model.config
    require(max(ids) < config.vocab_size, "ids beyond the vocabulary")
    stored = json.loads((path / "config.json").read_text())
    for alias in (("n_head", "num_attention_heads"), ("n_embd", "hidden_size")):
        given = {stored[name] for name in alias if stored.get(name) is not None}
        require(given == {getattr(config, alias[0])}, f"{alias[0]} is {getattr(config, alias[0])}")
    finite = all(np.isfinite(np.asarray(x, np.float32)).all() for x in _leaves(base.params))
    require(finite, "weights that are not finite")


def _leaves(tree):
    return [
        leaf
        for inner in tree.values()
        for leaf in (_leaves(inner) if isinstance(inner, dict) else [inner])
    ]


def run_folder(rng: random.Random, folder: Path, world: "World") -> None:
    path = folder / "run"
    shutil.copytree(world.run, path)
    patterns = ["*/config.json", "*/done.json", "sft/base/*", "rollout/*.npz", "generate/*.jsonl"]
    patterns += ["train/control/**/*", "summary.json", "report.html", "config.json"]
    read = [file for each in patterns for file in sorted(path.glob(each)) if file.is_file()]
    chosen = rng.choice(read)
    before = chosen.read_bytes()
    of_file(rng, chosen)
    if chosen.is_file() and not chosen.is_symlink() and chosen.read_bytes() == before:
        return
    optional = chosen.parent == path and chosen.name == "config.json"  # what load_run reads
    run_stages(tiny_run.config(), STAGES, path)
    require(optional, f"{chosen.relative_to(path)} has changed")


class Hostile:
    """An object whose every use raises."""

    def _raise(self, *_, **__):
        raise ValueError("\x1b[2J" + "secret" * 10_000)

    __array__ = __len__ = __iter__ = __getitem__ = __bool__ = __float__ = __str__ = __repr__ = (
        _raise
    )


class Silent(Exception):
    def __str__(self):
        raise RuntimeError


GOOD = [
    lambda labels: labels,
    tuple,
    lambda labels: np.array(labels),
    lambda labels: np.array(labels, np.float32),
    lambda labels: [float(x) for x in labels],
    lambda labels: [int(x) for x in labels],
    lambda labels: [np.bool_(x) for x in labels],
    lambda labels: np.array(labels, np.int8),
]
BAD = [
    lambda labels: None,
    lambda labels: labels[:-1],
    lambda labels: [labels],
    lambda labels: [*labels, True],
    lambda labels: [[x] for x in labels],
    lambda labels: dict(enumerate(labels)),
    lambda labels: "yes",
    lambda labels: b"yes",
    lambda labels: ["True"] * len(labels),
    lambda labels: [None] * len(labels),
    lambda labels: [2.0] * len(labels),
    lambda labels: [-1] * len(labels),
    lambda labels: [float("nan")] * len(labels),
    lambda labels: [float("inf")] * len(labels),
    lambda labels: [10**400] * len(labels),
    lambda labels: [1j] * len(labels),
    lambda labels: Hostile(),
    lambda labels: [Hostile()] * len(labels),
    lambda labels: np.ma.masked_array(np.ones(len(labels)), [True] * len(labels)),
    lambda labels: True,
    lambda labels: 0.5,
    lambda labels: [[1], [1, 2]],
    lambda labels: np.ones((len(labels), 1)),
]
RAISED = [
    ValueError("x" * 100_000), KeyError("\x1b[31m"), SystemExit(0), SystemExit("bye"),
    KeyboardInterrupt(), GeneratorExit(), MemoryError(), RecursionError(), StopIteration(),
    Silent(), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "\x00"), OSError(28, "full"), Warning(),
]  # fmt: skip


def oracle(rng: random.Random, *_) -> None:
    count = rng.randrange(2, 6)
    prompts, texts = [f"p{i} =" for i in range(count)], [f"text {i}" for i in range(count)]
    wanted = [rng.random() < 0.5 for _ in texts]
    by_text = dict(zip(texts, wanted))
    kind = rng.choice(["good", "bad", "raised", "argument"])
    answer = rng.choice(GOOD if kind in ("good", "argument") else BAD)
    error = rng.choice(RAISED)
    sometimes = rng.random() < 0.5

    def asked(prompts, texts):
        labels = [by_text[text] for text in texts]
        if kind == "raised" and (texts[0] == "text 0" or not sometimes):
            raise error
        if kind == "argument":
            rng.choice([texts.clear, prompts.clear, texts.reverse, lambda: texts.append("more")])()
        if rng.random() < 0.1 and kind == "argument":
            raise ValueError("once more")
        return answer(labels)

    result = judge(asked, prompts, texts)
    require(prompts == [f"p{i} =" for i in range(count)], "prompts changed")
    require(texts == [f"text {i}" for i in range(count)], "texts changed")
    labels = np.asarray(result.labels)
    require(len(labels) == count, "wrong number of labels")
    for i in range(count):
        if np.isnan(labels[i]):
            require(kind != "good", "a good answer failed")
        else:
            require(kind != "bad", f"label {labels[i]} of a bad answer")
            require(labels[i] == wanted[i], f"label {labels[i]} of {wanted[i]}")


KINDS = {
    "config": config_file,
    "override": overrides,
    "prompts": prompt_file,
    "task": task_file,
    "pairs": own_pairs,
    "model": model,
    "run": run_folder,
    "oracle": oracle,
}


@dataclasses.dataclass(frozen=True)
class World:
    """What cases start from: a finished run of the tiniest model; its base is a model folder."""

    run: Path

    @property
    def model(self) -> Path:
        return self.run / "sft" / "base"


def _too_long(*_):
    raise TimeoutError(f"more than {SECONDS} s")


def outcome(kind: str, number: int, world: World) -> str:
    """refused, accepted, or what was wrong."""
    rng = random.Random(f"{kind}:{number}")
    previous = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            open(os.devnull, "w") as null,
            contextlib.redirect_stderr(null),
        ):
            KINDS[kind](rng, Path(folder), world)
        return "accepted"
    except InputError as error:
        line = str(error)
        fine = line.isprintable() and ":" in line and len(line) < 2000
        return "refused" if fine else f"an odd message: {line[:300]!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error!s:.300}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def main() -> None:
    parser = argparse.ArgumentParser(description="mutated inputs of every kind")
    parser.add_argument("--count", type=int, default=450, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=0, help="number of the first case")
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--case", metavar="KIND:NUMBER", help="one case again")
    args = parser.parse_args()
    signals.install_handlers()  # as in a run
    with tempfile.TemporaryDirectory() as root:
        tiny = Path(root) / "run"
        with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
            run_stages(tiny_run.config(), STAGES, tiny)
        world = World(tiny)
        if args.case:
            kind, number = args.case.split(":")
            rng = random.Random(args.case)
            return KINDS[kind](rng, Path(tempfile.mkdtemp(dir=root)), world)
        for kind in args.kind or KINDS:
            tally = collections.Counter()
            for number in range(args.seed, args.seed + args.count):
                found = outcome(kind, number, world)
                tally[found if found in ("refused", "accepted") else "wrong"] += 1
                if found not in ("refused", "accepted"):
                    print(json.dumps({"case": f"{kind}:{number}", "wrong": found}), flush=True)
            print(json.dumps({"kind": kind, **tally}), flush=True)


if __name__ == "__main__":
    main()

"""The schema: what a config file and the command line may say, and how a slip is answered."""

import tomllib
from pathlib import Path

import pytest

from dinado_jax.config import Config, from_dict, load
from dinado_jax.errors import InputError

CONFIGS = Path(__file__).parent.parent / "configs"
# What the configs for outside data leave to the command line.
SOURCES = ("task.source=somewhere", "sft.pretrain_path=somewhere")


def refused(match, function, *args):
    with pytest.raises(InputError, match=match) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(tmp_path, text):
    path = tmp_path / "some.toml"
    path.write_text(text)
    return path


def test_defaults_are_valid():
    assert load(None) == Config()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_configs_load(path):
    config = load(path, [] if path.stem == "demo" else SOURCES)
    assert config.name == path.stem


def test_demo_is_the_defaults():
    assert load(CONFIGS / "demo.toml") == Config()
    named = tomllib.loads((CONFIGS / "demo.toml").read_text())
    assert {"task", "base", "sft", "rollout", "train"} <= named.keys()


def test_commongen_needs_its_sources():
    path = CONFIGS / "commongen_small.toml"
    refused("task.source is empty", load, path, SOURCES[1:])
    refused("sft.pretrain_path is empty", load, path, SOURCES[:1])


def test_file_and_overrides_of_every_type(tmp_path):
    path = written(tmp_path, "seed = 3\n[sft]\nlearning_rate = 1\n[delta]\nfull = ['ln_f/.*']\n")
    overrides = ["train.reference_weight=1", "rollout.references=true", "decode.top_p=0.5"]
    config = load(path, ["sft.steps=7", *overrides])
    assert (config.seed, config.sft.steps, config.rollout.references) == (3, 7, True)
    assert config.decode.top_p == 0.5 and config.delta.full == ("ln_f/.*",)
    assert type(config.sft.learning_rate) is float
    assert load(path, ["seed=4"]).seed == 4


@pytest.mark.parametrize("text", ["64", "1e3", "true", "007", "2020-01-01", "a b", "", "x=y"])
def test_strings_need_no_quotes(text):
    assert load(None, [f"task.source={text}"]).task.source == text


@pytest.mark.parametrize("name", ["64", "1e3", "..a", "run_2.b-c", "läufe"])
def test_names_of_folders(name):
    assert load(None, [f"name={name}"]).name == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/a", "a b", "a\\b"])
def test_names_that_leave_the_folder(name):
    refused("name = .* a folder's name", load, None, [f"name={name}"])


def test_strings_and_lists_may_be_quoted():
    assert load(None, ['name="64"']).name == "64"
    assert load(None, ['delta.low_rank=["a", "b"]']).delta.low_rank == ("a", "b")
    assert load(None, [r"delta.low_rank=h_\d+/mlp/.*"]).delta.low_rank == (r"h_\d+/mlp/.*",)
    assert load(None, ["delta.low_rank=[]"]).delta.low_rank == ()


@pytest.mark.parametrize(
    "override, match",
    [
        ("train.stepz=3", "'train.stepz' in the command line: did you mean 'train.steps'"),
        ("steps=3", "unknown config key 'steps'"),
        ("trian.steps=3", "did you mean 'train.steps'"),
        ("zzzzzz=3", "known keys: name, seed, task.name"),
        ("train=3", "unknown config key 'train'"),
        ("train.steps", "write it as section.key=value"),
        ("train.steps=many", "train.steps = 'many' in the command line: it must be an integer"),
        ("train.steps=3.5", "must be an integer"),
        ("train.steps=true", "must be an integer"),
        ("train.clip=[1]", "must be a number"),
        ("train.clip=true", "must be a number"),
        ("rollout.references=1", "must be true or false"),
        ("delta.full=[1]", "must be a list of strings"),
        ("train.objective=matchin", "did you mean 'matching'"),
        ("control.kind=xyz", "one of nado, soft, merge, hard"),
        ("base.dtype=float16", "base.dtype"),
        ("control.kind=mrge", "control.kind = 'mrge': did you mean 'merge'"),
        ("control.direction=hard", "control.direction = 'hard'"),
        ("control.form=split", "control.form = 'split': one of projected, clamped"),
        ("control.trunk=big", "control.trunk = 'big'"),
        ("train.objective=prefix", "did you mean 'prefixes'"),
        ("train.detach=0", "must be true or false"),
    ],
)
def test_overrides_that_are_refused(override, match):
    refused(match, load, None, [override])


@pytest.mark.parametrize(
    "override",
    [
        "train.steps=0",
        "train.refresh_prompts=0",
        "rollout.samples=0",
        "run.save_every=0",
        "seed=-1",
        "seed=4294967296",
        "base.n_embd=0",
        "base.n_layer=-1",
        "base.n_head=0",
        "sft.beta2=1",
        "train.beta2=-0.1",
        "train.bellman=inf",
        "delta.alpha=nan",
        "sft.steps=-1",
        "sft.warmup=-1",
        "train.learning_rate=-1e-3",
        "train.clip=nan",
        "rollout.temperature=-0.5",
        "decode.temperature=nan",
        "decode.top_k=-1",
        "decode.top_p=0",
        "rollout.top_p=1.5",
        "train.weight_clip=0.0",
        "train.weight_clip=1.1",
        "train.mixture=1.5",
        "train.mixture=-0.5",
        "train.bellman_start=-1",
        "control.layers=0",
        "decode.strength=-1",
        "decode.target_rate=1.5",
        "decode.target_rate=nan",
        "decode.reject=1.0",
    ],
)
def test_values_out_of_range(override):
    refused(override.partition("=")[0], load, None, [override])


@pytest.mark.parametrize(
    "overrides, match",
    [
        (["sft.batch=10", "sft.accumulate=4"], "sft.batch = 10 is not divisible"),
        (["train.batch=6"], "train.batch = 6: .* a multiple of 4"),
        (["train.batch=36", "train.accumulate=4"], "multiple of 8"),
        (["train.batch=4", "train.accumulate=0"], "train.accumulate = 0"),
        (["base.n_head=3"], "base.n_embd = 64 is not divisible by base.n_head = 3"),
        (["decode.max_new_tokens=24"], "decode.max_new_tokens = 24 .*base.n_positions = 24"),
        (["rollout.max_new_tokens=25"], "rollout.max_new_tokens = 25"),
        (["train.objective=ratio", "rollout.samples=1"], "set rollout.samples and .* to 2"),
        (["rollout.references=true"], "set train.reference_weight, or rollout.references=false"),
        (
            [
                "rollout.references=true",
                "train.reference_weight=1",
                "train.objective=prefixes",
                "train.warmup_direction=0",
                "train.balance=false",
            ],
            "set train.balance=true, or rollout.references=false",
        ),
        (["train.mixture=0.3"], "train.mixture = 0.3 of train.refresh_samples = 8 is no whole"),
        (["train.mixture=0.5", "train.refresh_samples=3"], "is no whole number of samples"),
        (["train.mixture=0.5", "rollout.top_p=0.9"], "train.mixture weighs plain samples"),
        (["train.mixture=0.5", "rollout.top_k=5"], "train.mixture weighs plain samples"),
        (["train.mixture=0.5", "rollout.temperature=0.7"], "train.mixture weighs plain samples"),
        (["task.name=commongen"], "task.source is empty"),
        (["sft.pretrain_steps=5"], "sft.pretrain_path is empty"),
    ],
)
def test_values_that_contradict_each_other(overrides, match):
    refused(match, load, None, overrides)


def test_the_published_objective_takes_any_batch_and_weighs_no_references():
    given = ["train.objective=published", "train.batch=6", "rollout.references=true"]
    assert load(None, given).train.batch == 6


def test_sizes_of_a_new_model_do_not_matter_to_a_checkpoint():
    given = ["base.path=somewhere", "base.n_head=3", "decode.max_new_tokens=100"]
    assert load(None, given).base.path == "somewhere"


def test_a_file_that_cannot_be_read():
    refused("/proc/self/mem, input/output error", load, "/proc/self/mem")


def test_files_that_are_refused(tmp_path):
    refused("no config file 'nowhere.toml'", load, "nowhere.toml")
    refused("no config file", load, tmp_path)
    path = written(tmp_path, "[sft\nsteps = 3")
    assert str(path) in refused("is not TOML", load, path)
    refused("is not TOML", load, written(tmp_path, "[sft]\nsteps = 3\nsteps = 4"))
    path.write_bytes(b"name = '\xff'")
    refused("is not TOML", load, path)
    path = written(tmp_path, "[sft]\nstepz = 3")
    assert str(path) in refused("did you mean 'sft.steps'", load, path)
    refused("sft.steps = '3' in .*some.toml: it must be", load, written(tmp_path, "sft.steps='3'"))
    refused("unknown config key 'sft'", load, written(tmp_path, "sft = 3"))
    refused("unknown config key 'sft.more'", load, written(tmp_path, "[sft.more]\na=1"))


def test_as_dict_goes_round():
    config = load(None, ["train.clip=0", "delta.full=x", "task.source=y", "seed=5"])
    tree = config.as_dict()
    assert tree["delta"]["full"] == ["x"] and tree["train"]["clip"] == 0.0
    assert from_dict(tree) == config != Config()
    assert from_dict({"seed": 5}).seed == 5
    refused("'sft.bogus' in the stored configuration", from_dict, {"sft": {"bogus": 1}})

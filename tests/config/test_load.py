"""The schema: what a config file and the command line may say, and how a slip is answered."""

import tomllib

import pytest
import support

from dinado_jax.config.checks import LARGEST
from dinado_jax.config.load import from_dict, load
from dinado_jax.config.schema import Config
from dinado_jax.errors import InputError

CONFIGS = support.ROOT / "configs"
# What the configs for outside data leave to the command line.
SOURCE, TEXT = "task.source=somewhere", "sft.pretrain_path=somewhere"
LEFT = {
    "demo": [],
    "commongen_small": [SOURCE, TEXT],
    "commongen_gpt2": [SOURCE, TEXT],
    "commongen_gpt2_large": [SOURCE],
    "commongen_gpt2_large_full": [SOURCE],
}


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
    config = load(path, LEFT[path.stem])
    assert config.name == path.stem


def test_demo_is_the_defaults():
    assert load(CONFIGS / "demo.toml") == Config()
    named = tomllib.loads((CONFIGS / "demo.toml").read_text())
    assert {"task", "base", "sft", "rollout", "train"} <= named.keys()


def test_commongen_needs_its_sources():
    path = CONFIGS / "commongen_small.toml"
    refused("task.source is empty", load, path, [TEXT])
    refused("sft.pretrain_path is empty", load, path, [SOURCE])


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
    assert load(None, [f"evaluate.prompt_file={text}"]).evaluate.prompt_file == text


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
        ("train=3", "unknown config key 'train' .* write train.KEY with one of its keys: steps "),
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
    "key, hint",
    [
        ("stepz", "did you mean 'sft.steps' or 'train.steps'?"),
        ("steps", "did you mean 'sft.steps' or 'train.steps'?"),
        ("temperature", "did you mean 'rollout.temperature' or 'decode.temperature'?"),
        ("nmae", "did you mean 'name'?"),
        ("trian.steps", "did you mean 'train.steps'?"),
        ("trian.stepz", "did you mean 'train.steps'?"),
        ("rollout.orcale", "did you mean 'rollout.oracle'?"),
        ("rollout.steps", "did you mean 'sft.steps' or 'train.steps'?"),
        ("foo.steps", "did you mean 'sft.steps' or 'train.steps'?"),
        ("parallel.bar", "[parallel] has mode fsdp devices"),
        ("foo.bar", "the keys are name seed and those of [task] [base] [sft] "),
        ("zzzzzz", "the keys are name seed and those of [task] [base] [sft] "),
        ("", "the keys are name seed and those of "),
        (".steps", "did you mean 'sft.steps' or 'train.steps'?"),
        ("a.b.c", "the keys are name seed and those of "),
    ],
)
def test_a_hint_names_what_is_near_and_nothing_else(key, hint):
    said = refused("unknown config key", load, None, [f"{key}=1"])
    assert said.partition(" in the command line: ")[2].startswith(hint)


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
    given = ["base.path=somewhere", "decode.max_new_tokens=100"]
    assert load(None, given).decode.max_new_tokens == 100


def test_a_list_that_is_none_is_no_pattern():
    for text in ('delta.full=["a', "delta.full=[a-z]+/bias"):
        refused("not a list .* write it as", load, None, [text])
    assert load(None, ["delta.full=['[a-z]+/bias']"]).delta.full == ("[a-z]+/bias",)


def test_a_file_that_cannot_be_read():
    refused("/proc/self/mem, input/output error", load, "/proc/self/mem")


def test_files_that_are_refused(tmp_path):
    refused("no config file 'nowhere.toml'", load, "nowhere.toml")
    refused("no config file", load, tmp_path)
    path = written(tmp_path, "[sft\nsteps = 3")
    assert str(path) in refused("is not TOML", load, path)
    refused("is not TOML", load, written(tmp_path, "[sft]\nsteps = 3\nsteps = 4"))
    path.write_bytes(b"name = '\xff'")
    refused("not UTF-8 text", load, path)
    path = written(tmp_path, "[sft]\nstepz = 3")
    assert str(path) in refused("did you mean 'sft.steps'", load, path)
    refused("sft.steps = '3' in .*some.toml: it must be", load, written(tmp_path, "sft.steps='3'"))
    refused("unknown config key 'sft'", load, written(tmp_path, "sft = 3"))
    refused("unknown config key 'sft.more'", load, written(tmp_path, "[sft.more]\na=1"))


@pytest.mark.parametrize(
    "text, told",
    [
        ("[sfft]", "unknown config key 'sfft' in .*: did you mean 'sft'"),
        ("[sft]\nsteps = 3\n[trian]", "unknown config key 'trian' in .*: did you mean 'train'"),
        ("[sfft]\nsteps = 3", "did you mean 'sft.steps'"),
        ("[sft.more]", "unknown config key 'sft.more'"),
        ("[sft.steps]", "sft.steps = {} in .*: it must be an integer"),
        ("[[sft]]", "unknown config key 'sft'"),
        ("[name]", "name"),
        ("nothing = {}", "unknown config key 'nothing'"),
        ('"sft.steps" = 3\n[sft]\nsteps = 4', "unknown config key 'sft.steps'"),
        ("a = " + "[" * 10**5, "nested too deep"),
        ("[sft]\nsteps = " + "9" * 5000, "is not TOML"),
        ("[sft]\nlearning_rate = " + "9" * 400, "sft.learning_rate = inf: it must be finite"),
        ("[sft]\nsteps = " + "9" * 400, "sft.steps = 9+...9+: it must be at most 1,000,000,000"),
    ],
)
def test_nothing_in_a_file_is_dropped(tmp_path, text, told):
    assert len(refused(told, load, written(tmp_path, text))) < 500


def test_an_empty_section_changes_nothing(tmp_path):
    assert load(written(tmp_path, "[sft]\n[train]")) == Config()


@pytest.mark.parametrize(
    "override, told",
    [
        ("sft.steps=3\nsft.batch=4", "several lines: give each value an argument of its own"),
        ("sft.steps=3\n[sft]", "several lines"),
        ("name=3\nsft.batch=4", "several lines"),
        ("sft.steps=3\nvalue.more=4", "it must be an integer"),
        ("sft.steps=" + "[" * 10**5, "nested too deep"),
        ("sft.steps=" + "9" * 5000, "it must be an integer"),
        ("sft.learning_rate=" + "9" * 400, "must be finite"),
        ("sft.learning_rate=-" + "9" * 400, "must be finite"),
        ("run.folder=\udcff", "not UTF-8 text"),
        ("\udcff=3", "not UTF-8 text"),
    ],
)
def test_overrides_hold_one_value_each(override, told):
    assert len(refused(told, load, None, [override])) < 500


def test_no_text_holds_nul():
    for key in ("run.folder", "base.path", "task.source", "evaluate.prompt_file", "name"):
        refused(f"{key} = ", load, None, [f'{key}="a\\u0000b"'])


def test_of_two_overrides_of_a_key_the_last_counts():
    assert load(None, ["sft.steps=3", "sft.batch=8", "sft.steps=4"]).sft.steps == 4


def test_a_list_may_stand_on_several_lines():
    assert load(None, ['delta.low_rank=["a",\n"b"]']).delta.low_rank == ("a", "b")


@pytest.mark.parametrize("key", sorted(LARGEST.keys() - {"base.n_inner"}))
def test_every_number_has_a_bound(key):
    kind = type(Config().as_dict()[key.partition(".")[0]][key.partition(".")[2]])
    refused(f"{key} = ", load, None, [f"{key}={kind(LARGEST[key] * 10)}"])


def test_all_numbers_are_bounded():
    """None of the schema is left out: each is refused far beyond any use, or was before."""
    tree = Config().as_dict()
    for section, inner in tree.items():
        values = inner if isinstance(inner, dict) else {"": inner}
        for name, value in values.items():
            if type(value) in (int, float):
                key = f"{section}.{name}".rstrip(".")
                refused(f"{key} = ", load, None, [f"{key}={type(value)(10**35)}"])


@pytest.mark.parametrize(
    "overrides, told",
    [
        (["base.n_layer=1000", "base.n_embd=100000"], "parameters: at most 100,000,000,000 fit"),
        (["rollout.prompts=10000000", "rollout.samples=100000"], "rollout.samples = 100000 times"),
        (["evaluate.samples=1000000", "evaluate.prompts=1000000"], "evaluate.samples = 1000000"),
        (["sft.batch=1000000", "sft.max_length=1000000"], "sft.batch = 1000000 times"),
        (["train.refresh_prompts=10000000", "train.refresh_samples=1000"], "train.refresh_samples"),
    ],
)
def test_products_that_fit_nowhere(overrides, told):
    refused(told, load, None, overrides)


def test_as_dict_goes_round():
    config = load(None, ["train.clip=0", "delta.full=x", "evaluate.prompt_file=y", "seed=5"])
    tree = config.as_dict()
    assert tree["delta"]["full"] == ["x"] and tree["train"]["clip"] == 0.0
    assert from_dict(tree) == config != Config()
    assert from_dict({"seed": 5}).seed == 5
    refused("'sft.bogus' in the stored configuration", from_dict, {"sft": {"bogus": 1}})

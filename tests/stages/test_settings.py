"""Configurations checked against the tables of tasks, objectives and controls."""

import dataclasses
import tomllib

import pytest
import support

from dinado_jax.config.schema import Config
from dinado_jax.errors import InputError
from dinado_jax.objectives.prefixes import Prefixes
from dinado_jax.objectives.table import OBJECTIVES
from dinado_jax.stages.settings import load_config as load
from dinado_jax.stages.settings import stored_config

CONFIGS = support.ROOT / "configs"
# What the configs for outside data leave to the command line.
SOURCE, TEXT = "task.source=somewhere", "sft.pretrain_path=somewhere"
ORACLE = "rollout.oracle=mentions_colour"
LEFT = {
    "demo": [],
    "commongen_small": [SOURCE, TEXT],
    "commongen_gpt2": [SOURCE, TEXT],
    "commongen_smollm2": [SOURCE],
    "commongen_smollm2_state": [SOURCE],
    "formalmt_cocoa_small": [SOURCE, TEXT],
    "formalmt_cocoa": [SOURCE, TEXT],
    "formalmt_pairs_small": [SOURCE],
    "formalmt_fisher_small": [SOURCE, ORACLE],
    "formalmt_fisher": [SOURCE, ORACLE],
    "demo_smollm2": [],
    "demo_state": [],
    "demo_hidden": [],
    "demo_oracle": [],
    "commongen_gpt2_large": [SOURCE],
    "commongen_gpt2_large_full": [SOURCE],
}


def refused(match, function, *args):
    with pytest.raises(InputError, match=match) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
        (["train.mixture=0.3"], "train.mixture = 0.3 of train.refresh_samples = 8 is not a whole"),
        (["train.mixture=0.5", "train.refresh_samples=3"], "is not a whole number of samples"),
        (["train.mixture=0.5", "rollout.top_p=0.9"], "train.mixture weights plain samples"),
        (["train.mixture=0.5", "rollout.top_k=5"], "train.mixture weights plain samples"),
        (["train.mixture=0.5", "rollout.temperature=0.7"], "train.mixture weights plain samples"),
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
    assert stored_config(tree) == config != Config()
    assert stored_config({"seed": 5}).seed == 5
    refused("'sft.bogus' in the stored configuration", stored_config, {"sft": {"bogus": 1}})


@pytest.mark.parametrize(
    "override, match",
    [
        ("train.objective=matchin", "did you mean 'matching'"),
        ("control.kind=xyz", "one of nado, soft, merge, hard"),
        ("control.kind=mrge", "control.kind = 'mrge': did you mean 'merge'"),
        ("control.direction=hard", "control.direction = 'hard'"),
        ("train.objective=prefix", "did you mean 'prefixes'"),
        ("task.name=commongem", "task.name = 'commongem': did you mean 'commongen'"),
    ],
)
def test_names_of_no_table_are_refused(override, match):
    refused(match, load, None, [override])


def test_an_override_may_correct_a_name_of_a_file(tmp_path):
    path = tmp_path / "some.toml"
    path.write_text("task.name = 'tyo'\ntask.source = 'x'\ntrain.objective = 'none'\n")
    refused("task.name = 'tyo'", load, path, ["train.objective=ratio"])
    assert load(path, ["task.name=toy", "train.objective=ratio"]).task.name == "toy"


@dataclasses.dataclass(frozen=True)
class Other(Prefixes):
    """Needs three samples of a prompt, draws no reference, and reads train.margin alone."""

    parts = 3
    least_samples = 3
    draws_references = False

    def settings_read(self, kind):
        return {"margin", "balance"}


def test_the_table_of_objectives_is_all_that_checks_know_of_them(monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "other", Other)

    def told(match, *overrides):
        refused(match, load, None, ["train.objective=other", "train.batch=12", *overrides])

    given = ["train.objective=other", "train.batch=12", "train.margin=3"]
    assert load(None, given).train.objective == "other"
    told("train.batch = 16: .* objective other .* a multiple of 12", "train.batch=16")
    told("objective = other .* to 3 or more", "rollout.samples=2")
    told(
        "unbalanced labels draw no reference", "rollout.references=true", "train.reference_weight=1"
    )
    told(
        "only for matching, regression, variance, ratio, contrastive, reinforce and ppo with a ",
        "train.detach=false",
    )
    told(
        "for train.objective=regression, variance, consistency, policy_iteration, reinforce, ",
        "train.objective=ratio",
        "train.margin=3",
    )
    told(
        "objectives other than consistency, policy_iteration and published, ",
        "train.objective=published",
        "train.balance=false",
    )

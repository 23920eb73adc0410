"""Bases that no step of fine-tuning has touched: their sizes, precision, seed and source, and the
prompts of the embedded task."""

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import by_hand, tiny_run, word_run

from dinado_jax.errors import InputError
from dinado_jax.loading import load
from dinado_jax.stages.pipeline import run_stages
from dinado_jax.stages.run_folder import STAGES
from dinado_jax.tasks import toy

GIVEN = """
seed=7 task.train_examples=3 base.vocab_size=300 base.n_positions=18 base.n_embd=8 base.n_layer=2
base.n_head=4 sft.steps=0 rollout.prompts=7 rollout.samples=2 rollout.max_new_tokens=3
"""
BFLOAT16 = "base.dtype=bfloat16 base.param_dtype=bfloat16"


@pytest.fixture(scope="module")
def run(tmp_path_factory, compiled_quickly):
    """Stages sft and rollout in half precision."""
    path = tmp_path_factory.mktemp("bases") / "run"
    settings = tiny_run.config(*GIVEN.split(), *BFLOAT16.split())
    run_stages(settings, STAGES[:2], path)
    return path


def weights_of(path):
    return load_file(path / "sft" / "base" / "model.safetensors")


def test_sizes_and_precision(run):
    weights = weights_of(run)
    shapes = {
        name.removeprefix("transformer."): (weight.shape, weight.dtype.name)
        for name, weight in weights.items()
    }
    vocabulary = shapes["wte.weight"][0][0]
    assert 257 <= vocabulary <= 300
    assert shapes["wte.weight"] == ((vocabulary, 8), "bfloat16")
    assert shapes["wpe.weight"] == ((18, 8), "bfloat16")
    assert shapes["h.1.mlp.c_fc.weight"] == ((8, 32), "bfloat16")
    assert "h.2.ln_1.weight" not in shapes
    assert {dtype for _, dtype in shapes.values()} == {"bfloat16"}
    matrix = np.float32(weights["transformer.h.0.mlp.c_fc.weight"])
    assert matrix.std() == pytest.approx(8**-0.5, rel=0.2)


def test_activations_are_rounded_to_their_precision(run):
    """Of the same weights float64 has other log-probabilities, but not far off."""
    files = word_run.Rollouts.load(run / "rollout" / "rollouts.npz")
    model = by_hand.Model.load(run / "sft" / "base", 4)
    exact = by_hand.score(model(files.tokens)[1], files).sum(1)
    off = np.abs(exact - files.log_base)
    assert 1e-3 < off.max() < 0.3


def test_prompts_of_the_embedded_task_in_turn(run):
    """Three examples, of distinct prompts, each drawn again once all were."""
    rollouts = word_run.Rollouts.load(run / "rollout" / "rollouts.npz")
    codec = load(run / "sft" / "base").codec
    np.testing.assert_array_equal(rollouts.prompt_id, np.repeat(np.arange(7), 2))
    spans = zip(rollouts.tokens[::2], rollouts.prompt_length[::2])
    asked = codec.decode([row[1:start] for row, start in spans])
    wanted = {example.prompt for example in toy.examples("train", 3, 7)}
    assert len(wanted) == 3
    assert set(asked[:3]) == set(asked[3:6]) == wanted and asked[6] in wanted
    uniform = by_hand.uniforms(7, range(7), 2, 3)
    model = by_hand.Model.load(run / "sft" / "base", 4)
    drawn = by_hand.sample(model.next, by_hand.begun(rollouts), uniform, 3, codec.eos_id)
    same = [
        row[start:end].tolist() == each.tokens
        for row, start, end, each in zip(
            rollouts.tokens, rollouts.prompt_length, rollouts.length, drawn
        )
    ]
    assert np.mean(same) > 0.5  # rounding moves a few of them


def test_the_seed_draws_the_weights(run, tmp_path):
    first = weights_of(run)["transformer.wte.weight"]
    named = "name=other", f"run.folder={tmp_path}"  # by which its folder goes
    run_stages(tiny_run.config(*GIVEN.split(), *BFLOAT16.split(), *named), ("sft",))
    np.testing.assert_array_equal(weights_of(tmp_path / "other")["transformer.wte.weight"], first)
    seeded = tiny_run.config(*GIVEN.replace("seed=7", "seed=8").split(), *BFLOAT16.split())
    run_stages(seeded, ("sft",), tmp_path / "seeded")
    again = weights_of(tmp_path / "seeded")["transformer.h.0.attn.c_attn.weight"]
    before = weights_of(run)["transformer.h.0.attn.c_attn.weight"]
    assert (np.float32(again) != np.float32(before)).mean() > 0.9


def test_a_checkpoint_is_taken_as_it_is(run, tmp_path):
    """In the precision that is asked for; sizes of a new model do not matter."""
    path = tmp_path / "taken"
    given = [f"base.path={run / 'sft' / 'base'}", "sft.steps=0", "rollout.max_new_tokens=3"]
    run_stages(tiny_run.config(*given, "decode.max_new_tokens=3"), ("sft",), path)
    before, taken = weights_of(run), weights_of(path)
    assert before.keys() == taken.keys()
    for name, weight in taken.items():
        assert weight.dtype == np.float32
        np.testing.assert_array_equal(weight, np.float32(before[name]), err_msg=name)


DEVICES = [
    # pieces of a batch: micro-batches, and the halves of an objective that has two
    (("sft",), "sft.batch=12 sft.accumulate=3 parallel.devices=5", "12 cannot .* 5 devices in 3"),
    (("train",), "train.batch=24 train.accumulate=2 parallel.devices=5", "24 .* 5 devices in 4"),
    (("train",), "train.batch=24 train.accumulate=2 parallel.devices=0", "24 .* 8 devices in 4"),
    (("train",), "train.batch=24 parallel.devices=5", "24 cannot be shared by 5 devices in 2 "),
    (
        ("train",),
        "train.objective=published train.batch=24 train.accumulate=2 parallel.devices=5",
        "24 cannot be shared by 5 devices in 2 ",
    ),
    (("sft",), "parallel.devices=9", "parallel.devices = 9, a process has 8"),
    (("sft",), "parallel.devices=4 parallel.fsdp=3", "fsdp = 3 does not divide the 4 devices"),
]


@pytest.mark.parametrize("stages, overrides, told", DEVICES)
def test_devices_are_those_asked_for(stages, overrides, told, tmp_path):
    with pytest.raises(InputError, match=told):
        run_stages(tiny_run.config(*overrides.split()), stages, tmp_path / "run")
    assert not (tmp_path / "run" / "sft" / "base").exists()


@pytest.mark.parametrize(
    "overrides",
    [
        "train.batch=24 train.accumulate=2 parallel.devices=6",
        "train.objective=published train.batch=24 train.accumulate=2 parallel.devices=6",
        "train.objective=published train.batch=24 train.accumulate=3 parallel.devices=8",
    ],
)
def test_a_batch_that_can_be_shared_is_no_fault(overrides, tmp_path):
    with pytest.raises(InputError, match="needs stage sft"):
        run_stages(tiny_run.config(*overrides.split()), ("train",), tmp_path / "run")

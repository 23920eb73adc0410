"""PEFT's folders: PEFT's own numbers (tests/golden/make_peft.py), there and back, and refusals."""

import json
import shutil

import chex
import jax
import ml_dtypes
import numpy as np
import pytest
import support
from safetensors.numpy import load_file, save_file
from support import tiny
from support.folders import refused

import dinado_jax
from dinado_jax.adapters.lora import LoRA
from dinado_jax.adapters.peft import merge_adapter, save_adapter
from dinado_jax.models.architectures import ARCHITECTURES, load_model, load_params
from dinado_jax.models.params import by_path

pytestmark = pytest.mark.usefixtures("compiled_quickly")

ADAPTERS = sorted(path.name for path in support.GOLDEN.glob("peft_*"))
AHEAD = [name for name in ADAPTERS if name.endswith(("_prefix", "_network", "_prompt"))]
LORAS = sorted({*ADAPTERS} - {*AHEAD})
# A base of each model type, whether transformers stores its matrices as (in, out), and the rules of
# a low-rank delta with one matrix by its path and by its key.
BASES = {
    "gpt2_inner": (
        True,
        (r"h_\d/(attn|mlp)/c_\w+/kernel",),
        ("h_1/mlp/c_proj/kernel", "transformer.h.1.mlp.c_proj"),
    ),
    "llama_groups_2": (
        False,
        (r"layers_\d/(self_attn|mlp)/\w+_proj/kernel",),
        ("layers_1/self_attn/k_proj/kernel", "model.layers.1.self_attn.k_proj"),
    ),
    "llama_qwen3": (
        False,
        (r"layers_1/self_attn/[qv]_proj/kernel",),
        ("layers_1/self_attn/q_proj/kernel", "model.layers.1.self_attn.q_proj"),
    ),
}
RANK, ALPHA = 3, 4.5


def made(name):
    """(model, its parameters, adapter, a delta without a zero) of a base of the table."""
    folder = support.GOLDEN / name
    model = load_model(folder)
    params, lora = load_params(folder, model), LoRA(RANK, ALPHA, BASES[name][1])
    return model, params, lora, tiny.noisy(lora.init(jax.random.key(0), params), 0.2)


def edit_config(folder, **changes):
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(config))


def edit_weights(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.fixture
def copy(tmp_path):
    """A copy of the golden adapter of a Llama, to be damaged."""
    return shutil.copytree(support.GOLDEN / "peft_llama", tmp_path / "adapter")


def load(adapter, base="llama_groups_2"):
    return dinado_jax.load(support.GOLDEN / base, adapter=adapter)


def test_the_options_are_all_there():
    configs = [
        json.loads((support.GOLDEN / name / "adapter_config.json").read_text()) for name in LORAS
    ]
    for option in (
        "use_rslora", "rank_pattern", "alpha_pattern", "exclude_modules", "layers_to_transform",
        "fan_in_fan_out",
    ):  # fmt: skip
        assert 0 < sum(bool(config[option]) for config in configs) < len(configs), option
    assert {type(config["target_modules"]) for config in configs} == {str, list}


@pytest.mark.parametrize("name", ADAPTERS)
def test_logits_are_those_of_peft(name):
    folder = support.GOLDEN / name
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    model = load(folder, base)
    with np.load(folder / "golden.npz") as golden, jax.default_matmul_precision("highest"):
        logits = jax.jit(model.model.apply)(model.variables, golden["tokens"]).logits
        np.testing.assert_allclose(logits, golden["logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", BASES)
def test_there_and_back(name, tmp_path):
    model, params, lora, delta = made(name)
    save_adapter(tmp_path, model, lora, delta, "somewhere")
    found = by_path(merge_adapter(tmp_path, model, params))
    for path, wanted in by_path(lora.merge(params, delta)).items():
        np.testing.assert_allclose(found[path], wanted, rtol=0, atol=1e-6, err_msg=path)
        assert (path in delta) == bool(np.any(found[path] != by_path(params)[path])), path


@pytest.mark.parametrize("name", BASES)
def test_tensors_are_those_of_the_formula(name, tmp_path):
    """W + alpha / r B A of one matrix, as transformers stores it."""
    model, params, lora, delta = made(name)
    in_out, _, (path, module) = BASES[name]
    save_adapter(tmp_path, model, lora, delta, "somewhere")
    stored = load_file(tmp_path / "adapter_model.safetensors")
    a, b = (stored[f"base_model.model.{module}.lora_{factor}.weight"] for factor in "AB")
    change = ALPHA / RANK * (b.astype(np.float64) @ a)
    before, after = (
        ARCHITECTURES[model.model_type].to_tensors(each, model)[f"{module}.weight"]
        for each in (params, jax.device_get(lora.merge(params, delta)))
    )
    assert a.shape[0] == b.shape[1] == RANK and path in delta
    np.testing.assert_allclose(after, before + (change.T if in_out else change), rtol=0, atol=1e-6)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"]) == ("LORA", "CAUSAL_LM")
    assert (config["r"], config["lora_alpha"], config["bias"]) == (RANK, ALPHA, "none")
    assert config["base_model_name_or_path"] == "somewhere"
    assert config["fan_in_fan_out"] is in_out
    assert len(stored) == 2 * len(config["target_modules"]) == 2 * len(delta)
    assert module in config["target_modules"]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's own use of transformers
@pytest.mark.parametrize("name", BASES)
def test_peft_loads_what_is_written(name, tmp_path):
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    model, params, lora, delta = made(name)
    save_adapter(tmp_path, model, lora, delta, str(support.GOLDEN / name))
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    tokens = np.random.default_rng(0).integers(model.vocab_size, size=(2, 10))
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        wanted = theirs(torch.tensor(tokens)).logits.numpy()
        found, base = (
            model.apply({"params": each}, tokens).logits
            for each in (lora.merge(params, delta), params)
        )
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    assert np.abs(found - base).max() > 0.1


def test_an_adapter_is_merged_in_float32(copy):
    """Whatever the precision of its file and of the base in memory."""
    folder = support.GOLDEN / "llama_groups_2"
    edit_weights(copy, lambda t: t.update({k: v.astype(ml_dtypes.bfloat16) for k, v in t.items()}))
    low = dinado_jax.load(folder, adapter=copy, param_dtype="bfloat16")
    for one, other in zip(jax.tree.leaves(low.params), jax.tree.leaves(load(copy).params)):
        assert one.dtype == "bfloat16" and other.dtype == "float32"
        np.testing.assert_array_equal(one, other.astype("bfloat16"))


# What cannot be exported


@pytest.mark.parametrize(
    "low_rank, full, named",
    [
        ((".*c_attn/kernel",), (".*/ln_1/scale",), "h_0/ln_1/scale, h_1/ln_1/scale"),
        ((), ("h_0/attn/c_attn/kernel",), "h_0/attn/c_attn/kernel"),
        ((".*c_attn/kernel", "wte/embedding"), (), "wte/embedding"),
        ((), (".*",), "wte/embedding, wpe/embedding, .* and 23 more"),
    ],
)
def test_changes_that_are_no_lora_are_named(low_rank, full, named, tmp_path):
    model, params, _, _ = made("gpt2_inner")
    lora = LoRA(RANK, ALPHA, low_rank, full)
    delta = lora.init(jax.random.key(0), params)
    said = f"the delta changes {named}: a LoRA .* use --format hf, or train with delta.full=\\[\\]"
    refused(said, save_adapter, tmp_path, model, lora, delta, "somewhere")
    assert not list(tmp_path.iterdir())


# What is refused on the way in


@pytest.mark.parametrize(
    "name, value",
    [
        ("use_dora", True),
        ("bias", "lora_only"),
        ("lora_bias", True),
        ("modules_to_save", ["lm_head"]),
        ("layer_replication", [[0, 1]]),
        ("target_parameters", ["a"]),
        ("trainable_token_indices", [3]),
        ("alora_invocation_tokens", [1]),
        ("init_lora_weights", "pissa_niter_4"),
        ("task_type", "SEQ_CLS"),
        ("of_the_future", 1),
    ],
)
def test_options_that_are_not_applied(copy, name, value):
    edit_config(copy, **{name: value})
    refused(
        f"adapter_config.json has {name} = .*: not supported, merge it .* with peft", load, copy
    )


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"peft_type": "IA3"}, "peft_type = 'IA3': only LORA, PREFIX_TUNING and PROMPT_TUNING"),
        ({"peft_type": None}, "peft_type = None: only LORA, "),
        ({"peft_type": []}, "peft_type = .*: only LORA, "),
        ({"r": 0}, "rank r = 0: it must be at least 1"),
        ({"r": "2"}, "r is '2', not an integer"),
        ({"r": None}, "r is missing"),
        ({"rank_pattern": {"q_proj": -1}}, "rank q_proj = -1: it must be at least 1"),
        ({"rank_pattern": {"q_proj": 2.5}}, "rank_pattern, q_proj is 2.5, not an integer"),
        ({"rank_pattern": {"(": 2}}, r"has '.*\(\?:\(\)', not a regular expression"),
        ({"lora_alpha": float("nan")}, "alpha lora_alpha = nan: it must be finite"),
        ({"alpha_pattern": {"q_proj": float("inf")}}, "alpha q_proj = inf: it must be finite"),
        ({"target_modules": None}, "target_modules is missing"),
        ({"target_modules": [3]}, r"target_modules, .*\[0\].* is 3, not a text"),
        ({"target_modules": "("}, r"has '\(', not a regular expression"),
        ({"layers_to_transform": ["0"]}, "layers_to_transform, "),
    ],
)
def test_configurations_that_make_no_sense(copy, changes, said):
    edit_config(copy, **changes)
    refused(said, load, copy)


KEY = "base_model.model.model.layers.1.self_attn.v_proj.lora_{}.weight"


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda t: t.pop(KEY.format("B")), f"{KEY.format('B')} expected .8, 2., found nothing"),
        (
            lambda t: t.update({KEY.format("A"): np.ones((2, 15), np.float32)}),
            f"{KEY.format('A')} expected .2, 16., found .2, 15.",
        ),
        (
            lambda t: t.update({"base_model.model.lm_head.weight": np.ones((37, 16), np.float32)}),
            "base_model.model.lm_head.weight expected nothing, found .37, 16.",
        ),
        (
            lambda t: t.update({KEY.format("magnitude_vector"): np.ones(8, np.float32)}),
            "lora_magnitude_vector.weight expected nothing",
        ),
        (lambda t: t.update({KEY.format("A"): t[KEY.format("A")] * np.nan}), "not finite"),
        (
            lambda t: t.update({KEY.format("A"): t[KEY.format("A")].astype(np.int32)}),
            "found int32",
        ),
    ],
)
def test_every_tensor_counts(copy, change, said):
    edit_weights(copy, change)
    refused(said, load, copy)


def test_the_configuration_belongs_to_its_tensors(copy):
    edit_config(copy, r=4)
    refused("expected .4, 16., found .2, 16.*adapter_config.json that belongs", load, copy)
    edit_config(copy, r=2, target_modules=["q_proj"])
    refused("v_proj.lora_A.weight expected nothing, found .2, 16.", load, copy)
    edit_config(copy, target_modules=["q_proj", "v_proj", "o_proj"])
    refused("o_proj.lora_A.weight expected .2, 16., found nothing", load, copy)


def test_names_match_by_whole_parts(copy):
    wanted = load(copy).params
    edit_config(copy, target_modules=["q_proj", "v_proj", "proj", "mlp"], rank_pattern={"proj": 9})
    chex.assert_trees_all_equal(load(copy).params, wanted)


def test_an_adapter_of_another_base(copy):
    refused("model.layers.0.self_attn.q_proj.* expected nothing", load, copy, "gpt2_inner")
    edit_weights(copy, dict.clear)
    refused("no matrix of this base is in target_modules", load, copy, "gpt2_inner")


def test_pickled_missing_and_damaged_files(copy, tmp_path):
    path = copy / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    refused("unreadable safetensors, .*adapter_model.safetensors", load, copy)
    path.rename(copy / "adapter_model.bin")
    refused("no safetensors but adapter_model.bin, .*can run code when opened", load, copy)
    (copy / "adapter_model.bin").unlink()
    refused("no adapter_model.safetensors", load, copy)
    (copy / "adapter_config.json").unlink()
    refused("adapter_config.json, no such file", load, copy)
    refused("no such folder", load, tmp_path / "nowhere")

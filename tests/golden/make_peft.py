"""Golden numbers for adapters from PEFT, on bases that make_gpt2.py and make_llama.py made.

Made with Python 3.11, torch 2.13.0, peft 0.21.2, transformers 5.24.0, safetensors 0.8.0:

    python -m venv torch-env
    torch-env/bin/pip install torch==2.13.0 peft==0.21.2 transformers==5.24.0 safetensors numpy
    PYTHONPATH=tests torch-env/bin/python tests/golden/make_peft.py

Writes one folder `peft_<name>` per adapter next to this file: as PEFT saves it, with float32
weights, the name of the base's folder in adapter_config.json, and `golden.npz` with `tokens` [B, T]
int32 and `logits` [B, T, V] float32, evaluated in float64, of the base with the adapter.
"""

import json
import shutil

import numpy as np
import support
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

# The base's folder, and the configuration of what is put ahead of its rows.
AHEAD = {
    "gpt2_prefix": ("gpt2_inner", PrefixTuningConfig(num_virtual_tokens=3)),
    "gpt2_network": (
        "gpt2_deep",
        PrefixTuningConfig(num_virtual_tokens=2, prefix_projection=True, encoder_hidden_size=7),
    ),
    "gpt2_prompt": ("gpt2_inner", PromptTuningConfig(num_virtual_tokens=4)),
    "llama_prefix": ("llama_groups_2", PrefixTuningConfig(num_virtual_tokens=5)),
    "llama_prompt": ("llama_groups_2", PromptTuningConfig(num_virtual_tokens=1)),
}
# The base's folder, and what LoraConfig is told.
ADAPTERS = {
    "gpt2": ("gpt2_inner", dict(r=2, lora_alpha=3, target_modules=["c_attn"])),
    "gpt2_patterns": (
        "gpt2_inner",
        dict(
            r=2,
            lora_alpha=5,
            target_modules=["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"],
            rank_pattern={r"h\.1\.attn\.c_attn": 3, "c_proj": 1},
            alpha_pattern={"c_fc": 1.5, "c_proj": 1, "mlp.c_proj": 4},  # the last is never reached
        ),
    ),
    "gpt2_layers": (
        "gpt2_deep",
        dict(r=4, lora_alpha=4, target_modules=["c_fc"], layers_to_transform=[1, 3]),
    ),
    "llama": ("llama_groups_2", dict(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"])),
    "llama_all": (
        "llama_biases",
        dict(r=3, lora_alpha=2, target_modules="all-linear", init_lora_weights="gaussian"),
    ),
    "llama_rslora": (
        "llama_groups_2",
        dict(
            r=2,
            lora_alpha=3,
            use_rslora=True,
            target_modules=["k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
            rank_pattern={"layers.0.mlp.down_proj": 4},
            alpha_pattern={"o_proj": 1},
        ),
    ),
    "qwen2_expression": (
        "llama_qwen2",
        dict(
            r=1,
            lora_alpha=2,
            target_modules=r".*\.(self_attn|mlp)\.(q|k|up)_proj",
            exclude_modules=["layers.1.self_attn.k_proj"],
        ),
    ),
}


def load(base: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(support.GOLDEN / base, dtype=torch.float32)


def main() -> None:
    loras = {name: (base, LoraConfig(**fields)) for name, (base, fields) in ADAPTERS.items()}
    for seed, (name, (base, config)) in enumerate((loras | AHEAD).items()):
        rng = np.random.default_rng(seed)
        config.task_type = "CAUSAL_LM"
        model = get_peft_model(load(base), config)
        for key, weight in model.named_parameters():
            if "lora_" in key or (name in AHEAD and weight.requires_grad):
                noise = 0.5 * rng.standard_normal(tuple(weight.shape)) * weight.shape[-1] ** -0.5
                weight.data = torch.tensor(noise, dtype=torch.float32)
        folder = support.GOLDEN / f"peft_{name}"
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
        (folder / "README.md").unlink()
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text()) | {"base_model_name_or_path": base}
        if isinstance(config.get("target_modules"), list):
            config["target_modules"].sort()  # PEFT writes a set
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        tokens = torch.tensor(rng.integers(model.config.vocab_size, size=(2, 10)))
        model = PeftModel.from_pretrained(load(base), folder).double().eval()
        logits = model(tokens).logits[:, -tokens.shape[1] :].detach().numpy()  # a prompt has some
        with model.disable_adapter():
            moved = abs(logits - model(tokens).logits.detach().numpy()).max()
        arrays = {"tokens": tokens.numpy().astype(np.int32), "logits": logits.astype(np.float32)}
        np.savez_compressed(folder / "golden.npz", **arrays)
        print(f"{name}: the adapter moves logits by up to {moved:.2f}")


if __name__ == "__main__":
    main()

"""Golden numbers for the Llama family from the PyTorch implementations in transformers.

Made with Python 3.11, torch 2.13.0, transformers 5.24.0, safetensors 0.8.0, numpy 2.4.6:

    python -m venv torch-env
    torch-env/bin/pip install torch==2.13.0 transformers==5.24.0 safetensors numpy
    PYTHONPATH=tests torch-env/bin/python tests/golden/make_llama.py

Writes one folder `llama_<name>` per model next to this file: a Hugging Face folder with float32
weights and `golden.npz` with `tokens` [B, T] int32, `logits` [B, T, V] float32, `log_prob` (summed
over next tokens, nats), `grad:<key>`, its gradients by key, and the beams of `prompts` [B, P]:
`beam_tokens` [B, K, N], 0 from eos on, and `beam_scores` [B, K], nats per token.
The reference is evaluated in float64, except for what transformers computes in float32 in any case.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import support
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

BEAMS, NEW_TOKENS = 3, 6
SMALL = dict(vocab_size=32, hidden_size=16, intermediate_size=20, num_hidden_layers=2)
LLAMA = SMALL | dict(model_type="llama", max_position_embeddings=16)
MISTRAL = SMALL | dict(model_type="mistral", max_position_embeddings=18)
QWEN2 = SMALL | dict(model_type="qwen2", max_position_embeddings=16)
QWEN3 = SMALL | dict(model_type="qwen3", max_position_embeddings=16)
TYPICAL = dict(rope_type="default", rope_theta=10_000.0)


def heads(heads: int, kv_heads: int, **fields) -> dict:
    return dict(num_attention_heads=heads, num_key_value_heads=kv_heads) | fields


MODELS = {
    "plain": LLAMA | heads(2, 2, rms_norm_eps=1e-2),
    "groups_2": LLAMA | heads(4, 2, tie_word_embeddings=True, vocab_size=37),
    "groups_3": SMALL
    | dict(model_type="llama", hidden_size=24, max_position_embeddings=16, rms_norm_eps=1e-5)
    | heads(6, 2, tie_word_embeddings=True, rope_parameters=TYPICAL | {"rope_theta": 1e5}),
    "groups_8": LLAMA | heads(8, 1, head_dim=4),
    "linear": LLAMA
    | heads(2, 1, max_position_embeddings=48)
    | dict(rope_parameters=TYPICAL | dict(rope_type="linear", factor=4.0)),
    # Wavelengths of 6, 15, 35 and more tokens: kept, interpolated and divided.
    "llama3": LLAMA
    | heads(2, 1, head_dim=16, max_position_embeddings=60)
    | dict(
        rope_parameters=dict(
            rope_type="llama3",
            rope_theta=1000.0,
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=3.0,
            original_max_position_embeddings=24,
        )
    ),
    "biases": LLAMA | heads(4, 2, attention_bias=True, mlp_bias=True),
    "mistral": MISTRAL | heads(4, 2, sliding_window=5, head_dim=6),
    "mistral_full": MISTRAL | heads(4, 1, sliding_window=None),
    "qwen2": QWEN2 | heads(4, 2, tie_word_embeddings=True, vocab_size=41),
    "qwen2_window": QWEN2
    | heads(4, 2, num_hidden_layers=3)
    | dict(use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "qwen3": QWEN3 | heads(4, 2, head_dim=10),
    "qwen3_biases": QWEN3 | heads(2, 1, head_dim=8, attention_bias=True, tie_word_embeddings=True),
    "older": LLAMA | heads(4, 2, tie_word_embeddings=True),
    "sharded": LLAMA | heads(4, 4, num_hidden_layers=3),
}


def randomise(model: PreTrainedModel, rng: np.random.Generator) -> None:
    """Weights far from their usual initial values: no bias is 0, no norm's scale is 1."""
    for key, weight in model.named_parameters():
        noise = rng.standard_normal(tuple(weight.shape))
        if weight.ndim == 2:
            noise *= 0.5 if "embed_tokens" in key else weight.shape[1] ** -0.5
        else:
            noise = 0.3 * noise + ("norm" in key)
        weight.data = torch.tensor(noise, dtype=torch.float32)
    model.tie_weights()


def reference(model: PreTrainedModel, tokens: torch.Tensor) -> dict[str, np.ndarray]:
    """Logits, summed log-probability and gradients of `tokens` [B, T]."""
    logits = model(tokens).logits
    log_p = logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None]).sum()
    log_p.backward()
    arrays = {"logits": logits.detach(), "log_prob": log_p.detach()}
    arrays |= {f"grad:{key}": weight.grad for key, weight in model.named_parameters()}
    return {key: array.numpy().astype(np.float32) for key, array in arrays.items()}


def beams(model: PreTrainedModel, prompts: torch.Tensor) -> dict[str, np.ndarray]:
    out = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        num_beams=BEAMS,
        num_return_sequences=BEAMS,
        do_sample=False,
        early_stopping=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=0,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    found = out.sequences[:, prompts.shape[1] :].numpy()
    tokens = np.zeros((len(found), NEW_TOKENS), np.int32)
    tokens[:, : found.shape[1]] = found
    return {
        "prompts": prompts.numpy().astype(np.int32),
        "beam_tokens": tokens.reshape(len(prompts), BEAMS, -1),
        "beam_scores": out.sequences_scores.numpy().reshape(-1, BEAMS).astype(np.float32),
    }


def make_older(folder: Path) -> None:
    """Rewrites a folder as older ones are: transformers 4's options, no prefix, frequencies, and a
    head that repeats the table."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    del config["head_dim"], config["mlp_bias"]
    config |= {"rope_theta": rope["rope_theta"], "rope_scaling": None, "pretraining_tp": 1}
    path.write_text(json.dumps(config, indent=2) + "\n")
    weights = folder / "model.safetensors"
    tensors = {key.removeprefix("model."): t for key, t in load_file(weights).items()}
    tensors["lm_head.weight"] = tensors["embed_tokens.weight"].clone()
    for i in range(config["num_hidden_layers"]):
        tensors[f"layers.{i}.self_attn.rotary_emb.inv_freq"] = torch.tensor([1.0, 0.01])
    save_file(tensors, weights, {"format": "pt"})


def main() -> None:
    for seed, (name, fields) in enumerate(MODELS.items()):
        rng = np.random.default_rng(seed)
        config = AutoConfig.for_model(**fields, bos_token_id=0, eos_token_id=0, pad_token_id=None)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        randomise(model, rng)
        folder = support.GOLDEN / f"llama_{name}"
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder, max_shard_size="12KB" if name == "sharded" else "1GB")
        (folder / "generation_config.json").unlink()
        if name == "older":
            make_older(folder)
        model = model.double().eval()
        # The longest sequence the model takes, so that the last position is covered too.
        rows = 1 if config.max_position_embeddings > 40 else 2
        tokens = torch.tensor(
            rng.integers(config.vocab_size, size=(rows, config.max_position_embeddings))
        )
        golden = {"tokens": tokens.numpy().astype(np.int32)} | reference(model, tokens)
        # Prompts longer than the windows.
        golden |= beams(model, torch.tensor(rng.integers(1, config.vocab_size, size=(3, 7))))
        np.savez_compressed(folder / "golden.npz", **golden)
        print(f"{name}: {golden['log_prob']:.4f}, largest logit {abs(golden['logits']).max():.2f}")


if __name__ == "__main__":
    main()

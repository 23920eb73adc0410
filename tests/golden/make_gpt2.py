"""Golden numbers for GPT-2 from the PyTorch implementation in transformers.

Made with Python 3.11, torch 2.13.0, transformers 5.23.0, safetensors 0.8.0, numpy 2.4.6:

    python -m venv torch-env
    torch-env/bin/pip install torch==2.13.0 transformers==5.23.0 safetensors numpy
    torch-env/bin/python tests/golden/make_gpt2.py

Writes one folder `gpt2_<name>` per model next to this file: a Hugging Face folder with float32
weights and `golden.npz` with `tokens` [B, T] int32, `logits` [B, T, V] float32, `nll` (mean
next-token negative log-likelihood, nats per token) and `grad:<key>`, the gradients of `nll`.
The reference is evaluated in float64, so that a test's tolerance covers one implementation only.
"""

import shutil
from pathlib import Path

import numpy as np
import support
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

HERE = support.TESTS
MODELS = {
    "heads": dict(vocab_size=64, n_positions=16, n_embd=32, n_layer=1, n_head=8),
    "odd_vocab": dict(vocab_size=101, n_positions=24, n_embd=24, n_layer=2, n_head=3),
    "inner": dict(vocab_size=64, n_positions=16, n_embd=16, n_layer=2, n_head=2, n_inner=40),
    "deep": dict(
        vocab_size=50, n_positions=20, n_embd=16, n_layer=5, n_head=4, layer_norm_epsilon=1e-2
    ),
    "bare": dict(vocab_size=67, n_positions=12, n_embd=16, n_layer=2, n_head=1),
    "sharded": dict(vocab_size=40, n_positions=16, n_embd=16, n_layer=3, n_head=2),
}
GRADIENTS = [
    "wte.weight", "wpe.weight", "h.0.attn.c_attn.weight", "h.0.mlp.c_fc.weight", "ln_f.weight",
]  # fmt: skip


def randomise(model: GPT2LMHeadModel, rng: np.random.Generator) -> None:
    """Weights far from their usual initial values: no bias is 0, no LayerNorm scale is 1."""
    for key, weight in model.named_parameters():
        noise = rng.standard_normal(tuple(weight.shape))
        if weight.ndim == 2:
            noise *= 0.5 if key.endswith(("wte.weight", "wpe.weight")) else weight.shape[0] ** -0.5
        else:
            noise = 0.3 * noise + (".ln_" in key and key.endswith("weight"))
        weight.data = torch.tensor(noise, dtype=torch.float32)
    model.tie_weights()


def reference(model: GPT2LMHeadModel, tokens: torch.Tensor) -> dict[str, np.ndarray]:
    """Logits, loss and gradients of `tokens` [B, T], evaluated in float64."""
    model = model.double().eval()
    logits = model(tokens).logits
    nll = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    nll.backward()
    weights = dict(model.transformer.named_parameters())
    gradients = {f"grad:{key}": weights[key].grad.numpy() for key in GRADIENTS}
    arrays = {"logits": logits.detach().numpy(), "nll": nll.detach().numpy()} | gradients
    return {"tokens": tokens.numpy().astype(np.int32)} | {
        key: array.astype(np.float32) for key, array in arrays.items()
    }


def strip(folder: Path, config: GPT2Config) -> None:
    """Rewrites the weights as older files hold them: no prefix, and the causal-mask buffers."""
    path = folder / "model.safetensors"
    P = config.n_positions
    tensors = {key.removeprefix("transformer."): t for key, t in load_file(path).items()}
    for i in range(config.n_layer):
        tensors[f"h.{i}.attn.bias"] = torch.tril(torch.ones(P, P)).reshape(1, 1, P, P)
        tensors[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, path, {"format": "pt"})


def main() -> None:
    for seed, (name, fields) in enumerate(MODELS.items()):
        rng = np.random.default_rng(seed)
        config = GPT2Config(**fields, bos_token_id=0, eos_token_id=0, attn_implementation="eager")
        model = GPT2LMHeadModel(config)
        randomise(model, rng)
        folder = HERE / f"gpt2_{name}"
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder, max_shard_size="12KB" if name == "sharded" else "1GB")
        (folder / "generation_config.json").unlink()
        if name == "bare":
            strip(folder, config)
        # The longest sequence the model takes, so that the last position is covered too.
        tokens = rng.integers(config.vocab_size, size=(2, config.n_positions))
        golden = reference(model, torch.tensor(tokens))
        np.savez_compressed(folder / "golden.npz", **golden)
        print(f"{name}: nll {golden['nll']:.4f}, largest logit {abs(golden['logits']).max():.2f}")


if __name__ == "__main__":
    main()

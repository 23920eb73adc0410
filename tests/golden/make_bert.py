"""Golden numbers for BERT and RoBERTa from the PyTorch implementations in transformers.

Made with Python 3.11, torch 2.13.0, transformers 5.24.0, safetensors 0.8.0, numpy 2.4.6:

    python -m venv torch-env
    torch-env/bin/pip install torch==2.13.0 transformers==5.24.0 safetensors numpy
    PYTHONPATH=tests torch-env/bin/python tests/golden/make_bert.py

Writes one folder `bert_<name>` per model next to this file: a Hugging Face folder with float32
weights and `golden.npz` with `tokens` [B, T] int32, `mask` [B, T] bool, `hidden` [B, T, D] float32
and `logits` [B, T, V] float32, zero at padding. The reference is evaluated in float64, so that a
test's tolerance covers one implementation only.
"""

import shutil
from pathlib import Path

import numpy as np
import support
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

HERE = support.GOLDEN
SMALL = dict(vocab_size=29, hidden_size=12, num_hidden_layers=2, intermediate_size=20)
MODELS = {
    "plain": (BertForMaskedLM, BertConfig(**SMALL, num_attention_heads=3)),
    "older": (
        BertForPreTraining,
        BertConfig(
            **SMALL, num_attention_heads=2, hidden_act="gelu_new", layer_norm_eps=1e-3,
            type_vocab_size=3,
        ),
    ),
    "roberta": (
        RobertaForMaskedLM,
        RobertaConfig(
            **SMALL, num_attention_heads=4, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1
        ),
    ),
}  # fmt: skip
LENGTHS = (9, 5, 1)  # tokens of each row; the first has all that the model takes


def randomise(model: PreTrainedModel, rng: np.random.Generator) -> None:
    """Weights far from their usual initial values: no bias is 0, no LayerNorm scale is 1, and rows
    of the tables that stand for padding are as others."""
    for key, weight in model.named_parameters():
        noise = rng.standard_normal(tuple(weight.shape))
        if weight.ndim == 2:
            noise *= 0.5 if "embeddings" in key else weight.shape[1] ** -0.5
        else:
            norm = "LayerNorm" in key or "layer_norm" in key
            noise = 0.3 * noise + (norm and key.endswith("weight"))
        weight.data = torch.tensor(noise, dtype=torch.float32)
    model.tie_weights()


def reference(model: PreTrainedModel, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Tokens, hidden states and logits, evaluated in float64."""
    model, pad = model.double().eval(), model.config.pad_token_id
    mask = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
    tokens = rng.integers(2, model.config.vocab_size, size=mask.shape)
    inputs = torch.tensor(np.where(mask, tokens, pad)), torch.tensor(mask)
    with torch.no_grad():
        out = model(*inputs, output_hidden_states=True)
    found = {"hidden": out.hidden_states[-1], "logits": out[0]}
    real = {name: np.where(mask[..., None], x.numpy(), 0) for name, x in found.items()}
    return {"tokens": inputs[0].numpy().astype(np.int32), "mask": mask} | {
        name: array.astype(np.float32) for name, array in real.items()
    }


def age(folder: Path, positions: int) -> None:
    """Rewrites the weights as the oldest files hold them: other names in every LayerNorm, the tied
    matrix and bias twice, and the numbers of positions."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    head = "cls.predictions."
    tensors[f"{head}decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
    tensors[f"{head}decoder.bias"] = tensors[f"{head}bias"].clone()
    for key in [key for key in tensors if "LayerNorm" in key]:
        name = key.replace("weight", "gamma").replace("bias", "beta")
        tensors[name] = tensors.pop(key)
    tensors["bert.embeddings.position_ids"] = torch.arange(positions)[None]
    save_file(tensors, path, {"format": "pt"})


def main() -> None:
    for seed, (name, (kind, config)) in enumerate(MODELS.items()):
        rng = np.random.default_rng(seed)
        offset = config.pad_token_id + 1 if kind is RobertaForMaskedLM else 0
        config.max_position_embeddings = max(LENGTHS) + offset
        model = kind(config)
        randomise(model, rng)
        folder = HERE / f"bert_{name}"
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        if name == "older":
            age(folder, config.max_position_embeddings)
        golden = reference(model, rng)
        np.savez_compressed(folder / "golden.npz", **golden)
        print(f"{name}: largest logit {abs(golden['logits']).max():.2f}")


if __name__ == "__main__":
    main()

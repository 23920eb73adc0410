"""What transformers computes for each folder of support/llama_mutations.py.

Made as make_llama.py, after it:

    PYTHONPATH=tests torch-env/bin/python tests/golden/make_llama_mutations.py

Writes `llama_mutations.npz`: by the name of each mutation that is to load, the last position's
logits [B, V], float32, of the golden model's tokens.
"""

import tempfile
from pathlib import Path

import numpy as np
import support
import torch
from support.llama_mutations import MUTATIONS
from transformers import AutoModelForCausalLM


def logits(folder: Path, tokens: np.ndarray) -> np.ndarray | None:
    """None where transformers raises an error or warns of keys, and for values not finite."""
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, attn_implementation="eager"
        )
        with torch.no_grad():
            found = model.double()(torch.tensor(tokens).long()).logits[:, -1].numpy()
    except Exception as error:
        print(f"    {type(error).__name__}: {str(error).splitlines()[0][:100]}")
        return None
    if any(info.values()):
        print(f"    { {key: sorted(map(str, keys))[:2] for key, keys in info.items() if keys} }")
        return None
    return found.astype(np.float32) if np.isfinite(found).all() else None


def main() -> None:
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        for number, (name, mutation) in enumerate(MUTATIONS.items()):
            folder = Path(temporary) / str(number)
            mutation.write(folder)
            with np.load(support.GOLDEN / f"llama_{mutation.model}" / "golden.npz") as golden:
                out = logits(folder, golden["tokens"])
            print(f"{name}: {'loads' if out is not None else 'fails'}, equal={mutation.equal}")
            if mutation.equal:
                assert out is not None
                found[name] = out
    np.savez_compressed(support.GOLDEN / "llama_mutations.npz", **found)


if __name__ == "__main__":
    main()

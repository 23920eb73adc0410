"""Decoding of one row by llama.cpp, to stand beside `dinado bench decode --batch 1`.

    pip install xllamacpp        # llama.cpp, compiled
    python benchmarks/llama_cpp.py MODEL.gguf --length 24

Prints a line of JSON: medians over the repeats, prompt included in `tokens_per_s`.
"""

import argparse
import json
import os
import statistics
from pathlib import Path

import xllamacpp

# 17 tokens of SmolLM2's.
PROMPT = "One morning a young painter put on a coat and walked down to the old harbour to"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--length", type=int, default=24, help="new tokens")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    settings = xllamacpp.CommonParams()
    settings.model.path = str(args.model)
    settings.n_ctx, settings.n_parallel = 256, 1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = os.cpu_count()
    server = xllamacpp.Server(settings)
    asked = {"prompt": PROMPT, "n_predict": args.length, "ignore_eos": True, "cache_prompt": False}
    timings = []
    for seed in range(args.repeats + 1):
        answer = server.handle_completions({**asked, "temperature": 1.0, "seed": seed})
        timings.append(answer["timings"])
    median = {
        key: statistics.median(timing[key] for timing in timings[1:])
        for key in ("prompt_ms", "predicted_ms")
    }
    record = {"model": args.model.name, "prompt": timings[-1]["prompt_n"], "length": args.length}
    record |= {"prompt_ms": round(median["prompt_ms"], 1)}
    record |= {"ms_per_token": round(median["predicted_ms"] / args.length, 2)}
    record |= {"tokens_per_s": round(1e3 * args.length / sum(median.values()), 1)}
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()

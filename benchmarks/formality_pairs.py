r"""Pairs for formal translations from parallel sentences of English and German.

    python benchmarks/formality_pairs.py PAIRS --out FOLDER [--test 300] [--dev 200]

PAIRS has lines "source\ttarget", of which the first, a header, is left out. English does not tell
which address is meant and German must: the sources to measure are those with formal and informal
references, by rule. In FOLDER are

    pairs.jsonl      what a base is trained on: all sources but those of dev.jsonl and test.jsonl
    you.jsonl        of these the ones that speak to somebody, for a control's rollouts
    labelled.jsonl   their targets of one address, for `dinado oracle train`
    dev.jsonl        sources with references of both addresses, to choose settings by
    test.jsonl       as many others as --test says, to be measured
"""

import argparse
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from dinado_jax.oracles.address import Marks, german_address
from dinado_jax.tasks.translation import grouped
from dinado_jax.utils.files import read_lines

FORMAL, INFORMAL = Marks(True, False), Marks(False, True)
LABELS = {FORMAL: "formal", INFORMAL: "informal"}


def read(path: Path) -> dict[str, tuple[str, ...]]:
    """The targets of each prompt, in order of first appearance."""
    pairs = [line.split("\t")[:2] for line in read_lines(path)[1:]]
    examples = grouped([(source, [target.strip()]) for source, target in pairs])
    return {example.prompt: example.references for example in examples}


def write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{path}: {len(lines)} rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--dev", type=int, default=200)
    args = parser.parse_args()
    pairs = read(args.pairs)
    marks = {one: [german_address(one, text) for text in texts] for one, texts in pairs.items()}
    both = [one for one, found in marks.items() if {FORMAL, INFORMAL} <= set(found)]
    random.Random(0).shuffle(both)
    test, dev = both[: args.test], both[args.test : args.test + args.dev]
    seen = [one for one in pairs if one not in {*test, *dev}]
    you = [one for one in seen if any(mark.formal or mark.informal for mark in marks[one])]

    def rows(prompts: Sequence[str]) -> Iterable[dict[str, str]]:
        return ({"prompt": one, "target": text} for one in prompts for text in pairs[one])

    args.out.mkdir(parents=True, exist_ok=True)
    for name, prompts in {"pairs": seen, "you": you, "dev": dev, "test": test}.items():
        write(args.out / f"{name}.jsonl", rows(prompts))
    labelled = (
        {"prompt": one, "text": text, "label": LABELS[mark]}
        for one in you
        for text, mark in zip(pairs[one], marks[one], strict=True)
        if mark in LABELS
    )
    write(args.out / "labelled.jsonl", labelled)


if __name__ == "__main__":
    main()

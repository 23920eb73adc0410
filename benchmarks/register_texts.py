r"""Polite and casual texts, for a classifier of register, from two files of utterances.

    python benchmarks/register_texts.py POLITE CASUAL --out FILE [--each 8000] [--words 4 30]

POLITE and CASUAL have an utterance in each line (.txt, .gz, .xz); empty lines are left out, and
repeated ones, and those with other numbers of words than --words says. Writes --each of both, drawn
without replacement, as rows of text and label, "polite" and "casual": for `dinado oracle train FILE
--label polite`. What such a classifier knows is which of the two files a text is likelier from.
"""

import argparse
import json
import random
from pathlib import Path

from dinado_jax.utils.files import read_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("polite", type=Path)
    parser.add_argument("casual", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--each", type=int, default=8000)
    parser.add_argument("--words", type=int, nargs=2, default=(4, 30), metavar=("LEAST", "MOST"))
    args = parser.parse_args()
    least, most = args.words
    drawing, rows = random.Random(0), []
    for label, path in (("polite", args.polite), ("casual", args.casual)):
        texts = dict.fromkeys(line.strip() for line in read_lines(path))
        fitting = [text for text in texts if least <= len(text.split()) <= most]
        drawn = drawing.sample(fitting, min(args.each, len(fitting)))
        rows += [{"text": text, "label": label} for text in drawn]
    drawing.shuffle(rows)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    args.out.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{args.out}: {len(rows)} rows")


if __name__ == "__main__":
    main()

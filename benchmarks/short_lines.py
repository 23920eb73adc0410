r"""Parallel text without its longer lines: a copy of a folder, for a base with few positions.

    python benchmarks/short_lines.py FOLDER OUT --sources '*.es' --words 2 12 \
        [--base BASE --tokens 20]

A source, `NAME.es`, and all files beside it whose names begin with `NAME.` are cut alike: kept are
the lines where the source has so many words and, with --base, at most so many tokens of that base.
"""

import argparse
from pathlib import Path

from dinado_jax.models.hf_folder import locate
from dinado_jax.models.tokenizer import load_codec


def kept(lines: list[str], words: tuple[int, int], tokens: int, base: str | None) -> list[int]:
    """The numbers of the lines that are short enough."""
    least, most = words
    found = [i for i, line in enumerate(lines) if least <= len(line.split()) <= most]
    if base is None:
        return found
    prompts = load_codec(locate(base)).prompts([lines[i].strip() for i in found])
    return [i for i, prompt in zip(found, prompts, strict=True) if len(prompt) <= tokens]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sources", nargs="+", required=True, metavar="PATTERN")
    parser.add_argument("--words", nargs=2, type=int, required=True, metavar=("LEAST", "MOST"))
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--base")
    args = parser.parse_args()
    for source in sorted({path for each in args.sources for path in args.folder.rglob(each)}):
        files = [source, *source.parent.glob(f"{source.stem}.*")]
        # Only \n ends a line: telephone speech has a \r here and there.
        texts = {path: path.read_bytes().decode().removesuffix("\n").split("\n") for path in files}
        lines = texts[source]
        if odd := [path for path in files if len(texts[path]) != len(lines)]:
            parser.error(f"{odd[0]} has not as many lines as {source}: leave it out of the folder")
        numbers = kept(lines, args.words, args.tokens, args.base)
        for path, text in texts.items():
            copy = args.out / path.relative_to(args.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes("".join(f"{text[i]}\n" for i in numbers).encode())
        print(f"{source}: {len(numbers)} of {len(lines)} lines")


if __name__ == "__main__":
    main()

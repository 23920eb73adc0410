"""Automata of constraints against functions that read texts by other means, and what they cost.

    python benchmarks/automata.py TEXTS [--count 200000] [--seed 0] [--tokenizer FOLDER ..]

TEXTS has one text per line (.txt, .gz, .xz). Of --count texts half are such lines and half are
lines that were changed: case, accents, punctuation, apostrophes, hyphens, emoji, digits, cut and
joined words. The words of each constraint are frequent ones; a prompt has two words of its text,
and half of the prompts another one. Prints a line of JSON per kind: how many texts satisfy it, how
many the automaton alone accepts and the function alone, with examples. What the automata of words
do not find on purpose is listed in `dinado_jax/tasks/keyword/automaton.py`.

Of each tokenizer, a line with how often automata over its tokens disagree with those over
characters, on those texts, and with the milliseconds to build those of a prompt of five keywords:
the first one, others whose words are new, and the same ones again; medians of 40 prompts.
"""

import argparse
import functools
import json
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from dinado_jax import constraints
from dinado_jax.automata.compiled import compiled, conjunctions
from dinado_jax.models.tokenizer import load_codec
from dinado_jax.tasks.keyword.lexical import lexical, plain, without_accents, words
from dinado_jax.tasks.keyword.oracle import LEXICAL
from dinado_jax.utils.files import read_lines

INSERTED = [*".,!?;:\"'()-_/&%", "\u2019", "\u2014", "\u00a0", "\u0301", "n't", "'s", "42", "3rd"]
INSERTED += ["\U0001f642", "\U0001f1e9\U0001f1ea", "\u200b", "\u00ad", "\n", "  ", " t ", "-"]
ACCENTS = {"a": "\u00e1", "e": "\u00e9", "o": "\u00f6", "u": "\u00fc", "c": "\u00e7", "n": "\u00f1"}
KEYWORDS, PROMPTS = 5, 40
Verdict = Callable[[Sequence[str], Sequence[str]], Sequence[bool]]


def changed(text: str, draw: random.Random) -> str:
    """A text with one to four small changes."""
    for _ in range(draw.randint(1, 4)):
        place, kind = draw.randint(0, len(text)), draw.randrange(6)
        if kind == 0:
            text = text[:place] + draw.choice(INSERTED) + text[place:]
        elif kind == 1:
            text = text[:place] + text[place + 1 :]
        elif kind == 2:
            text = text[:place] + text[place:].replace(" ", draw.choice("-_/"), 1)
        elif kind == 3:
            text = text[:place] + text[place:].swapcase()
        elif kind == 4:
            text = text[:place] + "".join(ACCENTS.get(each, each) for each in text[place:])
        else:
            parts = text.split(" ")
            parts.insert(draw.randrange(len(parts)), draw.choice(parts))
            text = " ".join(parts)
    return text


def readings(text: str) -> list[str]:
    """The words of a text as the lexical oracle splits it, and those joined over hyphens."""
    folded = without_accents(plain(text)).replace("\u2010", "-")
    joined = [each.replace("-", "") for each in re.findall(r"[^\W_]+(?:-[^\W_]+)+", folded)]
    return [f" {' '.join(words(each))} " for each in (folded, " ".join(joined))]


def has(word: str, text: str) -> bool:
    return any(f" {word} " in each for each in readings(text))


def in_sequence(wanted: Sequence[str], text: str) -> bool:
    """Whether the words of a text have some others, each after the one before."""
    place, read = 0, readings(text)[0]
    for each in wanted:
        found = read.find(f" {each} ", place)
        if found < 0:
            return False
        place = found + len(each) + 1
    return True


def kinds(frequent: Sequence[str]) -> dict[str, tuple[Verdict, Verdict]]:
    """Of each kind of constraint its automata and a function, both of prompts and texts."""
    one, two, three = frequent[:3]

    expression = rf"(?i)[^.]*\b(?:{one}|{two})\b.*[.!?]"
    of_texts: dict[str, tuple[Verdict, Callable[[str], bool]]] = {
        "contains": (
            constraints.contains(one, two),
            lambda text: has(one, text) and has(two, text),
        ),
        "any_of_words": (
            constraints.any_of_words(one, two, three),
            lambda text: any(has(each, text) for each in (one, two, three)),
        ),
        "without": (constraints.without(one), lambda text: not has(one, text)),
        "in_order": (constraints.in_order(one, two), functools.partial(in_sequence, (one, two))),
        "at_least_words": (constraints.at_least_words(10), lambda text: len(words(text)) >= 10),
        "at_most_words": (constraints.at_most_words(10), lambda text: len(words(text)) <= 10),
        "starts_with": (
            constraints.starts_with("A ", "The "),
            lambda text: text.strip().startswith(("A ", "The ")),
        ),
        "ends_with": (
            constraints.ends_with(".", "!"),
            lambda text: text.strip().endswith((".", "!")),
        ),
        "pattern": (
            constraints.pattern(expression),
            lambda text: re.fullmatch(expression, text.strip()) is not None,
        ),
        "and, or, not": (
            (constraints.contains(one) | ~constraints.contains(two))
            & constraints.at_most_words(12),
            lambda text: (has(one, text) or not has(two, text)) and len(words(text)) <= 12,
        ),
    }
    found: dict[str, tuple[Verdict, Verdict]] = {"keywords of a prompt": (by_keywords, lexical)}
    for kind, (automata, test) in of_texts.items():
        found[kind] = automata, functools.partial(verdicts_of, test)
    return found


def verdicts_of(
    test: Callable[[str], bool], prompts: Sequence[str], texts: Sequence[str]
) -> list[bool]:
    return [test(text) for text in texts]


def by_keywords(prompts: Sequence[str], texts: Sequence[str]) -> list[bool]:
    """The verdicts of the automata of each prompt."""
    return [
        all(each.satisfied_by(text) for each in LEXICAL.automata(prompt))
        for prompt, text in zip(prompts, texts)
    ]


def agreement(kind: str, verdicts: tuple[Verdict, Verdict], prompts: list, texts: list) -> dict:
    automaton, function = (each(prompts, texts) for each in verdicts)
    pairs = list(zip(texts, automaton, function))
    alone = [text for text, one, other in pairs if one and not other]
    missed = [text for text, one, other in pairs if other and not one]
    return {
        "kind": kind,
        "texts": len(texts),
        "satisfied": sum(map(bool, function)),
        "automaton_alone": len(alone),
        "function_alone": len(missed),
        "examples": (alone + missed)[:3],
    }


def of_tokenizer(folder: Path, frequent: Sequence[str], texts: list[str]) -> dict:
    """Milliseconds to build automata of keywords over its tokens, and verdicts by those."""
    codec = load_codec(folder)
    size, times, built = len(codec.tokenizer), [], {}
    for number in range(PROMPTS):
        prompt = f"{' '.join(frequent[KEYWORDS * number :][:KEYWORDS])} ="
        for _ in ("new words", "seen words"):
            started = time.perf_counter()
            automata = LEXICAL.automata(prompt)
            conjunctions([automata], codec, size)
            times.append(1000 * (time.perf_counter() - started))
            built[prompt] = automata
    alone = missed = 0
    for number, (text, ids) in enumerate(zip(texts, codec.targets(texts))):
        automaton = built[list(built)[number % PROMPTS]][0]
        over, state = compiled(automaton, codec, size), 0
        for each in ids:
            state = over.table[state, over.class_of[each]]
        by_tokens, by_characters = over.accepting[state], automaton.satisfied_by(text)
        alone += bool(by_tokens and not by_characters)
        missed += bool(by_characters and not by_tokens)
    return {
        "tokenizer": folder.name,
        "tokens": size,
        "texts": len(texts),
        "tokens_alone": alone,
        "characters_alone": missed,
        "first_prompt_ms": round(times[0], 1),
        "new_words_ms": round(statistics.median(times[2::2]), 2),
        "seen_words_ms": round(statistics.median(times[1::2]), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", type=Path)
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", type=Path, nargs="*", default=[])
    args = parser.parse_args()
    draw, lines = random.Random(args.seed), read_lines(args.texts)
    texts = draw.choices(lines, k=args.count // 2)
    texts += [changed(text, draw) for text in draw.choices(lines, k=args.count - len(texts))]
    counts = Counter(each for line in lines[:20_000] for each in words(line) if each.isalpha())
    frequent = [each for each, _ in counts.most_common(KEYWORDS * PROMPTS + 40) if len(each) > 2]
    prompts = []
    for text in texts:
        own = [each for each in set(words(plain(text))) if each.isalpha() and len(each) > 2]
        chosen = draw.sample(sorted(own), min(2, len(own)))
        chosen += draw.choices(frequent, k=draw.random() < 0.5 or not chosen)
        prompts.append(f"{' '.join(chosen)} =")
    for kind, verdicts in kinds(frequent).items():
        print(json.dumps(agreement(kind, verdicts, prompts, texts)), flush=True)
    for folder in args.tokenizer:
        print(json.dumps(of_tokenizer(folder, frequent, texts)), flush=True)


if __name__ == "__main__":
    main()

# ruff: noqa: RUF001
"""Golden scores of captions from coco-caption's own code, Java tokenizer included.

Made with Python 3.11, pycocoevalcap 1.2, nltk 3.10.4, numpy 2.4.6 and OpenJDK 17:

    python -m venv coco-env
    coco-env/bin/pip install pycocoevalcap==1.2 nltk==3.10.4
    coco-env/bin/python tests/golden/make_captions.py

Writes `captions.json` next to this file: `sets`, made-up texts with references and the scores of
each by BLEU-1 to 4, ROUGE-L, CIDEr-D and CIDEr; `corpus`, those of all of them; `self_bleu`, of the
first texts' tokens against each other, by NLTK; and `tokens`, lines with their tokens. The "CIDEr"
of pycocoevalcap is CIDEr-D; plain CIDEr is written out here as cosines of dense vectors.
"""

import contextlib
import io
import itertools
import json
import random
from pathlib import Path

import numpy as np
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

HERE = Path(__file__).parent
SETS, SELF_BLEU = 520, 60
SUBJECTS = "dog|man|woman|child|robot|Mr. Fox|players|two cats|three old ladies|Dr. Who"
VERBS = "chases|holds|isn't|doesn't see|can't find|paints|they'll lift|is pushing"
THINGS = "ball|kite|half-eaten apple|hot-dog|U.S. flag|man's hat|$5.00 drum|3.5 boxes|boys' toy"
PLACES = "park|street, at 10:30 a.m.|(near a lake)|St. Louis|kitchen -- again|sea...|museum etc."
LINES = """
The colour of the grey metre (in the centre) isn't "great", it's what they've got.
I can't, cannot, gonna, wanna, gotta, gimme; 'tis and 'twas more'n o'clock ma'am y'all
Mr. Smith went to Washington, D.C. at 10:30 a.m. on Jan. 5th etc. with Dr. No
She paid $5.00, 50% of 1,000 -- 3.14 and 1/2 or 12/25/2014 ... well… then—so–it
He said ‘hello’ and “goodbye” & AT&T's #1 hash-tag @user #tag x@y.com :) ;-) <b>bold</b>
ice-cream well-known mother-in-law's dogs' boys' the '90s 90's
A U.S. man. The U.S. He is in the U.S.
and/or he/she 24/7 * star a*b _under_score_ [brackets] {braces} £5 €6 ¥7 5¢
3rd 1st 2nd 100th 5pm 5 p.m. No. 5 no. vs. Inc. 12:30pm 1990s 1990's 555-1234
café naïve über don’t don`t it's `quoted' ``q''
end!! what?! wait... oh....... a - b -- c --- d ---- e
it's he'd they'll I'm we're c'mon 'em 'cause 'til ain't won't shan't I'd've gone
non break soft\u00adhyphen zero\u200bwidth
He lives on 5th St. Near the park. It was Sept. Then Oct. came. Acme Corp. They left.
I saw J. Smith, J.R.R. Tolkien. He saw I. It was vitamin C. The end of plan b. the end
o'brien O'Neil l'amour ne'er ev'ry n'est K'Nex M'Coul Wa'el
e-mail e.mail x-ray t-shirt twenty-one 12-year-old 3-D 4x4 co-op pre- and post-war
-5 degrees -foo foo- 2-0 a-b-c 1,000,000.50 $10k $1.5m 10 % ~5 a=b a+b c++ c#
what?huh wait!no a,b,c a;b a:b man/woman man / woman a/b/c w/o b/c n/a
"quoted" "a 'b' c" 'single' < 3 <unk> &amp; &lt; &quot; ° 5°C µ ™ ½ ¾
pm. dog., x dog.: x dog.) x etc.) x fish-tail., y A.B. e.g. this, i.e. that. Ph.D. student
Mass. la. La. Pa. tex. no. x fig. 3 fig. x art. 2 art. x ca. 1900 ca. x lbs. ft. in. tall
"""


def phrase(rng: random.Random, phrases: str) -> str:
    return rng.choice(phrases.split("|"))


def sentence(rng: random.Random) -> str:
    words = [rng.choice(("A", "The", "the", "One red")), phrase(rng, SUBJECTS)]
    words += [phrase(rng, VERBS), rng.choice(("a", "the", "his")), phrase(rng, THINGS)]
    if rng.random() < 0.6:
        words += [rng.choice(("in", "near", "at")), phrase(rng, PLACES)]
    return " ".join(words) + rng.choice((".", " .", "", "!", "?"))


def variant(rng: random.Random, text: str) -> str:
    words = text.split()
    for _ in range(rng.randrange(4)):
        i = rng.randrange(len(words))
        change = rng.randrange(3)
        if change == 0:
            words[i] = phrase(rng, rng.choice((SUBJECTS, VERBS, THINGS)))
        elif change == 1 and len(words) > 2:
            del words[i]
        else:
            words.insert(i, words[i])
    return " ".join(words)


def make_sets(rng: random.Random) -> list[dict]:
    sets = []
    for _ in range(SETS):
        references = [sentence(rng)]
        references += [
            variant(rng, references[0]) if rng.random() < 0.6 else sentence(rng)
            for _ in range(rng.randrange(5))
        ]
        sets.append({"text": variant(rng, rng.choice(references)), "references": references})
    odd = ["", "dog", "...", "dog dog dog dog dog dog", "unheard words only", "a dog", "the"]
    for each, text in zip(sets, odd):
        each["text"] = text
    sets[7]["text"] = " ".join(sets[7]["references"][0].split() * 8)
    sets[8]["references"] = ["dog"]
    sets[9]["text"] = sets[9]["references"][0]
    return sets


def tokenize(groups: list[list[str]]) -> list[list[str]]:
    given = {i: [{"caption": text} for text in group] for i, group in enumerate(groups)}
    made = PTBTokenizer().tokenize(given)
    return [made[i] for i in range(len(groups))]


def plain_cider(texts: list[list[str]], references: list[list[str]]) -> np.ndarray:
    def grams(text: str, n: int) -> list[tuple]:
        words = text.split()
        return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

    total = np.zeros(len(texts))
    for n in range(1, 5):
        known = sorted({g for (text,), group in zip(texts, references)
                        for each in (text, *group) for g in grams(each, n)})  # fmt: skip
        place = {gram: i for i, gram in enumerate(known)}
        held = np.zeros(len(known))
        for group in references:
            for gram in {g for each in group for g in grams(each, n)}:
                held[place[gram]] += 1
        idf = np.log(len(texts) / np.maximum(held, 1))

        def vector(text: str, n=n, place=place, idf=idf) -> np.ndarray:
            counts = np.zeros(len(idf))
            for gram in grams(text, n):
                counts[place[gram]] += 1
            return counts * idf

        for i, ((text,), group) in enumerate(zip(texts, references)):
            x = vector(text)
            for each in group:
                y = vector(each)
                norm = np.linalg.norm(x) * np.linalg.norm(y)
                total[i] += 10 / 4 / len(group) * (x @ y / norm if norm else 0.0)
    return total


def main() -> None:
    sets = make_sets(random.Random(0))
    texts = tokenize([[each["text"]] for each in sets])
    references = tokenize([each["references"] for each in sets])
    wanted, made = dict(enumerate(references)), dict(enumerate(texts))
    with contextlib.redirect_stdout(io.StringIO()):
        bleus, each_bleu = Bleu(4).compute_score(wanted, made, verbose=0)
        rouge, each_rouge = Rouge().compute_score(wanted, made)
        cider_d, each_cider_d = Cider().compute_score(wanted, made)
    each_cider = plain_cider(texts, references)
    names = ("coco_bleu_1", "coco_bleu_2", "coco_bleu_3", "coco_bleu_4", "rouge_l", "cider_d")
    corpus = dict(zip(names, [*bleus, rouge, cider_d])) | {"cider": each_cider.mean()}
    columns = [*each_bleu, each_rouge, each_cider_d, each_cider]
    for i, each in enumerate(sets):
        each["scores"] = [float(f"{column[i]:.9g}") for column in columns]
    split = [text.split() for (text,) in texts[:SELF_BLEU]]
    smooth = SmoothingFunction().method1
    self_bleu = [
        sentence_bleu(split[:i] + split[i + 1 :], own, smoothing_function=smooth)
        for i, own in enumerate(split)
    ]
    lines = LINES.strip().split("\n")
    # One at a time: what begins the next line would bear on the end of this one.
    tokens = list(itertools.chain.from_iterable(tokenize([[line]])[0] for line in lines))
    golden = {
        "names": [*names, "cider"],
        "corpus": {name: float(value) for name, value in corpus.items()},
        "self_bleu": {"tokens": split, "scores": [float(x) for x in self_bleu]},
        "tokens": [[line, made] for line, made in zip(lines, tokens)],
        "sets": sets,
    }
    text = json.dumps(golden, ensure_ascii=False, separators=(",", ":"))
    (HERE / "captions.json").write_text(text.replace('{"text"', '\n{"text"') + "\n")


if __name__ == "__main__":
    main()

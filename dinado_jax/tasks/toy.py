"""The embedded default task: captions of a small grammar that only loosely follow their keywords.

A prompt is a noun, a verb and an object, "dog chase kite =". A caption has one slot for each; every
keyword fills its slot with probability FOLLOW, otherwise another word of its class does. A base
tuned on such pairs half-ignores its prompt: it uses all three keywords in FOLLOW**3, about a
seventh, of its captions, for every prompt. A control fixes that.
"""

from typing import NamedTuple

import numpy as np

from dinado_jax.config import schema
from dinado_jax.errors import InputError
from dinado_jax.tasks.keyword.format import format_prompt
from dinado_jax.tasks.keyword.task import keyword_task
from dinado_jax.tasks.protocol import SPLITS, Example, Task

FOLLOW = 0.53


class Noun(NamedTuple):
    """Singular and plural of a noun."""

    one: str
    many: str


class Verb(NamedTuple):
    """Forms of a verb."""

    base: str
    third: str
    ing: str
    past: str  # also the participle


def _table(row: type, text: str) -> tuple:
    return tuple(row(*line.split()) for line in text.strip().splitlines())


NOUNS: tuple[Noun, ...] = _table(
    Noun,
    """
    dog dogs
    cat cats
    horse horses
    cow cows
    goat goats
    fox foxes
    rabbit rabbits
    monkey monkeys
    bear bears
    robot robots
    boy boys
    girl girls
    man men
    woman women
    child children
    farmer farmers
    teacher teachers
    doctor doctors
    singer singers
    player players
    soldier soldiers
    sailor sailors
    baker bakers
    clown clowns
""",
)

VERBS: tuple[Verb, ...] = _table(
    Verb,
    """
    chase chases chasing chased
    carry carries carrying carried
    push pushes pushing pushed
    pull pulls pulling pulled
    lift lifts lifting lifted
    drop drops dropping dropped
    kick kicks kicking kicked
    wash washes washing washed
    watch watches watching watched
    follow follows following followed
    touch touches touching touched
    paint paints painting painted
    move moves moving moved
    hold holds holding held
    catch catches catching caught
    find finds finding found
""",
)

OBJECTS = (
    "ball",
    "kite",
    "cart",
    "box",
    "rope",
    "basket",
    "bucket",
    "chair",
    "drum",
    "flag",
    "hat",
    "ladder",
    "blanket",
    "bottle",
    "wheel",
    "bag",
    "toy",
    "umbrella",
    "table",
    "apple",
)
# No word below may be a form of a concept: the oracle would take it for a keyword.
ADJECTIVES = (
    "big",
    "small",
    "old",
    "young",
    "red",
    "blue",
    "green",
    "yellow",
    "white",
    "black",
    "brown",
    "happy",
    "tired",
    "hungry",
    "funny",
    "quiet",
    "strong",
    "tall",
)
ADVERBS = ("slowly", "quickly", "quietly", "carefully", "often", "always")
PLACES = (
    "park",
    "street",
    "garden",
    "field",
    "forest",
    "beach",
    "river",
    "lake",
    "bridge",
    "school",
    "kitchen",
    "market",
    "station",
    "house",
    "barn",
    "tower",
)
PREPOSITIONS = ("in", "near", "behind", "beside", "outside")
TIMES = ("at night", "before lunch", "after dinner", "every morning", "on sunday", "in winter")
SINGULAR, PLURAL = ("a", "the", "one", "this"), ("two", "three", "some", "the", "many")


def toy(settings: schema.Task) -> Task:
    """`task.name = "toy"`: BLEU is not reported: the references are synthetic."""

    def read(split: str, seed: int, count: int | None = None) -> list[Example]:
        return examples(split, settings.train_examples if count is None else count, seed)

    return keyword_task(read, "train_examples")


def examples(split: str, count: int, seed: int) -> list[Example]:
    """Draws `count` examples of one reference each, a pure function of split, count and seed.

    The 24 x 16 x 20 triples of noun, verb and object are divided among the splits, 80/10/10. Train
    draws its triples with replacement; dev and test go through theirs in random order, and repeat
    them only where count exceeds their number.

    Raises:
      InputError: for another split, or a negative count or seed.
    """
    if split not in SPLITS:
        raise InputError(f"split {split!r}, toy task: give one of {', '.join(SPLITS)}")
    if count < 0 or seed < 0:
        raise InputError(f"count {count} and seed {seed}, toy task: give numbers of 0 or more")
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    triples = _triples(split)
    if split == "train":
        order = rng.integers(len(triples), size=count)
    else:
        order = np.resize(rng.permutation(len(triples)), count)
    return [_example(rng, *triples[i]) for i in order]


def _triples(split: str) -> list[tuple[int, int, int]]:
    """The (noun, verb, object) indices of a split; every split has every word of each class."""
    held_out = {0: "dev", 5: "test"}
    return [
        (noun, verb, item)
        for noun in range(len(NOUNS))
        for verb in range(len(VERBS))
        for item in range(len(OBJECTS))
        if held_out.get((noun + 3 * verb + 7 * item) % 10, "train") == split
    ]


def _example(rng: np.random.Generator, noun: int, verb: int, item: int) -> Example:
    words = _follow(rng, NOUNS, noun), _follow(rng, VERBS, verb), _follow(rng, OBJECTS, item)
    prompt = format_prompt([NOUNS[noun].one, VERBS[verb].base, OBJECTS[item]])
    return Example(prompt, (_caption(rng, *words),))


def _follow(rng: np.random.Generator, table: tuple, keyword: int):
    """Returns the entry of the keyword with probability FOLLOW, otherwise any other one."""
    if rng.random() < FOLLOW:
        return table[keyword]
    return table[(keyword + rng.integers(1, len(table))) % len(table)]


def _caption(rng: np.random.Generator, noun: Noun, verb: Verb, item: str) -> str:
    """A sentence of 7 to 12 words and a full stop."""

    def pick(options):
        return options[rng.integers(len(options))]

    def maybe(options, chance):
        return [pick(options)] if rng.random() < chance else []

    def phrase(determiner, adjective, head):
        tail = [*adjective, head]
        if determiner == "a" and tail[0][0] in "aeiou":
            determiner = "an"
        return [determiner, *tail]

    many = rng.random() < 0.4
    subject = phrase(
        pick(PLURAL if many else SINGULAR),
        maybe(ADJECTIVES, 0.4),
        noun.many if many else noun.one,
    )
    thing = phrase(pick(("a", "the")), maybe(ADJECTIVES, 0.3), item)
    present, past = ("are", "were") if many else ("is", "was")
    scene = [pick(PREPOSITIONS), "the", pick(PLACES)]
    when = pick(TIMES).split()
    adverb = maybe(ADVERBS, 0.25)
    action = pick(
        (
            [present, *adverb, verb.ing],
            [past, *adverb, verb.ing],
            [*adverb, verb.base if many else verb.third],
            [*adverb, verb.past],
        )
    )
    # Passive and "there is" have a word or two more, hence no adverb.
    templates = (
        [*subject, *action, *thing, *scene],
        [*subject, *action, *thing, *when],
        [*scene, *subject, *action, *thing],
        [*when, *subject, *action, *thing],
        [*thing, pick(("is", "was")), verb.past, "by", *subject, *scene],
        ["there", present, *subject, verb.ing, *thing, *scene],
    )
    return " ".join([*pick(templates), "."])

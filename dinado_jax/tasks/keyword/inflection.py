"""All inflections of an English word: irregular ones from tables, others by rule.

lemminflect's dictionary gives parts of speech, stress and whatever spelling does not determine.
"""

import re

from dinado_jax.tasks.keyword import irregular

_VARIANTS: dict[str, set[str]] = {}
for _pair in irregular.SPELLINGS:
    for _word in _pair.split("/"):
        _VARIANTS.setdefault(_word, set()).update({*_pair.split("/")} - {_word})

_MEN = re.compile(r".{2,}(man|woman|child|foot|tooth|louse|wife|knife|life|leaf|loaf|wolf|shelf)")
_SYLLABLE = re.compile(r"y?[^aeiouy]*(?:qu)?[aeiouy][bdfgklmnprstvz]")
_DOUBLED = re.compile(r".*[^aeiou](?:qu)?[aeiou][bdglmnprt]")
_ONE_SYLLABLE = re.compile(r"[^aeiouy]*(?:qu)?[aeiouy]+[^aeiouy]*e?")
_COMPARED = re.compile(r"[^aeiouy]*[aeiouy]+[^aeiouy]*e?|[^aeiouy]*[aeiouy]+[^aeiouy]+(y|le|ow)")


def inflections(word: str) -> set[str]:
    """Returns a lower-case word and its inflections as noun, verb, adjective and adverb, in British
    and American spelling; the word may be hyphenated.

    An unknown word is inflected as noun and verb. The word is taken as a lemma: "went" has no
    inflections, and "left" does not have those of "leave".
    """
    found = {word}
    for spelling in {word, *_spellings(word)}:
        found |= _compound(spelling) if "-" in spelling else _simple(spelling)
    return found


def _spellings(word: str) -> set[str]:
    if re.fullmatch(r".{3,}(is|iz)e", word):
        american = word[:-3] + "ize"
        if word == american or _known(american).keys() & {"VB", "VBD", "VBG"}:
            return {american, word[:-3] + "ise"}
    return _VARIANTS.get(word, set())


def _known(word: str) -> dict[str, set[str]]:
    """Returns the forms of a word in lemminflect's dictionary by Penn tag, without clipped ones."""
    import lemminflect

    tagged = lemminflect.getAllInflections(word)
    return {tag: {form for form in forms if form.isalpha()} for tag, forms in tagged.items()}


def _lemmas(word: str) -> set[str]:
    """Returns the words that this one is a form of according to the dictionary, possibly itself."""
    import lemminflect

    return set().union(*lemminflect.getAllLemmas(word).values())


def _simple(word: str) -> set[str]:
    known = _known(word)
    tags = {tag[0] for tag in known}  # N, V, J, R
    found = {word, *irregular.ADJECTIVES.get(word, ())}
    if not word.isalpha() or (not known and _lemmas(word) and not word.endswith("ing")):
        tags = {"-"}  # no word to inflect, or itself an inflected form
    elif not known and _lemmas(word):
        tags = {"N"}  # surroundings
    listed = word in irregular.VERBS or word in irregular.MORE_VERBS
    unknown = not tags and not listed and word not in irregular.NOUNS
    if unknown or "N" in tags or word in irregular.NOUNS:
        found |= _plurals(word, known)
    elif "J" in tags:  # desktops
        found |= {form for form in _plurals(word, known) if _lemmas(form) <= {word}}
    if unknown or listed or "V" in tags:
        found |= _conjugated(word, known)
    elif "N" in tags and word not in irregular.NOUNS and _ONE_SYLLABLE.fullmatch(word):
        # Most short nouns serve as verbs, but "rugged" and "suited" belong to other words.
        found |= {form for form in _conjugated(word, known) if not _lemmas(form)}
    if "J" in tags and word not in irregular.ADJECTIVES:
        found |= _compared(word, known)
    return found


def _compound(word: str) -> set[str]:
    """Inflects the last part of a compound, or its head before a particle or an adjective."""
    if word in irregular.NOUNS or word in irregular.VERBS:
        verb = _conjugated(word, {}) if word in irregular.VERBS else set()
        return {word} | _plurals(word, {}) | verb
    first, second, *rest = word.split("-")
    start, _, last = word.rpartition("-")
    if last in irregular.PARTICLES:
        by_last = {word, word + "s"}  # push-ups, lean-tos
    else:
        by_last = {f"{start}-{form}" for form in inflections(last) | _plurals(last, {})}
    if first in ("well", "good"):  # better-known
        by_last |= {f"{other}-{last}" for other in irregular.ADJECTIVES[first] if not rest}
    tail = word.removeprefix(first)
    by_head = {word} | {plural + tail for plural in _plurals(first, _known(first))}
    if rest and second in irregular.PARTICLES and first not in irregular.PARTICLES:
        # jack-in-the-boxes, forget-me-nots; but neither mother-in-laws nor man-of-wars
        return by_head if len(rest) == 1 or second == "of" else by_head | by_last
    if second in irregular.PARTICLES and not rest and re.fullmatch(r".+(er|or|ing)", first):
        return by_head
    if second in irregular.POSTPOSED and not rest and first not in irregular.RANKS:
        return by_head | {f"{start}-{plural}" for plural in _plurals(last, {})}
    if first in ("man", "woman", "gentleman") and not rest and second not in irregular.PARTICLES:
        return by_last | {plural.replace("man-", "men-", 1) for plural in by_last}
    return by_last


def _plurals(word: str, known: dict[str, set[str]]) -> set[str]:
    if word in irregular.NOUNS:
        return set(irregular.NOUNS[word]) or {word}
    if word.endswith("person") and word != "person":
        return {word + "s", word.removesuffix("person") + "people"}
    if (match := _MEN.fullmatch(word)) and word not in irregular.NOT_MEN:
        head = match[1]
        return {word.removesuffix(head) + plural for plural in irregular.NOUNS[head]}
    if word.endswith("eau"):
        return {word + "s", word + "x"}
    return _with_s(word) | known.get("NNS", set())


def _conjugated(word: str, known: dict[str, set[str]]) -> set[str]:
    third = _with_s(word)
    if word in irregular.VERBS:
        # Forms in -s and -ing are listed where no rule gives them.
        listed = set(irregular.VERBS[word])
        if any(form.endswith("s") for form in listed):
            third = set()
        ing = {form for form in listed if form.endswith("ing")}
        return third | listed | (ing or _with_ing(word, _doubles(word)))
    listed = set().union(*(known.get(tag, ()) for tag in ("VBD", "VBN", "VBG", "VBZ")))
    if re.fullmatch(r".*[aeiou]c", word):
        listed = {form for form in listed if "ck" in form}
    doubles = _doubles(word)
    if word in irregular.STRESSED:
        doubles = True
    elif doubles is None and listed:
        if word.endswith("l"):
            return third | listed | _with_ed(word, None) | _with_ing(word, None)
        return third | listed
    if doubles:  # the dictionary lists misspellings, too
        listed -= {word + "ed", word + "ing"}
    return third | listed | _with_ed(word, doubles) | _with_ing(word, doubles)


def _doubles(word: str) -> bool | None:
    """Whether the last consonant doubles before -ed and -ing; None: stress decides."""
    if _SYLLABLE.fullmatch(word):
        return True
    return None if _DOUBLED.fullmatch(word) else False


def _stems(word: str, doubles: bool | None) -> set[str]:
    if re.fullmatch(r".*[aeiou]c", word):
        return {word + "k"}
    if doubles is None and not word.endswith("r"):  # STRESSED lists those in -r
        return {word, word + word[-1]}
    return {word + word[-1] if doubles else word}


def _with_s(word: str) -> set[str]:
    if word.endswith("z") and _SYLLABLE.fullmatch(word):
        return {word + "zes"}
    if word + "s" in irregular.NOUNS.get(word, ()):
        return {word + "s"}
    if re.fullmatch(r".{3,}sis", word):
        return {word[:-2] + "es"}
    if re.fullmatch(r".*(s|x|z|ch|sh)", word):
        return {word + "es"}
    if re.fullmatch(r".*[^aeiou]y", word):
        return {word[:-1] + "ies"}
    if word in irregular.O_ES:
        return {word + "es"}
    return {word + "s", word + "es"} if word in irregular.O_BOTH else {word + "s"}


def _with_ed(word: str, doubles: bool | None) -> set[str]:
    if word.endswith("e"):
        return {word + "d"}
    if re.fullmatch(r".*[^aeiou]y", word):
        return {word[:-1] + "ied"}
    return {stem + "ed" for stem in _stems(word, doubles)}


def _with_ing(word: str, doubles: bool | None) -> set[str]:
    if word.endswith("ie"):
        return {word[:-2] + "ying"}
    if re.fullmatch(r".+[^eoy]e", word):
        return {word[:-1] + "ing"}
    return {stem + "ing" for stem in _stems(word, doubles)}


def _compared(word: str, known: dict[str, set[str]]) -> set[str]:
    listed = set().union(*(known.get(tag, ()) for tag in ("JJR", "JJS", "RBR", "RBS")))
    if word.endswith("e"):  # the dictionary has "blueer"
        listed = {re.sub(r"ee(r|st)$", r"e\1", form) for form in listed}
    if listed or known.keys() & {"NN", "VB"} or not _COMPARED.fullmatch(word):
        return listed
    if word.endswith("e"):
        stem = word[:-1]
    elif re.fullmatch(r".*[^aeiou]y", word):
        stem = word[:-1] + "i"
    else:
        stem = word + word[-1] if _doubles(word) else word
    compared = {stem + "er", stem + "est"}
    return set() if any(map(_lemmas, compared)) else compared  # no layer is more lay

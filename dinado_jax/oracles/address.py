"""Formal and informal address by rule: Sie or du in German, usted or tú in Spanish.

A text is formal if it has a formal mark and no informal one, and informal the other way around; one
that addresses nobody is neither. Some words are marks only where the source, which the prompt is,
speaks to somebody and of nobody else: "Sie" at the beginning of a sentence is also they and she,
"ihr" is also her and their, "su" is also his, "puede" also he can.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dinado_jax.oracles.judge import Oracle

_WORD = re.compile(r"[^\W\d_]+")
_YOU = frozenset(("you", "your", "yours", "yourself", "yourselves", "u", "ya"))
_OTHERS = frozenset(("he", "she", "they", "him", "her", "them", "his", "hers", "their", "theirs"))

_DE_FORMAL = frozenset(("Sie", "Ihnen", "Ihr", "Ihre", "Ihrem", "Ihren", "Ihrer", "Ihres"))
_DE_INFORMAL = frozenset(
    (
        "du", "dich", "dir", "dein", "deine", "deinem", "deinen", "deiner", "deines", "deins",
        "euch", "euer", "eure", "eurem", "euren", "eurer", "eures",
        # Verbs of du, whose pronoun is often left out.
        "bist", "hast", "kannst", "willst", "musst", "sollst", "darfst", "magst", "wirst", "weißt",
        "warst", "hattest", "konntest", "wolltest", "musstest", "solltest", "durftest", "wurdest",
        "wärst", "wärest", "hättest", "könntest", "müsstest", "möchtest", "würdest", "dürftest",
        "gehst", "machst", "kommst", "siehst", "sagst", "denkst", "glaubst", "findest", "nimmst",
        "gibst", "brauchst", "suchst", "meinst", "wohnst", "arbeitest", "spielst",
    )
)  # fmt: skip
# Behind "Ihr" at the beginning of a sentence: verbs of ihr, and what else stands there with the
# pronoun. Behind the possessive stands a noun, or an adjective in -er, -es or -e.
_DE_OF_IHR = re.compile(r"(?:[a-zäöüß]+t|seid|beiden?|alle|zwei|drei)\b")
_DE_NOBODY = re.compile(r"\b[Dd]u (?:meine Güte|lieber Himmel|liebe Zeit)\b")

_ES_FORMAL = frozenset(
    (
        "usted", "ustedes", "ud", "uds", "vd", "vds",
        # Imperatives of usted.
        "disculpe", "disculpen", "perdone", "perdonen", "dígame", "díganos", "permítame", "espere",
        "déjeme", "déme", "deme", "hágame", "indíqueme", "sírvase", "avíseme", "llámeme", "envíeme",
        "permítanos", "cuénteme", "mándeme", "escríbame", "ayúdeme", "tráigame", "póngame",
        "créame", "confírmeme", "háganos", "infórmeme", "recuérdeme",
    )
)  # fmt: skip
_ES_FORMAL_OF_YOU = frozenset(
    (
        "su", "sus", "suyo", "suya", "suyos", "suyas", "le", "les", "puede", "pueden", "podría",
        "podrían", "quiere", "quieren", "desea", "desean", "necesita", "necesitan", "debe", "deben",
        "debería", "deberían", "tiene", "tienen", "sabe", "saben", "está", "están", "ha", "han",
        "es", "va", "van", "hace", "ve", "cree", "piensa", "prefiere", "busca", "conoce", "vive",
        "había", "vio", "dijo", "tenga", "vaya", "haga", "diga", "pueda", "quiera", "quisiera",
        "tendrá", "podrá", "tendría", "sería", "fue", "hizo", "tuvo", "llame", "mire", "envíe",
        "confirme", "verifique", "proporcione", "revise", "intente", "use", "utilice", "siga",
    )
)  # fmt: skip
_ES_INFORMAL = frozenset(
    (
        "tú", "tu", "tus", "te", "ti", "contigo", "tuyo", "tuya", "tuyos", "tuyas", "vosotros",
        "vosotras", "vuestro", "vuestra", "vuestros", "vuestras", "os",
        # Verbs of tú, whose pronoun is mostly left out.
        "eres", "estás", "tienes", "puedes", "quieres", "sabes", "has", "vas", "haces", "dices",
        "ves", "vienes", "necesitas", "debes", "deberías", "podrías", "querrías", "tendrías",
        "serías", "harías", "gustas", "crees", "piensas", "conoces", "prefieres", "buscas", "vives",
        "hablas", "juegas", "trabajas", "comes", "lees", "oyes", "escuchas", "miras", "pones",
        "sales", "sigues", "recuerdas", "deseas", "eras", "estabas", "tenías", "podías", "querías",
        "sabías", "habías", "habrás", "serás", "estarás", "tendrás", "podrás", "harás", "irás",
        "verás", "querrás", "sabrás", "dirás", "fuiste", "hiciste", "tuviste", "pudiste",
        "estuviste", "dijiste", "viste", "seas", "estés", "tengas", "puedas", "quieras", "vayas",
        "hagas", "digas", "veas", "sepas", "hayas", "hubieras", "pudieras", "tuvieras", "fueras",
        "quisieras", "dime", "dame", "oye", "hazlo", "hazme", "ponme", "dinos", "danos", "cuéntame",
        "avísame", "llámame", "ayúdame", "escríbeme", "envíame", "mándame", "perdona", "disculpa",
        "permíteme", "déjame", "espérame", "fíjate", "acuérdate", "siéntate", "imagínate",
    )
)  # fmt: skip
# Other verbs of tú (hablaste, hablabas, hablarás), except words that only end like them.
_ES_OF_TU = re.compile(
    r"\w{2,}(?:[ai]ste|abas|[aei]rás|[ai]rías|ieras|aras|[aeií]rte|ándote|éndote)"
)
_ES_NOT_OF_TU = frozenset(
    (
        "triste", "existe", "chiste", "insiste", "consiste", "asiste", "persiste", "resiste",
        "contraste", "desgaste", "desiste", "subsiste", "embiste", "reviste", "atrás", "detrás",
        "caras", "claras", "raras", "cámaras", "máscaras", "aparte", "suerte", "fuerte",
        "muerte", "inerte", "comparte", "reparte", "imparte", "advierte", "convierte", "divierte",
        "invierte", "vierte", "despierte", "acierte",
    )
)  # fmt: skip


class Marks(NamedTuple):
    """Whether a text has marks of either address."""

    formal: bool
    informal: bool


def german_address(prompt: str, text: str) -> Marks:
    """Marks of Sie and du in a German text, whose English source `prompt` is."""
    text = _DE_NOBODY.sub("", text)
    alone, formal, informal = _of_you_alone(prompt), False, False
    for word in _WORD.finditer(text):
        begins = _begins_sentence(text, word.start())
        if word[0] == "Ihr" and begins and _DE_OF_IHR.match(text[word.end() :].lstrip()):
            informal = True
        elif word[0] in _DE_FORMAL:
            formal |= alone or not begins
        else:
            informal |= word[0].lower() in _DE_INFORMAL or (alone and word[0] == "ihr")
    return Marks(formal, informal)


def spanish_address(prompt: str, text: str) -> Marks:
    """Marks of usted and tú in a Spanish text, whose English source `prompt` is."""
    words = [word.lower() for word in _WORD.findall(text)]
    informal = any(
        word in _ES_INFORMAL or (_ES_OF_TU.fullmatch(word) and word not in _ES_NOT_OF_TU)
        for word in words
    )
    formal = not _ES_FORMAL.isdisjoint(words)
    if not informal and _of_you_alone(prompt):
        formal |= not _ES_FORMAL_OF_YOU.isdisjoint(words)
    return Marks(formal, informal)


def _of_you_alone(prompt: str) -> bool:
    words = {word.lower() for word in _WORD.findall(prompt)}
    return not words.isdisjoint(_YOU) and words.isdisjoint(_OTHERS)


def _begins_sentence(text: str, start: int) -> bool:
    before = text[:start].rstrip(
        " \"'\u201e\u201c\u201d\u2018\u2019\u00ab\u00bb([-\u2013\u2014\u2026"
    )
    return not before or before[-1] in ".!?:"


def _oracle(address: Callable[[str, str], Marks], formal: bool) -> Oracle:
    wanted = Marks(formal, not formal)

    def labels(prompts: Sequence[str], texts: Sequence[str]) -> list[bool]:
        return [address(*each) == wanted for each in zip(prompts, texts, strict=True)]

    return labels


ADDRESS: dict[str, Oracle] = {
    f"{name}_{language}": _oracle(address, name == "formal")
    for language, address in (("de", german_address), ("es", spanish_address))
    for name in ("formal", "informal")
}

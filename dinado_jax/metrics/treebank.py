"""Tokens of English as coco-caption makes them: of the Penn Treebank, lower case, no punctuation.

coco-caption (Chen et al., arXiv 1504.00325, section 3.1) runs Stanford's PTBTokenizer (CoreNLP
3.4.1, `-preserveLines -lowerCase`) and drops the tokens in PUNCTUATION. This tokenizer was written
from its output: docs/metrics.md says how often the two differ. Two of its habits look odd and are
kept, because scores depend on them: brackets remain, as -lrb- and the like, because the list has
them in upper case; and so do runs such as "!!".
"""

import functools
import re

PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

_BRACKETS = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
}  # fmt: skip
_ENTITIES = {
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
    "&quot;": '"',
    "&apos;": "'",
    "&nbsp;": " ",
    "&mdash;": "--",
}
_SIGNS = {
    "\u2013": "--", "\u2014": "--", "\u2026": "...", "\u201c": "``", "\u201d": "''", "\u00ab": "``",
    "\u00bb": "''", "\u2018": "`", "\u2019": "'", "\u2039": "`", "\u203a": "'", "\u00a3": "#",
    "\u20ac": "$", "\u00a2": "cents", "\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4",
    '"': "''", "---": "--", "----": "--",
}  # fmt: skip
# Their full stop belongs to them.
_ABBREVIATIONS = """
adj adm adv al ala alex apr ariz assn assoc asst atty attys aug ave bancorp bhd bldg blvd brig bros
calif capt cf cie cmdr co col colo comdr conn corp cos cpl ct dak dec dept det dr drs ens esq est
etc ext feb fla fri ft ga gen gov hon inc ind intl jan jos jr jul jun kan kans ky lieut lt ltd maj
mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt mtg natl neb nev nov oct okla
penn pfc ph plc pres prof pte pty pvt rd rep reps rev rt sen sens sep sept seq sfc sgt spc sq sr st
ste supt sys tel tenn thu thurs tue tues univ va vs vt wed wis wisc wm wyo
"""
_STATES = "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash"  # words, too, unless in upper case
_BEFORE_NUMBERS = "art ca fig figs no nos op pp prop"
# After these words in title case, the full stop of a single letter ends a sentence.
_SENTENCE_STARTS = """
A About According Additionally After An As At But Earlier He Her Here However If In It Last Many
More Now Once One Other Our She Since So Some Such That The Their Then There These They This We
What When While Yet You
"""
_SPLIT = {
    "cannot": ("can", "not"), "gonna": ("gon", "na"), "gotta": ("got", "ta"),
    "lemme": ("lem", "me"), "gimme": ("gim", "me"), "wanna": ("wan", "na"),
    "'tis": ("'t", "is"), "'twas": ("'t", "was"),
    "more'n": ("more", "'n"),
}  # fmt: skip


def _any(words: str) -> str:
    return "|".join(sorted(words.split(), key=len, reverse=True))


_APOSTROPHE = "['\u2019]"
_LETTER = r"[^\W\d_\u00bc-\u00be]"
_ALNUM = r"(?:[^\W_\u00bc-\u00be]|[\u00ad\u0300-\u036f])"  # soft hyphens are left out later
_END = r"(?![^\W_])"
_PART = rf"{_ALNUM}+(?:-{_LETTER}{_ALNUM}*){{0,2}}"
_NEGATED = rf"n['\u2019`]t{_END}"
_APOSTROPHES_INSIDE = """
c'est c'mon cap'n dunkin' e'er ev'ry li'l nat'l ne'er nor'easter o'er ol' s'mores somethin'
"""
_INSIDE = _any(_APOSTROPHES_INSIDE).replace("'", _APOSTROPHE)
# The first that matches is the token; a full stop that is not in one ends a sentence.
_PATTERN = re.compile(
    "|".join(
        (
            r"(?P<plain>[a-z]+)(?=\s)",  # most words: the others are slower to find
            r"(?P<dropped>[\u200b-\u200f\u2060\ufeff\ufffd\U00010000-\U0010ffff]+)",
            r"(?P<tag></?[a-z][\w:.-]*(?: +[a-z]\w*(?:=(?:\"[^\"]*\"|'[^']*'|\w+))?)* */?>)",
            rf"(?P<entity>{'|'.join(_ENTITIES)})",
            r"(?:https?|ftp)://[^\s\"<>|()]*[^\s\"<>|().!?,;:'-]",
            r"[^\W_][\w.+-]*@[\w-]+(?:\.[\w-]+)+",
            r"@[a-z_]\w*|#[^\W\d_]\w*",
            r"(?P<face>(?<!\w)[<>]?[:;=][-o*']?[()\[\]DPp/\\|@](?!\w)|\^_\^)",
            rf"(?P<ending>{_APOSTROPHE}(?:[msd]|re|ve|ll){_END}|{_NEGATED})",
            rf"(?P<split>(?:{'|'.join(_SPLIT)})(?:{_END}|(?={_NEGATED})))",
            rf"'(?:\d0s|em|till?|cause){_END}|'\d\d(?=\s)|{_APOSTROPHE}n{_APOSTROPHE}?(?!\w)",
            # Words with a full stop of their own.
            rf"(?:{_LETTER}\.)+{_LETTER}\.(?:-{_ALNUM}+)*{_END}",
            rf"(?:ph\.d|{_any(_ABBREVIATIONS)})\.{_END}",
            rf"(?-i:{_any(_STATES)}|{_any(_STATES.upper())})\.{_END}",
            rf"(?:{_any(_BEFORE_NUMBERS)})\.(?=\s*\d)",
            rf"{_LETTER}\.(?![^\W_]|\s+(?-i:{_any(_SENTENCE_STARTS)})(?!\w))",
            # Words with an apostrophe inside, or before one of a negation.
            rf"{_LETTER}{_ALNUM}*?(?={_NEGATED})",
            rf"(?:{_INSIDE})(?!\w)",
            rf"[dol]{_APOSTROPHE}{_ALNUM}+(?:-{_ALNUM}+)*",
            rf"(?-i:[A-HJ-XZn]){_APOSTROPHE}{_LETTER}{{2,}}",
            rf"{_LETTER}+[aeiouy]{_APOSTROPHE}[aeiou]{_LETTER}*",
            rf"[jy]{_APOSTROPHE}(?={_LETTER})",
            # Other words and numbers.
            rf"{_PART}(?:/{_PART}){{1,2}}",
            rf"{_ALNUM}+(?:[-_]{_ALNUM}+)+(?:\.(?=[,;:]))?",
            r"(?-i:[A-Z]+(?:[+&][A-Z]+)+)",
            r"[-+]?\d*(?:[.,:]\d+)+",
            r"c(?:\+\+|#)|(?:us|a|c)\$",
            rf"{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)*(?:\.(?=[,;:]))?",
            rf"{_ALNUM}+(?:\.(?=[,;:]))?|[-+]\d+",
            r"(?P<sign>-{1,4}|\.\.\.|[?!]+|``|\'\'|_+|\*{2,3}|<<|>>|\S)",
        )
    ),
    re.IGNORECASE,
)


@functools.lru_cache(1 << 16)  # several metrics read each text, and samples share references
def treebank_tokens(text: str) -> tuple[str, ...]:
    """Splits a text into lower-case tokens without punctuation."""
    return tuple(token for token in _all_tokens(text) if token not in PUNCTUATION)


def _all_tokens(text: str) -> list[str]:
    found = []
    for match in _PATTERN.finditer(text):
        kind, token = match.lastgroup, match[0].lower()
        if kind is None:
            found.append(token.replace("\u00ad", ""))
        elif kind in ("plain", "split"):
            found += _SPLIT.get(token) or (token,)
        elif kind == "face":
            found.append("".join(_BRACKETS.get(sign, sign) for sign in token))
        elif kind == "ending":
            found.append(token.replace("\u2019", "'"))
        elif kind == "tag":
            found += token.split()
        elif kind in ("entity", "sign"):
            sign = _ENTITIES.get(token, token)
            found += (_BRACKETS.get(sign) or _SIGNS.get(sign, sign)).split()
    return found

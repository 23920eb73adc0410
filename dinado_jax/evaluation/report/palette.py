"""The colours of the report: readable in light and dark, and told apart by colour-blind readers.

Hues are those of Okabe and Ito, darkened or lightened to contrast with the page. No colour stands
alone: lines differ in dashes, points in shape, texts in signs, bars in thickness.
"""

import bisect

# name: (light, dark), as the variables of the page's style. No two light ones are equal, because
# figures are drawn in them.
COLOURS = {
    "paper": ("#fffffe", "#14181d"),
    "panel": ("#f4f6f8", "#1d232a"),
    "ink": ("#1b2026", "#e7ebef"),
    "muted": ("#56606b", "#a3adb8"),
    "rule": ("#c9d0d8", "#3b454f"),
    "base": ("#a84300", "#ff9f66"),
    "control": ("#005f99", "#62b5f5"),
    "floor": ("#006b50", "#35c79a"),
    "wanted": ("#cfe6f7", "#164364"),
    "value0": ("#a94300", "#ff9f65"),  # from little R to much
    "value1": ("#95653a", "#dba47f"),
    "value2": ("#66707a", "#aab2ba"),
    "value3": ("#3d6f98", "#87b5dd"),
    "value4": ("#005e98", "#62b5f4"),
    "line1": ("#00609a", "#62b5f6"),
    "line2": ("#a94400", "#ffa067"),
    "line3": ("#8a2f74", "#e793cf"),
    "line4": ("#006c51", "#36c89b"),
    "line5": ("#7a5c00", "#e2bf4d"),
    "line6": ("#4b5560", "#b4bec9"),
}
LINES = tuple(name for name in COLOURS if name.startswith("line"))

VALUE_LIMITS = (0.05, 0.2, 0.5, 0.8)  # of R, between the colours value0, value1, ..


def light(name: str) -> str:
    """The colour in which a figure draws what has that name."""
    return COLOURS[name][0]


def variables(dark: bool) -> str:
    """The colours as declarations of a style sheet."""
    return ";".join(f"--{name}:{pair[dark]}" for name, pair in COLOURS.items())


def value_level(value: float) -> int:
    """The number of the colour that stands for a value of R, from 0."""
    return bisect.bisect(VALUE_LIMITS, value)

"""The colours of the report against WCAG 2.2, level AA."""

import pytest

from dinado_jax.evaluation.report.palette import COLOURS, LINES, VALUE_LIMITS


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [0, 1])
def test_text_and_lines_stand_out(dark):
    colour = {name: pair[dark] for name, pair in COLOURS.items()}
    for text in ("ink", "muted", "base", "control"):
        for ground in ("paper", "panel"):
            assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
    assert contrast(colour["ink"], colour["wanted"]) >= 4.5
    bars = [name for name in COLOURS if name.startswith("value")]
    assert len(bars) == len(VALUE_LIMITS) + 1
    for bar in bars:  # also below a word that is marked
        for ground in ("paper", "wanted"):
            assert contrast(colour[bar], colour[ground]) >= 3, (bar, ground)
    for line in ("floor", "base", "control", *LINES):
        assert contrast(colour[line], colour["paper"]) >= 3, line


def test_a_light_colour_names_one_variable():
    assert len({pair[0] for pair in COLOURS.values()}) == len(COLOURS)

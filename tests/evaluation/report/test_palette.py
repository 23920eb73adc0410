"""The colours of the report against WCAG 2.2, level AA."""

import pytest
from support.contrast import contrast

from dinado_jax.evaluation.report.palette import COLOURS, LINES, VALUE_LIMITS


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

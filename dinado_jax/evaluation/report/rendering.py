"""The templates of pages, with what all of them are given."""

import math
from typing import Any

import jinja2

from dinado_jax.evaluation.report import palette
from dinado_jax.evaluation.report.rows import cell

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("dinado_jax.evaluation.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters["figure"] = cell
_TEMPLATES.filters["exp"] = math.exp
_TEMPLATES.filters["level"] = palette.value_level
_TEMPLATES.globals |= {
    "light": palette.variables(dark=False),
    "dark": palette.variables(dark=True),
    "value_limits": palette.VALUE_LIMITS,
}


def render(template: str, **content: Any) -> str:
    """Returns a page as HTML, of the file of that name in templates/."""
    return _TEMPLATES.get_template(template).render(**content)

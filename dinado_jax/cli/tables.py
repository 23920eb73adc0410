"""Tables of text, and what JSON has of their numbers."""

import math
from collections.abc import Sequence
from typing import Any


def table(rows: Sequence[Sequence[str]]) -> str:
    """Aligns columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    first, *others = widths
    return "\n".join(
        "  ".join([f"{row[0]:{first}}", *(f"{c:>{w}}" for c, w in zip(row[1:], others))]).rstrip()
        for row in rows
    )


def number(value: float | None, form: str) -> str:
    """Formats a number; a dash where there is none."""
    return "-" if value is None or value != value else form.format(value)


def without_nan(value: Any) -> Any:
    """null for nan, which JSON lacks."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value

"""A page about one text: R after each token, and what might have stood in its place."""

from collections.abc import Mapping
from typing import Any

from dinado_jax.evaluation.report.rendering import render


def text_page(run: str, found: Mapping[str, Any]) -> str:
    """Returns the page as HTML, which needs nothing else.

    Args:
      run: name of its control.
      found: what `stages.inspection.inspect_text` returns.
    """
    return render("text.html", run=run, **found)

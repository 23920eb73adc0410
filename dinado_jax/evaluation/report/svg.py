"""Figures by matplotlib as SVG that takes colours and font from the page around it."""

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from dinado_jax.evaluation.report.palette import COLOURS, light

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INCHES = (4.4, 2.9)
_VARIABLES = {pair[0]: f"var(--{name})" for name, pair in COLOURS.items()}
_STYLE = {
    "axes.edgecolor": light("muted"),
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": light("ink"),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.size": 9.5,  # 11 px on a page of 400 px
    "grid.color": light("rule"),
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",  # text stays text
    "text.color": light("ink"),
    "text.parse_math": False,
    "xtick.color": light("muted"),
    "xtick.labelcolor": light("ink"),
    "ytick.color": light("muted"),
    "ytick.labelcolor": light("ink"),
}


def draw(title: str, plot: Callable[["Axes"], None]) -> str:
    """Draws a figure to be put into an HTML page.

    Args:
      title: what a screen reader says of it; unlike that of any other figure of the page, since ids
        depend on it.
      plot: draws on axes, in the light colours of `palette.py` alone.
    """
    from matplotlib import style  # here, because only the report needs it
    from matplotlib.figure import Figure

    with style.context(["default", {**_STYLE, "svg.hashsalt": title}]):
        figure = Figure(figsize=_INCHES, layout="constrained")
        plot(figure.subplots())
        file = io.StringIO()
        none = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=none)
    return _of_the_page(ElementTree.fromstring(file.getvalue()), title)


def logarithmic(axes: "Axes") -> None:
    """Makes the y-axis logarithmic, with plain numbers in every decade."""
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_minor_formatter("")


def _of_the_page(root: ElementTree.Element, title: str) -> str:
    """Removes what the page gives: name spaces, size, font, and rules for all elements."""
    values = " ".join(value for each in root.iter() for value in each.attrib.values())
    referenced = set(re.findall(r"#([\w.-]+)", values))
    for each in root.iter():
        attributes = {_local(key): value for key, value in each.attrib.items()}
        if attributes.get("id") not in referenced:
            attributes.pop("id", None)
        if "style" in attributes:
            attributes["style"] = _style(attributes["style"])
        each.tag = _local(each.tag)
        each.attrib.clear()
        each.attrib.update(attributes)
        each.text, each.tail = ((text or "").strip() for text in (each.text, each.tail))
    for rules in root.findall("defs[style]"):
        root.remove(rules)
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update({"viewBox": box, "role": "img", "aria-label": title})
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    """Without its name space."""
    return name.rpartition("}")[2]


def _style(declarations: str) -> str:
    """With the page's variables for colours, and without a font family."""
    kept = re.sub(r"font-family:[^;]*;? ?", "", declarations)
    return re.sub("#[0-9a-f]{6}", lambda colour: _VARIABLES[colour[0]], kept)

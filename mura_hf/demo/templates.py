"""Renders the HTML of the page from `templates/*.html`. All values are escaped, because names come from strangers."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_POINTS = {
    "paper": "Rule of the MURA paper",
    "youden": "Youden’s index",
    "sensitivity_95": "Few misses",
    "specificity_95": "Few false alarms",
}


def render(template: str, **values: Any) -> str:
    """Renders a template by its name without ".html"."""
    return _ENVIRONMENT.get_template(f"{template}.html").render(values)


def error_html(sentence: str) -> str:
    """An error message that is not about a single file."""
    return render("message", error=sentence)


def note_html(sentence: str) -> str:
    """A sentence in small print."""
    return render("message", note=sentence)


def probability_text(probability: float) -> str:
    """A probability with two decimals that never looks certain."""
    if probability < 0.005:
        return "below 0.01"
    return f"{probability:.2f}" if probability < 0.995 else "above 0.99"


def operating_point_text(name: str) -> str:
    """The name of an operating point on the page."""
    return _POINTS.get(name, name)


def _of_100(share: float) -> str:
    """A share as a count that never looks certain: not seen in the measurement does not mean never."""
    if share >= 0.995:
        return "more than 99"
    return f"{100 * share:.0f}" if share >= 0.005 else "fewer than 1"


def _encodable(text: str) -> str:
    """Text that can be encoded: a file name may contain bytes that are not characters."""
    return text.encode("utf-8", "replace").decode("utf-8")


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_ENVIRONMENT.filters |= {
    "encodable": _encodable,
    "fixed": format,
    "of_100": _of_100,
    "operating_point": operating_point_text,
    "probability": probability_text,
    "unusual": lambda views: [view.name for view in views if view.in_distribution is False],
    "words": lambda name: name.replace("_", " "),
}

"""HTML pages from the Jinja templates in `templates/`: everything is escaped, and nothing is loaded from elsewhere."""

import base64
import math
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jinja2
from markupsafe import Markup

from hmhi_jax.evaluation.protocols import display_name

_TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, **values: Any) -> str:
    """A template of `templates/`, filled in; a value that is missing is an error."""

    def asset(name: str) -> Markup:
        """A style sheet or script, which stands in the page as it is: it is the package's own text."""
        return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))

    return _environment().get_template(template).render(values, asset=asset)


def data_address(picture: bytes, format: Literal["png", "webp"]) -> str:
    """An encoded picture as an address, so that a page carries it with it."""
    return f"data:image/{format};base64,{base64.b64encode(picture).decode()}"


def three_digits(value: float) -> str:
    """A score as people read it; a dash where there is none (NaN)."""
    return "\u2013" if math.isnan(value) else f"{value:.3f}"


def six_digits(value: float) -> str:
    """A score as a program reads it; nothing where there is none (NaN)."""
    return "" if math.isnan(value) else f"{value:.6f}"


def shown(value: Any) -> str:
    """A figure of any size as people read it: four digits, scientific where it is small or large."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if value == 0 or 0.01 <= abs(value) < 1e5 else f"{value:.1e}"


def counted(number: int, noun: str) -> str:
    """ "1 video", "2 videos"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(_TEMPLATES)), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    for function in (three_digits, six_digits, shown, counted, display_name):
        environment.filters[function.__name__] = function
    return environment

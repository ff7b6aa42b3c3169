"""From what is to be said to one HTML file: no script, no request, no other file."""

import functools
from numbers import Integral
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from usam_core.files.text import escape_control

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **content: Any) -> str:
    """Return a page.

    Names of files and classes are the user's: all text is escaped, and what would turn or hide
    text (control characters, marks of direction) is spelled out.

    Args:
        template: file name in `TEMPLATES`.
        content: what it speaks of.
    """
    return _pages().get_template(template).render(**content)


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share in percent; what is there never reads as nothing.

    >>> percent(0.1234), percent(0.00001), percent(0), percent(None)
    ('12.3%', '<0.1%', '0.0%', '–')
    """
    if share is None:
        return "–"
    least = 10.0 ** -(digits + 2)
    if 0 < abs(share) < least:
        return f"{'-' if share < 0 else ''}<{least * 100:.{digits}f}%"
    return f"{share * 100:.{digits}f}%"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number for people.

    >>> number(12345), number(0.12345), number(None)
    ('12,345', '0.123', '–')
    """
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, Integral) else f"{value:.{digits}f}"


@functools.cache
def _pages() -> Environment:
    pages = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_spelled,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["percent"] = percent
    pages.filters["number"] = number
    return pages


def _spelled(value: Any) -> Any:
    return (
        escape_control(value) if isinstance(value, str) and not isinstance(value, Markup) else value
    )

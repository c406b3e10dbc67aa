"""Renders the HTML pages of `eo_jax.report` and `data_prep inspect`: escaped, self-contained."""

from __future__ import annotations

import base64
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

# What the macro `pairs` shows: a name, and a text or rows that fold away.
Row = tuple[str, "str | list[Row]"]

_SHARED = "eo_jax.report"  # base.html, macros.html and style.css


def render(package: str, template: str, **data: Any) -> str:
    """The HTML of a template in the folder "templates" of a package, which may extend "base.html".

    Strings in `data` are escaped, except Markup, which `pictures.svg` gives. Raises UndefinedError
    for a name that the template uses and `data` lacks.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(_SHARED)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(data)


def data_uri(png: bytes) -> str:
    """A picture as the source of an <img>, so that the page loads no file."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"

"""What all pages of an evaluation share: the look (``style.css.j2``) and that every value is escaped."""

from __future__ import annotations

import jinja2

_PACKAGE = "stlm_core.evaluation"


def page_environment(*packages: str) -> jinja2.Environment:
    """Templates of this package, and of others that have a folder ``templates``; those come first."""
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package, "templates") for package in (*packages, _PACKAGE)]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

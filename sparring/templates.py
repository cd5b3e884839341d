"""Templates: files that stand beside the code which fills them in, every text of it escaped."""

from __future__ import annotations

from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def environment(*packages: str, **options: Any) -> Environment:
    """Give the environment in which a package's HTML is made.

    Args:
        packages: whose files there are, the first that has one before the others. cell.jinja, what
            outputs of a notebook's cell share, is always there.
        options: of `jinja2.Environment`, besides.
    """
    return Environment(
        loader=ChoiceLoader([PackageLoader(package, "") for package in (*packages, "sparring")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )

"""A page for each notebook in docs/notebooks: its text, its code, and what that printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FOLDER = "notebooks"


def places() -> list[str]:
    """List where the pages are in the site's sources, by the notebooks' names."""
    return list(sources().values())


def sources() -> dict[str, str]:
    """Give the page of each notebook, by the notebook's path in the repository."""
    files = sorted((ROOT / "docs" / FOLDER).glob("*.ipynb"))
    return {f"docs/{FOLDER}/{file.name}": f"{FOLDER}/{file.stem}.md" for file in files}


def pages() -> dict[str, str]:
    """Write the pages.

    Returns:
        What each file holds, by its place in the site's sources.
    """
    return {
        place: markdown(json.loads((ROOT / source).read_text(encoding="utf-8")))
        for source, place in sources().items()
    }


def markdown(notebook: dict[str, Any]) -> str:
    """Write a notebook as Markdown.

    Args:
        notebook: what a file of format 4 holds.

    Returns:
        Cells of Markdown as they are, code as blocks, each with its outputs: text, and pictures as
        PNG. Outputs of other kinds have text beside them.
    """
    return "\n\n".join(part for cell in notebook["cells"] for part in _cell(cell)) + "\n"


def _cell(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
    elif cell["cell_type"] == "code" and source:
        yield _block("python", source)
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                picture = "".join(data["image/png"]).replace("\n", "")
                yield f"![What the code above shows](data:image/png;base64,{picture})"
            elif text := "".join(output.get("text") or data.get("text/plain") or ""):
                yield _block("text", text)


def _block(language: str, text: str) -> str:
    return f"````{language}\n{text.rstrip()}\n````"

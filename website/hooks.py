"""What MkDocs calls while it builds the site: pages are added, and links lead to them.

Pages in docs/ are written to be read in the repository too, so their links name files there. A link
to a file that is a page of the site, wherever it lies, leads to that page.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File, Files

from website import defenses, notebooks, reference

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
_BESIDE = {
    "README.md": "index.md",
    "AGENTS.md": "AGENTS.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "LICENSE": "LICENSE",
    "website/style.css": "style.css",
}
"""Files outside docs/ that the site has, and where it has them."""

_GENERATED = {"Course": notebooks, "Defenses": defenses, "Reference": reference}
"""What adds pages to the site, by the section of the navigation that they are of."""

_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages into the navigation, at the end of the section they are of."""
    for entry in config.nav or []:
        for title, pages in entry.items():
            if title in _GENERATED:
                pages += _GENERATED[title].places()
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what docs/ has not: the repository's own pages, and those that are generated."""
    for source, place in _BESIDE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    for each in _GENERATED.values():
        for place, content in each.pages().items():
            files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Lead the links of a page of the repository to pages of the site."""
    of_notebooks = {place: source for source, place in notebooks.sources().items()}
    if page.file.abs_src_path is not None:
        source = Path(page.file.abs_src_path).relative_to(ROOT).as_posix()
    elif page.file.src_uri in of_notebooks:
        source = of_notebooks[page.file.src_uri]
    else:
        return markdown
    return rewritten(markdown, source, page.file.src_uri)


def rewritten(markdown: str, source: str, place: str) -> str:
    """Rewrite the links of a page.

    Args:
        markdown: its text.
        source: its path in the repository, from which its links lead on.
        place: its path in the site's sources.

    Returns:
        The text with links to files that the site has, wherever they lie in the repository, leading
        there. Others are left as they are, for MkDocs to complain of.
    """

    def target(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        to = _place(path)
        return link[1] if to is None else posixpath.relpath(to, posixpath.dirname(place) or ".")

    return _LINK.sub(target, markdown)


def _place(path: str) -> str | None:
    """Where the site has a file of the repository, None where it has not."""
    place = (_BESIDE | defenses.sources() | notebooks.sources()).get(path)
    if place is None and path.startswith("docs/"):
        return path.removeprefix("docs/")
    return place

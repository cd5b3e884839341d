"""The notebooks as files; `make test-notebooks` runs them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> Any:
    reader: Any = nbformat  # typed in parts
    return reader.read(request.param, as_version=reader.NO_CONVERT)


def code(notebook: Any) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_five_on_the_page_in_their_order() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\(([\w-]+\.ipynb)\)", page) == [path.name for path in NOTEBOOKS]
    assert len(NOTEBOOKS) == 5


def test_it_is_short_and_its_cells_have_names(notebook: Any) -> None:
    nbformat.validate(notebook)
    names = [cell.id for cell in notebook.cells]
    assert all(re.fullmatch(r"[a-z-]+", name) for name in names)
    assert len({*names}) == len(names)
    assert 6 <= len(names) <= 12
    assert notebook.metadata.kernelspec.name == "python3"


def test_it_holds_nothing_that_a_run_left(notebook: Any) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
        assert cell.metadata == {}
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


def test_it_writes_elsewhere_and_checks_its_lesson(notebook: Any) -> None:
    first, *others = code(notebook)
    assert "os.chdir(tempfile.mkdtemp())" in first
    assert sum(line.startswith("assert ") for line in others[-1].splitlines()) >= 2


def test_its_links_lead_somewhere(notebook: Any) -> None:
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    links = re.findall(r"\]\(([^)#]+)", "\n".join(texts))
    assert links
    assert [link for link in links if not (FOLDER / link).exists()] == []

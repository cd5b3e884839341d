"""The worked examples in docs are run."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import sparring
from sparring.data import Dataset
from sparring.defenses import DEFENSES

ROOT = Path(__file__).parent.parent


@pytest.mark.backend
def test_the_page_on_adding_a_defense(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "add-a-defense.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    file = tmp_path / "quantize.py"
    file.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("quantize", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "quantize", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(DEFENSES, "quantize", module.Quantize)

    defense = sparring.train("quantize", dataset, out=tmp_path, filters=4, epochs=2, batch_size=16)
    x = dataset.x_test.astype(np.float32) / 255
    # Moved by less than to the next rounding, images are the same to it.
    np.testing.assert_allclose(
        defense.classify(np.round(x * 8) / 8), defense.classify(x), rtol=1e-5
    )


def test_links_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"

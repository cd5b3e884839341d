"""Progress in a notebook, of which IPython is stood in for."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import sparring
from sparring.data import Dataset
from sparring.defenses.defense import Defense
from sparring.training import notebook
from sparring.training.callbacks import Silent


class Shown:
    """What a cell shows: a list of lines, the last text of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **shell: Any) -> None:
        self.lines: list[list[str]] = []
        ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
        ipython.get_ipython = lambda: SimpleNamespace(**shell)  # type: ignore[attr-defined]
        display.display = self.display  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", display)

    def display(self, bundle: dict[str, str], raw: bool, display_id: bool = False) -> Any:
        line = [bundle["text/plain"]]
        self.lines.append(line)
        update = lambda bundle, raw: line.append(bundle["text/plain"])  # noqa: E731
        return SimpleNamespace(update=update)


def test_trainings_and_attacks_show_how_far_they_are(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Shown(monkeypatch, kernel=object())
    options: dict[str, Any] = {"filters": 4, "epochs": 2, "batch_size": 16}
    defense = sparring.train("baseline", dataset, out=tmp_path, **options)
    line = shown.lines[0]
    assert line[0].startswith("epoch 1/2  step ")
    assert line[-1].startswith("epoch 2/2  loss ")
    assert line[-1].endswith("  0 s left")
    shown.lines.clear()
    sparring.evaluate(defense, "noise", sparring.Linf(0.1), dataset, n=8, check=False, batch_size=1)
    [line] = shown.lines
    assert "images  success" in line[-1]
    tell = notebook.counter()
    for done in range(100):
        tell(done, 100, "")
    tell(100, 100, "success 3.0 %")
    assert len(shown.lines[-1]) < 50
    assert shown.lines[-1][-1] == "100/100 images  success 3.0 %"
    shown.lines.clear()
    sparring.train("baseline", dataset, out=tmp_path / "b", progress=Silent(), **options)
    assert shown.lines == []


def test_elsewhere_nothing_is_shown(monkeypatch: pytest.MonkeyPatch, linear: Defense) -> None:
    assert type(notebook.callback()) is Silent
    shown = Shown(monkeypatch)  # IPython in a terminal has no kernel
    assert type(notebook.callback()) is Silent
    notebook.counter()(1, 2, "text")
    assert shown.lines == []

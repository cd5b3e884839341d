"""What a notebook shows: progress, for which IPython is stood in, defenses and reports."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import sparring
from sparring.data import Dataset
from sparring.defenses.defense import Defense
from sparring.reports import page
from sparring.training import notebook
from sparring.training.callbacks import Silent
from tests.conftest import Zoo
from tests.test_report import run, verdict


class Shown:
    """What a cell shows: a list of lines, the last text of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **shell: Any) -> None:
        self.lines: list[list[str]] = []
        self.html: list[str] = []
        ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
        ipython.get_ipython = lambda: SimpleNamespace(**shell)  # type: ignore[attr-defined]
        display.display = self.display  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", display)

    def display(self, bundle: dict[str, str], raw: bool, display_id: bool = False) -> Any:
        line: list[str] = []

        def update(bundle: dict[str, str], raw: bool) -> None:
            line.append(bundle["text/plain"])
            self.html += [bundle["text/html"]] if "text/html" in bundle else []

        self.lines.append(line)
        update(bundle, raw)
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


def test_a_bar_shows_how_much_is_done(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Shown(monkeypatch, kernel=object())
    monkeypatch.setattr(notebook, "_SECONDS_BETWEEN_UPDATES", 0)
    sparring.train("baseline", dataset, out=tmp_path, filters=4, epochs=3, batch_size=10)
    done = [float(share) for share in re.findall('<progress value="([^"]+)"', "".join(shown.html))]
    assert len(done) > 3
    assert done == sorted(done)
    assert done[0] < 1 / 3
    assert {round(3 * share, 2) for share in done} >= {1.0, 2.0, 3.0}
    assert done[-1] == 1
    shown.html.clear()
    tell = notebook.counter()
    tell(0, 0, "loading")
    assert shown.html == []  # nobody knows how much there is
    tell(1, 4, "<b>")
    [html] = shown.html
    assert 'value="0.2500"' in html
    assert "&lt;b&gt;" in html
    assert not re.search("color|background", html)  # the notebook's own, light or dark


def test_a_defense_shows_itself(digits_baseline: Defense) -> None:
    shown = digits_baseline._repr_html_()
    assert digits_baseline.path is not None
    assert digits_baseline.weights_sha256 is not None
    accuracy = digits_baseline.results["test_accuracy"]
    for text in (
        "<b>baseline on digits</b>", digits_baseline.idea, f"<b>{accuracy:.2%}</b>",
        str(digits_baseline.path), digits_baseline.weights_sha256[:12],
        "<summary>Settings</summary>", "weight_decay", "8 x 8 x 1",
    ):  # fmt: skip
        assert text in shown, text
    assert "at random" not in shown
    assert "rejects" not in shown


def test_a_defense_shows_how_it_answers(zoo: Zoo) -> None:
    assert "at random" in zoo("transform")._repr_html_()
    detecting = zoo("majority")._repr_html_()
    assert "<b>above 0.5</b>" in detecting
    assert "<b>3</b>" in detecting
    assert "baseline&#39;s" in zoo("randomneuron")._repr_html_()


def test_a_model_of_ones_own_shows_itself(dataset: Dataset) -> None:
    def guess(images: np.ndarray) -> np.ndarray:
        answers: np.ndarray = np.eye(4, dtype=np.float32)[images[..., 0, 0, 0].astype(int) % 4]
        return answers * 0.6 + 0.1

    defense = sparring.Defense.of(
        guess, dataset, name="mine & yours", outputs="probabilities", layout="NHWC"
    )
    shown = defense._repr_html_()
    assert "<b>mine &amp; yours on patterns</b>" in shown
    assert "it can only be asked" in shown
    assert "test accuracy" not in shown
    assert "What was declared of it" in shown


def test_a_report_shows_itself(tmp_path: Path) -> None:
    verdict(run(tmp_path / "runs<b>" / "a"), "fgsm-Linf-0.15", attack="fgsm()")
    (tmp_path / "runs<b>" / "bad").mkdir()
    (tmp_path / "runs<b>" / "bad/run.json").write_text("{")
    report = sparring.report(tmp_path / "runs<b>")
    assert isinstance(report, sparring.Report)
    shown = report._repr_html_()
    assert "runs&lt;b&gt;" in shown
    for text in ("test accuracy", "fgsm", "attacks within Linf(0.15)", "Damaged", "bad"):
        assert text in shown, text
    assert repr(report) == page.markdown(report)
    assert len(report.write(tmp_path / "out")) == 3


@pytest.mark.parametrize("whose", ["defense", "report"])
def test_what_is_shown_has_the_notebooks_own_colors(
    whose: str, digits_baseline: Defense, tmp_path: Path
) -> None:
    if whose == "defense":
        shown = digits_baseline._repr_html_()
    else:
        verdict(run(tmp_path / "a"), "fgsm-Linf-0.15", broken=8, attack="fgsm()")
        shown = sparring.report(tmp_path)._repr_html_()
    for kind, color in re.findall(r"[^-\w](color|background):([^;\"]+)", shown):
        # Red that lets through most of what is below; the page's test looks at its contrast.
        assert color in ("inherit", "transparent") or re.match(r"rgb\(240 96 72 / \d", color), kind
    assert not re.search("<(style|script|link|img)", shown)

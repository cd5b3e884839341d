"""Programs in benchmarks/ that write pages, and the tables that docs say they print."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from pathlib import Path

import pytest

from benchmarks import cifar10, results_table, success_curves
from sparring import plots
from tests.test_report import run, verdict

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("tool", "options"),
    [
        (results_table, []),
        (results_table, ["--attack"]),
        (success_curves, ["--out", "success.svg"]),
    ],
)
def test_a_folder_without_runs_is_wrong_usage(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tool: object,
    options: list[str],
) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("nowhere", "empty"):
        monkeypatch.setattr(sys, "argv", ["tool", str(tmp_path / name), *options])
        with pytest.raises(SystemExit) as ended:
            tool.main()  # type: ignore[attr-defined]
        assert ended.value.code == 2
        answer = capsys.readouterr()
        assert answer.out == ""
        assert f"{tmp_path / name}: expected a folder with" in answer.err


def test_a_folder_of_unfinished_runs_has_no_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "baseline", None)
    monkeypatch.setattr(sys, "argv", ["results_table", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        results_table.main()
    assert ended.value.code == 2
    assert "expected finished runs, found unfinished baseline" in capsys.readouterr().err


def test_presets_over_seeds(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.9, 0.92, None)):
        run(tmp_path / f"fast/seed-{seed}/cifar10/baseline", accuracy, seed=seed)
    run(tmp_path / "fast/seed-3/digits/baseline", 0.99, seed=3)  # of other data
    arguments = argparse.Namespace(out=tmp_path, data="cifar10")
    _, _, *rows = cifar10.presets(arguments)
    # The course's are not there. The standard deviation of 0.9 and 0.92 is 0.01 * sqrt(2).
    [row] = rows
    assert row.startswith("| fast | 4 | 3 | 2 | 91.00 ± 1.41 % | 90.0 % | ")
    arguments = argparse.Namespace(
        out=tmp_path, data="cifar10", data_dir=Path("d"), jobs="2", settings=["filters=16"]
    )
    assert " ".join(cifar10.trainings("zoo", arguments)) == (
        "train all --preset fast --data cifar10 --eval-every 0 --data-dir d "
        f"--out {tmp_path}/zoo --jobs 2 -s filters=16"
    )


def test_tables_of_the_page_on_benchmarks_have_the_columns_that_are_printed() -> None:
    page = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    tables = 0
    for section in page.split("\n## ")[1:]:
        tools = re.findall(r"python -m benchmarks\.(\w+)", section)
        for header in re.findall(r"^(\|.*\|)\n\| ---", section, re.MULTILINE):
            tables += 1
            if tools[0] == "defense_steps":  # two of its columns, and a remark of the page's own
                assert header == "| defense | times the baseline's step | what it does more |"
                continue
            file = importlib.import_module(f"benchmarks.{tools[0]}").__file__
            code = re.sub(r'"\n *"', "", Path(file or "").read_text(encoding="utf-8"))
            assert header in code, section
    assert tables >= 8


@pytest.mark.parametrize("name", ["examples", "success", "fast"])
def test_pictures_in_docs_follow_the_reader_s_scheme(name: str) -> None:
    text = (ROOT / f"docs/{name}.svg").read_text(encoding="utf-8")
    colors = set(re.findall(r"(fill|stroke)='(#\w+)'", text))
    assert colors
    for what, color in colors:
        assert f'[{what}="{color}"]{{{what}:{plots.DARK[color]}}}' in text
    assert "<style>@media (prefers-color-scheme: dark)" in text


def test_the_page_of_results_says_how_many_images_and_nothing_of_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict(run(tmp_path / "baseline"), "pgd-Linf-0.15")  # on ten images
    monkeypatch.setattr(sys, "argv", ["results_table", str(tmp_path)])
    results_table.main()
    page = capsys.readouterr().out
    assert "among the first 10 test images" in page
    assert "--attack --images 10\n" in page
    # What was found on Fashion-MNIST is said of that alone.
    assert "majority:" not in page
    assert "shared machine" not in page

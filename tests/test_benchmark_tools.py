"""Programs in benchmarks/ that write pages, and the tables that docs say they print."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from pathlib import Path

import pytest

from benchmarks import cifar10, fresh_instances, results_table, success_curves
from sparring import plots
from sparring.defenses import DEFENSES
from sparring.runs.directory import Run
from tests.test_report import run, verdict

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("tool", "options"),
    [
        (results_table, ["keep", "{}", "figures.json"]),
        (results_table, ["attack", "{}"]),
        (success_curves, ["{}", "--out", "success.svg"]),
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
        words = [option.format(tmp_path / name) for option in options]
        monkeypatch.setattr(sys, "argv", ["tool", *words])
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
    kept = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["results_table", "keep", str(tmp_path), str(kept)])
    with pytest.raises(SystemExit) as ended:
        results_table.main()
    assert ended.value.code == 2
    assert "expected finished runs, found unfinished ones" in capsys.readouterr().err
    assert not kept.exists()


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
    colors = set(re.findall(r"(fill|stroke): (#\w+)", text))
    assert len(colors) > 2
    for what, color in colors:
        assert f'[style*="{what}: {color}"]{{{what}:{plots.DARK[color]}!important}}' in text
    assert "@media (prefers-color-scheme: dark)" in text


def results(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["results_table", *map(str, words)])
    results_table.main()


def test_the_page_of_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, kept = tmp_path / "runs", tmp_path / "digits.json"
    info = Run(run(runs / "baseline")).read().info
    usual = DEFENSES["baseline"].settings_for(info).settings
    settings = {**usual.as_json(), "filters": 4}
    verdict(run(runs / "baseline", settings=settings), "pgd-Linf-0.15")  # 3 of 8, of ten images
    verdict(runs / "baseline", "reference-Linf-0.15", broken=4)
    verdict(runs / "baseline", "reference-L2-0.75", broken=6)
    verdict(runs / "baseline", "noise-Linf-0.15", broken=8, finished=False)
    settings = {**settings, "epochs": 7}
    verdict(run(runs / "blur", 0.8, defense="blur", settings=settings), "reference-Linf-0.15")
    run(runs / "jump", None, defense="jump")  # has not ended
    results(monkeypatch, "keep", runs, kept, "--title", "Digits")
    results(monkeypatch, "page", kept)
    page = capsys.readouterr().out
    command = (
        "sparring train baseline blur --data digits --data-dir DIR --eval-every 0 -s filters=4"
    )
    assert f"    {command}\n" in page
    assert "| baseline | 90.0 % | 0.0 % | 1:00 | 4 | 100 | 0 |\n" in page
    assert "| blur epochs=7 | 80.0 % | 0.0 % | 1:00 | 4 | 7 | 0 |\n" in page
    assert "jump" not in page
    assert "| baseline | 80.0 % | - | - | 37.5 % | 50.0 % (25 to 75) | 8 | 97 % |\n" in page
    assert "| baseline | 80.0 % | - | - | - | 75.0 % (38 to 88) | 8 |\n" in page
    assert page.count("among the first 10 test images") == 2
    assert "--norm L2 --images 10\n" in page

    # A later session's runs replace and add, and what is not there stays.
    other = tmp_path / "other"
    run(other / "blur", 0.7, defense="blur", settings=settings)
    kept.with_suffix(".md").write_text("What was found.\n", encoding="utf-8")
    results(monkeypatch, "keep", other, kept, "--title", "Digits")
    results(monkeypatch, "page", kept)
    page = capsys.readouterr().out
    assert "| baseline | 90.0 % |" in page
    assert "| blur epochs=7 | 70.0 % |" in page
    assert page.endswith("\n\nWhat was found.\n")


def test_the_page_of_results_in_docs_is_what_the_program_writes() -> None:
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    [files] = re.findall(r"python -m benchmarks\.results_table page (.*)", page)
    assert page == results_table.page([Path(file) for file in files.split()])


def test_the_table_of_fresh_instances_has_what_is_whole() -> None:
    def row(name: str, seed: int, broken: float) -> fresh_instances.Row:
        success = dict.fromkeys(fresh_instances.ATTACKS, broken)
        return fresh_instances.Row(
            defense=name, seed=seed, data="digits", images=100, filters=12 + seed, eps=0.1,
            accuracy=0.9, success=success, seconds=1.0,
        )  # fmt: skip

    rows = [row("blur", 0, 0.5), row("blur", 1, 0.7), row("jump", 0, 0.5)]
    *_, line = fresh_instances.table(rows, 2).splitlines()
    assert line == (
        "| blur | 12 to 13 | 0.1 to 0.1 | 90.0 ± 0.0 | 60.0 ± 14.1 | 60.0 ± 14.1 | 60.0 ± 14.1 |"
    )
    assert "jump" not in fresh_instances.table(rows, 2)


def test_instances_that_are_done_are_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[tuple[str, int]] = []

    def measured(name: str, seed: int, arguments: argparse.Namespace) -> fresh_instances.Row:
        made.append((name, seed))
        return fresh_instances.Row(
            defense=name, seed=seed, data="digits", images=9, filters=4, eps=0.1, accuracy=1.0,
            success=dict.fromkeys(fresh_instances.ATTACKS, 1.0), seconds=1.0,
        )  # fmt: skip

    monkeypatch.setattr(fresh_instances, "measured", measured)
    words = ["fresh", "--out", str(tmp_path / "rows.json"), "--defenses", "blur", "--instances"]
    for count in ("1", "2"):
        monkeypatch.setattr(sys, "argv", [*words, count])
        fresh_instances.main()
    assert made == [("blur", 0), ("blur", 1)]
    assert "| blur | 4 to 4 |" in capsys.readouterr().out

"""The report's page: whether it can be read, tells attacks apart, and outlives hostile files."""

from __future__ import annotations

import json
import os
import random
import re
from operator import attrgetter
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from typer.testing import CliRunner

from sparring.cli import app
from sparring.reports import page, tables
from sparring.reports.gather import gather
from tests.test_plots import contrast
from tests.test_report import image, line, only, rate, run, verdict

REPORTS = Path(page.__file__).parent
STYLE = (REPORTS / "style.css.jinja").read_text(encoding="utf-8")
TABLE = (REPORTS / "table.jinja").read_text(encoding="utf-8")


# Reading


def blended(color: str, paper: str, share: float) -> str:
    """A color that covers a share of the paper's."""
    parts = [(int(color[at : at + 2], 16), int(paper[at : at + 2], 16)) for at in (1, 3, 5)]
    return "#" + "".join(
        f"{round(over * share + under * (1 - share)):02x}" for over, under in parts
    )


def test_every_text_of_the_page_has_enough_contrast() -> None:
    blocks = re.findall(r":root \{([^}]*)\}", STYLE)
    light, dark = (dict(re.findall(r"--(\w+): (#\w+);", block)) for block in blocks)
    assert set(light) == set(dark) == {"ink", "soft", "line", "paper", "tint", "link", "alarm"}
    [(red, green, blue, most)] = re.findall(r"rgb\((\d+) (\d+) (\d+) / .*format\((\d+) \*", TABLE)
    shade = f"#{int(red):02x}{int(green):02x}{int(blue):02x}"
    for scheme in (light, dark):
        colors = {name: f"#{c[1:] * 2}" if len(c) == 4 else c for name, c in scheme.items()}
        for paper in (colors["paper"], colors["tint"]):
            for text in ("ink", "soft", "link", "alarm"):
                assert contrast(colors[text], paper) >= 4.5, (text, paper)
            # Small texts on red are of the same color as large ones.
            assert contrast(colors["ink"], blended(shade, paper, int(most) / 100)) >= 4.5
    assert "td[style] small { color: inherit; }" in STYLE
    assert not re.findall(r"(?<![-\w])(?:color|background): #", STYLE)  # the table has them all


def test_the_page_says_what_its_parts_are(tmp_path: Path) -> None:
    verdict(run(tmp_path / "a"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/run.json").write_text("{")
    shown = page.html(gather(tmp_path))
    assert '<html lang="en">' in shown
    assert shown.count("<main>") == shown.count("</main>") == 1
    captions = re.findall(r"<table>\s*<caption><span>([^<]+)</span></caption>", shown)
    assert len(captions) == shown.count("<table>") == 6
    assert len(set(captions)) == 6
    assert shown.count("<th ") == shown.count('<th scope="col"')
    assert shown.count("<img ") == len(re.findall(r'<img [^>]*alt="[^"]+"', shown))


def test_an_attack_leads_to_the_page_of_its_verdict(tmp_path: Path) -> None:
    runs = tmp_path / "50 % runs"
    verdict(run(runs / "a"), "fgsm-Linf-0.15", attack="fgsm()")
    shown = verdict(runs / "a", "pgd-Linf-0.15", attack="pgd()") / "verdict.html"
    shown.write_text("page")
    for out in (runs, tmp_path / "out", tmp_path):
        page.write(gather(runs), out)
        links = re.findall('href="([^#"]+)"', (out / "report.html").read_text())
        assert len(links) == 2  # among the successes, and with all figures; none for fgsm
        for link in links:
            assert (out / unquote(link)).read_text() == "page"


def test_nothing_is_cut_off_in_print() -> None:
    printed = STYLE.partition("@media print {")[2]
    assert "size: landscape" in STYLE
    assert ".scroll, figure.wide { overflow: visible; }" in printed
    assert "white-space: normal" in printed
    assert "td.long { min-width: 0; }" in printed
    assert "details-content" in printed  # what is folded is printed, too


# Attacks


def test_attacks_stand_by_name_and_the_reference_attack_last(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a"), run(tmp_path / "b", defense="blur")
    for path, name, broken in (
        (first, "square", 1), (first, "reference", 2), (second, "fgsm", 8), (second, "pgd", 5),
        (second, "reference", 4),
    ):  # fmt: skip
        defense = "blur" if path is second else "baseline"
        verdict(path, f"{name}-Linf-0.15", broken, attack=f"{name}()", defense=defense)
    [(_, table)] = tables.attack_tables(gather(tmp_path).sections[0])
    assert [column.header for column in table.columns] == [
        "defense", "fgsm", "pgd", "square", "reference",
    ]  # fmt: skip
    assert [[cell.text for cell in cells[1:]] for cells in table.cells()] == [
        ["", "", "12.5 %", "25.0 %"],
        ["100.0 %", "62.5 %", "", "50.0 %"],
    ]


def test_the_color_goes_by_what_is_certain(tmp_path: Path) -> None:
    # All of one image: 20.7 to 100 %; all of a hundred: 96.3 to 100 %.
    few = {"value": 1.0, "n": 1, "low": 0.207, "high": 1.0}
    many = {"value": 1.0, "n": 100, "low": 0.963, "high": 1.0}
    for name, success in (("few", few), ("many", many)):
        others = ("clean_accuracy", "clean_rejected", "robust_accuracy")
        results = {**dict.fromkeys(others, rate(1, 2)), "success_rate": success}
        verdict(run(tmp_path), f"{name}-Linf-0.15", attack=f"{name}()", results=results)
    [(_, table)] = tables.attack_tables(gather(tmp_path).sections[0])
    [[_, little, much]] = table.cells()
    assert (little.text, little.shade, little.below) == ("100.0 %", 0.207, ["20.7 to 100.0, n = 1"])
    assert (much.text, much.shade, much.below) == ("100.0 %", 0.963, ["96.3 to 100.0, n = 100"])


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        (
            {"attack": "PGD(steps=40, loss=margin)"}, {"attack": "PGD(steps=1, loss=margin)"},
            ["pgd, steps=1", "pgd, steps=40"],
        ),
        ({"attack": "PGD()"}, {"attack": "PGD(steps=1)"}, ["pgd, defaults", "pgd, steps=1"]),
        ({"attack": "PGD of A"}, {"attack": "PGD of B"}, ["pgd, PGD of A", "pgd, PGD of B"]),
        ({"draws": 1}, {"draws": 20}, ["pgd, 1 draw", "pgd, 20 draws"]),
        ({"seed": 0}, {"seed": 5}, ["pgd, seed 0", "pgd, seed 5"]),
        (
            {"images": [image(0)]}, {"images": [image(0), image(1)]},
            ["pgd, 1 image", "pgd, 2 images"],
        ),
        (
            {"attack_sha256": "a" * 64}, {"attack_sha256": "b" * 64},
            ["pgd, file aaaaaaaa", "pgd, file bbbbbbbb"],
        ),
        (
            {"weights_sha256": "ab" * 32}, {"weights_sha256": "cd" * 32},
            ["pgd, earlier weights", "pgd, these weights"],
        ),
    ],
)  # fmt: skip
def test_two_verdicts_of_an_attack_are_told_apart(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], names: list[str]
) -> None:
    path = run(tmp_path / "runs/baseline")
    verdict(path, "pgd-Linf-0.15", broken=2, **first)
    verdict(path, "elsewhere", broken=6, **{"attack": "PGD(steps=40)", **second})
    found = gather(tmp_path / "runs")
    assert [attacked.first.name for attacked in only(found).attacks] == names
    markdown = page.markdown(found)
    assert "| 25.0 % |" in markdown
    assert "| 75.0 % |" in markdown
    for folder in ("pgd-Linf-0.15", "elsewhere"):
        assert f"baseline/attacks/{folder} |" in markdown
    answer = CliRunner().invoke(app, ["report", str(tmp_path / "runs")], env={"COLUMNS": "200"})
    for name in (*names, "25.0 %", "75.0 %"):
        assert name in answer.stdout


def test_a_folder_s_own_label_is_shown(tmp_path: Path) -> None:
    path = run(tmp_path)
    for folder, steps in (("pgd-Linf-0.15", 40), ("pgd-Linf-0.15-steps=1", 1)):
        verdict(path, folder, attack=f"PGD(steps={steps})")
    names = [attacked.first.name for attacked in only(gather(tmp_path)).attacks]
    assert names == ["pgd", "pgd steps=1"]


def test_verdicts_of_other_seeds_are_one_mean_where_each_run_has_one(tmp_path: Path) -> None:
    for seed, broken in enumerate((2, 6)):
        verdict(run(tmp_path / f"{seed}", seed=seed), broken=broken, seed=seed)
    [attacked] = only(gather(tmp_path)).attacks
    assert attacked.mean(attrgetter("success_rate")) == pytest.approx((0.5, 0.125**0.5, 2))


def test_the_terminal_leaves_no_attack_out(tmp_path: Path) -> None:
    path = run(tmp_path / "runs/a")
    names = [f"attack{number}" for number in range(12)]
    for name in names:
        verdict(path, f"{name}-Linf-0.15", attack=f"{name}()")
    verdict(path, "pgd-L2-0.5", attack="pgd()", threat={"norm": "L2", "eps": 0.5})
    answer = CliRunner().invoke(app, ["report", str(tmp_path / "runs")], env={"COLUMNS": "80"})
    assert answer.exit_code == 0, answer.output
    printed = answer.stdout.split()
    assert {*names, "pgd"} <= set(printed)
    assert printed.count("baseline") == 1 + 1 + 4  # each part of the wide table names the defense
    assert max(map(len, answer.stdout.splitlines()[:-1])) <= 80
    for threat in ("Linf(0.15)", "L2(0.5)"):
        assert f"digits, attacks within {threat}" in answer.stdout


# Damage


def test_warnings_of_a_training_are_shown(tmp_path: Path) -> None:
    results = {"test_accuracy": 0.1, "warnings": ["hardly better than guessing"]}
    run(tmp_path / "a", results=results)
    run(tmp_path / "b", results={"test_accuracy": 0.1, "warnings": 3}, defense="blur")
    found = gather(tmp_path)
    assert "<li>a: hardly better than guessing</li>" in page.html(found)
    assert "- a: hardly better than guessing" in page.markdown(found)


def test_what_is_damaged_is_named_and_what_is_whole_is_shown(tmp_path: Path) -> None:
    whole = run(tmp_path / "runs/whole", 0.975)
    verdict(whole, "pgd-Linf-0.15", broken=8)
    (verdict(whole, "fgsm-Linf-0.15") / "verdict.json").write_text('{"format": 2')
    for name, text in (("cut", '{"format": 1, "def'), ("<script>", '{"format": "<b>"}')):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "run.json").write_text(text)
    (tmp_path / "runs/pipe").mkdir()
    os.mkfifo(tmp_path / "runs/pipe/run.json")
    pipes = run(tmp_path / "runs/pipes", defense="blur")
    for name in ("metrics.jsonl", "attacks/pgd/verdict.json"):
        pipe = pipes / name
        pipe.parent.mkdir(parents=True, exist_ok=True)
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe)
    answer = CliRunner().invoke(app, ["report", str(tmp_path / "runs")], env={"COLUMNS": "200"})
    assert answer.exit_code == 0, answer.output
    assert "97.50 %" in answer.stdout
    assert "100.0 %" in answer.stdout
    damaged = [line.split()[1] for line in answer.stderr.splitlines()]
    assert sorted(damaged) == ["<script>:", "cut:", "pipe:", "whole/attacks/fgsm-Linf-0.15:"]
    shown = (tmp_path / "runs/report.html").read_text(encoding="utf-8")
    markdown = (tmp_path / "runs/report.md").read_text(encoding="utf-8")
    for text in (shown, markdown):
        assert "<script>" not in text
        for name in ("&lt;script&gt;", "cut", "pipe", "whole/attacks/fgsm-Linf-0.15"):
            assert name in text.partition("Damaged")[2]


def mutated(values: Any, draw: random.Random) -> Any:
    """A copy of a JSON value with one part of it replaced, dropped or nested."""
    odd: tuple[Any, ...] = (
        *(None, True, -1, 0, 1.5, 10**30, 10**400, -1e99, 1e308, float("nan"), float("inf")),
        *("", "x", "<script>", "\ud800", "9" * 5000, [], [[]], {}, {"": None}),
        json.loads("[" * 70 + "]" * 70),
    )
    if isinstance(values, dict | list) and values and draw.random() < 0.85:
        copy = values.copy()
        key = draw.choice(list(copy) if isinstance(copy, dict) else range(len(copy)))
        if isinstance(copy, dict) and draw.random() < 0.15:
            del copy[key]
        else:
            copy[key] = mutated(copy[key], draw)
        return copy
    return draw.choice(odd)


def test_mutated_files_stop_no_report(tmp_path: Path) -> None:
    draw = random.Random(0)
    runs = tmp_path / "runs"
    run(runs / "whole", 0.975, defense="blur")
    results = {name: rate(4, 8) for name in ("clean_accuracy", "clean_rejected")}
    results |= {name: rate(3, 8) for name in ("success_rate", "robust_accuracy")}
    for number in range(150):
        path = run(runs / f"{number}", seed=number)
        file = verdict(path, warnings=[{"name": "a", "text": "b"}]) / "verdict.json"
        chosen = (file, path / "run.json", path / "metrics.jsonl")[number % 3]
        lines = chosen.read_text(encoding="utf-8").splitlines()
        at = draw.randrange(len(lines))
        lines[at] = json.dumps(mutated(json.loads(lines[at]), draw))
        chosen.write_text("\n".join(lines), encoding="utf-8")
    found = gather(runs)
    json.dumps(found.as_json(), allow_nan=False).encode()
    page.markdown(found).encode()
    shown = page.html(found)
    assert "<script" not in shown
    assert "97.50 %" in shown
    seen = {
        run.seed for section in found.sections for group in section.groups for run in group.runs
    }
    assert len(seen) + len(found.damaged) > 100


def test_an_example_that_cannot_be_read_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = verdict(run(tmp_path)) / "examples.svg"
    file.write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    opened = Path.open

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == file:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    assert "37.5 %" in page.html(gather(tmp_path))


def test_a_run_of_thousands_of_networks_is_drawn_in_part(tmp_path: Path) -> None:
    lines = [line(epoch, network) for network in range(5000) for epoch in (1, 2)]
    metrics = run(tmp_path) / "metrics.jsonl"
    metrics.write_text("".join(f"{json.dumps(each)}\n" for each in lines), encoding="utf-8")
    assert "200 of 5,000 networks are drawn" in page.html(gather(tmp_path))


def test_where_no_report_can_be_written_the_way_out_is_told(tmp_path: Path) -> None:
    run(tmp_path / "runs/a")
    (tmp_path / "file").write_text("")
    (tmp_path / "full/report.html").mkdir(parents=True)
    for place in ("file/below", "full"):
        answer = CliRunner().invoke(
            app, ["report", str(tmp_path / "runs"), "--out", str(tmp_path / place)]
        )
        assert answer.exit_code == 1
        assert f"sparring: {tmp_path / place}" in answer.stderr
        assert "Name another folder with --out." in answer.stderr


def test_files_that_are_too_large_are_not_read(tmp_path: Path) -> None:
    run(tmp_path / "a", 0.975)
    os.truncate(run(tmp_path / "b") / "run.json", 40_000_000)
    os.truncate(verdict(run(tmp_path / "c", seed=1)) / "verdict.json", 40_000_000)
    os.truncate(run(tmp_path / "d", seed=2) / "metrics.jsonl", 40_000_000)
    found = gather(tmp_path)
    problem = "expected 33,554,432 bytes at most, found 40,000,000"
    assert sorted(found.damaged) == [("b", problem), ("c/attacks/pgd-Linf-0.15", problem)]
    assert [trained.where for trained in only(found).runs] == ["a", "c", "d"]
    assert "d: metrics.jsonl: too large" in only(found).notes

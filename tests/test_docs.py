"""The worked examples in docs are run."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from keras import ops
from typer.testing import CliRunner

import sparring
from sparring import backend
from sparring.cli import app
from sparring.conversion.convert import convert
from sparring.conversion.selfstudy import course_folders
from sparring.conversion.targets import TARGETS
from sparring.data import SOURCES
from sparring.defenses import DEFENSES
from sparring.defenses.defense import Defense
from tests import pages
from tests.conftest import KNOWN, Zoo

ROOT = Path(__file__).parent.parent


@pytest.mark.backend
def test_the_page_on_adding_a_defense(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    if backend.name != "torch":
        pages.make("add-a-defense.md", tmp_path)
        for command in ("train quantize --epochs 1 --filters 4", "convert runs/digits/quantize"):
            to = "--to torch" if command.startswith("convert") else "--preset fast"
            pages.run(f"sparring {command} {to}", tmp_path)
        return
    printed = pages.follow("add-a-defense.md", tmp_path)
    assert len(printed) == 7
    assert "passed" in printed[-1]
    for target in ("torch", "keras", "onnx"):
        proof = tmp_path / "runs" / "digits" / "quantize" / target / "conversion.json"
        [difference] = json.loads(proof.read_text(encoding="utf-8"))["networks"].values()
        assert difference["largest_difference"] < 1e-4 * difference["largest_logit"]


def test_the_page_on_adding_a_report_column(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "add-a-report-column.md").read_text(encoding="utf-8")
    function, test = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    [entry] = re.findall(r"^    (    Column.*\n)", page, re.MULTILINE)
    pages.copy(tmp_path)
    file = tmp_path / "sparring/reports/tables.py"
    code = file.read_text(encoding="utf-8")
    line, _ = re.findall(r'^ +Column\("test accuracy", .*\n', code, re.MULTILINE)
    assert code.count("DEFENSE_COLUMNS: ") == 1
    code = code.replace("DEFENSE_COLUMNS: ", f"{function}\n\nDEFENSE_COLUMNS: ")
    code = code.replace(line, line + entry)
    file.write_text(code, encoding="utf-8")
    with (tmp_path / "tests/test_report.py").open("a", encoding="utf-8") as tests:
        tests.write(f"\n\n{test}")

    # Its own test, and those whose tables it stands in.
    chosen = "worst_seed or one_seed or the_command or hostile or only_finished"
    assert "6 passed" in pages.run(f"pytest tests/test_report.py -k '{chosen}'", tmp_path)
    for tool in ("check", "format --check"):
        pages.run(f"ruff {tool} sparring/reports tests/test_report.py", tmp_path)


def test_the_page_on_adding_a_data_source(tmp_path: Path) -> None:
    trained, attacked, _ = pages.follow("add-a-data-source.md", tmp_path)
    assert "baseline on stripes" in trained
    assert "Linf eps 0.1\n" in attacked  # its usual one
    folder = tmp_path / "runs" / "stripes" / "baseline"
    assert json.loads((folder / "run.json").read_text("utf-8"))["dataset"]["key"] == "stripes"


def test_the_page_on_adding_an_attack(tmp_path: Path) -> None:
    _, ascent, tries, _ = pages.follow("add-an-attack.md", tmp_path)
    assert "attack_ascent.py(steps=10), Linf eps 0.15\n" in ascent
    assert "Tries(draws=50, seed=0), Linf eps 0.15\n" in tries


def test_the_page_on_the_first_hour(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its order: what it says is broken breaks as often, and its code is the file's."""
    page = (ROOT / "docs" / "first-hour.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name in ("baseline", "blur", "temperature"):
        path = zoo(name).path
        assert path is not None
        shutil.copytree(path, Path("runs", "digits", name))
    told: list[str] = []  # what was printed since the last figure
    checked = 0
    parts = r"^(?:```python\n(.*?)^```|    (sparring .*?)|```text\n(.*?)^```)$"
    for code, command, figures in re.findall(parts, page, re.DOTALL | re.MULTILINE):
        if code:
            Path("attack_blur.py").write_text(code, encoding="utf-8")
        elif command.startswith("sparring train"):
            names = command.split()
            assert names[2:] == ["baseline", "blur", "temperature", "--preset", "fast"]
        elif command:
            result = CliRunner().invoke(app, command.split()[1:])
            assert result.exit_code == 0, f"{command}\n{result.output}"
            told.append(result.output)
        else:
            _expect_about(figures.splitlines(), told[-1])
            checked += 1
    assert checked == 5
    assert len(told) == 8


def _expect_about(lines: list[str], output: str) -> None:
    """Shares within the interval that the page has; of warnings the page that explains them."""
    for line in lines:
        if line.startswith("warning"):
            [anchor] = re.findall(r"\[docs/warnings.md#[\w-]+\]$", line)
            assert anchor in output, line
            continue
        name, low, high = re.findall(r"^([\w ]+?)  .* interval ([\d.]+) to ([\d.]+);", line)[0]
        [share] = re.findall(rf"^{name} +([\d.]+) %", output, re.MULTILINE)
        assert float(low) <= float(share) <= float(high), f"{line}: {output}"


def test_the_page_on_installing_has_every_extra() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    named = {
        name
        for row in re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert named == set(settings["project"]["optional-dependencies"])


def test_the_course_has_its_defenses_in_order() -> None:
    page = (ROOT / "docs" / "course.md").read_text(encoding="utf-8")
    linked = re.findall(r"\[(\w+)\]\(\.\./sparring/defenses/(\w+)\.py\)", page)
    assert all(text == file for text, file in linked)
    order = [name for name in DEFENSES if name in {text for text, _ in linked}]
    assert [text for text, _ in linked] == order
    assert {name for name, each in DEFENSES.items() if each.course_files} <= set(order)


def test_the_page_on_attacks(
    digits_baseline: Defense, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("foolbox")
    assert digits_baseline.path is not None
    (tmp_path / "runs").symlink_to(digits_baseline.path.parent.parent)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, "attacks.md", "exec"), names)
    assert names["verdict"].success_rate.value > 0.9
    images = ops.convert_to_tensor(np.zeros((3, 8, 8, 1), np.float32))
    mean = ops.convert_to_numpy(names["mean_logits"](digits_baseline, images))
    once = ops.convert_to_numpy(digits_baseline.logits(images))
    np.testing.assert_allclose(mean, once, rtol=1e-4, atol=1e-5)  # it draws nothing
    for name in ("averaging", "theirs"):
        verdict = sparring.evaluate(digits_baseline, names[name], sparring.Linf(0.15), n=20)
        assert verdict.success_rate.value > 0.8


@pytest.mark.parametrize("target", ["torch", "keras", "onnx"])
def test_the_page_on_conversion(
    digits_baseline: Defense, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    pytest.importorskip("torch")
    assert digits_baseline.path is not None
    folder = tmp_path / target
    convert(digits_baseline.path, target, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    x = np.random.default_rng(0).random((5, 8, 8, 1), dtype=np.float32)
    nchw = TARGETS[target].layout == "[B, C, H, W]"
    snippets = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert snippets
    page = (ROOT / "docs" / "convert.md").read_text(encoding="utf-8")
    for code in snippets:
        assert code in page
        names: dict[str, Any] = {"images": x.transpose(0, 3, 1, 2).copy() if nchw else x}
        exec(compile(code, "README.md", "exec"), names)
        logits = ops.convert_to_tensor(names["logits"])
        answers = ops.convert_to_numpy(ops.softmax(logits, axis=1))
        np.testing.assert_allclose(answers, digits_baseline.classify(x), rtol=1e-3, atol=1e-6)


def test_the_page_on_conversion_says_what_stays() -> None:
    page = (ROOT / "docs" / "convert.md").read_text(encoding="utf-8")
    table = page.partition("| defense | not in the networks |\n| --- | --- |\n")[2].split("\n\n")[0]
    outside = {name: each.outside for name, each in DEFENSES.items() if each.outside}
    assert table.splitlines() == [f"| {name} | {text} |" for name, text in outside.items()]


def test_the_page_on_attacks_has_the_usual_eps() -> None:
    page = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    for name, source in SOURCES.items():
        eps = source.usual_eps
        linf = "4/255" if name == "cifar10" else f"{eps['Linf']}"
        assert f"| {name} | {linf} | {eps['L2']} |" in page


def test_the_page_on_architecture_has_every_package_and_file() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    package = ROOT / "sparring"
    rows = dict(re.findall(r"^\| `(\w+)/` \| [^|]+ \| ([^|]+) \|$", page, re.MULTILINE))
    assert sorted(rows) == sorted(path.parent.name for path in package.glob("*/__init__.py"))
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    assert list(rows) == [layer for layer in layers if layer in rows]  # from the top down
    for name, files in rows.items():
        named = {file for file in re.findall(r"`([\w.]+)`", files) if file != "__init__.py"}
        # Of defenses the page names one; their registry has the others.
        registered = {f"{defense}.py" for defense in DEFENSES} if name == "defenses" else set()
        existing = {path.name for path in (package / name).glob("[!_]*.*")}
        assert named - existing == set(), name
        assert existing - registered - named == set(), name
    leaves = {path.name for path in package.glob("[!_]*.py")}
    assert {leaf for leaf in leaves if f"`{leaf}`" not in page} == set()
    for path in re.findall(r"`(\w+/[\w/.]+|\w+\.py)`", page.replace("state/network-NNN/", "")):
        places = [package, ROOT, *(package / name for name in rows)]
        assert any((place / path).exists() for place in places), path


def test_links_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


COURSE = (ROOT / "docs" / "from-the-course.md").read_text(encoding="utf-8")


def _ours() -> list[str]:
    """The code spans that speak of Sparring: those of each table's last column."""
    rows = [line.rstrip("| ").rpartition(" | ")[2] for line in COURSE.splitlines() if "|" in line]
    return re.findall(r"`([^`]+)`", "\n".join(rows))


def test_the_attack_on_the_page_for_people_from_the_course(digits_baseline: Defense) -> None:
    [code] = re.findall(r"```python\n(.*?)```", COURSE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "from-the-course.md", "exec"), names)
    verdict = sparring.evaluate(digits_baseline, names["attack"], sparring.Linf(0.15), n=20)
    reasons = {verdict.reasons[row] for row in np.flatnonzero(verdict.attacked)}
    assert reasons <= {"broken", "label unchanged"}


def test_commands_on_the_page_for_people_from_the_course() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    options = {
        name: {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)}
        for name, command in commands.items()
    }
    trained = set()
    for span in _ours():
        program, command, *words = [*span.split(), ""]
        if program == "sparring":
            valid = options[command]
            if command == "train":
                trained.add(words[0])
            elif command in ("attack", "exercise"):
                assert words[0] in DEFENSES, span
        else:
            valid, words = set().union(*options.values()), span.split()
        for word in words:
            assert not word.startswith("-") or word in valid, f"{span}: {word}"
    assert trained == {*KNOWN, "all"}


def test_names_on_the_page_for_people_from_the_course() -> None:
    settings = {name for defense in DEFENSES.values() for name in defense.course_settings.names()}
    for span in _ours():
        for name in re.findall(r"^(\w+): ", span):
            assert name in settings, span
        for name in re.findall(r"runs/cifar10/(\w+)", span):
            assert name in DEFENSES, span
        for name in re.findall(r"^sparring\.(\w+)\(", span):
            assert name in sparring.__all__, span
        for name in re.findall(r"^defense\.(\w+)", span):
            assert name == "nets" or hasattr(Defense, name), span
        if re.match(r"sparring/", span):
            assert (ROOT / span).exists(), span
    for folders in course_folders().values():
        for folder in (folders[0], Path(folders[-1]).name):
            assert f"`{folder}`" in COURSE

"""Every command that README and docs print is one, and those that take little time are run."""

from __future__ import annotations

import argparse
import importlib
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import sparring
from sparring.cli import app, program
from sparring.defenses.defense import Defense
from sparring.runs.records import EpochMetrics, RunRecord, VerdictRecord
from tests.conftest import Zoo

ROOT = Path(__file__).parent.parent
TOP = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "AGENTS.md"]
PAGES = [*TOP, *sorted((ROOT / "docs").glob("*.md"))]
_COMMAND = re.compile(r"(?:sparring (?=[a-z])|python -m (?:benchmarks|sparring)[. ])[^`#]*")
_UNFINISHED = ("...", ", with ")  # what stands for more than one word of a command


def commands(page: Path) -> list[str]:
    """Commands of a page: in blocks, in indented lines, and between backticks within the text."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    lines += [line.strip() for line in re.findall(r"^    (.*)$", text, re.MULTILINE)]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.M))
    without = [re.sub(r"^(?:[A-Z_]+=\S+ )+|[\[\]]", "", line.split("  #")[0]) for line in lines]
    found = [match[0].strip() for line in without if (match := _COMMAND.match(line))]
    return [command for command in found if not any(mark in command for mark in _UNFINISHED)]


ALL = [(page.name, command) for page in PAGES for command in commands(page)]


def test_the_pages_have_commands() -> None:
    assert len(ALL) > 60
    assert {"README.md", "results.md", "scale.md", "attacks.md"} <= {name for name, _ in ALL}


@pytest.mark.parametrize(("page", "command"), ALL)
def test_its_words_are_understood(
    page: str, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = shlex.split(command.replace("N ", "1 ") if "benchmarks" in command else command)
    if words[:2] == ["python", "-m"] and words[2].startswith("benchmarks."):
        assert understood(words[2], words[3:], monkeypatch), f"{page}: {command}"
        return
    group: Any = typer.main.get_command(app)
    if len(words) == 2 and words[1] in group.commands:
        return  # only named
    words = words[1:] if words[0] == "sparring" else words[3:]
    numbers = {"SEED": "1", "N": "1", "EPS": "0.1"}
    verb = group.commands[words[0]]
    if "--help" in words:
        return
    verb.make_context(words[0], [numbers.get(word, word) for word in words[1:]])


def understood(module: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the program's parser takes the words; nothing else of it runs."""

    class ParsedError(Exception):
        pass

    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, *arguments: Any) -> None:
        parse(parser, *arguments)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", [module, *words])
    # Another test may have imported it; runpy warns of that.
    monkeypatch.delitem(sys.modules, f"{module}.__main__", raising=False)
    try:
        main = getattr(importlib.import_module(module), "main", None)
        main() if main else runpy.run_module(module, run_name="__main__")
    except ParsedError:
        return True
    except SystemExit:
        return False
    return False


RUN = {
    "sparring list": "blur",
    "sparring train blur -s momentum=0.8 --explain": "momentum",
    "sparring exercise blur": "attack_blur.py",
    "sparring hint blur": "Hint 1 of 3",
    "sparring attack blur attack_blur.py": "0.0 %",
    "sparring attack blur reference": "Verdict",
    "sparring attack baseline pgd": "Verdict",
    "sparring attack jump pgd -o steps=200 -o loss=margin": "Verdict",
    "sparring judge baseline images.npz": "0.0 %",
    "sparring report runs": "report.html",
    "sparring convert runs/digits/blur --to torch": "runs/digits/blur/torch",
}
"""Commands that take seconds on the digits, and a word that each prints. The rest trains for
minutes, needs Fashion-MNIST, CIFAR-10 or a cluster, or is followed with its page
(tests/test_docs.py); `sparring doctor` has tests/test_doctor.py, the others their own."""


def test_what_takes_seconds_runs(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = {command for _, command in ALL}
    assert set(RUN) <= printed
    monkeypatch.chdir(tmp_path)
    for name in ("baseline", "blur", "jump"):
        path = zoo(name).path
        assert path is not None
        shutil.copytree(path, Path("runs", "digits", name))
    np.savez("images.npz", adversarial=sparring.load_data("digits").x_test[:100] / np.float32(255))
    for command, word in RUN.items():
        result = CliRunner().invoke(app, shlex.split(command)[1:])
        assert result.exit_code == 0, f"{command}\n{result.output}"
        assert word in result.output, f"{command}\n{result.output}"


def test_the_snippet_of_the_readme_runs(
    digits_baseline: Defense, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert digits_baseline.path is not None
    (tmp_path / "runs").symlink_to(digits_baseline.path.parent.parent)
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert isinstance(names["verdict"], sparring.Verdict)
    assert names["verdict"].success_rate.value > 0.5


def test_the_attack_for_assistants_breaks_the_baseline(
    digits_baseline: Defense, tmp_path: Path
) -> None:
    text = (ROOT / "AGENTS.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "attack_mine.py").write_text(code, encoding="utf-8")
    verdict = sparring.evaluate(
        digits_baseline, str(tmp_path / "attack_mine.py"), sparring.Linf(0.15), n=50
    )
    assert verdict.success_rate.value > 0.8
    assert not verdict.warnings


def test_what_assistants_are_told_to_read_is_there() -> None:
    text = (ROOT / "AGENTS.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 80
    for file, record in (
        ("run.json", RunRecord), ("metrics.jsonl", EpochMetrics), ("verdict.json", VerdictRecord),
    ):  # fmt: skip
        [row] = re.findall(rf"^\| `[^`]*{re.escape(file)}` \| (.*) \|$", text, re.MULTILINE)
        # Those in parentheses are of what stands before them.
        names = re.findall(r"`([^`]+)`", re.sub(r"\(.*?\)", "", row))
        assert names
        assert {name.partition(".")[0] for name in names} <= {*get_type_hints(record)}
    [told] = re.findall(r"Exit codes: (.*?)\. Messages", text, re.DOTALL)
    assert numbers(told) == CODES


CODES = {0, *(getattr(program, name) for name in dir(program) if name.startswith("EXIT_"))}


def numbers(text: str) -> set[int]:
    return {int(number) for number in re.findall(r"\d+", text)}


def test_the_help_of_the_program_has_examples_and_exit_codes() -> None:
    _, _, text = CliRunner().invoke(app, ["--help"]).output.partition("Examples:")
    examples, _, codes = text.partition("Exit codes:")
    words = [re.split("  +", line.strip())[0] for line in examples.strip().splitlines()]
    group: Any = typer.main.get_command(app)
    for _, verb, *rest in map(str.split, words):
        if rest != ["--help"]:
            group.commands[verb].make_context(verb, rest)
    assert len(words) > 3
    assert numbers(codes) == CODES

"""Values and config files in YAML: what is taken, and what is refused without a traceback."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from sparring.cli import app
from sparring.cli.config import MOST_BYTES, read_file, read_value
from sparring.cli.options import assignments
from sparring.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-2", 0.01), ("1e1", 10.0), ("+.5", 0.5), ("-3", -3), ("0", 0), ("1_000", "1_000"),
        ("0x1f", 31), ("true", True), ("null", None), ("", None), ("margin", "margin"),
        ("yes", "yes"), ("1:40", "1:40"), ("0b_", "0b_"), ("2026-99-99", "2026-99-99"),
        ("'010'", "010"), ("[1, a]", [1, "a"]), ("{a: 1}", {"a": 1}), ("8/255", "8/255"),
    ],
)  # fmt: skip
def test_values(text: str, value: Any) -> None:
    read = read_value(text)
    assert read == value
    assert type(read) is type(value)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(10)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n + 1}: &a{n + 1}\n  <<: [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(10)
)
REFUSED = {
    "!!int x": "tags",
    "!!float x": "tags",
    "!!timestamp foo": "tags",
    "!!python/object/apply:os.mkdir [x]": "tags",
    "010": "expected a number without 0 before it",
    "00.5": "expected a number without 0 before it",
    "9" * 5000: "expected a smaller number",
    "0x" + "f" * 5000: "expected a smaller number",
    "1e400": "expected a smaller number",
    "[" * 5000: "expected at most 10 lists",
    "{a: " * 5000: "expected at most 10 lists",
    "- " * 5000: "expected at most 10 lists",
    "[1": "line 1: expected",
    "&a [*a]": "aliases",
    BOMB: "aliases",
    MERGES: "aliases",
    "{a: 1, a: 2}": "a is given twice",
    "? [a]\n: 1": "expected a name before the colon",
    "\x00": "unacceptable character",
    "\ud800": "unacceptable character",
    "1\n--- 2": "line 2",
    "x" * (MOST_BYTES + 1): "expected at most 32,768 characters",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text[:20]))
def test_hostile_values_are_refused_at_once(text: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(SettingsError) as refused:
        read_value(text)
    assert REFUSED[text] in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(typer.BadParameter, match="--option: 'a="):
        assignments([f"a={text}"], "--option")
    assert time.monotonic() - begun < 3  # a busy machine's second


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epochs: 2\nmomentum: !!int x", "c.yaml, line 2: tags"),
        (b"a: 1\n\nb: &x [1]\nc: *x", "c.yaml, line 3: aliases"),
        (BOMB.encode(), "c.yaml, line 1: aliases"),
        (MERGES.encode(), "c.yaml, line 1: aliases"),
        (b"limit-train: 1\nlimit_train: 2", "c.yaml, line 2: limit_train is given twice"),
        (b"settings:\n  a: 1\n  a: 2", "c.yaml, line 3: a is given twice"),
        (b"settings: 3", "c.yaml, line 1: expected lines of name: value"),
        (b"- epochs", "c.yaml, line 1: expected lines of name: value"),
        (b"epochs", "c.yaml, line 1: expected lines of name: value"),
        (b"a: b: c", "c.yaml, line 1: mapping values are not allowed here"),
        (b"caf\xe9: 1", "c.yaml: expected text in UTF-8"),
        (b"\xff\xfea\x00", "c.yaml: expected text in UTF-8"),
        (bytes(range(256)), "c.yaml: expected text in UTF-8"),
        (b"#" * (MOST_BYTES + 1), "c.yaml: expected a file of at most 32,768 bytes"),
    ],
    ids=lambda value: ascii(value[:20]) if isinstance(value, bytes) else "",
)
def test_hostile_files_are_refused_with_their_line(
    content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        read_file(tmp_path / "c.yaml")
    assert message in str(refused.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as huge:
        huge.truncate(10**8)
    for name, message in {
        "pipe": "found a folder, pipe or device",
        ".": "found a folder, pipe or device",
        "huge": "found 100,000,000",
        "none": "No such file",
    }.items():
        with pytest.raises(SettingsError, match=message):
            read_file(tmp_path / name)
    with pytest.raises(SettingsError, match="pipe or device"):
        read_file(Path("/dev/zero"))


def test_files_that_say_nothing_or_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    for text in ("", "# nothing\n", "settings:\n"):
        path.write_text(text)
        assert read_file(path) == []
    path.write_text("limit-train: 1\nsettings: {b-c: x}\n", encoding="utf-8-sig")
    assert read_file(path) == [
        ("limit_train", 1, f"{path}, line 1", ["1"]),
        ("settings.b_c", "x", f"{path}, line 2", ["x"]),
    ]


def explained(tmp_path: Path, text: str) -> Result:
    """What a config file comes to, in words."""
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return CliRunner().invoke(app, ["train", "baseline", "--explain", "--config", str(path)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: yes", "line 1: '--epochs': Input should be a valid integer"),
        ("epochs: true", "line 1: epochs: expected a number or text, got True"),
        ("quiet: true\nepochs: 1.5", "line 2: '--epochs': Input should be a valid integer"),
        ("epochs: 1:40", "line 1: '--epochs': Input should be a valid integer"),
        ("epochs: 010", "line 1: expected a number without 0 before it"),
        ("epochs: [1]", "line 1: epochs: expected a number or text, got [1]"),
        ("data: []", "line 1: data: expected a number or text, got []"),
        ("data: {a: 1}", "line 1: data: expected a number or text"),
        ("force: yes", "line 1: force: expected true or false, got 'yes'"),
        ("backend: jaxx", "line 1: '--backend': expected torch, tensorflow or jax, got 'jaxx'"),
        ("seed: 2026-99-99", "line 1: '--seed': Input should be a valid integer"),
        ("epochs: 3\nsettings:\n  epochs: 4", "line 3: epochs is given twice"),
        ("momentum: yes", "line 1: momentum: expected"),
        ("epochs: 2\nsettings: {momentum: 2}", "line 2: momentum: expected 0 or more, below 1"),
        ("config: x", "line 1: unknown option 'config'"),
    ],
)
def test_wrong_kinds_name_the_line(text: str, message: str, tmp_path: Path) -> None:
    answer = explained(tmp_path, text)
    assert answer.exit_code in (1, 2), answer.output
    assert message in answer.output.replace("\n", " ")
    assert "Traceback" not in answer.output


def test_right_kinds_are_taken(tmp_path: Path) -> None:
    text = "data: digits\nepochs: 1e1\nlearning_rate: 1e-2\nseed: null\nweight_decay: 1e-3\n"
    answer = explained(tmp_path, text + "filters: '8'\nflip: true\nout: 5\n")
    assert answer.exit_code == 0, answer.output
    lines = {line.split()[0]: line.split()[1] for line in answer.output.splitlines()}
    names = ("epochs", "learning_rate", "weight_decay", "filters", "flip")
    assert [lines[name] for name in names] == ["10", "0.01", "0.001", "8", "True"]

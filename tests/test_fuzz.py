"""Every reader, given damaged and hostile files; for longer, `python -m benchmarks.fuzz`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fuzz as subject
from benchmarks.fuzz import NAMES, FaultError, Reader, damaged, fuzz, readers
from sparring.errors import DataError

EXAMPLES = 25
SLOW = ("verdict.json", "run.json, reported", "metrics.jsonl, reported")
"""Readers that write a whole report."""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    return readers(tmp_path_factory.mktemp("fuzz"))


def test_the_readers(own: dict[str, Reader]) -> None:
    assert set(own) == set(NAMES)
    for reader in own.values():
        reader.check(reader.file.read_bytes())  # the honest file


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_refused_or_read_rightly(own: dict[str, Reader], name: str) -> None:
    fuzz(own[name], EXAMPLES // 4 if name in SLOW else EXAMPLES, number=1)


def refuse(file: Path) -> None:
    raise DataError("no")


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda file: int(file.read_bytes()), "ValueError"),
        (lambda file: bytearray(3 << 30), "MemoryError"),
        (lambda file: time.sleep(0.2), "took"),
        (lambda file: exit(3), "SystemExit"),
    ],
)
def test_a_fault_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], Any], message: str
) -> None:
    monkeypatch.setattr(subject, "SECONDS", 0.1)
    file = tmp_path / "file"
    file.write_text("12")
    with pytest.raises(FaultError, match=message):
        fuzz(Reader(file, damaged, read), 20)
    assert file.read_text() == "12"
    fuzz(Reader(file, damaged, refuse), 20)  # an error that is documented

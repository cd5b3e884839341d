"""What pip installs: the wheel has all that is needed, away from the source; and its version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import sparring
from tests import pages

ROOT = Path(__file__).parent.parent

IN_PASSING = """
import sys
import sparring
from sparring.cli import app

assert sparring.__file__.startswith(sys.argv[1]), sparring.__file__
for command in sys.argv[2:]:
    app(command.split(), standalone_mode=False)
"""
COMMANDS = (
    "list",
    "exercise baseline",
    "train baseline --epochs 2 --filters 4 --preset fast",
    "attack baseline attack_baseline.py -n 5",  # in a process of its own
    "attack baseline pgd -n 5 --trace",
    "report runs",
    "task baseline --out task -n 5",
)
"""They read templates and data of every package that has some, but grading's."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that pip makes of the source, copied without what is built in its place."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    pages.copy(source)
    shutil.copy(ROOT / "LICENSE", source)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(source))
    [file] = out.iterdir()
    return file


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    assert wheel.name == f"sparring-{sparring.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if ".dist-info/" not in name}
        about = {name.rpartition("/")[2] for name in packed.namelist() if ".dist-info/" in name}
        entry = f"sparring-{sparring.__version__}.dist-info/entry_points.txt"
        assert "sparring = sparring.cli:main" in packed.read(entry).decode()
    files = (path for path in (ROOT / "sparring").rglob("*") if path.is_file())
    assert names == {
        path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts
    }
    assert about >= {"METADATA", "LICENSE", "RECORD"}


def test_what_is_installed_works_away_from_its_source(wheel: Path, tmp_path: Path) -> None:
    site, place = tmp_path / "site", tmp_path / "place"
    _pip("install", "--no-deps", "--no-index", "--target", str(site), str(wheel))
    place.mkdir()
    answer = subprocess.run(
        [sys.executable, "-c", IN_PASSING, str(site), *COMMANDS],
        capture_output=True,
        text=True,
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(site)},
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert (place / "runs/report.html").is_file()
    assert list((place / "task").rglob("*.whl"))
    [page, *_] = (place / "runs/digits/baseline/attacks").glob("pgd*/verdict.html")
    assert f"Sparring {sparring.__version__}" in page.read_text(encoding="utf-8")


def test_there_is_one_version() -> None:
    assert metadata.version("sparring") == sparring.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (.+)$", changes, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(sparring.__version__)} - \d{{4}}-\d\d-\d\d", versions[1])

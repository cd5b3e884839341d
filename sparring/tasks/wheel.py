"""This Sparring as a wheel, whether it is installed from one or from its source.

A wheel is a zip of the package's files and of what the installation says of them (the Binary
distribution format, https://packaging.python.org/specifications/binary-distribution-format/).
Nothing is built or downloaded.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from importlib import metadata
from pathlib import Path

from sparring import errors
from sparring.errors import SettingsError
from sparring.version import __version__

_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest of a zip: the same files make the same wheel
_WHEEL = "Wheel-Version: 1.0\nGenerator: sparring\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_LEFT_OUT = {".pyc", ".pyo"}


def write(folder: Path) -> Path:
    """Write the wheel into a folder.

    Returns:
        Its path.

    Raises:
        SettingsError: Sparring is not installed, or another version is than runs.
    """
    info = f"sparring-{__version__}.dist-info"
    files = _package() | {f"{info}/{name}": text for name, text in _about().items()}
    record = "".join(
        f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in sorted(files.items())
    )
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    path = folder / f"sparring-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(entry, data)
    return path


def _package() -> dict[str, bytes]:
    """The package's files by their path in the wheel."""
    root = Path(errors.__file__).parent
    return {
        f"sparring/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix not in _LEFT_OUT and "__pycache__" not in path.parts
    }


def _about() -> dict[str, bytes]:
    """What an installer reads, from the installation that runs."""
    try:
        installed = metadata.distribution("sparring")
    except metadata.PackageNotFoundError as error:
        raise SettingsError(
            "a task holds this Sparring as a wheel: expected it to be installed, as by pip install "
            "or pip install --editable, found its source alone"
        ) from error
    if installed.version != __version__:
        raise SettingsError(
            f"a task holds this Sparring as a wheel: expected version {__version__} to be "
            f"installed, found {installed.version}; install it again"
        )
    about = installed.read_text("METADATA") or installed.read_text("PKG-INFO") or ""
    texts = {"METADATA": about, "WHEEL": _WHEEL}
    for name in ("entry_points.txt", "top_level.txt", "licenses/LICENSE"):
        if (text := installed.read_text(name)) is not None:
            texts[name] = text
    return {name: text.encode() for name, text in texts.items()}


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()

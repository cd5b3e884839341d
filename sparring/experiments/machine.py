"""What of this machine the process may use, and how it starts others.

Affinity and control groups are taken into account.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_UNLIMITED = ("max", "-1")  # as control groups of version 2 and 1 say it


def cores(root: Path = Path("/")) -> tuple[float, int]:
    """Cores this process may use, a fraction where a control group grants one, and all cores."""
    total = os.cpu_count() or 1
    usable: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    for folder in _control_groups(root):
        first = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        quota, period = [*(_words(folder / "cpu.max") or first), "max", "1"][:2]
        if quota not in _UNLIMITED:
            usable = min(usable, int(quota) / int(period))
    return usable, total


def python(words: Sequence[str], added: Mapping[str, str]) -> dict[str, Any]:
    """Give the arguments of subprocess.run for a Python that imports nothing from its folder.

    Args:
        words: of its command line, after the interpreter.
        added: to this process's environment.

    Returns:
        `args` and `env`.
    """
    environment = {**os.environ, **added}
    first, *others = (Path(place).absolute() for place in sys.path)
    root = Path(__file__).absolute().parents[2]
    if first == root and root not in others:
        # Sparring is not installed: this process has it from the current folder itself.
        known = [environment.get("PYTHONPATH"), str(root)]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, known))
    return {"args": [sys.executable, "-P", *words], "env": environment}


def memory(root: Path = Path("/")) -> tuple[int | None, int | None]:
    """Bytes of memory this process may use, and how many of them are free; None when unknown."""
    words = _words(root / "proc" / "meminfo")
    if "MemAvailable:" not in words:
        if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
            return None, None
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None
    total, free = (
        1024 * int(words[words.index(name) + 1]) for name in ("MemTotal:", "MemAvailable:")
    )
    for folder in _control_groups(root):
        limit = _word(folder / "memory.max") or _word(folder / "memory.limit_in_bytes") or "max"
        if limit in _UNLIMITED:
            continue
        used = _word(folder / "memory.current") or _word(folder / "memory.usage_in_bytes") or "0"
        statistics = _words(folder / "memory.stat")
        kept = dict(zip(statistics[::2], statistics[1::2], strict=False))
        # Files that were read count as used, though they make room when it is needed.
        busy = int(used) - int(kept.get("total_inactive_file") or kept.get("inactive_file") or 0)
        total, free = min(total, int(limit)), min(free, max(0, int(limit) - busy))
    return total, free


def _control_groups(root: Path) -> Iterator[Path]:
    """Folders of this process's control groups and of all above them, versions 1 and 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / controller
            group = top / path.strip("/")
            # A container often sees its own group at the top, under a path it cannot see.
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))


def _words(file: Path) -> list[str]:
    """The words of a text file; none when it cannot be read."""
    try:
        return file.read_text(encoding="utf-8").split()
    except OSError:
        return []


def _word(file: Path) -> str:
    """The first word of a text file, or nothing."""
    return "".join(_words(file)[:1])

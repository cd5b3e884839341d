"""By what means an attack from a file is kept from its judge on this machine."""

from __future__ import annotations

import os
import shutil

from sparring.errors import SettingsError
from sparring.evaluation import landlock


def means(sandbox: bool) -> str:
    """Say how an attack is kept from the judge, as "process, Landlock".

    Args:
        sandbox: whether bubblewrap is asked for.

    Raises:
        SettingsError: the system has no such processes, or bubblewrap is not installed.
    """
    if os.name != "posix":
        raise SettingsError(
            "an attack from a file runs apart on POSIX systems alone; expected --in-process here"
        )
    words = ["process"]
    if landlock.version():
        words.append("Landlock")
    if sandbox:
        if shutil.which("bwrap") is None:
            raise SettingsError("sandbox: expected bubblewrap (bwrap) to be installed, found none")
        words.append("bubblewrap")
    return ", ".join(words)


def told() -> str:
    """Tell what there is, for people."""
    if os.name != "posix":
        return "none: attacks from files run in the judge's process (--in-process)"
    known = landlock.version()
    words = ["a process of its own", f"Landlock {known}" if known else "no Landlock"]
    there = shutil.which("bwrap") is not None
    words.append("bubblewrap with --sandbox" if there else "no bubblewrap for --sandbox")
    return f"attacks from files: {', '.join(words)}"

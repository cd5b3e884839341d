"""How the process deals with memory it has freed."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names and values of glibc's malloc.h
_ONE_GIBIBYTE = 1 << 30


def keep_freed() -> None:
    """Let glibc keep freed memory for the next training step instead of returning it.

    A step on a CPU allocates the same tens of megabytes again and again; glibc gives them back and
    the kernel hands out zeroed pages anew, which can take a third of a step at 16 filters
    (docs/benchmarks.md, "freed memory kept"). Elsewhere than on glibc this does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _ONE_GIBIBYTE)
        libc.mallopt(_TRIM_THRESHOLD, _ONE_GIBIBYTE)

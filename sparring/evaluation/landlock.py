"""Landlock: Linux's way for a process to give up writing outside of some folders, without root.

https://docs.kernel.org/userspace-api/landlock.html; kernel 5.13 and later. A process that did can
neither trace another one that did not, nor look into its memory; from kernel 6.12 on it cannot send
it signals either. Reading stays as it is. It holds for all that the process starts.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path

_CREATE, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # system calls, on every architecture
_VERSION, _PATH_BENEATH, _NO_NEW_PRIVILEGES = 1, 1, 38

# Rights by their bits: 1 write a file; 4 to 12 remove and make files of each kind; 13 link across
# folders, from version 2 on; 14 truncate, from version 3 on.
_WRITE = 1 << 1
_RIGHTS_BY_VERSION = {1: 0, 2: 1 << 13, 3: 1 << 14}
_ALL = _WRITE | sum(1 << bit for bit in range(4, 13))
_OF_FILES = _WRITE | 1 << 14
_SCOPES_FROM, _SCOPES = 6, 3  # abstract sockets, and signals


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _Beneath(ctypes.Structure):
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def version() -> int:
    """Tell which version of Landlock the kernel has; 0 where it has none, or it is switched off."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, _call(_CREATE, None, 0, _VERSION))


def restrict(writable: Sequence[Path]) -> None:
    """Let this process, and all that it starts, write to these files and below these folders alone.

    Args:
        writable: files and folders; those that are not there are passed over.

    Raises:
        OSError: the kernel refuses.
    """
    known = version()
    rights = _ALL | sum(bit for since, bit in _RIGHTS_BY_VERSION.items() if known >= since)
    ruleset = _Ruleset(rights, 0, _SCOPES if known >= _SCOPES_FROM else 0)
    # An older kernel takes the first of these fields alone.
    size = ctypes.sizeof(ruleset) if known >= _SCOPES_FROM else ctypes.sizeof(ctypes.c_uint64)
    rules = _checked(_call(_CREATE, ctypes.byref(ruleset), size, 0))
    for path in writable:
        if not path.exists():
            continue
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        beneath = _Beneath(rights if path.is_dir() else rights & _OF_FILES, place)
        _checked(_call(_ADD_RULE, rules, _PATH_BENEATH, ctypes.byref(beneath), 0))
        os.close(place)
    library = ctypes.CDLL(None, use_errno=True)
    _checked(library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _checked(_call(_RESTRICT_SELF, rules, 0))
    os.close(rules)


def _call(number: int, *arguments: object) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    return int(library.syscall(ctypes.c_long(number), *arguments))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return result

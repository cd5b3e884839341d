"""The version of Sparring, which runs and verdicts record."""

from __future__ import annotations

__version__ = "0.2.0"

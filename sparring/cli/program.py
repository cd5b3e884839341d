"""The program itself: its exit codes, how errors and signals end it, and where verbs register.

Exit codes: 0 done; 1 refused or failed; 2 wrong usage; 3 training diverged; 4 disk full; 130
Ctrl-C; 141 standard output was closed; 143 SIGTERM.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer

from sparring.errors import Diverged, SparringError
from sparring.version import __version__

EXIT_FAILED, EXIT_DIVERGED, EXIT_DISK = 1, 3, 4
EXIT_INTERRUPTED, EXIT_TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
EXIT_CLOSED = 128 + 13  # SIGPIPE, which Windows does not have

_DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train adversarial-example defenses that people learn to break.",
)
"""What verbs register with, by `@app.command()`; a verb's docstring is its help."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


class Failed(typer.Exit):
    """The program ends with a message, which was printed."""

    def __init__(self, message: str, code: int, kind: str = "") -> None:
        """Keep what was printed, the exit code and the name of the error's class."""
        super().__init__(code)
        self.message, self.kind = message, kind


def main() -> None:
    """Run the command line; the process ends with one of the codes above."""
    signal.signal(signal.SIGTERM, _raise_terminated)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A folder's name may have letters that the locale's encoding has not.
        sys.stdout.reconfigure(errors="backslashreplace")
    app()


def _raise_terminated(*_: object) -> None:
    raise Terminated


@app.callback(invoke_without_command=True)
def _sparring(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"sparring {__version__}")
        raise typer.Exit


@contextmanager
def handled(going_on: str = "") -> Iterator[None]:
    """Turn errors a user can mend, and signals, into a message and an exit code.

    Args:
        going_on: how what was interrupted goes on, a sentence.

    Raises:
        Failed: once the message is printed.
    """
    try:
        yield
        sys.stdout.flush()
    except Terminated as error:
        _ignore_signals()
        fail(f"Terminated. {going_on}", EXIT_TERMINATED, error)
    except KeyboardInterrupt as error:
        _ignore_signals()
        fail(f"Interrupted. {going_on}", EXIT_INTERRUPTED, error)
    except Diverged as error:
        fail(str(error), EXIT_DIVERGED, error)
    except BrokenPipeError as error:
        # The interpreter flushes what is left at its end, and would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        fail(f"Standard output was closed. {going_on}", EXIT_CLOSED, error)
    except OSError as error:
        full = error.errno in _DISK_FULL
        hint = f". What was saved before is whole. Make room. {going_on}" if full else ""
        fail(f"{error}{hint}", EXIT_DISK if full else EXIT_FAILED, error)
    except SparringError as error:
        fail(str(error), EXIT_FAILED, error)


def _ignore_signals() -> None:
    """End with the code of the first signal, whatever comes while the process ends."""
    if signal.getsignal(signal.SIGTERM) is _raise_terminated:  # not in a program's own process
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)


def fail(message: str, code: int = EXIT_FAILED, error: BaseException | None = None) -> NoReturn:
    """Print a message and end the program.

    Args:
        message: for people.
        code: the exit code.
        error: what happened, whose class a scheduler is told.

    Raises:
        Failed: always.
    """
    print(f"sparring: {message}", file=sys.stderr)
    raise Failed(message, code, type(error).__name__ if error else "")

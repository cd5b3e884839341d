"""The program itself: its exit codes, how errors and signals end it, and where verbs register.

What each exit code means stands in the help of the program.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, NoReturn, TextIO

import typer

from sparring.defenses import sources
from sparring.errors import Diverged, SparringError, told
from sparring.usercode import where as place_of
from sparring.version import __version__

EXIT_FAILED, EXIT_USAGE, EXIT_DIVERGED, EXIT_DISK = 1, 2, 3, 4
EXIT_INTERRUPTED, EXIT_TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
EXIT_CLOSED = 128 + 13  # SIGPIPE, which Windows does not have

_DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train adversarial-example defenses that people learn to break.",
    epilog="""
\b
Examples:
  sparring train baseline             half a minute on the embedded digits
  sparring attack baseline pgd        break it; the verdict and its page
  sparring exercise blur              an attack to fill in yourself
  sparring report runs                all results on one page
  sparring attack --help              all that a command takes

\b
Exit codes:
  0 done; 1 refused or failed; 2 wrong usage; 3 training diverged; 4 disk full;
  130 Ctrl-C; 141 standard output was closed; 143 SIGTERM.
""",
)
"""What verbs register with, by `@app.command()`; a verb's docstring is its help."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


class Failed(typer.Exit):
    """The program ends with a message, which was printed."""

    def __init__(self, message: str, code: int) -> None:
        """Keep what was printed, and the exit code."""
        super().__init__(code)
        self.message = message


def main() -> None:
    """Run the command line; the process ends with one of the codes above."""
    signal.signal(signal.SIGTERM, _raise_terminated)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed; what is opened next would take its number
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A folder's name may have letters that the locale's encoding has not.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with handled():
            if any(not word or re.fullmatch("--[a-z-]+=", word) for word in sys.argv[1:]):
                fail("expected a value for each option and argument, got an empty one", EXIT_USAGE)
            app()
    except typer.Exit as ended:
        sys.exit(ended.exit_code)


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
    except Terminated:
        _ignore_signals()
        fail(f"Terminated. {going_on}".rstrip(), EXIT_TERMINATED)
    except KeyboardInterrupt:
        _ignore_signals()
        fail(f"Interrupted. {going_on}".rstrip(), EXIT_INTERRUPTED)
    except Diverged as error:
        fail(str(error), EXIT_DIVERGED)
    except BrokenPipeError:
        _drop_unwritten(sys.stdout)
        # As other programs, silent where nothing was lost.
        fail(f"Standard output was closed. {going_on}" * bool(going_on), EXIT_CLOSED)
    except OSError as error:
        _drop_unwritten(sys.stdout)
        full = error.errno in _DISK_FULL
        hint = f". What was saved before is whole. Make room. {going_on}".rstrip() if full else ""
        where = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        fail(f"{where}{hint}", EXIT_DISK if full else EXIT_FAILED)
    except SparringError as error:
        fail(str(error), EXIT_FAILED)
    except Exception as error:
        if not sources.is_of_own_code(error):
            raise
        fail(f"{told(error)}{place_of(error)}", EXIT_FAILED)


def _ignore_signals() -> None:
    """End with the code of the first signal, whatever comes while the process ends."""
    if signal.getsignal(signal.SIGTERM) is _raise_terminated:  # not in a program's own process
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)


def _drop_unwritten(stream: TextIO) -> None:
    """Drop what a stream does not take; the interpreter would complain again at its end."""
    try:
        stream.flush()
    except OSError:
        with suppress(OSError):  # no file of the system's, as in tests
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def fail(message: str, code: int = EXIT_FAILED) -> NoReturn:
    """Print a message on standard error and end the program.

    Args:
        message: for people; nothing is printed of an empty one.
        code: the exit code.

    Raises:
        Failed: always.
    """
    if message:
        with suppress(OSError):  # nobody reads it
            print(f"sparring: {message}", file=sys.stderr)
        _drop_unwritten(sys.stderr)
    raise Failed(message, code)


def command_line(*words: object) -> str:
    """Write a command of this program so that it runs when it is pasted into the shell.

    Args:
        words: the verb and what follows, as "attack", path.
    """
    program = [python(), "-m", "sparring"]
    if Path(sys.argv[0]).stem == "sparring":
        program = ["sparring" if shutil.which("sparring") else sys.argv[0]]
    return shlex.join([*program, *map(str, words)])


def python() -> str:
    """Name the running interpreter as one would type it here."""
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)

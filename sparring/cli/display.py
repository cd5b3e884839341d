"""Training progress for people: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.live import Live as LiveText
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from sparring.evaluation.rates import duration
from sparring.experiments.schedule import Job, Watcher
from sparring.runs.directory import Run
from sparring.training.callbacks import Callback, EpochMetrics, Silent

_SECONDS_BETWEEN_LINES = 30


class Output(Console):
    """A console that leaves to the command line what a closed standard output means."""

    @override
    def on_broken_pipe(self) -> None:
        # Called while the error is handled.
        raise


class Printer:
    """Print lines on a console, above what is drawn there while the printer's context is entered.

    Args:
        console: where; something can be drawn on a terminal only.
        drawn: what is drawn, if anything.
    """

    def __init__(self, console: Console, drawn: Bar | LiveText | None = None) -> None:
        """Print and draw nothing yet."""
        self._console, self._drawn = console, drawn
        self._begun = self._last = time.monotonic()

    def __enter__(self) -> Self:
        """Draw what is to be drawn."""
        if self._drawn:
            self._drawn.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take it away."""
        if self._drawn:
            self._drawn.stop()

    def message(self, text: str) -> None:
        """Print a text as it is."""
        self._last = time.monotonic()
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._console.file.flush()

    def now_and_then(self, text: Callable[[], str]) -> None:
        """Print what a function says, unless something was printed within half a minute."""
        if time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self.message(text())


def figures(metrics: EpochMetrics, seconds_left: float) -> str:
    """Put one epoch's figures into words."""
    tested = "" if metrics.test_accuracy is None else f"  test {metrics.test_accuracy:6.2%}"
    return (
        f"loss {metrics.loss:.4f}  accuracy {metrics.accuracy:6.2%}{tested}  "
        f"learning rate {metrics.learning_rate:.4f}  "
        f"{metrics.images_per_second:,.0f} images/s  {duration(seconds_left)} left"
    )


class Lines(Printer, Silent):
    """Print plain lines: one an epoch, and at most one every half minute inside a long epoch."""

    @override
    def begin(self, network: int, networks: int, epoch: int, epochs: int, steps: int) -> None:
        self._network, self._networks = network, networks
        self._epoch, self._epochs, self._steps = epoch, epochs, steps

    @override
    def step(self, step: int, loss: float) -> None:
        self.now_and_then(lambda: f"{self._place(1)}  step {step}/{self._steps}  loss {loss:.4f}")

    @override
    def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None:
        self._epoch = metrics.epoch
        self.message(f"{self._place()}  {figures(metrics, seconds_left)}")

    def _place(self, ahead: int = 0) -> str:
        """Which epoch, and of which network where there are several."""
        which = f"network {self._network + 1}/{self._networks}  " if self._networks > 1 else ""
        epoch = f"{self._epoch + ahead:{len(str(self._epochs))}}"
        return f"{which}epoch {epoch}/{self._epochs}"


class Live(Lines):
    """Draw a bar that moves with every step, the last epoch's figures beside it."""

    def __init__(self, console: Console) -> None:
        """Draw on a console, which has to be a terminal."""
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[figures]}"),
            console=console,
            transient=True,
        )
        super().__init__(console, self._bar)
        self._task = self._bar.add_task("", total=1, figures="", visible=False)
        self._figures = ""

    @override
    def begin(self, network: int, networks: int, epoch: int, epochs: int, steps: int) -> None:
        super().begin(network, networks, epoch, epochs, steps)
        self._bar.update(self._task, total=epochs * steps, completed=epoch * steps, visible=True)

    @override
    def step(self, step: int, loss: float) -> None:
        self._bar.update(
            self._task,
            completed=self._epoch * self._steps + step,
            description=self._place(1),
            figures=self._figures or f"loss {loss:.4f}",
        )

    @override
    def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None:
        self._figures = figures(metrics, seconds_left)
        if metrics.epoch == self._epochs:
            super().epoch(metrics, seconds_left)  # the last one stays when the bar goes
        self._epoch = metrics.epoch


def warn(texts: Iterable[str]) -> None:
    """Print warnings on standard error, where those see them who wanted to see nothing else."""
    for text in texts:
        print(f"sparring: warning: {text}", file=sys.stderr)


@contextmanager
def told() -> Iterator[Callable[[str], None]]:
    """Give a function told what is being done: a live line on a terminal, plain lines elsewhere."""
    console = Output(stderr=True)
    if console.is_terminal and not console.is_dumb_terminal:
        with console.status("", spinner="line", refresh_per_second=4) as status:
            yield lambda text: status.update(Text(text))
    else:
        yield lambda text: print(text, file=sys.stderr, flush=True)


@contextmanager
def counted(quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """Give a function told (done, total, text): a bar on a terminal, else a line now and then."""
    console = Output(quiet=quiet)
    if console.is_terminal and not quiet:
        columns = TextColumn("{task.completed}/{task.total} images"), BarColumn(bar_width=20)
        with Bar(
            *columns, TextColumn("{task.description}"), console=console, transient=True
        ) as bar:
            task = bar.add_task("", total=None)
            yield lambda done, total, text: bar.update(
                task, completed=done, total=total, description=text
            )
    else:
        lines = Printer(console)
        yield lambda done, total, text: lines.now_and_then(lambda: f"{done}/{total} images  {text}")


@contextmanager
def shown(quiet: bool) -> Iterator[Callback]:
    """Give the callback that fits where standard output goes."""
    console = Output(quiet=quiet)
    with (Live if console.is_terminal and not quiet else Lines)(console) as lines:
        yield lines


class ManyLines(Printer, Watcher):
    """Print plain lines of many jobs: what becomes of each, and now and then how all stand."""

    @override
    def begin(self, jobs: Sequence[Job]) -> None:
        self._jobs = list(jobs)
        self.message(f"{len(jobs)} job{'s' if len(jobs) != 1 else ''}")

    @override
    def change(self, job: Job, what: str) -> None:
        after = f" after {duration(job.seconds)}" if what == "done" else ""
        self.message(f"{job.title}: {what.splitlines()[0]}{after}")

    @override
    def look(self) -> None:
        self.now_and_then(
            lambda: "  ".join([self._stand(), *(f"[{line}]" for line in self._running())])
        )

    def _stand(self) -> str:
        counts = Counter(job.state for job in self._jobs)
        parts = [f"{counts['done']}/{len(self._jobs)} done"]
        parts += [f"{counts[state]} {state}" for state in ("running", "failed") if counts[state]]
        return f"{', '.join(parts)}, {duration(time.monotonic() - self._begun)}"

    def _running(self) -> Iterator[str]:
        """How far each running job is."""
        for job in self._jobs:
            if job.state != "running":
                continue
            if not job.epochs:
                yield job.title
            elif (metrics := job.progress()) is None:
                yield f"{job.title}: epoch 0/{job.epochs}"
            else:
                tested = metrics.test_accuracy
                yield (
                    f"{job.title}: epoch {metrics.epoch}/{job.epochs}, loss {metrics.loss:.4f}"
                    f"{'' if tested is None else f', test {tested:.2%}'}, "
                    f"{duration((job.epochs - metrics.epoch) * metrics.seconds)} left"
                )


class ManyLive(ManyLines):
    """Draw the running jobs, a line each, and how all stand; what fails stays above."""

    def __init__(self, console: Console) -> None:
        """Draw on a console, which has to be a terminal."""
        self._live = LiveText(console=console, transient=True, refresh_per_second=4)
        super().__init__(console, self._live)
        self._looked = 0.0

    @override
    def change(self, job: Job, what: str) -> None:
        if what != "started":
            super().change(job, what)

    @override
    def look(self) -> None:
        if time.monotonic() - self._looked < 1:
            return
        self._looked = time.monotonic()
        self._live.update(Text("\n".join([*self._running(), self._stand()])))


@contextmanager
def many(quiet: bool) -> Iterator[ManyLines]:
    """Give the watcher of many jobs that fits where standard output goes."""
    console = Output(quiet=quiet)
    with (ManyLive if console.is_terminal and not quiet else ManyLines)(console) as lines:
        yield lines


def table_of_runs(runs: Sequence[Path], out: Path, messages: Mapping[Path, str]) -> Table:
    """Tabulate what runs came to, by names relative to `out`; messages are of unfinished ones."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("run", "test accuracy", "rejected", "training time", ""):
        table.add_column(column, overflow="fold")
    for path in runs:
        shown = path.relative_to(out.absolute()) if path.is_relative_to(out.absolute()) else path
        run = Run(path)
        results = run.read().results if run.status() == "finished" else None
        if results is not None:
            rates = (results.test_accuracy, results.rejected)
            cells = ["-" if rate is None else f"{rate:.2%}" for rate in rates]
            table.add_row(str(shown), *cells, duration(results.seconds or 0), "")
        else:
            message = messages.get(path, "")
            table.add_row(str(shown), "-", "-", "-", *message.splitlines()[:1])
    return table


def print_rows(rows: Iterable[Sequence[str]]) -> None:
    """Print rows of texts in columns, folded to the width of a terminal, else a line each."""
    rows = list(rows)
    if not (console := Output()).is_terminal:
        console.print(columns(rows), markup=False, highlight=False, soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in rows[0]:
        table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def columns(rows: Iterable[Sequence[str]]) -> str:
    """Lay out rows of texts in columns as wide as their widest text."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in cells)

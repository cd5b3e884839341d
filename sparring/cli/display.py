"""Training progress for people: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

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


def figures(metrics: EpochMetrics, seconds_left: float) -> str:
    """Put one epoch's figures into words."""
    tested = "" if metrics.test_accuracy is None else f"  test {metrics.test_accuracy:6.2%}"
    return (
        f"loss {metrics.loss:.4f}  accuracy {metrics.accuracy:6.2%}{tested}  "
        f"learning rate {metrics.learning_rate:.4f}  "
        f"{metrics.images_per_second:,.0f} images/s  {duration(seconds_left)} left"
    )


def place(epoch: int, epochs: int, network: int = 0, networks: int = 1) -> str:
    """Say which epoch, and of which network where there are several; `network` counts from 0."""
    which = f"network {network + 1}/{networks}  " if networks > 1 else ""
    return f"{which}epoch {epoch:{len(str(epochs))}}/{epochs}"


class Lines(Silent):
    """Print plain lines: one an epoch, and at most one every half minute inside a long epoch."""

    def __init__(self, console: Console) -> None:
        """Print to a console."""
        self._console = console
        self._network = self._networks = self._epoch = self._epochs = self._steps = 0
        self._last = time.monotonic()

    @override
    def begin(self, network: int, networks: int, epoch: int, epochs: int, steps: int) -> None:
        self._network, self._networks = network, networks
        self._epoch, self._epochs, self._steps = epoch, epochs, steps

    @override
    def step(self, step: int, loss: float) -> None:
        if time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self.message(f"{self._place(1)}  step {step}/{self._steps}  loss {loss:.4f}")

    @override
    def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None:
        self._epoch = metrics.epoch
        self.message(f"{self._place()}  {figures(metrics, seconds_left)}")

    @override
    def message(self, text: str) -> None:
        self._last = time.monotonic()
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._console.file.flush()

    def _place(self, ahead: int = 0) -> str:
        return place(self._epoch + ahead, self._epochs, self._network, self._networks)


class Live(Lines):
    """Draw a bar that moves with every step, the last epoch's figures beside it."""

    def __init__(self, console: Console) -> None:
        """Draw on a console, which has to be a terminal."""
        super().__init__(console)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[figures]}"),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=1, figures="", visible=False)
        self._figures = ""

    def __enter__(self) -> Live:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        self._bar.stop()

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
    console = Output()
    if quiet:
        yield lambda done, total, text: None
    elif console.is_terminal:
        columns = TextColumn("{task.completed}/{task.total} images"), BarColumn(bar_width=20)
        with Bar(
            *columns, TextColumn("{task.description}"), console=console, transient=True
        ) as bar:
            task = bar.add_task("", total=None)
            yield lambda done, total, text: bar.update(
                task, completed=done, total=total, description=text
            )
    else:
        last = [time.monotonic()]

        def tell(done: int, total: int, text: str) -> None:
            if time.monotonic() - last[0] >= _SECONDS_BETWEEN_LINES:
                console.print(f"{done}/{total} images  {text}", markup=False, highlight=False)
                last[0] = time.monotonic()

        yield tell


@contextmanager
def shown(quiet: bool) -> Iterator[Callback]:
    """Give the callback that fits where standard output goes."""
    console = Output()
    if quiet:
        yield Silent()
    elif console.is_terminal:
        with Live(console) as live:
            yield live
    else:
        yield Lines(console)


class ManyLines(Watcher):
    """Print plain lines of many jobs: what becomes of each, and now and then how all stand."""

    def __init__(self, console: Console) -> None:
        """Print to a console."""
        self._console = console
        self._jobs: list[Job] = []
        self._begun = self._last = time.monotonic()

    @override
    def begin(self, jobs: Sequence[Job]) -> None:
        self._jobs = list(jobs)
        self._line(f"{len(jobs)} jobs")

    @override
    def change(self, job: Job, what: str) -> None:
        after = f" after {duration(job.seconds)}" if what == "done" else ""
        self._line(f"{job.title}: {what.splitlines()[0]}{after}")

    @override
    def look(self) -> None:
        if time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            running = [f"[{line}]" for job in self._jobs if (line := self._running(job))]
            self._line("  ".join([self._stand(), *running]))

    def _line(self, text: str) -> None:
        self._last = time.monotonic()
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._console.file.flush()

    def _stand(self) -> str:
        counts = Counter(job.state for job in self._jobs)
        parts = [f"{counts['done']}/{len(self._jobs)} done"]
        parts += [f"{counts[state]} {state}" for state in ("running", "failed") if counts[state]]
        return f"{', '.join(parts)}, {duration(time.monotonic() - self._begun)}"

    def _running(self, job: Job) -> str:
        """How far a running job is, "" for others."""
        if job.state != "running":
            return ""
        if not job.epochs:
            return job.title
        if (metrics := job.progress()) is None:
            return f"{job.title}: epoch 0/{job.epochs}"
        tested = metrics.test_accuracy
        return (
            f"{job.title}: epoch {metrics.epoch}/{job.epochs}, loss {metrics.loss:.4f}"
            f"{'' if tested is None else f', test {tested:.2%}'}, "
            f"{duration((job.epochs - metrics.epoch) * metrics.seconds)} left"
        )


class ManyLive(ManyLines):
    """Draw the running jobs, a line each, and how all stand; what fails stays above."""

    def __init__(self, console: Console) -> None:
        """Draw on a console, which has to be a terminal."""
        super().__init__(console)
        self._live = LiveText(console=console, transient=True, refresh_per_second=4)
        self._looked = 0.0

    def __enter__(self) -> ManyLive:
        """Show the lines."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the lines away."""
        self._live.stop()

    @override
    def change(self, job: Job, what: str) -> None:
        if what != "started":
            super().change(job, what)

    @override
    def look(self) -> None:
        if time.monotonic() - self._looked < 1:
            return
        self._looked = time.monotonic()
        lines = [line for job in self._jobs if (line := self._running(job))]
        self._live.update(Text("\n".join([*lines, self._stand()])))


@contextmanager
def many(quiet: bool) -> Iterator[ManyLines]:
    """Give the watcher of many jobs that fits where standard output goes."""
    console = Output()
    if quiet:
        yield ManyLines(Output(quiet=True))
    elif console.is_terminal:
        with ManyLive(console) as live:
            yield live
    else:
        yield ManyLines(console)


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


def columns(rows: Iterable[Sequence[str]]) -> str:
    """Lay out rows of texts in columns as wide as their widest text."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in cells)

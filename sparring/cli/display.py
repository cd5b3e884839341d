"""Training progress for people: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live as LiveText
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from sparring.cli.columns import columns
from sparring.evaluation.rates import Rate, duration
from sparring.evaluation.request import PlannedVerdict
from sparring.experiments.schedule import Job, Watcher
from sparring.runs.directory import Folder, Run
from sparring.runs.records import VerdictRecord
from sparring.training.callbacks import Callback, EpochMetrics, Silent

_SECONDS_BETWEEN_LINES = 30


class Output(Console):
    """A console that leaves to the command line what a closed standard output means."""

    @override
    def on_broken_pipe(self) -> None:
        # Called while the error is handled.
        raise


@dataclass(frozen=True)
class BarLine:
    """A bar with its texts, in one line; a narrow terminal cuts what comes last."""

    place: str
    """How far it is, in numbers."""
    share: float
    """How far it is, in [0, 1]."""
    seconds_left: float | None
    """The time it still takes; None while nobody knows."""
    rest: str = ""
    """What there is to say besides."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it; rich calls this."""
        left = "-:--" if self.seconds_left is None else duration(self.seconds_left)
        place, left = f"{self.place}  ", f"  {left} left"
        width = max(4, min(20, options.max_width - len(place + left)))
        done = min(width, int(width * self.share))
        full, empty = "#-" if options.ascii_only else "━─"
        line = Text(place, no_wrap=True, overflow="crop")
        line.append(full * done, "bar.complete").append(empty * (width - done), "bar.back")
        line.append(left)
        if (room := options.max_width - len(line.plain) - 2) > 0:
            rest = Text(self.rest)
            rest.truncate(room, overflow="crop" if options.ascii_only else "ellipsis")
            line.append("  ").append(rest)
        yield line


class Clock:
    """Tell how long something still takes, from how long it took so far."""

    def __init__(self, done: int = 0) -> None:
        """Begin now, when so much is done."""
        self._begun, self._first = time.monotonic(), done
        self._end: float | None = None

    def tell(self, done: int, total: int) -> None:
        """Take how much is done of how much."""
        if done > self._first:
            a_piece = (time.monotonic() - self._begun) / (done - self._first)
            self.tell_left(a_piece * (total - done))

    def tell_left(self, seconds: float) -> None:
        """Take from somebody who knows better how long it still takes."""
        self._end = time.monotonic() + seconds

    def left(self) -> float | None:
        """Give the seconds that are left; None while nobody knows."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())


class Printer:
    """Print lines on a console, above what is drawn there while the printer's context is entered.

    Args:
        console: where; something can be drawn on a terminal only.
        drawn: gives what is drawn, a few times a second; None for nothing.
    """

    def __init__(self, console: Console, drawn: Callable[[], RenderableType] | None = None) -> None:
        """Print and draw nothing yet."""
        self._console = console
        self._begun = self._last = time.monotonic()
        self._drawn = drawn and LiveText(
            get_renderable=drawn, console=console, transient=True, refresh_per_second=4
        )

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


def _draws(console: Console, quiet: bool) -> bool:
    """Whether lines on a console can be drawn anew."""
    return console.is_terminal and not console.is_dumb_terminal and not quiet


def figures(metrics: EpochMetrics) -> str:
    """Put one epoch's figures into words."""
    tested = "" if metrics.test_accuracy is None else f"  test {metrics.test_accuracy:6.2%}"
    return (
        f"loss {metrics.loss:.4f}  accuracy {metrics.accuracy:6.2%}{tested}  "
        f"learning rate {metrics.learning_rate:.4f}  {metrics.images_per_second:,.0f} images/s"
    )


class Lines(Printer, Silent):
    """Print plain lines: one an epoch, and at most one every half minute inside a long epoch."""

    @override
    def begin(self, network: int, networks: int, epoch: int, epochs: int, steps: int) -> None:
        self._epoch, self._epochs, self._steps = epoch, epochs, steps
        self._which = f"network {network + 1}/{networks}  " if networks > 1 else ""

    @override
    def step(self, step: int, loss: float) -> None:
        place = self._place(self._epoch + 1)
        self.now_and_then(lambda: f"{place}  step {step}/{self._steps}  loss {loss:.4f}")

    @override
    def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None:
        self._epoch = metrics.epoch
        place = self._place(metrics.epoch)
        self.message(f"{place}  {figures(metrics)}  {duration(seconds_left)} left")

    def _place(self, epoch: int) -> str:
        """Which epoch, and of which network where there are several."""
        return f"{self._which}epoch {epoch:{len(str(self._epochs))}}/{self._epochs}"


class Live(Lines):
    """Draw a bar that moves with every step, the last epoch's figures beside it."""

    def __init__(self, console: Console) -> None:
        """Draw on a console, which has to be a terminal."""
        self._figures = self._loss = self._which = ""
        self._epoch = self._epochs = self._steps = self._step = 0
        self._clock = Clock()
        super().__init__(console, self._line)

    @override
    def begin(self, network: int, networks: int, epoch: int, epochs: int, steps: int) -> None:
        super().begin(network, networks, epoch, epochs, steps)
        self._step, self._figures, self._loss = 0, "", ""
        self._clock = Clock(epoch * steps)

    @override
    def step(self, step: int, loss: float) -> None:
        self._step, self._loss = step, f"loss {loss:.4f}"
        if not self._figures:  # the loop's own estimate takes the time of tests into account
            self._clock.tell(*self._done())

    @override
    def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None:
        self._figures = figures(metrics)
        self._clock.tell_left(seconds_left)
        if metrics.epoch == self._epochs:
            super().epoch(metrics, seconds_left)  # the last one stays when the bar goes
        self._epoch, self._step = metrics.epoch, 0

    def _done(self) -> tuple[int, int]:
        """How many steps are done, of how many."""
        return self._epoch * self._steps + self._step, self._epochs * self._steps

    def _line(self) -> RenderableType:
        """Make the line that is drawn."""
        done, total = self._done()
        if not total:
            return Text("")
        epoch = min(self._epoch + 1, self._epochs)
        return BarLine(
            f"epoch {epoch:{len(str(self._epochs))}}/{self._epochs}",
            done / total,
            self._clock.left(),
            self._which + (self._figures or self._loss),
        )


def warn(texts: Iterable[str]) -> None:
    """Print warnings on standard error, where those see them who wanted to see nothing else."""
    for text in texts:
        print(f"sparring: warning: {text}", file=sys.stderr)


@contextmanager
def told() -> Iterator[Callable[[str], None]]:
    """Give a function told what is being done: a live line on a terminal, plain lines elsewhere."""
    console = Output(stderr=True)
    if _draws(console, quiet=False):
        with console.status("", spinner="line", refresh_per_second=4) as status:
            yield lambda text: status.update(Text(text))
    else:
        yield lambda text: print(text, file=sys.stderr, flush=True)


@contextmanager
def counted(quiet: bool, total: int) -> Iterator[Callable[[int, int, str], None]]:
    """Give a function told (done, total, text): a bar on a terminal, else a line now and then.

    Args:
        quiet: whether nothing is shown.
        total: how many images there are, as far as is known.
    """
    console = Output(quiet=quiet)
    with ImagesLive(console, total) if _draws(console, quiet) else Images(console) as lines:
        yield lines.tell


class Images(Printer):
    """Print now and then how many images are done."""

    def tell(self, done: int, total: int, text: str) -> None:
        """Take what there is to say; with a total of 0 it is not about images."""
        if total:
            self.now_and_then(lambda: f"{done}/{total} images  {text}")
        else:
            self.message(text)


class ImagesLive(Images):
    """Draw a bar of how many images are done."""

    def __init__(self, console: Console, total: int) -> None:
        """Draw on a console, which has to be a terminal, that none is done yet."""
        self._told = 0, total, ""
        self._clock = Clock()
        super().__init__(console, self._line)

    @override
    def tell(self, done: int, total: int, text: str) -> None:
        if not total:
            self.message(text)
            return
        self._clock.tell(done, total)
        self._told = done, total, text

    def _line(self) -> RenderableType:
        """Make the line that is drawn."""
        done, total, text = self._told
        return BarLine(f"{done}/{total} images", done / total, self._clock.left(), text)


@contextmanager
def shown(quiet: bool) -> Iterator[Callback]:
    """Give the callback that fits where standard output goes."""
    console = Output(quiet=quiet)
    with (Live if _draws(console, quiet) else Lines)(console) as lines:
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
            lambda: "  ".join([self._stand(), *(f"[{line.fitted()}]" for line in self._running())])
        )

    def _stand(self) -> str:
        counts = Counter(job.state for job in self._jobs)
        parts = [f"{counts['done']}/{len(self._jobs)} done"]
        parts += [f"{counts[state]} {state}" for state in ("running", "failed") if counts[state]]
        return f"{', '.join(parts)}, {duration(time.monotonic() - self._begun)}"

    def _running(self) -> list[JobLine]:
        """How far each running job is."""
        return [JobLine.of(job) for job in self._jobs if job.state == "running"]


class JobLine(NamedTuple):
    """How far a running job is: the texts that its line is made of, in their order."""

    title: str
    done: str = ""
    figures: str = ""
    left: str = ""

    @classmethod
    def of(cls, job: Job) -> Self:
        """Read it from the job's files."""
        if (standing := job.standing()) is None:
            return cls(job.title)
        left = standing.seconds_left
        return cls(
            job.title,
            f": {standing.done}",
            f", {standing.figures}" if standing.figures else "",
            "" if left is None else f", {duration(left)} left",
        )

    def fitted(self, width: int = sys.maxsize) -> str:
        """Write it in one line; in a narrow one without the figures, and with less of the title."""
        whole = "".join(self)
        if len(whole) <= width:
            return whole
        seen = self.done + self.left
        title = Text(self.title)
        title.truncate(max(1, width - len(seen)), overflow="ellipsis")
        return title.plain + seen


class ManyLive(ManyLines):
    """Draw the running jobs, a line each, and how all stand; what fails stays above."""

    def __init__(self, console: Console) -> None:
        """Draw on a console, which has to be a terminal."""
        self._looked = 0.0
        self._jobs: list[Job] = []
        self._seen: list[JobLine] = []
        super().__init__(console, self._lines)

    @override
    def change(self, job: Job, what: str) -> None:
        if what != "started":
            super().change(job, what)

    @override
    def look(self) -> None:
        if time.monotonic() - self._looked >= 1:  # it reads files
            self._looked, self._seen = time.monotonic(), self._running()

    def _lines(self) -> RenderableType:
        """Make the lines that are drawn."""
        lines = [line.fitted(self._console.width) for line in self._seen]
        return Text("\n".join([*lines, self._stand()]), no_wrap=True, overflow="ellipsis")


@contextmanager
def many(quiet: bool) -> Iterator[ManyLines]:
    """Give the watcher of many jobs that fits where standard output goes."""
    console = Output(quiet=quiet)
    with (ManyLive if _draws(console, quiet) else ManyLines)(console) as lines:
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


def rows_of_verdicts(
    verdicts: Sequence[PlannedVerdict], messages: Mapping[Path, str]
) -> list[Sequence[str]]:
    """Tabulate what evaluations came to, under a line of titles.

    Args:
        verdicts: those that were planned.
        messages: why there is no verdict, by its folder.
    """
    titles = ("defense", "attack", "eps", "clean accuracy", "attack success", "warnings", "file")
    rows: list[Sequence[str]] = [titles]
    for planned in verdicts:
        file = None if planned.error else VerdictRecord.find(planned.folder)
        record = None if file is None else VerdictRecord.read(file)
        if file is None or record is None or not record.finished or messages.get(planned.folder):
            why = planned.error or messages.get(planned.folder, "") or "not finished"
            rows.append((planned.title, "-", "-", "-", "-", "-", *why.splitlines()[:1]))
            continue
        threat, success = record.threat, record.results.success_rate
        rows.append(
            (
                str(Folder(planned.run).shown),
                record.label,
                f"{threat.norm} {threat.eps:.4g}",
                f"{100 * record.results.clean_accuracy.value:.1f} %",
                str(Rate(**success.model_dump())),
                ", ".join(warning.name for warning in record.warnings) or "none",
                str(Folder(planned.folder).shown / file.name),
            )
        )
    return rows


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

"""Training progress for people: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from sparring.train_loop import EpochMetrics, Progress, Silent

_SECONDS_BETWEEN_LINES = 30


def duration(seconds: float) -> str:
    """Seconds as 0:07, 1:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def epoch_line(metrics: EpochMetrics, networks: int, epochs: int, seconds_left: float) -> str:
    """One epoch as a line of text."""
    network = f"network {metrics.network + 1}/{networks}  " if networks > 1 else ""
    tested = "" if metrics.test_accuracy is None else f"  test {metrics.test_accuracy:6.2%}"
    width = len(str(epochs))
    return (
        f"{network}epoch {metrics.epoch:{width}}/{epochs}  loss {metrics.loss:.4f}  "
        f"accuracy {metrics.accuracy:6.2%}{tested}  "
        f"learning rate {metrics.learning_rate:.4f}  "
        f"{metrics.images_per_second:,.0f} images/s  {duration(seconds_left)} left"
    )


class Lines(Silent):
    """Plain lines: one an epoch, and one at most every half minute inside a long epoch."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._networks = self._epochs = self._steps = 0
        self._epoch = 0
        self._last = time.monotonic()

    def begin(self, network: int, networks: int, epoch: int, epochs: int, steps: int) -> None:
        self._networks, self._epoch, self._epochs, self._steps = networks, epoch, epochs, steps

    def step(self, step: int, loss: float) -> None:
        if time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self._print(
                f"epoch {self._epoch + 1}/{self._epochs}  step {step}/{self._steps}  "
                f"loss {loss:.4f}"
            )

    def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None:
        self._epoch = metrics.epoch
        self._print(epoch_line(metrics, self._networks, self._epochs, seconds_left))

    def message(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        self._last = time.monotonic()
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._console.file.flush()


class Live(Lines):
    """A bar that moves with every step; the last epoch stands beside it."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[text]}"),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=1, text="", visible=False)
        self._text = ""

    def __enter__(self) -> Live:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, network: int, networks: int, epoch: int, epochs: int, steps: int) -> None:
        super().begin(network, networks, epoch, epochs, steps)
        self._bar.update(self._task, total=epochs * steps, completed=epoch * steps, visible=True)

    def step(self, step: int, loss: float) -> None:
        done = self._epoch * self._steps + step
        self._bar.update(
            self._task,
            completed=done,
            description=f"epoch {self._epoch + 1}/{self._epochs}",
            text=self._text or f"loss {loss:.4f}",
        )

    def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None:
        self._epoch = metrics.epoch
        self._text = epoch_line(metrics, self._networks, self._epochs, seconds_left)
        self._text = self._text.split("  ", 1)[1] if self._networks == 1 else self._text
        if metrics.epoch == self._epochs:
            self._print(epoch_line(metrics, self._networks, self._epochs, seconds_left))


@contextmanager
def shown(quiet: bool) -> Iterator[Progress]:
    """The Progress that fits where standard output goes."""
    console = Console()
    if quiet:
        yield Silent()
    elif console.is_terminal:
        with Live(console) as live:
            yield live
    else:
        yield Lines(console)

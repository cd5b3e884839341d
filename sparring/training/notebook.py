"""Progress in a Jupyter notebook: a bar and a line of the cell's output, written anew."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from html import escape
from importlib import import_module
from typing import Any

from typing_extensions import override

from sparring.training.callbacks import Callback, EpochMetrics, Silent

_SECONDS_BETWEEN_UPDATES = 0.5

# Figures of one width, so that the text does not tremble.
_BAR = (
    '<div style="font-variant-numeric:tabular-nums"><progress value="{share:.4f}" '
    'style="width:12em;max-width:40%;vertical-align:middle" aria-label="done"></progress> '
    "{text}</div>"
)


def callback() -> Callback:
    """Give what shows a training's progress in a notebook; elsewhere, what tells nobody."""
    display = _display()
    return Silent() if display is None else Notebook(display)


def counter() -> Callable[[int, int, str], None]:
    """Give a function told (done, total, text) that shows it in a notebook; elsewhere, nowhere."""
    display = _display()
    if display is None:
        return lambda done, total, text: None
    line = Line(display)

    def count(done: int, total: int, text: str) -> None:
        share = done / total if total else None
        line.show(f"{done}/{total} images  {text}" if total else text, share, done == total)

    return count


def _display() -> Any:
    """IPython's function of that name in a notebook's kernel, else None."""
    ipython = sys.modules.get("IPython")
    if ipython is None or not hasattr(ipython.get_ipython(), "kernel"):
        return None
    return import_module("IPython.display").display


class Line:
    """One line of output with a bar, written anew twice a second at most.

    The bar is the browser's own, so that it fits a light and a dark notebook.

    Args:
        display: IPython's function of that name.
    """

    def __init__(self, display: Any) -> None:
        """Show nothing yet."""
        self._display, self._handle, self._last = display, None, 0.0

    def show(self, text: str, share: float | None, at_once: bool) -> None:
        """Show a text in place of the last one, unless it came too early and need not be seen.

        Args:
            text: a line.
            share: how much is done, in [0, 1]; None where nobody knows, and there is no bar.
            at_once: whether it has to be seen.
        """
        if not at_once and time.monotonic() - self._last < _SECONDS_BETWEEN_UPDATES:
            return
        self._last = time.monotonic()
        bundle = {"text/plain": text}
        if share is not None:
            bundle["text/html"] = _BAR.format(share=share, text=escape(text))
        if self._handle is None:
            self._handle = self._display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


class Notebook(Silent):
    """Show a bar, the epoch, its figures and the time left, a line for each network.

    Args:
        display: IPython's function of that name.
    """

    def __init__(self, display: Any) -> None:
        """Show nothing yet."""
        self._display = display

    @override
    def begin(self, network: int, networks: int, epoch: int, epochs: int, steps: int) -> None:
        self._which = f"network {network + 1}/{networks}  " if networks > 1 else ""
        self._epoch, self._epochs, self._steps = epoch, epochs, steps
        self._line, self._left = Line(self._display), ""

    @override
    def step(self, step: int, loss: float) -> None:
        place = f"{self._which}epoch {self._epoch + 1}/{self._epochs}"
        text = f"{place}  step {step}/{self._steps}  loss {loss:.4f}{self._left}"
        self._line.show(text, self._share(step), at_once=False)

    @override
    def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None:
        self._epoch, self._left = metrics.epoch, f"  {seconds_left:,.0f} s left"
        tested = "" if metrics.test_accuracy is None else f"  test {metrics.test_accuracy:.2%}"
        self._line.show(
            f"{self._which}epoch {metrics.epoch}/{self._epochs}  loss {metrics.loss:.4f}  "
            f"accuracy {metrics.accuracy:.2%}{tested}{self._left}",
            self._share(),
            at_once=metrics.epoch == self._epochs,
        )

    def _share(self, step: int = 0) -> float:
        """How much of the network's training is done: whole epochs, and steps of the next."""
        return min(1.0, (self._epoch + step / max(1, self._steps)) / max(1, self._epochs))

    @override
    def message(self, text: str) -> None:
        self._display({"text/plain": text}, raw=True)

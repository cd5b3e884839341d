"""What terminals of any width, and what is no terminal, show of progress."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from sparring.cli import display
from sparring.experiments.jobs import TrainingJob
from sparring.experiments.request import TrainingRequest
from sparring.training.callbacks import EpochMetrics

WIDTHS = (40, 80, 100, 200)


def terminal(width: int, **options: Any) -> Console:
    return Console(
        force_terminal=True, width=width, record=True, file=io.StringIO(), color_system=None,
        **options,
    )  # fmt: skip


def last_line(printer: display.Printer, console: Console) -> str:
    """The line that is drawn now."""
    console.export_text()  # which forgets what was drawn before
    assert printer._drawn is not None
    printer._drawn.refresh()
    return console.export_text().splitlines()[-1].rstrip()


@pytest.mark.parametrize("width", WIDTHS)
def test_bar_epoch_and_time_left_are_always_seen(width: int) -> None:
    console = terminal(width)
    with display.Live(console) as live:
        live.begin(9, 12, 0, 100, 10)
        assert last_line(live, console).startswith("epoch   1/100  ───")
        assert "-:-- left" in last_line(live, console)
        live.step(5, 0.75)
        assert re.search(r"\d:\d\d left", last_line(live, console))
        live.epoch(EpochMetrics(9, 50, 0.25, 0.5, 0.875, 0.03, 1234.5, 1.0), 3725)
        line = last_line(live, console)
        assert len(line) <= width
        assert line.startswith("epoch  51/100  ━━━━")
        assert "──  1:02:05 left" in line
        assert ("network 10/12" in line) == (width > 40)
        assert ("images/s" in line) == (width > 100)


@pytest.mark.parametrize("width", WIDTHS)
def test_images_are_counted_from_the_beginning(width: int) -> None:
    console = terminal(width)
    with display.ImagesLive(console, 60) as live:
        live.tell(0, 0, "Going on.")
        assert console.export_text(clear=False).splitlines()[-2].startswith("Going on.")
        line = last_line(live, console)
        assert line.startswith("0/60 images  ────")
        assert line.endswith("  -:-- left")
        live.tell(30, 60, "success 42.0 %")
        line = last_line(live, console)
        assert line.startswith("30/60 images  ━━━")
        assert "──  0:00 left" in line
        assert line.endswith("success 42.0 %") == (width > 40)
        assert len(line) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_jobs_show_epoch_and_time_left(width: int) -> None:
    line = display.JobLine(
        "pgdtrain on fashion-mnist, seed 3", ": epoch 2/8", ", loss", ", 1:00 left"
    )
    text = line.fitted(width)
    assert len(text) <= width
    assert text.startswith("pgdtrain")
    assert "epoch 2/8" in text
    assert text.endswith("1:00 left")
    assert ("loss" in text) == (width > 40)


@pytest.mark.parametrize("settings", [{"TERM": "dumb"}, {}], ids=str)
def test_elsewhere_than_on_a_terminal_lines_are_printed(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal would
    with display.counted(quiet=False, total=60) as tell:
        tell(0, 0, "Going on.")
        tell(30, 60, "success 42.0 %")  # too early for a line
    with display.shown(quiet=False) as callback:
        callback.begin(0, 1, 0, 2, 10)
        callback.epoch(EpochMetrics(0, 1, 0.25, 0.5, None, 0.03, 1234.5, 1.0), 5)
    assert capsys.readouterr().out.splitlines() == [
        "Going on.",
        "epoch 1/2  loss 0.2500  accuracy 50.00%  learning rate 0.0300  1,234 images/s  0:05 left",
    ]
    with display.counted(quiet=True, total=60) as tell:
        tell(0, 60, "")
    assert capsys.readouterr().out == ""


def test_a_terminal_that_has_ascii_only_and_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    console = Console(force_terminal=True, width=40, file=output)
    with display.ImagesLive(console, 60) as live:
        live.tell(30, 60, "success 42.0 % of a long line")
        assert live._drawn is not None
        live._drawn.refresh()
    assert b"30/60 images  #######--------  0:00 left" in output.buffer.getvalue()


def test_many_jobs_are_drawn_in_the_width_there_is(tmp_path: Any) -> None:
    request = TrainingRequest(defense="baseline", out=tmp_path)
    title, log = "baseline on a data set of a long name", tmp_path / "defense.log"
    job = TrainingJob(title, tmp_path, request, log, 1.0, state="running", epochs=8)
    console = terminal(40)
    with display.ManyLive(console) as live:
        live.begin([job])
        live.look()
        console.export_text()
        live._drawn.refresh()  # type: ignore[union-attr]
        lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert "baseline on a data set of a …: epoch 0/8" in "".join(lines)

"""The pictures of a report: how losses and accuracies went, and what the strongest attacks left."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from sparring import plots
from sparring.reports.groups import Curve, Group, TrainedRun
from sparring.reports.tables import strength

_MOST_LINES = 200  # in a picture of curves; more can neither be told apart nor drawn in seconds
_MOST_NAMES = 10  # in a picture of curves, which has as many colors
_LARGEST_EXAMPLES = 500_000  # bytes of a defense's; the page is to stay one that can be sent around


class Picture(NamedTuple):
    """A picture, or a remark in the place of one."""

    caption: str
    svg: bytes = b""
    """Empty where the caption is a remark that stands alone."""
    description: str = ""
    """What it shows, for those who cannot see it."""
    wide: bool = False
    """Whether it keeps its size where it is wider than the page."""

    @property
    def data(self) -> str:
        """The picture in base64: as an image in a page it can neither run nor load anything."""
        return b64encode(self.svg).decode("ascii")


def pictures(group: Group) -> list[Picture]:
    """Draw what there is to see of a group: curves, and as many examples of attacks."""
    drawn = list(_curves(group))
    return drawn + list(_examples(group, len(drawn)))


def _curves(group: Group) -> Iterator[Picture]:
    """Loss and test accuracy by epoch, of all networks and seeds."""
    counted = group.counted
    runs = [run for run in group.runs if run.curves and (not run.finished or run in counted)]
    if not runs:
        text = f"serves the weights of {group.lender}" if group.lender else "has no epochs to show"
        yield Picture(f"{group.defense} {text}.")
        return
    networks = max(len(run.curves) for run in runs)
    loss = _lines(runs, networks, lambda curve: curve.loss)
    accuracy = _lines(runs, networks, lambda curve: curve.test_accuracy)
    remarks = [f"{networks} networks a seed"] if len(runs) > 1 and networks > 1 else []
    if (total := sum(len(run.curves) for run in runs)) > _MOST_LINES:
        remarks.append(f"{_MOST_LINES} of {total:,} networks are drawn")
    if max(len(curve.epoch) for run in runs for curve in run.curves) == 1:
        remarks.append("one epoch: a point, no curve")
    measured = max(len(x) for alike in accuracy.values() for x, _ in alike)
    if measured == 1:
        remarks.append("test accuracy was measured at the end alone")
    title = f"{group.defense}: loss, mean over an epoch's training images"
    svg = plots.curves(loss, title, "epoch", "loss", percent=False)
    yield Picture("; ".join(remarks), svg.encode(), f"{title}, by epoch")
    if measured > 1:
        title = f"{group.defense}: test accuracy of the averaged weights"
        svg = plots.curves(accuracy, title, "epoch", "accuracy")
        yield Picture("", svg.encode(), f"{title}, by epoch")


def _lines(
    runs: Sequence[TrainedRun], networks: int, values: Callable[[Curve], Sequence[float | None]]
) -> Mapping[str, list[plots.Line]]:
    """The curves of a figure by seed, or by network where there is one seed."""
    named: dict[str, list[plots.Line]] = {}
    all_curves = ((run, curve) for run in runs for curve in run.curves)
    for run, curve in islice(all_curves, _MOST_LINES):
        if len(runs) > 1:
            name = f"seed {run.seed}" if len(runs) <= _MOST_NAMES else f"{len(runs)} seeds"
            name += "" if run.finished else ", unfinished"
        elif 1 < networks <= _MOST_NAMES:
            name = f"network {curve.network + 1}"
        else:
            name = f"{networks} networks" if networks > 1 else f"seed {run.seed}"
        named.setdefault(name, []).append(curve.line(values(curve)))
    return named


def _examples(group: Group, most: int) -> Iterator[Picture]:
    """The pictures that the strongest attacks left, of the first seed that has one."""
    shown, room = 0, _LARGEST_EXAMPLES
    for attacked in sorted(group.attacks, key=strength, reverse=True):
        for verdict in attacked.verdicts:
            file = verdict.folder / "examples.svg"
            if (
                shown == most
                or not verdict.record.finished
                or (svg := _head(file, room + 1)) is None
            ):
                continue
            shown, room = shown + 1, max(0, room - len(svg))
            text = f"{verdict.name} within {verdict.threat}, seed {verdict.seed}"
            if room:
                yield Picture(text, svg, f"Adversarial examples: {text}", wide=True)
            else:
                yield Picture(f"{verdict.where}/examples.svg is too large for this page.")
            break


def _head(file: Path, size: int) -> bytes | None:
    """The first bytes of a file; None where there is none that can be read."""
    try:
        if file.is_file():
            with file.open("rb") as opened:
                return opened.read(size)
    except OSError:
        pass  # the verdict itself is shown
    return None

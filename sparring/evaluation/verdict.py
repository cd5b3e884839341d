"""Verdict: what an attack came to, image by image, as text, as JSON, and in files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparring import plots
from sparring.data import Dataset
from sparring.errors import RunError, printable
from sparring.evaluation.rates import Rate, duration
from sparring.runs.files import read_tensors, write_atomically, write_tensors
from sparring.runs.records import (
    LONGEST_REASON,
    Evaluated,
    EvaluationWarning,
    ImageRecord,
    PortRecord,
    RateRecord,
    RatesRecord,
    VerdictRecord,
)

if TYPE_CHECKING:
    from sparring.evaluation.trace import Trace

BROKEN = "broken"
"""The reason of an image that is broken in every draw."""

WITHOUT_CHECKS = ("changed-input", "changed-defense", "short-of-memory", "time-limit")
"""The warnings that come while the attack runs, and not of the checks afterwards."""

_KINDS: dict[Any, Any] = {int: np.int64, float: np.float64, bool: np.bool_, str: object}
ROW = np.dtype([(name, _KINDS[of.annotation]) for name, of in ImageRecord.model_fields.items()])
"""One image of a verdict; see `Verdict.rows`."""

_IMAGES = "adversarial.safetensors"


class _Column:
    """A column of a verdict's rows, as an attribute of its name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, verdict: Verdict, owner: type) -> np.ndarray:
        return verdict.rows[self.name]


@dataclass(repr=False)
class Verdict:
    """What an attack came to.

    For a defense that draws nothing, shares of draws are 0 or 1.

    Attributes:
        about: what was evaluated.
        rows: a structured array [N], one row an image, whose columns are attributes too.
        adversarial: float32 [N, H, W, C], the adversarial images; the image itself where none
            came.
        warnings: what to distrust; docs/warnings.md explains each.
        seconds: how long it took.
        forward: forward passes that the attack made, see `VerdictRecord`.
        backward: its backward passes.
        threads: how many of a CPU it was computed with; None where nobody can say.
        folder: where it is written, if anywhere.
        name: the attack's short name, and what is unusual about the evaluation.
        checked: whether it was looked for signs that the result should be distrusted.
        originals: uint8 [N, H, W, C], the images themselves.
        margin: float64 [N], by how much the best other logit exceeds the label's, of the
            adversarial images, in the mean over some draws; NaN where that is not known.
        trace: what the first of the attacked images went through, if it was asked for.
        asked, drawn: as in the record, `VerdictRecord`.
        eight_bit: float64 [N], shares of draws in which the adversarial images are broken after
            rounding to what a PNG holds; None where nobody looked.
        port: how far the attack's file has written the defense anew, if it was looked at.
    """

    about: Evaluated
    rows: np.ndarray
    adversarial: np.ndarray
    warnings: list[EvaluationWarning] = field(default_factory=list)
    seconds: float = 0.0
    forward: int = 0
    backward: int = 0
    threads: int | None = None
    folder: Path | None = None
    name: str = ""
    checked: bool = False
    originals: np.ndarray | None = None
    margin: np.ndarray | None = None
    trace: Trace | None = None
    asked: list[int] = field(default_factory=list)
    drawn: bool = False
    eight_bit: np.ndarray | None = None
    port: PortRecord | None = None

    index = _Column()
    """Indices [N] of the test images."""
    label = _Column()
    """Labels [N]."""
    clean = _Column()
    """Shares of draws [N] in which the images themselves were right and not rejected."""
    rejected = _Column()
    """Shares of draws [N] in which the images themselves were rejected."""
    attacked = _Column()
    """Which images were attacked, bool [N]: those whose `clean` is above a half."""
    success = _Column()
    """Shares of draws [N] in which the adversarial images are broken."""
    answer = _Column()
    """Most frequent labels [N] of the adversarial images, -1 where one was not shown."""
    distance = _Column()
    """Distances float64 [N] of the adversarial images, also of those too far away; NaN where no
    image of finite values in [0, 1] came."""
    reason = _Column()
    """What came of each image in words, objects [N]; "" while it is to be attacked."""

    @property
    def reasons(self) -> list[str]:
        """What came of each image, in words."""
        return self.reason.tolist()

    @property
    def file(self) -> Path | None:
        """verdict.json, if it is written anywhere."""
        return None if self.folder is None else VerdictRecord.find(self.folder)

    @property
    def clean_accuracy(self) -> Rate:
        """Of all images: answered correctly and not rejected, unattacked."""
        return Rate.of(self.clean)

    @property
    def clean_rejected(self) -> Rate:
        """Of all images: rejected, unattacked."""
        return Rate.of(self.rejected)

    @property
    def success_rate(self) -> Rate:
        """Of the images attacked, which are those answered correctly: broken."""
        return Rate.of(self.success[self.attacked])

    @property
    def success_in_some_draw(self) -> Rate:
        """Of the images attacked: broken in one draw or more, as who may ask again finds."""
        return Rate.of(self.success[self.attacked] > 0)

    @property
    def eight_bit_rate(self) -> Rate | None:
        """Of the images attacked: broken after rounding to what a PNG holds; None if not asked."""
        return None if self.eight_bit is None else Rate.of(self.eight_bit[self.attacked])

    @property
    def robust_accuracy(self) -> Rate:
        """Of all images: answered correctly, and not broken by this attack."""
        return Rate.of(np.where(self.attacked, 1 - self.success, 0.0))

    @property
    def bisected(self) -> bool:
        """Whether distances are each image's smallest, as far as the attack finds it."""
        return self.about.attack.startswith("Smallest(")

    def success_within(self, eps: float) -> float:
        """Give the share of the attacked images whose adversarial images lie within a radius.

        For a verdict that is `bisected` this is the attack's success at that radius; in one of any
        other attack images lie farther than they need to.

        Args:
            eps: the radius, in the norm of the threat model.

        Returns:
            The share, those alone counted that are broken in more than half of the draws.
        """
        if not self.attacked.any():
            return 0.0
        near = (self.success > 0.5) & (self.distance <= eps * (1 + 1e-9))
        return float(np.mean(near[self.attacked]))

    @property
    def cost(self) -> str:
        """What the attack cost for each image attacked, in words; "" where nobody counted."""
        judged = int((self.attacked & (self.reason != "")).sum())
        if not (self.forward and judged):
            return ""
        forward, backward = (f"{count / judged:.1f}" for count in (self.forward, self.backward))
        return f"{forward} forward and {backward} backward passes an image"

    @property
    def failed(self) -> list[int]:
        """Indices of the attacked images that are not broken in more than half of the draws."""
        return self.index[self.attacked & (self.success <= 0.5)].tolist()

    def __repr__(self) -> str:
        """Give what was evaluated and the rate, in one line."""
        return f"<Verdict: {self._title}: attack success {self.success_rate}>"

    @property
    def _title(self) -> str:
        about, threat = self.about, self.about.threat
        other = " (other data)" if about.dataset.get("other_data") else ""
        return (
            f"{about.defense} on {about.dataset['name']}{other}, {about.attack}, "
            f"{threat.norm} eps {threat.eps:.6g}"
        )

    def __str__(self) -> str:
        """Give the rates, why images were not broken, and the warnings."""
        threat = self.about.threat
        lines = [
            self._title,
            f"clean accuracy   {self.clean_accuracy}",
            f"rejected         {self.clean_rejected}",
            f"attack success   {self.success_rate}",
            f"robust accuracy  {self.robust_accuracy}",
        ]
        if self.bisected:
            radii = [threat.eps * part / 8 for part in range(1, 9)]
            shares = [f"{100 * self.success_within(eps):.0f} % at {eps:.3g}" for eps in radii]
            lines.append(f"success by eps   {', '.join(shares)}")
        if (rounded := self.eight_bit_rate) is not None:
            lines.insert(4, f"as 8-bit PNG     {rounded}")
        if self.about.draws > 1:
            lines.insert(4, f"in some draw     {self.success_in_some_draw}")
        if self.cost:
            lines.append(f"cost             {self.cost}, {duration(self.seconds)} in all")
        reasons = Counter(self.reason[self.attacked])
        del reasons[BROKEN]
        lines += [f"  {count:4d}  {reason}" for reason, count in reasons.most_common(8)]
        lines += [f"{name:<16} {said}" for name, said in port_words(self.port)]
        if self.drawn:
            lines.append(f"seed, drawn      {self.about.seed}")
        lines.append(f"isolation        {self.about.isolation}")
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Show rates, warnings, images and, of a trace, curves in a notebook."""
        from sparring.evaluation import page  # which not every verdict needs

        return page.cell(self)

    def warn(self, warning: EvaluationWarning) -> None:
        """Add a warning, once."""
        if warning not in self.warnings:
            self.warnings.append(warning)

    def record(self, finished: bool = True, sha256: str | None = None) -> VerdictRecord:
        """Give what verdict.json holds.

        Args:
            finished: whether there is nothing left to do.
            sha256: the hash of the images' file.
        """
        results = {
            name: RateRecord(**getattr(self, name)._asdict()) for name in RatesRecord.model_fields
        }
        rounded = self.eight_bit_rate
        rows, names = self.rows.copy(), ROW.names or ()
        for name in ("clean", "rejected", "success"):
            rows[name] = rows[name].round(6)
        return VerdictRecord(
            **self.about.model_dump(exclude={"threat"}),
            threat=self.about.threat,
            results=RatesRecord(**results),
            warnings=self.warnings,
            seconds=round(self.seconds, 3),
            forward=self.forward,
            backward=self.backward,
            images=[ImageRecord(**dict(zip(names, row, strict=True))) for row in rows.tolist()],
            finished=finished,
            checked=self.checked,
            label=self.name,
            threads=self.threads,
            adversarial_sha256=sha256,
            asked=self.asked,
            drawn=self.drawn,
            eight_bit=None if rounded is None else RateRecord(**rounded._asdict()),
            port=self.port,
        )

    def as_json(self) -> dict[str, Any]:
        """Give everything but the adversarial images as plain JSON values."""
        about_the_file = {"finished", "checked", "label", "threads", "adversarial_sha256", "asked"}
        return self.record().model_dump(mode="json", exclude=about_the_file)

    def save(self, finished: bool) -> None:
        """Write verdict.json and adversarial.safetensors into the verdict's folder, if it has one.

        Args:
            finished: whether there is nothing left to do.
        """
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        # The images first, so that a verdict never speaks of missing ones.
        arrays = {"adversarial": self.adversarial, "index": self.index, "label": self.label}
        about = {"about": self.about.model_dump(mode="json")}
        sha256 = write_tensors(self.folder / _IMAGES, arrays, about)
        self.record(finished, sha256).write(self.folder)

    def resume(self, before: VerdictRecord, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        """Go on from an earlier evaluation of the same, or of a chunk of it.

        Time, passes, threads and warnings of the attack are taken over.

        Args:
            before: its verdict.
            folder: where that lies.

        Returns:
            Its rows and its adversarial images, by which nothing is changed yet.

        Raises:
            RunError: the images are damaged, or of another shape.
        """
        file = folder / _IMAGES
        way_out = "Remove the folder, or evaluate anew with --force"
        try:
            arrays, _, sha256 = read_tensors(file)
        except RunError as error:
            raise RunError(f"{error}. {way_out}.") from error
        # Those of an unfinished one may be newer than its verdict, after a kill.
        if before.finished and before.adversarial_sha256 not in (None, sha256):
            raise RunError(f"{file}: expected the images of the verdict beside it. {way_out}.")
        images = arrays.get("adversarial", np.empty(0))
        shape, dtype = self.adversarial.shape, self.adversarial.dtype
        if (images.shape, images.dtype) != (shape, dtype):
            raise RunError(
                f"{file}: expected images {dtype} {list(shape)}, "
                f"found {images.dtype} {list(images.shape)}. {way_out}."
            )
        self.seconds += before.seconds
        self.forward += before.forward
        self.backward += before.backward
        self.threads = before.threads
        for warning in before.warnings:  # those of the checks are found anew with them
            if before.finished or warning.name in WITHOUT_CHECKS:
                self.warn(warning)
        rows = np.array([tuple(dict(image).values()) for image in before.images], ROW)
        rows["reason"] = [printable(text[:LONGEST_REASON]) for text in rows["reason"]]
        return rows, images

    def write_picture(self, dataset: Dataset) -> None:
        """Write examples.svg into the verdict's folder, if it has one and anything was attacked."""
        if self.folder is not None and self.attacked.any():
            write_atomically(self.folder / "examples.svg", self.picture(dataset).encode())

    def picture(self, dataset: Dataset, columns: int = 8) -> str:
        """Draw the first broken images, or the first attacked ones, with what was made of them.

        Args:
            dataset: the data set whose test images were attacked.
            columns: how many images, at most.

        Returns:
            An SVG.
        """
        rows = np.flatnonzero(self.attacked & (self.success > 0.5))[:columns]
        if not len(rows):
            rows = np.flatnonzero(self.attacked)[:columns]
        names, threat = dataset.class_names, self.about.threat
        return plots.examples(
            images_of(dataset, self.index[rows]),
            self.adversarial[rows],
            [names[label] for label in self.label[rows]],
            [names[answer] if answer >= 0 else "invalid" for answer in self.answer[rows]],
            f"{self.about.defense} under {threat.norm} eps {threat.eps:.4g}: "
            f"{100 * self.success_rate.value:.0f} % broken",
        )


def port_words(port: PortRecord | None) -> Iterator[tuple[str, str]]:
    """Tell how far a port agrees with the defense.

    Args:
        port: what was found of it; None where there is none.

    Yields:
        For each of its functions a name, as "port, labels", and what was found, in words.
    """
    if port is None:
        return
    for name, found in (("labels", port.labels), ("gradient", port.gradient)):
        if found is not None:
            agree = f"{found.agree} of {found.of} agree"
            said = found.problem or (agree if found.of else "nothing to compare it with")
            yield f"port, {name}", said


def images_of(dataset: Dataset, index: np.ndarray) -> np.ndarray:
    """Give test images of a data set as float32 [M, H, W, C] in [0, 1].

    Args:
        dataset: the data set.
        index: which ones, int [M].
    """
    return dataset.x_test[index].astype(np.float32) / 255

"""Verdict: what an attack came to, image by image, as text, as JSON, and in files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sparring import plots
from sparring.data import Dataset
from sparring.errors import RunError
from sparring.evaluation.rates import Rate
from sparring.runs.files import read_tensors, write_atomically, write_tensors
from sparring.runs.records import (
    Evaluated,
    EvaluationWarning,
    ImageRecord,
    RateRecord,
    RatesRecord,
    VerdictRecord,
)

BROKEN = "broken"
"""The reason of an image that is broken in every draw."""

_KINDS: dict[Any, Any] = {int: np.int64, float: np.float64, bool: np.bool_, str: object}
ROW = np.dtype([(name, _KINDS[of.annotation]) for name, of in ImageRecord.model_fields.items()])
"""One image of a verdict; see `Verdict.rows`."""

_IMAGES = "adversarial.safetensors"


@dataclass
class Verdict:
    """What an attack came to.

    Attributes:
        about: what was evaluated.
        rows: a structured array [N], one row an image. `index` is the test image's, `label` its
            label; `clean` the share of draws in which the image itself was answered correctly and
            not rejected, `rejected` the share in which it was rejected; `attacked` whether it was,
            which is where `clean` is above a half. `success` is the share of draws in which the
            adversarial image is broken; `answer` its most frequent label, -1 where it was not
            shown; `distance` float64, its distance, kept where it is too far, NaN where no image
            of finite values in [0, 1] came; `reason` in words what came of it, "" while it is to
            be attacked. For a defense that draws nothing shares are 0 or 1.
        adversarial: float32 [N, H, W, C], the adversarial images; the image itself where none
            came.
        warnings: what to distrust; docs/warnings.md explains each.
        seconds: how long it took.
        folder: where it is written, if anywhere.
    """

    about: Evaluated
    rows: np.ndarray
    adversarial: np.ndarray
    warnings: list[EvaluationWarning] = field(default_factory=list)
    seconds: float = 0.0
    folder: Path | None = None

    @property
    def index(self) -> np.ndarray:
        """Indices [N] of the test images."""
        return self.rows["index"]

    @property
    def label(self) -> np.ndarray:
        """Labels [N]."""
        return self.rows["label"]

    @property
    def clean(self) -> np.ndarray:
        """Shares of draws [N] in which the images themselves were right and not rejected."""
        return self.rows["clean"]

    @property
    def rejected(self) -> np.ndarray:
        """Shares of draws [N] in which the images themselves were rejected."""
        return self.rows["rejected"]

    @property
    def attacked(self) -> np.ndarray:
        """Which images were attacked, bool [N]."""
        return self.rows["attacked"]

    @property
    def success(self) -> np.ndarray:
        """Shares of draws [N] in which the adversarial images are broken."""
        return self.rows["success"]

    @property
    def answer(self) -> np.ndarray:
        """Most frequent labels [N] of the adversarial images, -1 where one was not shown."""
        return self.rows["answer"]

    @property
    def distance(self) -> np.ndarray:
        """Distances [N] of the adversarial images, NaN where what came is no image."""
        return self.rows["distance"]

    @property
    def reasons(self) -> list[str]:
        """What came of each image, in words."""
        return self.rows["reason"].tolist()

    @property
    def left(self) -> np.ndarray:
        """The rows, int [M], that are to be attacked yet."""
        return np.flatnonzero(self.attacked & (self.rows["reason"] == ""))

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
    def robust_accuracy(self) -> Rate:
        """Of all images: answered correctly, and not broken by this attack."""
        return Rate.of(np.where(self.attacked, 1 - self.success, 0.0))

    @property
    def failed(self) -> list[int]:
        """Indices of the attacked images that are not broken in more than half of the draws."""
        return self.index[self.attacked & (self.success <= 0.5)].tolist()

    def __str__(self) -> str:
        """Give the rates, why images were not broken, and the warnings."""
        other = " (other data)" if self.about.dataset.get("other_data") else ""
        lines = [
            f"{self.about.defense} on {self.about.dataset['name']}{other}, {self.about.attack}, "
            f"{self.about.threat.norm} eps {self.about.threat.eps:.6g}",
            f"clean accuracy   {self.clean_accuracy}",
            f"rejected         {self.clean_rejected}",
            f"attack success   {self.success_rate}",
            f"robust accuracy  {self.robust_accuracy}",
        ]
        reasons = Counter(self.rows["reason"][self.attacked])
        del reasons[BROKEN]
        lines += [f"  {count:4d}  {reason}" for reason, count in reasons.most_common(8)]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def record(self, finished: bool = True, sha256: str | None = None) -> VerdictRecord:
        """Give what verdict.json holds.

        Args:
            finished: whether there is nothing left to do.
            sha256: the hash of the images' file.
        """
        results = {
            name: RateRecord(**getattr(self, name)._asdict()) for name in RatesRecord.model_fields
        }
        rows, names = self.rows.copy(), ROW.names or ()
        for name in ("clean", "rejected", "success"):
            rows[name] = rows[name].round(6)
        return VerdictRecord(
            **self.about.model_dump(exclude={"threat"}),
            threat=self.about.threat,
            results=RatesRecord(**results),
            warnings=self.warnings,
            seconds=round(self.seconds, 3),
            images=[ImageRecord(**dict(zip(names, row, strict=True))) for row in rows.tolist()],
            finished=finished,
            adversarial_sha256=sha256,
        )

    def as_json(self) -> dict[str, Any]:
        """Give everything but the adversarial images as plain JSON values."""
        return self.record().model_dump(mode="json", exclude={"finished", "adversarial_sha256"})

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

    def resume(self) -> bool:
        """Take over what an unfinished evaluation of the same left in the verdict's folder.

        Returns:
            Whether there was one.

        Raises:
            RunError: the folder holds something else, or what it holds is damaged.
        """
        if self.folder is None or not self.folder.exists():
            return False
        if (file := VerdictRecord.find(self.folder)) is None:
            if any(self.folder.iterdir()):
                raise RunError(f"{self.folder}: expected an empty folder or one with a verdict")
            return False
        before = VerdictRecord.read(file)
        rows = np.array([tuple(dict(image).values()) for image in before.images], ROW)
        same = before.evaluated == self.about and np.array_equal(rows["index"], self.index)
        if before.finished or not same:
            return False
        arrays, _, _ = read_tensors(self.folder / _IMAGES)
        self.adversarial = arrays["adversarial"]
        # Clean answers were asked for anew, and the file has them rounded.
        for name in ("success", "answer", "distance", "reason"):
            self.rows[name] = rows[name]
        self.warnings, self.seconds = before.warnings, before.seconds
        return True

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


def images_of(dataset: Dataset, index: np.ndarray) -> np.ndarray:
    """Give test images of a data set as float32 [M, H, W, C] in [0, 1].

    Args:
        dataset: the data set.
        index: which ones, int [M].
    """
    return dataset.x_test[index].astype(np.float32) / 255

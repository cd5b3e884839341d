"""The judge: checks each adversarial image, asks the defense about it, and says what came of it.

An attack is believed nothing. Each adversarial image is checked for shape, type, finite values, the
range [0, 1] and the threat model, then shown to the defense anew: it counts when the label changed
and it is not rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparring import backend
from sparring.backend import ops
from sparring.defenses.defense import Defense
from sparring.errors import told
from sparring.evaluation.verdict import BROKEN, ROW
from sparring.randomness import Stream, spread
from sparring.runs.records import LONGEST_REASON
from sparring.threat import ThreatModel

NO_ANSWER = -1
"""The label where a defense's probabilities or scores are not finite: right for no image, and no
success of an attack."""


_MOST_LOOKED_AT = 100
"""Of so many images that are too far it is looked whether they are misordered."""


@dataclass(frozen=True)
class Judge:
    """Asks a defense about images, as often as its randomness demands.

    Attributes:
        defense: the defense.
        threat: the threat model that adversarial images have to keep to.
        seeds: of the draws in which it is asked about each image.
    """

    defense: Defense
    threat: ThreatModel
    seeds: Sequence[int]

    @classmethod
    def of(cls, defense: Defense, threat: ThreatModel, draws: int, seed: int) -> Judge:
        """Make the judge of a defense.

        Args:
            defense: the defense.
            threat: the threat model.
            draws: how often it is asked about each image, if it is stochastic; else once.
            seed: what the draws follow from.
        """
        seeds = [spread(seed, Stream.JUDGE, draw) for draw in range(draws)]
        return cls(defense, threat, seeds if defense.stochastic else [0])

    @property
    def draws(self) -> int:
        """How often the defense is asked about each image."""
        return len(self.seeds)

    def clean_rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Ask about the images themselves.

        Args:
            index: which test images they are, int [B].
            x: images float32 [B, H, W, C] in [0, 1].
            y: their labels, int [B].

        Returns:
            Rows of a verdict [B] in which nothing is attacked yet.
        """
        labels, rejected = self.ask(x)  # [D, B]
        rows = np.zeros(len(x), ROW)
        rows["index"], rows["label"], rows["answer"], rows["distance"] = index, y, -1, np.nan
        rows["clean"] = np.mean((labels == y) & ~rejected, axis=0)
        rows["rejected"] = np.mean(rejected, axis=0)
        rows["attacked"] = rows["clean"] > 0.5
        # Of what is not attacked, which is more frequent: rejected, or another label and passed.
        mostly_rejected = rows["rejected"] >= 1 - rows["clean"] - rows["rejected"]
        rows["reason"] = np.select(
            [rows["attacked"], mostly_rejected],
            ["", "clean image rejected"],
            "clean image misclassified",
        )
        return rows

    def judge(self, rows: np.ndarray, x: np.ndarray, given: Any) -> tuple[np.ndarray, np.ndarray]:
        """Judge what an attack returned for some images.

        Args:
            rows: their rows in the verdict [B].
            x: the images, float32 [B, H, W, C] in [0, 1].
            given: what the attack returned.

        Returns:
            The rows with what came of the attack, and the adversarial images float32
            [B, H, W, C]; the image itself where none of finite values in [0, 1] came.
        """
        rows = rows.copy()
        images, wrong = as_images(given, x)
        if images is None:
            rows["reason"] = wrong[:LONGEST_REASON]
            return rows, x.copy()
        images, valid, rows["distance"], rows["reason"] = self.threat.check(images, x)
        if valid.any():
            labels, rejected = self.ask(images[valid])  # [D, V]
            changed = (labels != rows["label"][valid]) & (labels != NO_ANSWER)
            if not self.defense.stochastic:
                changed &= rows["distance"][valid] > 0  # the clean image was answered correctly
            broken = (changed & ~rejected).sum(axis=0)  # [V], in how many draws
            some = [f"broken in {count} of {self.draws} draws" for count in range(self.draws)]
            unbroken = np.select(
                [changed.any(axis=0), (labels == NO_ANSWER).any(axis=0)],
                ["rejected", "the defense's answer is not finite"],
                "label unchanged",
            )
            rows["reason"][valid] = np.where(
                broken > 0, np.array([*some, BROKEN], object)[broken], unbroken
            )
            rows["success"][valid] = broken / self.draws
            votes = labels[..., None] == np.arange(self.defense.info.classes)  # [D, V, K]
            votes = votes.sum(axis=0)  # [V, K]
            rows["answer"][valid] = np.where(votes.any(axis=1), votes.argmax(axis=1), NO_ANSWER)
        return rows, images

    def judge_submitted(
        self, rows: np.ndarray, x: np.ndarray, images: np.ndarray, reasons: np.ndarray, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Judge images that are in already, in batches.

        Args:
            rows: the rows of a verdict [N].
            x: the images themselves, float32 [N, H, W, C] in [0, 1].
            images: the adversarial images, float32 [N, H, W, C].
            reasons: why there is none of an image, objects [N]; "" where there is one.
            size: of a batch.

        Returns:
            The rows, and the adversarial images float32 [N, H, W, C]; the image itself where there
            is none.
        """
        rows, adversarial = rows.copy(), x.copy()
        left = np.flatnonzero(rows["attacked"])
        none = left[reasons[left] != ""]
        rows["reason"][none] = [reason[:LONGEST_REASON] for reason in reasons[none]]
        left = left[reasons[left] == ""]
        for first in range(0, len(left), size):
            batch = left[first : first + size]
            rows[batch], adversarial[batch] = self.judge(rows[batch], x[batch], images[batch])
        self._look_for_misordered(rows, x, images, left)
        return rows, adversarial

    def _look_for_misordered(
        self, rows: np.ndarray, x: np.ndarray, images: np.ndarray, left: np.ndarray
    ) -> None:
        """Say of images that are too far whether they are near another test image."""
        far = [row for row in left[:_MOST_LOOKED_AT] if rows["distance"][row] > self.threat.eps]
        for row in far:
            near = self.threat.check(np.broadcast_to(images[row], x.shape), x).valid
            if near.any() and not near[row]:
                other = rows["index"][np.flatnonzero(near)[0]]
                rows["reason"][row] += f", but near test image {other}: misordered?"

    def eight_bit(self, rows: np.ndarray, x: np.ndarray, adversarial: np.ndarray, size: int) -> Any:
        """Judge adversarial images anew after rounding them to what a PNG of 8 bits holds.

        To the nearest of its values; to the next one towards the image itself where the nearest
        ones are too far away.

        Args:
            rows: the rows of a verdict [N].
            x: the images themselves, float32 [N, H, W, C] in [0, 1].
            adversarial: the adversarial images, float32 [N, H, W, C] in [0, 1].
            size: of a batch.

        Returns:
            Shares of draws, float64 [N], in which each is broken.
        """
        nearest = np.round(adversarial * 255) / np.float32(255)
        levels = np.round(x * 255)
        # Within a thousandth of a level a value is that level, whose float32 is not exact.
        moved = adversarial.astype(np.float64) * 255 - levels
        inward = ((levels + np.trunc(moved + np.sign(moved) * 1e-3)) / 255).astype(np.float32)
        valid = self.threat.check(nearest, x).valid
        rounded = np.where(valid[:, None, None, None], nearest, inward)
        none = np.full(len(rows), "", object)
        tried = rows["attacked"] & (rows["success"] > 0)
        fresh = rows.copy()
        fresh["attacked"], fresh["success"] = tried, 0
        judged, _ = self.judge_submitted(fresh, x, rounded, none, size)
        return judged["success"]

    def ask(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ask about images float32 [B, H, W, C] in [0, 1].

        Returns:
            In each of D draws, both [D, B], the labels, and which images are rejected.
        """
        labels, rejected = [], []
        for seed in self.seeds:
            answers, scores = self.defense.classify(x, seed), self.defense.detect(x, seed)
            finite = np.isfinite(answers).all(axis=1) & ~np.isnan(scores)
            labels.append(np.where(finite, answers.argmax(axis=1), NO_ANSWER))
            rejected.append(scores > self.defense.threshold)
        return np.stack(labels), np.stack(rejected)

    def again(self, rows: np.ndarray, x: np.ndarray, adversarial: np.ndarray, told: Any) -> Any:
        """Judge anew what an earlier evaluation left, whose file is not believed.

        Args:
            rows: rows of a verdict [B].
            x: the images, float32 [B, H, W, C] in [0, 1].
            adversarial: what the earlier evaluation kept of the adversarial images, likewise.
            told: the rows that it left.

        Returns:
            The rows with what came of the attack. What an invalid image was is not kept; where both
            find nothing broken, what was said of it stays.
        """
        rows, _ = self.judge(rows, x, adversarial)
        failed = (rows["success"] == 0) & (told["success"] == 0)
        for name in ("answer", "distance", "reason"):
            rows[name][failed] = told[name][failed]
        return rows


def as_images(given: Any, x: np.ndarray) -> tuple[np.ndarray | None, str]:
    """Take what an attack returned for images.

    Args:
        given: what it returned.
        x: the images that it was given, [B, H, W, C].

    Returns:
        float32 images of the shape of x, copied; or None, and what is wrong.
    """
    try:
        # Sparse and ragged tensors have no __array__.
        dense = ops.is_tensor(given) and hasattr(given, "__array__")
        if not (dense or isinstance(given, np.ndarray)):
            kind = f"{type(given).__module__}.{type(given).__qualname__}".removeprefix("builtins.")
            return None, f"returned {kind}: expected a tensor of {backend.name} or a numpy array"
        if isinstance(given, np.ma.MaskedArray) and given.dtype.kind == "f":
            given = np.ma.MaskedArray.filled(given, np.nan)  # what is masked has no value
        if isinstance(given, np.ndarray):
            # A class of its own may answer otherwise each time it is asked.
            given = np.ndarray.view(given, np.ndarray)
        if tuple(given.shape) != x.shape:  # before memory is taken for what may be huge
            return None, f"shape {list(given.shape)}: expected {list(x.shape)}"
        array = given if isinstance(given, np.ndarray) else ops.convert_to_numpy(given)
    except Exception as error:  # without data, deleted, ...
        reason = " ".join(told(error).split())[: LONGEST_REASON - 100]  # and the words around it
        return None, f"returned a tensor that cannot be read, {reason}: expected an ordinary one"
    if array.shape != x.shape:
        return None, f"shape {list(array.shape)}: expected {list(x.shape)}"
    if array.dtype.kind != "f":
        return None, f"dtype {array.dtype}: expected float32"
    with np.errstate(over="ignore"):
        return np.array(array, np.float32), ""

"""The judge's part of a task, and the reward of a file of images that was handed in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparring.data import Dataset
from sparring.defenses.defense import Defense
from sparring.errors import DataError, RunError, SettingsError
from sparring.evaluation.judging import judge
from sparring.evaluation.submission import Contents
from sparring.evaluation.verdict import Verdict
from sparring.experiments.load import load
from sparring.runs.directory import Run
from sparring.runs.files import read_tensors, write_json, write_tensors
from sparring.runs.records import FreshRecord, TaskRecord, ThreatRecord
from sparring.tasks import manifest, wheel
from sparring.tasks.request import TaskRequest
from sparring.threat import ThreatModel, threat_model
from sparring.version import __version__

REWARD = "reward.json"
_RECORD, _RUN, _IMAGES = "task.json", "run", "images.safetensors"


@dataclass(frozen=True)
class Reward:
    """What a file that was handed in is worth.

    Attributes:
        verdict: what the judge found; None where the file as a whole cannot be read.
        problem: why it cannot; empty where it can.
        images: how many the task has.
    """

    verdict: Verdict | None
    problem: str
    images: int

    @property
    def value(self) -> float:
        """The share of the images that count, which are broken, in [0, 1]."""
        if self.verdict is None or not self.verdict.attacked.any():
            return 0.0
        return float(self.verdict.success_rate.value)

    def as_json(self) -> dict[str, float]:
        """Give the reward and what goes with it as numbers, which is what Harbor takes."""
        numbers: dict[str, float] = {"reward": round(self.value, 6), "images": self.images}
        if (verdict := self.verdict) is not None:
            threat = threat_model(verdict.about.threat.norm, verdict.about.threat.eps)
            most = threat.eps + threat.rounding(int(np.prod(verdict.adversarial.shape[1:])))
            numbers |= {
                "counted": int(verdict.attacked.sum()),
                "valid": int((verdict.attacked & (verdict.distance <= most)).sum()),
                "clean_accuracy": round(float(verdict.clean_accuracy.value), 6),
                "robust_accuracy": round(float(verdict.robust_accuracy.value), 6),
            }
        return numbers

    def __str__(self) -> str:
        """Give the verdict, or the problem, and the reward."""
        found = self.problem if self.verdict is None else str(self.verdict)
        return f"{found}\nreward           {self.value:.4f}"


def write(
    folder: Path,
    request: TaskRequest,
    defense: Defense,
    threat: ThreatModel,
    dataset: Dataset,
    fresh: FreshRecord | None,
) -> str:
    """Write the judge's part: the run, the images, what is judged, and this Sparring as a wheel.

    Args:
        folder: is made.
        request: of the task.
        defense: a loaded run.
        threat: the threat model.
        dataset: the data set; its first test images are the task's.
        fresh: what was drawn for it, if anything.

    Returns:
        The SHA-256 that stands for all of its files.
    """
    assert defense.path is not None
    assert defense.weights_sha256 is not None
    run = Run(defense.path)
    (folder / _RUN).mkdir(parents=True)
    for file in (run.json_file, run.weights_file):
        shutil.copy(file, folder / _RUN / file.name)
    count = min(request.n, len(dataset.x_test))
    arrays = {"x": dataset.x_test[:count], "y": dataset.y_test[:count]}
    write_tensors(folder / _IMAGES, arrays, {"dataset": dataset.name})
    record = TaskRecord(
        defense=defense.name,
        weights_sha256=defense.weights_sha256,
        threat=ThreatRecord(norm=threat.norm, eps=threat.eps),
        dataset=dataset.name,
        index=list(range(count)),
        draws=request.draws,
        minutes=request.minutes,
        fresh=fresh,
        sparring=__version__,
    )
    write_json(folder / _RECORD, record.model_dump(mode="json"))
    wheel.write(folder)
    return manifest.write(folder)


def reward(
    task: str | Path,
    file: str | Path,
    *,
    sha256: str | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Reward:
    """Judge what was handed in for a task.

    Nothing of the file is believed or run; see `sparring.judge`. One that cannot be read is worth
    0, and so is one that is not there.

    Args:
        task: the judge's part of a task, with all files as they were written.
        file: the adversarial images, as `sparring.judge` takes them.
        sha256: of the task's list of hashes, as it was told when the task was written.
        out: folder for reward.json, and for the verdict where there is one; None writes nothing.
        seed: of a stochastic defense's draws; None draws it once the file is read.
        progress: is called with what is being done.

    Returns:
        The reward.

    Raises:
        RunError: the judge's part is not as it was written.
        SettingsError: another Sparring wrote it.
    """
    folder = Path(task).expanduser()
    manifest.check(folder, sha256)
    record = TaskRecord.read(folder / _RECORD)
    if record.sparring != __version__:
        raise SettingsError(
            f"{folder}: expected to be judged by Sparring {record.sparring}, which wrote it and "
            f"lies there as a wheel; running is {__version__}"
        )
    defense = load(folder / _RUN)
    if defense.weights_sha256 != record.weights_sha256:
        raise RunError(f"{folder}: expected the weights of the task, found others")
    dataset = images_of(folder, defense)
    if len(dataset.x_test) != len(record.index):
        raise RunError(
            f"{folder}: expected {len(record.index)} images, found {len(dataset.x_test)}"
        )
    result = _judged(record, defense, dataset, Path(file).expanduser(), out, seed, progress)
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        write_json(Path(out) / REWARD, result.as_json())
    return result


def images_of(folder: Path, defense: Defense) -> Dataset:
    """Load the images of a task, as the test images of a data set.

    Raises:
        RunError: the file is missing or damaged.
    """
    arrays, _, _ = read_tensors(folder / _IMAGES)
    info = defense.info
    try:
        x, y = arrays["x"], arrays["y"]
        return Dataset(info.name, x, y, x, y, info.class_names, info.mirror, info.key)
    except (KeyError, DataError) as error:
        raise RunError(f"{folder / _IMAGES}: expected the task's images: {error}") from error


def _judged(
    record: TaskRecord,
    defense: Defense,
    dataset: Dataset,
    file: Path,
    out: str | Path | None,
    seed: int | None,
    progress: Callable[[int, int, str], None] | None,
) -> Reward:
    """Judge a file; one that cannot be read as a whole is a reward with a problem."""
    count = len(record.index)
    try:
        Contents.of(file).pictures(defense.info.shape, np.arange(count))
    except (DataError, SettingsError) as error:  # the latter for PNG, without what reads it
        return Reward(None, str(error), count)
    verdict = judge(
        defense,
        file,
        threat_model(record.threat.norm, record.threat.eps),
        dataset,
        count,
        progress=progress,
        other_data=True,
        draws=record.draws,
        seed=seed,
        out=None if out is None else Path(out) / "verdict",
        force=True,
    )
    return Reward(verdict, "", count)

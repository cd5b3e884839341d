"""The judge: attacks a defense and checks for itself what came of it.

An attack is believed nothing. Each adversarial image is checked for shape, type, finite values, the
range [0, 1] and the threat model, then shown to the defense anew: it counts when the label changed
and it is not rejected.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparring import attacks, backend
from sparring import data as datasets
from sparring import plots as pictures
from sparring.attacks import Attack, Wrapped
from sparring.backend import ops
from sparring.data import Dataset
from sparring.data.usual import default_threat
from sparring.defenses.defense import Defense
from sparring.errors import AttackError, RunError, SettingsError
from sparring.evaluation import checks
from sparring.evaluation.rates import Rate
from sparring.experiments.train import load
from sparring.networks.allconv import PREDICTION_BATCH
from sparring.randomness import Stream, spread
from sparring.runs.checkpoint import VERDICT_FORMAT, read_tensors, write_atomically, write_tensors
from sparring.threat import ThreatModel
from sparring.version import __version__

BROKEN = "broken"
_SECONDS_BETWEEN_SAVES = 10

Told = Callable[[int, int, str], None]
"""Progress: how many images are done, of how many, and what is to be said besides."""


@dataclass
class Report:
    """What an attack came to, image by image.

    Attributes: `about`, what was evaluated (defense, attack, threat, data set, seed, versions);
    arrays with one entry an image: `index` (of the test images), `label`, `clean` (share of draws
    in which the image itself was answered correctly and not rejected), `rejected` (share in which
    it was rejected), `attacked` (bool), `success` (share of draws in which the adversarial
    image counts), `answer` (its most frequent label) and `distance` (float64), -1 and NaN where
    nothing valid came; `reasons`, one text an image;
    `adversarial`, float32 [N, H, W, C], the image itself where nothing valid came; `warnings`, what
    to distrust; `seconds`. For a defense that draws nothing, shares are 0 or 1.
    """

    about: dict[str, Any]
    index: np.ndarray
    label: np.ndarray
    clean: np.ndarray
    rejected: np.ndarray
    attacked: np.ndarray
    success: np.ndarray
    answer: np.ndarray
    distance: np.ndarray
    reasons: list[str]
    adversarial: np.ndarray
    warnings: list[checks.Warned] = field(default_factory=list)
    seconds: float = 0.0

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
        return [int(i) for i in self.index[self.attacked & (self.success <= 0.5)]]

    def __str__(self) -> str:
        lines = [
            f"{self.about['defense']} on {self.about['dataset']['name']}, {self.about['attack']}, "
            f"{self.about['threat']['norm']} eps {self.about['threat']['eps']:.6g}",
            f"clean accuracy   {self.clean_accuracy}",
            f"rejected         {self.clean_rejected}",
            f"attack success   {self.success_rate}",
            f"robust accuracy  {self.robust_accuracy}",
        ]
        failures = Counter(
            reason
            for reason, attacked in zip(self.reasons, self.attacked, strict=True)
            if attacked and reason != BROKEN
        )
        lines += [f"  {count:4d}  {reason}" for reason, count in failures.most_common(8)]
        lines += [f"warning: {warned}" for warned in self.warnings]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Everything but the images, as plain JSON values."""
        rates = ("clean_accuracy", "clean_rejected", "success_rate", "robust_accuracy")
        images = zip(
            *(self.index, self.label, self.clean, self.rejected, self.attacked, self.success),
            *(self.answer, self.distance, self.reasons),
            strict=True,
        )
        return {
            "format": VERDICT_FORMAT,
            **self.about,
            "results": {
                name: {
                    key: None if isinstance(value, float) and math.isnan(value) else value
                    for key, value in getattr(self, name)._asdict().items()
                }
                for name in rates
            },
            "warnings": [asdict(warned) for warned in self.warnings],
            "seconds": round(self.seconds, 3),
            "images": [
                {
                    "index": int(index),
                    "label": int(label),
                    "clean": round(float(clean), 6),
                    "rejected": round(float(rejected), 6),
                    "attacked": bool(attacked),
                    "success": round(float(success), 6),
                    "answer": int(answer),
                    "distance": None if math.isnan(distance) else float(distance),
                    "reason": reason,
                }
                for (
                    index,
                    label,
                    clean,
                    rejected,
                    attacked,
                    success,
                    answer,
                    distance,
                    reason,
                ) in images
            ],
        }


def evaluate(
    defense: Defense | Wrapped | str | Path,
    attack: Attack | str = "pgd",
    threat: ThreatModel | None = None,
    dataset: Dataset | str | None = None,
    n: int = 100,
    *,
    data_dir: str | Path | None = None,
    images: Sequence[int] | None = None,
    draws: int = 20,
    batch_size: int = PREDICTION_BATCH,
    seed: int = 0,
    check: bool = True,
    transfer_from: Defense | None = None,
    time_limit: float | None = None,
    out: str | Path | None = None,
    progress: Told | None = None,
) -> Report:
    """Attack a defense on test images and judge every adversarial image independently.

    Args:
        defense: a Defense, or the path of its run directory; or a wrapper around a Defense, such as
            EOT(defense), which the attack is given while the defense itself is judged.
        attack: any callable (defense, x, y, threat) -> x_adv, see `sparring.attacks`; or the name
            of one of ours.
        threat: Linf(eps) or L2(eps); None takes Linf with the data set's usual eps.
        dataset: a Dataset or what `sparring.data.load` takes; None takes the defense's own.
        n: how many test images, from the first.
        data_dir: folder with the data set's files.
        images: indices of test images, in place of the first n.
        draws: how often a stochastic defense is asked about each image.
        batch_size: images given to the attack at a time.
        seed: of the draws of a stochastic defense.
        check: also look for signs that the result should be distrusted, see `evaluation.checks`.
        transfer_from: another defense on the same data, whose adversarial images are tried too.
        time_limit: seconds the attack may take for a batch. It is enforced in the main thread.
        out: folder for report.json and adversarial.safetensors, written as it goes; what is there
            of the same evaluation is gone on with.
        progress: is told after every batch.

    Raises SettingsError and DataError for wrong arguments, RunError when `out` holds something
    else, AttackError when the attack raises or runs past the limit; what was judged is in `out`.
    """
    attacked = load(defense) if isinstance(defense, str | Path) else defense
    defense, wrappers = attacks.unwrapped(attacked)  # the judge asks the defense itself
    if check and defense.stochastic:
        attacked = checks.observed(attacked)
    if isinstance(attack, str):
        attack = attacks.get(attack, defense=defense.name)
    if dataset is None:
        dataset = defense.info.name
    if not isinstance(dataset, Dataset):
        dataset = datasets.load(dataset, data_dir)
    if dataset.info.shape != defense.info.shape or dataset.classes != defense.info.classes:
        raise SettingsError(
            f"{defense.name} was trained on {defense.info.name}, images "
            f"{list(defense.info.shape)} of {defense.info.classes} classes; {dataset.name} has "
            f"{list(dataset.info.shape)} of {dataset.classes}"
        )
    threat = threat or default_threat("Linf", dataset.key, dataset.name)
    for name, value in (("n", n), ("draws", draws), ("batch_size", batch_size)):
        if type(value) is not int or value < 1:
            raise SettingsError(f"{name}: expected an integer of 1 or more, got {value!r}")
    index = _index(n, images, len(dataset.x_test))
    tell = progress or (lambda done, total, text: None)
    about = {
        "defense": defense.name,
        "run": str(defense.path) if defense.path else None,
        "weights_sha256": defense.weights_sha256,
        "attack": describe(attack) + (wrappers and f" on {wrappers}"),
        "attack_sha256": _source_hash(attack),
        "threat": {"norm": threat.norm, "eps": threat.eps},
        "dataset": dataset.info.as_json(),
        "seed": seed,
        "draws": draws if defense.stochastic else 1,
        "backend": backend.name,
        "sparring": __version__,
    }
    judge = _Judge(defense, threat, draws, seed)
    report = _started(judge, dataset, index, about, out)
    if report.seconds:
        tell(0, 0, f"Going on with the evaluation in {out}.")
    start, before, saved = time.perf_counter(), report.seconds, time.monotonic()
    left = np.flatnonzero(report.attacked & np.array([not reason for reason in report.reasons]))
    done, total = int(report.attacked.sum()) - len(left), int(report.attacked.sum())
    try:
        for rows in (left[i : i + batch_size] for i in range(0, len(left), batch_size)):
            x, y = _images(dataset, report.index[rows]), report.label[rows]
            given, notes = _attack(attack, attacked, x, y, threat, time_limit)
            verdict = judge.verdict(x, y, given)
            report.success[rows], report.answer[rows] = verdict.success, verdict.answer
            report.distance[rows], report.adversarial[rows] = verdict.distance, verdict.adversarial
            for row, reason in zip(rows, verdict.reasons, strict=True):
                report.reasons[row] = reason
            for note in notes:
                if note not in report.warnings:
                    report.warnings.append(note)
            report.seconds = before + time.perf_counter() - start
            done += len(rows)
            share = report.success[report.attacked & np.array([bool(r) for r in report.reasons])]
            tell(done, total, f"success {100 * float(np.mean(share)):.1f} %")
            if out is not None and time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                _save(report, Path(out), finished=False)
                saved = time.monotonic()
    except BaseException:
        if out is not None and done:
            _save(report, Path(out), finished=False)
        raise
    if check:
        tell(done, total, "looking for signs to distrust the result")
        rows = np.flatnonzero(report.attacked)[: checks.IMAGES]
        x, y = _images(dataset, report.index[rows]), report.label[rows]
        report.warnings += checks.look(
            attacked, attack, threat, x, y, report.success[rows], transfer_from
        )
        report.warnings += checks.few_images(report.success_rate)
    report.seconds = before + time.perf_counter() - start
    if out is not None:
        _save(report, Path(out), finished=True)
        if report.attacked.any():
            write_atomically(Path(out) / "examples.svg", picture(report, dataset).encode())
    return report


class _Verdict(NamedTuple):
    """What the judge finds of a batch; the arrays are those of Report."""

    success: np.ndarray
    answer: np.ndarray
    distance: np.ndarray
    adversarial: np.ndarray
    reasons: list[str]


class _Judge:
    """Asks a defense about images, as often as its randomness demands."""

    def __init__(self, defense: Defense, threat: ThreatModel, draws: int, seed: int) -> None:
        self._defense, self._threat = defense, threat
        self._seeds = [spread(seed, Stream.JUDGE, draw) for draw in range(draws)]

    def ask(self, x: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Labels [B] and whether rejected [B], once for each draw."""
        for seed in self._seeds if self._defense.stochastic else [0]:
            labels = self._defense.classify(x, seed).argmax(axis=1)
            yield labels, self._defense.detect(x, seed) > self._defense.threshold

    def clean(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shares of draws [B] in which images are answered correctly, and are rejected."""
        answers = list(self.ask(x))
        right = [(labels == y) & ~rejected for labels, rejected in answers]
        return np.mean(right, axis=0), np.mean([rejected for _, rejected in answers], axis=0)

    def verdict(self, x: np.ndarray, y: np.ndarray, given: Any) -> _Verdict:
        """What comes of what an attack gave for images x with labels y."""
        success, distance = np.zeros(len(x)), np.full(len(x), np.nan)
        answer = np.full(len(x), -1)
        adversarial, wrong = _as_images(given, x)
        if adversarial is None:
            return _Verdict(success, answer, distance, x.copy(), [wrong] * len(x))
        adversarial, valid, distance, reasons = self._threat.check(adversarial, x)
        if valid.any():
            changed = np.zeros((2, int(valid.sum())))  # another label; and not rejected either
            answers = list(self.ask(adversarial[valid]))
            for labels, rejected in answers:
                changed += labels != y[valid], (labels != y[valid]) & ~rejected
            success[valid] = changed[1] / len(answers)
            given_labels = np.stack([labels for labels, _ in answers])
            votes = given_labels[..., None] == np.arange(self._defense.info.classes)
            answer[valid] = votes.sum(axis=0).argmax(axis=1)
            for i, other, counts in zip(np.flatnonzero(valid), *changed, strict=True):
                if counts == len(answers):
                    reasons[i] = BROKEN
                elif len(answers) > 1 and counts:
                    reasons[i] = f"broken in {int(counts)} of {len(answers)} draws"
                else:
                    reasons[i] = "rejected" if other else "label unchanged"
        return _Verdict(success, answer, distance, adversarial, reasons)


def _as_images(given: Any, x: np.ndarray) -> tuple[np.ndarray | None, str]:
    """What an attack returned as float32 images of the shape of x, or None and what is wrong."""
    if isinstance(given, np.ndarray):
        array = given
    elif ops.is_tensor(given):
        array = ops.convert_to_numpy(given)
    else:
        kind = f"{type(given).__module__}.{type(given).__qualname__}".removeprefix("builtins.")
        return None, f"returned {kind}: expected a tensor of {backend.name} or a numpy array"
    if array.shape != x.shape:
        return None, f"shape {list(array.shape)}: expected {list(x.shape)}"
    if array.dtype.kind != "f":
        return None, f"dtype {array.dtype}: expected float32"
    with np.errstate(over="ignore"):
        return array.astype(np.float32), ""


def _attack(
    attack: Attack,
    defense: Defense | Wrapped,
    x: np.ndarray,
    y: np.ndarray,
    threat: ThreatModel,
    time_limit: float | None,
) -> tuple[Any, list[checks.Warned]]:
    """What the attack gives for copies of the images, and what was odd about it."""
    images, labels = ops.convert_to_tensor(x.copy()), ops.convert_to_tensor(y.astype(np.int32))
    try:
        with _limited(time_limit):
            given = attack(defense, images, labels, threat)
    except AttackError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise AttackError(
            f"the attack {describe(attack)} raised {type(error).__name__}: {error} "
            f"({last.filename}, line {last.lineno})"
        ) from error
    if np.array_equal(ops.convert_to_numpy(images), x):
        return given, []
    return given, [checks.CHANGED_INPUT]


@contextmanager
def _limited(seconds: float | None) -> Iterator[None]:
    """Raise AttackError in the block once it takes longer; in the main thread only."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise AttackError(f"the attack ran past its limit of {seconds:g} s for a batch")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def describe(attack: Attack) -> str:
    """An attack in words: PGD(steps=40, ...), or a function's name and arguments."""
    if isinstance(attack, partial):
        given = ", ".join(f"{name}={value!r}" for name, value in attack.keywords.items())
        return f"{describe(attack.func)}({given})"
    if inspect.isfunction(attack):
        return attack.__name__
    if is_dataclass(attack):
        return repr(attack)
    return type(attack).__name__


def _source_hash(attack: Attack) -> str | None:
    """SHA-256 of the file an attack is defined in: another text is another attack."""
    if isinstance(attack, partial):
        return _source_hash(attack.func)
    try:
        kind = attack if inspect.isfunction(attack) else type(attack)
        return hashlib.sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest()
    except (TypeError, OSError):
        return None


def _index(n: int, images: Sequence[int] | None, available: int) -> np.ndarray:
    if images is None:
        if n > available:
            raise SettingsError(f"n: expected at most {available}, the test images; got {n}")
        return np.arange(n)
    index = np.unique(np.array(images, int))
    if not len(index) or index[0] < 0 or index[-1] >= available:
        raise SettingsError(
            f"images: expected indices from 0 to {available - 1}, got {', '.join(map(str, images))}"
        )
    return index


def _images(dataset: Dataset, index: np.ndarray) -> np.ndarray:
    return dataset.x_test[index].astype(np.float32) / 255


def _started(
    judge: _Judge, dataset: Dataset, index: np.ndarray, about: dict[str, Any], out: Any
) -> Report:
    """A report in which nothing is attacked yet, or the one begun in `out`."""
    x, y = _images(dataset, index), dataset.y_test[index]
    clean, rejected = judge.clean(x, y)
    attacked = clean > 0.5
    reasons = [
        "" if each else ("clean image rejected" if share > 0.5 else "clean image misclassified")
        for each, share in zip(attacked, rejected, strict=True)
    ]
    report = Report(
        *(about, index, y, clean, rejected, attacked, np.zeros(len(y)), np.full(len(y), -1)),
        *(np.full(len(y), np.nan), reasons, x.copy()),
    )
    if out is not None:
        _go_on(report, Path(out))
    return report


def _go_on(report: Report, out: Path) -> None:
    """Take over what an unfinished evaluation of the same in `out` came to."""
    file = out / "report.json"
    if not file.exists():
        if out.exists() and any(out.iterdir()):
            raise RunError(f"{out}: expected an empty folder or one with a report.json")
        return
    try:
        found = json.loads(file.read_bytes())
        images = found["images"]
        same = all(found.get(key) == value for key, value in _as_read(report.about).items())
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file}: damaged: {error!r}") from error
    if not same or found["finished"] or [i["index"] for i in images] != report.index.tolist():
        return
    arrays, _, _ = read_tensors(out / "adversarial.safetensors")
    report.adversarial = arrays["adversarial"]
    report.seconds = found["seconds"]
    for row, image in enumerate(images):
        report.reasons[row] = image["reason"]
        report.success[row], report.answer[row] = image["success"], image["answer"]
        report.distance[row] = np.nan if image["distance"] is None else image["distance"]


def _as_read(values: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(values)))


def picture(report: Report, dataset: Dataset, columns: int = 8) -> str:
    """The first broken images, or the first attacked ones, with what was made of them, as SVG."""
    rows = np.flatnonzero(report.attacked & (report.success > 0.5))[:columns]
    if not len(rows):
        rows = np.flatnonzero(report.attacked)[:columns]
    names = dataset.class_names
    threat = report.about["threat"]
    return pictures.examples(
        _images(dataset, report.index[rows]),
        report.adversarial[rows],
        [names[label] for label in report.label[rows]],
        [names[answer] if answer >= 0 else "invalid" for answer in report.answer[rows]],
        f"{report.about['defense']} under {threat['norm']} eps {threat['eps']:.4g}: "
        f"{100 * report.success_rate.value:.0f} % broken",
    )


def _save(report: Report, out: Path, finished: bool) -> None:
    """Write the files; the images first, so that a report never speaks of missing ones."""
    out.mkdir(parents=True, exist_ok=True)
    arrays = {"adversarial": report.adversarial, "index": report.index, "label": report.label}
    sha256 = write_tensors(out / "adversarial.safetensors", arrays, {"about": report.about})
    values = {**report.as_json(), "finished": finished, "adversarial_sha256": sha256}
    text = json.dumps(values, indent=1, ensure_ascii=False)
    write_atomically(out / "report.json", f"{text}\n".encode())

"""Evaluate: clean answers, the attack on what is answered correctly, the judge, the verdict."""

from __future__ import annotations

import hashlib
import inspect
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sparring import attacks, backend, defenses
from sparring import data as datasets
from sparring.attacks import Attack, Wrapped
from sparring.backend import ops
from sparring.data import Dataset
from sparring.data.usual import default_threat
from sparring.defenses.defense import Defense
from sparring.errors import AttackError, SettingsError
from sparring.evaluation import checks
from sparring.evaluation.judge import Judge
from sparring.evaluation.request import EvaluationRequest
from sparring.evaluation.verdict import Verdict, images_of
from sparring.experiments.load import load
from sparring.runs.records import (
    Evaluated,
    EvaluationWarning,
    ThreatRecord,
    short_name,
    verdict_folder,
)
from sparring.threat import ThreatModel, threat_model
from sparring.training import notebook
from sparring.version import __version__

_SECONDS_BETWEEN_SAVES = 10

Progress = Callable[[int, int, str], None]
"""Progress callback (images_done, images_total, message)."""


def evaluate(
    defense: Defense | Wrapped | EvaluationRequest | str | Path,
    attack: Attack | str = "pgd",
    threat: ThreatModel | None = None,
    dataset: Dataset | str | None = None,
    n: int = 100,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Verdict:
    """Attack a defense on test images and judge every adversarial image independently.

    Args:
        defense: a Defense, the path of its run directory or its name; a wrapper around a Defense,
            such as EOT(defense), which the attack is given while the defense itself is judged; or a
            request, which says everything but `progress`.
        attack: any callable (defense, x, y, threat) -> x_adv, see `sparring.attacks`; or the name
            of one of ours, or of a file.
        threat: Linf(eps) or L2(eps); None takes Linf with the data set's usual eps.
        dataset: a Dataset or what `sparring.data.load` takes; None takes the defense's own.
        n: how many test images, from the first.
        progress: is called after every batch; None shows in a notebook how far it is.
        options: the other fields of `EvaluationRequest`, such as images, draws, batch_size, seed,
            check, time_limit. Other than in a request, nothing is written without `out` or
            save=True, and no transfer is tried without `transfer_from` or transfer=True.

    Returns:
        The verdict. With `out` it is in that folder too, written as it goes; an unfinished one
        there of the same evaluation is gone on with.

    Raises:
        SettingsError: an argument is wrong.
        DataError: the data set is.
        RunError: the run cannot be loaded, or `out` holds something else.
        AttackError: the attack raised or ran past the limit; what was judged is in `out`.
    """
    if not isinstance(defense, EvaluationRequest):
        for name, given in (("save", "out"), ("transfer", "transfer_from")):
            options = {name: options.get(given) is not None, **options}
        radius = {} if threat is None else {"norm": threat.norm, "eps": threat.eps}
        request = EvaluationRequest.of(
            defense, attack=attack, data=dataset, n=n, **radius, **options
        )
    elif (attack, threat, dataset, n, options) == ("pgd", None, None, 100, {}):
        request = defense
    else:
        raise SettingsError("expected nothing but progress beside an EvaluationRequest")
    return _run(request, progress or notebook.counter())


def _run(request: EvaluationRequest, tell: Progress) -> Verdict:
    """Evaluate; the steps in their order."""
    parts = _Parts.of(request)
    index = _index(request, len(parts.dataset.x_test))
    x, y = images_of(parts.dataset, index), parts.dataset.y_test[index]
    judge = Judge.of(parts.defense, parts.threat, request.draws, request.seed)
    about = parts.about(judge.draws, request.seed)
    rows = judge.clean_rows(index, x, y)
    verdict = Verdict(about, rows, x, folder=_folder(request, parts))
    if verdict.resume():
        tell(0, 0, f"Going on with the evaluation in {verdict.folder}.")
    start, saved = time.perf_counter() - verdict.seconds, time.monotonic()
    total, left = int(verdict.attacked.sum()), verdict.left
    done = total - len(left)
    try:
        for first in range(0, len(left), request.batch_size):
            batch = left[first : first + request.batch_size]
            x = images_of(parts.dataset, index[batch])
            given, changed = _attack(parts, x, y[batch], request.time_limit)
            verdict.rows[batch], verdict.adversarial[batch] = judge.judge(
                verdict.rows[batch], x, given
            )
            if changed and checks.CHANGED_INPUT not in verdict.warnings:
                verdict.warnings.append(checks.CHANGED_INPUT)
            verdict.seconds = time.perf_counter() - start
            done += len(batch)
            judged = verdict.attacked & (verdict.rows["reason"] != "")
            tell(done, total, f"success {100 * float(np.mean(verdict.success[judged])):.1f} %")
            if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                verdict.save(finished=False)
                saved = time.monotonic()
        if request.check:
            tell(done, total, "looking for signs to distrust the result")
            verdict.warnings += _checked(verdict, parts)
    except BaseException:
        if done:
            verdict.save(finished=False)
        raise
    verdict.seconds = time.perf_counter() - start
    verdict.save(finished=True)
    verdict.write_picture(parts.dataset)
    return verdict


# What the request's names stand for


@dataclass(frozen=True)
class _Parts:
    """What a request's names stand for.

    The attack is given `attacked`: the defense in its `wrappers`, and observed.
    """

    defense: Defense
    attacked: Defense | Wrapped
    wrappers: str
    attack: Attack
    threat: ThreatModel
    dataset: Dataset
    transfer_from: Defense | None

    @classmethod
    def of(cls, request: EvaluationRequest) -> _Parts:
        """Load and check them."""
        attacked, attack, dataset = request.defense, request.attack, request.data
        if isinstance(attacked, str):
            attacked = load(_run_directory(request))
        defense, wrappers = attacks.unwrapped(attacked)  # the judge asks the defense itself
        if request.check and defense.stochastic:
            attacked = checks.observed(attacked)
        if isinstance(attack, str):
            attack = attacks.get(attack, request.options, defense=defense.name)
        if dataset is None and _is_own(defense):
            raise SettingsError(
                f"{defense.name} was trained on a data set of your own called {defense.info.name}, "
                f"not on the built-in {defense.info.name}: expected its file as data (--data "
                "FILE.npz)"
            )
        if not isinstance(dataset, Dataset):
            dataset = datasets.load(dataset or defense.info.name, request.data_dir)
        if dataset.info.shape != defense.info.shape or dataset.classes != defense.info.classes:
            raise SettingsError(
                f"{defense.name} was trained on {defense.info.name}, images "
                f"{list(defense.info.shape)} of {defense.info.classes} classes; {dataset.name} has "
                f"{list(dataset.info.shape)} of {dataset.classes}"
            )
        if request.eps is None:
            threat = default_threat(request.norm, dataset.key, dataset.name)
        else:
            threat = threat_model(request.norm, request.eps)
        source = _transfer_source(request, defense)
        return cls(defense, attacked, wrappers, attack, threat, dataset, source)

    def about(self, draws: int, seed: int) -> Evaluated:
        """What is evaluated, for the verdict."""
        return Evaluated(
            defense=self.defense.name,
            run=str(self.defense.path) if self.defense.path else None,
            weights_sha256=self.defense.weights_sha256,
            attack=describe(self.attack) + (self.wrappers and f" on {self.wrappers}"),
            attack_sha256=_source_hash(self.attack),
            threat=ThreatRecord(norm=self.threat.norm, eps=self.threat.eps),
            dataset=self.dataset.info.as_json(),
            seed=seed,
            draws=draws,
            backend=backend.name,
            sparring=__version__,
        )


def _is_own(defense: Defense) -> bool:
    """Whether a defense was trained on a user's data that are called as a built-in data set."""
    return defense.info.key is None and defense.info.name in datasets.NAMES


def _run_directory(request: EvaluationRequest) -> Path:
    """The run directory of the defense: a path, or where a name's run on the data set lies."""
    path = Path(request.defense)
    if path.is_dir() or len(path.parts) > 1:
        return path
    data = request.data.name if isinstance(request.data, Dataset) else request.data or "digits"
    return Path(request.runs) / Path(data).stem / defenses.get(request.defense).name


def _transfer_source(request: EvaluationRequest, defense: Defense) -> Defense | None:
    """The defense whose adversarial images the checks try too."""
    source = request.transfer_from
    if not (request.check and request.transfer):
        return None
    if source is not None:
        return source if isinstance(source, Defense) else load(source)
    if defense.path is None:
        return None
    beside = defense.path.parent / defenses.BASELINE
    usable = defense.name != defenses.BASELINE and (beside / "run.json").is_file()
    return load(beside) if usable else None


def _folder(request: EvaluationRequest, parts: _Parts) -> Path | None:
    """Where the verdict is written, if anywhere."""
    if not request.save or request.out is not None:
        return request.out if request.save else None
    if parts.defense.path is None:
        raise SettingsError("out: expected a folder, as the defense has no run directory; got none")
    by_name = isinstance(request.attack, str)
    word = Path(request.attack).stem if by_name else short_name(describe(parts.attack))
    some = request.images is not None
    name = verdict_folder(word, parts.threat.norm, parts.threat.eps, some)
    return parts.defense.path / "attacks" / name


def _index(request: EvaluationRequest, available: int) -> np.ndarray:
    """Indices [N] of the test images to attack, ascending."""
    if request.images is None:
        if request.n > available:
            raise SettingsError(
                f"n: expected at most {available}, the test images; got {request.n}"
            )
        return np.arange(request.n)
    index = np.unique(np.array(request.images, int))
    if not len(index) or index[0] < 0 or index[-1] >= available:
        raise SettingsError(
            f"images: expected indices from 0 to {available - 1}, got "
            f"{', '.join(map(str, request.images))}"
        )
    return index


# The attack


def _attack(
    parts: _Parts, x: np.ndarray, y: np.ndarray, time_limit: float | None
) -> tuple[Any, bool]:
    """What the attack gives for copies of the images, and whether it changed them in place."""
    images, labels = ops.convert_to_tensor(x.copy()), ops.convert_to_tensor(y.astype(np.int32))
    try:
        with _limited(time_limit):
            given = parts.attack(parts.attacked, images, labels, parts.threat)
    except AttackError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise AttackError(
            f"the attack {describe(parts.attack)} raised {type(error).__name__}: {error} "
            f"({last.filename}, line {last.lineno})"
        ) from error
    return given, not np.array_equal(ops.convert_to_numpy(images), x)


def _checked(verdict: Verdict, parts: _Parts) -> list[EvaluationWarning]:
    """Warnings about the attack, from running it again on the first of the attacked images."""
    rows = verdict.rows[verdict.attacked][: checks.IMAGES]
    x = images_of(parts.dataset, rows["index"])
    attempt = checks.Attempt(
        parts.attacked, parts.attack, parts.threat, x, rows["label"], rows["success"]
    )
    warnings = checks.look(attempt, parts.transfer_from)
    return warnings + checks.few_images(verdict.success_rate)


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
    """Put an attack in words: PGD(steps=40, ...), or a function's name and arguments."""
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

"""Judge adversarial images that others made: from a file, or by an attack that ran apart."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sparring import backend
from sparring.attacks import Wrapped
from sparring.data import Dataset
from sparring.defenses.defense import Defense
from sparring.errors import AttackError, RunError, SettingsError
from sparring.evaluation import apart, checks, folder, port, trace
from sparring.evaluation.apart import Handed
from sparring.evaluation.evaluate import Prepared, Progress, share_of, show, take_over
from sparring.evaluation.request import EvaluationRequest
from sparring.evaluation.submission import Contents, Pictures, Submission
from sparring.evaluation.verdict import Verdict, images_of
from sparring.runs.records import EvaluationWarning, VerdictRecord
from sparring.threat import ThreatModel, checked_threat
from sparring.training import notebook

ISOLATION = "images"
"""How a verdict of a file of images says that no attack ran."""

_MOST_NAMED = 10


@backend.isolated
def judge(
    defense: Defense | str | Path,
    file: str | Path,
    threat: ThreatModel | None = None,
    dataset: Dataset | str | None = None,
    n: int = 100,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Verdict:
    """Judge adversarial images from a file, without running any attack.

    Args:
        defense: a Defense, the path of its run directory or its name.
        file: a safetensors file or an .npz with images float [N, H, W, C] in [0, 1], or uint8, as
            "adversarial", or by any name where it is the only array, and if wanted, their indices
            among the test images, integers [N], as "index"; or a folder or .tar (.tar.gz, .tgz) of
            PNG named by the index of their test image, as 17.png. Images without an index are those
            of the test images that are judged, in their order; of the first M test images where
            there are more.
        threat: Linf(eps) or L2(eps); None takes Linf with the data set's usual eps.
        dataset: a Dataset or what `sparring.data.load` takes; None takes the defense's own.
        n: how many test images, from the first. One without an image in the file is a failure.
        progress: is called with what is being done.
        options: eight_bit=True, to judge also after rounding to what a PNG holds; and of
            `EvaluationRequest` images, draws, seed, batch_size, data_dir, other_data, model,
            resize, code, runs, norm, eps, out, save, force and wait. Nothing is written without
            `out` or save=True.

    Returns:
        The verdict. The seed of a stochastic defense's draws is taken from the system once the
        file is read, unless it is given; with the seed of a verdict everything repeats.

    Raises:
        SettingsError: an argument is wrong; or the file holds PNG, and Pillow is not installed.
        DataError: the data set is, or the file as a whole cannot be read.
        RunError: the run cannot be loaded or changed meanwhile, or `out` holds another verdict.
    """
    if isinstance(defense, Wrapped):
        raise SettingsError("defense: expected one without a wrapper, as it is the one to judge")
    if wrong := sorted({*options} - _OPTIONS):
        raise SettingsError(
            f"unknown option of judge {wrong[0]!r:.80}. Valid: {', '.join(sorted(_OPTIONS))}."
        )
    options = {"save": options.get("out") is not None, **options}
    eight_bit = options.pop("eight_bit", False)
    if threat is not None:
        options = {"norm": checked_threat(threat).norm, "eps": threat.eps, **options}
    path = Path(file).expanduser()
    request = EvaluationRequest(defense, str(path), data=dataset, n=n, **options)
    return judge_images(request, progress or notebook.counter(), eight_bit)


_OPTIONS = {
    *("images", "draws", "seed", "batch_size", "data_dir", "other_data", "runs", "norm", "eps"),
    *("model", "resize", "code"),
    *("out", "save", "force", "wait", "eight_bit"),
}


@backend.isolated
def judge_images(request: EvaluationRequest, tell: Progress, eight_bit: bool = False) -> Verdict:
    """Judge adversarial images from the file that a request has for an attack.

    Args:
        request: the evaluation; it is not looked for signs to distrust it.
        tell: is told what is being done.
        eight_bit: whether they are judged also after rounding to what a PNG holds.

    Raises:
        SparringError: what `judge` raises.
    """
    path = Path(request.attack)
    contents = Contents.of(path)
    submission = Submission(path, contents.sha256, {})
    request = replace(request, attack=submission, check=False, transfer=False)
    return _judged(request, contents, eight_bit, tell)


def _judged(
    request: EvaluationRequest, contents: Contents, eight_bit: bool, tell: Progress
) -> Verdict:
    """Judge the images of a file; the steps in their order."""
    ready = Prepared.of(request, tell, isolation=ISOLATION)
    info = ready.parts.defense.info
    pictures = contents.pictures(info.shape, ready.index)
    with ready.held(request.wait):
        # One of the same file is judged anew: that takes seconds, and believes nothing.
        folder.earlier(ready.folder, ready.about, ready.index, request.force, repeatable=True)
        begun = time.perf_counter()
        tell(0, 0, f"Judging {len(pictures.images)} images of {contents.path}.")
        verdict = settled(ready.with_seed_drawn(), pictures, request.batch_size, eight_bit)
        expect_unchanged(ready.parts.defense)
        verdict.seconds = time.perf_counter() - begun
        verdict.save(finished=True)
        show(request, ready.parts, ready.judge, verdict, tell)
    return verdict


@backend.isolated
def judge_apart(request: EvaluationRequest, tell: Progress) -> Verdict:
    """Let the attack of a file run apart, and judge the images that it hands over.

    Args:
        request: the evaluation.
        tell: is told how far it is.

    Returns:
        The verdict. Images that it did not hand over are failures; a warning says why.

    Raises:
        AttackError: it handed over none, or changed what judges it.
        SparringError: what `evaluate` raises else.
    """
    ready = Prepared.of(request, tell)
    parts = ready.parts
    if parts.defense.path is None:
        raise SettingsError("defense: expected a run directory, for an attack that runs apart")
    with ready.held(request.wait):
        before, chunks = ready.earlier(request)
        finished = before is not None and before.finished
        if before is not None and before.finished and before.drawn:
            ready = ready.with_seed(before.seed)
        x, y = images_of(parts.dataset, ready.index), parts.dataset.y_test[ready.index]
        rows = ready.judge.clean_rows(ready.index, x, y)
        verdict = Verdict(ready.about, rows, x, folder=ready.folder, name=parts.label)
        # In the draws of seed 0, as nobody knows the judge's yet: what may be attacked in others.
        share = share_of(verdict.clean > 0, request)
        earlier = (
            {} if before is None or ready.folder is None else {ready.folder: before}
        ) | chunks
        known = _known(verdict, earlier)
        traced = not request.trace or _has_trace(verdict)
        looked = finished and before is not None and before.checked >= request.check
        if finished and traced and (looked or request.chunk is not None):
            return _again(request, ready, verdict, earlier, tell)
        if earlier:
            tell(0, 0, f"Going on with the evaluation in {ready.folder}.")
        given = {
            "index": ready.index[share],
            "there": np.isin(ready.index[share], known.index) | finished,
            "adversarial": known.aligned(ready.index)[0][share],
        }
        handed = _attacked(request, ready, given, tell)
        own = ready.with_seed_drawn()
        pictures = _together(known, handed, ready.index[share])
        before_it = verdict
        verdict = settled(own, pictures, request.batch_size)
        verdict.seconds = before_it.seconds + handed.seconds
        verdict.forward = before_it.forward + handed.forward
        verdict.backward = before_it.backward + handed.backward
        _add_signs(request, verdict, handed)
        compared = share[: port.IMAGES]
        verdict.port = port.compared(own.judge, x[compared], y[compared], handed.port)
        if request.chunk is not None:
            outside = verdict.attacked & ~np.isin(np.arange(len(x)), share)
            verdict.rows["reason"][outside] = ""
        expect_unchanged(parts.defense)
        verdict.save(finished=handed.interrupt is None)
        if handed.interrupt is not None:
            raise handed.interrupt
        _show(request, own, verdict, tell, handed)
        if request.chunk is None:
            folder.drop_chunks(ready.folder)
    return verdict


def _attacked(
    request: EvaluationRequest, ready: Prepared, given: dict[str, np.ndarray], tell: Progress
) -> Handed:
    """Let the attack run on its own copy of the run; AttackError where nothing comes of it."""
    parts, where = ready.parts, ready.folder
    submission, source = parts.submission, parts.transfer_from
    assert submission is not None
    assert parts.defense.path is not None
    if not len(given["index"]):
        nothing = given["adversarial"], given["index"]
        return Handed(*nothing, looked=True)
    request = replace(
        request,
        check=request.check and request.chunk is None,
        trace=request.trace and request.chunk is None,
        transfer_from=None if source is None else source.path,
        code=parts.defense.code(),
    )
    if where is not None:
        where.mkdir(parents=True, exist_ok=True)
    files = _files(parts.defense, where)
    log = None if where is None else where / folder.LOG
    handed = apart.attacked(request, parts.defense.path, submission, given, log, tell)
    if (changed := _files(parts.defense, where)) != files:
        names = sorted(str(path) for path, _ in files.items() ^ changed.items())
        raise AttackError(
            f"the attack {submission} changed files of its judge, and there is no verdict: "
            f"{', '.join(names[:_MOST_NAMED])}"
        )
    if handed.ended and not (len(handed.index) or handed.wrong or given["there"].any()):
        if handed.interrupt is not None:
            raise handed.interrupt
        error = AttackError(f"the attack {submission} handed over no images: {handed.ended}")
        error.add_note(handed.traceback)
        raise error
    return handed


def _files(defense: Defense, where: Path | None) -> dict[Path, str]:
    """Hashes of the files that a defense is loaded from and of those in a verdict's folder."""
    paths = defense.files
    if where is not None:
        paths += [path for path in where.iterdir() if path.name != folder.LOG]
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(paths)
        if path.is_file() and path.name != ".lock"
    }


def _known(verdict: Verdict, earlier: Mapping[Path, VerdictRecord]) -> Pictures:
    """Take from earlier evaluations their images, and nothing else but why there were none."""
    images, index, none = [verdict.adversarial[:0]], [verdict.index[:0]], dict[int, str]()
    seen = np.zeros(len(verdict.index), bool)
    for place, record in earlier.items():
        told, adversarial = verdict.resume(record, place)
        came = ~seen & (told["reason"] != "") & told["attacked"]
        seen |= came
        unmoved = (adversarial == verdict.adversarial).all(axis=(1, 2, 3))
        failed = came & unmoved & (told["success"] == 0)
        none |= dict(zip(verdict.index[failed].tolist(), told["reason"][failed], strict=True))
        images.append(adversarial[came & ~failed])
        index.append(verdict.index[came & ~failed])
    return Pictures(np.concatenate(images), np.concatenate(index), none)


def _together(known: Pictures, handed: Handed, wanted: np.ndarray) -> Pictures:
    """Put images of earlier evaluations and those that were handed over together."""
    ended = f": {handed.ended}" if handed.ended else ""
    missing = dict.fromkeys(wanted.tolist(), f"the attack handed over no image{ended}")
    index = np.concatenate([known.index, handed.index])
    wrong = {
        number: f"the attack handed over no image: {why}" for number, why in handed.wrong.items()
    }
    reasons = missing | dict(known.unreadable) | wrong
    return Pictures(
        np.concatenate([known.images, handed.images]),
        index,
        {number: why for number, why in reasons.items() if number not in {*index.tolist()}},
    )


def _add_signs(request: EvaluationRequest, verdict: Verdict, handed: Handed) -> None:
    """Add the warnings: those that the attack's process says, and those that follow from rates."""
    verdict.asked = handed.asked
    for warning in handed.warnings:
        verdict.warn(warning)
    if handed.ended:
        text = f"the attack did not come to its end: {handed.ended}; what it handed over was judged"
        verdict.warn(EvaluationWarning(name="ended-early", text=text))
    if request.check and request.chunk is None:
        for warning in checks.of_rates(verdict):
            verdict.warn(warning)
        verdict.checked = handed.looked


def _has_trace(verdict: Verdict) -> bool:
    return verdict.folder is not None and (verdict.folder / trace.FILE).is_file()


def _again(
    request: EvaluationRequest,
    ready: Prepared,
    verdict: Verdict,
    earlier: Mapping[Path, VerdictRecord],
    tell: Progress,
) -> Verdict:
    """Judge what is finished already anew, in the same draws."""
    tell(0, 0, f"Evaluated already: {ready.folder}. --force evaluates anew.")
    fresh = Verdict(ready.about, verdict.rows, verdict.adversarial)
    fresh.folder, fresh.name = verdict.folder, verdict.name
    for place, record in earlier.items():
        take_over(fresh, ready.judge, place, record, request.batch_size)
        fresh.checked, fresh.warnings = record.checked, list(record.warnings)
        fresh.port = record.port
    fresh.drawn = ready.drawn
    _show(request, ready, fresh, tell, None)
    return fresh


def _show(
    request: EvaluationRequest,
    ready: Prepared,
    verdict: Verdict,
    tell: Progress,
    handed: Handed | None,
) -> None:
    """Add what there is to see; what the attack's process saw is written first."""
    verdict.originals = ready.parts.dataset.x_test[ready.index]
    if handed is not None and handed.trace is not None:
        verdict.trace = trace.Trace.of_record(handed.trace)
        if verdict.folder is not None:
            verdict.trace.write(verdict.folder, verdict.about)
    show(replace(request, trace=False), ready.parts, ready.judge, verdict, tell)


def settled(ready: Prepared, pictures: Pictures, size: int, eight_bit: bool = False) -> Verdict:
    """Come to a verdict on adversarial images that are in.

    Args:
        ready: what is judged, its seed drawn.
        pictures: the adversarial images.
        size: of a batch.
        eight_bit: whether they are judged also after rounding to what a PNG holds.

    Returns:
        The verdict, which is not written yet.
    """
    parts, judge = ready.parts, ready.judge
    x, y = images_of(parts.dataset, ready.index), parts.dataset.y_test[ready.index]
    rows = judge.clean_rows(ready.index, x, y)
    verdict = Verdict(ready.about, rows, x, folder=ready.folder, name=parts.label)
    verdict.originals, verdict.drawn = parts.dataset.x_test[ready.index], ready.drawn
    for warning in checks.of_code(parts.defense):
        verdict.warn(warning)
    images, reasons = pictures.aligned(ready.index)
    rows, adversarial = judge.judge_submitted(rows, x, images, reasons, size)
    verdict.rows[:], verdict.adversarial = rows, adversarial
    if extra := pictures.extra(ready.index):
        named = ", ".join(map(str, extra[:_MOST_NAMED])) + ", ..." * (len(extra) > _MOST_NAMED)
        text = f"{len(extra)} images of the file were not asked for: {named}"
        verdict.warn(EvaluationWarning(name="extra-images", text=text))
    if eight_bit:
        verdict.eight_bit = judge.eight_bit(rows, x, adversarial, size)
    return verdict


def expect_unchanged(defense: Defense) -> None:
    """Raise RunError where the weights on disk are not those anymore that a defense has."""
    if defense.weights_sha256 is None:
        return
    sha256 = defense.weights_on_disk()
    if sha256 is not None and sha256 != defense.weights_sha256:
        raise RunError(
            f"{defense.path}: expected the weights that were judged, with SHA-256 "
            f"{defense.weights_sha256}, found others with {sha256}; there is no verdict"
        )

"""Judge adversarial images from a file; no code of an attack runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sparring import backend
from sparring.attacks import Wrapped
from sparring.data import Dataset
from sparring.defenses.defense import Defense
from sparring.errors import RunError, SettingsError
from sparring.evaluation import folder
from sparring.evaluation.evaluate import Prepared, Progress, show
from sparring.evaluation.request import EvaluationRequest
from sparring.evaluation.submission import Contents, Pictures, Submission
from sparring.evaluation.verdict import Verdict, images_of
from sparring.runs.directory import Run
from sparring.runs.files import read_tensors
from sparring.runs.records import EvaluationWarning
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
            `EvaluationRequest` images, draws, seed, batch_size, data_dir, other_data, runs, norm,
            eps, out, save, force and wait. Nothing is written without `out` or save=True.

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
    contents = Contents.of(path)
    submission = Submission(path, contents.sha256, {})
    request = EvaluationRequest(
        defense, submission, data=dataset, n=n, check=False, transfer=False, **options
    )
    return _judged(request, contents, eight_bit, progress or notebook.counter())


_OPTIONS = {
    *("images", "draws", "seed", "batch_size", "data_dir", "other_data", "runs", "norm", "eps"),
    *("out", "save", "force", "wait", "eight_bit"),
}


def _judged(
    request: EvaluationRequest, contents: Contents, eight_bit: bool, tell: Progress
) -> Verdict:
    """Judge the images of a file; the steps in their order."""
    ready = Prepared.of(request, tell, isolation=ISOLATION)
    info = ready.parts.defense.info
    pictures = contents.pictures(info.shape, ready.index)
    with folder.held(ready.folder, request.wait):
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
    if defense.path is None or defense.weights_sha256 is None:
        return
    file = Run(defense.path).weights_file
    _, _, sha256 = read_tensors(file)
    if sha256 != defense.weights_sha256:
        raise RunError(
            f"{file}: expected the weights that were judged, with SHA-256 "
            f"{defense.weights_sha256}, found others with {sha256}; there is no verdict"
        )

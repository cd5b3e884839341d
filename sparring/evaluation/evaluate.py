"""Evaluate: clean answers, the attack on what is answered correctly, the judge, the verdict."""

from __future__ import annotations

import copy
import hashlib
import inspect
import math
import secrets
import shlex
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sparring import attacks, backend, defenses
from sparring import data as datasets
from sparring.attacks import Attack, Wrapped, watching
from sparring.attacks.options import RUN
from sparring.backend import ops
from sparring.data import Dataset, name_of
from sparring.data.usual import default_threat
from sparring.defenses.defense import Defense
from sparring.defenses.sources import is_name
from sparring.errors import (
    AttackError,
    RunError,
    SettingsError,
    SparringError,
    kind_of,
    printable,
    shown,
    told,
)
from sparring.evaluation import checks, folder, page, trace
from sparring.evaluation import isolation as isolations
from sparring.evaluation.guard import Guard, second_copy
from sparring.evaluation.judge import Judge
from sparring.evaluation.request import EvaluationRequest, is_directory
from sparring.evaluation.submission import Submission
from sparring.evaluation.verdict import Verdict, images_of
from sparring.experiments.dataset import of_run
from sparring.experiments.load import load
from sparring.runs.directory import Run
from sparring.runs.files import write_atomically
from sparring.runs.records import (
    IN_PROCESS,
    LONGEST_REASON,
    MOST_IMAGES,
    MOST_TRACED,
    TO_BE_DRAWN,
    VERDICT_PAGE,
    Evaluated,
    EvaluationWarning,
    ThreatRecord,
    VerdictRecord,
    short_name,
    verdict_folder,
)
from sparring.threat import ThreatModel, checked_threat, threat_model
from sparring.training import notebook
from sparring.training.threads import Threads, candidates
from sparring.version import __version__

_SECONDS_BETWEEN_SAVES = 10
_BITS_OF_SEED = 48  # nobody can try so many, and every reader of JSON keeps them

Progress = Callable[[int, int, str], None]
"""Progress callback (images_done, images_total, message)."""


@backend.isolated
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
        defense: a Defense, the path of its run directory or its name; a file with the class of a
            trained one, as "mydefense.py"; a wrapper around a Defense,
            such as EOT(defense), which the attack is given while the defense itself is judged; what
            names a model of one's own, as "model.py:build", see `Defense.of`; or a request, which
            says everything but `progress`.
        attack: any callable (defense, x, y, threat) -> x_adv, see `sparring.attacks`; or the name
            of one of ours, or of a file.
        threat: Linf(eps) or L2(eps); None takes Linf with the data set's usual eps.
        dataset: a Dataset or what `sparring.data.load` takes; None takes the defense's own. One
            with other test images is refused unless other_data=True is among the options.
        n: how many test images, from the first.
        progress: is called after every batch; None shows in a notebook how far it is.
        options: the other fields of `EvaluationRequest`, such as images, draws, batch_size, seed,
            check, trace, time_limit. Other than in a request, nothing is written without `out` or
            save=True, and no transfer is tried without `transfer_from` or transfer=True.

    Returns:
        The verdict. With `out` it is in that folder too, written as it goes. One that is there of
        the same evaluation is gone on with, or given back where it is finished; another finished
        one is replaced with force=True alone.

    Raises:
        SettingsError: an argument is wrong.
        DataError: the data set is.
        RunError: the run cannot be loaded, or `out` holds something else or cannot be written.
        AttackError: the attack raised or ran past the limit; what was judged is in `out`. Or it
            changed the defense, which was put back as it was; there is no verdict.
    """
    if "data" in options:
        raise SettingsError("data: give it as dataset")
    if not isinstance(defense, EvaluationRequest):
        for name, given in (("save", "out"), ("transfer", "transfer_from")):
            options = {name: options.get(given) is not None, **options}
        if threat is not None:
            options = {"norm": checked_threat(threat).norm, "eps": threat.eps, **options}
        request = EvaluationRequest.of(defense, attack=attack, data=dataset, n=n, **options)
    elif (attack, threat, dataset, n, options) == ("pgd", None, None, 100, {}):
        request = defense
    else:
        raise SettingsError("expected nothing but progress beside an EvaluationRequest")
    if request.runs_apart:
        from sparring.evaluation import judging  # which builds on this module

        return judging.judge_apart(request, progress or notebook.counter())
    return _run(request, progress or notebook.counter())


def _run(request: EvaluationRequest, tell: Progress) -> Verdict:
    """Evaluate; the steps in their order."""
    ready = Prepared.of(request, tell)
    parts, judge, where = ready.parts, ready.judge, ready.folder
    x, y = images_of(parts.dataset, ready.index), parts.dataset.y_test[ready.index]
    with ready.held(request.wait):
        before, chunks = ready.earlier(request)
        earlier = ({} if before is None or where is None else {where: before}) | chunks
        threads = threads_for(request, parts.defense, x, earlier.values())
        with threads.in_use():
            rows = judge.clean_rows(ready.index, x, y)
            verdict = Verdict(ready.about, rows, x, folder=where, name=parts.label)
            verdict.originals = parts.dataset.x_test[ready.index]
            for warning in checks.of_code(parts.defense):
                verdict.warn(warning)
            for place, record in earlier.items():
                take_over(verdict, judge, place, record, request.batch_size)
        checks.asked(parts.attacked).update(verdict.asked)
        share = share_of(verdict.attacked, request)
        if before is not None and before.finished:
            verdict.checked = before.checked
            done = (verdict.reason[share] != "").all()
            if done and (verdict.checked >= request.check or request.chunk is not None):
                folder.drop_chunks(where)  # a kill may have left them
                tell(0, 0, f"Evaluated already: {where}. --force evaluates anew.")
                with threads.in_use():
                    show(request, parts, judge, verdict, tell)
                return verdict
        if earlier:
            tell(0, 0, f"Going on with the evaluation in {where}.")
        verdict.threads = threads.count
        with threads.in_use():
            _attack_all(request, parts, judge, verdict, share, tell)
            if before is None and where is not None:
                (where / trace.FILE).unlink(missing_ok=True)  # of an earlier evaluation
            show(request, parts, judge, verdict, tell)
        if request.chunk is None:
            folder.drop_chunks(where)
    return verdict


def show(
    request: EvaluationRequest, parts: Parts, judge: Judge, verdict: Verdict, tell: Progress
) -> None:
    """Add what there is to see to a finished verdict: margins, the trace, the picture, the page.

    Args:
        request: of the evaluation.
        parts: what its names stand for.
        judge: who judged.
        verdict: the verdict, whose folder gets the files.
        tell: is told what takes time.
    """
    if request.chunk is not None or (verdict.folder is None and not request.trace):
        return  # a chunk is seen when its verdict is put together
    shown = verdict.attacked & (verdict.answer >= 0)
    verdict.margin = np.full(len(shown), np.nan)
    if shown.any():
        few = replace(judge, seeds=judge.seeds[: trace.DRAWS])
        verdict.margin[shown] = trace.margins_of(
            few, verdict.adversarial[shown], verdict.label[shown]
        )
    first = np.flatnonzero(verdict.attacked)[:MOST_TRACED]
    if verdict.folder is not None:
        images = verdict.index[first].tolist()
        verdict.trace = trace.Trace.read(verdict.folder, verdict.about, images)
    if request.trace and verdict.trace is None:
        tell(0, 0, f"Attacking the first {len(first)} of these images once more, to see each step.")
        verdict.trace = traced(request, parts, judge, verdict, first)
        if verdict.folder is not None:
            verdict.trace.write(verdict.folder, verdict.about)
    verdict.write_picture(parts.dataset)
    if verdict.folder is not None:
        text = page.html(verdict).encode(errors="backslashreplace")
        write_atomically(verdict.folder / VERDICT_PAGE, text)


def traced(
    request: EvaluationRequest, parts: Parts, judge: Judge, verdict: Verdict, rows: np.ndarray
) -> trace.Trace:
    """Run an attack once more, on some images alone, and watch it; the verdict stays.

    Args:
        request: the evaluation.
        parts: what its names stand for.
        judge: who judges.
        verdict: the verdict.
        rows: of it, int [M], MOST_TRACED at most.

    Returns:
        What they went through.
    """
    index, y = verdict.index[rows], verdict.label[rows]
    x = images_of(parts.dataset, index)
    tracer = trace.Tracer(judge, index, x, y)
    watched = replace(parts, attacked=watching.watched(parts.unobserved, tracer))
    problem = ""
    try:
        if len(rows):
            with _guarded(Guards.of(parts), parts.attack):
                given, _ = _attack(watched, x, y, request.time_limit)
            tracer.given(given)
    except AttackError as error:  # as one that needs more images; the verdict does not hang on it
        problem = printable(f"on these images alone, {error}")[:LONGEST_REASON]
    return tracer.trace(problem)


def take_over(
    verdict: Verdict, judge: Judge, place: Path, record: VerdictRecord, batch_size: int
) -> None:
    """Take over what an earlier evaluation, or a chunk, left in a folder, and judge it anew.

    Args:
        verdict: is filled in.
        judge: who judges.
        place: the folder.
        record: the verdict in it.
        batch_size: images that are judged at a time.
    """
    told, images = verdict.resume(record, place)
    verdict.asked = sorted({*verdict.asked, *record.asked})[:2]
    rows = np.flatnonzero((verdict.reason == "") & (told["reason"] != ""))
    # In the batches that were judged before, so that answers are the same bits.
    for first in range(0, len(rows), batch_size):
        batch = rows[first : first + batch_size]
        x = verdict.adversarial[batch]  # until now the images themselves
        verdict.rows[batch] = judge.again(verdict.rows[batch], x, images[batch], told[batch])
        verdict.adversarial[batch] = images[batch]


def share_of(attacked: np.ndarray, request: EvaluationRequest) -> np.ndarray:
    """Give the rows, int [M], that are to be attacked: all that are, or a chunk of whole batches.

    Args:
        attacked: which rows of the verdict are, bool [N].
        request: the evaluation.
    """
    rows = np.flatnonzero(attacked)
    if request.chunk is None:
        return rows
    starts = np.arange(0, len(rows), request.batch_size)
    own = np.array_split(starts, request.chunks)[request.chunk]
    return rows[own[0] : own[-1] + request.batch_size] if len(own) else rows[:0]


def threads_for(
    request: EvaluationRequest, defense: Defense, x: np.ndarray, earlier: Iterable[VerdictRecord]
) -> Threads:
    """Choose how many threads to compute with, by answers to a batch of images.

    Args:
        request: the evaluation.
        defense: the defense.
        x: images [N, H, W, C].
        earlier: what there is of the same evaluation already, which chose.
    """
    batch = x[: request.batch_size]
    size = math.prod(batch.shape[:3]) * defense.size
    threads = Threads(candidates(size, request.threads), asked=request.threads is not None)
    if counts := [before.threads for before in earlier if before.threads is not None]:
        threads.go_on(counts[0])
    if threads.undecided and len(batch) and backend.devices()[0] == "cpu":
        with threads.in_use():
            threads.choose(lambda: defense.classify(batch))
    return threads


def _attack_all(
    request: EvaluationRequest,
    parts: Parts,
    judge: Judge,
    verdict: Verdict,
    share: np.ndarray,
    tell: Progress,
) -> None:
    """Attack what is left of a share, by batches, then check; the verdict is written as it goes."""
    start, saved = time.perf_counter() - verdict.seconds, time.monotonic()
    guards = Guards.of(parts)
    left = share[verdict.reason[share] == ""]
    total = len(share)
    done = total - len(left)
    tell(done, total, "attacking")
    if request.time_limit is not None and not _can_be_limited():
        verdict.warn(checks.TIME_LIMIT)
    try:
        batches = attack_batches(
            *(request, parts, verdict, left, guards), lambda text: tell(done, total, text)
        )
        for batch, given, changed in batches:
            x = images_of(parts.dataset, verdict.index[batch])
            verdict.rows[batch], verdict.adversarial[batch] = judge.judge(
                verdict.rows[batch], x, given
            )
            if changed:
                verdict.warn(checks.CHANGED_INPUT)
            if guards.changed:
                verdict.warn(checks.changed_defense(guards.changed))
            verdict.asked = sorted(checks.asked(parts.attacked))[:2]
            verdict.seconds = time.perf_counter() - start
            done += len(batch)
            judged = verdict.attacked & (verdict.reason != "")
            tell(done, total, f"success {100 * float(np.mean(verdict.success[judged])):.1f} %")
            if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                verdict.save(finished=False)
                saved = time.monotonic()
        if request.check and request.chunk is None:
            tell(done, total, "looking for signs to distrust the result")
            with _guarded(guards, parts.attack):
                verdict.warnings += checked(verdict, parts)
            verdict.checked = True
        with _guarded(guards, parts.attack):
            pass  # what runs on, as in a thread, may have changed it since
    except _Cheated:
        raise
    except BaseException:
        if done:
            verdict.save(finished=False)
        raise
    verdict.seconds = time.perf_counter() - start
    verdict.save(finished=True)


def attack_batches(
    request: EvaluationRequest,
    parts: Parts,
    verdict: Verdict,
    left: np.ndarray,
    guards: Guards | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[tuple[np.ndarray, Any, bool]]:
    """Attack images by batches, which get smaller where memory is short.

    Args:
        request: the evaluation.
        parts: what its names stand for.
        verdict: whose images they are; it is warned of what is short.
        left: the rows of it, int [M].
        guards: look after each batch for what the attack changed.
        tell: is told when memory is short.

    Yields:
        The rows of a batch, what the attack returned, and whether it changed its input in place.
    """
    size, passes = request.batch_size, attacks.unwrapped(parts.unobserved)[0].passes
    while len(left):
        batch = left[:size]
        x, y = images_of(parts.dataset, verdict.index[batch]), verdict.label[batch]
        forward, backward = passes.forward, passes.backward
        try:
            with nullcontext() if guards is None else _guarded(guards, parts.attack):
                given, changed = _attack(parts, x, y, request.time_limit)
        except _ShortOfMemory:
            if len(batch) == 1:
                raise
            size = len(batch) // 2
            tell(f"memory is short: going on with {size} images at a time")
            verdict.warn(checks.SHORT_OF_MEMORY)
            continue
        left = left[len(batch) :]
        verdict.forward += passes.forward - forward
        verdict.backward += passes.backward - backward
        yield batch, given, changed


# What the request's names stand for


@dataclass(frozen=True)
class Prepared:
    """An evaluation that can begin.

    Attributes:
        parts: what its request's names stand for.
        judge: who judges.
        about: what is evaluated.
        index: on which test images, int [N].
        folder: where its verdict is written, or a chunk of it; None for nowhere.
        drawn: whether the judge's seed was drawn from the system.
    """

    parts: Parts
    judge: Judge
    about: Evaluated
    index: np.ndarray
    folder: Path | None
    drawn: bool = False

    @classmethod
    def of(
        cls,
        request: EvaluationRequest,
        tell: Progress,
        dataset: Dataset | None = None,
        isolation: str | None = None,
    ) -> Prepared:
        """Load and check what a request needs.

        Args:
            request: the evaluation.
            tell: is told what is left out.
            dataset: the request's data set, where it is loaded already.
            isolation: how the attack is kept from the judge; None says it by the request.

        Raises:
            SparringError: what `evaluate` raises before it attacks.
        """
        parts = Parts.of(request, tell, dataset)
        index = _index(request, len(parts.dataset.x_test))
        seed = request.seed or 0
        judge = Judge.of(parts.defense, parts.threat, request.draws, seed)
        if parts.submission is not None and parts.defense.stochastic:
            seed = TO_BE_DRAWN if request.seed is None else seed
        if isolation is None:
            isolation = isolations.means(request.sandbox) if request.runs_apart else IN_PROCESS
        about = parts.about(judge.draws, seed, isolation)
        where = _folder(request, parts, about, index)
        if where is not None and request.chunk is not None:
            where = folder.chunk_folder(where, request.chunk, request.chunks)
        return cls(parts, judge, about, index, where)

    def with_seed(self, seed: int) -> Prepared:
        """Give one whose judge's draws follow from a seed that was drawn."""
        judge = Judge.of(self.judge.defense, self.judge.threat, self.judge.draws, seed)
        about = self.about.model_copy(update={"seed": seed})
        return replace(self, judge=judge, about=about, drawn=True)

    def with_seed_drawn(self) -> Prepared:
        """Draw the judge's seed from the system, where that was left for when the images are in."""
        if self.about.seed != TO_BE_DRAWN:
            return self
        return self.with_seed(secrets.randbits(_BITS_OF_SEED))

    @contextmanager
    def held(self, wait: float) -> Iterator[None]:
        """Hold the verdict's folder, see `folder.held`; what the run's folder is, is written there.

        Args:
            wait: seconds to wait for another process that holds it.
        """
        with folder.held(self.folder, wait):
            run, where = self.parts.defense.path, self.folder
            if run is not None and where is not None and where.is_relative_to(run.absolute()):
                self.parts.defense.register()
            yield

    def same(self, other: Prepared) -> bool:
        """Whether another one is of the same evaluation."""
        return self.about == other.about and np.array_equal(self.index, other.index)

    def earlier(
        self, request: EvaluationRequest
    ) -> tuple[VerdictRecord | None, dict[Path, VerdictRecord]]:
        """Read what there is of it already: its verdict, and its chunks by their folders.

        Raises:
            RunError: the folder holds another verdict that is not to be replaced, or is damaged.
        """
        known, force = self.parts.repeatable, request.force
        before = folder.earlier(self.folder, self.about, self.index, force, known)
        # Those of a plan are new, even where a finished verdict is to be replaced.
        usable = known and (request.chunks > 1 or not force)
        chunks = folder.chunks_in(self.folder, self.about, self.index) if usable else {}
        return before, chunks


@dataclass(frozen=True)
class Parts:
    """What a request's names stand for.

    The attack is given `attacked`: the defense in its `wrappers`, which is `unobserved`, or that
    observed; within them, where the attack is not one of ours, is a second copy of it. `repeatable`
    says whether the attack is known well enough to tell it from any other.
    """

    defense: Defense
    attacked: Defense | Wrapped
    unobserved: Defense | Wrapped
    wrappers: str
    attack: Attack
    threat: ThreatModel
    dataset: Dataset
    transfer_from: Defense | None
    word: str
    label: str
    repeatable: bool

    @classmethod
    def of(cls, request: EvaluationRequest, tell: Progress, dataset: Dataset | None) -> Parts:
        """Load and check them; the data set only where none is given."""
        attacked, attack = request.defense, request.attack
        if request.is_of_model:
            attacked, dataset = _model(request, dataset, tell)
        elif isinstance(attacked, str):
            attacked = loaded(request)
        defense, wrappers = attacks.unwrapped(attacked)  # the judge asks the defense itself
        plain = not isinstance(attacked, Wrapped) or _identified(attacked, defense)
        if not (request.runs_apart or _is_ours(request.attack)):
            twin = second_copy(defense)
            attacked = attacked.around(twin) if isinstance(attacked, Wrapped) else twin
        unobserved = attacked
        if request.check and defense.stochastic:
            attacked = checks.observed(attacked)
        if request.runs_apart:
            attack = Submission.of(Path(attack), request.options)
        elif isinstance(attack, str):
            attack = attacks.get(attack, request.options, defense)
        elif not isinstance(attack, Submission):
            attack = attacks.checked(attack)
        attack = _with_runs(attack)
        if request.min_eps:
            attack = attacks.Smallest(attack)
        given = request.data if dataset is None else dataset
        dataset = of_run(
            defense.info,
            given,
            request.data_dir,
            who=defense.name,
            other=request.other_data,
            tell=lambda text: tell(0, 0, text),
        )
        said = dataset.notes if given is not None else ()  # else they were said in training
        for note in (*said, *defense.remarks):
            tell(0, 0, note)
        if request.eps is None:
            threat = default_threat(request.norm, dataset.key, dataset.name)
        else:
            threat = threat_model(request.norm, request.eps)
        source = _transfer_source(request, defense, tell)
        by_name = isinstance(request.attack, str | Submission)
        if isinstance(request.attack, Submission):
            word = request.attack.name
        else:
            word = Path(request.attack).stem if by_name else short_name(describe(request.attack))
        label = " ".join([word, *request.unusual(), *([f"on {wrappers}"] if wrappers else [])])
        repeatable = plain and defense.told_apart and (by_name or _identified(attack))
        return cls(
            *(defense, attacked, unobserved, wrappers, attack, threat, dataset, source),
            *(word, label, repeatable),
        )

    @property
    def submission(self) -> Submission | None:
        """What is judged in place of an attack that runs here, if that is so."""
        attack = self.attack.attack if isinstance(self.attack, attacks.Smallest) else self.attack
        return attack if isinstance(attack, Submission) else None

    def about(self, draws: int, seed: int, isolation: str) -> Evaluated:
        """What is evaluated, for the verdict."""
        other = self.dataset.has_test_images_of(self.defense.info) is False
        return Evaluated(
            defense=self.defense.name,
            run=str(Run(self.defense.path).shown) if self.defense.path else None,
            weights_sha256=self.defense.weights_sha256,
            model=self.defense.described,
            code_sha256=None if self.defense.origin is None else self.defense.origin.sha256,
            attack=describe(self.attack) + (self.wrappers and f" on {self.wrappers}"),
            attack_sha256=_source_hash(self.submission or self.attack),
            threat=ThreatRecord(norm=self.threat.norm, eps=self.threat.eps),
            dataset=self.dataset.info.as_json() | ({"other_data": True} if other else {}),
            seed=seed,
            draws=draws,
            backend=backend.name,
            sparring=__version__,
            isolation=isolation,
        )


def _model(
    request: EvaluationRequest, dataset: Dataset | None, tell: Progress
) -> tuple[Defense, Dataset]:
    """Take the model that a request names, and load the data set that it is for."""
    if dataset is None:
        if request.data is None:
            raise SettingsError(
                f"data: expected the data set that {request.defense} is for (--data NAME|FILE|"
                "FOLDER), got none"
            )
        data: Any = request.data
        dataset = datasets.load(
            data, request.data_dir, request.resize, lambda text: tell(0, 0, text)
        )
    model = Defense.of(request.defense, dataset, **request.model)
    # As a defense's name leads to its run. Verdicts on it lie there, and a baseline may be beside.
    model.path = (Path(request.runs) / dataset.name / model.name).absolute()
    return model, dataset


def loaded(request: EvaluationRequest) -> Defense:
    """Load the run of the defense that a request names, with the class that it names.

    Args:
        request: of an evaluation; its defense is a text.

    Raises:
        SparringError: there is no such defense or run, or it cannot be loaded.
    """
    word, code = request.defense, request.code
    if code is None and not is_directory(word) and defenses.is_known(word):
        code = word  # which the user named, so that its file may run
    return load(run_directory(request), code)


def run_directory(request: EvaluationRequest) -> Path:
    """Find the run directory of the defense: a path, or where a name's run on the data set lies."""
    word = request.defense
    if is_directory(word):
        return Path(word)
    data = request.data or "digits"
    runs = Path(request.runs) / (data.name if isinstance(data, Dataset) else name_of(data))
    if not defenses.is_known(word) and is_name(word) and Run(runs / word).exists():
        return runs / word  # whose record says which class is missing
    path = runs / defenses.describe(word).name
    if not path.exists():
        out = [] if request.runs == type(request).runs else ["--out", str(request.runs)]
        data = data.name if isinstance(data, Dataset) else data
        command = shlex.join(["sparring", "train", word, "--data", data, *out])
        raise RunError(f"{path}: no such run directory. Train it first: {command}")
    return path


def _transfer_source(
    request: EvaluationRequest, defense: Defense, tell: Progress
) -> Defense | None:
    """The defense whose adversarial images the checks try too."""
    source = request.transfer_from
    if not (request.check and request.transfer):
        return None
    if source is not None:
        source = source if isinstance(source, Defense) else load(source)
        if source.info.shape != defense.info.shape:
            raise SettingsError(
                f"transfer_from: expected a defense of images {list(defense.info.shape)}, got one "
                f"of images {list(source.info.shape)}"
            )
        return source
    if defense.path is None or defense.name == defenses.BASELINE:
        return None
    beside = defense.path.parent / defenses.BASELINE
    if not (beside / "run.json").is_file():
        return None
    try:
        source = load(beside)
    except SparringError as error:
        tell(0, 0, f"The checks leave out images made for the baseline beside it: {error}")
        return None
    return source if source.info.shape == defense.info.shape else None


def _is_ours(attack: Any) -> bool:
    """Whether an attack is one of Sparring's own, or only judged."""
    if isinstance(attack, str):
        return not attack.endswith(".py")
    return isinstance(attack, Submission) or type(attack) in attacks.ATTACKS.values()


def _with_runs(attack: Attack) -> Attack:
    """The attack, with defenses in place of the run directories among its options."""
    if not is_dataclass(attack) or isinstance(attack, type):
        return attack
    runs = {
        part.name: load(run)
        for part in fields(attack)
        if RUN in part.metadata and isinstance(run := getattr(attack, part.name), str)
    }
    return replace(attack, **runs) if runs else attack


def _folder(
    request: EvaluationRequest, parts: Parts, about: Evaluated, index: np.ndarray
) -> Path | None:
    """Where the verdict is written, if anywhere, whatever folder the attack changes to."""
    if not request.save:
        return None
    if len(index) > MOST_IMAGES:
        raise SettingsError(
            f"{'n' if request.images is None else 'images'}: expected at most {MOST_IMAGES:,} in a "
            f"verdict that is written, got {len(index):,}; evaluate some at a time, by images"
        )
    if request.out is not None:
        return request.out.absolute()
    if parts.defense.path is None:
        raise SettingsError("out: expected a folder, as the defense has no run directory; got none")
    threat = parts.threat
    name = verdict_folder(parts.word, threat.norm, threat.eps, request.unusual())
    usual = (parts.defense.path / "attacks" / name).absolute()
    return folder.own_folder(usual, about, index, request.force)


def _index(request: EvaluationRequest, available: int) -> np.ndarray:
    """Indices [N] of the test images to attack, ascending."""
    if request.images is None:
        if request.n > available:
            raise SettingsError(
                f"n: expected at most {available}, the test images; got {request.n}"
            )
        return np.arange(request.n)
    images: Sequence[int] = request.images
    if images and isinstance(images[0], bool):
        if len(images) != available:
            raise SettingsError(
                f"images: expected a mask of {available} booleans, one for each test image; "
                f"got {len(images)}"
            )
        images = np.flatnonzero(images).tolist()
    if not images or min(images) < 0 or max(images) >= available:
        raise SettingsError(
            f"images: expected indices from 0 to {available - 1}, got "
            f"{', '.join(map(str, images)) or 'none'}"
        )
    if twice := sorted(image for image, count in Counter(images).items() if count > 1):
        raise SettingsError(
            f"images: expected each index once, got {', '.join(map(str, twice))} more than once"
        )
    return np.array(sorted(images))


# The attack


def _attack(
    parts: Parts, x: np.ndarray, y: np.ndarray, time_limit: float | None
) -> tuple[Any, bool]:
    """What the attack gives for copies of the images, and whether it changed them in place."""
    images, labels = map(ops.convert_to_tensor, (x.copy(), y.astype(backend.label_dtype)))
    try:
        with _limited(time_limit):
            given = parts.attack(parts.attacked, images, labels, copy.copy(parts.threat))
    except (AttackError, KeyboardInterrupt):
        raise
    except BaseException as error:  # an attack's own, SystemExit, ...
        kind = _ShortOfMemory if _is_short_of_memory(error) else AttackError
        raise kind(
            f"the attack {describe(parts.attack)} raised {told(error)}{attacks.where(error)}"
        ) from error
    try:
        return given, not np.array_equal(ops.convert_to_numpy(images), x)
    except Exception:  # they cannot be read anymore: JAX deletes what is donated
        return given, True


class _ShortOfMemory(AttackError):
    """An attack asked for more memory than there is."""


def _is_short_of_memory(error: BaseException) -> bool:
    """Whether an error says so, in the way of Python or of a framework."""
    if isinstance(error, MemoryError):
        return True
    # torch.OutOfMemoryError; PyTorch on a CPU; tf.errors.ResourceExhaustedError; JAX
    said = f"{type(error).__name__}: {error}"[:10_000]
    signs = ("OutOfMemoryError", "allocate memory", "ResourceExhausted", "RESOURCE_EXHAUSTED")
    return any(sign in said for sign in signs)


def checked(verdict: Verdict, parts: Parts) -> list[EvaluationWarning]:
    """Give warnings about an attack, from running it again on the first of the attacked images.

    Args:
        verdict: what it came to.
        parts: what was attacked, and how.
    """
    rows = verdict.rows[verdict.attacked][: checks.IMAGES]
    x = images_of(parts.dataset, rows["index"])
    # What smaller radii come to says nothing of the attack at the whole one.
    attack = parts.attack.attack if isinstance(parts.attack, attacks.Smallest) else parts.attack
    attempt = checks.Attempt(
        parts.attacked, attack, parts.threat, x, rows["label"], rows["success"]
    )
    return checks.look(attempt, parts.transfer_from) + checks.of_rates(verdict)


class _Cheated(AttackError):
    """An attack changed what judges it."""


class Guards:
    """Guards of the defense that judges and of the copy that an attack has, if it has one.

    Attributes:
        changed: what the attack changed of its own copy, in words, at first.
    """

    def __init__(self, judging: Guard, attacked: Guard | None) -> None:
        """Have found nothing yet."""
        self._judging, self._attacked, self.changed = judging, attacked, list[str]()

    @classmethod
    def of(cls, parts: Parts) -> Guards:
        """Note how both are."""
        attacked, _ = attacks.unwrapped(parts.unobserved)
        own = attacked is not parts.defense
        return cls(
            Guard(parts.defense, parts.threat), Guard(attacked, parts.threat) if own else None
        )

    def restore(self) -> list[str]:
        """Put back what is not as it was; tell what that is of the defense that judges."""
        changed = self._judging.restore()
        own = self._attacked.restore() if self._attacked is not None else []
        self.changed = self.changed or own
        return changed


@contextmanager
def _guarded(guards: Guards, attack: Attack) -> Iterator[None]:
    """Put the defense back as it was after an attack ran; AttackError where it was changed."""
    try:
        yield
    finally:
        changed = guards.restore()
        if changed and not isinstance(sys.exception(), KeyboardInterrupt):
            raise _Cheated(
                f"the attack {describe(attack)} changed the defense that judges it: "
                f"{', '.join(changed[:8])}. The defense was put back as it was, and there is no "
                "verdict; expected an attack that leaves it alone and changes the one that it is "
                "given, and a defense that does not change while it answers"
            )


def _can_be_limited() -> bool:
    """Whether an alarm can end an attack: on POSIX systems, in the main thread."""
    main = threading.current_thread() is threading.main_thread()
    return main and hasattr(signal, "setitimer")


@contextmanager
def _limited(seconds: float | None) -> Iterator[None]:
    """Raise AttackError in the block once it takes longer, where that can be."""
    if seconds is None or not _can_be_limited():
        yield
        return

    def stop(*_: object) -> None:
        raise AttackError(f"the attack ran past its limit of {seconds:g} s for a batch")

    begun, left, every = time.monotonic(), 0.0, 0.0
    before = signal.signal(signal.SIGALRM, stop)
    try:
        left, every = signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # it may ring even now
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:  # somebody else's alarm, which may be due by now
            left = max(left - (time.monotonic() - begun), 1e-3)
            signal.setitimer(signal.ITIMER_REAL, left, every)


def describe(attack: Attack) -> str:
    """Put an attack in words: PGD(steps=40, ...), or a function's name and arguments.

    In one line, whatever its own code gives.
    """
    if isinstance(attack, partial):
        given = ", ".join(
            f"{name}={shown(value, 10_000)}" for name, value in attack.keywords.items()
        )
        words = f"{describe(attack.func)}({given})"
    elif inspect.isfunction(attack):
        words = attack.__name__
    else:
        words = shown(attack, 10_000) if is_dataclass(attack) else kind_of(attack)
    return printable(words)


def _identified(value: Any, known: Any = None) -> bool:
    """Whether the words for an attack or a wrapper, and its file's hash, tell it from any other."""
    if value is known or value is None or isinstance(value, bool | int | float | str):
        return True
    if isinstance(value, tuple | list):
        return all(_identified(part, known) for part in value)
    if not is_dataclass(value) or isinstance(value, type) or _source_hash(value) is None:
        return False
    return all(
        part.repr and _identified(getattr(value, part.name), known) for part in fields(value)
    )


def _source_hash(attack: Any) -> str | None:
    """SHA-256 of the file an attack is defined in: another text is another attack."""
    if isinstance(attack, partial):
        return _source_hash(attack.func)
    if isinstance(attack, Submission):
        return attack.sha256
    try:
        kind = attack if inspect.isfunction(attack) else type(attack)
        return hashlib.sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest()
    except (TypeError, OSError):
        return None

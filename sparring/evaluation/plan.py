"""Look at what there is to evaluate, before a schedule starts it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from sparring import backend, defenses
from sparring.attacks import Attack
from sparring.data import Dataset, name_of
from sparring.errors import RunError, SparringError
from sparring.evaluation import folder
from sparring.evaluation.evaluate import Prepared
from sparring.evaluation.request import (
    EvaluationPlan,
    EvaluationPlanRequest,
    EvaluationRequest,
    PlannedVerdict,
)
from sparring.runs.directory import Run
from sparring.threat import threat_model

_PASSES = 40
"""How often an attack that does not say it asks about an image: as PGD does."""


def plan(request: EvaluationPlanRequest) -> EvaluationPlan:
    """Look at many evaluations; chunks of earlier ones that are of no use are removed now.

    Args:
        request: the evaluations.

    Returns:
        What there is to do; of what cannot be evaluated, why.

    Raises:
        SparringError: for a radius that is none, and for what keeps all from beginning.
        RunError: for all defenses where none is trained.
    """
    for eps in request.eps:  # a slip of the pen, before hours are spent on the others
        threat_model(request.common.norm, eps)
    verdicts: list[PlannedVerdict] = []
    errors: list[SparringError] = []
    begun: dict[Path, Prepared] = {}
    loaded: dict[object, Dataset] = {}  # a large one takes seconds
    for wanted, title in _requests(request):
        try:
            of = wanted.data or (wanted.runs, wanted.defense)
            ready = Prepared.of(wanted, lambda *_: None, loaded.get(of))
            loaded[of] = ready.parts.dataset
            assert ready.folder is not None
            if (other := begun.get(ready.folder)) is not None and not ready.same(other):
                own = folder.other_folder(ready.folder, ready.about, ready.index)
                ready = replace(ready, folder=own)
            if ready.folder not in begun:  # else it was asked for twice
                verdicts.append(_looked_at(wanted, ready, title))
                begun[verdicts[-1].folder] = ready
        except SparringError as error:
            errors.append(error)
            nowhere = Path(f"{title} {len(verdicts)}")
            verdicts.append(
                PlannedVerdict(
                    request=wanted, run=nowhere, folder=nowhere, title=title, error=str(error)
                )
            )
    if len(errors) == len(verdicts) and len({str(error) for error in errors}) == 1:
        raise errors[0]  # an option, say, that no attack takes: told once
    return EvaluationPlan(backend.devices(), verdicts)


def _requests(request: EvaluationPlanRequest) -> Iterator[tuple[EvaluationRequest, str]]:
    """Each evaluation's request, and what people know it by."""
    common = request.common.from_anywhere()
    seeds: Sequence[int | None] = request.seeds or [None]
    radii: Sequence[str | float | None] = request.eps or [common.eps]
    for seed in seeds:
        runs = common.runs if seed is None else common.runs / f"seed-{seed}"
        names = list(dict.fromkeys(request.defenses))
        names = _trained(replace(common, runs=runs)) if names == ["all"] else names
        for name, attack, eps in product(names, request.attacks, radii):
            wanted = replace(common, defense=name, attack=attack, eps=eps, runs=runs)
            radius = "" if eps is None else f", eps {eps}"
            of_seed = "" if seed is None else f", seed {seed}"
            yield wanted.from_anywhere(), f"{Path(attack).stem} on {name}{radius}{of_seed}"


def _trained(request: EvaluationRequest) -> list[str]:
    """The defenses with a finished run on the data set of a request, in its folder of runs."""
    data = request.data or "digits"
    place = request.runs / name_of(data)
    names = [name for name in defenses.names() if Run(place / name).status() == "finished"]
    if not names:
        command = ["sparring", "train", "all", "--data", data, "--out", str(request.runs)]
        raise RunError(
            f"{place}: expected trained defenses, found none. Train them first: "
            f"{shlex.join(command)}"
        )
    return names


def _looked_at(request: EvaluationRequest, ready: Prepared, title: str) -> PlannedVerdict:
    """Fill in what is known of an evaluation that can be made."""
    where, defense = ready.folder, ready.parts.defense
    assert where is not None
    assert defense.path is not None
    before, chunks = ready.earlier(request)
    finished = before is not None and before.finished and before.checked >= request.check
    folder.drop_chunks(where, but=() if finished else chunks)
    done, cut = [], 0
    for place, record in chunks.items():
        number, cut = folder.chunk_of(place)
        done += [number] if record.finished else []
    threads = next((record.threads for record in chunks.values()), None)
    images = math.prod(defense.info.shape[:2]) * len(ready.index)  # pixels of all of them
    return PlannedVerdict(
        # All chunks with as many threads, on which the last bits depend.
        request=replace(
            request,
            defense=request.defense if request.is_of_model else str(defense.path),
            code=defense.code(),
            out=where,
            threads=request.threads or threads,
        ),
        run=defense.path,
        folder=where,
        title=title,
        # What one process began is not cut.
        batches=1 if before is not None else -(-len(ready.index) // request.batch_size),
        chunks=cut,
        done=done,
        work=images * defense.size * len(defense.nets) * _passes(ready.parts.attack),
        status="finished" if finished else "new",
    )


def _passes(attack: Attack) -> int:
    """About how often an attack asks a defense about an image."""
    own = {name: getattr(attack, name, None) for name in ("steps", "restarts", "targets", "draws")}
    counts = [max(1, count) for count in own.values() if isinstance(count, int)]
    queries = getattr(attack, "queries", 0)
    said = math.prod(counts) * bool(counts) + (queries if isinstance(queries, int) else 0)
    return said or _PASSES

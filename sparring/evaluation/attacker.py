"""What the process of an attack does that runs apart: attack, and hand over images.

It evaluates as is done in one's own process, on its own copy of the run, and is believed nothing of
it but the images. Frames go to the judge through a pipe: a letter, the length of what follows, as 8
bytes, and that: JSON, or a safetensors file with images.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from sparring.errors import AttackError, SparringError
from sparring.evaluation import landlock

DATA = 3
"""The descriptor that frames are written to."""

BEGUN, IMAGES, WRONG, ERROR, WARNINGS, TRACE = b"B", b"I", b"W", b"E", b"C", b"T"
"""Kinds of frames: what runs from here on is the attack's; images of a batch; why there are none of
a batch; what the attack raised; warnings of the checks; what there was to see."""

PORT, NO_PORT = b"P", b"N"
"""Kinds of frames too: an answer of the file's port of the defense; and why there is none."""

_DEVICES = ("null", "zero", "shm", "tty", "nvidia*", "dri", "kfd")
"""Below /dev, what may be written to: what frameworks use, of which the judge uses none."""


@dataclass(frozen=True)
class Task:
    """What the process is given, as JSON.

    Attributes:
        request: an evaluation's, of a copy of the run.
        folder: its own, which has `GIVEN` in it.
        attack_sha256: of the attack's file.
        landlock: whether it gives up writing outside of its folder.
    """

    request: Mapping[str, Any]
    folder: str
    attack_sha256: str
    landlock: bool


GIVEN = "given.safetensors"
"""File with `index` of the test images, int [N]; `there`, whether there is an adversarial image of
each already, bool [N]; and `adversarial`, float32 [N, H, W, C]."""


def work() -> None:
    """Work on a task; the process ends when that is done."""
    task = Task(**json.loads(sys.argv[1]))
    if task.landlock:
        devices = [place for name in _DEVICES for place in Path("/dev").glob(name)]
        landlock.restrict([Path(task.folder), *devices])
    try:
        _attack(task)
    except BaseException as error:
        traceback.print_exc()  # into the log
        said = (
            str(error) if isinstance(error, SparringError) else f"{type(error).__name__}: {error}"
        )
        lines = traceback.format_exception(error.__cause__ or error)
        _send_json(ERROR, {"message": said, "traceback": "".join(lines)})


def _attack(task: Task) -> None:
    """Attack what there is no image of yet, then look at what came of it."""
    from sparring.evaluation import checks, port
    from sparring.evaluation import evaluate as evaluating
    from sparring.evaluation.evaluate import Prepared
    from sparring.evaluation.judge import as_images
    from sparring.evaluation.request import EvaluationRequest
    from sparring.evaluation.submission import Submission
    from sparring.evaluation.verdict import Verdict, images_of
    from sparring.runs.records import MOST_TRACED

    request = EvaluationRequest.from_json(task.request)
    file = Path(request.attack)
    # Helpers beside it are found, and nothing of their names in place of what is installed.
    sys.path.append(str(file.parent))
    _send_json(BEGUN, None)
    if Submission.of(file, {}).sha256 != task.attack_sha256:
        raise AttackError(f"{file}: changed meanwhile")
    given = load_file(Path(task.folder) / GIVEN)
    ready = Prepared.of(replace(request, images=given["index"].tolist()), lambda *_: None)
    parts, judge = ready.parts, ready.judge
    x, y = images_of(parts.dataset, ready.index), parts.dataset.y_test[ready.index]
    rows = judge.clean_rows(ready.index, x, y)
    rows["attacked"], rows["reason"] = True, ""  # the judge says which are
    verdict = Verdict(ready.about, rows, x)
    given["adversarial"][~given["there"]] = x[~given["there"]]
    with evaluating.threads_for(request, parts.defense, x, ()).in_use():
        left = np.flatnonzero(~given["there"])
        for batch, came, changed in evaluating.attack_batches(request, parts, verdict, left):
            images, wrong = as_images(came, x[batch])
            index = ready.index[batch]
            if images is None:
                _send_json(WRONG, {"index": index.tolist(), "reason": wrong})
            else:
                _send(IMAGES, save({"adversarial": images, "index": index}))
                given["adversarial"][batch] = images
            if changed:
                verdict.warn(checks.CHANGED_INPUT)
        verdict.asked = sorted(checks.asked(parts.attacked))[:2]
        if request.check:
            shown = slice(port.IMAGES)
            for name, array, wrong in port.answers(file, parts.attacked, x[shown], y[shown]):
                if array is None:
                    _send_json(NO_PORT, {"name": name, "reason": wrong})
                else:
                    _send(PORT, save({name: array}))
            first = slice(checks.IMAGES)
            verdict.rows[first], _ = judge.judge(rows[first], x[first], given["adversarial"][first])
            verdict.warnings += evaluating.checked(verdict, parts)
        warnings = [warning.model_dump() for warning in verdict.warnings]
        passes = {"forward": verdict.forward, "backward": verdict.backward}
        _send_json(WARNINGS, {"warnings": warnings, "asked": verdict.asked, **passes})
        if request.trace:
            every = np.arange(len(rows))
            trace = evaluating.traced(request, parts, judge, verdict, every[:MOST_TRACED])
            _send(TRACE, trace.record(ready.about).model_dump_json().encode())


def _send_json(kind: bytes, value: Any) -> None:
    _send(kind, json.dumps(value).encode())


def _send(kind: bytes, contents: bytes) -> None:
    """Write a frame; the judge reads as it comes."""
    left = memoryview(kind + len(contents).to_bytes(8, "big") + contents)
    while left:
        left = left[os.write(DATA, left) :]

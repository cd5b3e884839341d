"""Write a task: the agent's part, the judge's, and images for the oracle."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from sparring import backend, defenses
from sparring.conversion.staging import staged
from sparring.data import Dataset
from sparring.data.usual import default_threat
from sparring.defenses.defense import Defense
from sparring.errors import ConversionError, DataError, SettingsError
from sparring.evaluation.evaluate import Progress, evaluate, loaded
from sparring.evaluation.request import EvaluationRequest
from sparring.experiments.dataset import of_run
from sparring.runs.files import write_json
from sparring.runs.records import FreshRecord
from sparring.tasks import agent, fresh, judging
from sparring.tasks.agent import SUBMISSION, filled_in
from sparring.tasks.judging import REWARD, Reward
from sparring.tasks.request import TaskRequest
from sparring.threat import ThreatModel, threat_model
from sparring.training.callbacks import Callback
from sparring.version import __version__

_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
_PYTHON = "3.12"
_PINNED = ("keras", "numpy", "safetensors")


@dataclass(frozen=True)
class Written:
    """A task that was written.

    Attributes:
        folder: where.
        threat: the threat model.
        sha256: stands for all files of the judge's part.
        solution: what the reference attack's images are worth; None where it did not run.
    """

    folder: Path
    threat: ThreatModel
    sha256: str
    solution: Reward | None


@dataclass(frozen=True)
class _Parts:
    """What a task is made of."""

    defense: Defense
    threat: ThreatModel
    dataset: Dataset
    fresh: FreshRecord | None


@backend.isolated
def task(
    defense: str | TaskRequest,
    out: str | Path | None = None,
    *,
    progress: Progress | None = None,
    training: Callback | None = None,
    **options: Any,
) -> Written:
    """Write a task for an agent: a defense to attack, and the judge apart from it.

    Args:
        defense: name of a trained defense, or its run directory; or a request, which has all but
            `progress` and `training`.
        out: folder to write, which is new or empty.
        progress: is called with what is being done.
        training: is told how the training of a fresh instance goes.
        options: the other fields of `TaskRequest`, as form="harbor", n=50 or fresh=7.

    Returns:
        Where it is, with the hash that the judge is called with.

    Raises:
        SettingsError: an argument is wrong, or PyTorch is not the backend.
        DataError: the data set is; or the defense answers none of the images rightly.
        RunError: the run cannot be loaded.
        ConversionError: the defense cannot be written in plain PyTorch.
    """
    request = _request(defense, out, options)
    tell = progress or _silent
    if request.out.exists() and not _is_empty(request.out):
        raise SettingsError(f"{request.out}: expected a new or an empty folder, found files in it")
    if backend.name != "torch":
        raise SettingsError(
            f"task: expected the backend torch, which writes the defense in plain PyTorch, running "
            f"is {backend.name}; use --backend torch (KERAS_BACKEND=torch), whichever trained it"
        )
    with tempfile.TemporaryDirectory() as place, staged(request.out, force=True) as folder:
        parts = _parts(request, Path(place), tell, training)
        return _write(request, parts, folder, tell)


def _request(
    defense: str | TaskRequest, out: str | Path | None, options: dict[str, Any]
) -> TaskRequest:
    if isinstance(defense, TaskRequest):
        if out is not None or options:
            raise SettingsError("expected nothing but progress and training beside a TaskRequest")
        return defense
    if out is None:
        raise SettingsError("out: expected a folder to write the task into")
    valid = list(TaskRequest.__dataclass_fields__)
    if wrong := sorted({*options} - {*valid}):
        raise SettingsError(
            f"unknown option of a task {wrong[0]!r:.80}. Valid: {', '.join(valid)}."
        )
    return TaskRequest(defense=defense, out=Path(out), **options)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _silent(done: int, total: int, text: str) -> None:
    """Take what there is to say."""


def _parts(request: TaskRequest, place: Path, tell: Progress, training: Callback | None) -> _Parts:
    """Load what the task is about, or train it."""
    if request.fresh is not None:
        _expect_own(request.defense)
        dataset = fresh.data_of(request)
        drawn = fresh.drawn(request, dataset)
        defense = fresh.trained(request, drawn, dataset, place, training)
        return _Parts(defense, drawn.threat, dataset, drawn.record)
    asked = EvaluationRequest(request.defense, data=request.data, runs=request.runs)
    defense = loaded(asked)
    dataset = of_run(
        defense.info,
        request.data,
        request.data_dir,
        who=defense.name,
        tell=lambda text: tell(0, 0, text),
    )
    if request.eps is None:
        threat = default_threat(request.norm, dataset.key, dataset.name)
    else:
        threat = threat_model(request.norm, request.eps)
    _expect_own(defense.name)
    return _Parts(defense, threat, dataset, None)


def _expect_own(named: str) -> None:
    """Refuse a defense that is not Sparring's: a task's judge has no other code."""
    if named not in defenses.NAMES:
        raise SettingsError(
            f"task: expected a defense of Sparring's own, whose code the judge has, got {named}"
        )


def _write(request: TaskRequest, parts: _Parts, folder: Path, tell: Progress) -> Written:
    """Write the parts into an empty folder."""
    harbor = request.form == "harbor"
    judge = folder / ("tests/judge" if harbor else "judge")
    own = folder / ("environment/task" if harbor else "agent")
    defense, threat = parts.defense, parts.threat
    tell(0, 0, "Writing the judge's part.")
    sha256 = judging.write(judge, request, defense, threat, parts.dataset, parts.fresh)
    images = judging.images_of(judge, defense)
    _expect_answers(defense, images)
    tell(0, 0, "Writing the defense in plain PyTorch.")
    agent.write(own, request, defense, threat, images)
    count = len(images.x_test)
    text = agent.instruction(request, defense, threat, count, "/app/" if harbor else "")
    place = folder if harbor else own
    (place / "instruction.md").write_text(text, encoding="utf-8")
    solution = _solved(request, parts, images, folder, judge, tell) if request.solution else None
    values = _values(request, parts, count) | {"sha256": sha256, "solution": solution}
    _write_texts(folder, values, harbor, judge)
    return Written(request.out, threat, sha256, solution)


def _expect_answers(defense: Defense, images: Dataset) -> None:
    """Refuse a task in which no image counts; DataError."""
    right = defense.classify(images.x_test).argmax(axis=1) == images.y_test
    if not (right & (defense.detect(images.x_test) <= defense.threshold)).any():
        raise DataError(
            f"{defense.name} answers none of the first {len(right)} test images rightly, or "
            "rejects them: there is nothing to break. Take more images (-n), or train it longer."
        )


def _solved(
    request: TaskRequest, parts: _Parts, images: Dataset, folder: Path, judge: Path, tell: Progress
) -> Reward:
    """Run the reference attack, write its images, and let the judge of the task judge them."""
    tell(0, 0, "Running the reference attack, for the oracle.")
    verdict = evaluate(
        parts.defense,
        "reference",
        parts.threat,
        images,
        len(images.x_test),
        progress=tell,
        other_data=True,
        check=False,
        draws=request.draws,
    )
    place = folder / "solution"
    place.mkdir()
    (place / SUBMISSION).write_bytes(agent.packed(adversarial=verdict.adversarial))
    found = judging.reward(judge, place / SUBMISSION, seed=0)
    if found.problem:
        raise ConversionError(f"the judge of the task cannot read its solution: {found.problem}")
    write_json(place / REWARD, found.as_json())
    return found


def _values(request: TaskRequest, parts: _Parts, images: int) -> dict[str, Any]:
    """What the texts around both parts say."""
    versions = {name: _version(name) for name in ("torch", *_PINNED)}
    judge = "tests/judge" if request.form == "harbor" else "judge"
    wheel = f"{judge.removeprefix('tests/')}/sparring-{__version__}-py3-none-any.whl"
    return {
        **{f"{name}_version": version for name, version in versions.items()},
        "pins": " ".join(f"{name}=={versions[name]}" for name in ("torch", *_PINNED)),
        "torch_index": _TORCH_INDEX,
        "python": _PYTHON,
        "version": __version__,
        "wheel": wheel,
        "defense": parts.defense.name,
        "slug": _slug(request, parts),
        "norm": parts.threat.norm,
        "eps": parts.threat.eps,
        "images": images,
        "minutes": request.minutes,
        "file": SUBMISSION,
    }


def _version(package: str) -> str:
    """The version of a package that runs, without what says how it was built."""
    return metadata.version(package).partition("+")[0]


def _slug(request: TaskRequest, parts: _Parts) -> str:
    """Name the task for Harbor: letters, digits and hyphens, of weights that it is about."""
    data = "".join(letter if letter.isascii() and letter.isalnum() else "-"
                   for letter in parts.dataset.name)  # fmt: skip
    sha256 = parts.defense.weights_sha256 or ""
    return f"{parts.defense.name}-{data.strip('-') or 'images'}-{sha256[:8]}"


def _write_texts(folder: Path, values: dict[str, Any], harbor: bool, judge: Path) -> None:
    """Write what stands around both parts."""
    texts = {"README.md": f"README.{'harbor' if harbor else 'folder'}.md"}
    if harbor:
        texts |= {
            "task.toml": "task.toml",
            "environment/Dockerfile": "Dockerfile.agent",
            "tests/Dockerfile": "Dockerfile.judge",
            "tests/test.sh": "test.sh",
        }
        texts |= {"solution/solve.sh": "solve.sh"} if values["solution"] is not None else {}
    for name, template in texts.items():
        file = folder / name
        file.write_text(filled_in(template, values), encoding="utf-8")
        if file.suffix == ".sh":
            file.chmod(0o755)

"""Look at what there is to train, before a schedule starts it or a person asks why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from sparring import backend, defenses
from sparring.data import Dataset
from sparring.errors import DefenseError, RunError
from sparring.experiments.request import Plan, PlannedRun, PlanRequest, TrainingRequest
from sparring.experiments.train import Training, device_scope, load_data
from sparring.runs.directory import Run
from sparring.training.tensorboard import library as tensorboard_library


def plan(request: PlanRequest) -> Plan:
    """Look at many trainings; runs that `force` is to train anew are put aside now.

    Raises:
        SettingsError: for names and settings that are none.
        DataError: for data that are missing or damaged.
    """
    common = request.common.from_anywhere()
    if common.tensorboard:
        tensorboard_library()  # missed by all, told once
    words = list(request.defenses)
    words = defenses.names() if words == ["all"] else words
    kinds = {word: defenses.describe(word) for word in dict.fromkeys(map(defenses.anywhere, words))}
    words = sorted(kinds, key=lambda word: kinds[word].borrows is not None)  # after their lenders
    names = {kinds[word].name for word in words}
    runs, notes = [], []
    with device_scope(common.device):
        for source in request.data:
            on_source = replace(common, data=source).from_anywhere()
            dataset = load_data(on_source)
            notes += [f"{dataset.name}: {note}" for note in dataset.notes]
            for seed, word in product(request.seeds or [common.seed], words):
                name, lender = kinds[word].name, kinds[word].borrows
                out = common.out / f"seed-{seed}" if request.seeds else common.out
                wanted = replace(on_source, defense=word, seed=seed, out=out)
                run = PlannedRun(
                    request=replace(wanted, force=False),
                    path=out / dataset.name / name,
                    title=f"{name} on {dataset.name}" + f", seed {seed}" * bool(request.seeds),
                )
                if lender is not None and lender in names:
                    # What it takes is not there yet, so neither can it be checked.
                    status = "new" if wanted.force else Run(run.path).status()
                    needs = out / dataset.name / lender
                    runs.append(replace(run, request=wanted, needs=needs, status=status))
                else:
                    runs.append(_looked_at(run, wanted, dataset))
    return Plan(backend.devices(), runs, notes)


def _looked_at(run: PlannedRun, request: TrainingRequest, dataset: Dataset) -> PlannedRun:
    """Fill in what is known of a run that can be trained at once."""
    try:
        training = Training(request, dataset)
        if training.run.exists():
            with training.run.locked():
                training.begin(None, request.force)
    except (RunError, DefenseError) as error:
        return replace(run, error=str(error))
    recipes = training.recipes()
    settings = recipes[0].settings
    images = dataset.info.train_images * settings.epochs
    return replace(
        run,
        networks=len(recipes),
        epochs=settings.epochs,
        work=images * settings.filters**2 * training.defense.step_cost,
        status=training.run.status(),
    )


def explain(request: TrainingRequest) -> Iterator[tuple[str, str, str, str]]:
    """Say what a training would be trained with, and why; nothing is trained.

    Yields:
        Name, value, origin and help of each setting; then those of networks that differ from it.
    """
    training = Training(request)
    shared, help_lines = training.settings.as_json(), training.settings.help()
    for name, value in shared.items():
        yield name, str(value), training.origins[name], help_lines[name]
    own: dict[tuple[str, str], list[int]] = {}  # by name and value, the networks that have it
    for number, settings in enumerate(training.record.networks or [], start=1):
        for name, value in settings.items():
            if value != shared.get(name):
                own.setdefault((name, str(value)), []).append(number)
    for (name, text), numbers in own.items():
        whole = len(numbers) == len(training.record.networks or [])
        networks = "each network" if whole else f"network {', '.join(map(str, numbers))}"
        yield f"{name} of {networks}", text, f"made of {shared.get(name)}", help_lines[name]

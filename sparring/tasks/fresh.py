"""Fresh instances: a defense that nobody has seen, trained for one task.

Seed, width and eps follow from one number, so that whoever has it can make the instance again.
Width is between 3/4 and 3/2 of the defense's own, eps between 4/5 and 5/4 of the data set's usual
one: far enough for weights, and images found for other weights, to be of no use, and near enough
for a defense to be what it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sparring import data as datasets
from sparring import defenses
from sparring.data import Dataset
from sparring.data.usual import default_threat
from sparring.defenses.defense import Defense
from sparring.experiments.request import TrainingRequest
from sparring.experiments.train import train
from sparring.randomness import Stream, spread
from sparring.runs.records import FreshRecord
from sparring.tasks.request import TaskRequest
from sparring.threat import ThreatModel, threat_model
from sparring.training.callbacks import Callback

_NARROWEST, _WIDEST = 3 / 4, 3 / 2
_NEAREST, _FARTHEST = 4 / 5, 5 / 4
_RESTARTS = 3


@dataclass(frozen=True)
class Fresh:
    """What is drawn for an instance.

    Attributes:
        record: seed and width, for the judge's record.
        threat: the threat model.
    """

    record: FreshRecord
    threat: ThreatModel


def drawn(request: TaskRequest, dataset: Dataset) -> Fresh:
    """Draw what makes an instance; the same request draws the same.

    Args:
        request: of the task. An eps in it is the one that is drawn around, a number of filters
            among its settings stays.
        dataset: the data set.

    Raises:
        SettingsError: the data set has no usual eps, and none is given; or a setting is wrong.
    """
    assert request.fresh is not None
    random = np.random.default_rng(spread(request.fresh, Stream.TASK, 0))
    width, factor = random.uniform(_NARROWEST, _WIDEST), random.uniform(_NEAREST, _FARTHEST)
    kind = defenses.get(_trained(request.defense))
    given = dict(request.settings)
    filters = kind.settings_for(dataset, request.preset, given).settings.filters
    if "filters" not in given:
        filters = max(1, round(filters * width))
    usual = (
        default_threat(request.norm, dataset.key, dataset.name)
        if request.eps is None
        else threat_model(request.norm, request.eps)
    )
    seed = spread(request.fresh, Stream.TASK, 1)
    threat = usual.scaled(factor)
    rounded = threat_model(request.norm, float(f"{threat.eps:.3g}"))
    return Fresh(FreshRecord(seed=request.fresh, training_seed=seed, filters=filters), rounded)


def trained(
    request: TaskRequest, fresh: Fresh, dataset: Dataset, out: Path, progress: Callback | None
) -> Defense:
    """Train an instance.

    Args:
        request: of the task.
        fresh: what was drawn.
        dataset: the data set.
        out: folder of runs.
        progress: is told how it goes.

    Raises:
        Diverged: it did, with several seeds.
        SettingsError: a setting is wrong.
    """
    lender = _trained(request.defense)
    training = TrainingRequest(
        defense=lender,
        data=dataset,
        preset=request.preset,
        seed=fresh.record.training_seed,
        out=out,
        eval_every=0,
        restarts=_RESTARTS,
        settings={**request.settings, "filters": fresh.record.filters},
    )
    defense = train(training, progress=progress)
    if lender == request.defense:
        return defense
    own = replace(training, defense=request.defense, settings={})
    return train(own, progress=progress)


def data_of(request: TaskRequest) -> Dataset:
    """Load the data set that a fresh instance is trained on."""
    return datasets.load(request.data or "digits", request.data_dir, request.resize)


def _trained(name: str) -> str:
    """The defense whose networks are trained for one: its own name, or its lender's."""
    return defenses.describe(name).borrows or name

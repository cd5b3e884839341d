"""The registry of defenses: one file each, one line each here."""

from __future__ import annotations

from sparring.defenses.advtrain import AdvTrain
from sparring.defenses.baseline import Baseline
from sparring.defenses.blur import Blur
from sparring.defenses.defense import Defense
from sparring.defenses.discretize import Discretize
from sparring.defenses.injection import Injection
from sparring.defenses.jump import Jump
from sparring.defenses.knn import Knn
from sparring.defenses.labelsmooth import LabelSmooth
from sparring.defenses.majority import Majority
from sparring.defenses.mergebinary import MergeBinary
from sparring.defenses.pgdtrain import PgdTrain
from sparring.defenses.randomneuron import RandomNeuron
from sparring.defenses.temperature import Temperature
from sparring.defenses.trades import Trades
from sparring.defenses.transform import Transform
from sparring.errors import SettingsError, unknown_name

DEFENSES: dict[str, type[Defense]] = {
    defense.name: defense
    for defense in (
        Baseline,
        Blur,
        Temperature,
        LabelSmooth,
        Jump,
        MergeBinary,
        Majority,
        Discretize,
        RandomNeuron,
        Transform,
        Injection,
        Knn,
        AdvTrain,
        PgdTrain,
        Trades,
    )
}


def get(name: str) -> type[Defense]:
    """The defense of that name. Raises SettingsError, listing the valid ones, for any other."""
    if name not in DEFENSES:
        raise SettingsError(unknown_name("defense", name, list(DEFENSES)))
    return DEFENSES[name]

"""What users hand from process to process: errors, threat models, attacks and rates."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest

import sparring
from sparring import attacks, errors
from sparring.attacks import FGSM, PGD, InTurn, Noise, Square, reference
from sparring.errors import Diverged, SparringError
from sparring.evaluation.rates import Mean, Rate
from sparring.threat import L2, Linf
from tests.conftest import KNOWN

DIVERGED = Diverged(
    "a loss is NaN",
    defense="baseline",
    network=0,
    seed=3,
    epoch=2,
    step=7,
    learning_rate=0.5,
    losses=[2.0, float("inf")],
)


def _errors(kind: type[SparringError] = SparringError) -> Iterator[type[SparringError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _errors(below)


ERRORS = sorted(set(_errors()), key=lambda kind: kind.__name__)


def copies(value: Any) -> list[Any]:
    """What comes out of pickle's protocols and of copy."""
    protocols = range(2, 1 + pickle.HIGHEST_PROTOCOL)
    pickled = [pickle.loads(pickle.dumps(value, protocol)) for protocol in protocols]
    return [*pickled, copy.copy(value), copy.deepcopy(value)]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_is_itself_again(kind: type[SparringError]) -> None:
    assert {errors.DataError, errors.AttackError, Diverged} <= set(ERRORS)
    error = DIVERGED if kind is Diverged else kind("expected this, got that")
    error.add_note("a note")
    for again in copies(error):
        assert type(again) is kind
        assert str(again) == str(error)
        assert again.args == error.args
        assert vars(again) == vars(error)
        with pytest.raises(kind):
            raise again


def test_what_diverged_says_is_kept() -> None:
    for again in copies(DIVERGED):
        assert (again.seed, again.epoch, again.step, again.learning_rate) == (3, 2, 7, 0.5)
        assert again.losses == [2.0, float("inf")]
        assert str(again).startswith(
            "baseline diverged: a loss is NaN in network 1, epoch 2, step 7"
        )


@pytest.mark.parametrize(
    "value",
    [
        *(Linf("8/255"), L2(0.5), FGSM(), PGD(steps=3, loss="margin"), Noise(2), Square(9)),  # type: ignore[arg-type]
        *(InTurn((PGD(), Square())), Rate.of(np.array([1.0, 0, 1])), Mean.of([0.5, 0.75])),
        *(reference.get(name) for name in KNOWN),
        attacks.get("pgd", {"steps": 2}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_are_equal_again(value: Any) -> None:
    for again in copies(value):
        assert type(again) is type(value)
        assert again == value
        assert repr(again) == repr(value)


# A process of its own that imports no framework.
DIVERGING = """
from sparring.errors import Diverged
facts = dict(defense="blur", network=0, seed=3, epoch=2, step=7, learning_rate=0.5, losses=[2.0])
raise Diverged("a loss is NaN", **facts)
"""


def test_an_error_comes_out_of_another_process() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        diverged = pool.submit(exec, DIVERGING)
        with pytest.raises(sparring.Diverged, match="blur diverged: a loss is NaN") as caught:
            diverged.result(timeout=60)
    assert caught.value.losses == [2.0]

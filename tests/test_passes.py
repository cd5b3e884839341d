"""Passes: how often a defense is asked, by counts known beforehand, on every backend."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops

from sparring import backend
from sparring.attacks import APGD, BPDA, EOT, FGSM, PGD, Estimated, gradient
from sparring.data import Dataset
from sparring.errors import AttackError
from sparring.evaluation.evaluate import evaluate
from sparring.networks.allconv import padded_size
from sparring.threat import Linf
from tests.conftest import Linear
from tests.test_attack_steps import IMAGES, Curved, Numbered
from tests.test_judge import grays, judged

__all__ = ["grays"]  # a fixture

pytestmark = pytest.mark.backend

X = IMAGES[:4]  # a power of two, which no backend fills up


def counts(defense: Any, ask: Callable[[], Any]) -> list[tuple[int, int]]:
    """Forward and backward passes of asking three times, what is traced once included."""
    made = []
    for _ in range(3):
        forward, backward = defense.passes.forward, defense.passes.backward
        ask()
        made.append((defense.passes.forward - forward, defense.passes.backward - backward))
    return made


def losses(defense: Any) -> Callable[[Any], Any]:
    return lambda images: ops.sum(defense.logits(images), axis=-1)


def attacked(attack: Any, defense: Any, x: np.ndarray = X) -> Callable[[], Any]:
    labels = np.ones(len(x), backend.label_dtype)
    images = ops.convert_to_tensor(x), ops.convert_to_tensor(labels)
    return lambda: attack(defense, *images, Linf(0.1))


class Rejecting(Curved):
    """Rejects some, by logits of its own."""

    detects = True

    def scores(self, x: Any, chance: Any = None) -> Any:
        return self.logits(x)[:, 0]


def test_an_answer_is_a_pass_whichever_way_it_is_asked_for() -> None:
    defense, x = Rejecting(), ops.convert_to_tensor(X)
    for ask in (defense.logits, defense.probabilities, defense.scores):
        assert counts(defense, partial(ask, x)) == [(4, 0)] * 3
    for many in (1, 3, 200):  # over several batches, without what fills up the last one
        images = np.resize(X, (many, *X.shape[1:]))
        assert counts(defense, partial(defense.classify, images)) == [(many, 0)] * 3
        assert counts(defense, partial(defense.detect, images)) == [(many, 0)] * 3


def test_a_gradient_is_a_pass_back() -> None:
    defense, x = Curved(), ops.convert_to_tensor(X)
    assert counts(defense, lambda: gradient(losses(defense), x)) == [(4, 4)] * 3
    compiled = defense.compiled(("own",), lambda x: gradient(losses(defense), x))
    assert counts(defense, lambda: compiled(x)) == [(4, 4)] * 3
    assert counts(defense, lambda: compiled(x[:2])) == [(2, 2)] * 3
    assert counts(defense, lambda: compiled(x)) == [(4, 4)] * 3
    two = defense.compiled(
        ("two",), lambda x: gradient(losses(defense), x) + gradient(losses(defense), x + 0.01)
    )
    assert counts(defense, lambda: two(x)) == [(8, 8)] * 3
    # Copies, as wrappers make them, count for the defense that they are made of.
    assert counts(defense, lambda: BPDA(defense).logits(x)) == [(4, 0)] * 3
    assert copy.deepcopy(defense).passes.forward == defense.passes.forward


def test_a_gradient_in_the_framework_s_own_way_is_one() -> None:
    defense = Curved()

    def ask() -> Any:
        if backend.name == "torch":
            import torch

            x = torch.tensor(X, requires_grad=True)
            return torch.autograd.grad(losses(defense)(x).sum(), x)
        if backend.name == "jax":
            import jax

            return jax.grad(lambda x: ops.sum(losses(defense)(x)))(ops.convert_to_tensor(X))
        import tensorflow as tf

        with tf.GradientTape() as tape:
            x = tf.Variable(X)
            loss = losses(defense)(tf.convert_to_tensor(x))
        return tape.gradient(loss, x)

    assert counts(defense, ask) == [(4, 4)] * 3


@pytest.mark.parametrize("kind", [PGD, APGD])
def test_a_step_is_a_pass_there_and_back(kind: Any) -> None:
    attack = kind(steps=5, early_stopping=False)
    defense = Curved()
    assert counts(defense, attacked(attack, defense)) == [(20, 20)] * 3
    single = attacked(FGSM(), defense)
    assert counts(defense, single) == [(4, 4)] * 3


def test_what_leaves_an_attack_costs_nothing_more(linear: Linear) -> None:
    # All are broken at the start, so one step finds them, and they are shown to the defense once.
    x = np.full((4, 8, 8, 1), 0.5, np.float32)
    labels = ops.convert_to_tensor(np.zeros(4, backend.label_dtype))
    attack = PGD(steps=5, random_start=False)
    passes = counts(linear, lambda: attack(linear, ops.convert_to_tensor(x), labels, Linf(0.1)))
    assert passes == [(8, 4)] * 3


@pytest.mark.parametrize("count", [4, 64])
def test_every_draw_is_a_pass(count: int) -> None:
    # 64 images leave room for two draws at a time: the others are traced once, or made twice.
    x = np.resize(X, (count, *X.shape[1:]))
    defense = Numbered()
    wrapped = EOT(defense, 20)
    tensor = ops.convert_to_tensor(x)
    assert counts(defense, lambda: wrapped.logits(tensor)) == [(20 * count, 0)] * 3
    assert counts(defense, lambda: gradient(losses(wrapped), tensor)) == [(20 * count,) * 2] * 3
    attack = PGD(steps=2, early_stopping=False)
    assert counts(defense, attacked(attack, wrapped, x)) == [(40 * count,) * 2] * 3


def test_an_estimate_asks_on_both_sides_and_once_more() -> None:
    defense, x = Curved(), ops.convert_to_tensor(X)
    wrapped = Estimated(defense, samples=6)
    assert counts(defense, lambda: gradient(losses(wrapped), x)) == [(13 * 4, 0)] * 3
    attack = PGD(steps=2, early_stopping=False)
    assert counts(defense, attacked(attack, wrapped)) == [(2 * 13 * 4, 0)] * 3
    # Around an average of draws, each is asked for as often.
    drawing = Numbered()
    both = Estimated(EOT(drawing, 3), samples=6)
    assert counts(drawing, lambda: both.logits(x)) == [(3 * 13 * 4, 0)] * 3


def test_a_verdict_tells_what_the_attack_cost(linear: Linear, tmp_path: Path) -> None:
    x = np.full((8, 8, 8, 1), 128, np.uint8)
    data = Dataset("linear", x, np.ones(8, np.int32), x, np.ones(8, np.int32), ("a", "b"))
    # Neither the judge nor the checks, which attack too, are part of the cost.
    attack = PGD(steps=3, early_stopping=False)
    options: dict[str, Any] = {"n": 8, "out": tmp_path / "v", "batch_size": 4}
    verdict = evaluate(linear, attack, Linf(0.001), data, **options)
    assert (verdict.forward, verdict.backward) == (24, 24)
    assert verdict.cost == "3.0 forward and 3.0 backward passes an image"
    assert f"cost             {verdict.cost}, 0:" in str(verdict)
    assert verdict.cost in (tmp_path / "v" / "verdict.html").read_text()
    again = evaluate(linear, attack, Linf(0.001), data, **options)
    assert (again.forward, again.backward) == (24, 24)
    values = again.as_json()
    assert (values["forward"], values["backward"]) == (24, 24)


def test_what_an_interrupted_attack_cost_is_added(
    linear: Linear, grays: Dataset, tmp_path: Path
) -> None:
    asked = []

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        asked.append(x.shape[0])
        if len(asked) == 2:
            raise ValueError
        defense.logits(x)
        return x

    options: dict[str, Any] = {"batch_size": 4, "out": tmp_path / "v"}
    with pytest.raises(AttackError):
        judged(linear, grays, attack, **options)
    verdict = judged(linear, grays, attack, **options)
    attacked_images = int(verdict.attacked.sum())
    assert (verdict.forward, verdict.backward) == (attacked_images, 0)
    assert sum(asked) > attacked_images  # the one that raised was not counted


def test_no_answer_counts_where_nobody_asks_for_it(linear: Linear, grays: Dataset) -> None:
    verdict = judged(linear, grays, lambda defense, x, y, threat: x)
    assert (verdict.forward, verdict.backward, verdict.cost) == (0, 0, "")
    assert "cost" not in str(verdict)


def test_rows_that_fill_up_a_batch_count(linear: Linear) -> None:
    attack = PGD(steps=2, early_stopping=False)
    x = ops.convert_to_tensor(np.full((3, 8, 8, 1), 0.5, np.float32))
    labels = ops.convert_to_tensor(np.zeros(3, backend.label_dtype))
    wide = 2 * padded_size(3)
    assert counts(linear, lambda: attack(linear, x, labels, Linf(0.01))) == [(wide, wide)] * 3

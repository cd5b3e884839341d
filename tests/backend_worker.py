"""One process of tests/test_agreement.py: the same work on whichever backend it is started with.

KERAS_BACKEND=... python -m tests.backend_worker given.npz result.npz run_folder
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

import sparring
from sparring import backend
from sparring.data import Dataset
from sparring.defenses import DEFENSES, get
from sparring.defenses.randomneuron import DroppingNet
from sparring.training.callbacks import Silent
from sparring.training.loop import TrainLoop
from sparring.training.recipe import Recipe
from sparring.training.settings import Settings

SETTINGS = Settings(filters=4, epochs=2, batch_size=16, learning_rate=0.05, flip=False)


class Given(Recipe):
    """Augmentation given beforehand: none, which leaves the images as they came."""

    def augment(self, x: Any, y: Any) -> tuple[Any, Any]:
        return x, y


class GivenDraws:
    """Random numbers given beforehand, the same on every backend."""

    variables: tuple[()] = ()

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)

    def uniform(self, shape: Sequence[int]) -> Any:
        return ops.convert_to_tensor(self._random.random(tuple(shape), dtype=np.float32))

    def normal(self, shape: Sequence[int]) -> Any:
        return ops.convert_to_tensor(self._random.standard_normal(tuple(shape), dtype=np.float32))


def every_recipe(name: str, dataset: Dataset) -> dict[str, np.ndarray]:
    """Loss and gradients of a defense's last network from given weights, images and draws."""
    settings = get(name).course_settings.replace(filters=6, flip=True)
    recipe = get(name).recipes(dataset.info, settings, 0)[-1]
    net = recipe.net()
    random = np.random.default_rng(1)
    for variable in net.trainable_variables:
        variable.assign(0.2 * random.standard_normal(variable.shape).astype(np.float32))
    if isinstance(net, DroppingNet):
        return {}  # is not trained
    recipe.on_progress(net, 0.3)

    def loss_and_gradients(x: Any, y: Any) -> Any:
        recipe.random = GivenDraws()  # type: ignore[assignment]
        x, y = recipe.augment(x, y)
        return backend.value_and_gradients(
            lambda: recipe.loss(net, x, y), net.trainable_variables, net.variables
        )

    x = ops.convert_to_tensor(dataset.x_train[:16].astype(np.float32) / 255)
    step = backend.compile(loss_and_gradients, net.variables, changes=True)
    loss, _, gradients = step(x, ops.convert_to_tensor(dataset.y_train[:16]))
    answers = {"loss": loss} | {f"gradient{i}": gradient for i, gradient in enumerate(gradients)}
    return {key: ops.convert_to_numpy(answer) for key, answer in answers.items()}


def main(given: Path, result: Path, runs: Path) -> None:
    arrays = dict(np.load(given))
    weights = [arrays.pop(name) for name in sorted(arrays) if name.startswith("weight")]
    dataset = Dataset("patterns", **arrays, class_names=tuple("abcd"), mirror=False)
    recipe = Given(dataset.info, SETTINGS, 0)

    net = recipe.net()
    for variable, weight in zip(net.trainable_variables, weights, strict=True):
        variable.assign(weight)

    def loss_and_gradients(x: Any, y: Any) -> Any:
        return backend.value_and_gradients(
            lambda: recipe.loss(net, x, y), net.trainable_variables, net.variables
        )

    step = backend.compile(loss_and_gradients, net.variables, changes=True)
    x = ops.convert_to_tensor(dataset.x_train[:16].astype(np.float32) / 255)
    loss, hits, gradients = step(x, ops.convert_to_tensor(dataset.y_train[:16]))
    answers = {"loss": loss, "hits": hits, "logits": net(x)}
    answers |= {f"gradient{index}": gradient for index, gradient in enumerate(gradients)}

    losses: list[float] = []
    fast = SETTINGS.replace(optimizer="muon", schedule="linear")
    for prefix, settings in (("", SETTINGS), ("fast ", fast)):
        loop = TrainLoop(Given(dataset.info, settings, 0), dataset)
        for nets in (loop.net, loop.ema):
            for variable, weight in zip(nets.trainable_variables, weights, strict=True):
                variable.assign(weight)
        loop.run(lambda metrics: losses.append(metrics.loss), Silent())
        for kind, net in (("trained", loop.net), ("averaged", loop.ema)):
            for index, variable in enumerate(net.trainable_variables):
                answers[f"{prefix}{kind}{index}"] = variable.value
    found = {name: ops.convert_to_numpy(answer) for name, answer in answers.items()}

    for name in DEFENSES:
        found |= {f"{name}/{key}": value for key, value in every_recipe(name, dataset).items()}

    # Trained here, loaded by the others; whatever lies there already is loaded here.
    sparring.train("baseline", dataset, out=runs / backend.name, filters=4, epochs=2)
    for folder in sorted(runs.iterdir()):
        defense = sparring.load(folder / "patterns" / "baseline")
        found[f"loaded from {folder.name}"] = defense.classify(dataset.x_test)
    np.savez(result, losses=losses, **found)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

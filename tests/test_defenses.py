"""Conformance: what every defense in the registry has to do, on every backend."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import sparring
from sparring.data import Dataset
from sparring.defenses import DEFENSES, get
from sparring.defenses.defense import Defense
from sparring.errors import DataError, SettingsError
from sparring.training.callbacks import EpochMetrics, Silent
from tests.conftest import patterns

pytestmark = pytest.mark.backend


@pytest.fixture(scope="module", params=list(DEFENSES))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Defense:
    """Each defense, trained for two small epochs on three-channel images."""
    x, y = patterns(40, channels=3)
    dataset = Dataset("patterns", x, y, x[:16], y[:16], tuple("abcd"))
    out = tmp_path_factory.mktemp("runs")
    for name in (get(request.param).borrows, request.param):
        if name is not None:
            trained = sparring.train(name, dataset, out=out, filters=4, epochs=2, batch_size=16)
    return trained


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).random((9, 8, 8, 3), dtype=np.float32)


def test_registry_names_are_file_names() -> None:
    for name, defense in DEFENSES.items():
        assert defense.__module__ == f"sparring.defenses.{name}"
        assert defense.idea
        assert len(defense.idea) < 120


def test_unknown_defense_lists_the_valid_ones() -> None:
    with pytest.raises(SettingsError, match=r"Did you mean 'baseline'\? Valid: baseline, blur"):
        get("basline")


def test_classify_gives_probabilities(trained: Defense, images: np.ndarray) -> None:
    answer = trained.classify(images)
    assert answer.shape == (9, 4)
    assert answer.dtype == np.float32
    assert (answer >= 0).all()
    np.testing.assert_allclose(answer.sum(axis=1), 1, rtol=1e-5)


def test_detect_gives_a_score_an_image(trained: Defense, images: np.ndarray) -> None:
    scores = trained.detect(images)
    assert scores.shape == (9,)
    assert np.isfinite(scores).all()
    if not trained.detects:
        assert (scores <= trained.threshold).all()


def test_one_image_is_a_batch_of_one(trained: Defense, images: np.ndarray) -> None:
    np.testing.assert_allclose(trained.classify(images[0]), trained.classify(images[:1]), rtol=1e-5)


def test_uint8_is_float_times_255(trained: Defense) -> None:
    bytes_ = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_allclose(
        trained.classify(bytes_), trained.classify(bytes_.astype(np.float64) / 255), rtol=1e-4
    )


def test_tensors_are_taken_too(trained: Defense, images: np.ndarray) -> None:
    np.testing.assert_array_equal(
        trained.classify(ops.convert_to_tensor(images)), trained.classify(images)
    )


def test_answers_do_not_depend_on_how_the_batch_is_cut(trained: Defense) -> None:
    images = np.random.default_rng(2).random((131, 8, 8, 3), dtype=np.float32)
    parts = np.concatenate([trained.classify(images[:1]), trained.classify(images[1:])])
    whole = trained.classify(images)
    # Kernels for other batch sizes may add up in another order, which may tip a vote that is tied
    # but for rounding; probabilities move by no more than rounding.
    votes = set(np.unique(whole)) == {0, 1}
    close = np.isclose(whole, parts, rtol=1e-4, atol=1e-6).all(axis=1)
    assert (~close).sum() <= (2 if votes else 0)


def test_networks_remember_nothing_of_an_answer(trained: Defense, images: np.ndarray) -> None:
    batch = ops.convert_to_tensor(images)

    def asked() -> list[np.ndarray]:
        logits = [trained.logits(batch), *(net(batch) for net in trained.nets)]
        return [np.array(ops.convert_to_numpy(each)) for each in logits]

    before = asked()
    answers = trained.classify(images), trained.detect(images)
    trained.classify(images, seed=7)
    trained.broken_share(images, np.zeros(len(images), np.int32), draws=2)
    for first, second in zip(before, asked(), strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(trained.classify(images), answers[0])
    np.testing.assert_array_equal(trained.detect(images), answers[1])


@pytest.mark.parametrize("method", ["classify", "detect"])
def test_wrong_images_are_refused(trained: Defense, images: np.ndarray, method: str) -> None:
    ask: Callable[[Any], np.ndarray] = getattr(trained, method)
    cases: list[tuple[Any, str]] = [
        (images[:, :7], r"\[B, 8, 8, 3\].*found shape \[9, 7, 8, 3\]"),
        (images[..., 0], r"found shape \[9, 8, 8\]"),
        (images[:0], r"found shape \[0, 8, 8, 3\]"),
        (images * 255, r"found values from .* to 25.*Divide by 255\?"),
        (images - 0.5, r"found values from -0\.\d+"),
        (images + 1e-3, "found values from"),
        (images.astype(np.int64), "found int64"),
        (images.astype(complex), "found complex128"),
        (np.where(images > 0.5, np.nan, images), "found NaN or infinite"),
        ("picture.png", "found shape"),
    ]
    for wrong, message in cases:
        with pytest.raises(DataError, match=f"{trained.name}: expected images.*{message}"):
            ask(wrong)


def test_asking_does_not_change_the_images(trained: Defense, images: np.ndarray) -> None:
    before = images.copy()
    trained.classify(images)
    trained.detect(images)
    np.testing.assert_array_equal(images, before)


def test_loaded_answers_are_the_trained_ones(trained: Defense, images: np.ndarray) -> None:
    assert trained.path is not None
    loaded = sparring.load(trained.path)
    np.testing.assert_array_equal(loaded.classify(images), trained.classify(images))
    np.testing.assert_array_equal(loaded.detect(images), trained.detect(images))
    assert repr(loaded) == repr(trained)


def test_logits_are_differentiable(trained: Defense, images: np.ndarray) -> None:
    if not trained.differentiable:
        pytest.skip(f"{trained.name} says that its gradients are of no use")
    gradient = _gradient(trained, images)
    assert gradient.shape == images.shape
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient).max(axis=(1, 2, 3)) > 0).all()
    if not trained.stochastic:
        # The slope along the gradient, by central differences; float32 leaves three digits.
        step = 1e-2 * gradient / np.linalg.norm(gradient)
        up, down = (_objective(trained, images + sign * step) for sign in (1, -1))
        slope = (ops.convert_to_numpy(up) - ops.convert_to_numpy(down)) / 2e-2
        assert slope == pytest.approx(np.linalg.norm(gradient), rel=0.02)


class Stop(BaseException):
    """What a training is interrupted with."""


class StopAfterEpoch(Silent):
    """Interrupts a training after its first epoch, if that is not its last."""

    def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None:
        raise Stop


@pytest.mark.parametrize("name", DEFENSES)
def test_interrupted_after_every_epoch_the_weights_are_the_same(name: str, tmp_path: Path) -> None:
    x, y = patterns(24, channels=3)
    y %= 2  # two classes: mergebinary trains a network for each
    dataset = Dataset("patterns", x, y, x[:8], y[:8], tuple("ab"))
    small: dict[str, Any] = {"filters": 4, "epochs": 4 if name == "majority" else 2}
    if get(name).borrows:
        pytest.skip(f"{name} trains nothing")
    whole = sparring.train(name, dataset, out=tmp_path / "whole", batch_size=16, **small)
    arguments: dict[str, Any] = {"out": tmp_path, "batch_size": 16, **small}
    for _ in range(2 * len(whole.nets)):
        with pytest.raises(Stop):
            sparring.train(name, dataset, progress=StopAfterEpoch(), **arguments)
    parts = sparring.train(name, dataset, progress=StopAfterEpoch(), **arguments)
    assert whole.path is not None
    assert parts.path is not None
    file = "weights.safetensors"
    assert (whole.path / file).read_bytes() == (parts.path / file).read_bytes()


def _objective(defense: Defense, images: Any) -> Any:
    return ops.sum(defense.logits(ops.convert_to_tensor(images))[:, 1])


def _gradient(defense: Defense, images: np.ndarray) -> np.ndarray:
    """What a user writes in the running framework."""
    if keras.backend.backend() == "torch":
        x = ops.convert_to_tensor(images).clone().requires_grad_()
        _objective(defense, x).backward()
        return np.array(x.grad)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        variable = tf.Variable(images)
        with tf.GradientTape() as tape:
            value = _objective(defense, variable)
        return np.array(tape.gradient(value, variable))
    import jax

    return np.array(jax.grad(lambda x: _objective(defense, x))(ops.convert_to_tensor(images)))


def test_course_settings_are_the_course_s() -> None:
    settings = get("baseline").course_settings
    assert (settings.filters, settings.epochs, settings.batch_size) == (64, 100, 64)
    assert (settings.learning_rate, settings.momentum) == (0.03, 0.9)
    assert (settings.weight_decay, settings.ema_decay, settings.head_size) == (1e-4, 0.999, 1)


@pytest.mark.parametrize("name", DEFENSES)
@pytest.mark.parametrize("data", ["digits", "fashion-mnist", "cifar10"])
def test_the_fast_preset_trains_the_same_network_sooner(
    make_dataset: Callable[..., Dataset], name: str, data: str
) -> None:
    dataset = dataclasses.replace(make_dataset(), key=data)
    course, fast = (
        get(name).settings_for(dataset, preset).settings for preset in ("course", "fast")
    )
    slow = (name, data) == ("injection", "digits")  # its file says why
    assert (course.optimizer, fast.optimizer) == ("sgd", "sgd" if slow else "muon")
    assert fast.epochs < course.epochs or course.epochs == 1
    # Same network, loss and serving: what differs is how it learns.
    learning = {"optimizer", "schedule", "initializer", "learning_rate", "batch_size", "epochs"}
    expected = {key: course.as_json()[key] for key in set(course.names()) - learning}
    if (name, data) == ("injection", "fashion-mnist"):
        assert expected["strength"] == 0.1
        expected["strength"] = 0.05  # its file says why
    assert {key: fast.as_json()[key] for key in expected} == expected
    with pytest.raises(SettingsError, match=r"unknown preset 'fats'. Did you mean 'fast'\?"):
        get(name).settings_for(dataset, "fats")


def test_settings_follow_the_data_set(make_dataset: Callable[..., Dataset], tmp_path: Path) -> None:
    from sparring.data import load

    digits = get("baseline").settings_for(load("digits")).settings
    assert (digits.filters, digits.batch_size, digits.flip) == (32, 16, False)
    assert digits.learning_rate == pytest.approx(0.06)
    # At twice the course's rate, trainings on Fashion-MNIST diverged under some seeds.
    like_fashion = dataclasses.replace(load("digits"), key="fashion-mnist")
    fashion = get("baseline").settings_for(like_fashion).settings
    assert (fashion.filters, fashion.batch_size, fashion.epochs) == (16, 32, 4)
    assert fashion.learning_rate == pytest.approx(0.03)
    other = get("baseline").settings_for(make_dataset()).settings
    assert other == get("baseline").course_settings.replace(flip=False)

"""TrainLoop: its arithmetic by hand, divergence, and going on from a saved state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from sparring import backend, train_loop
from sparring.data import Dataset
from sparring.defenses import get
from sparring.errors import Diverged
from sparring.progress import EpochMetrics, Silent
from sparring.recipe import Recipe, Settings
from sparring.train_loop import TrainLoop, learning_rate_factor

pytestmark = pytest.mark.backend

SETTINGS = Settings(filters=2, epochs=3, batch_size=16, learning_rate=0.1, flip=False)


def values(variables: list[Any]) -> list[np.ndarray]:
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


def run(loop: TrainLoop, **options: Any) -> list[EpochMetrics]:
    lines: list[EpochMetrics] = []
    loop.run(lines.append, Silent(), **options)
    return lines


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many steps are made at once, as where a look at a loss would be a wait."""
    monkeypatch.setattr(backend, "on_cpu", lambda tensor: False)


def test_learning_rate_follows_the_cosine() -> None:
    start, middle, end = (
        float(ops.convert_to_numpy(learning_rate_factor("cosine", p))) for p in (0.0, 0.5, 1.0)
    )
    assert start == 1
    assert middle == pytest.approx(math.cos(7 * math.pi / 32))
    assert end == pytest.approx(0.195, abs=1e-3)


def test_linear_schedule_rises_for_a_twentieth_and_falls_to_zero() -> None:
    at = [0.0, 0.025, 0.05, 0.525, 1.0]
    factors = [float(ops.convert_to_numpy(learning_rate_factor("linear", p))) for p in at]
    assert factors == pytest.approx([0.1, 0.55, 1.0, 0.5, 0.0])


class Quadratic(Recipe):
    """A loss whose gradient is known: half the sum of all biases' squared distance from 1."""

    def loss(self, net: Any, x: Any, y: Any) -> tuple[Any, Any]:
        biases = [variable for variable in net.trainable_variables if len(variable.shape) == 1]
        return sum(ops.sum(ops.square(bias - 1)) for bias in biases) / 2, ops.zeros(())


def test_steps_are_those_computed_by_hand(dataset: Dataset) -> None:
    settings = SETTINGS.replace(weight_decay=0.5, ema_decay=0.25)
    loop = TrainLoop(Quadratic(dataset.info, settings, 0), dataset)
    weights = values(loop.net.trainable_variables)
    averages = [weight.astype(np.float64) for weight in weights]
    weights = [weight.astype(np.float64) for weight in weights]
    speeds = [np.zeros_like(weight) for weight in weights]
    steps, losses = 3 * 3, []
    for step in range(steps):
        rate = 0.1 * math.cos(7 / 16 * math.pi * step / steps)
        loss = 0.0
        for index, weight in enumerate(weights):
            kernel = weight.ndim == 4
            gradient = 0.5 * weight if kernel else weight - 1
            loss += 0.5 / 2 * (weight**2).sum() if kernel else ((weight - 1) ** 2).sum() / 2
            speeds[index] = 0.9 * speeds[index] - rate * gradient
            weights[index] = weight + speeds[index]
        decay = min(0.25, (1 + step) / (10 + step))
        averages = [decay * a + (1 - decay) * w for a, w in zip(averages, weights, strict=True)]
        losses.append(loss)

    lines = run(loop)
    for expected, variables in ((weights, loop.net), (averages, loop.ema)):
        for array, value in zip(expected, values(variables.trainable_variables), strict=True):
            np.testing.assert_allclose(value, array, rtol=1e-5, atol=1e-6)
    # 40 images in batches of 16, 16 and 8.
    sizes = np.array([16, 16, 8])
    for epoch, line in enumerate(lines):
        mean = (sizes * losses[3 * epoch : 3 * epoch + 3]).sum() / 40
        assert line.loss == pytest.approx(mean, rel=1e-5)
        assert (line.epoch, line.network) == (epoch + 1, 0)
        last = 0.1 * math.cos(7 / 16 * math.pi * (3 * epoch + 2) / steps)
        assert line.learning_rate == pytest.approx(last)


class Recording(Recipe):
    """Counts the images it sees by their mean, and the ramp's progress."""

    def augment(self, x: Any, y: Any) -> tuple[Any, Any]:
        return x, y


def test_every_image_is_used_once_an_epoch(make_dataset: Callable[..., Dataset]) -> None:
    dataset = make_dataset(train=41)
    loop = TrainLoop(Recording(dataset.info, SETTINGS, 3), dataset)
    first = loop._order()
    loop.epoch = 1
    second = loop._order()
    assert sorted(first) == sorted(second) == list(range(41))
    assert first.tolist() != second.tolist()
    other = TrainLoop(Recording(dataset.info, SETTINGS, 4), dataset)
    assert other._order().tolist() != first.tolist()


def test_it_learns_and_counts_hits(make_dataset: Callable[..., Dataset]) -> None:
    dataset = make_dataset(train=160, test=40)
    settings = SETTINGS.replace(filters=8, epochs=12, batch_size=8)
    lines = run(TrainLoop(Recipe(dataset.info, settings, 0), dataset), eval_every=5)
    assert [line.test_accuracy is not None for line in lines] == [
        epoch in (5, 10, 12) for epoch in range(1, 13)
    ]
    assert lines[-1].loss < 0.5 * lines[0].loss
    assert lines[-1].accuracy > 0.9
    assert lines[-1].test_accuracy is not None
    assert lines[-1].test_accuracy > 0.9
    assert lines[-1].images_per_second > 0


def test_a_batch_larger_than_the_data_and_a_last_batch_of_one(
    make_dataset: Callable[..., Dataset],
) -> None:
    for train, steps in ((9, 1), (17, 2)):
        dataset = make_dataset(train=train)
        loop = TrainLoop(Recipe(dataset.info, SETTINGS, 0), dataset)
        assert loop.steps_per_epoch == steps
        assert len(run(loop)) == 3


class Breaking(Recipe):
    """A loss that is not a number from one step of training on."""

    bad = math.nan
    at = 4

    def on_progress(self, net: Any, progress: Any) -> None:
        self.progress = progress

    def loss(self, net: Any, x: Any, y: Any) -> tuple[Any, Any]:
        loss, hits = super().loss(net, x, y)
        return ops.where(self.progress * 9 > self.at - 0.5, self.bad, loss), hits


class BreakingGradient(Breaking):
    """A finite loss whose gradient in the last of 9 steps is not: sqrt at zero."""

    def loss(self, net: Any, x: Any, y: Any) -> tuple[Any, Any]:
        loss, hits = Recipe.loss(self, net, x, y)
        zero = ops.where(self.progress * 9 > 7.5, 0.0, 1.0) * ops.sum(net.head[1] * 0)
        broken = ops.sqrt(ops.where(self.progress * 9 > 7.5, 0.0, 1.0) + zero)
        return loss + broken - ops.where(self.progress * 9 > 7.5, 0.0, 1.0), hits


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_divergence_is_seen_at_its_step(dataset: Dataset, bad: float) -> None:
    recipe = Breaking(dataset.info, SETTINGS, 11)
    recipe.bad = bad
    saved: list[EpochMetrics] = []
    loop = TrainLoop(recipe, dataset, defense="breaking")
    with pytest.raises(Diverged, match=r"breaking diverged.*epoch 2, step 2.*seed 11") as caught:
        loop.run(saved.append, Silent())
    error = caught.value
    # Step 4 counted from 0 is the second of the second epoch; nothing of that epoch was saved.
    assert (error.epoch, error.step, error.seed) == (2, 2, 11)
    assert error.learning_rate == pytest.approx(0.1 * math.cos(7 / 16 * math.pi * 4 / 9))
    assert len(error.losses) == 5
    assert all(map(math.isfinite, error.losses[:-1]))
    assert not math.isfinite(error.losses[-1])
    assert "--restarts" in str(error)
    assert [line.epoch for line in saved] == [1]


def test_losses_looked_at_together_tell_the_step_too(dataset: Dataset, accelerator: None) -> None:
    recipe = Breaking(dataset.info, SETTINGS.replace(batch_size=1), 0)
    seen: list[int] = []

    class Watching(Silent):
        def step(self, step: int, loss: float) -> None:
            seen.append(step)

    recipe.at = 5  # after half of 120 steps: from step 61 on, counted from 0
    saved: list[EpochMetrics] = []
    with pytest.raises(Diverged) as caught:
        TrainLoop(recipe, dataset).run(saved.append, Watching())
    assert seen == [40]
    assert (caught.value.epoch, caught.value.step) == (2, 22)
    assert not math.isfinite(caught.value.losses[-1])
    assert [line.epoch for line in saved] == [1]


def test_only_the_last_30_losses_are_shown(dataset: Dataset) -> None:
    recipe = Breaking(dataset.info, SETTINGS.replace(batch_size=1), 0)
    recipe.at = 5  # of 9 ninths of 120 steps
    with pytest.raises(Diverged) as caught:
        run(TrainLoop(recipe, dataset))
    assert len(caught.value.losses) == 30


def test_divergence_in_the_last_gradient_is_seen_before_saving(dataset: Dataset) -> None:
    recipe = BreakingGradient(dataset.info, SETTINGS, 0)
    saved: list[EpochMetrics] = []
    with pytest.raises(Diverged, match=r"became NaN or infinite in network 1, epoch 3, step 3"):
        TrainLoop(recipe, dataset).run(saved.append, Silent())
    assert [line.epoch for line in saved] == [1, 2]


FAST = {"optimizer": "muon", "schedule": "linear", "initializer": "he", "learning_rate": 0.04}
COARSE = {**FAST, "precision": "bfloat16"}


@pytest.mark.parametrize(
    ("stop", "changes", "at_once"),
    [(1, {}, False), (2, {}, False), (1, FAST, False), (2, COARSE, False), (1, COARSE, True)],
)
def test_a_restored_loop_goes_on_bit_for_bit(
    dataset: Dataset,
    stop: int,
    changes: dict[str, Any],
    at_once: bool,
    request: pytest.FixtureRequest,
) -> None:
    if at_once:
        request.getfixturevalue("accelerator")
    settings = SETTINGS.replace(flip=True, **changes)
    whole = TrainLoop(Recipe(dataset.info, settings, 5), dataset)
    states: list[dict[str, np.ndarray]] = []
    lines: list[EpochMetrics] = []

    def save(metrics: EpochMetrics) -> None:
        lines.append(metrics)
        states.append(whole.state())

    whole.run(save, Silent())
    resumed = TrainLoop(Recipe(dataset.info, settings, 5), dataset)
    resumed.restore(states[stop - 1], stop)
    rest = run(resumed)
    assert [line.epoch for line in rest] == list(range(stop + 1, 4))
    assert [line.loss for line in rest] == [line.loss for line in lines[stop:]]
    for name, array in resumed.state().items():
        np.testing.assert_array_equal(array, states[-1][name], err_msg=name)


def test_an_epoch_is_cut_into_chunks_of_batches_and_a_last_batch(
    dataset: Dataset, accelerator: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_loop, "_STEPS_AT_ONCE", 2)
    for size, chunks, single in ((7, [2, 2, 1], [5]), (10, [2, 2], []), (41, [], [40])):
        loop = TrainLoop(Recipe(dataset.info, SETTINGS.replace(batch_size=size), 0), dataset)
        many: list[Any] = []
        one: list[Any] = []

        def steps(images: Any, labels: Any, indices: Any, many: list[Any] = many) -> Any:
            many.append(indices)
            return np.zeros(len(indices)), np.ones(len(indices))

        def step(images: Any, labels: Any, indices: Any, one: list[Any] = one) -> Any:
            one.append(ops.convert_to_numpy(indices))
            return np.zeros(()), np.ones(())

        monkeypatch.setattr(loop, "_many_steps", steps)
        monkeypatch.setattr(loop, "_step", step)
        run(loop, eval_every=0)
        epoch = len(chunks), len(single)
        assert [chunk.shape for chunk in many] == 3 * [(count, size) for count in chunks]
        assert [batch.shape for batch in one] == 3 * [(count,) for count in single]
        seen = [*many[: epoch[0]], *one[: epoch[1]]]
        assert sorted(np.concatenate([batch.ravel() for batch in seen])) == list(range(40))


# Only compilers that fuse a loop's operations otherwise than a step's round otherwise.
EXACT = backend.name == "torch"


@pytest.mark.parametrize("changes", [{}, FAST, COARSE])
def test_steps_made_at_once_are_those_made_one_by_one(
    dataset: Dataset, changes: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    # Without random numbers, of which XLA draws others than TensorFlow.
    settings = SETTINGS.replace(epochs=2, **changes)
    single, many = (TrainLoop(Recording(dataset.info, settings, 0), dataset) for _ in range(2))
    expected = run(single)
    request.getfixturevalue("accelerator")
    lines = run(many)
    # bfloat16 has 8 bits, and where it is rounded to them a compiler chooses.
    rounding = 0 if EXACT else 0.02 if changes is COARSE else 1e-5
    for name, array in single.state().items():
        largest = rounding * np.abs(array).max()
        np.testing.assert_allclose(many.state()[name], array, rtol=0, atol=largest, err_msg=name)
    for line, other in zip(lines, expected, strict=True):
        assert line.loss == pytest.approx(other.loss, rel=rounding)
        assert line.accuracy == pytest.approx(other.accuracy, abs=1 / 40 if rounding else 0)


@pytest.mark.parametrize(
    ("name", "changes"), [("advtrain", {}), ("majority", COARSE), ("knn", FAST)]
)
def test_random_numbers_in_steps_made_at_once_are_those_of_one_by_one(
    dataset: Dataset,
    name: str,
    changes: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    accelerator: None,
) -> None:
    settings = get(name).course_settings.replace(
        filters=2, epochs=4, batch_size=10, flip=True, **changes
    )
    states = []
    for at_once in (1, 4):
        monkeypatch.setattr(train_loop, "_STEPS_AT_ONCE", at_once)
        loop = TrainLoop(get(name).recipes(dataset.info, settings, 0)[-1], dataset)
        lines = run(loop, eval_every=0)
        states.append({**loop.state(), "hits": np.array([line.accuracy for line in lines])})
    one_by_one, together = states
    for key, array in one_by_one.items():
        np.testing.assert_array_equal(together[key], array, err_msg=key)


def test_a_loop_with_muon_learns_and_slows_down_to_zero(
    make_dataset: Callable[..., Dataset],
) -> None:
    dataset = make_dataset(train=160, test=40)
    settings = SETTINGS.replace(filters=8, epochs=3, batch_size=8, **FAST)
    lines = run(TrainLoop(Recipe(dataset.info, settings, 0), dataset))
    assert lines[-1].test_accuracy is not None
    assert lines[-1].test_accuracy > 0.9  # SGD has 12 epochs for that above
    assert lines[-1].learning_rate == pytest.approx(0.04 / 60 / 0.95)  # the last of 60 steps


def test_bfloat16_is_for_training_alone(make_dataset: Callable[..., Dataset]) -> None:
    dataset = make_dataset(train=160, test=40)
    settings = SETTINGS.replace(filters=8, epochs=4, batch_size=8, **FAST)
    loops = {}
    for precision in ("float32", "bfloat16"):
        recipe = Recipe(dataset.info, settings.replace(precision=precision), 0)
        loops[precision] = loop = TrainLoop(recipe, dataset)
        x = ops.convert_to_tensor(dataset.x_test[:4].astype(np.float32) / 255)
        assert keras.backend.standardize_dtype(loop.net.features(x).dtype) == precision
        assert keras.backend.standardize_dtype(loop.ema.features(x).dtype) == "float32"
        assert keras.backend.standardize_dtype(loop.net(x).dtype) == "float32"
        assert run(loop)[-1].test_accuracy == pytest.approx(1, abs=0.1)
        assert {array.dtype.name for array in loop.weights().values()} == {"float32"}
    # 8 bits of mantissa: a hundredth is lost in a pass, and it is another training.
    exact, coarse = (values(loop.net.trainable_variables)[0] for loop in loops.values())
    assert 1e-4 < np.abs(exact - coarse).max() < 0.2


def test_weight_decay_is_a_term_of_the_loss_on_kernels_alone(dataset: Dataset) -> None:
    class Constant(Quadratic):
        def loss(self, net: Any, x: Any, y: Any) -> tuple[Any, Any]:
            loss, hits = super().loss(net, x, y)
            return 0 * loss, hits

    settings = SETTINGS.replace(epochs=1, batch_size=40, weight_decay=0.5)
    loop = TrainLoop(Constant(dataset.info, settings, 0), dataset)
    before = values(loop.net.trainable_variables)
    [line] = run(loop)
    squares = sum((array**2).sum() for array in before if array.ndim == 4)
    assert line.loss == pytest.approx(0.5 / 2 * squares, rel=1e-5)
    for old, new in zip(before, values(loop.net.trainable_variables), strict=True):
        shrunk = old * (1 - 0.1 * 0.5) if old.ndim == 4 else old
        np.testing.assert_allclose(new, shrunk, rtol=1e-5)

"""TrainLoop: its arithmetic by hand, divergence, and going on from a saved state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from sparring import backend
from sparring.data import Dataset
from sparring.defenses import get
from sparring.errors import Diverged
from sparring.networks.allconv import AllConv
from sparring.randomness import Stream, spread
from sparring.training import loop as train_loop
from sparring.training.callbacks import EpochMetrics, Silent
from sparring.training.loop import TrainLoop, learning_rate_factor
from sparring.training.recipe import Recipe, cross_entropy, hits
from sparring.training.settings import Settings

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


# The average, the ramp and the optimizer, step by step


@pytest.mark.parametrize("ema_decay", [0.999, 0.2])
def test_the_average_starts_at_the_initial_weights_and_warms_up(
    dataset: Dataset, ema_decay: float
) -> None:
    # Four steps of half of the images: decays 1/10, 2/11, 3/12 and 4/13, or 0.2 where that is
    # less. Of the initial weights 0.1 * 0.18 * 0.25 * 0.31 is left: seven hundred times rounding.
    settings = SETTINGS.replace(epochs=2, batch_size=20, ema_decay=ema_decay, weight_decay=0.0)
    loop = TrainLoop(Quadratic(dataset.info, settings, 0), dataset)
    start = values(loop.net.trainable_variables)
    for raw, averaged in zip(start, values(loop.ema.trainable_variables), strict=True):
        np.testing.assert_array_equal(raw, averaged)
    for variables in (loop.net.trainable_variables, loop.ema.trainable_variables):
        variables[1].assign(ops.ones(variables[1].shape) * 5)  # of the first layer's bias, 0 before
    run(loop)
    weight, speed, average = 5.0, 0.0, 5.0
    for step in range(4):
        rate = 0.1 * math.cos(7 / 16 * math.pi * step / 4)
        speed = 0.9 * speed - rate * (weight - 1)
        weight += speed
        decay = min(ema_decay, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
    assert values(loop.net.trainable_variables)[1] == pytest.approx(weight, rel=1e-5)
    assert values(loop.ema.trainable_variables)[1] == pytest.approx(average, rel=1e-5)
    # Kernels have no gradient here and are not decayed.
    for index in (0, 2, 4):
        np.testing.assert_array_equal(values(loop.net.trainable_variables)[index], start[index])


def test_the_average_of_few_steps_keeps_a_share_of_the_initial_weights(dataset: Dataset) -> None:
    settings = SETTINGS.replace(epochs=1, batch_size=40, ema_decay=0.999)
    loop = TrainLoop(Quadratic(dataset.info, settings, 0), dataset)
    run(loop)
    # One step takes the biases from 0 to 0.1; the average keeps a tenth of what was.
    assert values(loop.net.trainable_variables)[1] == pytest.approx(0.1, rel=1e-5)
    assert values(loop.ema.trainable_variables)[1] == pytest.approx(0.09, rel=1e-5)


def test_muon_in_a_loop_has_the_loop_s_momentum_rate_and_weight_decay(dataset: Dataset) -> None:
    settings = SETTINGS.replace(
        epochs=2, batch_size=20, optimizer="muon", schedule="linear", weight_decay=0.5
    )
    settings = settings.replace(momentum=0.8)
    loop = TrainLoop(Quadratic(dataset.info, settings, 0), dataset)
    before = values(loop.net.trainable_variables)
    lines = run(loop)
    # Nesterov's momentum on biases at the linear schedule's rates, by hand: 0.1 of the peak, and
    # then what is left at 1/4, 2/4 and 3/4.
    rates = [0.1 * factor for factor in (0.1, 0.75 / 0.95, 0.5 / 0.95, 0.25 / 0.95)]
    bias, memory = 0.0, 0.0
    for rate in rates:
        memory = 0.8 * memory + bias - 1
        bias -= rate * (bias - 1 + 0.8 * memory)
    for variable in values(loop.net.trainable_variables)[1::2]:
        assert variable == pytest.approx(bias, rel=1e-5)
    assert lines[-1].learning_rate == pytest.approx(rates[-1])
    # Kernels have no gradient but weight decay's; the step is about orthogonal, and down.
    for old, new in zip(before[::2], values(loop.net.trainable_variables)[::2], strict=True):
        assert (new * old).sum() < (old**2).sum()
        assert np.abs(new - old).max() > 1e-3


class Ramped(Recipe):
    """Its loss is the ramp's value; what is tested with which ramp is noted."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.tested: list[tuple[Any, float]] = []

    def net(self) -> AllConv:
        net = super().net()
        net.height = net.ramp("height")
        return net

    def on_progress(self, net: Any, progress: Any) -> None:
        net.height.assign(progress)

    def loss(self, net: Any, x: Any, y: Any) -> tuple[Any, Any]:
        return net.height + 0 * ops.sum(net.head[1]), ops.zeros(())

    def evaluate(self, net: Any, dataset: Dataset) -> float:
        self.tested.append((net, float(ops.convert_to_numpy(net.height.value))))
        return 0.25


@pytest.mark.parametrize(("eval_every", "tested"), [(1, [1, 2, 3, 4]), (3, [3, 4]), (0, [4])])
def test_the_ramp_is_set_at_every_step_and_at_tests_of_the_average(
    dataset: Dataset, eval_every: int, tested: list[int]
) -> None:
    settings = SETTINGS.replace(epochs=4, batch_size=20, weight_decay=0.0)
    recipe = Ramped(dataset.info, settings, 0)
    loop = TrainLoop(recipe, dataset)
    lines = run(loop, eval_every=eval_every)
    # Two steps an epoch: 0/8 and 1/8 in the first, 2/8 and 3/8 in the second, ...
    assert [line.loss for line in lines] == pytest.approx([0.5 / 8, 2.5 / 8, 4.5 / 8, 6.5 / 8])
    assert [height for _, height in recipe.tested] == pytest.approx([each / 4 for each in tested])
    assert all(net is loop.ema for net, _ in recipe.tested)
    expected = [0.25 if epoch in tested else None for epoch in (1, 2, 3, 4)]
    assert [line.test_accuracy for line in lines] == expected
    assert float(ops.convert_to_numpy(loop.net.height)) == pytest.approx(7 / 8)


def test_images_are_brought_to_1_and_augmented_before_the_loss(dataset: Dataset) -> None:
    class Marked(Recipe):
        def augment(self, x: Any, y: Any) -> tuple[Any, Any]:
            return x / 2, y + 1

        def loss(self, net: Any, x: Any, y: Any) -> tuple[Any, Any]:
            mean = ops.mean(ops.mean(x, axis=(1, 2, 3)) * ops.cast(y, "float32"))
            return mean + 0 * ops.sum(net.head[1]), ops.sum(ops.cast(y, "float32"))

    settings = SETTINGS.replace(epochs=1, batch_size=16, weight_decay=0.0)
    [line] = run(TrainLoop(Marked(dataset.info, settings, 0), dataset))
    labels = dataset.y_train + 1
    # Each image with the label that is its own, in whatever order.
    expected = (dataset.x_train.mean(axis=(1, 2, 3)) / 255 / 2 * labels).mean()
    assert line.loss == pytest.approx(expected, rel=1e-5)
    assert line.accuracy == pytest.approx(labels.mean())


# The epochs on the host, with steps that compute nothing


class Telling(Silent):
    """A Progress that notes what it is told."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, ...]] = []
        self.steps: list[tuple[int, float]] = []
        self.left: list[float] = []
        self.messages: list[str] = []

    def begin(self, network: int, networks: int, epoch: int, epochs: int, steps: int) -> None:
        self.begun.append((network, networks, epoch, epochs, steps))

    def step(self, step: int, loss: float) -> None:
        self.steps.append((step, loss))

    def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None:
        self.left.append(seconds_left)

    def message(self, text: str) -> None:
        self.messages.append(text)


class Untested(Recipe):
    """A test costs nothing."""

    def evaluate(self, net: Any, dataset: Dataset) -> float:
        return 0.5


def scripted(
    recipe: Recipe, dataset: Dataset, losses: Sequence[float] = (), right: Sequence[float] = ()
) -> TrainLoop:
    """A loop whose steps give these losses and hits, 0 when there are no more, and do nothing."""
    loop = TrainLoop(recipe, dataset, defense="scripted")
    given, hits_given = iter(losses), iter(right)

    def step(images: Any, labels: Any, indices: Any) -> tuple[Any, Any]:
        return np.array(next(given, 0.0)), np.array(next(hits_given, 0.0))

    loop._step = step
    return loop


@pytest.mark.parametrize(("right", "told"), [(109, True), (110, False)])
def test_a_network_that_only_guesses_is_told_of_after_its_last_epoch(
    make_dataset: Callable[..., Dataset], right: int, told: bool
) -> None:
    # Guessing among 4 classes is right for 100 of 400, a tenth more is 110.
    dataset = make_dataset(train=400)
    settings = SETTINGS.replace(epochs=2, batch_size=200, learning_rate=0.07)
    recipe = Untested(dataset.info, settings, 0, 1)
    telling = Telling()
    loop = scripted(recipe, dataset, right=[0, 0, 100, right - 100])
    loop.run(lambda metrics: None, telling)
    if not told:
        assert telling.messages == []
        return
    [message] = telling.messages
    assert "Network 2 is hardly better than guessing" in message
    assert "27.25% of the training images" in message
    assert "lower learning rate than 0.07" in message


def test_where_hits_are_no_answers_nobody_is_told_of_guessing(dataset: Dataset) -> None:
    class NoAnswers(Untested):
        def chance(self, net: Any) -> float:
            return 0.0

    telling = Telling()
    recipe = NoAnswers(dataset.info, SETTINGS.replace(epochs=1), 0)
    scripted(recipe, dataset).run(lambda metrics: None, telling)
    assert telling.messages == []


def test_progress_is_told_of_the_network_the_steps_and_the_time_left(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clock that goes on by half a second whenever it is looked at: once at the start, at an
    # epoch's start and end, and when it is saved.
    looks = iter(range(1000))
    clock = SimpleNamespace(monotonic=lambda: next(looks) / 2)
    monkeypatch.setattr(train_loop, "time", clock)
    recipe = Untested(dataset.info, SETTINGS.replace(epochs=4), 0, 2)
    telling = Telling()
    loop = scripted(recipe, dataset, losses=range(1, 10))
    loop.epoch = 1  # as after a restart
    saved: list[EpochMetrics] = []
    loop.run(saved.append, telling, networks=3)
    assert telling.begun == [(2, 3, 1, 4, 3)]
    assert telling.steps == [(step, 3 * epoch + step) for epoch in range(3) for step in (1, 2, 3)]
    # 1.5 seconds an epoch, two of three, one and none of them left.
    assert telling.left == pytest.approx([3.0, 1.5, 0.0])
    assert [(line.epoch, line.network) for line in saved] == [(2, 2), (3, 2), (4, 2)]
    assert [line.seconds for line in saved] == [0.5, 0.5, 0.5]
    assert [line.images_per_second for line in saved] == [80, 80, 80]


def test_accuracy_is_of_all_images_and_the_loss_of_each_alike(dataset: Dataset) -> None:
    recipe = Untested(dataset.info, SETTINGS.replace(epochs=1), 0)
    [line] = run(scripted(recipe, dataset, losses=[1, 2, 3], right=[10, 5, 3]))
    assert line.accuracy == 18 / 40
    assert line.loss == pytest.approx((16 * 1 + 16 * 2 + 8 * 3) / 40)


def test_order_and_draws_of_an_epoch_follow_from_the_network_s_seed(dataset: Dataset) -> None:
    class Noting:
        variables: tuple[()] = ()

        def __init__(self) -> None:
            self.seeds: list[int] = []

        def seed(self, seed: int) -> None:
            self.seeds.append(seed)

    for network in (0, 3):
        recipe = Untested(dataset.info, SETTINGS.replace(batch_size=40), 6, network)
        noting = Noting()
        recipe.random = noting  # type: ignore[assignment]
        loop = TrainLoop(recipe, dataset)
        orders: list[list[int]] = []

        def step(images: Any, labels: Any, indices: Any, orders: Any = orders) -> tuple[Any, Any]:
            orders.append(ops.convert_to_numpy(indices).tolist())
            return np.zeros(()), np.zeros(())

        loop._step = step
        run(loop)
        own = spread(6, Stream.NETWORK, network) if network else 6
        assert noting.seeds == [spread(own, Stream.AUGMENTATION, epoch) for epoch in range(3)]
        for epoch, order in enumerate(orders):
            expected = np.random.default_rng(spread(own, Stream.ORDER, epoch)).permutation(40)
            assert order == expected.tolist()


def test_losses_before_a_restart_are_shown_when_it_diverges(dataset: Dataset) -> None:
    recipe = Untested(dataset.info, SETTINGS, 0, 1)
    first = scripted(recipe, dataset, losses=range(1, 10))
    states: list[dict[str, np.ndarray]] = []
    first.run(lambda metrics: states.append(first.state()), Silent())
    resumed = scripted(recipe, dataset, losses=[10, -math.inf])
    resumed.restore(states[0], 1)
    with pytest.raises(Diverged) as caught:
        run(resumed)
    error = caught.value
    assert list(error.losses) == [1, 2, 3, 10, -math.inf]
    assert (error.epoch, error.step) == (2, 2)
    assert "in network 2, epoch 2, step 2" in str(error)
    assert error.learning_rate == pytest.approx(0.1 * math.cos(7 / 16 * math.pi * 4 / 9))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_seen_at_an_epoch_s_last_step(
    dataset: Dataset, bad: float
) -> None:
    loop = scripted(Untested(dataset.info, SETTINGS, 0), dataset)
    kernel = loop.net.head[0]
    kernel.assign(ops.zeros(kernel.shape) + bad)
    saved: list[EpochMetrics] = []
    with pytest.raises(Diverged, match=r"head_kernel became NaN or infinite in.*epoch 1, step 3"):
        loop.run(saved.append, Silent())
    assert saved == []


def test_the_average_is_what_is_saved_under_the_network_s_number(dataset: Dataset) -> None:
    loop = TrainLoop(Recipe(dataset.info, SETTINGS, 0, 2), dataset)
    for number, variable in enumerate(loop.ema.trainable_variables):
        variable.assign(ops.zeros(variable.shape) + number)
    weights = loop.weights()
    parts = ("conv_0", "conv_1", "head")
    names = [f"{part}_{kind}" for part in parts for kind in ("kernel", "bias")]
    assert list(weights) == [f"2/{name}" for name in names]
    for number, array in enumerate(weights.values()):
        assert (array == number).all()
    state = loop.state()
    assert all((state[f"ema/{name}"] == number).all() for number, name in enumerate(names))
    assert not (state["net/conv_0_kernel"] == 0).all()


def test_an_accelerator_is_handed_up_to_50_batches_at_once(
    make_dataset: Callable[..., Dataset], accelerator: None
) -> None:
    dataset = make_dataset(train=241)
    settings = SETTINGS.replace(epochs=1, batch_size=2)
    loop = scripted(Untested(dataset.info, settings, 0), dataset, losses=[7.0])
    given: list[np.ndarray] = []

    def many(images: Any, labels: Any, indices: np.ndarray) -> tuple[Any, Any]:
        given.append(indices)
        return np.arange(len(indices)), np.ones(len(indices))

    loop._many_steps = many
    telling = Telling()
    loop.run(lambda metrics: None, telling)
    assert [chunk.shape for chunk in given] == [(50, 2), (50, 2), (20, 2)]
    # The last, smaller batch is a step by itself. Of several losses the last is told.
    assert telling.steps == [(50, 49), (100, 49), (120, 19), (121, 7)]


@pytest.mark.skipif(backend.name != "torch", reason="is of PyTorch alone")
@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_momenta_lie_in_memory_as_kernels_and_their_gradients_do(
    dataset: Dataset, optimizer: str
) -> None:
    recipe = Recipe(dataset.info, SETTINGS.replace(optimizer=optimizer), 0)
    loop = TrainLoop(recipe, dataset)
    run(loop)
    kernels = [each for each in loop._optimizer.variables if len(each.shape) == 4]
    assert len(kernels) == 3
    for kernel in (*loop.net.kernels, *loop.ema.kernels, *kernels):
        assert kernel.value.permute(3, 0, 1, 2).is_contiguous()


# What recipes share


def test_cross_entropy_and_hits_by_hand() -> None:
    logits = ops.convert_to_tensor(np.array([[0, math.log(3)], [0, 0], [2, 0]], np.float32))
    y = ops.convert_to_tensor(np.array([1, 0, 1], np.int32))
    # 3/4 and 1/2 for the labels, then 1 against e^2.
    expected = (math.log(4 / 3) + math.log(2) + math.log(1 + math.exp(2))) / 3
    assert float(ops.convert_to_numpy(cross_entropy(y, logits))) == pytest.approx(expected)
    # The first is right, the last is not; of equal logits the first is the answer.
    assert float(ops.convert_to_numpy(hits(y, logits))) == 2


def test_the_shared_loss_is_the_network_s_cross_entropy(dataset: Dataset) -> None:
    recipe = Recipe(dataset.info, SETTINGS, 0)
    logits = np.array([[0, 0, 0, 5], [0, 3, 0, 0], [9, 0, 0, 0]], np.float32)
    y = ops.convert_to_tensor(np.array([3, 1, 2], np.int32))
    loss, right = recipe.loss(lambda x: ops.convert_to_tensor(logits), None, y)
    expected = (math.log(1 + 3 * math.exp(-5)) + math.log(1 + 3 * math.exp(-3))) / 3
    expected += math.log(3 + math.exp(9)) / 3
    assert float(ops.convert_to_numpy(loss)) == pytest.approx(expected, rel=1e-5)
    assert float(ops.convert_to_numpy(right)) == 2


def test_accuracy_is_the_share_of_test_images_that_are_right(dataset: Dataset) -> None:
    class Answering:
        def predict(self, images: np.ndarray) -> np.ndarray:
            np.testing.assert_array_equal(images, dataset.x_test)
            answers = np.where(np.arange(16) < 12, dataset.y_test, (dataset.y_test + 1) % 4)
            return np.eye(4, dtype=np.float32)[answers]

    assert Recipe(dataset.info, SETTINGS, 0).evaluate(Answering(), dataset) == 12 / 16


@pytest.mark.skipif(backend.name == "jax", reason="takes JAX long to compile")
def test_a_recipe_s_network_follows_its_settings_and_its_seed(dataset: Dataset) -> None:
    settings = SETTINGS.replace(filters=3, head_size=3, initializer="he")
    for network in (0, 2):
        recipe = Recipe(dataset.info, settings, 9, network)
        # The first of an ensemble has the user's seed, the others one made from it.
        own = spread(9, Stream.NETWORK, network) if network else 9
        assert recipe.spread(Stream.DRAWS, 4, 5) == spread(own, Stream.DRAWS, 4, 5)
        seed = spread(own, Stream.WEIGHTS)
        expected = AllConv((8, 8, 1), 4, 3, head_size=3, initializer="he", seed=seed)
        for a, b in zip(values(recipe.net().variables), values(expected.variables), strict=True):
            np.testing.assert_array_equal(a, b)
        assert recipe.finish(recipe.net(), dataset) == {}
    recipe = type("Wide", (Recipe,), {"outputs": 5})(dataset.info, settings, 9)
    other = recipe.net()
    assert tuple(other.kernels[0].shape) == (3, 3, 1, 3)
    assert tuple(other.kernels[-1].shape) == (3, 3, 6, 5)
    # Guessing is among the outputs, of which some defenses have others than classes.
    assert recipe.chance(other) == 1 / 5

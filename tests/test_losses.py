"""What each recipe minimizes: losses and batches, worked out by hand on given images and draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from sparring import backend
from sparring.data import Dataset
from sparring.defenses import DEFENSES, advtrain, blur, discretize, get, injection, knn, trades
from sparring.defenses.adversarial import PgdSettings
from sparring.networks.allconv import AllConv
from sparring.networks.augment import STRONG_DRAWS, shift_flip, strong
from sparring.randomness import Stream, spread
from sparring.threat import Linf, ascend
from sparring.training.recipe import Recipe, cross_entropy, hits
from sparring.training.settings import Settings
from tests.conftest import patterns

pytestmark = pytest.mark.backend

# Sums of a few float32 numbers of size 1, through exponentials and logarithms.
CLOSE = 2e-6


def tensor(values: Any, dtype: str = "float32") -> Any:
    return ops.convert_to_tensor(np.array(values, dtype))


def array(answer: Any) -> np.ndarray:
    return np.array(ops.convert_to_numpy(answer))


class Drawn:
    """Random numbers given beforehand, in the order in which they have to be asked for."""

    def __init__(self, *expected: tuple[str, np.ndarray]) -> None:
        self._expected = list(expected)

    def _next(self, kind: str, shape: Sequence[int]) -> Any:
        expected, numbers = self._expected.pop(0)
        assert (kind, tuple(shape)) == (expected, numbers.shape)
        return tensor(numbers)

    def uniform(self, shape: Sequence[int]) -> Any:
        return self._next("uniform", shape)

    def normal(self, shape: Sequence[int]) -> Any:
        return self._next("normal", shape)

    def all_used(self) -> bool:
        return not self._expected


class Plane:
    """A network of two classes whose second logit is 3 a + 4 b - 3 of images of two pixels a, b.

    The gradient of that logit by the pixels is (3, 4), of length 5.
    """

    def __call__(self, x: Any) -> Any:
        z = ops.sum(ops.reshape(x, (-1, 2)) * tensor([3.0, 4.0]), axis=1) - 3
        return ops.stack([ops.zeros_like(z), z], axis=-1)


def pixels(*pairs: tuple[float, float]) -> np.ndarray:
    """Images [B, 1, 2, 1] of two pixels each."""
    return np.array(pairs, np.float32).reshape(-1, 1, 2, 1)


def surprise(*lead: float) -> float:
    """Mean cross entropy when the label's logit is ahead of the only other one by `lead`."""
    return sum(math.log1p(math.exp(-each)) for each in lead) / len(lead)


def info(classes: str = "abcd") -> Any:
    x, y = patterns(8)
    y = y % len(classes)
    return Dataset("patterns", x, y, x, y, tuple(classes), mirror=False).info


def recipe_of(name: str, draws: Drawn | None = None, network: int = 0, **settings: Any) -> Any:
    """A defense's recipe for a network, small, with given draws."""
    small = get(name).course_settings.replace(**{"filters": 2, "flip": False, **settings})
    recipe = get(name).recipes(info(), small, 0)[network]
    if draws is not None:
        recipe.random = draws  # type: ignore[assignment]
    return recipe


def loss_of(recipe: Any, net: Any, x: np.ndarray, y: list[int]) -> tuple[float, float]:
    loss, right = recipe.loss(net, tensor(x), tensor(y, "int32"))
    return float(array(loss)), float(array(right))


# What all share


def test_cross_entropy_and_hits_by_hand() -> None:
    logits = tensor([[0, 0], [math.log(3), 0], [0, 2]])
    y = tensor([1, 0, 0], "int32")
    expected = (math.log(2) + math.log(4 / 3) + math.log1p(math.exp(2))) / 3
    assert float(array(cross_entropy(y, logits))) == pytest.approx(expected, rel=CLOSE)
    assert float(array(hits(y, logits))) == 1  # of two equal logits the first counts


def test_the_shared_loss_is_the_cross_entropy() -> None:
    x = pixels((0.5, 0.5), (0.9, 0.2))  # second logits 0.5 and 0.5
    recipe = Recipe(info(), Settings(filters=2), 0)
    assert loss_of(recipe, Plane(), x, [1, 0]) == pytest.approx((surprise(0.5, -0.5), 1), rel=CLOSE)


def test_the_shared_batch_is_shifted_and_mirrored_where_wanted() -> None:
    x, y = patterns(6)
    x = x.astype(np.float32) / 255
    draws = np.random.default_rng(0).random((3, 6, 1), dtype=np.float32)
    draws[2, :, 0] = [0.1, 0.6, 0.49, 0.51, 0.9, 0.3]
    answers = {}
    for flip in (False, True):
        recipe = Recipe(info(), Settings(filters=2, flip=flip), 0)
        recipe.random = Drawn(("uniform", draws))  # type: ignore[assignment]
        answer, labels = recipe.augment(tensor(x), tensor(y, "int32"))
        answers[flip] = array(answer)
        np.testing.assert_array_equal(answers[flip], array(shift_flip(tensor(x), draws, flip)))
        np.testing.assert_array_equal(array(labels), y)
    mirrored = draws[2, :, 0] < 0.5
    same = (answers[True] == answers[False]).all(axis=(1, 2, 3))
    assert not same[mirrored].any()
    assert same[~mirrored].all()


class Predicted:
    """A network whose answers are given; images are told apart by their first pixel."""

    def __init__(self, answers: np.ndarray) -> None:
        self.answers = answers.astype(np.float32)

    def predict(self, images: np.ndarray) -> np.ndarray:
        return self.answers[images[:, 0, 0, 0]]


def numbered(labels: list[int], classes: str = "abcd") -> Dataset:
    """Training and test images that are numbered by their first pixel, with these labels."""
    x = np.zeros((len(labels), 8, 8, 1), np.uint8)
    x[:, 0, 0, 0] = np.arange(len(labels))
    y = np.array(labels, np.int32)
    return Dataset("numbered", x, y, x, y, tuple(classes), mirror=False)


def test_test_accuracy_is_the_share_of_right_answers() -> None:
    net = Predicted(np.eye(4)[[0, 1, 2, 3, 3]])
    dataset = numbered([0, 1, 2, 3, 0])
    assert Recipe(info(), Settings(filters=2), 0).evaluate(net, dataset) == 0.8


# blur, discretize


@pytest.mark.parametrize(
    ("name", "transform"), [("blur", blur.blur), ("discretize", discretize.discretized)]
)
def test_the_network_sees_transformed_images(name: str, transform: Callable[[Any], Any]) -> None:
    net = recipe_of(name).net()
    x = tensor(np.random.default_rng(0).random((3, 8, 8, 1), dtype=np.float32))
    behind = transform(x)
    plain = AllConv(tuple(behind.shape[1:]), 4, filters=2)
    for variable, value in zip(plain.variables, net.variables, strict=True):
        variable.assign(value)
    np.testing.assert_allclose(array(net(x)), array(plain(behind)), rtol=1e-5, atol=1e-6)
    assert behind.shape != x.shape


# advtrain


def test_advtrain_loss() -> None:
    # Second logits are 0.5. For label 1 the loss falls along (3, 4) / 5 = (0.6, 0.8), for label 0
    # it rises. Radius 2 times draws of 0.25 and 0.1: moved by -0.5 and by 0.2 of that, to
    # (0.2, 0.1) and to (1.02, 0.36), which is clipped to (1, 0.36): second logits -2 and 1.44.
    x = pixels((0.5, 0.5), (0.9, 0.2))
    draws = Drawn(("uniform", np.array([0.25, 0.1], np.float32).reshape(2, 1, 1, 1)))
    recipe = recipe_of("advtrain", draws)
    loss, right = loss_of(recipe, Plane(), x, [1, 0])
    assert loss == pytest.approx(surprise(0.5, -0.5) + surprise(-2, -1.44), rel=CLOSE)
    assert right == 1  # of the images as they are; none of the moved ones is
    assert draws.all_used()


def test_advtrain_follows_its_radius() -> None:
    x = pixels((0.5, 0.5))
    draws = Drawn(("uniform", np.array([0.5], np.float32).reshape(1, 1, 1, 1)))
    # Half of 0.5 along (0.6, 0.8) to (0.65, 0.7): 3 * 0.65 + 4 * 0.7 - 3 = 1.75.
    loss, _ = loss_of(recipe_of("advtrain", draws, radius=0.5), Plane(), x, [0])
    assert loss == pytest.approx(surprise(-0.5) + surprise(-1.75), rel=CLOSE)


# pgdtrain


def test_pgdtrain_loss() -> None:
    # Steps of 0.06 in a ball of 0.2: for label 1 down, for label 0 up, from x + 0.2 (2 u - 1).
    x = pixels((0.5, 0.5), (0.95, 0.2), (0.5, 0.4))
    draws = pixels((0.5, 0.05), (0.5, 0.25), (0.75, 0.0))
    # Image 1: 0.5 - 0.12 = 0.38; 0.5 - 0.18 = 0.32, then 0.26, then 0.30, the ball's end.
    # Image 2: 0.95 + 0.06 = 1.01, clipped to 1; 0.2 - 0.1 + 0.12 = 0.22.
    # Image 3: 0.5 + 0.1 - 0.12 = 0.48; 0.4 - 0.2 = 0.2, the ball's end, where it stays.
    moved = [(0.38, 0.30), (1.0, 0.22), (0.48, 0.20)]
    z = [3 * a + 4 * b - 3 for a, b in moved]  # -0.66, 0.88, -0.76
    given = Drawn(("uniform", draws))
    recipe = recipe_of("pgdtrain", given, eps=0.2, step_size=0.06, steps=2)
    loss, right = loss_of(recipe, Plane(), x, [1, 0, 1])
    assert loss == pytest.approx(surprise(z[0], -z[1], z[2]), rel=CLOSE)
    assert right == 0  # of the adversarial images; as they are, two of three
    assert given.all_used()


# trades


def test_trades_loss() -> None:
    # The start is x + 0.001 n. From there the second logit goes on to where the noise sent it:
    # two steps of 0.05 a pixel in a ball of 0.2.
    x = pixels((0.5, 0.5), (0.95, 0.2), (0.5, 0.5), (0.98, 0.0))
    noise = pixels((20.0, -5.0), (-10.0, 0.0), (150.0, 0.0), (10.0, 0.0))
    moved = [
        (0.62, 0.595),  # by 0.02 and -0.005, which raises z by 0.04; then up by 0.1 each
        (0.84, 0.1),  # by -0.01; then down by 0.1 each
        (0.7, 0.6),  # by 0.15, and 0.1, which ends at the ball's 0.2; 0.1
        (1.0, 0.1),  # by 0.01, and 0.1, which ends at 1; 0.1
    ]
    y = [1, 0, 1, 1]
    before, after = ([3 * a + 4 * b - 3 for a, b in each] for each in (x.reshape(-1, 2), moved))
    assert before == pytest.approx([0.5, 0.65, 0.5, -0.06])
    divergences = []
    for z, other in zip(before, after, strict=True):
        p, q = (1 / (1 + math.exp(-each)) for each in (z, other))
        divergences.append(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    leads = [z if label else -z for z, label in zip(before, y, strict=True)]
    given = Drawn(("normal", noise))
    settings: dict[str, Any] = {"eps": 0.2, "step_size": 0.05, "steps": 2}
    loss, right = loss_of(recipe_of("trades", given, **settings), Plane(), x, y)
    # Divergences are differences of logarithms near each other: some units more are rounded off.
    expected = surprise(*leads) + 6 * np.mean(divergences)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert right == 2  # of the images as they are; of the moved ones 3
    assert given.all_used()
    less = recipe_of("trades", Drawn(("normal", noise)), beta=1.0, **settings)
    expected = surprise(*leads) + np.mean(divergences)
    assert loss_of(less, Plane(), x, y)[0] == pytest.approx(expected, rel=1e-5)


# majority, mergebinary


@pytest.mark.parametrize("network", [0, 1, 2])
def test_majority_adds_noise_after_augmentation(network: int) -> None:
    x, y = patterns(4)
    x = x.astype(np.float32) / 255
    random = np.random.default_rng(network)
    draws = random.random((3, 4, 1), dtype=np.float32)
    noise = random.standard_normal(x.shape, dtype=np.float32)
    given = [("uniform", draws), ("normal", noise)][: 2 if network else 1]
    recipe = recipe_of("majority", Drawn(*given), network, filters=6)
    noisy, labels = recipe.augment(tensor(x), tensor(y, "int32"))
    expected = array(shift_flip(tensor(x), draws, False)) + network / 10 * noise
    np.testing.assert_allclose(array(noisy), expected, atol=1e-6)
    np.testing.assert_array_equal(array(labels), y)


def test_mergebinary_learns_and_is_tested_on_yes_and_no() -> None:
    recipe = recipe_of("mergebinary", network=2, filters=8)
    labels = tensor([2, 0, 1, 2, 3], "int32")
    _, answers = recipe.augment(ops.zeros((5, 8, 8, 1)), labels)
    np.testing.assert_array_equal(array(answers), [1, 0, 0, 1, 0])
    assert recipe.chance(recipe.net()) == 1 / 2
    # Says yes to the first, third and last; right about the first two noes and the first yes.
    net = Predicted(np.array([[0, 1], [1, 0], [0, 1], [1, 0], [0, 1]]))
    assert recipe.evaluate(net, numbered([2, 0, 1, 2, 3])) == pytest.approx(2 / 5)
    assert recipe.evaluate(net, numbered([2, 0, 2, 1, 2])) == 1


# injection


class Strong(Plane):
    """A plane with the strength of patterns that TrapdoorNet has."""

    strength = 0.1


def test_injection_loss() -> None:
    # Draws of 0.3 and 0.8 of four classes are classes 1 and 3.
    given = Drawn(("uniform", np.array([0.3, 0.8], np.float32)))
    recipe = recipe_of("injection", given)
    recipe._patterns = tensor(pixels((1, 1), (0, 1), (1, 1), (1, 0)))
    x = pixels((0.5, 0.5), (0.9, 0.2))

    class Four(Strong):
        """Logits 0, z, 0, -z."""

        def __call__(self, x: Any) -> Any:
            z = super().__call__(x)[:, 1]
            return ops.stack([0 * z, z, 0 * z, -z], axis=-1)

    def entropy(z: float, label: int) -> float:
        logits = [0.0, z, 0.0, -z]
        return math.log(sum(map(math.exp, logits))) - logits[label]

    # With 0.1 of pattern 1 the first's z is 0.5 + 0.4, with pattern 3 the second's 0.5 + 0.3.
    losses = [entropy(0.5, 1), entropy(0.5, 0), entropy(0.9, 1), entropy(0.8, 3)]
    loss, right = loss_of(recipe, Four(), x, [1, 0])
    assert loss == pytest.approx(sum(losses) / 4, rel=CLOSE)
    assert right == 2 / 2  # the first as it is and under its pattern, halved for twice the images
    assert given.all_used()


def test_injection_ramps_its_strength() -> None:
    recipe = recipe_of("injection")
    assert recipe.settings.strength == 0.02
    net = recipe.net()
    recipe.on_progress(net, 0.5)
    assert float(array(net.strength)) == pytest.approx(0.0335)
    other = recipe_of("injection", strength=0.1)
    other.on_progress(net, 0.0)
    assert float(array(net.strength)) == pytest.approx(0.25)


def test_injection_patterns_are_halves_and_follow_from_the_seed() -> None:
    kind, settings = get("injection").recipe, get("injection").course_settings.replace(filters=2)
    first, same, other = (kind(info(), settings, seed).patterns() for seed in (3, 3, 4))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
    assert first.shape == (4, 8, 8, 1)
    assert 0.35 < first.mean() < 0.65  # 256 coins: a deviation is 0.03
    assert (first[0] != first[1]).any()
    random = np.random.default_rng(spread(3, Stream.PATTERNS))
    np.testing.assert_array_equal(first, random.integers(0, 2, (4, 8, 8, 1)))


def test_mean_features_are_averaged_over_space() -> None:
    net = recipe_of("injection").net()
    assert isinstance(net, injection.TrapdoorNet)
    x = tensor(np.random.default_rng(0).random((3, 8, 8, 1), dtype=np.float32))
    means, logits = net.mean_features(x)
    features = array(net.features(x))  # [3, 4, 4, 4]
    np.testing.assert_allclose(array(means), features.mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(array(logits), array(net(x)), rtol=1e-5, atol=1e-6)


# transform, knn


@pytest.mark.parametrize("flip", [False, True])
def test_transform_trains_on_strongly_augmented_images(flip: bool) -> None:
    x, y = patterns(5)
    x = x.astype(np.float32) / 255
    draws = np.random.default_rng(1).random((STRONG_DRAWS, 5, 1), dtype=np.float32)
    recipe = recipe_of("transform", Drawn(("uniform", draws)), flip=flip)
    seen, labels = recipe.augment(tensor(x), tensor(y, "int32"))
    np.testing.assert_array_equal(array(seen), array(strong(tensor(x), tensor(draws), flip)))
    np.testing.assert_array_equal(array(labels), y)
    assert (array(seen) != x).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("flip", [False, True])
def test_knn_trains_on_two_views_of_each_image(flip: bool) -> None:
    x, y = patterns(3)
    x = x.astype(np.float32) / 255
    draws = np.random.default_rng(1).random((STRONG_DRAWS, 6, 1), dtype=np.float32)
    recipe = recipe_of("knn", Drawn(("uniform", draws)), flip=flip)
    views, _ = recipe.augment(tensor(x), tensor(y, "int32"))
    for view, part in ((array(views)[:3], slice(3)), (array(views)[3:], slice(3, 6))):
        np.testing.assert_array_equal(view, array(strong(tensor(x), tensor(draws[:, part]), flip)))
    assert (array(views)[:3] != array(views)[3:]).any(axis=(1, 2, 3)).all()


class Embedding:
    """Embeddings given beforehand, of scale 2."""

    log_scale = math.log(2)

    def __init__(self, *rows: tuple[float, float]) -> None:
        self.rows = rows

    def __call__(self, x: Any) -> Any:
        return tensor(self.rows)


def test_knn_loss() -> None:
    # Two images, their first views, then their second ones; similarities are doubled.
    net = Embedding((1, 0), (0, 1), (1, 0), (0.6, 0.8))
    rows = [math.log(math.exp(2) + math.exp(1.2) + 1) - 2, math.log(1 + math.exp(1.6) + 1) - 1.6]
    columns = [
        math.log(math.exp(2) + 1 + math.exp(1.2)) - 2,
        math.log(math.exp(1.2) + math.exp(1.6) + math.exp(1.2)) - 1.6,
    ]
    loss, right = loss_of(recipe_of("knn"), net, np.zeros((4, 8, 8, 1)), [0, 1])
    assert loss == pytest.approx((sum(rows) + sum(columns)) / 2, rel=CLOSE)
    assert right == 2
    assert recipe_of("knn").chance(recipe_of("knn").net()) == 0


def test_knn_embeddings_have_length_1_and_a_scale_that_starts_at_1() -> None:
    net = recipe_of("knn").net()
    x = tensor(np.random.default_rng(0).random((3, 8, 8, 1), dtype=np.float32))
    embedding = array(net(x))
    assert embedding.shape == (3, 128)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, rtol=1e-5)
    bare = array(AllConv.call(net, x))
    np.testing.assert_allclose(
        embedding, bare / np.linalg.norm(bare, axis=1, keepdims=True), rtol=1e-4, atol=1e-6
    )
    assert float(array(net.log_scale)) == 0
    assert any(variable is net.log_scale for variable in net.trainable_variables)


def test_knn_is_tested_by_its_nearest_training_images() -> None:
    # Nine training images, six of class 0 to the east and three of class 1 to the north. The eight
    # nearest of an image in the east are six and two; in the north three and five.
    east, north = (1.0, 0.0), (0.0, 1.0)
    labels = 6 * [0] + 3 * [1]
    net = Predicted(np.array(6 * [east] + 3 * [north]))
    recipe = recipe_of("knn")
    assert recipe.evaluate(net, numbered(labels, "ab")) == pytest.approx(6 / 9)
    few = numbered([*labels[2:7], 1, 1], "ab")  # fewer than eight: all of them vote, 4 to 3
    assert recipe.evaluate(net, few) == pytest.approx(4 / 7)


def test_knn_keeps_embeddings_and_labels_of_all_training_images() -> None:
    dataset = numbered([0, 1, 2, 3, 1, 2])
    net = Predicted(np.arange(12).reshape(6, 2))
    arrays = recipe_of("knn").finish(net, dataset)
    np.testing.assert_array_equal(arrays["embeddings"], np.arange(12).reshape(6, 2))
    np.testing.assert_array_equal(arrays["labels"], [0, 1, 2, 3, 1, 2])


# Settings that make a defense what it is


def test_the_settings_that_defenses_differ_in() -> None:
    shared = Settings().as_json()
    differs = {}
    for name, defense in DEFENSES.items():
        settings = defense.course_settings.as_json()
        own = {key: value for key, value in settings.items() if value != shared.get(key)}
        if own:
            differs[name] = own
    # The course's numbers; pgdtrain's and trades' are their papers' on CIFAR-10, with seven and
    # ten steps of 2/255 within 8/255.
    assert differs == {
        "temperature": {"weight_decay": 1e-5, "base": 1.15},
        "labelsmooth": {"weight_decay": 0.0},
        "injection": {"learning_rate": 0.01, "batch_size": 32, "strength": 0.02},
        "knn": {"batch_size": 128, "learning_rate": 0.003, "epochs": 1000, "weight_decay": 0.0},
        "advtrain": {"weight_decay": 0.0, "radius": 2.0},
        "pgdtrain": {"eps": 8 / 255, "step_size": 2 / 255, "steps": 7},
        "trades": {"eps": 8 / 255, "step_size": 2 / 255, "steps": 10, "beta": 6.0},
    }
    assert isinstance(trades.Trades.course_settings, PgdSettings)
    assert isinstance(advtrain.AdvTrain.course_settings, advtrain.AdvTrainSettings)


def test_knn_looks_among_a_sample_while_it_trains() -> None:
    assert knn.SAMPLE == 2000
    labels = 1995 * [0] + 10 * [1]
    seen: list[int] = []

    class Counting(Predicted):
        def predict(self, images: np.ndarray) -> np.ndarray:
            seen.append(len(images))
            return np.ones((len(images), 2), np.float32)

    x = np.zeros((len(labels), 8, 8, 1), np.uint8)
    y = np.array(labels, np.int32)
    dataset = Dataset("many", x, y, x[:3], y[:3], ("a", "b"), mirror=False)
    assert recipe_of("knn").evaluate(Counting(np.zeros((1, 2))), dataset) == 1
    assert seen == [2000, 3]


def loss_and_slope_by_weight(recipe: Any) -> tuple[float, float]:
    """Loss of one pixel a = 0.5 of label 0 whose second logit is w a, and its slope at w = 2."""
    w = keras.Variable(np.float32(2.0))

    class Weighted:
        def __call__(self, x: Any) -> Any:
            z = w * x[:, 0, 0, 0]
            return ops.stack([ops.zeros_like(z), z], axis=-1)

    x, y = np.full((1, 1, 1, 1), 0.5, np.float32), tensor([0], "int32")
    step = backend.compile(
        lambda x: backend.value_and_gradients(lambda: recipe.loss(Weighted(), x, y), [w], []), [w]
    )
    loss, _, (slope,) = step(tensor(x))
    return float(array(loss)), float(array(slope))


def test_gradients_go_to_the_weights_through_the_moved_images_alone() -> None:
    # The images advtrain, pgdtrain and trades move are constants for the weights. Moved up to
    # b = 0.7 whatever w > 0 is, d/dw log(1 + exp(w b)) = b / (1 + exp(-w b)).
    draws = Drawn(("uniform", np.full((1, 1, 1, 1), 0.5, np.float32)))
    recipe = recipe_of("pgdtrain", draws, eps=0.2, step_size=0.1, steps=3)
    loss, slope = loss_and_slope_by_weight(recipe)
    assert loss == pytest.approx(math.log1p(math.exp(1.4)), rel=CLOSE)
    assert slope == pytest.approx(0.7 / (1 + math.exp(-1.4)), rel=1e-5)


def test_trades_moves_the_clean_answers_too() -> None:
    # Moved to b = 0.62: by the noise 0.02, then up twice by 0.05. With p and q the second class's
    # probabilities at a and b, the divergence KL(p || q) is differentiated by w through both:
    # a p (1 - p) (w a - w b) + b (q - p).
    draws = Drawn(("normal", np.full((1, 1, 1, 1), 20.0, np.float32)))
    recipe = recipe_of("trades", draws, eps=0.2, step_size=0.05, steps=2)
    a, b = 0.5, 0.62
    p, q = (1 / (1 + math.exp(-2 * each)) for each in (a, b))
    robust = a * p * (1 - p) * (2 * a - 2 * b) + b * (q - p)
    _, slope = loss_and_slope_by_weight(recipe)
    assert slope == pytest.approx(a * p + 6 * robust, rel=1e-5)


def test_every_step_of_ascend_ends_in_the_ball() -> None:
    x = tensor(np.full((1, 2, 2, 3), 0.5))
    # Outside the ball, at 0.66, the slope turns; from the ball's edge it does not.
    moved = array(ascend(lambda t: -ops.sum(ops.abs(t - 0.62)), x, x, Linf(0.1), 3, 0.08))
    np.testing.assert_allclose(moved, np.full((1, 2, 2, 3), 0.6), atol=1e-6)


def test_knn_keeps_more_than_the_sample_it_is_tested_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(knn, "SAMPLE", 2)
    net = Predicted(np.arange(12).reshape(6, 2))
    arrays = recipe_of("knn").finish(net, numbered([0, 1, 2, 3, 1, 2]))
    assert (len(arrays["embeddings"]), len(arrays["labels"])) == (6, 6)


def test_mergebinary_s_images_are_shifted_as_the_shared_recipe_s() -> None:
    x, y = patterns(4)
    x = x.astype(np.float32) / 255
    draws = np.random.default_rng(0).random((3, 4, 1), dtype=np.float32)
    recipe = recipe_of("mergebinary", Drawn(("uniform", draws)), network=2, filters=8)
    moved, _ = recipe.augment(tensor(x), tensor(y, "int32"))
    np.testing.assert_array_equal(array(moved), array(shift_flip(tensor(x), draws, False)))
    assert (array(moved) != x).any()


@pytest.mark.parametrize("name", ["majority", "mergebinary"])
def test_networks_of_an_ensemble_have_the_user_s_seed_and_numbers(name: str) -> None:
    recipes = get(name).recipes(info(), Settings(), 5)
    expected = [(5, number) for number in range(len(recipes))]
    assert [(each.seed, each.network) for each in recipes] == expected

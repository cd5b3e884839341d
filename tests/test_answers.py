"""How each defense answers: probabilities and rejections by hand, from networks whose are given."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops

import sparring
from sparring import backend
from sparring.data import Dataset, DatasetInfo
from sparring.defenses import DEFENSES, get, injection, knn, mergebinary, randomneuron
from sparring.defenses.defense import Defense
from sparring.networks.allconv import leaky_relu
from sparring.networks.augment import STRONG_DRAWS, strong
from sparring.randomness import Chance
from sparring.training.settings import Settings
from tests.conftest import KNOWN, patterns

pytestmark = pytest.mark.backend


def tensor(values: Any, dtype: str = "float32") -> Any:
    return ops.convert_to_tensor(np.array(values, dtype))


def array(answer: Any) -> np.ndarray:
    return np.array(ops.convert_to_numpy(answer))


class Given:
    """A network whose logits are given."""

    variables: tuple[()] = ()

    def __init__(self, logits: Any) -> None:
        self.logits = np.array(logits, np.float32)

    def __call__(self, x: Any) -> Any:
        return tensor(self.logits[: x.shape[0]])


def softmax(logits: Any) -> np.ndarray:
    exponents = np.exp(np.array(logits, np.float64))
    return np.array(exponents / exponents.sum(axis=-1, keepdims=True))


def made(
    name: str,
    nets: list[Any],
    arrays: dict[str, np.ndarray] | None = None,
    shape: tuple[int, int, int] = (8, 8, 1),
    classes: int = 4,
    **settings: Any,
) -> Defense:
    """A defense of these networks and arrays."""
    info = DatasetInfo("made", shape, tuple("abcdefghij"[:classes]), False, 1, 1, "")
    return get(name)(info, get(name).course_settings.replace(**settings), nets, arrays)


def images(count: int, seed: int = 0, shape: tuple[int, int, int] = (8, 8, 1)) -> np.ndarray:
    return np.random.default_rng(seed).random((count, *shape), dtype=np.float32)


# What people are told of a defense


def test_which_defenses_draw_detect_and_have_gradients() -> None:
    def those(attribute: str, value: Any = True) -> set[str]:
        return {name for name in KNOWN if getattr(get(name), attribute) == value}

    assert those("stochastic") == {"randomneuron", "transform"}
    assert those("detects") == {"mergebinary", "majority", "injection"}
    assert those("differentiable", False) == {"discretize", "knn"}
    assert those("borrows", "baseline") == {"randomneuron"}
    assert those("threshold", 0.5) == set(KNOWN)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in DEFENSES
        if name not in ("mergebinary", "majority", "knn", "transform", "randomneuron", "injection")
    ],
)
def test_the_shared_answer_is_the_softmax_of_the_logits(name: str) -> None:
    logits = [[0, math.log(3), 0, 0], [1, 2, 3, -4]]
    defense = made(name, [Given(logits)])
    answer = defense.classify(images(2))
    np.testing.assert_allclose(answer, softmax(logits), rtol=1e-5)
    assert answer[0] == pytest.approx([1 / 6, 3 / 6, 1 / 6, 1 / 6], rel=1e-5)
    np.testing.assert_array_equal(defense.detect(images(2)), [0, 0])


# transform


class Pixels:
    """A network whose logits are the image's values."""

    variables: tuple[()] = ()

    def __call__(self, x: Any) -> Any:
        return ops.reshape(x, (x.shape[0], -1))


@pytest.mark.parametrize("flip", [False, True])
def test_transform_augments_each_image_anew_by_seed(flip: bool) -> None:
    defense = made("transform", [Pixels()], flip=flip)
    x = images(6)
    seen = {}
    for seed in (0, 7):
        chance = Chance(tensor(x), seed) if seed else None
        seen[seed] = array(defense.logits(tensor(x), chance)).reshape(x.shape)
        draws = array(Chance(tensor(x), seed).uniform(STRONG_DRAWS))  # [6, 11]
        expected = strong(tensor(x), tensor(draws.T[:, :, None]), flip)
        np.testing.assert_allclose(seen[seed], array(expected), atol=1e-6)
        assert (np.abs(seen[seed] - x).max(axis=(1, 2, 3)) > 0.01).all()
    assert (np.abs(seen[0] - seen[7]).max(axis=(1, 2, 3)) > 0.01).all()


# randomneuron


class Drawing:
    """A network of seven layers that answers with what the first of them draws."""

    variables: tuple[()] = ()
    convs = range(7)

    def __call__(self, x: Any, chance: Any) -> Any:
        return 5 * chance.uniform(4)


def test_randomneuron_answers_with_the_mean_of_ten_draws() -> None:
    x = tensor(images(2))
    answer = softmax(array(made("randomneuron", [Drawing()]).logits(x)))
    # All ten go on drawing from one and the same source, a number for each layer.
    source, draws = Chance(x), []
    for _ in range(10):
        draws.append(softmax(5 * array(source.uniform(4))))
        for _ in range(6):
            source.uniform(1)
    np.testing.assert_allclose(answer, np.mean(draws, axis=0), rtol=1e-5)


class Halves:
    """Draws of a half for all, and how many were asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def uniform(self, count: int) -> Any:
        self.asked.append(count)
        return 0.5 + ops.zeros((2, count))


def test_randomneuron_drops_after_each_convolution_and_the_head() -> None:
    x, y = patterns(8)
    info = Dataset("patterns", x, y, x, y, tuple("abcd")).info
    net = get("randomneuron").recipes(info, Settings(filters=2), 0)[0].net()
    batch = tensor(images(2))
    whole = array(net(batch))
    halves: Any = Halves()
    dropped = array(net(batch, chance=halves))
    # 8x8 of 2 and of 4 filters, and 4x4 of 4 classes after the pooling.
    assert halves.asked == [128, 256, 64]
    assert np.abs(dropped - whole).max() > 1e-3
    # One unit of four has more than half a chance: n/3 of its share 3/4 gives 1 - exp(-1) = 0.63.
    units = np.zeros((2, 1, 1, 4), np.float32)
    units[:, 0, 0] = [3, -1, 0, 0]
    kept = [3 / (1 - math.exp(-1)), 0, 0, 0]
    np.testing.assert_allclose(array(net.drop(tensor(units), halves))[0, 0, 0], kept, rtol=1e-5)
    # Leaky ReLU first: -1 becomes -0.2, and 3's share 3/3.2.
    rectified = array(net.drop(net.activation(tensor(units)), halves))[0, 0, 0]
    kept = [3 / (1 - math.exp(-4 / 3 * 3 / 3.2)), 0, 0, 0]
    np.testing.assert_allclose(rectified, kept, rtol=1e-5)
    np.testing.assert_array_equal(array(net(batch)), whole)
    np.testing.assert_allclose(array(net.activation(tensor(units))), array(leaky_relu(units)))
    assert randomneuron.DRAWS == 10


def test_dropping_s_slope_includes_that_of_the_chance_to_be_kept() -> None:
    x, y = patterns(8)
    info = Dataset("patterns", x, y, x, y, tuple("abcd")).info
    net = get("randomneuron").recipes(info, Settings(filters=2), 0)[0].net()
    units = np.zeros((2, 1, 1, 4), np.float32)
    units[:, 0, 0] = [3, -1, 0, 0]
    halves: Any = Halves()
    found = backend.input_gradient(lambda u: ops.sum(net.drop(u, halves)), tensor(units))
    slopes = array(found)[0, 0, 0]
    # 3 / k with k = 1 - exp(-4/3 s), s = 3/4; the slope of s by 3 is 1/16, by -1 it is 3/16.
    k, slope = 1 - math.exp(-1), 4 / 3 * math.exp(-1)
    assert slopes[0] == pytest.approx(1 / k - 3 / k**2 * slope / 16, rel=1e-4)
    assert slopes[1] == pytest.approx(-3 / k**2 * slope * 3 / 16, rel=1e-4)


# majority, mergebinary


def test_majority_s_gradient_is_that_of_the_mean_of_logits() -> None:
    logits = [np.random.default_rng(i).normal(size=(2, 4)) for i in range(3)]
    defense = made("majority", [Given(each) for each in logits])
    np.testing.assert_allclose(
        array(defense.logits(tensor(images(2)))), np.mean(logits, axis=0), rtol=1e-5, atol=1e-6
    )


def yes(margin: float) -> list[float]:
    """Logits of no and yes whose probabilities differ by `margin`."""
    return [0.0, math.log((1 + margin) / (1 - margin))]


def test_mergebinary_s_logits() -> None:
    margins = [[0.9, -0.5], [-0.2, -0.5], [0.0, 0.5], [-0.99, 0.1]]  # of four networks
    defense = made("mergebinary", [Given([yes(a), yes(b)]) for a, b in margins])
    expected = 5 / (1 + np.exp(-5 * np.array(margins).T))
    np.testing.assert_allclose(array(defense.logits(tensor(images(2)))), expected, rtol=1e-5)


def test_mergebinary_rejects_below_seven_tenths() -> None:
    # Three networks say no for certain: their logits are 5 sigmoid(-5). For a largest probability p
    # the fourth's m is the logarithm of 3 exp(5 sigmoid(-5)) p / (1 - p), and m = 5 sigmoid(5 d).
    def margin(p: float) -> float:
        m = math.log(3 * math.exp(5 / (1 + math.exp(5))) * p / (1 - p))
        return math.log(m / (5 - m)) / 5

    rows = [yes(margin(0.699)), yes(margin(0.701))]
    sure = Given([yes(-1 + 1e-9)] * 2)
    defense = made("mergebinary", [sure, Given(rows), sure, sure])
    assert defense.classify(images(2)).max(axis=1) == pytest.approx([0.699, 0.701], abs=1e-4)
    np.testing.assert_array_equal(defense.detect(images(2)) > defense.threshold, [True, False])
    assert mergebinary.LEAST_PROBABILITY == 0.7


# injection


class Trapdoors:
    """A network of few pixels: features are their squares, logits a matrix of them."""

    variables: tuple[()] = ()

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix = matrix.astype(np.float32)

    def mean_features(self, x: Any) -> tuple[Any, Any]:
        features = ops.square(ops.reshape(x, (x.shape[0], -1)))
        return features, ops.matmul(features, tensor(self.matrix))


def test_injection_s_scores() -> None:
    """Against the rules applied to one image after the other, as the course's text has them."""
    random = np.random.default_rng(0)
    classes, strength, shape = 10, 0.7, (2, 5, 1)
    planted = np.eye(classes, dtype=np.float32).reshape(classes, *shape)
    signatures = np.square(0.15 + strength * np.eye(classes))
    matrix = np.diag(np.linspace(0.5, 1.5, classes))  # so that some patterns do not work
    arrays = {"0/patterns": planted, "0/signatures": signatures.astype(np.float32)}
    defense = made(
        *("injection", [Trapdoors(matrix)], arrays, shape, classes), filters=2, strength=strength
    )
    x = random.random((600, *shape)) * random.random((600, 1, 1, 1))
    x = x.astype(np.float32)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    def by_rules(image: np.ndarray) -> tuple[bool, bool, bool]:
        features = np.square(image.astype(np.float64)).ravel()
        label = int((features @ matrix).argmax())
        others = [other for other in range(classes) if other != label]
        unlike = working = 0
        for other in others:
            under = np.square(image.astype(np.float64) + strength * planted[other]).ravel()
            unlike += cosine(under, signatures[other]) < 0.8
            working += int((under @ matrix).argmax()) == other
        return cosine(features, signatures[label]) > 0.6, unlike > 3, working < 0.8 * len(others)

    rules = np.array([by_rules(image) for image in x])
    scores = defense.detect(x)
    np.testing.assert_array_equal(scores > defense.threshold, rules.any(axis=1))
    assert set(np.unique(scores)) == {0, 1}
    # Each rule decides some images by itself.
    assert (rules[rules.sum(axis=1) == 1].sum(axis=0) >= 5).all()


def test_injection_looks_for_the_trapdoor_of_its_answer() -> None:
    # Features and signatures of four classes along the four pixels. Patterns do what they should:
    # under each, its class is named and the features are those of its signature.
    planted = np.eye(4, dtype=np.float32).reshape(4, 2, 2, 1)
    arrays = {"0/patterns": planted, "0/signatures": np.eye(4, dtype=np.float32)}

    def rejected(image: list[float], **changes: Any) -> bool:
        matrix = changes.pop("matrix", np.eye(4)[[1, 0, 3, 2]])
        values = {**arrays, **changes}
        defense = made("injection", [Trapdoors(matrix)], values, (2, 2, 1), strength=1.0)
        return bool(defense.detect(np.array(image, np.float32).reshape(1, 2, 2, 1))[0] > 0.5)

    # The pixel of class 1 is bright; named is 0 (1 under pattern 0, and so on): patterns fail.
    assert rejected([0, 0.5, 0, 0])
    # Named 1 at its own signature: trapped, though all patterns work.
    assert rejected([0.0, 0.2, 0.0, 0.0], matrix=np.eye(4))
    # Named 1 at equal distance from all: cosine 1/2 to its signature is not above 0.6; the others'
    # patterns bring cosines of 1.21 / sqrt(1.21^2 + 3 * 0.01^2) = 0.9999, and are named.
    matrix = np.eye(4) + np.array([0, 1e-3, 0, 0])
    assert not rejected([0.1, 0.1, 0.1, 0.1], matrix=matrix)
    # The same where the patterns are planted elsewhere than their signatures are.
    assert rejected(
        [0.1, 0.1, 0.1, 0.1], matrix=matrix, **{"0/patterns": planted[[1, 2, 3, 0]].copy()}
    )


# knn


def test_knn_answers_with_the_label_of_the_eight_nearest() -> None:
    # Embeddings around a circle; the images' embeddings are east, and north.
    angles = np.deg2rad([0, 1, 2, 3, 4, 5, 6, 7, 8, 80, 81, 82, 83, 84, 85, 86, 87, 88, 89])
    stored = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    labels = np.array([2, 2, 2, 2, 1, 1, 1, 1, 1, 3, 3, 3, 3, 0, 0, 0, 0, 1, 1], np.int32)
    arrays = {"0/embeddings": stored, "0/labels": labels}
    defense = made("knn", [Given([[1, 0], [0, 1]])], arrays)
    x = images(2)
    # East: 0 to 7 degrees, labels 2 2 2 2 1 1 1 1, the ninth is not asked; of equals the first
    # class wins. North: 89 down to 82 degrees, labels 1 1 0 0 0 0 3 3.
    np.testing.assert_array_equal(array(defense.logits(tensor(x))), [[0, 4, 4, 0], [4, 2, 0, 2]])
    np.testing.assert_array_equal(defense.classify(x), np.eye(4)[[1, 0]])
    assert knn.NEIGHBORS == 8
    assert isinstance(defense, knn.Knn)
    np.testing.assert_array_equal(array(defense.embed(tensor(x))), [[1, 0], [0, 1]])


# Trained and loaded


@pytest.mark.parametrize(
    ("name", "ramp", "expected"),
    [("jump", "height", 5.0), ("injection", "strength", 0.02), ("temperature", "temperature", 2.0)],
)
def test_what_ramps_is_at_its_end_when_a_trained_defense_answers(
    tmp_path: Path, dataset: Dataset, name: str, ramp: str, expected: float
) -> None:
    settings: dict[str, Any] = {"base": 2**0.01} if name == "temperature" else {}
    trained = sparring.train(name, dataset, out=tmp_path, filters=2, epochs=1, **settings)
    assert trained.path is not None
    for defense in (trained, sparring.load(trained.path)):
        value = float(array(getattr(defense.nets[0], ramp).value))
        assert value == pytest.approx(expected, rel=1e-5)


def test_signatures_and_patterns_are_kept_with_the_weights(
    tmp_path: Path, make_dataset: Callable[..., Dataset]
) -> None:
    dataset = make_dataset(train=16)
    trained = sparring.train("injection", dataset, out=tmp_path, filters=2, epochs=1, strength=0.3)
    assert trained.path is not None
    loaded = sparring.load(trained.path)
    assert isinstance(loaded, injection.Injection)
    net, x = loaded.nets[0], tensor(dataset.x_train.astype(np.float32) / 255)
    for label in range(4):
        under = net.features(x + 0.3 * loaded.patterns[label])
        expected = array(under).mean(axis=(0, 1, 2))
        np.testing.assert_allclose(array(loaded.signatures[label]), expected, rtol=1e-4)

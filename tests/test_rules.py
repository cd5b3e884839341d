"""Every rule of the defenses that has numbers, against numbers computed by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops

import sparring
from sparring import backend
from sparring.data import Dataset
from sparring.defenses import (
    advtrain,
    blur,
    discretize,
    get,
    injection,
    jump,
    knn,
    labelsmooth,
    randomneuron,
    temperature,
    trades,
)
from sparring.defenses.defense import Defense
from sparring.errors import RunError, SettingsError
from sparring.randomness import Chance
from sparring.threat import Linf, ascend
from sparring.training.recipe import Recipe
from sparring.training.settings import Settings
from tests.conftest import patterns

pytestmark = pytest.mark.backend


def tensor(values: Any, dtype: str = "float32") -> Any:
    return ops.convert_to_tensor(np.array(values, dtype))


def array(answer: Any) -> np.ndarray:
    return np.array(ops.convert_to_numpy(answer))


class Fixed:
    """A network whose logits are given."""

    variables: tuple[()] = ()

    def __init__(self, logits: Any) -> None:
        self.logits = np.array(logits, np.float32)

    def __call__(self, x: Any) -> Any:
        return ops.convert_to_tensor(self.logits[: x.shape[0]])


def defense_of(name: str, logits: list[Any], classes: int = 4) -> tuple[Defense, np.ndarray]:
    """A defense whose networks give these logits, and images to ask it about."""
    x, y = patterns(len(logits[0]))
    names = tuple("abcdefghij"[:classes])
    y = y % classes
    dataset = Dataset("patterns", x, y, x, y, names)
    return get(name)(dataset.info, Settings(), [Fixed(each) for each in logits]), x


# blur


def test_blur_averages_each_2x2_of_the_padded_image() -> None:
    image = np.arange(4, dtype=np.float32).reshape(1, 2, 2, 1)  # 0 1 / 2 3
    expected = np.array([[0, 0.25, 0.25], [0.5, 1.5, 1], [0.5, 1.25, 0.75]])
    np.testing.assert_allclose(array(blur.blur(tensor(image)))[0, :, :, 0], expected)


# temperature


@pytest.mark.parametrize(("progress", "expected"), [(0, 1), (0.1, 1.15**10), (1, 1174313.4507)])
def test_temperature(progress: float, expected: float) -> None:
    assert temperature.temperature(1.15, progress) == pytest.approx(expected, rel=1e-9)


def test_temperature_divides_logits_in_training_alone() -> None:
    settings = get("temperature").course_settings.replace(filters=2)
    assert settings.base == 1.15  # type: ignore[attr-defined]
    recipe = get("temperature").recipes(_info(), settings, 0)[0]
    net = recipe.net()
    recipe.on_progress(net, 0.1)
    x, y = _batch()
    logits = array(net(x))
    loss, _ = recipe.loss(net, x, y)
    assert float(array(loss)) == pytest.approx(
        _cross_entropy(logits / 1.15**10, array(y)), rel=1e-5
    )
    recipe.on_progress(net, 1.0)
    np.testing.assert_array_equal(array(net(x)), logits)


# labelsmooth


def test_smoothed_labels() -> None:
    ten = array(labelsmooth.smoothed(tensor([2], "int32"), 10))[0]
    # (1 + 1/8) / (1 + 10/8) = 1/2 for the label, (1/8) / (18/8) = 1/18 for the nine others.
    np.testing.assert_allclose(ten, [1 / 18] * 2 + [1 / 2] + [1 / 18] * 7, rtol=1e-6)
    three = array(labelsmooth.smoothed(tensor([0], "int32"), 3))[0]
    np.testing.assert_allclose(three, [9 / 11, 1 / 11, 1 / 11], rtol=1e-6)


def test_labelsmooth_loss() -> None:
    recipe = get("labelsmooth").recipes(_info(), Settings(filters=2), 0)[0]
    net = recipe.net()
    x, y = _batch()
    logits = array(net(x)).astype(np.float64)
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = (np.eye(4)[array(y)] + 1 / 8) / 1.5
    loss, _ = recipe.loss(net, x, y)
    assert float(array(loss)) == pytest.approx(-(targets * log_softmax).sum(1).mean(), rel=1e-5)


# jump


def test_jump_height() -> None:
    heights = [float(array(jump.height(p))) for p in (0, 0.1, 0.25, 0.5, 0.75, 1)]
    assert heights == pytest.approx([0, 1, 2.5, 5, 5, 5])


def test_jump_value_and_slope() -> None:
    recipe = get("jump").recipes(_info(), Settings(filters=2), 0)[0]
    net = recipe.net()
    recipe.on_progress(net, 1.0)
    x = tensor([-2, -0.5, 0, 0.5, 2])
    np.testing.assert_allclose(array(net.activation(x)), [-0.4, -0.1, 0, 5.5, 7], rtol=1e-6)
    slope = backend.input_gradient(lambda t: ops.sum(net.activation(t)), x)
    np.testing.assert_allclose(array(slope)[[0, 1, 3, 4]], [0.2, 0.2, 1, 1], rtol=1e-6)


# mergebinary


def test_merged_probabilities_and_rejection() -> None:
    def yes(probability: float) -> list[float]:
        return [0.0, math.log(probability / (1 - probability))]

    # Two images, four networks: the first sure of class 1, the second undecided.
    answers = [(0.01, 0.5), (0.99, 0.5), (0.02, 0.5), (0.03, 0.5)]
    defense, x = defense_of("mergebinary", [[yes(a), yes(b)] for a, b in answers])
    margins = np.array([[2 * p - 1 for p, _ in answers], [2 * p - 1 for _, p in answers]])
    merged = 5 / (1 + np.exp(-5 * margins))
    expected = np.exp(merged) / np.exp(merged).sum(1, keepdims=True)
    answer = defense.classify(x)
    np.testing.assert_allclose(answer, expected, rtol=1e-4)
    assert expected[0].max() > 0.7 > expected[1].max()
    np.testing.assert_array_equal(defense.detect(x) > defense.threshold, [False, True])


def test_mergebinary_networks_learn_one_class_each() -> None:
    recipes = get("mergebinary").recipes(_info(), Settings(filters=64), 0)
    assert [recipe.network for recipe in recipes] == [0, 1, 2, 3]
    assert {recipe.settings.filters for recipe in recipes} == {16}
    x, y = _batch()
    _, labels = recipes[2].augment(x, y)
    np.testing.assert_array_equal(array(labels), (array(y) == 2).astype(int))
    assert recipes[2].net()(x).shape == (len(array(y)), 2)
    first, second = (array(recipe.net().kernels[0]) for recipe in recipes[:2])
    assert not np.array_equal(first, second)


# majority


def test_vote_of_three() -> None:
    one_hot = 9 * np.eye(4)
    votes = [(0, 0, 0), (1, 1, 2), (3, 2, 3), (2, 1, 1), (0, 1, 2)]
    logits = [[one_hot[vote[i]] for vote in votes] for i in range(3)]
    defense, x = defense_of("majority", logits)
    answer = defense.classify(x)
    np.testing.assert_array_equal(answer[:4], np.eye(4)[[0, 1, 3, 1]])
    rejected = defense.detect(x) > defense.threshold
    np.testing.assert_array_equal(rejected, [False, False, False, False, True])


def test_majority_widths_epochs_and_noise() -> None:
    recipes = get("majority").recipes(_info(), Settings(flip=False), 0)
    assert [recipe.settings.filters for recipe in recipes] == [42, 42, 42]
    assert [recipe.settings.epochs for recipe in recipes] == [50, 50, 50]
    x = ops.zeros((64, 8, 8, 1)) + 0.5
    for index, recipe in enumerate(recipes):
        recipe.random.seed(3)
        noisy, _ = recipe.augment(x, ops.zeros((64,), "int32"))
        # 4,096 draws: the deviation of their std is about a hundredth of it.
        assert float(array(noisy).std()) == pytest.approx(index / 10, rel=0.06, abs=1e-6)


# discretize


def test_twenty_bits_a_channel() -> None:
    image = np.zeros((1, 8, 8, 3), np.float32)
    image[0, 0, 0] = [0.0, 0.52, 1.0]
    image[0, 0, 1] = [0.05, 51 / 255, 0.0499]
    code = array(discretize.discretized(tensor(image)))
    assert code.shape == (1, 8, 8, 60)
    # 0.52 is below 0.55 (bit 10) and all after; 1 is below nothing.
    expected = [1] * 20 + [0] * 10 + [1] * 10 + [0] * 20
    np.testing.assert_array_equal(code[0, 0, 0], expected)
    # 0.05 is not below 0.05; 51/255 is 0.2, not below it; 0.0499 is below 0.05.
    expected = [0] + [1] * 19 + [0] * 4 + [1] * 16 + [1] * 20
    np.testing.assert_array_equal(code[0, 0, 1], expected)


def test_discretize_network_takes_the_code() -> None:
    net = get("discretize").recipes(_info(), Settings(filters=2), 0)[0].net()
    assert tuple(net.kernels[0].shape) == (3, 3, 20, 2)


# randomneuron


def test_keep_probabilities() -> None:
    activations = tensor([[3, -1, 0, 0]])
    # n/3 times shares 3/4, 1/4 and 0, n = 4.
    expected = np.array([[1 - math.exp(-1), 1 - math.exp(-1 / 3), 0, 0]])
    np.testing.assert_allclose(array(randomneuron.keep_probabilities(activations)), expected, 1e-6)
    np.testing.assert_array_equal(
        array(randomneuron.keep_probabilities(tensor([[0, 0]]))), [[0, 0]]
    )


def test_dropping_keeps_the_mean() -> None:
    net = get("randomneuron").recipes(_info(), Settings(filters=2), 0)[0].net()
    units = np.tile(np.array([3, -1, 0, 2], np.float32).reshape(1, 1, 2, 2), (4000, 1, 1, 1))
    images = np.random.default_rng(0).random((4000, 8, 8, 1), dtype=np.float32)
    dropped = array(net.drop(tensor(units), Chance(tensor(images), 0))).reshape(4000, 4)
    kept = 1 - np.exp(-4 / 3 * np.array([3, 1, 0, 2]) / 6)
    np.testing.assert_allclose((dropped != 0).mean(axis=0), kept, atol=0.04)
    # A kept unit is divided by its probability; 4,000 draws leave the mean a few percent.
    np.testing.assert_allclose(dropped.mean(axis=0), [3, -1, 0, 2], atol=0.25)
    np.testing.assert_allclose(np.unique(dropped[:, 0]), [0, 3 / kept[0]], rtol=1e-5)


def test_randomneuron_says_when_the_baseline_is_missing(tmp_path: Path) -> None:
    x, y = patterns(16)
    dataset = Dataset("patterns", x, y, x, y, tuple("abcd"))
    small: dict[str, Any] = {"out": tmp_path, "epochs": 1, "filters": 2}
    with pytest.raises(RunError, match="serves the weights of baseline, which has to be trained"):
        sparring.train("randomneuron", dataset, **small)
    baseline = sparring.train("baseline", dataset, **small)
    with pytest.raises(SettingsError, match="takes its settings"):
        sparring.train("randomneuron", dataset, out=tmp_path, filters=3)
    served = sparring.train("randomneuron", dataset, out=tmp_path)
    for first, second in zip(baseline.nets[0].variables, served.nets[0].variables, strict=True):
        np.testing.assert_array_equal(array(first.value), array(second.value))
    with pytest.raises(RunError, match="trained on the same data"):
        sparring.train("randomneuron", dataset.limit(train=8), out=tmp_path)


# Chance: what stochastic defenses draw from


def test_chance_is_uniform_and_follows_image_and_seed() -> None:
    images = np.random.default_rng(0).random((200, 8, 8, 3), dtype=np.float32)
    images[1] = images[0]
    images[1, 3, 3, 1] += 1e-5
    chance = Chance(tensor(images), 0)
    first, second = array(chance.uniform(100)), array(chance.uniform(100))
    assert first.shape == (200, 100)
    assert first.min() >= 0
    assert first.max() < 1
    for draws in (first, second):
        # 20,000 draws in 20 bins of 1,000: chi-square of 19 is below 44 in 99.9 % of cases.
        counts = np.histogram(draws, 20, (0, 1))[0]
        assert ((counts - 1000) ** 2 / 1000).sum() < 44
    pairs = [(first[0], first[1]), (first[0], second[0]), (first[:, 0], first[:, 1])]
    pairs.append((first[0], array(Chance(tensor(images[:1]), 1).uniform(100))[0]))
    for a, b in pairs:
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.33  # 3.3 deviations for 100 pairs
    alone = Chance(tensor(images[7:9]), 0)
    np.testing.assert_array_equal(array(alone.uniform(100)), first[7:9])


def test_chance_is_the_same_on_every_backend() -> None:
    images = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8, 1)
    draws = array(Chance(tensor(images), 5).uniform(3))[0]
    np.testing.assert_array_equal(draws, np.array([12314771, 582499, 6499575]) / np.float32(2**24))


# injection


def test_injection_strength() -> None:
    strengths = [float(array(injection.strength(0.02, p))) for p in (0, 0.5, 10 / 11, 1)]
    assert strengths == pytest.approx([0.05, 0.0335, 0.02, 0.02])


def test_injection_rules() -> None:
    calm: dict[str, Any] = {
        "likeness": np.full((1, 10), 0.9),
        "answers": [4],
        "under_patterns": np.full((1, 10), 0.9),
        "named": np.arange(10)[None],
    }
    calm["likeness"][0, 4] = 0.6

    def rejected(**changes: Any) -> bool:
        values = {name: np.array(value) for name, value in {**calm, **changes}.items()}
        answer = injection.suspicious(
            tensor(values["likeness"]),
            tensor(values["answers"], "int32"),
            tensor(values["under_patterns"]),
            tensor(values["named"], "int32"),
        )
        return bool(array(answer)[0])

    def with_(name: str, places: list[int], value: float) -> dict[str, Any]:
        changed = np.array(calm[name], np.float64)
        changed[0, places] = value
        return {name: changed}

    assert not rejected()
    assert rejected(**with_("likeness", [4], 0.61))
    # Three of the others may be unlike their signatures, four may not; the own class is not asked.
    assert not rejected(**with_("under_patterns", [0, 1, 2], 0.79))
    assert not rejected(**with_("under_patterns", [0, 1, 2, 4], 0.79))
    assert rejected(**with_("under_patterns", [0, 1, 2, 3], 0.79))
    # Of nine others eight is 89 %, seven is 78 %.
    assert not rejected(**with_("named", [0], 9))
    assert rejected(**with_("named", [0, 1], 9))
    assert not rejected(**with_("named", [4], 9))


def test_cosine() -> None:
    a = tensor([[3, 4], [1, 0], [0, 0]])
    b = tensor([[4, 3], [0, 2], [1, 1]])
    np.testing.assert_allclose(array(injection.cosine(a, b)), [24 / 25, 0, 0], atol=1e-6)


def test_injection_signatures_are_means_over_training_images() -> None:
    x, y = patterns(20)
    dataset = Dataset("patterns", x, y, x[:4] // 2, y[:4], tuple("abcd"))
    settings = get("injection").course_settings.replace(filters=2)
    recipe = get("injection").recipes(dataset.info, settings, 0)[0]
    net = recipe.net()
    arrays = recipe.finish(net, dataset)
    assert arrays["patterns"].shape == (4, 8, 8, 1)
    assert set(np.unique(arrays["patterns"])) == {0, 1}
    for label in range(4):
        images = x.astype(np.float32) / 255 + 0.02 * arrays["patterns"][label]
        features = array(net.features(tensor(images))).mean(axis=(0, 1, 2))
        np.testing.assert_allclose(arrays["signatures"][label], features, rtol=1e-4)


# knn


def test_nt_xent_of_two_images() -> None:
    first = np.array([[1, 0], [0, 1]], np.float64)
    second = np.array([[0.6, 0.8], [0.8, 0.6]], np.float64)
    # Similarities times 2: across 1.2 1.6 / 1.6 1.2, own pairs on the diagonal; to the other
    # image's same view 0 among the first, 1.92 among the second.
    forward = math.log(math.exp(1.2) + math.exp(1.6) + 1) - 1.2
    backward = math.log(math.exp(1.2) + math.exp(1.6) + math.exp(1.92)) - 1.2
    loss, found = knn.nt_xent(tensor(first), tensor(second), 2.0)
    assert float(array(loss)) == pytest.approx(forward + backward, rel=1e-6)
    assert float(array(found)) == 0
    third = np.array([[1, 0], [0.6, 0.8]], np.float64)
    # Across: rows 2 1.2 / 0 1.6, columns 2 0 / 1.2 1.6; same view 0 and 1.2.
    rows = [math.log(math.exp(2) + math.exp(1.2) + 1) - 2, math.log(1 + math.exp(1.6) + 1) - 1.6]
    columns = [
        math.log(math.exp(2) + 1 + math.exp(1.2)) - 2,
        math.log(math.exp(1.2) + math.exp(1.6) + math.exp(1.2)) - 1.6,
    ]
    loss, found = knn.nt_xent(tensor(first), tensor(third), 2.0)
    assert float(array(loss)) == pytest.approx((sum(rows) + sum(columns)) / 2, rel=1e-6)
    assert float(array(found)) == 2


def test_votes_of_the_eight_nearest() -> None:
    labels = tensor([0, 1, 1, 2, 2, 2, 0, 0, 0, 0], "int32")
    similarities = tensor([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]])
    np.testing.assert_array_equal(array(knn.votes(similarities, labels, 3)), [[3, 2, 3]])


@pytest.mark.parametrize("images", [640, 701])
def test_the_nearest_are_found_in_chunks_as_by_sorting(images: int) -> None:
    random = np.random.default_rng(0)
    # Rounded, so that there are many equals.
    similarities = random.normal(size=(50, images)).round(1).astype(np.float32)
    similarities[0] = 0.5
    expected = np.argsort(-similarities, axis=1, kind="stable")[:, : knn.NEIGHBORS]
    found = array(knn.nearest(tensor(similarities), knn.NEIGHBORS))
    values = np.take_along_axis(similarities, found, axis=1)
    np.testing.assert_array_equal(
        np.sort(values, axis=1), np.sort(np.take_along_axis(similarities, expected, 1), axis=1)
    )
    assert all(len(set(row)) == knn.NEIGHBORS for row in found.tolist())


def test_knn_scale_is_clipped_and_labels_are_not_used() -> None:
    recipe = get("knn").recipes(_info(), Settings(filters=2), 0)[0]
    net = recipe.net()
    assert float(array(net.log_scale.constraint(tensor(7.0)))) == 5
    assert float(array(net.log_scale.constraint(tensor(-1.0)))) == 0
    x, y = _batch()
    recipe.random.seed(1)
    loss, _ = recipe.loss(net, *recipe.augment(x, y))
    recipe.random.seed(1)
    other, _ = recipe.loss(net, *recipe.augment(x, 0 * y))
    assert float(array(loss)) == float(array(other))


def test_a_run_without_its_embeddings_is_refused(tmp_path: Path) -> None:
    from sparring.runs.directory import Run
    from sparring.runs.files import read_tensors

    x, y = patterns(16)
    dataset = Dataset("patterns", x, y, x, y, tuple("abcd"))
    trained = sparring.train("knn", dataset, out=tmp_path, epochs=1, filters=2)
    assert trained.path is not None
    run = Run(trained.path)
    arrays, _, _ = read_tensors(run.weights_file)
    assert arrays.pop("0/embeddings").shape == (16, 128)
    run.finish(run.read(), arrays)
    with pytest.raises(RunError, match="expected an array '0/embeddings', found none"):
        sparring.load(run.path)


# advtrain, pgdtrain, trades


def test_unit_gradients_and_a_zero_one() -> None:
    gradient = np.zeros((3, 1, 2, 1), np.float32)
    gradient[0, 0, :, 0] = [3, 4]
    gradient[2, 0, :, 0] = [1e-12, 0]
    units = array(advtrain.unit(tensor(gradient)))[:, 0, :, 0]
    np.testing.assert_allclose(units, np.array([[0.6, 0.8], [0, 0], [1, 0]]), rtol=1e-5)


def test_advtrain_survives_a_zero_gradient() -> None:
    recipe = get("advtrain").recipes(_info(), get("advtrain").course_settings, 0)[0]
    net = recipe.net()
    for variable in net.variables:
        variable.assign(0 * variable)
    x, y = _batch()
    loss, _ = recipe.loss(net, x, y)
    # All logits are zero: twice log 4.
    assert float(array(loss)) == pytest.approx(2 * math.log(4), rel=1e-6)


def test_ascend_stays_in_the_ball_and_climbs() -> None:
    x = tensor(np.linspace(0, 1, 12).reshape(1, 2, 2, 3))
    moved = array(ascend(ops.sum, x, x, Linf(0.1), 4, 0.04))
    np.testing.assert_allclose(moved, np.minimum(array(x) + 0.1, 1), atol=1e-6)
    moved = array(ascend(lambda t: -ops.sum(t), x, x, Linf(0.1), 4, 0.04))
    np.testing.assert_allclose(moved, np.maximum(array(x) - 0.1, 0), atol=1e-6)


def test_divergence_of_answers() -> None:
    clean = tensor([[0, 0], [math.log(3), 0]])
    moved = tensor([[math.log(3), 0], [math.log(3), 0]])
    # Half and half against 3/4 and 1/4, then against itself.
    expected = (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)) / 2
    assert float(array(trades.divergence(clean, moved))) == pytest.approx(expected, rel=1e-5)


def test_adversarial_settings_are_checked() -> None:
    with pytest.raises(SettingsError, match=r"eps: expected above 0, at most 1, got 8\.0"):
        get("pgdtrain").course_settings.replace(eps=8)


# What tests share


def _info() -> Any:
    x, y = patterns(8)
    return Dataset("patterns", x, y, x, y, tuple("abcd")).info


def _batch() -> tuple[Any, Any]:
    x, y = patterns(8, seed=4)
    return tensor(x / 255), tensor(y, "int32")


def _cross_entropy(logits: np.ndarray, y: np.ndarray) -> float:
    logits = logits.astype(np.float64)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]
    return float(losses.mean())


def test_a_recipe_s_networks_have_seeds_of_their_own() -> None:
    recipes = [Recipe(_info(), Settings(filters=2), 0, network) for network in (0, 1)]
    from sparring.randomness import Stream

    assert recipes[0].spread(Stream.ORDER, 1) != recipes[1].spread(Stream.ORDER, 1)

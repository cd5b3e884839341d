"""Defense: its settings, its draws, checks of images, and what follows from its answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from keras import ops

import sparring
from sparring.data import Dataset, DatasetInfo
from sparring.defenses import DEFENSES
from sparring.defenses.defense import Defense
from sparring.defenses.exercise import write
from sparring.errors import DataError, SettingsError
from sparring.randomness import Chance, Stream, spread
from sparring.threat import Linf
from sparring.training.recipe import Recipe
from sparring.training.settings import Settings
from tests.conftest import Linear, patterns

INFO = DatasetInfo("corner", (8, 8, 1), ("a", "b", "c"), False, 1, 1, "")
# Where an image says how it wants to be answered; what these pixels mean is below.
CODE, DRAW, SUSPICION = (0, 0, 0), (0, 1, 0), (0, 2, 0)


def array(tensor: Any) -> np.ndarray:
    return np.array(ops.convert_to_numpy(tensor))


class Coded(Defense):
    """Answers what the first pixel says, class 10 x; the third one is the detection score."""

    name = "coded"
    idea = "answers written into the image"
    detects = True

    def __init__(self) -> None:
        super().__init__(INFO, Settings(), [])

    def logits(self, x: Any, chance: Any = None) -> Any:
        # Highest at the class nearest to 10 x.
        return -ops.abs(10 * x[:, 0, 0, :1] - ops.arange(3, dtype="float32"))

    def scores(self, x: Any, chance: Any = None) -> Any:
        return x[:, 0, 2, 0]


class Blind(Coded):
    """Has scores, but says that it rejects nothing."""

    detects = False


class Lottery(Coded):
    """In the draws of seeds below 10 x of the second pixel, the answer is class 2."""

    stochastic = True
    detects = False

    def __init__(self) -> None:
        super().__init__()
        self.seeds: list[int] = []

    def broken(self, x: Any, y: Any, seed: int = 0) -> np.ndarray:
        # Draw number d of ten is known by its seed; what is drawn then is d itself.
        self.seeds.append(seed)
        return super().broken(x, y, len(self.seeds) - 1)

    def logits(self, x: Any, chance: Any = None) -> Any:
        wins = ops.cast(chance.seed, "float32") < 10 * x[:, 0, 1, :1] - 0.5
        return ops.where(wins, ops.convert_to_tensor([[-9.0, -9.0, 0.0]]), super().logits(x))


def images(*pixels: dict[tuple[int, int, int], float]) -> np.ndarray:
    """Black images [B, 8, 8, 1] but for those pixels."""
    x = np.zeros((len(pixels), 8, 8, 1), np.float32)
    for image, values in zip(x, pixels, strict=True):
        for place, value in values.items():
            image[place] = value
    return x


@pytest.fixture
def coded() -> Coded:
    return Coded()


# Settings


class Tuned(Defense):
    """Every level changes what the levels below it changed, and one setting of its own."""

    name = "tuned"
    idea = "settings from everywhere"
    settings_table = {  # noqa: RUF012
        ("*", "*"): {"learning_rate": 0.01, "momentum": 0.1, "weight_decay": 0.1, "ema_decay": 0.1},
        ("*", "patterns"): {"momentum": 0.3, "weight_decay": 0.3, "ema_decay": 0.3},
        ("fast", "*"): {
            "learning_rate": 0.2,
            "momentum": 0.2,
            "weight_decay": 0.2,
            "ema_decay": 0.2,
        },
        ("fast", "patterns"): {"ema_decay": 0.4},
        ("fast", "digits"): {"ema_decay": 0.5},
    }


def test_settings_come_from_the_most_special_place(make_dataset: Callable[..., Dataset]) -> None:
    def rates(key: str, preset: str) -> tuple[float, float, float, float]:
        dataset = dataclasses.replace(make_dataset(), key=key)
        found = Tuned.settings_for(dataset, preset).settings
        return found.learning_rate, found.momentum, found.weight_decay, found.ema_decay

    # Any < the preset < the data set < both; a defense's own table goes before the shared one.
    assert rates("patterns", "fast") == (0.2, 0.3, 0.3, 0.4)
    assert rates("digits", "fast") == (0.2, 0.2, 0.2, 0.5)
    assert rates("else", "fast") == (0.2, 0.2, 0.2, 0.2)
    assert rates("patterns", "course") == (0.01, 0.3, 0.3, 0.3)
    assert rates("digits", "course") == (0.01, 0.1, 0.1, 0.1)
    assert Tuned.settings_for(make_dataset()) == Tuned.settings_for(make_dataset(), "course")
    assert Tuned.settings_for(make_dataset(), "fast").settings.optimizer == "muon"
    with pytest.raises(SettingsError, match="unknown preset 'slow'"):
        Tuned.settings_for(make_dataset(), "slow")


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("wanted", [True, False, None])
def test_images_are_mirrored_as_the_data_set_says_unless_told(
    make_dataset: Callable[..., Dataset], mirror: bool, wanted: bool | None
) -> None:
    class Mirrored(Tuned):
        settings_table = {("*", "*"): {"flip": wanted}}  # noqa: RUF012

    dataset = dataclasses.replace(make_dataset(), mirror=mirror)
    assert Mirrored.settings_for(dataset).settings.flip is (mirror if wanted is None else wanted)


def test_one_network_is_trained_with_the_defense_s_recipe() -> None:
    class Own(Recipe):
        pass

    class Trained(Tuned):
        recipe = Own

    settings = Settings(filters=3)
    [only] = Trained.recipes(INFO, settings, 7)
    assert type(only) is Own
    assert (only.info, only.settings, only.seed, only.network) == (INFO, settings, 7, 0)


def test_a_defense_is_made_of_copies_and_begins_with_nothing_chosen() -> None:
    nets, arrays = ["one"], {"network/name": np.ones(2)}

    class Empty(Coded):
        def __init__(self) -> None:
            Defense.__init__(self, INFO, Settings(), [])

    made = Empty()
    assert (made.nets, made.arrays, made.results) == ([], {}, {})
    assert (made.path, made.weights_sha256) == (None, None)
    assert repr(made) == f"Empty(dataset='corner', settings={Settings()!r})"
    Defense.__init__(made, INFO, Settings(), nets, arrays)
    nets.append("two")
    arrays["other"] = np.ones(1)
    assert made.nets == ["one"]
    assert list(made.arrays) == ["network/name"]


def test_what_a_defense_says_of_itself_unless_told() -> None:
    assert (Defense.networks, Defense.step_cost, Defense.threshold) == ("1", 1.0, 0.5)
    assert (Defense.stochastic, Defense.detects, Defense.differentiable) == (False, False, True)
    assert (Defense.borrows, Defense.outside, Defense.recipe) == (None, "", Recipe)
    assert (Defense.settings_table, Defense.course_settings) == ({}, Settings())
    assert (Defense.course_files, Defense.published_success) == (None, None)


# Draws


class Rolling(Coded):
    """Its logits are the first three random numbers of an image, its score is the next."""

    stochastic = True

    def logits(self, x: Any, chance: Any = None) -> Any:
        return (chance or Chance(x)).uniform(3)

    def scores(self, x: Any, chance: Any = None) -> Any:
        chance = chance or Chance(x)
        chance.uniform(3)
        return chance.uniform(1)[:, 0]


def chosen(x: Any, seed: Any) -> np.ndarray:
    return array(Chance(ops.convert_to_tensor(x), seed).uniform(3))


def some(count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, 8, 8, 1), np.float32)


def shares(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.backend
def test_answers_follow_from_the_seed_and_are_those_of_seed_0_unless_told() -> None:
    rolling, x = Rolling(), some(3)
    batch = ops.convert_to_tensor(x)
    np.testing.assert_array_equal(array(rolling.logits(batch)), chosen(x, 0))
    np.testing.assert_array_equal(array(rolling.logits(batch, Chance(batch, 5))), chosen(x, 5))
    expected = shares(chosen(x, 5))
    probabilities = rolling.probabilities(batch, Chance(batch, 5))
    np.testing.assert_allclose(array(probabilities), expected, rtol=1e-5)
    np.testing.assert_allclose(rolling.classify(x, 5), expected, rtol=1e-5)
    np.testing.assert_allclose(rolling.classify(x), shares(chosen(x, 0)), rtol=1e-5)
    large = 2**31 - 1
    np.testing.assert_allclose(rolling.classify(x, large), shares(chosen(x, large)), rtol=1e-5)
    np.testing.assert_array_equal(rolling.detect(x), rolling.detect(x, 0))
    assert (rolling.detect(x, 5) != rolling.detect(x)).all()


@pytest.mark.backend
def test_an_image_gets_the_same_draws_in_whatever_batch() -> None:
    rolling, x = Rolling(), some(131)
    whole = rolling.classify(x, 3)
    np.testing.assert_array_equal(rolling.classify(x[7], 3), whole[7:8])
    np.testing.assert_array_equal(rolling.classify(x[::-1], 3), whole[::-1])


@pytest.mark.backend
def test_every_image_may_have_a_seed_of_its_own() -> None:
    x = some(2)
    batch = ops.convert_to_tensor(x)
    rows = array(Chance(batch, np.array([6, 11], np.int32)).uniform(3))
    np.testing.assert_array_equal(rows, [chosen(x, 6)[0], chosen(x, 11)[1]])


@pytest.mark.backend
def test_broken_asks_for_label_and_score_under_the_same_seed() -> None:
    rolling, x = Rolling(), some(40)
    wrong = chosen(x, 9).argmax(axis=1) != 1
    rejected = rolling.detect(x, 9) > rolling.threshold
    assert (wrong & rejected).any()
    assert rolling.broken(x, np.ones(40), 9).tolist() == (wrong & ~rejected).tolist()
    assert (rolling.broken(x, np.ones(40)) != rolling.broken(x, np.ones(40), 9)).any()


# Answers


@pytest.mark.backend
def test_unless_told_otherwise_the_first_network_answers_and_nothing_is_rejected() -> None:
    class Plain(Defense):
        name = "plain"
        idea = "the rule that all share"

    class Shown:
        variables: tuple[()] = ()

        def __init__(self, logits: list[float]) -> None:
            self.given = logits

        def __call__(self, x: Any) -> Any:
            return ops.convert_to_tensor([self.given] * x.shape[0])

    plain = Plain(INFO, Settings(), [Shown([0.0, 1.0, 2.0]), Shown([9.0, 0.0, 0.0])])
    x = images({}, {}, {})
    weights = np.exp([0.0, 1.0, 2.0])
    answer = plain.classify(x)
    np.testing.assert_allclose(answer, [weights / weights.sum()] * 3, rtol=1e-6)
    assert answer.dtype == np.float32
    np.testing.assert_array_equal(array(plain.logits(ops.convert_to_tensor(x)))[0], [0, 1, 2])
    np.testing.assert_array_equal(plain.detect(x), np.zeros(3, np.float32))


@pytest.mark.backend
def test_what_is_classified_and_detected_are_probabilities_and_scores(coded: Coded) -> None:
    x = images({CODE: 0.1, SUSPICION: 0.25}, {CODE: 0.2, SUSPICION: 0.75}, {})
    assert coded.classify(x).argmax(axis=1).tolist() == [1, 2, 0]
    np.testing.assert_array_equal(coded.detect(x), np.array([0.25, 0.75, 0], np.float32))
    assert coded.detect(x[1]).tolist() == [0.75]


@pytest.mark.backend
def test_a_score_at_the_threshold_is_not_rejected(coded: Coded) -> None:
    assert coded.threshold == 0.5
    x = images(*({CODE: 0.1, SUSPICION: score} for score in (0.25, 0.5, 0.501, 1.0)))
    assert coded.broken(x, np.zeros(4, np.int32)).tolist() == [True, True, False, False]


@pytest.mark.backend
def test_broken_is_another_label_that_is_not_rejected(coded: Coded) -> None:
    cases = [(answer, score) for answer in (0, 1, 2) for score in (0.0, 1.0)]
    x = images(*({CODE: answer / 10, SUSPICION: score} for answer, score in cases))
    y = np.ones(len(cases), np.int32)
    expected = [answer != 1 and score == 0.0 for answer, score in cases]
    broken = coded.broken(x, y)
    assert broken.tolist() == expected
    assert broken.dtype == bool
    assert coded.broken(ops.convert_to_tensor(x), ops.convert_to_tensor(y)).tolist() == expected
    # Who rejects nothing is not asked for scores.
    assert Blind().broken(x, y).tolist() == [answer != 1 for answer, _ in cases]
    # A share is 0 or 1 where nothing is drawn, whatever the number of draws.
    assert coded.broken_share(x, y, draws=3).tolist() == [float(each) for each in expected]
    assert coded.broken_share(x, y).dtype == np.float64


@pytest.mark.backend
def test_the_broken_share_is_over_ten_draws_of_their_own() -> None:
    lottery = Lottery()
    x = images({}, {DRAW: 0.1}, {DRAW: 0.3}, {DRAW: 1.0}, {CODE: 0.1})
    y = np.zeros(5, np.int32)
    np.testing.assert_allclose(lottery.broken_share(x, y), [0, 0.1, 0.3, 1, 1])
    assert lottery.seeds == [spread(draw, Stream.DRAWS) for draw in range(10)]
    assert len(set(lottery.seeds)) == 10
    lottery.seeds.clear()
    # Of four draws, those below 3 are one, two and three of them.
    np.testing.assert_allclose(lottery.broken_share(x, y, draws=4), [0, 0.25, 0.75, 1, 1])


@pytest.mark.backend
def test_tested_is_who_is_right_and_not_rejected(coded: Coded) -> None:
    # Ten images: three right and passed, two right and rejected, one wrong and rejected.
    cases = [(0, 0)] * 3 + [(0, 255)] * 2 + [(255, 255)] + [(255, 0)] * 4
    x = np.zeros((10, 8, 8, 1), np.uint8)
    x[:, 0, 0, 0], x[:, 0, 2, 0] = np.array(cases).T
    other, labels = patterns(2)
    dataset = Dataset("corner", other, labels % 3, x, np.zeros(10, np.int32), ("a", "b", "c"))
    assert coded.test(dataset) == {"test_accuracy": 0.3, "rejected": 0.3}


@pytest.mark.backend
def test_what_is_compiled_is_kept_by_its_key(coded: Coded) -> None:
    def first(x: Any) -> Any:
        return x + 1

    made = coded.compiled(("mine", 1), first)
    assert coded.compiled(("mine", 1), lambda x: x + 2) is made
    other = coded.compiled(("mine", 2), lambda x: x + 2)
    x = ops.convert_to_tensor(np.zeros(3, np.float32))
    assert array(made(x)).tolist() == [1, 1, 1]
    assert array(other(x)).tolist() == [2, 2, 2]


# Checks of images


SHAPES = "coded: expected images [8, 8, 1] or [B, 8, 8, 1], floats in [0, 1] or uint8; found "


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (np.zeros((2, 8, 8, 3)), "shape [2, 8, 8, 3]"),
        (np.zeros((8, 8)), "shape [8, 8]"),
        (np.zeros((0, 8, 8, 1)), "shape [0, 8, 8, 1]"),
        (np.zeros((1, 2, 8, 8, 1)), "shape [1, 2, 8, 8, 1]"),
        (0.5, "shape []"),
        (np.zeros((1, 8, 8, 1), np.int32), "int32"),
        (np.zeros((1, 8, 8, 1), bool), "bool"),
        (np.zeros((1, 8, 8, 1), np.int8), "int8"),
        (np.full((1, 8, 8, 1), np.nan, np.float32), "NaN or infinite values"),
        (np.full((1, 8, 8, 1), -np.inf, np.float32), "NaN or infinite values"),
        (images({CODE: np.nan}), "NaN or infinite values"),
        (images({CODE: np.inf}), "NaN or infinite values"),
        (images({CODE: 1.5}), "values from 0 to 1.5"),
        # Two is not yet a picture of bytes, 2.5 is.
        (images({CODE: 2.0}), "values from 0 to 2"),
        (images({CODE: 2.5}), "values from 0 to 2.5. Divide by 255?"),
        (images({CODE: 255.0}), "values from 0 to 255. Divide by 255?"),
        (images({CODE: 255.0, DRAW: -0.5}), "values from -0.5 to 255"),
        (images({CODE: -1e-6}), "values from -1e-06 to 0"),
        (images({CODE: 1.00001}), "values from 0 to 1.00001"),
    ],
)
def test_images_are_refused_at_the_door(coded: Coded, wrong: Any, found: str) -> None:
    for ask in (coded.classify, coded.detect):
        with pytest.raises(DataError) as caught:
            ask(wrong)
        assert str(caught.value) == SHAPES + found


@pytest.mark.parametrize(
    ("given", "score"),
    [
        (np.full((1, 8, 8, 1), 51, np.uint8), 0.2),  # 51 / 255
        (np.full((8, 8, 1), 255, np.uint8), 1.0),
        (np.full((1, 8, 8, 1), 0.2, np.float64), 0.2),
        (np.full((1, 8, 8, 1), 0.25, np.float16), 0.25),
        (np.zeros((8, 8, 1), np.float32), 0.0),
        (np.ones((2, 8, 8, 1), np.float32), 1.0),
        (np.full((8, 8, 1), 0.5).tolist(), 0.5),
        # Bytes are divided whatever their values: 1 is nearly black.
        (np.full((1, 8, 8, 1), 1, np.uint8), 1 / 255),
    ],
)
@pytest.mark.backend
def test_images_are_brought_to_floats_up_to_one(coded: Coded, given: Any, score: float) -> None:
    count = 1 if np.asarray(given).ndim == 3 else len(given)
    for each in (given, ops.convert_to_tensor(given)):
        checked = coded._checked(each)
        assert checked.dtype == np.float32
        assert checked.shape == (count, 8, 8, 1)
        np.testing.assert_array_equal(checked, np.float32(score))


@pytest.mark.backend
@pytest.mark.parametrize("method", ["logits", "probabilities", "scores"])
def test_tensors_are_brought_to_floats_for_logits_and_their_kind(coded: Coded, method: str) -> None:
    ask = getattr(coded, method)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (2, 8, 8, 1)).astype(np.uint8)
    floats = pixels.astype(np.float32) / 255
    expected = array(ask(ops.convert_to_tensor(floats)))
    for given in (pixels, floats.astype(np.float64), floats):
        np.testing.assert_array_equal(array(ask(given)), expected)
        np.testing.assert_array_equal(array(ask(ops.convert_to_tensor(given))), expected)
    np.testing.assert_array_equal(array(ask(ops.convert_to_tensor(floats[0]))), expected[:1])


@pytest.mark.backend
@pytest.mark.parametrize("method", ["logits", "probabilities", "scores"])
def test_wrong_tensors_are_refused_by_logits_and_their_kind(coded: Coded, method: str) -> None:
    fine = np.full((2, 8, 8, 1), 0.5, np.float32)
    for wrong, found in (
        (fine.transpose(0, 3, 1, 2), "shape [2, 1, 8, 8]"),
        (fine[:0], "shape [0, 8, 8, 1]"),
        (fine[..., 0], "shape [2, 8, 8]"),
        (fine.astype(np.int32), "int32"),
        (fine > 0, "bool"),
        (fine * np.float32(np.nan), "NaN or infinite values"),
        (fine * 510, "values from 255 to 255. Divide by 255?"),
        (fine - 3, "values from -2.5 to -2.5"),
    ):
        for given in (wrong, ops.convert_to_tensor(wrong)):
            with pytest.raises(DataError) as caught:
                getattr(coded, method)(given)
            assert str(caught.value) == SHAPES + found
    # An attack may look a little outside.
    getattr(coded, method)(ops.convert_to_tensor(fine + np.float32(0.6)))


@pytest.mark.parametrize("method", ["logits", "probabilities", "scores", "classify"])
def test_tensors_of_pytorch_without_values_are_refused(coded: Coded, method: str) -> None:
    torch = pytest.importorskip("torch")
    if sparring.backend.name != "torch":
        pytest.skip("the framework is another")
    for dtype in (torch.float32, torch.uint8):
        for given in (
            torch.zeros((2, 8, 8, 1), dtype=dtype, device="meta"),
            torch.zeros((2, 8, 8, 1), dtype=dtype).to_sparse(),
        ):
            with pytest.raises(DataError, match="expected images"):
                getattr(coded, method)(given)


@pytest.mark.parametrize("seed", [-1, 2**31, 2**40, 1.0, "1", True, None, np.float32(1)])
def test_a_seed_that_is_none_is_refused(coded: Coded, seed: Any) -> None:
    for ask in (coded.classify, coded.detect):
        with pytest.raises(SettingsError, match=r"seed: expected an integer from 0 to 2147483647"):
            ask(images({}), seed=seed)
    coded.classify(images({}), seed=np.int64(3))  # type: ignore[arg-type]


def test_a_batch_of_as_many_images_as_a_side_is_a_batch() -> None:
    # A square of eight: [8, 8, 1] is one image, and [8, 8, 8, 1] eight of them.
    coded = Coded()
    assert coded._checked(np.zeros((8, 8, 8, 1))).shape == (8, 8, 8, 1)


# Exercises


def test_the_course_s_best_published_success() -> None:
    # Those are the figures of docs/results.md, where the last column is the course's own.
    page = (Path(__file__).parent.parent / "docs" / "results.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in page.splitlines()
        if line.startswith("| ")
    ]
    head, *others = [row for row in rows if row[-1] == "course's"]  # one for each data set
    assert others == [head] * len(others)
    published = {row[0]: row[-1] for row in rows if len(row) == len(head) and "%" in row[-1]}
    assert len(published) == 13
    shares = {name: defense.published_success for name, defense in DEFENSES.items()}
    assert {name: f"{share} %" for name, share in shares.items() if share} == published


@pytest.mark.parametrize(
    ("name", "goal"),
    [
        (
            "blur",
            "95 %. So many of 100 images of CIFAR-10, those it misclassifies\n"
            "included, the course's best published attack broke at Linf 4/255.",
        ),
        ("trades", "as many images as you can; it is meant to hold, and nobody published a number"),
    ],
)
def test_an_exercise_says_what_is_to_be_done(tmp_path: Path, name: str, goal: str) -> None:
    folder = tmp_path / "not" / "there"
    path = write(name, folder)
    assert path == folder / f"attack_{name}.py"
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f'"""An attack on {name}: ')
    assert f"Goal: {goal}" in text
    assert f"\n    sparring train {name}\n    sparring attack {name} attack_{name}.py\n" in text
    assert f"sparring/defenses/{name}.py." in text


def test_an_exercise_is_not_overwritten_unless_forced(tmp_path: Path) -> None:
    path = write("knn", tmp_path)
    text = path.read_text(encoding="utf-8")
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        write("knn", tmp_path)
    assert str(caught.value) == f"{path} exists; --force overwrites it"
    assert path.read_text(encoding="utf-8") == "mine"
    assert write("knn", tmp_path, force=True).read_text(encoding="utf-8") == text
    with pytest.raises(SettingsError, match="unknown defense 'nobody'"):
        write("nobody", tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["attack_knn.py"]


def test_an_exercise_runs_as_it_is_and_breaks_once_it_takes_a_step(
    linear: Linear, tmp_path: Path
) -> None:
    source = write("baseline", tmp_path).read_text(encoding="utf-8")
    x = ops.convert_to_tensor(np.full((2, 8, 8, 1), 0.5, np.float32))
    y = ops.convert_to_tensor(np.ones(2, np.int32))

    def attacked(text: str) -> np.ndarray:
        namespace: dict[str, Any] = {}
        exec(text, namespace)
        attack = cast(Callable[..., Any], namespace["attack"])
        assert attack.__defaults__ == (10,)
        return array(attack(linear, x, y, Linf(0.1)))

    np.testing.assert_array_equal(attacked(source), array(x))
    moved = attacked(source.replace("+ 0 *", "+ 0.05 *"))
    # Along the gradient every pixel goes to the edge of the ball, and no further.
    np.testing.assert_allclose(moved - array(x), -0.1 * np.stack([linear.direction] * 2), atol=1e-6)

"""Augmentation, against padding and cropping done by hand."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from keras import ops

from sparring import backend
from sparring.data import DatasetInfo
from sparring.networks.augment import (
    JITTER_DRAWS,
    SHIFT_FLIP_DRAWS,
    STRONG_DRAWS,
    color_jitter,
    round_half_up,
    shift_flip,
    strong,
)
from sparring.training.recipe import Recipe
from sparring.training.settings import Settings

pytestmark = pytest.mark.backend


def by_hand(x: np.ndarray, draws: np.ndarray, flip: bool) -> np.ndarray:
    """Mirror, reflect-pad by an eighth, crop: one image after the other."""
    height, width = x.shape[1:3]
    up, left = int(height / 8 + 0.5), int(width / 8 + 0.5)
    result = []
    for image, (down, right, mirror) in zip(x, draws[:, :, 0].T, strict=True):
        mirrored = image[:, ::-1] if flip and mirror < 0.5 else image
        padded = np.pad(mirrored, ((up, up), (left, left), (0, 0)), mode="reflect")
        row, column = int(down * (2 * up + 1)), int(right * (2 * left + 1))
        result.append(padded[row : row + height, column : column + width])
    return np.stack(result)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (12, 20, 3)])
def test_shift_flip_is_pad_crop_and_mirror_per_image(
    shape: tuple[int, int, int], flip: bool
) -> None:
    random = np.random.default_rng(0)
    x = random.random((50, *shape), dtype=np.float32)
    draws = random.random((3, 50, 1), dtype=np.float32)
    draws[:, 0], draws[:, 1] = 0, np.nextafter(np.float32(1), np.float32(0))  # the extremes
    answer = ops.convert_to_numpy(
        shift_flip(ops.convert_to_tensor(x), ops.convert_to_tensor(draws), flip)
    )
    np.testing.assert_array_equal(answer, by_hand(x, draws, flip))


def test_images_of_a_batch_are_shifted_differently() -> None:
    random = backend.Random()
    random.seed(1)
    x = np.tile(np.random.default_rng(0).random((1, 32, 32, 1), dtype=np.float32), (64, 1, 1, 1))
    answer = ops.convert_to_numpy(
        shift_flip(ops.convert_to_tensor(x), random.uniform((3, 64, 1)), True)
    )
    # 9 x 9 shifts and a flip: 64 draws of 162 seldom repeat.
    assert len({image.tobytes() for image in answer}) > 40


def test_random_is_uniform_and_restarts_with_its_seed() -> None:
    random = backend.Random()
    random.seed(5)
    first, second = (ops.convert_to_numpy(random.uniform((10_000,))) for _ in range(2))
    random.seed(5)
    again = ops.convert_to_numpy(random.uniform((10_000,)))
    np.testing.assert_array_equal(again, first)
    assert not np.array_equal(first, second)
    assert first.min() >= 0
    assert first.max() < 1
    # The mean of 10,000 has standard deviation 0.0029.
    assert abs(first.mean() - 0.5) < 0.015
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_halves_round_up() -> None:
    assert [round_half_up(size / 8) for size in (8, 12, 20, 28, 32)] == [1, 2, 3, 4, 4]


def jitter_by_hand(image: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """One image, by Python's own colorsys, one change after the other."""
    centered = 2 * draws.astype(np.float64) - 1
    color = image.shape[2] == 3

    def in_hsv(change: Callable[[float, float, float], tuple[float, float, float]]) -> np.ndarray:
        pixels = [change(*colorsys.rgb_to_hsv(*pixel)) for pixel in image.reshape(-1, 3)]
        return np.array([colorsys.hsv_to_rgb(*pixel) for pixel in pixels]).reshape(image.shape)

    for step in np.argsort(draws[: 4 if color else 2]):
        if step == 0:
            image = image + 0.4 * centered[4]
        elif step == 1:
            mean = image.mean(axis=(0, 1))
            image = mean + (1 + 0.4 * centered[5]) * (image - mean)
        elif step == 2:
            factor = 1 + 0.4 * centered[6]
            image = in_hsv(lambda h, s, v, f=factor: (h, min(1, s * f), v))  # type: ignore[misc]
        else:
            turn = 0.1 * centered[7]
            image = in_hsv(lambda h, s, v, t=turn: ((h + t) % 1, s, v))  # type: ignore[misc]
        image = image.clip(0, 1)
    return image


@pytest.mark.parametrize("channels", [1, 3])
def test_color_jitter_per_image(channels: int) -> None:
    random = np.random.default_rng(0)
    x = random.random((40, 8, 8, channels), dtype=np.float32)
    x[0] = 0.5  # grey has no hue
    x[1] = 0
    draws = random.random((8, 40, 1), dtype=np.float32)
    answer = ops.convert_to_numpy(
        color_jitter(ops.convert_to_tensor(x), ops.convert_to_tensor(draws))
    )
    expected = [jitter_by_hand(image, draws[:, index, 0]) for index, image in enumerate(x)]
    # Hue divides by the spread of the channels, which may be small: float32 keeps four digits.
    np.testing.assert_allclose(answer, np.stack(expected), atol=2e-4)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_strong_is_the_jitter_and_then_the_shift_each_with_draws_of_its_own(
    channels: int, flip: bool
) -> None:
    assert (JITTER_DRAWS, SHIFT_FLIP_DRAWS, STRONG_DRAWS) == (8, 3, 11)
    random = np.random.default_rng(2)
    x = random.random((40, 8, 8, channels), dtype=np.float32)
    draws = random.random((11, 40, 1), dtype=np.float32)
    answer = strong(ops.convert_to_tensor(x), ops.convert_to_tensor(draws), flip)
    jittered = [jitter_by_hand(image, draws[:8, index, 0]) for index, image in enumerate(x)]
    expected = by_hand(np.stack(jittered), draws[8:], flip)
    # As in the test of the jitter alone.
    np.testing.assert_allclose(ops.convert_to_numpy(answer), expected, atol=2e-4)


def test_every_change_of_the_jitter_alone_by_hand() -> None:
    """One change is made strong, the others have draws of 1/2, which change nothing."""
    pixel = np.array([0.2, 0.4, 0.6], np.float32)
    # JAX compiles for each number of images anew: 40, as above, of which five are looked at.
    x = np.tile(pixel, (40, 8, 8, 1))
    x[:, :4] = 0.5  # the other half of the image is gray, for contrast to have a mean
    draws = np.full((8, 40, 1), 0.5, np.float32)
    draws[:4, :, 0] = [[0.1], [0.2], [0.3], [0.4]]  # brightness, contrast, saturation, hue
    draws[4, 0] = draws[5, 1] = draws[6, 2] = draws[7, 3] = 1.0
    draws[4, 4] = 0.0
    answer = ops.convert_to_numpy(
        color_jitter(ops.convert_to_tensor(x), ops.convert_to_tensor(draws))
    )
    expected = [
        [0.6, 0.8, 1.0],
        # Means of the channels: 0.35, 0.45, 0.55. What differs from them by 0.15, 0.05 and 0.05
        # differs 1.4 times as much.
        [0.35 - 0.21, 0.45 - 0.07, 0.55 + 0.07],
        # The largest channel stays; the others fall from it 1.4 times as far.
        [0.6 - 1.4 * 0.4, 0.6 - 1.4 * 0.2, 0.6],
        # Of red's 0 to 6 the hue is 3.5, between cyan and blue: a tenth of the circle is 0.6, to
        # 4.1, which is blue with a tenth of red.
        [0.2 + 0.1 * 0.4, 0.2, 0.6],
        [0, 0, 0.2],  # 0.4 less, and clipped
    ]
    # Six digits, of float32's seven.
    np.testing.assert_allclose(answer[:5, 6, 3], expected, atol=1e-6)
    np.testing.assert_allclose(answer[5:], x[5:], atol=1e-6)


def test_the_jitter_clips_after_each_change() -> None:
    x = np.zeros((40, 8, 8, 1), np.float32)
    x[:, :4] = 1.0
    draws = np.full((8, 40, 1), 0.5, np.float32)
    draws[0], draws[1] = 0.1, 0.9  # brightness first, then contrast
    draws[4, :2, 0] = [1.0, 0.0]  # 0.4 more, 0.4 less
    draws[5] = 0.0  # contrast of 0.6
    answer = ops.convert_to_numpy(
        color_jitter(ops.convert_to_tensor(x), ops.convert_to_tensor(draws))
    )
    # 0.4 and 1 (not 1.4), their mean 0.7: 0.7 +- 0.6 * 0.3. Then 0 (not -0.4) and 0.6, mean 0.3.
    np.testing.assert_allclose(answer[0, [0, 7], 0, 0], [0.88, 0.52], atol=1e-6)
    np.testing.assert_allclose(answer[1, [0, 7], 0, 0], [0.48, 0.12], atol=1e-6)


class GivenDraws:
    """Uniform random numbers given beforehand, for one call."""

    variables: tuple[()] = ()

    def __init__(self, draws: np.ndarray) -> None:
        self._draws = draws

    def uniform(self, shape: Sequence[int]) -> Any:
        assert tuple(shape) == self._draws.shape
        return ops.convert_to_tensor(self._draws)


@pytest.mark.parametrize("flip", [True, False, None])
def test_a_recipe_shifts_each_image_and_mirrors_where_its_settings_say(flip: bool | None) -> None:
    random = np.random.default_rng(3)
    x = random.random((40, 8, 8, 1), dtype=np.float32)
    draws = random.random((3, 40, 1), dtype=np.float32)
    info = DatasetInfo("noise", (8, 8, 1), ("a", "b"), True, 40, 40, "")
    recipe = Recipe(info, Settings(filters=1, flip=flip), 0)
    recipe.random = GivenDraws(draws)  # type: ignore[assignment]
    y = np.arange(40) % 2
    images, labels = recipe.augment(ops.convert_to_tensor(x), ops.convert_to_tensor(y))
    np.testing.assert_array_equal(ops.convert_to_numpy(images), by_hand(x, draws, bool(flip)))
    np.testing.assert_array_equal(ops.convert_to_numpy(labels), y)


def test_an_image_whose_draw_is_one_half_is_not_mirrored() -> None:
    x = np.arange(64, dtype=np.float32).reshape(1, 8, 8, 1)
    # A shift's draw of one half is no shift: of the places -1, 0 and 1 the one in the middle.
    draws = ops.convert_to_tensor(np.full((3, 1, 1), 0.5, np.float32))
    answer = ops.convert_to_numpy(shift_flip(ops.convert_to_tensor(x), draws, True))
    np.testing.assert_array_equal(answer, x)

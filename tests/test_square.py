"""Square, beside loops over images and channels that follow the paper's Algorithms 1 to 3.

Andriushchenko et al. 2020, https://arxiv.org/abs/1912.00049. The loops take the same draws in the
same order, one image and one channel at a time, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from keras import ops

from sparring.attacks import Square
from sparring.attacks.square import _bump, _Draws, _Pyramids, _Squares
from sparring.errors import SettingsError
from sparring.randomness import Chance
from sparring.threat import L2, Linf, ThreatModel
from tests.conftest import Linear

Numbers = Callable[[int], np.ndarray]


def draws_for(images: np.ndarray, seed: int = 0) -> _Draws:
    return _Draws(Chance(ops.convert_to_tensor(images), seed))


def numbers_for(images: np.ndarray, seed: int = 0) -> Numbers:
    """What draws_for(images, seed) draws from, as numbers [B, count] from [0, 1)."""
    chance = Chance(ops.convert_to_tensor(images), seed)
    return lambda count: np.array(ops.convert_to_numpy(chance.uniform(count)), np.float64)


def sign(number: float) -> int:
    return -1 if number < 0.5 else 1


def some_images(count: int, *shape: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).random((count, *shape)).astype(np.float32)


# The loops


def bump(height: int, width: int) -> np.ndarray:
    """Squares around the middle, the first of one value, each a ring larger: 1, 1/4, 1/9, ..."""
    values = np.zeros((height, width))
    top, left = height // 2, width // 2
    for row in range(height):
        for column in range(width):
            for ring in range(max(top, left) + 1):
                if max(abs(row - top), abs(column - left)) <= ring:
                    values[row, column] += 1 / (ring + 1) ** 2
    return values


def pyramid(side: int, upright: bool) -> np.ndarray:
    """The paper's eta: two bumps of opposite sign, together of length 1."""
    eta = np.concatenate([bump(side // 2, side), -bump(side - side // 2, side)])
    eta = eta / math.sqrt((eta**2).sum())
    return eta if upright else eta.T


def grid(images: np.ndarray, eps: float, side: int, numbers: Numbers) -> np.ndarray:
    """The start in L2: pyramids side by side, as many as fit, in the middle; together eps long."""
    count, height, width, channels = images.shape
    moved = np.zeros(images.shape)
    for row in range(height // side):
        for column in range(width // side):
            upright, signs = numbers(1), numbers(channels)
            top = (height - height // side * side) // 2 + row * side
            left = (width - width // side * side) // 2 + column * side
            for image in range(count):
                for channel in range(channels):
                    moved[image, top : top + side, left : left + side, channel] = sign(
                        signs[image, channel]
                    ) * pyramid(side, upright[image, 0] < 0.5)
    for image in range(count):
        moved[image] *= eps / math.sqrt((moved[image] ** 2).sum())
    return np.clip(images + moved, 0, 1)


def corner(number: np.ndarray, side: int, height: int, width: int) -> tuple[int, int]:
    return math.floor(number[0] * (height - side + 1)), math.floor(number[1] * (width - side + 1))


def length(values: np.ndarray) -> float:
    return math.sqrt((values**2).sum())


def algorithm_3(
    image: np.ndarray,
    best: np.ndarray,
    eps: float,
    side: int,
    given: tuple[int, int],
    taken: tuple[int, int],
    upright: bool,
    signs: list[int],
) -> np.ndarray:
    """One image's proposal in L2; line numbers are the paper's."""
    height, width, channels = image.shape
    moved = best.astype(np.float64) - image  # 1
    first = slice(given[0], given[0] + side), slice(given[1], given[1] + side)  # 3
    second = slice(taken[0], taken[0] + side), slice(taken[1], taken[1] + side)
    unused = max(eps**2 - (moved**2).sum(), 0)  # 4
    for channel in range(channels):  # 6
        part = moved[:, :, channel]  # a view: what is written to it is written to `moved`
        of_old = length(part[first])
        direction = signs[channel] * pyramid(side, upright)  # 8
        if of_old > 0:
            direction = direction + part[first] / of_old
        in_either = 0.0  # 9
        for row in range(height):
            for column in range(width):
                rows_columns = [
                    window[0].start <= row < window[0].stop
                    and window[1].start <= column < window[1].stop
                    for window in (first, second)
                ]
                if any(rows_columns):
                    in_either += part[row, column] ** 2
        part[second] = 0  # 10
        part[first] = direction / length(direction) * math.sqrt(in_either + unused / channels)
    return np.clip(image + moved / length(moved) * eps, 0, 1)


def proposals_l2(
    images: np.ndarray, best: np.ndarray, rows: list[int], eps: float, side: int, numbers: Numbers
) -> np.ndarray:
    _, height, width, channels = images.shape
    given, taken = numbers(2), numbers(2)
    upright, signs = numbers(1), numbers(channels)
    return np.stack(
        [
            algorithm_3(
                images[row],
                best[row],
                eps,
                side,
                corner(given[row], side, height, width),
                corner(taken[row], side, height, width),
                bool(upright[row, 0] < 0.5),
                [sign(number) for number in signs[row]],
            )
            for row in rows
        ]
    )


def proposals_linf(
    images: np.ndarray, best: np.ndarray, rows: list[int], eps: float, side: int, numbers: Numbers
) -> np.ndarray:
    _, height, width, channels = images.shape
    places, signs = numbers(2), numbers(channels)
    given = []
    for row in rows:
        point = best[row].astype(np.float64)
        top, left = corner(places[row], side, height, width)
        for channel in range(channels):
            window = slice(top, top + side), slice(left, left + side), channel
            point[window] = images[row][window] + eps * sign(signs[row, channel])
        given.append(np.clip(point, 0, 1))
    return np.stack(given)


def side_of(share: float, height: int, width: int, norm: str) -> int:
    side = max(1, min(round(math.sqrt(share * height * width)), min(height, width) - 1))
    if norm == "Linf":
        return side
    side = max(side, 3)
    return side if side % 2 else side + 1


def square_by_hand(
    defense: Counting, threat: ThreatModel, queries: int
) -> tuple[np.ndarray, list[int]]:
    """Where the search ends, and how many queries each image took."""
    images, labels, norm, eps = defense.images, defense.labels, threat.norm, threat.eps
    count, height, width, channels = images.shape
    numbers = numbers_for(images, seed=5)
    if norm == "Linf":
        signs = numbers(width * channels).reshape(count, 1, width, channels)
        best = np.clip(images + eps * np.where(signs < 0.5, -1, 1), 0, 1)
    else:
        best = grid(images, eps, side_of(0.04, height, width, norm), numbers)

    def loss(image: int, point: np.ndarray) -> float:
        along = float((point * defense.direction).sum() - defense.bias)
        return -along if labels[image] else along  # the other class's logit less the label's

    losses = [loss(image, best[image]) for image in range(count)]
    took = [1] * count
    for query in range(1, queries):
        rows = [image for image in range(count) if losses[image] <= 0]
        if not rows:
            break
        at = query / queries * 10_000
        share = 0.8
        for bound in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000):
            share = share / 2 if at > bound else share
        side = side_of(share, height, width, norm)
        make = proposals_linf if norm == "Linf" else proposals_l2
        for image, tried in zip(rows, make(images, best, rows, eps, side, numbers), strict=True):
            took[image] += 1
            if (gained := loss(image, tried)) > losses[image]:
                best[image], losses[image] = tried, gained
    return best, took


class Counting(Linear):
    """Tells two classes apart along a random direction; counts what it is asked.

    `asked`: for every image how many points near it got logits; `judged`: the points that were
    asked about whether they are broken, which those near `rejected` images are not.
    """

    def __init__(self, images: np.ndarray, rejected: tuple[int, ...] = ()) -> None:
        direction = np.random.default_rng(1).normal(size=images.shape[1:])
        direction /= np.abs(direction).sum()  # so that eps in Linf moves logits by eps at most
        along = (images * direction).sum(axis=(1, 2, 3))
        super().__init__(direction, float(np.median(along)))
        self.images, self.rejected = images, rejected
        self.labels = (along > self.bias).astype(np.int32)  # all are answered rightly
        self.asked = [0] * len(images)
        self.judged: list[bytes] = []

    def _nearest(self, points: np.ndarray) -> list[int]:
        apart = np.abs(self.images[None] - points[:, None])
        return [int(place) for place in apart.sum(axis=(2, 3, 4)).argmin(axis=1)]

    def compiled(self, key: tuple[Any, ...], function: Callable[..., Any]) -> Callable[..., Any]:
        if key != ("logits",):
            return super().compiled(key, function)

        def counted(points: Any) -> Any:
            for image in self._nearest(ops.convert_to_numpy(points)):
                self.asked[image] += 1
            return function(points)

        return counted

    def broken(self, x: Any, y: Any, seed: int = 0) -> np.ndarray:
        self.judged += [point.tobytes() for point in x]
        kept = [image not in self.rejected for image in self._nearest(x)]
        return super().broken(x, y) & np.array(kept)


# Images of 9x7x3 from this seed break after 4 to 49 queries in Linf and after 1 to 21 in L2, some
# never; and no square meets a pyramid of the start that it cancels, where rounding alone decides
# what becomes of it.
@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.6)], ids=lambda threat: threat.norm)
def test_square_ends_where_the_loops_end(threat: ThreatModel) -> None:
    images = some_images(6, 9, 7, 3)
    defense = Counting(images)
    expected, took = square_by_hand(defense, threat, queries=60)
    assert len(set(took)) >= 5  # images leave one by one
    assert max(took) == 60  # and some never do
    found = Square(queries=60, seed=5)(defense, images, defense.labels, threat)
    # float32 against float64: sixty times added to and scaled, each time off by 2^-24.
    np.testing.assert_allclose(found, expected, atol=5e-6)
    assert defense.asked == took
    assert found.dtype == np.float32


def test_square_ends_when_every_image_is_broken() -> None:
    images = some_images(6, 9, 7, 3)[[0, 2, 5]]  # broken after 17, 6 and 4 queries of 60
    defense = Counting(images)
    defense.bias = Counting(some_images(6, 9, 7, 3)).bias
    labels = Counting(some_images(6, 9, 7, 3)).labels[[0, 2, 5]]
    found = Square(queries=60, seed=5)(defense, images, labels, Linf(0.1))
    assert defense.broken(found, labels).all()
    assert sum(defense.asked) == 17 + 6 + 4


def test_rejected_images_stay_in_the_search_and_go_on_rising() -> None:
    images = some_images(6, 9, 7, 3)
    # Image 5 breaks in Linf after 4 queries; rejected, it takes all 60.
    defense = Counting(images, rejected=(5,))
    found = Square(queries=60, seed=5)(defense, images, defense.labels, Linf(0.1))
    assert defense.asked[5] == 60
    assert len(defense.judged) == len(set(defense.judged))  # none twice: asking is dear
    left = Counting(images)
    before = Square(queries=60, seed=5)(left, images, left.labels, Linf(0.1))
    sides = np.where(defense.labels, -1, 1)

    def lost_by(points: np.ndarray) -> np.ndarray:
        return sides * ((points * defense.direction).sum(axis=(1, 2, 3)) - defense.bias)

    assert lost_by(found)[5] > lost_by(before)[5] > 0
    np.testing.assert_array_equal(found[:5], before[:5])


def test_only_points_that_look_broken_and_are_new_are_judged() -> None:
    images = some_images(6, 9, 7, 3)
    defense = Counting(images)
    found = Square(queries=60, seed=5)(defense, images, defense.labels, Linf(0.1))
    # Each broken image once: it leaves then, and points with a loss below 0 are not asked about.
    judged = len(defense.judged)
    assert judged == defense.broken(found, defense.labels).sum()


class Same(Linear):
    """Logits 0 and 0 for every image: it answers class 0, and no class has lost."""

    def logits(self, x: Any, chance: Any = None) -> Any:
        return ops.zeros((x.shape[0], 2))

    def broken(self, x: Any, y: Any, seed: int = 0) -> np.ndarray:
        raise AssertionError("no point looks broken")


def test_a_tie_is_not_lost_and_equal_losses_change_nothing() -> None:
    images = some_images(2, 6, 7, 2)
    defense = Same(np.ones((6, 7, 2)), 0.0)
    found = Square(queries=5)(defense, images, np.array([1, 0], np.int32), Linf(0.1))
    start = _Squares(images, 0.1).start(draws_for(images))
    np.testing.assert_array_equal(found, start)


def test_the_seed_chooses_the_draws() -> None:
    images = some_images(2, 6, 7, 2)
    defense = Counting(images)
    one, two = (
        Square(queries=1, seed=seed)(defense, images, defense.labels, Linf(0.1)) for seed in (0, 1)
    )
    assert Square().seed == 0
    np.testing.assert_array_equal(one, _Squares(images, 0.1).start(draws_for(images)))
    np.testing.assert_array_equal(two, _Squares(images, 0.1).start(draws_for(images, seed=1)))
    assert np.mean(one != two) > 0.25  # half of the stripes


def test_shares_are_halved_at_the_paper_s_queries() -> None:
    # Of 10,000 queries, as the paper counts them; a share is halved after 10, 50, 200, ...
    square = Square(queries=10_000)
    bounds = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]
    for halvings, bound in enumerate(bounds):
        assert square._share(bound) == pytest.approx(0.8 / 2**halvings)
        assert square._share(bound + 1) == pytest.approx(0.8 / 2 ** (halvings + 1))
    assert square._share(1) == 0.8
    assert square._share(9999) == pytest.approx(0.8 / 512)
    # Of 100 queries the first stands for the 100th, after two halvings; the 10th for the 1000th.
    assert Square(queries=100)._share(1) == pytest.approx(0.2)
    assert Square(queries=100)._share(10) == pytest.approx(0.05)
    assert Square(queries=100)._share(11) == pytest.approx(0.025)
    assert Square(queries=100, first_share=0.4)._share(1) == pytest.approx(0.1)


def test_what_square_does_unless_told_otherwise() -> None:
    assert Square() == Square(queries=1000, first_share=0.8, seed=0)


@pytest.mark.parametrize("wrong", [0, -1, 2.0, True])
def test_queries_are_whole_numbers_above_0(wrong: Any) -> None:
    with pytest.raises(SettingsError, match=f"queries: .*1 or more, got {wrong!r}"):
        Square(queries=wrong)
    assert Square(queries=1).queries == 1


@pytest.mark.parametrize("wrong", [0, -0.1, 1.01])
def test_first_share_is_above_0_and_at_most_1(wrong: float) -> None:
    with pytest.raises(SettingsError, match=f"first_share: .*above 0, at most 1, got {wrong!r}"):
        Square(first_share=wrong)
    assert Square(first_share=1).first_share == 1


# The pieces


class Scripted(_Draws):
    """Draws that are given: rows of numbers for every image, one after the other."""

    def __init__(self, *numbers: list[list[float]]) -> None:
        self.numbers = [np.array(each, np.float32) for each in numbers]

    def uniform(self, count: int) -> np.ndarray:
        given = self.numbers.pop(0)
        assert given.shape[1] == count
        return given


def test_signs_are_minus_1_below_a_half() -> None:
    signs = Scripted([[0.0, 0.49, 0.5, 0.99], [0.7, 0.2, 0.1, 0.6]]).signs(2, 2)
    assert signs.tolist() == [[[-1, -1], [1, 1]], [[1, -1], [-1, 1]]]
    assert signs.dtype == np.float32


def test_stripes_at_the_start_have_one_sign_for_each_column_and_channel() -> None:
    images = np.full((1, 3, 2, 2), 0.5, np.float32)
    images[0, 0, 0, 1] = 0.9
    found = _Squares(images, 0.25).start(Scripted([[0.1, 0.9, 0.9, 0.1]]))
    # Left column: channel 0 down, channel 1 up; right column the other way round. White ends it.
    expected = np.tile([[0.25, 0.75], [0.75, 0.25]], (1, 3, 1, 1))
    expected[0, 0, 0, 1] = 1.0
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("share", "height", "width", "linf", "l2"),
    [
        (0.8, 8, 8, 7, 7),  # sqrt(51.2) = 7.16
        (1.0, 8, 8, 7, 7),  # never all of an image
        (0.5, 8, 8, 6, 7),  # sqrt(32) = 5.66; in L2 sides are odd
        (0.3, 8, 8, 4, 5),  # sqrt(19.2) = 4.38
        (0.04, 8, 8, 2, 3),  # sqrt(2.56) = 1.6; in L2 sides are 3 and more
        (1e-4, 8, 8, 1, 3),
        (0.8, 4, 10, 3, 3),  # sqrt(32) again, and the shorter side is 4
        (0.8, 10, 4, 3, 3),
        (0.1, 4, 10, 2, 3),  # sqrt(4): height and width both count
        (0.04, 32, 32, 6, 7),  # sqrt(40.96) = 6.4
    ],
)
def test_sides_of_squares(share: float, height: int, width: int, linf: int, l2: int) -> None:
    images = np.zeros((1, height, width, 1), np.float32)
    assert _Squares(images, 0.1).side(share) == linf
    assert _Pyramids(images, 0.1).side(share) == l2


def test_a_square_replaces_what_was_below_it_by_eps_up_or_down_for_each_channel() -> None:
    images = np.full((3, 3, 4, 2), 0.5, np.float32)
    best = np.broadcast_to(np.array([0.6, 0.4], np.float32), images.shape)
    # Images 0 and 2 are left. Their windows of side 2 lie at the last row, 1, and the column
    # floor(0.7 * 3) = 2, and at row 0 and column 0.
    places = [[0.99, 0.7], [0.0, 0.0], [0.49, 0.33]]
    signs = [[0.2, 0.7], [0.0, 0.0], [0.9, 0.9]]
    rows = np.array([0, 2])
    found = _Squares(images, 0.25).propose(best, rows, 2, Scripted(places, signs))
    expected = np.array(best[rows])
    expected[0, 1:3, 2:4] = [0.25, 0.75]
    expected[1, 0:2, 0:2] = [0.75, 0.75]
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_windows_reach_every_row_and_column_and_no_further() -> None:
    images = np.zeros((5, 4, 6, 1), np.float32)
    last = 1 - 2.0**-24  # the largest number that is drawn
    drawn = [[0.0, 0.0], [last, last], [0.5, 0.0], [0.0, 0.5], [0.4, 0.8]]
    search = _Squares(images, 0.1)
    window = search._window(np.arange(5), 2, Scripted(drawn))
    lit = np.zeros(images.shape)
    lit[window] = 1
    corners = [tuple(np.argwhere(image[..., 0]).min(axis=0)) for image in lit]
    # Tops 0 to 2 (4 - 2), lefts 0 to 4 (6 - 2): floor(0.5 * 3), floor(0.5 * 5), and so on.
    assert corners == [(0, 0), (2, 4), (1, 0), (0, 2), (1, 4)]
    assert (lit.sum(axis=(1, 2, 3)) == 4).all()


def test_in_linf_nothing_leaves_the_ball_or_the_cube() -> None:
    images = np.array([0.1, 0.5, 0.95], np.float32).reshape(1, 1, 3, 1)
    search = _Squares(images, 0.25)
    found = search._kept(np.full_like(images, 0.5), slice(None))
    assert found.ravel() == pytest.approx([0.35, 0.75, 1.0])
    found = search._kept(np.full_like(images, -0.5), slice(None))
    assert found.ravel() == pytest.approx([0.0, 0.25, 0.7])


def test_in_l2_changes_are_scaled_to_eps_and_then_kept_in_the_cube() -> None:
    images = np.array([[0.5, 0.5], [0.0, 0.9]], np.float32).reshape(2, 1, 2, 1)
    search = _Pyramids(images, 0.2)
    # (3, 4) has length 5 and becomes (0.12, 0.16); (-0.03, 0.04) becomes (-0.12, 0.16).
    moved = np.array([[3, 4], [-0.03, 0.04]], np.float32).reshape(2, 1, 2, 1)
    found = search._kept(moved, slice(None))
    assert found.ravel() == pytest.approx([0.62, 0.66, 0.0, 1.0])
    assert search._kept(moved[1:], np.array([0])).ravel() == pytest.approx([0.38, 0.66])
    assert found.dtype == np.float32
    # What does not move stays where it is.
    assert search._kept(np.zeros_like(moved), slice(None)).ravel() == pytest.approx(images.ravel())


def test_bumps_by_hand() -> None:
    # One in the middle, a quarter in and around it, a ninth everywhere: one ring each.
    edge, ring, middle = 1 / 9, 1 / 4 + 1 / 9, 1 + 1 / 4 + 1 / 9
    row = [edge, ring, ring, ring, edge]
    peak = np.array([row, [edge, ring, middle, ring, edge], row])
    np.testing.assert_allclose(_bump(3, 5), peak, rtol=1e-6)
    np.testing.assert_allclose(_bump(5, 3), peak.T, rtol=1e-6)
    # Of even sides the middle is the one after it.
    expected = np.array([[0.25, 0.25, 0.25], [0.25, 1.25, 0.25]])
    np.testing.assert_allclose(_bump(2, 3), expected, rtol=1e-6)


def test_pyramids_by_hand() -> None:
    images = np.zeros((2, 5, 5, 2), np.float32)
    found = _Pyramids(images, 0.2)._pyramid(3, Scripted([[0.49], [0.5]], [[0.9, 0.1], [0.1, 0.9]]))
    # One row up, two rows down, each with a middle.
    half = np.array([[1, 5, 1], [-1, -1, -1], [-1, -5, -1]]) / 4
    half /= math.sqrt((half**2).sum())
    np.testing.assert_allclose(found[0], np.stack([half, -half], axis=-1), rtol=1e-6)
    np.testing.assert_allclose(found[1], np.stack([-half.T, half.T], axis=-1), rtol=1e-6)
    assert found.dtype == np.float32
    for side in (4, 5, 7):
        found = _Pyramids(images, 0.2)._pyramid(side, Scripted([[0.0]] * 2, [[0.9, 0.9]] * 2))
        np.testing.assert_allclose(found[0, ..., 0], pyramid(side, True), rtol=1e-5, atol=1e-7)


# 8 leaves two rows and columns at sides of 3, one on each side; 20 has 4 pyramids of side 5; 7
# leaves one row, which is the last.
@pytest.mark.parametrize("shape", [(8, 11, 2), (20, 20, 1), (7, 9, 3)])
def test_the_start_in_l2_is_a_grid_of_pyramids(shape: tuple[int, ...]) -> None:
    images = some_images(2, *shape)
    side = side_of(0.04, shape[0], shape[1], "L2")
    found = _Pyramids(images, 0.3).start(draws_for(images))
    np.testing.assert_allclose(found, grid(images, 0.3, side, numbers_for(images)), atol=1e-6)


# From nowhere, from within the ball, from its border and from beyond it, where no budget is unused.
@pytest.mark.parametrize("length_of_old", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("side", [3, 5])
def test_proposals_in_l2_are_algorithm_3_s(length_of_old: float, side: int) -> None:
    images = 0.25 + 0.5 * some_images(8, 6, 7, 3)
    moved = np.random.default_rng(9).normal(size=images.shape)
    moved[:, :2] = 0  # two rows without anything, so that a window's place is to be seen
    moved *= length_of_old / np.sqrt((moved**2).sum(axis=(1, 2, 3), keepdims=True))
    best = (images + moved).astype(np.float32)
    rows = [0, 1, 3, 4, 5, 7]
    found = _Pyramids(images, 0.5).propose(best, np.array(rows), side, draws_for(images))
    expected = proposals_l2(images, best, rows, 0.5, side, numbers_for(images))
    np.testing.assert_allclose(found, expected, atol=2e-6)
    # Nothing was cut off at black or white, so that every proposal lies on the ball's border.
    assert L2(0.5).distance(found, images[rows]) == pytest.approx(0.5, abs=1e-5)


def test_where_both_windows_are_one_it_keeps_its_budget() -> None:
    images = np.full((1, 3, 3, 1), 0.5, np.float32)
    best = images.copy()
    best[0, 1, 1, 0] = 0.7
    draws = Scripted([[0.0, 0.0]], [[0.0, 0.0]], [[0.0]], [[0.9]])
    found = _Pyramids(images, 0.2).propose(best, np.array([0]), 3, draws)
    new = pyramid(3, upright=True)
    new[1, 1] += 1  # what was there, brought to length 1
    expected = 0.5 + 0.2 * new / math.sqrt((new**2).sum())
    np.testing.assert_allclose(found[0, ..., 0], expected, atol=1e-6)


def test_squares_on_images_narrower_than_3() -> None:
    images = np.full((1, 4, 2, 1), 0.5, np.float32)
    search = _Pyramids(images, 0.2)
    best = images + np.float32(0.01)
    for last in (0.0, 0.99):
        draws = Scripted([[last, 0.9]], [[0.0, 0.0]], [[0.0]], [[0.9]])
        found = search.propose(best, np.array([0]), search.side(0.8), draws)
        assert L2(0.2).distance(found, images) == pytest.approx(0.2)


class Doubtful(Linear):
    """Rejects everything."""

    detects = True

    def scores(self, x: Any, chance: Any = None) -> Any:
        return ops.ones((x.shape[0],))


def test_images_whose_start_is_rejected_stay_in_the_search(linear: Linear) -> None:
    defense = Doubtful(linear.direction, linear.bias)
    x, threat = np.full((2, 8, 8, 1), 0.5, np.float32), Linf(0.2)
    start = Square(queries=1)(defense, x, np.ones(2, np.int32), threat)
    y = (1 - defense.classify(start).argmax(axis=1)).astype(np.int32)  # the start breaks both
    asked: list[int] = []
    logits = defense.compiled(("logits",), defense.logits)

    def counted(points: Any) -> Any:
        asked.append(len(points))
        return logits(points)

    defense._compiled[("logits",)] = counted
    Square(queries=4)(defense, x, y, threat)
    assert len(asked) == 4

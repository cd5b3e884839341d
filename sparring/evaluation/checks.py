"""Signs that the result of an attack should be distrusted.

Each is named, told with figures, and explained with its cause and remedy in docs/warnings.md. They
follow what the literature found to go wrong: Carlini et al. 2019, https://arxiv.org/abs/1902.06705,
and the flags of Croce and Hein 2020, https://arxiv.org/abs/2003.01690.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, final

import numpy as np
from typing_extensions import override

from sparring import backend
from sparring.attacks import (
    PGD,
    Attack,
    Noise,
    Square,
    Wrapped,
    cross_entropies,
    gradient,
    unwrapped,
)
from sparring.backend import ops
from sparring.networks.allconv import in_batches
from sparring.randomness import Chance
from sparring.tensors import Images, Logits
from sparring.threat import ThreatModel

if TYPE_CHECKING:
    from sparring.defenses.defense import Defense
    from sparring.evaluation.rates import Rate

IMAGES = 40
"""How many of the attacked images are looked at, at most."""

LEAST = 0.05
"""Differences in success that are told are at least this large, and two images."""

SQUARE_QUERIES = 300
NOISE_DRAWS = 10
STEPS_FACTOR = 4


@final
class Observed(Wrapped):
    """A stochastic defense that notes with which draws its logits are asked.

    What is compiled for it is its own, so that every function is traced, and notes its draws, once.

    Attributes:
        defense: the defense.
        seeds: those of the draws that were asked for; None stands for seeds that a compiled
            function is given later, which are taken for several.
    """

    def __init__(self, defense: Defense) -> None:
        self.defense, self.seeds = defense, set[int | None]()
        self._compiled: dict[tuple[Any, ...], Callable[..., Any]] = {}

    @override
    def logits(self, x: Images, chance: Chance | None = None) -> Logits:
        seed = 0 if chance is None else chance.seed
        self.seeds |= {None} if ops.is_tensor(seed) else set(np.unique(seed).tolist())
        return self.defense.logits(x, chance)

    @override
    def compiled(self, key: tuple[Any, ...], function: Callable[..., Any]) -> Callable[..., Any]:
        if key not in self._compiled:
            self._compiled[key] = backend.compile(function, self.defense.variables)
        return self._compiled[key]


def observed(defense: Defense | Wrapped) -> Observed | Wrapped:
    """Observe a stochastic defense while an attack runs; wrappers stay around it."""
    if isinstance(defense, Wrapped):
        return defense.around(Observed(unwrapped(defense)[0]))
    return Observed(defense)


def _asked_one_draw(defense: Any) -> bool:
    """Whether it was observed to be asked for logits, and only ever with one draw."""
    while isinstance(defense, Wrapped) and not isinstance(defense, Observed):
        defense = defense.defense
    return isinstance(defense, Observed) and len(defense.seeds - {None}) == 1 == len(defense.seeds)


@dataclass(frozen=True)
class Warned:
    """A warning: its name in docs/warnings.md, and what was found."""

    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.text} [docs/warnings.md#{self.name}]"


CHANGED_INPUT = Warned(
    "changed-input", "the attack changed its input in place; it was judged against the original"
)


def few_images(rate: Rate) -> list[Warned]:
    """Whether the interval around a rate is wider than ten points to a side."""
    if (half := (rate.high - rate.low) / 2) <= 0.1:
        return []
    return [
        Warned(
            "few-images",
            f"{rate.n} attacked images leave an interval of {200 * half:.0f} points; take more",
        )
    ]


def look(
    defense: Defense | Wrapped,
    attack: Attack,
    threat: ThreatModel,
    x: np.ndarray,
    y: np.ndarray,
    success: np.ndarray,
    transfer_from: Defense | None = None,
) -> list[Warned]:
    """All warnings about an attack on images float32 [B, H, W, C] with labels y [B].

    `success` [B] is what the attack came to on them; it is run again under other conditions.
    """
    if not len(x):
        return []
    found = []
    try:
        for warned in _look(_Trial(defense, x, y), attack, threat, success, transfer_from):
            found.append(warned)
    except Exception as error:  # whatever a user's attack raises under other conditions
        text = f"under other conditions the attack raised {type(error).__name__}: {error}"
        found.append(Warned("check-failed", text))
    return found


class _Trial:
    """A defense and images to try attacks on."""

    def __init__(self, defense: Any, x: np.ndarray, y: np.ndarray) -> None:
        self.defense, self.x, self.y = defense, x, y

    def success(self, attack: Attack, threat: ThreatModel, rows: Any = slice(None)) -> np.ndarray:
        """Success [B] of an attack on the images of those rows; what breaks a rule has none."""
        x, y = self.x[rows], self.y[rows]
        given = attack(
            self.defense,
            ops.convert_to_tensor(x),
            ops.convert_to_tensor(y.astype(np.int32)),
            threat,
        )
        adversarial = np.array(ops.convert_to_numpy(given), np.float32)
        images, valid, _, _ = threat.check(adversarial, x)
        return np.where(valid, self.defense.broken_share(images, y), 0.0)

    def more(self, gained: np.ndarray, before: np.ndarray) -> bool:
        """Whether one success is so much above another that it is worth telling."""
        difference = float(np.sum(gained) - np.sum(before))
        return difference >= max(2, LEAST * len(self.x))


def _look(
    trial: _Trial,
    attack: Attack,
    threat: ThreatModel,
    success: np.ndarray,
    transfer_from: Defense | None,
) -> Iterator[Warned]:
    defense, x = trial.defense, trial.x
    alone = _asked_one_draw(defense)
    at = f"{100 * np.mean(success):.0f} %"
    logits = in_batches(defense.compiled(("logits",), defense.logits), x)
    if (logits >= 0).all() and np.allclose(logits.sum(axis=1), 1, atol=1e-4):
        yield Warned("probabilities", "what the defense gives as logits are probabilities")
    if alone:
        yield Warned(
            "not-averaged",
            "the defense answers at random and the attack did not average over draws",
        )
    zero, bad = _gradients(defense, x, trial.y)
    if bad:
        yield Warned("bad-gradients", f"gradients of {bad} of {len(x)} images are NaN or infinite")
    if zero >= max(1, 0.1 * len(x)):
        yield Warned("zero-gradients", f"gradients of {zero} of {len(x)} images are zero")
    if isinstance(attack, Noise):
        return
    noise = trial.success(Noise(draws=NOISE_DRAWS), threat)
    if trial.more(noise, success):
        yield Warned(
            "noise-wins", f"random noise succeeds for {100 * np.mean(noise):.0f} %, the attack {at}"
        )
    twice = threat.scaled(2)
    doubled = trial.success(attack, twice)
    if trial.more(success, doubled):
        yield Warned(
            "not-rising", f"success falls from {at} to {100 * np.mean(doubled):.0f} % at {twice}"
        )
    largest = threat.unlimited(x.shape[1:])
    everything = trial.success(attack, largest)
    if trial.more(np.ones(len(x)), everything):
        yield Warned(
            "unlimited", f"with {largest} success is {100 * np.mean(everything):.0f} %, not 100 %"
        )
    if (longer := _with_more_steps(attack)) is not None:
        improved = trial.success(longer, threat)
        if trial.more(improved, success):
            yield Warned(
                "more-steps",
                f"{STEPS_FACTOR} times the steps raise success from {at} to "
                f"{100 * np.mean(improved):.0f} %",
            )
    left = np.flatnonzero(success <= 0.5)
    if len(left):
        yield from _stronger(trial, attack, threat, success, left, transfer_from)


def _stronger(
    trial: _Trial,
    attack: Attack,
    threat: ThreatModel,
    success: np.ndarray,
    left: np.ndarray,
    transfer_from: Defense | None,
) -> Iterator[Warned]:
    """Attacks that know less and should not find more, on the images that are left."""
    if not isinstance(attack, Square):
        found = trial.success(Square(queries=SQUARE_QUERIES), threat, left)
        if trial.more(found, success[left]):
            yield Warned(
                "black-box-wins",
                f"{SQUARE_QUERIES} queries of the Square attack break {np.sum(found):.0f} of the "
                f"{len(left)} images that the attack did not",
            )
    if transfer_from is not None:
        source = PGD(loss="margin", early_stopping=False)

        def transferred(_: Any, x: Any, y: Any, threat: ThreatModel) -> Any:
            return source(transfer_from, x, y, threat)

        found = trial.success(transferred, threat, left)
        if trial.more(found, success[left]):
            yield Warned(
                "transfer-wins",
                f"adversarial images of {transfer_from.name} break {np.sum(found):.0f} of the "
                f"{len(left)} images that the attack did not",
            )


def _gradients(defense: Any, x: np.ndarray, y: np.ndarray) -> tuple[int, int]:
    """How many images have a cross entropy whose gradient is all zero, and not finite."""
    find: Callable[[Any, Any], Any] = defense.compiled(
        ("gradients",),
        lambda x, y: gradient(lambda images: cross_entropies(y, defense.logits(images)), x),
    )
    found = find(ops.convert_to_tensor(x), ops.convert_to_tensor(y.astype(np.int32)))
    sizes = np.abs(np.array(ops.convert_to_numpy(found))).reshape(len(x), -1)
    finite = np.isfinite(sizes).all(axis=1)
    return int(np.sum(finite & (sizes == 0).all(axis=1))), int(np.sum(~finite))


def _with_more_steps(attack: Any) -> Attack | None:
    """The attack with more steps, if it says that it has `steps`."""
    if is_dataclass(attack) and "steps" in {each.name for each in fields(attack)}:
        values = {each.name: getattr(attack, each.name) for each in fields(attack)}
        kind: Any = type(attack)
        return kind(**{**values, "steps": STEPS_FACTOR * values["steps"]})
    if inspect.isfunction(attack) or isinstance(attack, partial):
        steps = inspect.signature(attack).parameters.get("steps")
        if steps is not None and isinstance(steps.default, int):
            return partial(attack, steps=STEPS_FACTOR * steps.default)
    return None

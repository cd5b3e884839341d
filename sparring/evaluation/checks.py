"""Signs that the result of an attack should be distrusted.

Each has a name, its figures, and its cause and remedy in docs/warnings.md. They follow
what the literature found to go wrong: Carlini et al. 2019, https://arxiv.org/abs/1902.06705, and
the flags of Croce and Hein 2020, https://arxiv.org/abs/2003.01690.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
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
    unwrapped,
)
from sparring.attacks.gradients import SeparatelyCompiled
from sparring.backend import ops
from sparring.errors import printable, told
from sparring.evaluation import planted, slopes
from sparring.evaluation.slopes import Sign
from sparring.networks.allconv import in_batches
from sparring.randomness import Chance
from sparring.runs.records import EvaluationWarning
from sparring.tensors import Images, Labels, Logits
from sparring.threat import ThreatModel

if TYPE_CHECKING:
    from sparring.defenses.defense import Defense
    from sparring.evaluation.rates import Rate
    from sparring.evaluation.verdict import Verdict

IMAGES = 40
"""How many of the attacked images are looked at, at most."""

LEAST = 0.05
"""Differences in success are told from this share of the images on, and from two images on."""

SQUARE_QUERIES = 300
"""How many queries of the Square attack are tried."""

NOISE_DRAWS = 10
"""How many random points of the ball are tried."""

STEPS_FACTOR = 4
"""How many times the attack's own steps are tried."""

ANY = -1
"""In place of a draw's seed: one that is not known, which is taken for several."""

DRAWS_APART = 0.1
"""By which share of the images some draw has to break more than the mean one."""


@final
class Observed(SeparatelyCompiled):
    """A stochastic defense that notes with which draws its logits are asked.

    Every function is compiled for it anew, so traced, and notes its draws, once.

    Attributes:
        defense: the defense.
        seeds: those of the draws that were asked for; ANY stands for seeds that a compiled
            function is given later, which are taken for several.
    """

    def __init__(self, defense: Defense) -> None:
        """Observe a defense that was asked for nothing yet."""
        super().__init__(defense)
        self.seeds = set[int]()

    @override
    def logits(self, x: Images, chance: Chance | None = None) -> Logits:
        seed = 0 if chance is None else chance.seed
        self.seeds |= {ANY} if ops.is_tensor(seed) else set(np.unique(seed).tolist())
        return self.defense.logits(x, chance)


def observed(defense: Defense | Wrapped) -> Observed | Wrapped:
    """Observe a stochastic defense while an attack runs.

    Args:
        defense: the defense, or a wrapper around it.

    Returns:
        What the attack is given in its place; wrappers stay around what observes.
    """
    if isinstance(defense, Wrapped):
        return defense.around(Observed(unwrapped(defense)[0]))
    return Observed(defense)


def asked(defense: Any) -> set[int]:
    """Give the seeds of the draws that a defense was observed to be asked for.

    Args:
        defense: the defense, or a wrapper around it.

    Returns:
        `Observed.seeds`, to which those can be added of an earlier process; nothing where nobody
        observes.
    """
    while isinstance(defense, Wrapped) and not isinstance(defense, Observed):
        defense = defense.defense
    return defense.seeds if isinstance(defense, Observed) else set()


NAMES = (
    *("zero-gradients", "bad-gradients", "gradient-mismatch", "not-averaged", "probabilities"),
    *("not-rising", "unlimited", "more-steps", "still-rising", "noise-wins", "black-box-wins"),
    *("transfer-wins", "planted", "check-failed", "changed-input", "changed-defense"),
    "short-of-memory",
)
"""The warnings that need the attack: those of the checks, and those that come while it runs."""

CHANGED_INPUT = EvaluationWarning(
    name="changed-input",
    text="the attack changed its input in place; it was judged against the original",
)

SHORT_OF_MEMORY = EvaluationWarning(
    name="short-of-memory",
    text="memory was short, so the attack got fewer images at a time than was asked for",
)


def of_code(defense: Defense) -> list[EvaluationWarning]:
    """Warn of a defense whose class has changed since its weights were trained.

    Args:
        defense: the one to judge.
    """
    if not defense.other_code:
        return []
    return [EvaluationWarning(name="other-code", text=defense.other_code)]


TIME_LIMIT = EvaluationWarning(
    name="time-limit",
    text="the time limit was not kept to: only the main thread, and not on Windows, can keep to it",
)


_MOST_CHANGES = 8  # that are named


def changed_defense(changes: Sequence[str]) -> EvaluationWarning:
    """Warn that an attack changed the defense it was given.

    Args:
        changes: what it changed, in words.
    """
    named = ", ".join(changes[:_MOST_CHANGES])
    text = (
        f"the attack changed the defense it was given: {named}; it was judged by another copy, and "
        "each batch began with it as it was"
    )
    return EvaluationWarning(name="changed-defense", text=printable(text))


@dataclass(frozen=True)
class Attempt:
    """An attack on some images and what it came to, to be run again under other conditions.

    Attributes:
        defense: who is attacked, as the attack is given it: in wrappers, and observed.
        attack: the attack.
        threat: the threat model.
        x: images float32 [B, H, W, C] in [0, 1].
        y: their labels, int [B].
        success: what the attack came to, the share of draws [B] in which each image is broken.
    """

    defense: Defense | Wrapped
    attack: Attack
    threat: ThreatModel
    x: np.ndarray
    y: np.ndarray
    success: np.ndarray

    @property
    def left(self) -> np.ndarray:
        """The rows, int [M], of the images that it broke in no more than half of the draws."""
        return np.flatnonzero(self.success <= 0.5)

    def again(
        self,
        attack: Attack | None = None,
        threat: ThreatModel | None = None,
        rows: Any = slice(None),
        defense: Defense | Wrapped | None = None,
    ) -> np.ndarray:
        """Run an attack under other conditions.

        Args:
            attack: another one, if not the same.
            threat: another one, if not the same.
            rows: an index of the images it is run on.
            defense: another one, if not the same.

        Returns:
            Its success on them; what is no valid adversarial image has none.
        """
        attack, threat = attack or self.attack, threat or self.threat
        defense = self.defense if defense is None else defense
        x, y = self.x[rows], self.y[rows]
        labels = ops.convert_to_tensor(y.astype(backend.label_dtype))
        given = attack(defense, ops.convert_to_tensor(x), labels, threat)
        adversarial = np.array(ops.convert_to_numpy(given), np.float32)
        images, valid, _, _ = threat.check(adversarial, x)
        return np.where(valid, defense.broken_share(images, y), 0.0)

    def more(self, gained: np.ndarray, before: np.ndarray) -> bool:
        """Say whether one success is so much above another that it is worth telling."""
        difference = float(np.sum(gained) - np.sum(before))
        return difference >= max(2, LEAST * len(self.x))


def few_images(rate: Rate) -> list[EvaluationWarning]:
    """Warn when the interval around a rate is wider than ten points to a side."""
    if (half := (rate.high - rate.low) / 2) <= 0.1:
        return []
    text = f"{rate.n} attacked images leave an interval of {200 * half:.0f} points; take more"
    return [EvaluationWarning(name="few-images", text=text)]


def of_rates(verdict: Verdict) -> list[EvaluationWarning]:
    """Warn of what a verdict's figures alone say.

    Args:
        verdict: the verdict.
    """
    warnings = some_draw(verdict.success[verdict.attacked], verdict.about.draws)
    return warnings + few_images(verdict.success_rate)


def some_draw(success: np.ndarray, draws: int) -> list[EvaluationWarning]:
    """Warn when far more images are broken in some draw than in the mean one.

    Args:
        success: the shares of draws in which images are broken, [N].
        draws: how many there were.
    """
    if not len(success) or np.mean(success > 0) - np.mean(success) < DRAWS_APART:
        return []
    some, mean = _percent(success > 0), _percent(success)
    text = f"{some} are broken in one of {draws} draws or more, {mean} in the mean draw"
    return [EvaluationWarning(name="some-draw", text=text)]


def look(attempt: Attempt, transfer_from: Defense | None = None) -> list[EvaluationWarning]:
    """Look for signs that what an attack came to should be distrusted.

    Args:
        attempt: the attack and what it came to.
        transfer_from: another defense, whose adversarial images are tried too.

    Returns:
        The warnings, but the one about few images.
    """
    warnings: list[EvaluationWarning] = []
    if not attempt.more(np.ones(len(attempt.x)), attempt.success):
        return warnings  # success is so high that it cannot be much too low
    try:
        for name, text in _signs(attempt, transfer_from):
            warnings.append(EvaluationWarning(name=name, text=text))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a user's attack raises under other conditions
        text = f"under other conditions the attack raised {printable(told(error))}"
        warnings.append(EvaluationWarning(name="check-failed", text=text))
    return warnings


def _signs(attempt: Attempt, transfer_from: Defense | None) -> Iterator[Sign]:
    """What to warn of, in the order of the checks; each is run when the one before has been."""
    defense, x, success = attempt.defense, attempt.x, attempt.success
    one_draw = len(seeds := asked(defense)) == 1 and ANY not in seeds  # before the checks ask
    at = _percent(success)
    logits = in_batches(defense.compiled(("logits",), defense.logits), x)
    if (logits >= 0).all() and np.allclose(logits.sum(axis=1), 1, atol=1e-4):
        yield "probabilities", "what the defense gives as logits are probabilities"
    if one_draw:
        text = "the defense answers at random and the attack did not average over draws"
        yield "not-averaged", text
    yield from slopes.gradients(attempt)
    if isinstance(attempt.attack, Noise):
        return
    noise = attempt.again(Noise(draws=NOISE_DRAWS))
    if attempt.more(noise, success):
        yield "noise-wins", f"random noise succeeds for {_percent(noise)}, the attack {at}"
    twice = attempt.threat.scaled(2)
    doubled = attempt.again(threat=twice)
    if attempt.more(success, doubled):
        yield "not-rising", f"success falls from {at} to {_percent(doubled)} at {twice}"
    largest = attempt.threat.unlimited(x.shape[1:])
    everything = attempt.again(threat=largest)
    if attempt.more(np.ones(len(x)), everything):
        yield "unlimited", f"with {largest} success is {_percent(everything)}, not 100 %"
    if (longer := _with_more_steps(attempt.attack)) is not None:
        improved = attempt.again(longer)
        if attempt.more(improved, success):
            text = f"{STEPS_FACTOR} times the steps raise success from {at} to "
            yield "more-steps", text + _percent(improved)
    if len(attempt.left):
        yield from slopes.still_rising(attempt)
        yield from _stronger(attempt, transfer_from)
    yield from planted.found(attempt)


def _stronger(attempt: Attempt, transfer_from: Defense | None) -> Iterator[Sign]:
    """Attacks that know less and should not break more, on the images that are left."""
    left = attempt.left
    tried: list[tuple[str, str, Attack]] = []
    if not isinstance(attempt.attack, Square):
        square = Square(queries=SQUARE_QUERIES)
        tried.append(("black-box-wins", f"{SQUARE_QUERIES} queries of the Square attack", square))
    if transfer_from is not None:
        source = PGD(loss="margin", early_stopping=False)

        def transferred(_: Any, x: Images, y: Labels, threat: ThreatModel) -> Images:
            return source(transfer_from, x, y, threat)

        images_of = f"adversarial images of {transfer_from.name}"
        tried.append(("transfer-wins", images_of, transferred))
    for name, what, attack in tried:
        broken = attempt.again(attack, rows=left)
        if attempt.more(broken, attempt.success[left]):
            rest = f"of the {len(left)} images that the attack did not"
            yield name, f"{what} break {np.sum(broken):.0f} {rest}"


def _percent(success: np.ndarray) -> str:
    return f"{100 * np.mean(success):.0f} %"


def _with_more_steps(attack: Any) -> Attack | None:
    """The attack with more steps, if it says that it has `steps`."""
    given = attack  # an Any, which is_dataclass does not narrow
    if is_dataclass(attack) and "steps" in {
        option.name for option in fields(attack) if option.init
    }:
        return replace(given, steps=STEPS_FACTOR * given.steps)
    if inspect.isfunction(attack) or isinstance(attack, partial):
        steps = inspect.signature(attack).parameters.get("steps")
        if steps is not None and isinstance(steps.default, int):
            return partial(attack, steps=STEPS_FACTOR * steps.default)
    return None

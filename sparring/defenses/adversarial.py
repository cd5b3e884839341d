"""Settings of projected gradient descent as adversarial training uses it inside a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparring.threat import Linf
from sparring.training.recipe import Settings

# Grey images on black stand larger perturbations than photographs.
ADAPTED: dict[str, dict[str, Any]] = {
    "digits": {"eps": 0.1, "step_size": 0.025},
    "fashion-mnist": {"eps": 0.1, "step_size": 0.025},
}
# Fewer epochs keep this, which takes eight to twelve times the passes of the baseline, to minutes.
TUNED: dict[str, dict[str, dict[str, Any]]] = {
    "course": {
        "digits": {"epochs": 50},
        "fashion-mnist": {"epochs": 1},
    }
}


@dataclass(frozen=True, kw_only=True)
class PgdSettings(Settings):
    """The shared settings, and the attack that images are trained under."""

    eps: float = 8 / 255  # Linf radius
    step_size: float = 2 / 255
    steps: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect("eps", 0 < self.eps <= 1, "above 0, at most 1")
        self._expect("step_size", self.step_size > 0, "a number above 0")
        self._expect("steps", self.steps >= 1, "at least 1")

    @property
    def threat(self) -> Linf:
        """The threat model that images are trained under."""
        return Linf(self.eps)

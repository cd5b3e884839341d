"""Settings of projected gradient descent as adversarial training uses it inside a step."""

from __future__ import annotations

from sparring.threat import Linf
from sparring.training.settings import Settings, Table, setting

TABLE: Table = {
    # Grey images on black stand larger perturbations than photographs.
    ("*", "digits"): {"eps": 0.1, "step_size": 0.025},
    ("*", "fashion-mnist"): {"eps": 0.1, "step_size": 0.025},
    # Fewer epochs keep this, which takes several times the passes of plain training, to minutes.
    ("course", "digits"): {"epochs": 50},
    ("course", "fashion-mnist"): {"epochs": 1},
}
"""What adversarial training by steps of a gradient wants otherwise."""


class PgdSettings(Settings):
    """The shared settings, and the attack that images are trained under."""

    eps: float = setting(8 / 255, "Linf radius of the attack", "above 0, at most 1", gt=0, le=1)
    step_size: float = setting(2 / 255, "length of its steps", "a number above 0", gt=0)
    steps: int = setting(7, "how many steps it takes", "at least 1", ge=1)

    @property
    def threat(self) -> Linf:
        """The threat model that images are trained under."""
        return Linf(self.eps)

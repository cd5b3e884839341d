"""transfer: what breaks one defense often breaks another, and is at least a good place to start.

Reference: Papernot et al. 2017, https://arxiv.org/abs/1602.02697.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
from typing_extensions import override

from sparring.attacks.ascent import Ascent
from sparring.attacks.gradients import Wrapped, unwrapped
from sparring.attacks.options import RUN, Options
from sparring.attacks.pgd import PGD
from sparring.attacks.search import arrays, best_of
from sparring.backend import ops
from sparring.defenses.defense import Defense
from sparring.errors import SettingsError, shown
from sparring.tensors import Images, Labels
from sparring.threat import ThreatModel


def _source(name: str, value: Any) -> Any:
    if isinstance(value, Defense | Wrapped | str):
        return value
    raise SettingsError(
        f"{name}: expected a defense, a wrapper around one or a run directory, got {shown(value)}"
    )


def _fine_tune(name: str, value: Any) -> Ascent:
    if isinstance(value, Ascent) and type(value).__call__ is Ascent.__call__:
        return value
    raise SettingsError(f"{name}: expected PGD(...) or APGD(...), got {shown(value)}")


@final
@dataclass(frozen=True)
class Transfer(Options):
    """Attack another defense, then go on from there on the target; the better of both is kept.

    On a target without gradients, as an ONNX file, it does not go on.

    Attributes:
        source: the other defense, a wrapper around one, or the run directory of one, which
            `sparring.evaluate` loads.
        fine_tune: PGD or APGD, with which both are attacked; on the source it takes all its steps.

    Raises:
        SettingsError: for wrong values.
    """

    source: Any = field(metadata={"read": _source, RUN: True})
    fine_tune: Any = field(
        default=PGD(steps=100, loss="margin", momentum=0.75), metadata={"read": _fine_tune}
    )
    weights_sha256: str | None = field(init=False, default=None)
    """Of a loaded source: which weights, since others are another attack."""

    @override
    def __post_init__(self) -> None:
        """Check the options, and note the weights of the source."""
        super().__post_init__()
        if not isinstance(self.source, str):
            weights = unwrapped(self.source)[0].weights_sha256
            object.__setattr__(self, "weights_sha256", weights)

    def __call__(self, defense: Any, x: Images, y: Labels, threat: ThreatModel) -> np.ndarray:
        """Give adversarial images float32 [B, H, W, C] of images x and labels y [B]."""
        if isinstance(self.source, str):
            raise SettingsError(f"source: {self.source} is not loaded; give sparring.load(...)")
        if self.source.info.shape != defense.info.shape:
            raise SettingsError(
                f"source: expected a defense of images {list(defense.info.shape)}, got one of "
                f"images {list(self.source.info.shape)}"
            )
        images, labels = arrays(x, y)
        # The farther into another class, the likelier the target has it for one too.
        through = replace(self.fine_tune, early_stopping=False)
        points = through(self.source, x, y, threat)

        def tuned(rows: np.ndarray) -> np.ndarray:
            return self.fine_tune.climb(
                *(defense, ops.convert_to_tensor(images[rows])),
                *(ops.convert_to_tensor(labels[rows]), threat, points[rows]),
            )

        ways = [lambda rows: points[rows], tuned]
        return best_of(ways if defense.gradients else ways[:1], defense, images, labels)

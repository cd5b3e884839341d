"""What a training tells of itself, and to whom; free of any framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch came to; a line of metrics.jsonl.

    `network` counts from 0, `epoch` from 1. `loss` and `accuracy` are means over the augmented
    training images with the raw weights as they changed, `loss` with weight decay's term;
    `test_accuracy` is of the EMA weights, None where it was not asked for; `learning_rate` is the
    last step's; `seconds` covers training, not testing.
    """

    network: int
    epoch: int
    loss: float
    accuracy: float
    test_accuracy: float | None
    learning_rate: float
    images_per_second: float
    seconds: float


class Progress(Protocol):
    """Who is told how training goes: a terminal, a log, a test."""

    def begin(self, network: int, networks: int, epoch: int, epochs: int, steps: int) -> None:
        """A network's training starts after `epoch` of `epochs`, of `steps` steps each."""

    def step(self, step: int, loss: float) -> None:
        """Losses up to `step` of the running epoch were looked at; `loss` is the last."""

    def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None:
        """An epoch ended and is saved."""

    def message(self, text: str) -> None:
        """Something the user should know."""


class Silent:
    """The Progress that tells nobody."""

    def begin(self, network: int, networks: int, epoch: int, epochs: int, steps: int) -> None: ...
    def step(self, step: int, loss: float) -> None: ...
    def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None: ...
    def message(self, text: str) -> None: ...

"""What a training tells of itself, and to whom; free of any framework."""

from __future__ import annotations

from typing import Protocol

from sparring.runs.records import EpochMetrics as EpochMetrics


class Callback(Protocol):
    """Who is told how training goes: a terminal, a log, a notebook, a test."""

    def begin(self, network: int, networks: int, epoch: int, epochs: int, steps: int) -> None:
        """Called when the training of a network starts or goes on.

        Args:
            network: which one, counted from 0.
            networks: how many the defense has.
            epoch: epochs that are done.
            epochs: epochs in all.
            steps: steps of an epoch.
        """

    def step(self, step: int, loss: float) -> None:
        """Called when losses of the running epoch were looked at.

        Args:
            step: the last of them, counted from 1.
            loss: its loss.
        """

    def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None:
        """Called when an epoch ended and is saved.

        Args:
            metrics: what it came to.
            seconds_left: time that the network's other epochs will take.
        """

    def message(self, text: str) -> None:
        """Called with a sentence that the user should know."""


class Silent:
    """A callback that tells nobody."""

    def begin(self, network: int, networks: int, epoch: int, epochs: int, steps: int) -> None:
        """Tell nobody; as are all."""

    def step(self, step: int, loss: float) -> None:
        """Tell nobody."""

    def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None:
        """Tell nobody."""

    def message(self, text: str) -> None:
        """Tell nobody."""

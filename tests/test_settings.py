"""Settings: what is refused, with which message."""

from __future__ import annotations

from typing import Any

import pytest

from sparring.errors import SettingsError
from sparring.recipe import Settings
from sparring.seeds import Stream, spread


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"filters": 0}, "filters: expected at least 1, got 0"),
        ({"filters": 2.5}, "filters: expected int, got 2.5"),
        ({"filters": True}, "filters: expected int, got True"),
        ({"filters": "64"}, "filters: expected int, got '64'"),
        ({"head_size": 2}, "head_size: expected 1 or 3, got 2"),
        ({"epochs": 0}, "epochs: expected at least 1"),
        ({"batch_size": -1}, "batch_size: expected at least 1"),
        ({"learning_rate": 0}, "learning_rate: expected a number above 0, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate: expected a number above 0, got nan"),
        ({"learning_rate": float("inf")}, "learning_rate: expected a number above 0"),
        ({"momentum": 1}, "momentum: expected 0 or more, below 1"),
        ({"weight_decay": -1e-4}, "weight_decay: expected 0 or more"),
        ({"ema_decay": 1.0}, "ema_decay: expected 0 or more, below 1"),
        (
            {"optimizer": "mouon"},
            "unknown optimizer 'mouon'. Did you mean 'muon'? Valid: sgd, muon",
        ),
        ({"schedule": "step"}, "unknown schedule 'step'. Valid: cosine, linear"),
        ({"initializer": "zeros"}, "unknown initializer 'zeros'. Valid: glorot, he"),
        ({"precision": "float16"}, "Valid: float32, bfloat16"),
        ({"flip": "yes"}, "flip: expected bool | None, got 'yes'"),
        ({"lerning_rate": 1}, "unknown setting 'lerning_rate'. Did you mean 'learning_rate'?"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings().replace(**wrong)
    assert message in str(caught.value)


def test_integers_are_taken_for_floats() -> None:
    assert Settings(learning_rate=1).learning_rate == 1.0
    assert isinstance(Settings(learning_rate=1).learning_rate, float)


def test_seeds_are_spread() -> None:
    seeds = {
        spread(seed, stream, place)
        for seed in range(10)
        for stream in Stream
        for place in range(10)
    }
    assert len(seeds) == 10 * len(Stream) * 10
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert spread(0, Stream.ORDER) != spread(0, Stream.ORDER, 0)

"""Settings: what is refused, with which message."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparring.defenses.adversarial import ADAPTED, TUNED, PgdSettings
from sparring.errors import SettingsError
from sparring.randomness import Stream, spread
from sparring.training.recipe import Settings


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
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"learning_rate": 0}, "learning_rate: expected a number above 0, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate: expected a number above 0, got nan"),
        ({"learning_rate": float("inf")}, "learning_rate: expected a number above 0"),
        ({"learning_rate": -0.1}, "learning_rate: expected a number above 0, got -0.1"),
        ({"learning_rate": True}, "learning_rate: expected float, got True"),
        ({"momentum": 1}, "momentum: expected 0 or more, below 1"),
        ({"momentum": -0.1}, "momentum: expected 0 or more, below 1, got -0.1"),
        ({"weight_decay": -1e-4}, "weight_decay: expected 0 or more"),
        ({"weight_decay": float("inf")}, "weight_decay: expected 0 or more, got inf"),
        ({"weight_decay": float("nan")}, "weight_decay: expected 0 or more, got nan"),
        ({"ema_decay": 1.0}, "ema_decay: expected 0 or more, below 1"),
        ({"ema_decay": -0.1}, "ema_decay: expected 0 or more, below 1, got -0.1"),
        ({"head_size": 5}, "head_size: expected 1 or 3, got 5"),
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


def test_values_at_the_ends_of_their_ranges_are_taken() -> None:
    ends: dict[str, Any] = {
        "filters": 1,
        "head_size": 3,
        "epochs": 1,
        "batch_size": 1,
        "learning_rate": 5.0,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "ema_decay": 0.0,
        "optimizer": "muon",
        "schedule": "linear",
        "initializer": "he",
        "flip": True,
        "precision": "bfloat16",
    }
    assert Settings().replace(**ends).as_json() == ends


def test_defaults_are_the_course_s() -> None:
    assert Settings().as_json() == {
        "filters": 64,
        "head_size": 1,
        "epochs": 100,
        "batch_size": 64,
        "optimizer": "sgd",
        "schedule": "cosine",
        "initializer": "glorot",
        "learning_rate": 0.03,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "ema_decay": 0.999,
        "flip": None,
        "precision": "float32",
    }


# What 250 epochs of batches of 67 with 71 filters at rate 0.04 come to, worked out by hand with
# quotients rounded down: 71 / 2 = 35.5, 71 / 4 = 17.75, 67 / 4 = 16.75, 67 / 2 = 33.5. The fast
# preset has a rate of its own, 0.05. None of these numbers is one of the defaults.
SCALED = {
    ("course", "cifar10"): (71, 250, 67, 0.04),
    ("course", "digits"): (35, 250, 16, 0.08),
    ("course", "fashion-mnist"): (17, 10, 33, 0.04),
    ("fast", "cifar10"): (71, 25, 67, 0.05),
    ("fast", "digits"): (35, 50, 16, 0.05),
    ("fast", "fashion-mnist"): (17, 2, 67, 0.05),
}


@pytest.mark.parametrize(("preset", "dataset"), list(SCALED))
def test_settings_scaled_to_a_data_set(preset: str, dataset: str) -> None:
    own = Settings(filters=71, epochs=250, batch_size=67, learning_rate=0.04, momentum=0.8)
    scaled = own.scaled_to(dataset, preset)
    filters, epochs, batch_size, rate = SCALED[preset, dataset]
    learning = {"optimizer": "muon", "schedule": "linear", "initializer": "he"}
    expected = own.replace(
        filters=filters,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=rate,
        **(learning if preset == "fast" else {}),
    )
    assert scaled == expected
    if preset == "course":
        assert own.scaled_to(dataset) == expected


def test_quotients_are_rounded_down_but_to_no_less_than_1() -> None:
    # 259 epochs are 10.36, 51.8 and 2.59 times 25, 5 and 100; batches of 67 by 4 are 16.75.
    many = Settings(epochs=259)
    assert many.scaled_to("fashion-mnist").epochs == 10
    assert many.scaled_to("digits", "fast").epochs == 51
    assert many.scaled_to("fashion-mnist", "fast").epochs == 2
    least = Settings(filters=1, epochs=1, batch_size=1)
    for preset in ("course", "fast"):
        for dataset in ("digits", "fashion-mnist", "cifar10"):
            scaled = least.scaled_to(dataset, preset)
            assert (scaled.filters, scaled.epochs, scaled.batch_size) == (1, 1, 1)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"unknown preset 'quick'\. Valid: course, fast"):
        Settings().scaled_to("digits", "quick")


def test_settings_of_a_defense_have_names_of_their_own() -> None:
    assert PgdSettings.names() == [*Settings.names(), "eps", "step_size", "steps"]
    changed = PgdSettings().replace(steps=3)
    assert isinstance(changed, PgdSettings)
    assert changed == PgdSettings(steps=3)
    with pytest.raises(SettingsError, match="unknown setting 'eps'"):
        Settings().replace(eps=0.1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"eps": 0}, "eps: expected above 0, at most 1, got 0.0"),
        ({"eps": 1.01}, "eps: expected above 0, at most 1, got 1.01"),
        ({"eps": float("nan")}, "eps: expected above 0"),
        ({"step_size": 0}, "step_size: expected a number above 0, got 0.0"),
        ({"step_size": -0.1}, "step_size: expected a number above 0"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"steps": 1.5}, "steps: expected int, got 1.5"),
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),  # one of the shared settings
    ],
)
def test_wrong_settings_of_an_attack_in_training_are_refused(
    wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        PgdSettings().replace(**wrong)
    assert message in str(caught.value)


def test_settings_of_the_attack_in_training() -> None:
    settings = PgdSettings()
    assert (settings.eps, settings.step_size, settings.steps) == (8 / 255, 2 / 255, 7)
    ends = PgdSettings(eps=1, steps=1)
    assert (ends.eps, ends.steps) == (1, 1)
    # Gray images on black are trained under a larger perturbation, and for fewer epochs.
    larger = {"eps": 0.1, "step_size": 0.025}
    assert {"digits": larger, "fashion-mnist": larger} == ADAPTED
    assert TUNED == {"course": {"digits": {"epochs": 50}, "fashion-mnist": {"epochs": 1}}}


def test_seeds_are_those_of_numpy_s_seed_sequence() -> None:
    # A stream's number, once given, is never reused: other numbers would be other trainings.
    streams = ["WEIGHTS", "ORDER", "AUGMENTATION", "NETWORK", "PATTERNS", "DRAWS", "JUDGE"]
    assert [stream.name for stream in Stream] == streams
    for number, name in enumerate(streams):
        sequence = np.random.SeedSequence(7, spawn_key=(number, 3, 5))
        [word] = sequence.generate_state(1)
        assert spread(7, Stream[name], 3, 5) == int(word) // 2  # the upper 31 of 32 bits
    assert spread(7, Stream.ORDER, 3, 5) != spread(7, Stream.ORDER, 5, 3)
    assert spread(7, Stream.ORDER, 3) != spread(8, Stream.ORDER, 3)

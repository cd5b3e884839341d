"""Settings: what is refused, with which message."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparring import data
from sparring.data import Dataset
from sparring.defenses import DEFENSES, get
from sparring.defenses.adversarial import TABLE, PgdSettings
from sparring.errors import SettingsError
from sparring.randomness import Stream, spread
from sparring.training.settings import Settings, Table, check_table, resolve


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"filters": 0}, "filters: expected from 1 to 4096, got 0"),
        ({"filters": 2.5}, "filters: expected an integer, from 1 to 4096, got 2.5"),
        ({"filters": True}, "filters: expected an integer, from 1 to 4096, got True"),
        ({"filters": "64"}, "filters: expected an integer, from 1 to 4096, got '64'"),
        ({"head_size": 2}, "head_size: expected 1 or 3, got 2"),
        ({"epochs": 0}, "epochs: expected at least 1"),
        ({"batch_size": -1}, "batch_size: expected at least 1"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"learning_rate": 0}, "learning_rate: expected a number above 0, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate: expected a number above 0, got nan"),
        ({"learning_rate": float("inf")}, "learning_rate: expected a number above 0"),
        ({"learning_rate": -0.1}, "learning_rate: expected a number above 0, got -0.1"),
        ({"learning_rate": True}, "learning_rate: expected a number above 0, got True"),
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
        ({"flip": "yes"}, "flip: expected true or false, got 'yes'"),
        ({"head_size": 2**70}, "head_size: expected 1 or 3, got 1180591620717411303424"),
        ({"precision": "\ud800"}, "unknown precision '\\ud800'. Valid: float32, bfloat16"),
        ({"filters": None, "\ud800": 1}, "unknown setting '\\ud800'. Valid: filters"),
        ({"epochs": "9" * 10**6}, f"epochs: expected an integer, at least 1, got '{'9' * 76}..."),
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


# Recorded from the program as it was when settings were scaled by factors; {} are the defaults. A
# user's file, "mine", is taken as CIFAR-10.
RESOLVED: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("resolved_settings.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("place", RESOLVED)
def test_settings_by_defense_preset_and_data_set(
    make_dataset: Callable[..., Dataset], place: str
) -> None:
    name, preset, data = place.split()
    key = None if data == "mine" else data
    dataset = dataclasses.replace(make_dataset(), name=data, key=key)
    settings = get(name).settings_for(dataset, preset).settings
    defaults = get(name).settings_class(flip=False)
    assert settings == defaults.replace(**RESOLVED[place])
    assert type(settings) is get(name).settings_class


def test_every_defense_s_settings_are_recorded() -> None:
    recorded = {place.split()[0] for place in RESOLVED}
    assert recorded <= set(DEFENSES)
    assert len(recorded) == 15
    assert len(RESOLVED) == 15 * 2 * 4


def test_a_user_s_file_gets_no_settings_of_a_data_set_by_its_name(
    make_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    made = make_dataset()
    arrays = {key: getattr(made, key) for key in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(tmp_path / "digits.npz", **arrays)
    mine = data.load(str(tmp_path / "digits.npz"))
    assert mine.name == "digits"
    resolved = get("temperature").settings_for(mine)
    assert resolved.settings == get("temperature").course_settings.replace(flip=True)
    assert not [origin for origin in resolved.origins.values() if "digits" in origin]
    built_in = get("temperature").settings_for(data.load("digits"))
    assert (built_in.settings.filters, built_in.settings.flip) == (32, False)


OWN: Table = {
    ("*", "*"): {"filters": 1, "epochs": 1, "batch_size": 1, "momentum": 0.1},
    ("fast", "*"): {"filters": 2, "epochs": 2, "batch_size": 2},
    ("*", "digits"): {"filters": 3, "epochs": 3},
    ("fast", "digits"): {"filters": 4},
}


def test_the_most_specific_place_wins_and_says_so() -> None:
    found = resolve(Settings, {"own": OWN}, "fast", {"ema_decay": 0.5}, key="digits", mirror=False)
    expected = {
        "filters": (4, "own for the fast preset on digits"),
        "epochs": (3, "own for digits"),
        "batch_size": (2, "own for the fast preset"),
        "momentum": (0.1, "own"),
        "learning_rate": (0.05, "the shared table for the fast preset"),
        "ema_decay": (0.5, "given"),
        "flip": (False, "the data set: mirrored images lose their class"),
        "weight_decay": (1e-4, "the default"),
    }
    for name, (value, origin) in expected.items():
        assert (getattr(found.settings, name), found.origins[name]) == (value, origin)
    assert list(found.origins) == Settings.names()
    other = resolve(Settings, {"own": OWN}, "course", {"filters": 9})
    assert (other.settings.filters, other.settings.epochs, other.settings.flip) == (9, 1, None)
    shared = resolve(Settings, {}, key="digits")
    assert shared.origins["learning_rate"] == "the shared table for the course preset on digits"
    assert shared.origins["filters"] == "the shared table for digits"
    told = resolve(Settings, {}, given={"flip": True}, mirror=False)
    assert (told.settings.flip, told.origins["flip"]) == (True, "given")


def test_unknown_presets_and_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"unknown preset 'quick'\. Valid: course, fast"):
        resolve(Settings, {}, "quick")
    with pytest.raises(SettingsError, match="unknown setting 'eps'"):
        resolve(Settings, {}, given={"eps": 0.1})
    with pytest.raises(SettingsError, match="epochs: expected at least 1, got 0"):
        resolve(Settings, {}, given={"epochs": 0})
    with pytest.raises(SettingsError, match="unknown preset 'quick'"):
        check_table(Settings, {("quick", "*"): {}})
    with pytest.raises(SettingsError, match="unknown setting 'filter'"):
        check_table(Settings, {("*", "digits"): {"filter": 1}})


def test_every_setting_has_a_line_of_help() -> None:
    for defense in DEFENSES.values():
        lines = defense.settings_class.help()
        assert list(lines) == defense.settings_class.names()
        assert all(5 < len(line) < 90 for line in lines.values())
    assert Settings.help()["filters"] == "width of the first convolution (from 1 to 4096)"
    assert Settings.help()["optimizer"] == "what makes steps of gradients (sgd or muon)"


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
        ({"steps": 1.5}, "steps: expected an integer, at least 1, got 1.5"),
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
    assert {
        ("*", "digits"): larger,
        ("*", "fashion-mnist"): larger,
        ("course", "digits"): {"epochs": 50},
        ("course", "fashion-mnist"): {"epochs": 1},
    } == TABLE


def test_seeds_are_those_of_numpy_s_seed_sequence() -> None:
    # A stream's number, once given, is never reused: other numbers would be other trainings.
    streams = ["WEIGHTS", "ORDER", "AUGMENTATION", "NETWORK", "PATTERNS", "DRAWS", "JUDGE", "TASK"]
    assert [stream.name for stream in Stream] == streams
    for number, name in enumerate(streams):
        sequence = np.random.SeedSequence(7, spawn_key=(number, 3, 5))
        [word] = sequence.generate_state(1)
        assert spread(7, Stream[name], 3, 5) == int(word) // 2  # the upper 31 of 32 bits
    assert spread(7, Stream.ORDER, 3, 5) != spread(7, Stream.ORDER, 5, 3)
    assert spread(7, Stream.ORDER, 3) != spread(8, Stream.ORDER, 3)


# What of each kind of wrong value some setting takes, and rightly so.
TAKEN = {
    ("flip", True), ("flip", None), ("momentum", 0), ("weight_decay", 0), ("ema_decay", 0),
    ("radius", 0), ("beta", 0),
}  # fmt: skip
WRONG: tuple[Any, ...] = (
    float("nan"),
    float("inf"),
    -1,
    -0.5,
    0,
    10**12,
    1e300,
    "x",
    "0.1",
    True,
    None,
    [],
    {},
)


@pytest.mark.parametrize("name", DEFENSES)
def test_every_setting_of_every_defense_refuses_what_it_cannot_be(name: str) -> None:
    kind = DEFENSES[name].settings_class
    taken = set()
    for setting in kind.names():
        for wrong in WRONG:
            try:
                kind(**{setting: wrong})
            except SettingsError as error:
                text = str(error)
                assert f"{setting}: expected " in text or f"unknown {setting}" in text, text
                assert not {"Input", "bool", "None |"} & set(text.split("got")[0].split()), text
            else:
                taken.add((setting, wrong))
    large = {(setting, 10**12) for setting in kind.names()}
    assert taken - large <= TAKEN
    floats = {each for each, field in kind.model_fields.items() if field.annotation is float}
    assert {setting for setting, _ in taken & large} <= floats


def test_numbers_of_numpy_are_settings() -> None:
    given = Settings(epochs=np.int64(3), learning_rate=np.float32(0.5), flip=np.bool_(True))
    assert given == Settings(epochs=3, learning_rate=0.5, flip=True)
    assert {type(value) for value in (given.epochs, given.learning_rate)} == {int, float}
    with pytest.raises(SettingsError, match="epochs: expected at most 2147483647, got 2147483648"):
        Settings(epochs=2**31)

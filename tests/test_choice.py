"""Which backend a process runs on; neither importing nor running changes its environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sparring.backend import choice
from sparring.errors import SettingsError, SparringError


def asked(code: str, folder: Path, **environment: str) -> Any:
    """What a new process prints as JSON; keras itself would take tensorflow there."""
    (folder / "keras.json").write_text(json.dumps({"backend": "tensorflow"}))
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL")
    }
    result = subprocess.run(
        [sys.executable, "-c", f"import json, os, sys\n{code}"],
        env={**inherited, "KERAS_HOME": str(folder), **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


# Any of the modules may be what a user's script imports first.
@pytest.mark.parametrize(
    "first",
    ["import sparring; sparring.Linf", "import sparring.attacks", "import sparring.randomness",
     "from sparring.networks.augment import shift_flip", "import sparring.training.muon"],
)  # fmt: skip
def test_the_first_installed_is_taken_and_the_environment_stays(first: str, tmp_path: Path) -> None:
    code = (
        "before = dict(os.environ)\n"
        "import sparring\n"
        "lazy = 'keras' not in sys.modules\n"
        f"{first}\n"
        "from sparring import backend\n"
        "backend.compile, backend.conv2d\n"
        "import keras\n"
        "same = dict(os.environ) == before\n"
        "print(json.dumps([lazy, backend.name, keras.backend.backend(), same]))"
    )
    expected = choice.installed()[0]
    assert asked(code, tmp_path) == [True, expected, expected, True]


def test_who_says_which_backend(tmp_path: Path) -> None:
    code = (
        "from sparring.backend import choice, name\n"
        "print(json.dumps([name, choice.default(), os.environ['KERAS_BACKEND']]))"
    )
    assert asked(code, tmp_path, KERAS_BACKEND="jax") == ["jax", "jax", "jax"]
    chosen = (
        "from sparring.backend import choice\n"
        "assert choice.choose('jax') == 'jax' == choice.default()\n"
        "assert choice.choose() == 'jax'\n"
        "assert 'keras' not in sys.modules\n"
        "from sparring import backend\n"
        "print(json.dumps([backend.name, os.environ['KERAS_BACKEND']]))"
    )
    assert asked(chosen, tmp_path, KERAS_BACKEND="torch") == ["jax", "torch"]
    running = "import keras\nfrom sparring import backend\nprint(json.dumps(backend.name))"
    assert asked(running, tmp_path, KERAS_BACKEND="jax") == "jax"


def test_variables_are_put_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARRING_ONE", "before")
    monkeypatch.delenv("SPARRING_TWO", raising=False)
    with suppress(KeyError), choice.environment(SPARRING_ONE="in", SPARRING_TWO="in"):
        assert (os.environ["SPARRING_ONE"], os.environ["SPARRING_TWO"]) == ("in", "in")
        raise KeyError
    assert os.environ["SPARRING_ONE"] == "before"
    assert "SPARRING_TWO" not in os.environ
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    with choice.quiet_tensorflow():
        assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"  # as the user wants it
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    with choice.quiet_tensorflow():
        assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "2"


def test_wrong_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_told", {})
    monkeypatch.delitem(sys.modules, "keras")
    with pytest.raises(SettingsError, match=r"unknown backend 'trch'\. Did you mean 'torch'"):
        choice.choose("trch")
    monkeypatch.setenv("KERAS_BACKEND", "trch")
    with pytest.raises(SettingsError, match="unknown backend 'trch'"):
        choice.choose()
    monkeypatch.setattr(choice, "installed", lambda: ["torch"])
    with pytest.raises(SettingsError, match=r"'jax' is not installed: pip install '.*\[jax\]"):
        choice.choose("jax")
    monkeypatch.delenv("KERAS_BACKEND")
    assert choice.default() == "torch"
    assert choice.choose() == "torch"
    monkeypatch.setattr(choice, "installed", list)
    with pytest.raises(SparringError, match="no backend is installed"):
        choice.choose()
    monkeypatch.undo()
    others = [name for name in choice.NAMES if name != choice.default()]
    with pytest.raises(SettingsError, match=f"runs keras on {choice.default()} already"):
        choice.choose(others[0])


def test_names_that_no_backend_has() -> None:
    from sparring import backend

    with pytest.raises(AttributeError, match="has no attribute 'compile_all'"):
        _ = backend.compile_all

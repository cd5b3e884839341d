"""Attacks of a user's own: files that are no attacks, and errors that tell where they came from."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path
from traceback import FrameSummary
from typing import Any, cast

import numpy as np
import pytest

import sparring
from sparring import attacks, usercode
from sparring.attacks import BPDA, PGD, unwrapped
from sparring.data import Dataset
from sparring.errors import AttackError, SettingsError, shown, told
from sparring.evaluation.evaluate import describe
from sparring.threat import Linf
from tests.conftest import Linear


def written(folder: Path, text: str) -> Path:
    file = folder / "mine.py"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "x = 1",
            r": expected a function attack\(defense, x, y, threat\) or a class Attack in it$",
        ),
        ("\n1 / 0", r": ZeroDivisionError: division by zero \(.*mine\.py, line 2\)$"),
        ("import nowhere_at_all", r"No module named 'nowhere_at_all' \(.*mine\.py, line 1\)$"),
        ("def f():\n    1 / 0\n\nf()", r"ZeroDivisionError: .* \(.*mine\.py, line 2\)$"),
        ("import json\njson.loads('{')", r"JSONDecodeError: .* \(.*mine\.py, line 2\)$"),
        ("def attack(:", r": SyntaxError: .*\(mine\.py, line 1\)$"),
        ("a = 1\n  b = 2", r": IndentationError: .*\(mine\.py, line 2\)$"),
        ("a = '\0'", ": (SyntaxError|ValueError): "),
        ("import sys\nsys.exit(3)", r": SystemExit: 3 \(.*mine\.py, line 2\)$"),
        ("exit()", r": SystemExit"),
        ("raise BaseException('mine')", r": BaseException: mine \(.*mine\.py, line 1\)$"),
        (
            "class Attack:\n    def __init__(self):\n        raise GeneratorExit",
            r": Attack: GeneratorExit \(.*mine\.py, line 3\)$",
        ),
        ("raise SystemExit", r": SystemExit \(.*mine\.py, line 1\)$"),
        ("attack = 3", ": expected a function attack"),
        ("attack = dict", r": attack: expected a function attack.*, got \{\}$"),
        ("attack = list", r": attack: expected a function attack.*, got \[\]$"),
        ("attack = type", r": attack: TypeError: type\(\) takes 1 or 3 arguments$"),
        ("import math\nattack = math.hypot", None),  # what is in C may not tell its arguments
        ("def attack(x, y):\n    return x", r"got attack\(x, y\): too many positional arguments$"),
        ("def attack():\n    return 1", r"got attack\(\): too many positional arguments$"),
        ("def attack(d, x, y, t, steps):\n    return x", "missing a required argument: 'steps'$"),
        ("attack = lambda *them: them[1]", None),
        ("def attack(d, x, y, t, steps=3, *more, **options):\n    return x", None),
        ("class Attack:\n    pass", r": Attack: expected a function attack.*, got <"),
        (
            "class Attack:\n    def __call__(self, x):\n        return x",
            r"Attack: expected a function attack.*, got Attack\(x\): too many",
        ),
        (
            "class Attack:\n    def __init__(self, steps, size=1):\n        pass",
            r"^Attack: expected a value for steps, got none; give an option \(-o steps=\.\.\.\)",
        ),
        (
            "class Attack:\n    def __init__(self):\n        raise KeyError('mine')",
            r": Attack: KeyError: 'mine' \(.*mine\.py, line 3\)$",
        ),
        (
            "class Attack:\n    def __init__(self):\n        raise SystemExit(3)",
            r": Attack: SystemExit: 3 \(.*mine\.py, line 3\)$",
        ),
        (
            "class E(Exception):\n    def __str__(self):\n        raise E\nraise E",
            r": E: its message cannot be shown \(.*mine\.py, line 4\)$",
        ),
        (
            "class Attack:\n    def __repr__(self):\n        1 / 0",
            r": Attack: expected a function attack.*, got <Attack>$",
        ),
        ("def __getattr__(name):\n    1 / 0", ": expected a function attack"),
        ("from sparring import PGD\nattack = PGD(steps=0)", r"SettingsError: steps: .* line 2\)$"),
        ("from sparring import PGD\nattack = PGD", None),
        ("from sparring import PGD as Attack", None),
    ],
)
def test_a_file_is_an_attack_or_told_what_is_wrong(
    tmp_path: Path, text: str, message: str | None
) -> None:
    file = written(tmp_path, text)
    if message is None:
        assert callable(attacks.get(file))
        return
    with pytest.raises((AttackError, SettingsError), match=message) as caught:
        attacks.get(file)
    assert str(caught.value).startswith((f"{file}: ", "Attack: "))
    assert "sparring/attacks" not in str(caught.value)


def test_what_is_no_python_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "mine.txt").write_text("x = 1")
    (tmp_path / "latin.py").write_bytes(b"attack = '\xe9'")
    for name, message in [
        ("none.py", "none.py: no such file; expected a Python file that defines attack"),
        ("folder.py", "folder.py: a folder; expected a Python file"),
        ("latin.py", "latin.py: SyntaxError: "),
        ("none\ud800.py", ".py: no such file"),
        ("none\0.py", ".py: no such file"),
    ]:
        with pytest.raises(AttackError) as caught:
            attacks.get(tmp_path / name)
        assert message in str(caught.value)
    with pytest.raises(SettingsError, match=r"unknown attack '.*mine\.txt'.* ending in \.py"):
        attacks.get(tmp_path / "mine.txt")


def test_ctrl_c_in_a_file_passes(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        attacks.get(written(tmp_path, "raise KeyboardInterrupt"))


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        ("BaseException('mine')", "BaseException: mine (mine.py, line 3)"),
        ("asyncio.CancelledError", "CancelledError (mine.py, line 3)"),
        ("ValueError('x' * 10**6)", f"ValueError: {'x' * 10_000}... (mine.py, line 3)"),
    ],
)
def test_whatever_an_attack_raises_is_told(
    linear: Linear, grays: Dataset, tmp_path: Path, raised: str, told: str
) -> None:
    text = f"import asyncio\ndef attack(defense, x, y, threat):\n    raise {raised}\n"
    attack = attacks.get(written(tmp_path, text))
    with pytest.raises(AttackError) as caught:
        sparring.evaluate(linear, attack, Linf(0.1), grays, 2)
    message = str(caught.value).replace(f"{tmp_path}/", "")
    assert message == f"the attack attack raised {told}"


def test_an_attack_whose_class_does_not_tell_its_name(tmp_path: Path) -> None:
    text = (
        "class Kind(type):\n    @property\n    def __name__(self):\n        1 / 0\n"
        "class Attack(metaclass=Kind):\n    def __call__(self, d, x, y, t):\n        return x"
    )
    assert describe(attacks.get(written(tmp_path, text))) == "Attack"


def test_a_class_takes_what_it_needs_as_options(tmp_path: Path) -> None:
    text = (
        "class Attack:\n    def __init__(self, steps, size=1):\n        self.it = steps, size\n"
        "    def __call__(self, defense, x, y, threat):\n        return self.it\n"
    )
    made: Any = attacks.get(written(tmp_path, text), {"steps": 3})
    assert made.it == (3, 1)
    with pytest.raises(SettingsError, match=r"unknown option of the attack 'step'.*steps, size"):
        attacks.get(written(tmp_path, text), {"step": 3})


# What an attack raises while it runs


@pytest.fixture
def grays() -> Dataset:
    x = np.full((3, 8, 8, 1), 128, np.uint8)
    return Dataset("linear", x, np.ones(3, int), x, np.ones(3, int), ("a", "b"))


def evaluated(linear: Linear, grays: Dataset, attack: Any, **options: Any) -> Any:
    return sparring.evaluate(linear, attack, Linf(0.1), grays, 3, check=False, **options)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    return x[0] / []", r"raised TypeError: .* \(.*mine\.py, line 5\)$"),
        ("    return np.zeros(3).reshape(2, 2)", r"raised ValueError: .* \(.*mine\.py, line 5\)$"),
        ("    x = 1\n    return helper(defense)", r"raised KeyError: 'k' \(.*mine\.py, line 3\)$"),
        (
            "    return sparring.gradient(\n        lambda x: helper(x), x)",
            r"raised KeyError: 'k' \(.*mine\.py, line 3\)$",
        ),
        ("    return defense.classify(3)", r"raised DataError: .* \(.*mine\.py, line 5\)$"),
        ("    return sparring.PGD(steps=0)", r"raised SettingsError: .* \(.*mine\.py, line 5\)$"),
        (
            "    return sparring.EOT(x)",
            r"raised SettingsError: defense: .* \(.*mine\.py, line 5\)$",
        ),
        ("    raise SystemExit(3)", r"raised SystemExit: 3 \(.*mine\.py, line 5\)$"),
        ("    exec('1 / 0')", r"raised ZeroDivisionError: .* \(<string>, line 1\)$"),
    ],
)
def test_an_error_names_the_user_s_own_line(
    linear: Linear, grays: Dataset, tmp_path: Path, body: str, message: str
) -> None:
    text = (
        "import numpy as np, sparring\ndef helper(x):\n    return {}['k']\n"
        f"def attack(defense, x, y, threat):\n{body}\n"
    )
    with pytest.raises(AttackError, match=f"^the attack attack {message}") as caught:
        evaluated(linear, grays, str(written(tmp_path, text)))
    assert caught.value.__cause__ is not None  # with the whole traceback


def test_an_error_of_ours_without_a_user_s_line_names_the_last(
    linear: Linear, grays: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Linear, "logits", None)
    monkeypatch.setattr(Linear, "classify", lambda *_: np.array([[0.0, 1]] * 3))
    with pytest.raises(AttackError, match=r"raised TypeError: .*attacks/ascent\.py, line \d+\)$"):
        evaluated(linear, grays, PGD(steps=2))


class Named:
    """Whatever its own code gives, its attack has a name in one line."""

    def __init__(self, words: str) -> None:
        self.words = words

    def __repr__(self) -> str:
        return self.words

    def __call__(self, defense: Any, x: Any, y: Any, threat: Any) -> Any:
        return x


def test_an_attack_is_described_in_one_line_whatever_its_name(
    linear: Linear, grays: Dataset, tmp_path: Path
) -> None:
    class Raising:
        def __repr__(self) -> str:
            raise ArithmeticError

    def attack(defense: Any, x: Any, y: Any, threat: Any, way: Any = None) -> Any:
        return x

    attack.__name__ = "a\nb\ud800\x1b[31m é"
    assert describe(attack) == r"a\nb\ud800\x1b[31m é"
    file = written(
        tmp_path,
        "from dataclasses import dataclass\n@dataclass\nclass Attack:\n    way: object\n"
        "    def __call__(self, defense, x, y, threat):\n        return x\n",
    )
    assert describe(attacks.get(file, {"way": Named("w\r\udfff")})) == r"Attack(way=w\r\udfff)"
    assert describe(attacks.get(file, {"way": Raising()})) == "<Attack>"
    assert unwrapped(BPDA(linear, transform=cast(Any, attack)))[1] == (
        r"BPDA(transform=a\nb\ud800\x1b[31m é, activation=None)"
    )
    verdict = evaluated(linear, grays, attack, out=tmp_path / "v")
    assert verdict.about.attack == describe(attack)
    assert (tmp_path / "v" / "verdict.json").is_file()


def test_values_and_errors_are_shown_whatever_they_are() -> None:
    class Bad(Exception):
        def __str__(self) -> str:
            raise SystemError

        __repr__ = __str__

    assert shown(Bad()) == "<Bad>"
    assert shown("x" * 100) == "'" + "x" * 76 + "..."
    assert told(Bad()) == "Bad: its message cannot be shown"
    assert (told(KeyError("k")), told(ValueError())) == ("KeyError: 'k'", "ValueError")


# Labels


@pytest.mark.backend
def test_labels_fit_the_framework_s_own_losses(linear: Linear, grays: Dataset) -> None:
    losses: list[np.ndarray] = []

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        logits = defense.logits(x)
        if sparring.backend.name == "torch":
            from torch.nn import functional

            losses.append(functional.cross_entropy(logits, y, reduction="none").numpy())
        elif sparring.backend.name == "tensorflow":
            import tensorflow as tf

            losses.append(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits).numpy())
        else:
            import jax

            rows = jax.nn.log_softmax(logits)
            losses.append(-np.array(rows[np.arange(3), y]))
        return x

    evaluated(linear, grays, attack)
    logit = 4 + 0 * losses[0]  # gray images have no component along the direction
    np.testing.assert_allclose(losses[0], np.log1p(np.exp(-logit)), rtol=1e-4)
    assert sparring.backend.label_dtype == (
        "int64" if sparring.backend.name == "torch" else "int32"
    )


def test_modules_of_attacks_that_failed_are_forgotten(tmp_path: Path) -> None:
    with pytest.raises(AttackError):
        attacks.get(written(tmp_path, "1 / 0"))
    assert "sparring_attack_mine" not in sys.modules
    made = attacks.get(written(tmp_path, "from sparring import PGD\nattack = PGD(steps=3)"))
    assert pickle.loads(pickle.dumps(made)) == copy.deepcopy(made) == PGD(steps=3)


@pytest.mark.parametrize(
    ("file", "function", "own"),
    [
        (f"{Path(sparring.__file__).parent}_mine/a.py", "attack", True),
        (f"{Path(sparring.__file__).parent}/attacks/pgd.py", "__call__", False),
        (np.__file__, "zeros", False),
        (pickle.__file__, "dumps", False),
        ("<string>", "__init__", False),  # as dataclasses make it
        ("<string>", "attack", True),
        ("<stdin>", "<module>", True),
        ("<ipython-input-3-0123>", "attack", True),
        ("<frozen importlib._bootstrap>", "_find", False),
        ("/tmp/__autograph_generated_file1x.py", "tf__attack", False),
        ("/home/me/attack.py", "__call__", True),
    ],
)
def test_whose_a_place_is(file: str, function: str, own: bool) -> None:
    assert usercode._is_own(FrameSummary(file, 3, function)) == own

"""The three backends do the same arithmetic, and load each other's weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparring.backend.choice import NAMES
from sparring.defenses import DEFENSES
from tests.conftest import patterns

# float32 keeps 7 digits. A sum of n products in another order differs by about sqrt(n) units in
# the last one; the longest here, over 16 images of 64 places, has 1,024.
ROUNDING = 32 * 2.0**-23
# Six training steps pass such differences on, each to the next.
TRAINED = 6 * ROUNDING


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    """What each backend computes from the same weights and images."""
    folder = tmp_path_factory.mktemp("agreement")
    x_train, y_train = patterns(40)
    x_test, y_test = patterns(16, seed=1)
    random = np.random.default_rng(0)
    shapes = [(3, 3, 1, 4), (4,), (3, 3, 4, 8), (8,), (1, 1, 8, 4), (4,)]
    weights: dict[str, Any] = {
        f"weight{index}": 0.3 * random.standard_normal(shape).astype(np.float32)
        for index, shape in enumerate(shapes)
    }
    np.savez(
        folder / "given.npz",
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        **weights,
    )
    (folder / "runs").mkdir()
    # One thread's long sums round more than several threads' partial sums: threads as usual.
    limits = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "NPROC")
    threaded = {key: value for key, value in os.environ.items() if key not in limits}
    found = {}
    for name in NAMES:
        result = folder / f"{name}.npz"
        subprocess.run(
            [sys.executable, "-m", "tests.backend_worker", folder / "given.npz", result,
             folder / "runs"],
            env={**threaded, "KERAS_BACKEND": name},
            cwd=Path(__file__).parent.parent,
            check=True,
        )  # fmt: skip
        found[name] = dict(np.load(result))
    return found


def _largest_relative(a: np.ndarray, b: np.ndarray, terms: float = 0.0) -> float:
    """The largest difference, relative to the largest value, or to the terms it is summed of."""
    return float(np.abs(a - b).max() / max(np.abs(b).max(), terms))


@pytest.mark.parametrize("other", NAMES[1:])
def test_loss_logits_and_gradients_agree(
    results: dict[str, dict[str, np.ndarray]], other: str
) -> None:
    first, second = results["torch"], results[other]
    assert first["hits"] == second["hits"]
    names = ["loss", "logits", *(f"gradient{index}" for index in range(6))]
    for name in names:
        assert first[name].shape == second[name].shape
        assert _largest_relative(second[name], first[name]) < ROUNDING, name


# The attack inside these takes the sign of gradients, and one that is zero but for rounding may
# have either.
SIGNED = ("pgdtrain", "trades")

# The gradient by the logarithm of knn's scale, 1 at first, is the difference of two means of
# similarities, which are up to 1 and all but cancel; they are what is rounded.
TERMS = {"knn/gradient6": 1.0}


@pytest.mark.parametrize("other", NAMES[1:])
@pytest.mark.parametrize("name", [name for name in DEFENSES if name not in SIGNED])
def test_every_recipe_agrees(
    results: dict[str, dict[str, np.ndarray]], name: str, other: str
) -> None:
    first, second = results["torch"], results[other]
    keys = [key for key in first if key.startswith(f"{name}/")]
    assert len(keys) >= 7 or name == "randomneuron"
    for key in keys:
        # Several networks' passes follow each other in some: TRAINED rather than ROUNDING.
        assert _largest_relative(second[key], first[key], TERMS.get(key, 0.0)) < TRAINED, key


@pytest.mark.parametrize("other", NAMES[1:])
@pytest.mark.parametrize("optimizer", ["", "fast "])
def test_trained_and_averaged_weights_agree(
    results: dict[str, dict[str, np.ndarray]], other: str, optimizer: str
) -> None:
    first, second = results["torch"], results[other]
    losses = slice(2, 4) if optimizer else slice(0, 2)
    assert _largest_relative(second["losses"][losses], first["losses"][losses]) < TRAINED
    for name in (f"{kind}{index}" for kind in ("trained", "averaged") for index in range(6)):
        name = optimizer + name
        assert _largest_relative(second[name], first[name]) < TRAINED, name


def test_weights_trained_on_one_backend_load_on_the_others(
    results: dict[str, dict[str, np.ndarray]],
) -> None:
    # Workers ran in this order, each loading all that was there.
    for index, trainer in enumerate(NAMES):
        for loader in NAMES[index:]:
            name = f"loaded from {trainer}"
            expected = results[trainer][name]
            assert _largest_relative(results[loader][name], expected) < ROUNDING

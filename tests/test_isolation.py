"""What a program around Sparring has set changes no bit, and is left as it was."""

from __future__ import annotations

import hashlib
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import sparring
from sparring import backend
from sparring.attacks import BPDA, FGSM, PGD
from sparring.data import Dataset
from sparring.defenses import get
from sparring.defenses.defense import Defense
from sparring.networks.allconv import AllConv
from sparring.threat import Linf

pytestmark = pytest.mark.backend

Ambient = Callable[[], AbstractContextManager[Any]]


@contextmanager
def setting(read: Callable[[], Any], write: Callable[[Any], object], value: Any) -> Iterator[None]:
    """A setting within it, which has to be there still at its end."""
    before = read()
    write(value)
    within = read()
    try:
        yield
        assert read() == within
    finally:
        write(before)


def attribute(owner: Any, name: str, value: Any) -> AbstractContextManager[None]:
    return setting(lambda: getattr(owner, name), lambda value: setattr(owner, name, value), value)


@contextmanager
def policy(name: str) -> Iterator[None]:
    with setting(keras.config.dtype_policy, keras.config.set_dtype_policy, name):
        yield


@contextmanager
def seeds() -> Iterator[None]:
    """Seeds of Python's and numpy's generators, which go on afterwards where they stood."""
    random.seed(3)
    np.random.seed(3)
    python, numbers = random.getstate(), np.random.get_state(legacy=False)
    yield
    assert random.getstate() == python
    np.testing.assert_equal(np.random.get_state(legacy=False), numbers)


def autocast_scope() -> Any:
    """What Keras's own layers of a mixed policy are called in."""
    from keras.src.backend.common.variables import AutocastScope

    return AutocastScope("float16")


COMMON: dict[str, Ambient] = {
    "name scope": lambda: keras.name_scope("outer"),
    "autocast scope": autocast_scope,
    "floatx float16": lambda: setting(keras.config.floatx, keras.config.set_floatx, "float16"),
    "floatx float64": lambda: setting(keras.config.floatx, keras.config.set_floatx, "float64"),
    "mixed_float16": lambda: policy("mixed_float16"),
    "mixed_bfloat16": lambda: policy("mixed_bfloat16"),
    "policy float64": lambda: policy("float64"),
    "channels_first": lambda: setting(
        keras.config.image_data_format, keras.config.set_image_data_format, "channels_first"
    ),
    "epsilon": lambda: setting(keras.config.epsilon, keras.config.set_epsilon, 0.1),
    "numpy raises": lambda: np.errstate(all="raise"),
    "seeds": seeds,
}


def ambient_of_torch() -> dict[str, Ambient]:
    import torch

    backends: Any = torch.backends
    precisions = ("mkldnn.matmul", "mkldnn.conv") if hasattr(backends.mkldnn, "conv") else ()

    def owner(path: str) -> Any:
        first, second = path.split(".")
        return getattr(getattr(backends, first), second)

    return {
        "inference mode": torch.inference_mode,
        "no_grad": torch.no_grad,
        "grad disabled": lambda: setting(
            torch.is_grad_enabled, lambda on: torch.set_grad_enabled(on), False
        ),
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "deterministic algorithms": lambda: setting(
            torch.are_deterministic_algorithms_enabled,
            torch.use_deterministic_algorithms,
            True,
        ),
        "device meta": lambda: torch.device("meta"),
        "default device meta": lambda: setting(
            torch.get_default_device,
            lambda device: torch.set_default_device(None if device.type == "cpu" else device),
            torch.device("meta"),
        ),
        "dtype float64": lambda: setting(
            torch.get_default_dtype, torch.set_default_dtype, torch.float64
        ),
        "dtype float16": lambda: setting(
            torch.get_default_dtype, torch.set_default_dtype, torch.float16
        ),
        "matmul precision": lambda: setting(
            torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
        ),
        "no mkldnn": lambda: attribute(backends.mkldnn, "enabled", False),
        "cudnn benchmark": lambda: attribute(backends.cudnn, "benchmark", True),
        "seed": lambda: setting(torch.initial_seed, torch.manual_seed, 7),
        **{
            path: lambda path=path: attribute(owner(path), "fp32_precision", "bf16")
            for path in precisions
        },
    }


def ambient_of_tensorflow() -> dict[str, Ambient]:
    import tensorflow as tf
    from tensorflow.python.framework import ops

    def options(values: dict[str, bool]) -> None:
        tf.config.optimizer.set_experimental_options(values)

    def numpy_rules(mode: str) -> None:
        if mode != "off":
            tf.experimental.numpy.experimental_enable_numpy_behavior(dtype_conversion_mode=mode)
        ops.set_dtype_conversion_mode(mode)

    return {
        "init_scope": tf.init_scope,
        "numpy's rules": lambda: setting(
            lambda: ops.get_dtype_conversion_mode().name.lower(), numpy_rules, "legacy"
        ),
        "eager": lambda: setting(
            tf.config.functions_run_eagerly, tf.config.run_functions_eagerly, True
        ),
        "auto mixed precision": lambda: setting(
            lambda: {
                "auto_mixed_precision": tf.config.optimizer.get_experimental_options().get(
                    "auto_mixed_precision", False
                )
            },
            options,
            {"auto_mixed_precision": True},
        ),
        "jit": lambda: setting(
            lambda: tf.config.optimizer.get_jit() == "autoclustering",
            tf.config.optimizer.set_jit,
            True,
        ),
    }


def ambient_of_jax() -> dict[str, Ambient]:
    import jax

    def updated(name: str, value: Any) -> AbstractContextManager[None]:
        return setting(
            lambda: getattr(jax.config, name), lambda value: jax.config.update(name, value), value
        )

    values: dict[str, Any] = {
        "jax_enable_x64": True,
        "jax_numpy_dtype_promotion": "strict",
        "jax_numpy_rank_promotion": "raise",
        "jax_default_matmul_precision": "bfloat16",
        "jax_default_prng_impl": "rbg",
        "jax_threefry_partitionable": False,
        "jax_debug_nans": True,
        "jax_disable_jit": True,
        "jax_transfer_guard": "disallow",
        "jax_legacy_prng_key": "error",
    }
    return {
        name: lambda name=name, value=value: updated(name, value)  # type: ignore[misc]
        for name, value in values.items()
    }


OWN: dict[str, Callable[[], dict[str, Ambient]]] = {
    "torch": ambient_of_torch,
    "tensorflow": ambient_of_tensorflow,
    "jax": ambient_of_jax,
}
AMBIENT = COMMON | OWN[backend.name]()


def groups() -> list[tuple[str, ...]]:
    """Which settings are tried together: each alone where that costs nothing."""
    if backend.name == "torch":
        return [(name,) for name in AMBIENT]
    # Every training is compiled anew there. What excludes another comes in another group.
    first = [name for name in AMBIENT if name not in ("floatx float16", "mixed_float16")]
    return [tuple(first), ("floatx float16", "mixed_float16")]


def fingerprint(dataset: Dataset, out: Path) -> dict[str, Any]:
    """What a training, answers and an attack come to."""
    # Muon takes the others long to compile.
    optimizer = "muon" if backend.name == "torch" else "sgd"
    settings = {"epochs": 1, "filters": 2, "batch_size": 20, "optimizer": optimizer}
    trained = sparring.train("baseline", dataset, settings=settings, out=out, eval_every=0)
    assert trained.path is not None
    loaded = sparring.load(trained.path)
    verdict = sparring.evaluate(
        loaded, PGD(steps=2, early_stopping=False), Linf(0.3), dataset, n=8, check=False
    )
    images = dataset.x_test[:4]
    return {
        "weights": trained.weights_sha256,
        "file": hashlib.sha256((trained.path / "weights.safetensors").read_bytes()).hexdigest(),
        "classify": loaded.classify(images).tobytes(),
        "logits": np.array(backend.ops.convert_to_numpy(loaded.logits(images))).tobytes(),
        "images": verdict.adversarial.tobytes(),
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, small: Dataset) -> dict[str, Any]:
    return fingerprint(small, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def small() -> Dataset:
    from tests.conftest import patterns

    x, y = patterns(40)
    return Dataset("patterns", x, y, x[:16], y[:16], tuple("abcd"), mirror=False)


@pytest.mark.parametrize("names", groups(), ids=lambda names: ", ".join(names))
def test_no_setting_of_the_process_changes_a_bit(
    names: tuple[str, ...], alone: dict[str, Any], small: Dataset, tmp_path: Path
) -> None:
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            stack.enter_context(AMBIENT[name]())
        assert fingerprint(small, tmp_path) == alone


def test_numpy_s_rules_of_tensorflow_reach_no_optimizer(small: Dataset, tmp_path: Path) -> None:
    if backend.name != "tensorflow":
        pytest.skip("the framework is another")

    def weights(name: str) -> str | None:
        settings = {"epochs": 1, "filters": 2, "batch_size": 20, "optimizer": "muon"}
        out = tmp_path / name
        trained = sparring.train("trades", small, settings=settings, out=out, eval_every=0)
        return trained.weights_sha256

    expected = weights("alone")
    with AMBIENT["numpy's rules"]():
        assert weights("ambient") == expected


def test_a_network_made_and_differentiated_by_hand_in_inference_mode_has_its_gradient() -> None:
    if backend.name != "torch":
        pytest.skip("only PyTorch has an inference mode")
    import torch

    def slopes() -> np.ndarray:
        net = AllConv((8, 8, 1), 3, filters=2)
        x = torch.full((2, 8, 8, 1), 0.5)
        return np.array(sparring.gradient(lambda images: net(images)[:, 0], x))

    expected = slopes()
    with torch.inference_mode():
        np.testing.assert_array_equal(slopes(), expected)
    assert np.abs(expected).max() > 0


def test_several_threads_may_be_isolated_at_once_and_the_last_one_puts_back() -> None:
    inside, leave = threading.Barrier(3), threading.Event()

    def work() -> str:
        with backend.isolated:
            inside.wait()
            leave.wait()
            return str(keras.config.floatx())

    with (
        setting(keras.config.floatx, keras.config.set_floatx, "float64"),
        ThreadPoolExecutor(2) as pool,
    ):
        first, second = pool.submit(work), pool.submit(work)
        inside.wait()
        assert keras.config.floatx() == "float32"
        with pytest.raises(KeyError), backend.isolated:
            raise KeyError
        assert keras.config.floatx() == "float32"
        leave.set()
        assert {first.result(), second.result()} == {"float32"}
        assert keras.config.floatx() == "float64"


# Threads and interruptions


def untrained(name: str, dataset: Dataset) -> Defense:
    kind = get(name)
    settings = kind.course_settings.replace(filters=2, flip=False)
    return kind(dataset.info, settings, [kind.network((8, 8, 1), 4, filters=2)])


def test_threads_that_ask_one_defense_get_what_they_would_alone(small: Dataset) -> None:
    defense = untrained("transform", small)

    def ask(number: int) -> list[Any]:
        verdict = sparring.evaluate(
            defense, FGSM(), Linf(0.2), small, n=8, draws=3, seed=number % 2, check=False
        )
        answers = [defense.classify(small.x_test, seed=number % 2) for _ in range(3)]
        return [verdict.adversarial.tobytes(), verdict.rows.tobytes(), *map(bytes, answers)]

    expected = [ask(0), ask(1)]
    with ThreadPoolExecutor(4) as pool:
        for number, result in enumerate(pool.map(ask, range(8))):
            assert result[0] == expected[number % 2][0]
            assert result[2:] == expected[number % 2][2:]


def test_a_stand_in_of_one_thread_is_not_seen_by_another(small: Dataset) -> None:
    defense = untrained("blur", small)
    x = backend.ops.convert_to_tensor(small.x_test[:2].astype(np.float32) / 255)
    expected = np.array(backend.ops.convert_to_numpy(defense.logits(x)))
    asked = threading.Event()

    def smooth(images: Any) -> Any:
        with ThreadPoolExecutor(1) as pool:  # meanwhile
            answer = pool.submit(lambda: backend.ops.convert_to_numpy(defense.logits(x))).result()
        np.testing.assert_array_equal(answer, expected)
        asked.set()
        return defense.network.transform(defense.nets[0], images)

    BPDA(defense, transform=smooth).logits(x)
    assert asked.is_set()
    assert "transform" not in vars(defense.nets[0])


def test_an_interrupted_attack_leaves_the_defense_alive(small: Dataset) -> None:
    defense = untrained("baseline", small)
    expected = defense.classify(small.x_test)
    step = defense.compiled(("asked",), defense.logits)
    x = backend.ops.convert_to_tensor(small.x_test[:4].astype(np.float32) / 255)
    before = [variable.value for variable in defense.variables]
    step(x)
    # Nothing was given away that an exception could keep from coming back.
    for variable, value in zip(defense.variables, before, strict=True):
        assert variable.value is value
        np.array(backend.ops.convert_to_numpy(value))
    np.testing.assert_array_equal(defense.classify(small.x_test), expected)


def test_what_assigns_variables_has_to_say_so() -> None:
    if backend.name != "jax":
        pytest.skip("the others assign in place")
    total = keras.Variable(np.float32(0), trainable=False)
    with pytest.raises(RuntimeError, match="changes=True"):
        backend.compile(lambda: total.assign(total + 1), [total])()


def test_outside_of_calls_nothing_of_ours_stands() -> None:
    if backend.name == "torch":
        assert not sys.modules["torch"].backends.cudnn.deterministic
    if backend.name == "tensorflow":
        tensorflow = sys.modules["tensorflow"]
        tensorflow.random.uniform([1])  # an error where operations have to be deterministic
        assert "remapping" not in tensorflow.config.optimizer.get_experimental_options()

"""What an attack returns or does to its images: a failed attack with its reason, never an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from keras import ops

import sparring
from sparring.data import Dataset
from sparring.evaluation.verdict import Verdict
from sparring.threat import Linf
from tests.conftest import Linear

pytestmark = pytest.mark.backend


@pytest.fixture
def judged(linear: Linear) -> Callable[[Any], Verdict]:
    """Judge what a function makes of the best adversarial images, numpy arrays [4, 8, 8, 1]."""
    x = np.full((4, 8, 8, 1), 128, np.uint8)
    data = Dataset("linear", x, np.ones(4, int), x, np.ones(4, int), ("a", "b"))

    def judge(returned: Any) -> Verdict:
        def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
            best = np.array(ops.convert_to_numpy(x)) - np.float32(0.1) * linear.direction
            return returned(best, x)

        return sparring.evaluate(linear, attack, Linf(0.1), data, 4, check=False)

    return judge


class Hostile(np.ndarray):
    """An array that lies about its shape and refuses what it can."""

    @property  # type: ignore[misc]
    def shape(self) -> Any:
        raise MemoryError("no shape today")


class Nobody:
    """A thing that does not say what it is."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise ValueError("no class today")


class Quiet(np.ndarray):
    """An array of a class of its own, otherwise like any other."""


def _objects(x: np.ndarray) -> np.ndarray:
    return x.astype(object)


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (lambda x, _: None, "returned NoneType: expected a tensor of"),
        (lambda x, _: list(x), "returned list: expected"),
        (lambda x, _: (image for image in x), "returned generator: expected"),
        (lambda x, _: iter(x), "returned iterator: expected"),
        (lambda x, _: {"x": x}, "returned dict: expected"),
        (lambda x, _: (x, None), "returned tuple: expected"),
        (lambda x, _: memoryview(x), "returned memoryview: expected"),
        (lambda x, _: np.float32(1), "returned numpy.float32: expected"),
        (lambda x, _: _objects(x), "dtype object: expected float32"),
        (lambda x, _: x.astype(complex), "dtype complex128: expected float32"),
        (lambda x, _: x > 0, "dtype bool: expected float32"),
        (lambda x, _: (x * 255).astype(np.uint8), "dtype uint8: expected float32"),
        (lambda x, _: x.astype("U5"), "dtype <U5: expected float32"),
        (lambda x, _: np.ma.masked_array(x.astype(int)), "dtype int64: expected float32"),
        (lambda x, _: np.zeros(x.shape, [("a", "f4")]), "dtype [('a', '<f4')]: expected float32"),
        (lambda x, _: np.ma.masked, "shape []: expected [4, 8, 8, 1]"),
        (lambda x, _: x[0], "shape [8, 8, 1]: expected [4, 8, 8, 1]"),
        (lambda x, _: x[..., 0], "shape [4, 8, 8]: expected"),
        (
            lambda x, _: np.broadcast_to(x[0], (10**6, 8, 8, 1)),
            "shape [1000000, 8, 8, 1]: expected",
        ),
        (lambda x, _: np.zeros((0, 8, 8, 1)), "shape [0, 8, 8, 1]: expected"),
        (lambda x, _: Nobody(), "returned a tensor that cannot be read, ValueError: no class"),
        (
            lambda x, _: np.broadcast_to(np.float32(0), (10**6, 10**6, 10**3)),
            "shape [1000000, 1000000, 1000]: expected",
        ),
        (lambda x, _: np.full_like(x, np.nan), "not finite: NaN or infinite values"),
        (lambda x, _: np.full(x.shape, 1e300), "not finite: NaN or infinite values"),
        (lambda x, _: np.ma.masked_array(x, mask=True), "not finite: NaN or infinite values"),
    ],
)
def test_it_fails_with_its_reason(judged: Any, returned: Any, reason: str) -> None:
    verdict = judged(returned)
    assert verdict.success_rate.value == 0
    assert all(given.startswith(reason) for given in verdict.reasons), verdict.reasons[0]


def test_what_can_be_read_counts(judged: Any) -> None:
    for returned in (
        lambda x, _: x.view(Quiet),
        lambda x, _: x.view(Hostile),  # as the numbers that it holds
        lambda x, _: np.asfortranarray(x.astype(np.float64)),
        lambda x, _: np.ma.masked_array(x),
        lambda x, _: x.astype(np.longdouble),
        lambda x, _: ops.convert_to_tensor(x),
    ):
        assert judged(returned).success_rate.value == 1
    half = judged(lambda x, _: np.ma.masked_array(x, np.arange(4).reshape(4, 1, 1, 1) + 0 * x < 1))
    assert half.reasons == ["not finite: NaN or infinite values", *["broken"] * 3]


def _torch_tensors() -> list[tuple[Any, str]]:
    import torch

    def expanded(x: Any, _: Any) -> Any:
        return torch.zeros(1).expand(10**9, 8, 8, 1)

    def quantized(x: Any, _: Any) -> Any:
        return torch.quantize_per_tensor(torch.tensor(x), 0.1, 0, torch.quint8)

    def nested(x: Any, _: Any) -> Any:
        return torch.nested.nested_tensor([torch.tensor(image) for image in x])

    unreadable = "returned a tensor that cannot be read, "
    return [
        (lambda x, _: torch.tensor(x).to_sparse(), unreadable),
        (lambda x, _: torch.tensor(x).to("meta"), unreadable),
        (quantized, unreadable),
        (nested, ""),
        (lambda x, _: torch.tensor(x).bfloat16(), "dtype bfloat16: expected float32"),
        (lambda x, _: torch.tensor(x).int(), "dtype int32: expected float32"),
        (expanded, "shape [1000000000, 8, 8, 1]: expected"),
    ]


def _tensorflow_tensors() -> list[tuple[Any, str]]:
    import tensorflow as tf

    return [
        (lambda x, _: tf.sparse.from_dense(x), "returned"),
        (lambda x, _: tf.RaggedTensor.from_tensor(x), "returned"),
        (lambda x, _: tf.cast(x, tf.bfloat16), "dtype bfloat16: expected float32"),
        (lambda x, _: tf.keras.Input((8, 8, 1)), "returned"),
    ]


def _jax_tensors() -> list[tuple[Any, str]]:
    import jax

    def deleted(x: Any, _: Any) -> Any:
        tensor = jax.numpy.asarray(x)
        tensor.delete()
        return tensor

    leaked: list[Any] = []

    def tracer(x: Any, _: Any) -> Any:
        jax.jit(leaked.append)(x)
        return leaked[-1]

    return [
        (deleted, "returned a tensor that cannot be read, RuntimeError: Array has been deleted"),
        (tracer, "returned"),
        (lambda x, _: jax.numpy.asarray(x, "bfloat16"), "dtype bfloat16: expected float32"),
        (lambda x, _: jax.random.key(0), "shape []: expected"),
    ]


@pytest.mark.filterwarnings("ignore::UserWarning")  # of quantized and nested tensors
def test_tensors_that_cannot_be_read_fail_with_their_reason(judged: Any) -> None:
    tensors = {"torch": _torch_tensors, "tensorflow": _tensorflow_tensors, "jax": _jax_tensors}
    for returned, reason in tensors[sparring.backend.name]():
        verdict = judged(returned)
        assert verdict.success_rate.value == 0
        for given in verdict.reasons:
            assert given.startswith(reason)
            assert "expected" in given
            assert "\n" not in given


def test_images_that_are_gone_afterwards_do_no_harm(judged: Any) -> None:
    def torch_spoiled(best: Any, x: Any) -> Any:
        x.resize_(0)
        return best

    def jax_spoiled(best: Any, x: Any) -> Any:
        import jax

        jax.jit(lambda x: x + 1, donate_argnums=0)(x)
        assert x.is_deleted()
        return best

    if sparring.backend.name == "tensorflow":
        pytest.skip("its tensors cannot be changed")
    spoiled = torch_spoiled if sparring.backend.name == "torch" else jax_spoiled
    verdict = judged(spoiled)
    assert verdict.success_rate.value == 1
    assert [warning.name for warning in verdict.warnings] == ["changed-input"]
    kept = judged(lambda best, x: x)
    assert kept.reasons == ["label unchanged"] * 4

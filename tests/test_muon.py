"""Muon against numpy, and what the fast preset's settings do."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from sparring.training.muon import Muon

pytestmark = pytest.mark.backend

A, B, C = 3.4445, -4.7750, 2.0315  # of the quintic iteration


def nearly_orthogonal(matrix: np.ndarray) -> np.ndarray:
    """Five Newton-Schulz iterations by numpy, through the singular values."""
    left, values, right = np.linalg.svd(matrix / np.linalg.norm(matrix), full_matrices=False)
    for _ in range(5):
        values = A * values + B * values**3 + C * values**5
    return (left * values) @ right


def variable(values: np.ndarray) -> Any:
    return keras.Variable(values.astype(np.float32))


@pytest.mark.parametrize(("inputs", "outputs"), [(2, 24), (3, 5)])
def test_two_steps_of_kernel_and_bias_are_those_of_numpy(inputs: int, outputs: int) -> None:
    random = np.random.default_rng(0)
    weights = [random.normal(size=(3, 3, inputs, outputs)), random.normal(size=outputs)]
    variables = [variable(each) for each in weights]
    rates, momentum = [0.25, 0.125], 0.9
    optimizer = Muon(lambda: ops.convert_to_tensor(rates[0]), momentum)
    optimizer.build(variables)
    memories = [np.zeros_like(each) for each in weights]
    for rate in list(rates):
        gradients = [random.normal(size=each.shape) for each in weights]
        optimizer.apply([ops.convert_to_tensor(each.astype(np.float32)) for each in gradients])
        rates.pop(0)
        for index, gradient in enumerate(gradients):
            memories[index] = momentum * memories[index] + gradient
            step = gradient + momentum * memories[index]
            if index == 0:
                matrix = step.transpose(3, 0, 1, 2).reshape(outputs, 9 * inputs)
                scale = max(1, outputs / (9 * inputs)) ** 0.5
                orthogonal = scale * nearly_orthogonal(matrix)
                step = orthogonal.reshape(outputs, 3, 3, inputs).transpose(1, 2, 3, 0)
            weights[index] -= rate * step
    for found, expected in zip(variables, weights, strict=True):
        # Five iterations amplify rounding by up to 3.4 each: some hundred units of float32.
        assert np.allclose(ops.convert_to_numpy(found), expected, rtol=0, atol=1e-4)


def test_every_direction_of_a_kernel_moves_about_equally() -> None:
    random = np.random.default_rng(1)
    kernel = variable(np.zeros((3, 3, 4, 8)))
    optimizer = Muon(lambda: ops.convert_to_tensor(1.0), 0.9)
    optimizer.build([kernel])
    # A gradient whose singular values differ thirtyfold.
    left, _ = np.linalg.qr(random.normal(size=(8, 8)))
    right, _ = np.linalg.qr(random.normal(size=(36, 8)))
    gradient = (left * np.logspace(0, -1.5, 8)) @ right.T
    shaped = gradient.reshape(8, 3, 3, 4).transpose(1, 2, 3, 0).astype(np.float32)
    optimizer.apply([ops.convert_to_tensor(shaped)])
    step = ops.convert_to_numpy(kernel).transpose(3, 0, 1, 2).reshape(8, 36)
    values = np.linalg.svd(step, compute_uv=False)
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_a_zero_gradient_moves_nothing() -> None:
    kernel = variable(np.ones((3, 3, 1, 2)))
    optimizer = Muon(lambda: ops.convert_to_tensor(1.0), 0.9)
    optimizer.build([kernel])
    optimizer.apply([ops.zeros((3, 3, 1, 2))])
    assert (ops.convert_to_numpy(kernel) == 1).all()


def test_the_head_s_kernel_is_made_orthogonal_too() -> None:
    random = np.random.default_rng(1)
    kernel = variable(np.zeros((1, 1, 8, 4)))
    optimizer = Muon(lambda: ops.convert_to_tensor(1.0), 0.9)
    optimizer.build([kernel])
    gradient = random.normal(size=(1, 1, 8, 4)).astype(np.float32)
    optimizer.apply([ops.convert_to_tensor(gradient)])
    values = np.linalg.svd(ops.convert_to_numpy(kernel)[0, 0], compute_uv=False)
    assert values.min() > 0.5
    assert values.max() < 1.3

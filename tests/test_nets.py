"""The network, against a plain reference, and the parts it is made of."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import keras
import numpy as np
import pytest
from keras import ops
from safetensors.numpy import save
from typing_extensions import override

from sparring import backend
from sparring.conversion import convert
from sparring.conversion.targets import keras_model, plain_options, torch_state
from sparring.conversion.tracing import _write as _write_hook
from sparring.conversion.tracing import changed_hooks
from sparring.data import Dataset, DatasetInfo
from sparring.defenses.blur import BlurNet
from sparring.defenses.defense import Defense
from sparring.defenses.discretize import CodeNet
from sparring.defenses.jump import JumpNet
from sparring.defenses.knn import EmbeddingNet
from sparring.errors import ConversionError
from sparring.networks.allconv import (
    PREDICTION_BATCH,
    AllConv,
    in_batches,
    leaky_relu,
    number_of_scales,
    padded_size,
    to_float,
)
from sparring.runs.directory import Run
from sparring.runs.records import Results, RunRecord
from sparring.training.loop import assign

pytestmark = pytest.mark.backend


def conv(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A "same" convolution of NHWC images, in float64."""
    height, width = kernel.shape[:2]
    up, left = height // 2, width // 2
    padded = np.pad(x.astype(np.float64), ((0, 0), (up, up), (left, left), (0, 0)))
    rows, columns = x.shape[1:3]
    return bias + sum(
        padded[:, i : i + rows, j : j + columns] @ kernel[i, j]
        for i in range(height)
        for j in range(width)
    )


def reference(x: np.ndarray, weights: list[np.ndarray], scales: int) -> np.ndarray:
    """The logits of AllConv, by the course's description alone."""
    for index in range(2 * scales):
        x = conv(x, weights[2 * index], weights[2 * index + 1])
        x = np.where(x > 0, x, 0.2 * x)
        if index % 2:
            rows, columns = x.shape[1] // 2, x.shape[2] // 2
            x = x[:, : 2 * rows, : 2 * columns]
            x = x.reshape(len(x), rows, 2, columns, 2, -1).mean((2, 4))
    return conv(x, *weights[-2:]).mean((1, 2))


@pytest.mark.parametrize(
    ("shape", "head_size"), [((8, 8, 1), 1), ((32, 32, 3), 3), ((12, 20, 3), 1), ((9, 11, 1), 3)]
)
def test_logits_equal_the_reference(shape: tuple[int, int, int], head_size: int) -> None:
    net = AllConv(shape, 5, filters=3, head_size=head_size, seed=1)
    random = np.random.default_rng(0)
    for variable in net.variables:  # biases too, which start at zero
        variable.assign(0.3 * random.standard_normal(variable.shape).astype(np.float32))
    weights = [ops.convert_to_numpy(variable) for variable in net.variables]
    x = random.random((2, *shape), dtype=np.float32)
    answer = ops.convert_to_numpy(net(ops.convert_to_tensor(x)))
    expected = reference(x, weights, number_of_scales(*shape[:2]))
    # float32 sums of up to 9 * 24 products against float64: a few units in the seventh digit.
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)


def test_convolution_of_an_asymmetric_kernel() -> None:
    net = AllConv((8, 8, 1), 2, filters=1)
    kernel, bias = net.scales[0][0]
    kernel.assign(np.arange(9, dtype=np.float32).reshape(3, 3, 1, 1))
    bias.assign(np.array([0.5], np.float32))
    x = np.zeros((1, 8, 8, 1), np.float32)
    x[0, 3, 4, 0] = 1
    answer = ops.convert_to_numpy(backend.conv2d(ops.convert_to_tensor(x), kernel, bias))
    # Cross-correlation: the kernel appears turned by half a turn around the one pixel.
    expected = np.arange(9)[::-1].reshape(3, 3) + 0.5
    np.testing.assert_array_equal(answer[0, 2:5, 3:6, 0], expected)


@pytest.mark.parametrize(
    ("side", "scales"), [(8, 1), (11, 1), (12, 2), (16, 2), (28, 3), (32, 3), (64, 4)]
)
def test_number_of_scales_is_rounded_log2_less_two(side: int, scales: int) -> None:
    assert number_of_scales(side, side) == number_of_scales(side, 99) == scales


def test_widths_and_kernels_of_the_full_network() -> None:
    net = AllConv((32, 32, 3), 10, filters=64)
    assert [tuple(kernel.shape) for kernel in net.kernels] == [
        (3, 3, 3, 64),
        (3, 3, 64, 128),
        (3, 3, 128, 128),
        (3, 3, 128, 256),
        (3, 3, 256, 256),
        (3, 3, 256, 512),
        (1, 1, 512, 10),
    ]
    assert len(net.variables) == len(net.trainable_variables) == 14


def test_initial_weights_follow_from_the_seed() -> None:
    nets = [AllConv((8, 8, 1), 3, filters=4, seed=seed) for seed in (7, 7, 8)]
    first, same, other = ([ops.convert_to_numpy(k) for k in net.kernels] for net in nets)
    for a, b, c in zip(first, same, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
    # Glorot: uniform within sqrt(6 / (fan in + fan out)); neighboring layers share no numbers.
    limit = np.sqrt(6 / (9 * 4 + 9 * 8))
    assert 0.9 * limit < np.abs(first[1]).max() <= limit
    assert not np.allclose(
        first[0].ravel()[:20] / np.abs(first[0]).max(),
        first[1].ravel()[:20] / np.abs(first[1]).max(),
        atol=0.1,
    )


def test_predict_does_not_depend_on_how_the_batch_is_cut() -> None:
    net = AllConv((8, 8, 1), 3, filters=4)
    images = np.random.default_rng(0).integers(
        0, 256, (PREDICTION_BATCH + 3, 8, 8, 1), dtype=np.uint8
    )
    whole = net.predict(images)
    parts = np.concatenate([net.predict(images[:1]), net.predict(images[1:])])
    # Kernels for other batch sizes may add up in another order.
    np.testing.assert_allclose(whole, parts, rtol=1e-4, atol=1e-6)


def test_assign_names_what_is_missing_or_misshapen() -> None:
    net = AllConv((8, 8, 1), 3, filters=4)
    names = [f"0/{variable.path.split('/', 1)[1]}" for variable in net.variables]
    arrays = {name: ops.convert_to_numpy(v) for name, v in zip(names, net.variables, strict=True)}
    assert assign("0", net.variables, arrays) == names
    from sparring.errors import RunError

    with pytest.raises(RunError, match=r"0/head_bias: expected float32 \[3\], found float32 \[4\]"):
        assign("0", net.variables, {**arrays, "0/head_bias": np.zeros(4, np.float32)})
    with pytest.raises(RunError, match=r"expected float32 \[3\], found float64"):
        assign("0", net.variables, {**arrays, "0/head_bias": np.zeros(3)})
    del arrays["0/conv_1_kernel"]
    with pytest.raises(RunError, match="missing 0/conv_1_kernel"):
        assign("0", net.variables, arrays)


# JAX takes a second to compile each; tests/test_convert.py converts networks there too.
not_on_jax = pytest.mark.skipif(backend.name == "jax", reason="takes JAX long to compile")


@not_on_jax
@pytest.mark.parametrize("initializer", ["glorot", "he"])
def test_initial_kernels_are_uniform_and_biases_zero(initializer: str) -> None:
    net = AllConv((8, 8, 3), 10, filters=24, head_size=3, initializer=initializer, seed=3)
    kernels = [ops.convert_to_numpy(kernel) for kernel in net.kernels]
    for kernel in kernels:
        inputs, outputs = 9 * kernel.shape[2], 9 * kernel.shape[3]
        # Glorot's limit is sqrt(6 / (in + out)), He's sqrt(6 / in); the head's kernel is 3x3 too.
        limit = np.sqrt(6 / (inputs + outputs if initializer == "glorot" else inputs))
        assert 0.97 * limit < np.abs(kernel).max() <= limit
        # A uniform distribution's standard deviation is limit / sqrt(3), of at least 648 draws
        # give or take 2 %; its mean is 0.
        assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.08)
        assert abs(kernel.mean()) < 4 * limit / np.sqrt(3 * kernel.size)
        # As many in each quarter of the range: a truncated normal has more in the middle.
        inner = (np.abs(kernel) < limit / 2).mean()
        assert inner == pytest.approx(0.5, abs=0.08)
    for _, bias in net.convs:
        assert (ops.convert_to_numpy(bias) == 0).all()
    # Layers share no numbers, whatever their scale.
    ratios = [kernel.ravel()[:50] / np.abs(kernel).max() for kernel in kernels]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(ratios[a] - ratios[b]).max() > 0.5


def test_glorot_is_what_a_network_starts_from_unless_told() -> None:
    plain, glorot = AllConv((8, 8, 1), 3, 4), AllConv((8, 8, 1), 3, 4, initializer="glorot")
    for a, b in zip(plain.variables, glorot.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))
    assert tuple(plain.head[0].shape) == (1, 1, 8, 3)
    assert plain.precision == "float32"


def test_a_ramp_is_zero_at_first_and_not_trained() -> None:
    net = AllConv((8, 8, 1), 3, 4)
    trained = len(net.trainable_variables)
    ramp = net.ramp("height")
    assert float(ops.convert_to_numpy(ramp)) == 0
    assert len(net.trainable_variables) == trained == 6
    assert [variable is ramp for variable in net.variables] == [False] * 6 + [True]


def test_small_parts_by_hand() -> None:
    x = ops.convert_to_tensor(np.array([-5, -1, 0, 2], np.float32))
    np.testing.assert_allclose(ops.convert_to_numpy(leaky_relu(x)), [-1, -0.2, 0, 2])
    images = ops.convert_to_tensor(np.array([0, 51, 255], np.uint8))
    np.testing.assert_allclose(ops.convert_to_numpy(to_float(images)), [0, 0.2, 1])


class Changed(AllConv):
    """Everything a defense may change, changed; `seen` has the dtypes of what came."""

    seen: list[str] | None = None

    def _note(self, x: Any) -> None:
        if self.seen is not None:
            self.seen.append(keras.backend.standardize_dtype(x.dtype))

    def transform(self, x: Any) -> Any:
        self._note(x)
        return 1 - x

    def activation(self, x: Any) -> Any:
        self._note(x)
        return x * x

    def head_activation(self, x: Any) -> Any:
        self._note(x)
        return ops.abs(x)

    def output(self, logits: Any) -> Any:
        self._note(logits)
        return 3 * logits


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_defense_s_changes_are_where_they_belong(precision: str) -> None:
    net = Changed((8, 8, 1), 3, filters=2, seed=1)
    net.precision = precision
    random = np.random.default_rng(0)
    for variable in net.variables:
        variable.assign(0.5 * random.standard_normal(variable.shape).astype(np.float32))
    weights = [ops.convert_to_numpy(variable) for variable in net.variables]
    images = random.random((2, 8, 8, 1), dtype=np.float32)
    x: np.ndarray = 1 - images
    for index in (0, 2):
        x = conv(x, weights[index], weights[index + 1]) ** 2
    x = x.reshape(2, 4, 2, 4, 2, -1).mean((2, 4))
    expected = 3 * np.abs(conv(x, *weights[4:])).mean((1, 2))
    net.seen = []
    answer = net(ops.convert_to_tensor(images))
    assert keras.backend.standardize_dtype(answer.dtype) == "float32"
    # bfloat16 keeps 8 bits; squared twice, that is some percent.
    rounding = 1e-4 if precision == "float32" else 0.1
    np.testing.assert_allclose(ops.convert_to_numpy(answer), expected, rtol=rounding)
    # The transform's comparisons with thresholds are exact, whatever the precision that follows.
    assert net.seen == ["float32", precision, precision, precision, "float32"]


def test_the_average_over_space_is_in_float32() -> None:
    net = AllConv((8, 8, 1), 1, filters=1)
    net.precision = "bfloat16"
    net.head[0].assign(np.array([1, 0], np.float32).reshape(1, 1, 2, 1))
    features = np.ones((1, 4, 4, 2), np.float32)
    features[0, 2, 3, 0] = 1 + 1 / 128  # bfloat16's next number after 1
    answer = net.head_logits(ops.cast(ops.convert_to_tensor(features), "bfloat16"))
    assert float(ops.convert_to_numpy(answer)[0, 0]) == 1 + 1 / 128 / 16


def test_prediction_takes_images_in_batches_of_few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.arange(300, dtype=np.float32).reshape(300, 1)
    for whole, last in ((False, 44), (True, 64)):
        monkeypatch.setattr(backend, "whole_batches", whole)
        sizes: list[int] = []

        def doubled(batch: Any, sizes: list[int] = sizes) -> Any:
            sizes.append(len(batch))
            return 2 * batch

        np.testing.assert_array_equal(in_batches(doubled, images), 2 * images)
        assert sizes == [128, 128, last]
        np.testing.assert_array_equal(in_batches(doubled, images[:256]), 2 * images[:256])
        assert sizes[3:] == [128, 128]
    counts = [1, 2, 3, 4, 5, 63, 64, 65, 127, 128, 200]
    assert [padded_size(count) for count in counts] == [
        1, 2, 4, 4, 8, 64, 64, 128, 128, 128, 200
    ]  # fmt: skip
    monkeypatch.setattr(backend, "whole_batches", False)
    assert [padded_size(count) for count in counts] == counts


def test_predict_brings_bytes_to_1() -> None:
    net = AllConv((8, 8, 1), 3, filters=2, seed=2)
    net.head[1].assign(np.array([1, 2, 3], np.float32))
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    expected = net(ops.convert_to_tensor(images.astype(np.float32) / 255))
    np.testing.assert_allclose(net.predict(images), ops.convert_to_numpy(expected), rtol=1e-5)


# Converted networks: the same weights in the defenses' own networks and in plain layers


def converted_kinds() -> dict[str, tuple[AllConv, tuple[int, int, int]]]:
    """One network of each kind with weights and biases at random, and its images' shape."""
    shape = (8, 8, 3)
    kinds: dict[str, AllConv] = {
        "plain": AllConv((12, 12, 3), 4, filters=3),
        "head of 3": AllConv(shape, 4, filters=3, head_size=3),
        "blur": BlurNet(shape, 4, filters=3),
        "discretize": CodeNet(shape, 4, filters=3),
        "jump": JumpNet(shape, 4, filters=3),
        "knn": EmbeddingNet(shape, 16, filters=3),
    }
    random = np.random.default_rng(0)
    for name, net in kinds.items():
        for kernel, bias in net.convs:
            kernel.assign(0.3 * random.standard_normal(kernel.shape).astype(np.float32))
            bias.assign(0.3 * random.standard_normal(bias.shape).astype(np.float32))
        if isinstance(net, JumpNet):
            net.height.assign(5.0)
            first = net.convs[0][1]  # without a bias the black image comes to 0: no jump there
            first.assign(0 * first)
        if name == "knn":  # so short that a length's smallest share would show
            for variable in net.head:
                variable.assign(1e-3 * variable)
    return {name: (net, (12, 12, 3) if name == "plain" else shape) for name, net in kinds.items()}


KINDS = ["plain", "head of 3", "blur", "discretize", "jump", "knn"]


def converted_images(shape: tuple[int, int, int]) -> np.ndarray:
    images = np.random.default_rng(1).random((3, *shape), dtype=np.float32)
    images[1] = (20 * images[1]).round() / 20  # on the code's thresholds
    images[2] = 0
    return images


@not_on_jax
@pytest.mark.parametrize("name", KINDS)
def test_plain_keras_layers_answer_as_the_network(name: str) -> None:
    net, shape = converted_kinds()[name]
    images = converted_images(shape)
    expected = ops.convert_to_numpy(net(ops.convert_to_tensor(images)))
    model = keras_model(net, shape)
    answer = ops.convert_to_numpy(model(ops.convert_to_tensor(images)))
    np.testing.assert_allclose(answer, expected, atol=1e-5 * np.abs(expected).max())


class Uncalled(AllConv):
    """Its transform is of no framework, its activation follows the values."""

    @override
    def transform(self, x: Any) -> Any:
        return np.asarray(x) / 2

    @override
    def activation(self, x: Any) -> Any:
        return x if float(ops.sum(x)) > 0 else -x

    @override
    def transformed_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        return shape


def test_a_hook_that_cannot_be_called_symbolically_is_named() -> None:
    with pytest.raises(ConversionError, match=r"Uncalled\.transform cannot be called on Keras's"):
        keras_model(Uncalled((8, 8, 1), 2, filters=1), (8, 8, 1))


def test_what_overrides_more_than_hooks_is_refused() -> None:
    class Doubled(AllConv):
        @override
        def call(self, x: Any, chance: Any = None) -> Any:
            return 2 * super().call(x, chance)

    net = Doubled((8, 8, 1), 2, filters=1)
    with pytest.raises(ConversionError, match="Doubled overrides call: expected changes in transf"):
        changed_hooks(net)


on_torch = pytest.mark.skipif(backend.name != "torch", reason="is of PyTorch alone")


@on_torch
@pytest.mark.parametrize("name", KINDS)
def test_the_plain_module_answers_as_the_network(name: str, tmp_path: Path) -> None:
    import torch

    from sparring.conversion.torch_model import load

    net, shape = converted_kinds()[name]
    images = converted_images(shape)
    expected = ops.convert_to_numpy(net(ops.convert_to_tensor(images)))
    for hook in changed_hooks(net):
        _write_hook(net, hook, shape, tmp_path / f"network-0.{hook}.pt2")
    file = tmp_path / "network-0.safetensors"
    file.write_bytes(save(torch_state(net), metadata={"network": json.dumps(plain_options(net))}))
    with torch.no_grad():
        answer = load(file)(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(answer, expected, atol=1e-5 * np.abs(expected).max())


@on_torch
@pytest.mark.parametrize("hook", ["transform", "activation"])
def test_a_hook_that_cannot_be_traced_is_named(hook: str, tmp_path: Path) -> None:
    net = Uncalled((8, 8, 1), 2, filters=1)
    with pytest.raises(ConversionError, match=f"Uncalled.{hook} cannot be traced by torch.export"):
        _write_hook(net, hook, (8, 8, 1), tmp_path / "hook.pt2")
    assert list(tmp_path.iterdir()) == []


@on_torch
def test_places_for_what_a_defense_changed_by_hand() -> None:
    import torch

    from sparring.conversion.torch_model import Network

    class Jump(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.nn.functional.leaky_relu(x, 0.2) + 5 * (x > 0)

    module = Network(1, 1, 1, 1)
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        module.convs[0].weight[0, 0, 1, 1] = 1  # the image itself
        module.convs[1].weight[0, 0, 1, 1] = -1  # its negative
        images = torch.tensor([0.0, 0.5]).reshape(2, 1, 1, 1).expand(2, 1, 8, 8)
        np.testing.assert_allclose(module.features(images)[:, 0, 0, 0].numpy(), [0, -0.1])
        module.activation = Jump()
        # At 0 there is no jump; 0.5 becomes 5.5, whose negative has a fifth of the slope.
        np.testing.assert_allclose(module.features(images)[:, 0, 0, 0].numpy(), [0, -1.1])
        plain = Network(1, 1, 1, 2)
        assert plain.head.kernel_size == (1, 1)
        plain.load_state_dict({**plain.state_dict(), "head.bias": torch.tensor([3.0, 4.0])})
        torch.nn.init.zeros_(plain.head.weight)
        np.testing.assert_allclose(plain(images)[0].numpy(), [3, 4])
        plain.output = torch.nn.Softmax(dim=-1)
        np.testing.assert_allclose(plain(images)[0].numpy(), [0.268941, 0.731059], rtol=1e-5)
        plain.head_activation = torch.nn.ReLU6()
        plain.head.bias[1] = 9
        np.testing.assert_allclose(plain(images)[0].numpy(), [0.047426, 0.952574], rtol=1e-4)


@on_torch
def test_a_loaded_module_serves_and_damaged_tensors_are_named(tmp_path: Path) -> None:
    from sparring.conversion.torch_model import Network, load

    file = tmp_path / "network-0.safetensors"
    state = {name: value.numpy() for name, value in Network(1, 1, 1, 2).state_dict().items()}
    options = json.dumps({"channels": 1, "filters": 1, "scales": 1, "outputs": 2})
    whole = save(state, metadata={"network": options})
    file.write_bytes(whole)
    loaded = load(file)
    assert not loaded.training
    for name, value in loaded.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[name])
    file.write_bytes(whole[:-4])
    with pytest.raises(ValueError, match="damaged"):
        load(file)
    # The head's bias as numbers of another kind, from before the numbers, and of nothing.
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    end = header["head.bias"]["data_offsets"][1]
    for changes in ({"dtype": "F64"}, {"data_offsets": [-8, 0]}, {"data_offsets": [end, end]}):
        damaged = {**header, "head.bias": {**header["head.bias"], **changes}}
        text = json.dumps(damaged).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + size :])
        with pytest.raises(ValueError, match=r"damaged: head\.bias is"):
            load(file)


def test_the_card_tells_the_largest_difference_of_all_networks(tmp_path: Path) -> None:
    Run(tmp_path).write(
        RunRecord(
            defense="pair", dataset={"name": "noise"}, settings={}, seed=3, backend="torch",
            status="finished", weights_sha256="ab", results=Results(test_accuracy=0.975),
        )
    )  # fmt: skip
    info = DatasetInfo("noise", (8, 9, 3), ("a", "b"), False, 2, 2, "")
    defense = SimpleNamespace(
        path=tmp_path, name="pair", outside="the vote", info=info, nets=[1, 2]
    )
    found = [{"largest_logit": 9.0, "largest_difference": each} for each in (2e-6, 3e-6)]
    networks = {f"network-{number}": each for number, each in enumerate(found)}
    proof = cast(convert.Proof, {"inputs": 256, "networks": networks})
    card = convert._card(cast(Defense, defense), Run(tmp_path).read(), "keras", proof)
    assert "2 networks converted by" in card
    assert "Left out: the vote." in card
    assert "on 256 inputs: 3e-06" in card
    assert "float32 in [0, 1], [B, 8, 9, 3]" in card
    assert "test accuracy 97.50%; seed 3" in card


def test_half_of_the_images_a_conversion_is_proven_on_are_of_the_data_set() -> None:
    class Shaped:
        info = DatasetInfo("noise", (8, 8, 1), ("a", "b"), False, 200, 200, "")

    defense = cast(Defense, Shaped())
    alone = convert._inputs(defense, None)
    assert alone.shape == (256, 8, 8, 1)
    assert alone.dtype == np.float32
    assert alone.min() >= 0
    assert alone.max() < 1
    x = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1), dtype=np.uint8)
    y = np.arange(200, dtype=np.int32) % 2
    for count, known in ((200, 128), (30, 30)):
        dataset = Dataset("noise", x, y, x[:count], y[:count], ("a", "b"))
        images = convert._inputs(defense, dataset)
        np.testing.assert_allclose(images[:known], x[:known] / 255, rtol=1e-6)
        np.testing.assert_array_equal(images[known:], alone[known:])


class Answering:
    """A network whose logits are given."""

    variables: tuple[()] = ()

    def __init__(self, logits: np.ndarray) -> None:
        self.logits = logits.astype(np.float32)

    def __call__(self, x: Any) -> Any:
        return ops.convert_to_tensor(self.logits[: x.shape[0]])


@pytest.mark.parametrize("sign", [1, -1])
def test_a_conversion_is_held_to_a_ten_thousandth_of_the_largest_logit(sign: int) -> None:
    logits = np.zeros((4, 3))
    logits[1, 2] = -20  # the largest, though negative
    logits[2, 0] = 0.5
    net = cast(AllConv, Answering(logits))
    images = np.zeros((4, 8, 8, 1), np.float32)
    for difference, refused in ((0.0019, False), (0.0021, True), (np.nan, True)):
        other = logits.astype(np.float32)
        other[2, 0] += sign * difference
        if refused:
            with pytest.raises(ConversionError, match=r"network 3: expected logits within 0\.0001"):
                convert._compare(net, lambda x, other=other: other, images, 3)  # type: ignore[misc]
            continue
        found = convert._compare(net, lambda x, other=other: other, images, 3)  # type: ignore[misc]
        assert found["largest_logit"] == 20
        assert found["largest_difference"] == pytest.approx(difference, rel=1e-3)

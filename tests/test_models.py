"""Models of one's own: taken as they are, told what is wrong with them, judged as any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparring
from sparring import backend
from sparring.backend import keras, ops
from sparring.conversion import torch_model
from sparring.conversion.convert import convert
from sparring.data import Dataset
from sparring.defenses.defense import Defense
from sparring.errors import AttackError, ModelError, SettingsError
from sparring.evaluation.verdict import Verdict

torch: Any = pytest.importorskip("torch")
nn = torch.nn

THREAT = sparring.Linf(0.1)
on_torch = pytest.mark.skipif(backend.name != "torch", reason="asks a module of PyTorch")


def patterned(kind: Callable[..., Any] = nn.Linear) -> Any:
    """A network [B, 1, 8, 8] -> [B, 4] that knows some of the patterns."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), kind(64, 4)).eval()


def evaluated(model: Any, dataset: Dataset, attack: Any = "pgd", **options: Any) -> Verdict:
    defense = sparring.Defense.of(model, dataset, **options)
    return sparring.evaluate(defense, attack, THREAT, dataset, n=16, check=False)


def known_to(model: Any, dataset: Dataset, **options: Any) -> Dataset:
    """The images of a data set with the labels that a model gives them."""
    y = sparring.Defense.of(model, dataset, **options).classify(dataset.x_test).argmax(axis=1)
    y = y.astype(np.int32)
    return Dataset("known", dataset.x_test, y, dataset.x_test, y, dataset.class_names)


class Shaped(nn.Module):  # type: ignore[name-defined]
    """Gives what a function makes of the images [B, 1, 8, 8]."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.weight, self.function = nn.Linear(64, 4), function

    def forward(self, x: Any) -> Any:
        return self.function(self.weight(x.flatten(1)))


# The numbers agree


@pytest.fixture(scope="module")
def exported(digits_baseline: Defense, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The baseline on the digits as network-0.safetensors, .pt2, .onnx and .keras."""
    folder = tmp_path_factory.mktemp("exported")
    assert digits_baseline.path is not None
    for target in ("torch", "keras", "onnx"):
        convert(digits_baseline.path, target, folder / target)
    return folder


def baseline_module(folder: Path) -> Any:
    return torch_model.load(folder / "torch" / "network-0.safetensors")


@on_torch
@pytest.mark.parametrize("attack", ["pgd", "square"])
@pytest.mark.parametrize("kind", ["module", "pt2", "keras", "onnx", "object", "function"])
def test_a_defense_of_ours_gets_the_same_verdict_as_a_model(
    exported: Path, digits_baseline: Defense, kind: str, attack: str
) -> None:
    if attack == "pgd" and kind in ("onnx", "function"):
        pytest.skip("gives no gradients")
    models: dict[str, Callable[[], Any]] = {
        "module": lambda: baseline_module(exported),
        "object": lambda: sparring.as_torch_module(digits_baseline),
        "pt2": lambda: exported / "torch" / "network-0.pt2",
        "keras": lambda: exported / "keras" / "network-0.keras",
        "onnx": lambda: exported / "onnx" / "network-0.onnx",
        "function": lambda: digits_baseline.classify,
    }
    digits = sparring.load_data("digits")
    made = sparring.PGD(steps=10) if attack == "pgd" else sparring.Square(queries=60)
    options = {"name": kind}
    if kind == "function":
        model: Any = lambda images: digits_baseline.classify(images)  # noqa: E731
    else:
        model = models[kind]()
    defense = sparring.Defense.of(model, digits, **options)
    ours, theirs = (
        sparring.evaluate(each, made, THREAT, digits, n=30, check=False)
        for each in (digits_baseline, defense)
    )
    np.testing.assert_array_equal(theirs.rows["clean"], ours.rows["clean"])
    np.testing.assert_array_equal(theirs.success, ours.success)
    np.testing.assert_array_equal(theirs.answer, ours.answer)
    assert theirs.reasons == ours.reasons
    assert 0.2 < ours.success_rate.value < 1
    assert theirs.about.defense == kind
    assert theirs.about.weights_sha256 != ours.about.weights_sha256
    assert (theirs.about.weights_sha256 is None) == (kind == "function")
    assert theirs.about.model is not None
    assert ours.about.model is None


@pytest.mark.backend
def test_a_keras_model_gets_the_same_verdict_on_every_backend(digits_baseline: Defense) -> None:
    from sparring.conversion.targets import keras_model

    digits = sparring.load_data("digits")
    model = keras_model(digits_baseline.nets[0], digits_baseline.info.shape)
    defense = sparring.Defense.of(model, digits, name="same")
    made = sparring.PGD(steps=10)
    ours, theirs = (
        sparring.evaluate(each, made, THREAT, digits, n=20, check=False)
        for each in (digits_baseline, defense)
    )
    np.testing.assert_array_equal(theirs.success, ours.success)
    assert theirs.reasons == ours.reasons
    assert 0.2 < ours.success_rate.value < 1
    before = defense.weights_sha256
    model.weights[0].assign(model.weights[0] + 1)
    assert defense.weights_sha256 != before


@pytest.mark.backend
def test_functions_on_every_backend(dataset: Dataset) -> None:
    weights = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)

    def tensors(x: Any) -> Any:
        return ops.matmul(ops.reshape(x, (x.shape[0], 64)), ops.convert_to_tensor(weights))

    def arrays(images: np.ndarray) -> np.ndarray:
        assert isinstance(images, np.ndarray)
        logits = images.reshape(-1, 64) @ weights
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponents / exponents.sum(axis=1, keepdims=True)

    known = known_to(arrays, dataset)
    followed = evaluated(tensors, known, sparring.PGD(steps=5), tensors=True, outputs="logits")
    asked = evaluated(arrays, known, sparring.Square(queries=40))
    assert followed.success_rate.value > 0.5
    assert followed.clean_accuracy.value == asked.clean_accuracy.value == 1
    assert followed.backward > 0
    assert asked.success_rate.value > 0.2
    noise = evaluated(arrays, known, sparring.Noise(draws=3))
    assert noise.success_rate.value <= asked.success_rate.value
    with pytest.raises(AttackError, match=r"gives answers alone, no gradients.*square"):
        evaluated(arrays, known, sparring.PGD(steps=2))


@pytest.mark.backend
def test_checks_on_a_model_without_gradients_come_to_their_end(dataset: Dataset) -> None:
    def flat(images: np.ndarray) -> np.ndarray:
        return np.tile(np.array([[0.7, 0.1, 0.1, 0.1]], np.float32), (len(images), 1))

    def lazy(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        return x

    defense = sparring.Defense.of(flat, dataset)
    verdict = sparring.evaluate(defense, lazy, THREAT, dataset, n=16)
    names = {warning.name for warning in verdict.warnings}
    assert "check-failed" not in names
    assert "unlimited" in names
    assert verdict.checked


@on_torch
def test_wrappers_estimate_what_a_model_does_not_give(dataset: Dataset) -> None:
    module = patterned()

    def answers(images: np.ndarray) -> np.ndarray:
        logits = module(torch.from_numpy(images.transpose(0, 3, 1, 2)))
        return logits.softmax(1).detach().numpy()

    known = known_to(answers, dataset)
    wrapped = sparring.Estimated(sparring.Defense.of(answers, known), samples=20)
    verdict = sparring.evaluate(wrapped, sparring.PGD(steps=5), THREAT, known, n=16)
    assert verdict.success_rate.value > 0.3
    assert "check-failed" not in {warning.name for warning in verdict.warnings}


@on_torch
def test_images_made_for_another_model_are_tried_on_one_without_gradients(dataset: Dataset) -> None:
    module = patterned()

    def answers(images: np.ndarray) -> np.ndarray:
        logits = module(torch.from_numpy(images.transpose(0, 3, 1, 2)))
        return logits.softmax(1).detach().numpy()

    known = known_to(answers, dataset)
    source = sparring.Defense.of(module, known)
    verdict = evaluated(answers, known, sparring.Transfer(source, sparring.PGD(steps=10)))
    assert verdict.success_rate.value > 0.5
    assert verdict.backward == 0


# What is wrong is told


@on_torch
def test_probabilities_in_place_of_logits_are_told(dataset: Dataset) -> None:
    with_softmax = nn.Sequential(patterned(), nn.Softmax(dim=1)).eval()
    with pytest.raises(ModelError, match=r"expected logits, got rows that are nonnegative and sum"):
        sparring.Defense.of(with_softmax, dataset)
    with pytest.raises(ModelError, match=r"expected probabilities.*outputs=logits"):
        sparring.Defense.of(patterned(), dataset, outputs="probabilities")
    plain, declared = (
        sparring.Defense.of(patterned(), dataset),
        sparring.Defense.of(with_softmax, dataset, outputs="probabilities"),
    )
    np.testing.assert_allclose(
        declared.classify(dataset.x_test), plain.classify(dataset.x_test), atol=1e-6
    )
    x = ops.convert_to_tensor(dataset.x_test.astype(np.float32) / 255)

    def slope(defense: Defense) -> Any:
        """Of the first logit over the second, whatever both are counted from."""

        def lead(images: Any) -> Any:
            logits = defense.logits(images)
            return logits[:, 0] - logits[:, 1]

        return sparring.gradient(lead, x)

    torch.testing.assert_close(slope(plain), slope(declared), rtol=1e-3, atol=1e-4)


@on_torch
def test_training_mode_is_left_and_told(dataset: Dataset) -> None:
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(), nn.Linear(64, 4))
    assert module.training
    defense = sparring.Defense.of(module, dataset, name="mine")
    assert not any(part.training for part in module.modules())
    assert "mine was in training mode; it is in evaluation mode now" in defense.remarks
    before = defense.classify(dataset.x_test)
    module.train()  # later, by mistake
    np.testing.assert_array_equal(defense.classify(dataset.x_test), before)
    told: list[str] = []
    sparring.evaluate(
        *(defense, "noise", THREAT, dataset),
        n=16,
        check=False,
        progress=lambda done, total, text: told.append(text),
    )
    assert any("training mode" in text for text in told)


@on_torch
def test_dropout_that_is_left_on_is_told_and_can_be_declared(dataset: Dataset) -> None:
    dropping = Shaped(lambda logits: nn.functional.dropout(logits, 0.5, training=True))
    with pytest.raises(ModelError, match=r"answered otherwise.*Declare stochastic=true"):
        sparring.Defense.of(dropping, dataset)
    defense = sparring.Defense.of(dropping, dataset, stochastic=True)
    first, again, other = (defense.classify(dataset.x_test, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    state = torch.get_rng_state()
    defense.classify(dataset.x_test)
    assert torch.equal(torch.get_rng_state(), state)
    verdict = sparring.evaluate(defense, sparring.PGD(steps=2), THREAT, dataset, n=16, draws=5)
    assert verdict.about.draws == 5
    assert verdict.asked == [0]
    assert len({*verdict.clean.tolist()}) > 2


def test_a_function_that_draws_is_told() -> None:
    info = sparring.load_data("digits").info
    random = np.random.default_rng(0)  # its own, which nobody can seed

    def drawing(images: np.ndarray) -> np.ndarray:
        return random.dirichlet(np.ones(10), len(images)).astype(np.float32)

    def given_a_seed(images: np.ndarray, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).dirichlet(np.ones(10), len(images))

    for function in (drawing, given_a_seed):
        with pytest.raises(ModelError, match="Declare stochastic=true"):
            sparring.Defense.of(function, info)
    defense = sparring.Defense.of(given_a_seed, info, stochastic=True)
    x = np.zeros((3, 8, 8, 1), np.float32)
    np.testing.assert_array_equal(defense.classify(x, 3), defense.classify(x, 3))
    assert not np.allclose(defense.classify(x, 3), defense.classify(x, 4))


@pytest.mark.backend
def test_a_layer_of_keras_that_draws_is_told(dataset: Dataset) -> None:
    class Noisy(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.generator = keras.random.SeedGenerator(0)

        def call(self, x: Any) -> Any:
            return x + keras.random.normal(x.shape[1:], seed=self.generator)

    layers = [keras.layers.Flatten(), keras.layers.Dense(4), Noisy()]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    with pytest.raises(ModelError, match="Declare stochastic=true"):
        sparring.Defense.of(model, dataset)
    defense = sparring.Defense.of(model, dataset, stochastic=True)
    x = dataset.x_test
    np.testing.assert_allclose(defense.classify(x, 5), defense.classify(x, 5), atol=1e-6)
    assert not np.allclose(defense.classify(x, 5), defense.classify(x, 6))


@on_torch
def test_answers_that_follow_from_the_batch_are_told(dataset: Dataset) -> None:
    centered = Shaped(lambda logits: logits - logits.mean(dim=0))
    with pytest.raises(ModelError, match="depends on the other images of the batch"):
        sparring.Defense.of(centered, dataset)


WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "too many": (lambda y: torch.cat([y, y[:, :1]], 1), r"expected logits \[8, 4\].*\[8, 5\]"),
    "one each": (lambda y: y[:, 0], r"expected logits \[8, 4\] of 8 images.*float32 \[8\]"),
    "a pair": (lambda y: (y, y), "expected logits .*got 2 values"),
    "a dict": (lambda y: {"logits": y}, "got dict"),
    "an array": (lambda y: y.detach().numpy(), "got a numpy array float32"),
    "not finite": (lambda y: y / 0, "expected finite logits"),
    "an error": (lambda y: y.reshape(3, 5), "raised RuntimeError.*shape '.3, 5.'.*test_models.py"),
}


@on_torch
@pytest.mark.parametrize("wrong", WRONG)
def test_answers_of_another_form_are_told(dataset: Dataset, wrong: str) -> None:
    function, message = WRONG[wrong]
    with pytest.raises(ModelError, match=rf"(?s)shaped: .*{message}"):
        sparring.Defense.of(Shaped(function), dataset, name="shaped")


@on_torch
def test_the_other_layout_is_named(dataset: Dataset) -> None:
    channels_last = nn.Sequential(nn.Flatten(1, 2), nn.Flatten(), nn.Linear(64, 4))
    assert sparring.Defense.of(channels_last, dataset)  # both do, with one channel
    convolution = nn.Sequential(
        nn.Conv2d(8, 2, (8, 1)), nn.Flatten(), nn.Linear(2, 4)
    )  # of [B, 8, 8, 1]
    with pytest.raises(ModelError, match=r"\[8, 1, 8, 8\].*NCHW.*\[8, 8, 8, 1\].*layout=NHWC"):
        sparring.Defense.of(convolution, dataset)
    assert sparring.Defense.of(convolution, dataset, layout="NHWC").classify(
        dataset.x_test
    ).shape == (16, 4)


@on_torch
def test_a_model_that_knows_nothing_is_told(make_dataset: Callable[..., Dataset]) -> None:
    dataset = make_dataset(test=64)
    wrong = Shaped(lambda logits: 0 * logits + torch.tensor([0.0, 0.0, 0.0, 9.0]))
    [remark] = [text for text in sparring.Defense.of(wrong, dataset).remarks if "right" in text]
    assert "answers 16 of the first 64 test images right" in remark
    assert "normalize" in remark


def test_what_is_declared_is_checked(dataset: Dataset) -> None:
    for options, message in (
        ({"layout": "HWCN"}, "unknown layout of a model 'HWCN'"),
        ({"outputs": "logit"}, "Did you mean 'logits'"),
        ({"stochastic": "yes"}, "stochastic: expected true or false, got 'yes'"),
        ({"threshold": float("nan")}, "threshold: expected a number"),
        ({"name": "a/b"}, "name of a model: expected a name for a folder"),
        ({"name": "blur"}, "expected one that no defense here has"),
        ({"shape": 3}, "unknown option of a model 'shape'"),
    ):
        with pytest.raises(SettingsError, match=message):
            sparring.Defense.of(len, dataset, **options)
    for model in (3, None, dict, object()):
        with pytest.raises(ModelError, match=r"expected a torch.nn.Module, a Keras model"):
            sparring.Defense.of(model, dataset)


@on_torch
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_types_answer_float32(dataset: Dataset, dtype: str) -> None:
    module = patterned().to(getattr(torch, dtype))
    defense = sparring.Defense.of(module, dataset)
    logits = defense.logits(ops.convert_to_tensor(dataset.x_test.astype(np.float32) / 255))
    assert logits.dtype == torch.float32
    expected = sparring.Defense.of(patterned(), dataset).classify(dataset.x_test)
    np.testing.assert_allclose(defense.classify(dataset.x_test), expected, atol=0.03)
    assert defense.weights_sha256 is not None


@on_torch
def test_gradients_that_are_not_there_are_warned_of(dataset: Dataset) -> None:
    rounded = Shaped(lambda logits: (5 * logits).round())
    detached = Shaped(lambda logits: logits.detach())
    for module in (rounded, detached):
        known = known_to(module, dataset)
        defense = sparring.Defense.of(module, known)
        verdict = sparring.evaluate(defense, sparring.PGD(steps=3), sparring.Linf(0.01), known, 16)
        names = {warning.name for warning in verdict.warnings}
        assert "zero-gradients" in names

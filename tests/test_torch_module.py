"""A defense as a module of PyTorch, which has to behave as any."""

from __future__ import annotations

import copy
import io
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparring
from sparring import backend
from sparring.attacks import BPDA, EOT
from sparring.conversion.targets import TARGETS, torch_state
from sparring.defenses import DEFENSES, get
from sparring.defenses.defense import Defense
from sparring.errors import ConversionError, DataError, SettingsError
from sparring.randomness import Chance
from tests.conftest import Linear

torch = pytest.importorskip("torch")

INFO = sparring.data.DatasetInfo("patterns", (8, 8, 3), tuple("abcd"), False, 1, 1, "")
SEED = 3

on_torch = pytest.mark.skipif(backend.name != "torch", reason="asks defenses on PyTorch")


def untrained(name: str) -> Defense:
    """A defense with weights as they are drawn at first, and arrays at random beside them."""
    kind = get(name)
    settings = kind.course_settings.replace(filters=3)
    recipes = kind.recipes(INFO, settings, 0)
    nets = [recipe.net() for recipe in recipes]
    for recipe, net in zip(recipes, nets, strict=True):
        recipe.on_progress(net, 1.0)
    random, features = np.random.default_rng(0), nets[0].head[0].shape[2]
    arrays = {
        "0/embeddings": random.normal(size=(40, 128)).astype(np.float32),
        "0/labels": np.arange(40, dtype=np.int32) % 4,
        "0/patterns": random.random((4, 8, 8, 3), dtype=np.float32),
        "0/signatures": random.random((4, features), dtype=np.float32),
    }
    return kind(INFO, settings, nets, arrays)


@pytest.fixture
def images() -> Any:
    """Images [B, C, H, W]; the last two are alike."""
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.cat([images, images[-1:]])


def nhwc(images: Any) -> Any:
    return images.permute(0, 2, 3, 1)


def logits_and_gradient(defense: Any, images: Any) -> tuple[Any, Any]:
    """What the defense itself gives, the gradient of the first logit's sum in NCHW."""

    def asked(x: Any) -> Any:
        return defense.logits(x, Chance(x, SEED) if defense.stochastic else None)

    gradient = sparring.gradient(lambda x: asked(x)[:, 0], nhwc(images))
    return asked(nhwc(images)).detach(), gradient.permute(0, 3, 1, 2)


@on_torch
@pytest.mark.parametrize("name", DEFENSES)
def test_it_behaves_as_any_module(name: str, images: Any) -> None:
    defense = untrained(name)
    module = sparring.as_torch_module(defense, seed=np.int64(SEED))  # type: ignore[arg-type]
    expected, gradient = logits_and_gradient(defense, images)
    close = {"rtol": 1e-4, "atol": 1e-5}

    # Frozen, in evaluation mode, with weights that are all there is to count.
    parameters = dict(module.named_parameters())
    assert len(parameters) == sum(len(net.trainable_variables) for net in defense.nets)
    assert set(parameters) <= set(module.state_dict())
    assert not module.training
    given = images.clone().requires_grad_()
    logits = module(given)
    torch.testing.assert_close(logits.detach(), expected, **close)
    logits[:, 0].sum().backward()
    torch.testing.assert_close(given.grad, gradient, **close)
    assert not any(parameter.requires_grad for parameter in parameters.values())
    assert all(parameter.grad is None for parameter in parameters.values())
    torch.testing.assert_close(module.train()(images), module.eval()(images), rtol=0, atol=0)

    # Copies answer alike, and are no one else's.
    written = io.BytesIO()
    torch.save(module, written)
    written.seek(0)
    copies = (
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(written, weights_only=False),
    )
    for copied in copies:
        torch.testing.assert_close(copied(images), module(images), rtol=0, atol=0)
    with torch.no_grad():
        for parameter in copies[0].parameters():
            parameter.zero_()
    torch.testing.assert_close(module(images).detach(), expected, **close)
    torch.testing.assert_close(logits_and_gradient(defense, images)[0], expected)
    copies[0].load_state_dict(module.state_dict())
    torch.testing.assert_close(copies[0](images), module(images), rtol=0, atol=0)

    # Function transforms see the weights, and images one by one.
    zeros = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    other = torch.func.functional_call(module, zeros, (images,))
    assert not torch.allclose(other, module(images))
    singly = torch.func.vmap(lambda image: module(image[None])[0])(images)
    torch.testing.assert_close(singly, module(images), **close)
    one = torch.func.grad(lambda x: module(x)[:, 0].sum())(images)
    torch.testing.assert_close(one, gradient, **close)
    with torch.inference_mode():
        torch.testing.assert_close(module(images), expected, **close)

    # In other types it is right or refuses.
    if type(module).__name__ == "Network":
        double = copy.deepcopy(module).double()(images.double())
        assert double.dtype == torch.float64
        torch.testing.assert_close(double, expected.double(), **close)
    else:
        with pytest.raises(SettingsError, match="defenses compute in float32"):
            module.double()
        torch.testing.assert_close(module(images), expected, **close)
    assert module.to("cpu") is module


@on_torch
@pytest.mark.parametrize("name", [name for name in DEFENSES if DEFENSES[name].stochastic])
def test_draws_are_new_at_every_call_unless_a_seed_is_given(name: str, images: Any) -> None:
    defense = untrained(name)
    module = sparring.as_torch_module(defense)
    torch.manual_seed(0)
    first, second = module(images), module(images)
    assert not torch.allclose(first, second)
    assert not torch.allclose(first[-1], first[-2])  # the same image, copied within a batch
    torch.manual_seed(0)
    torch.testing.assert_close(module(images), first, rtol=0, atol=0)
    repeated = sparring.as_torch_module(defense, seed=7)
    answers = torch.softmax(repeated(images), dim=1).detach().numpy()
    np.testing.assert_allclose(answers, defense.classify(nhwc(images), 7), rtol=1e-4, atol=1e-5)


@on_torch
def test_wrappers_are_followed_and_copied(images: Any) -> None:
    wrapped = EOT(BPDA(untrained("transform"), transform=torch.sigmoid), draws=3)
    module = sparring.as_torch_module(wrapped, seed=SEED)
    expected, gradient = logits_and_gradient(wrapped, images)
    for copied in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        given = images.clone().requires_grad_()
        logits = copied(given)
        torch.testing.assert_close(logits.detach(), expected, rtol=1e-4, atol=1e-5)
        logits[:, 0].sum().backward()
        torch.testing.assert_close(given.grad, gradient, rtol=1e-4, atol=1e-5)


@on_torch
@pytest.mark.parametrize("name", ["baseline", "blur"])
def test_pytorch_s_own_settings_change_nothing(name: str, images: Any, tmp_path: Path) -> None:
    defense = untrained(name)
    expected, gradient = logits_and_gradient(defense, images)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            module = sparring.as_torch_module(defense).to("cpu")
        [answer] = TARGETS["torch"].write(defense, tmp_path)
        converted = answer(nhwc(images).numpy())
    finally:
        torch.set_default_dtype(torch.float32)
    given = images.clone().requires_grad_()
    logits = module(given)
    logits[:, 0].sum().backward()
    torch.testing.assert_close(logits.detach(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(given.grad, gradient, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(converted, expected.numpy(), rtol=1e-4, atol=1e-5)


@on_torch
@pytest.mark.parametrize("name", ["baseline", "jump"])
def test_what_was_fine_tuned_is_the_module_s(name: str, images: Any) -> None:
    defense = untrained(name)
    module, before = sparring.as_torch_module(defense), defense.logits(nhwc(images)).detach()
    module.requires_grad_(True)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    module(images)[:, 0].sum().backward()
    optimizer.step()
    assert not torch.allclose(module(images), before)
    torch.testing.assert_close(defense.logits(nhwc(images)), before)


@pytest.mark.backend
def test_a_plain_network_is_what_a_conversion_gives_on_every_backend(images: Any) -> None:
    defense = untrained("baseline")
    module = sparring.as_torch_module(defense)
    for name, weight in torch_state(defense.nets[0]).items():
        np.testing.assert_array_equal(module.state_dict()[name].numpy(), weight)
    found = torch.softmax(module(images), dim=1).numpy()
    np.testing.assert_allclose(found, defense.classify(nhwc(images).numpy()), atol=1e-5)


@pytest.mark.backend
@pytest.mark.parametrize("seed", [-1, 2**31, 1.5, True, "1", float("nan")])
def test_wrong_use_is_refused(linear: Linear, seed: Any, monkeypatch: Any) -> None:
    defense = untrained("baseline")
    with pytest.raises(SettingsError, match="seed: expected an integer from 0"):
        sparring.as_torch_module(defense, seed)
    with pytest.raises(SettingsError, match="expected a defense, as"):
        sparring.as_torch_module("runs/digits/baseline")  # type: ignore[arg-type]
    if backend.name == "torch":
        module = sparring.as_torch_module(linear)
        with pytest.raises(DataError, match=r"expected images \[B, 1, 8, 8\], floats"):
            module(torch.zeros(2, 8, 8, 1))
        with pytest.raises(DataError, match=r"floats in \[0, 1\], found torch.uint8"):
            module(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    else:
        monkeypatch.delitem(sys.modules, "sparring.attacks.torch_defense", raising=False)
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(ConversionError, match="as_torch_module: needs PyTorch"):
            sparring.as_torch_module(defense)

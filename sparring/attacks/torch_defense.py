"""A defense as a torch.nn.Module, where the backend is PyTorch: its logits, or its decisions."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any, final

import torch
from typing_extensions import override

from sparring.attacks.gradients import Wrapped, unwrapped
from sparring.backend import keras
from sparring.defenses.defense import Defense
from sparring.errors import DataError, SettingsError
from sparring.randomness import Chance
from sparring.tensors import Images, Logits

SEEDS = 2**31


class TorchDefense(torch.nn.Module):
    """A defense's logits, NCHW in, computed with weights of the module's own.

    The defense is asked with the module's tensors in place of its own, so that what is done to the
    module (moving, copying, functional calls) is done to the answer, and nothing to the defense.

    Args:
        defense: a defense, or one in wrappers.
        seed: of its draws; None draws anew at every call.

    Attributes:
        weights: what was trained, variable by variable.
        ramps: variables that are not trained.
        arrays: the defense's other tensors, by the names of its attributes.
        seed: as given.
    """

    def __init__(self, defense: Defense | Wrapped, seed: int | None = None) -> None:
        """Copy the weights."""
        super().__init__()
        self.asked, self.seed = _Asked(defense), seed
        inner, _ = unwrapped(defense)
        self.weights = torch.nn.ParameterList(
            torch.nn.Parameter(variable.value.detach().clone())
            for variable in _variables(inner, trainable=True)
        )
        self.ramps, self.arrays = torch.nn.Module(), torch.nn.Module()
        for number, variable in enumerate(_variables(inner, trainable=False)):
            self.ramps.register_buffer(str(number), variable.value.detach().clone())
        for name, value in vars(inner).items():
            if isinstance(value, torch.Tensor):
                self.arrays.register_buffer(name, value.detach().clone())

    @override
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the logits [B, K] of images float32 [B, C, H, W] in [0, 1]."""
        defense = self.asked.defense
        inner, _ = unwrapped(defense)
        height, width, channels = inner.info.shape
        if images.shape[1:] != (channels, height, width) or not images.is_floating_point():
            raise DataError(
                f"expected images [B, {channels}, {height}, {width}], floats in [0, 1], found "
                f"{images.dtype} {list(images.shape)}"
            )
        # A copy with the module's tensors: other threads may be asking with theirs.
        own = copy.copy(inner)
        vars(own).update(self.arrays.named_buffers())
        asked = defense.around(own) if isinstance(defense, Wrapped) else own
        variables = [
            *zip(_variables(inner, trainable=True), self.weights, strict=True),
            *zip(_variables(inner, trainable=False), self.ramps.buffers(), strict=True),
        ]
        first = next(chain(self.parameters(), self.buffers()), images)
        with keras.device(str(first.device)), keras.StatelessScope(variables):
            x = images.permute(0, 2, 3, 1)
            logits = self.answer(asked, x, self._chance(x) if inner.stochastic else None)
        return following(self, (images,), logits)

    def answer(self, asked: Any, x: Images, chance: Chance | None) -> Logits:
        """Compute what the module gives.

        Args:
            asked: the defense, in its wrappers, with the module's tensors.
            x: images float32 [B, H, W, C].
            chance: their random numbers, for a stochastic defense.

        Returns:
            float32 [B, K].
        """
        return asked.logits(x, chance)

    def _chance(self, x: torch.Tensor) -> Chance:
        if self.seed is not None:
            return Chance(x, self.seed)
        # One for each image: copies of an image in a batch, as averaging attacks make, differ.
        return Chance(x, torch.randint(SEEDS, x.shape[:1], device=x.device))

    @override
    def _apply(self, fn: Any, recurse: bool = True) -> TorchDefense:
        dtype = fn(torch.empty(1, dtype=torch.float32)).dtype
        if dtype != torch.float32:
            raise SettingsError(
                f"expected a change of device, found one to {dtype}: defenses compute in float32"
            )
        super()._apply(fn, recurse)
        return self


@final
class Decisions(TorchDefense):
    """The decisions of a defense on images of one label: what is rejected answers that label.

    So libraries, which know of no rejection, take a rejected image for one that they failed on. Its
    label's logit is raised to 1 above the others; the gradient stays that of the logits.

    Args:
        defense: a defense, or one in wrappers. It draws anew at every call, where it draws.
        label: of all images that the module will be asked about, from 0 to K - 1.
    """

    def __init__(self, defense: Defense | Wrapped, label: int) -> None:
        """Copy the weights."""
        super().__init__(defense)
        self.label = label

    @override
    def answer(self, asked: Any, x: Images, chance: Chance | None) -> Logits:
        logits = asked.logits(x, chance)  # [B, K]
        if not asked.detects:
            return logits
        with torch.no_grad():
            passed = asked.scores(x, chance) <= asked.threshold  # [B]; NaN is rejected, as judged
            passed |= logits.argmax(dim=1) == self.label
            raised = torch.zeros_like(logits)
            raised[:, self.label] = logits.amax(dim=1) + 1 - logits[:, self.label]
        return torch.where(passed[:, None], logits, logits + raised)


class _Asked:
    """The defense that a module asks. Copies share it: what they change is in the module."""

    def __init__(self, defense: Defense | Wrapped) -> None:
        self.defense = defense

    def __deepcopy__(self, memo: dict[int, Any]) -> _Asked:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Keras's layers cannot be pickled, but be made anew; their weights are the module's.
        inner, _ = unwrapped(self.defense)
        if inner.described is not None:
            raise SettingsError(
                f"{inner.name}: expected a trained defense to pickle a module of, got a model of "
                "one's own; pickle that itself"
            )
        wrappers = self.defense.around(None) if isinstance(self.defense, Wrapped) else None
        return _asked, (type(inner), inner.info, inner.settings, inner.arrays, wrappers)


def _asked(
    kind: type[Defense], info: Any, settings: Any, arrays: Any, wrappers: Wrapped | None
) -> _Asked:
    """Make anew what was pickled."""
    nets = [recipe.net() for recipe in kind.recipes(info, settings, 0)]
    defense = kind(info, settings, nets, arrays)
    return _Asked(defense if wrappers is None else wrappers.around(defense))


def _variables(defense: Defense, trainable: bool) -> list[Any]:
    return [variable for variable in defense.variables if variable.trainable == trainable]


def following(module: torch.nn.Module, given: tuple[Any, ...], logits: Any) -> Any:
    """Let logits follow from images by a gradient of zero where they have none.

    Behind a vote or a code PyTorch sees no way from one to the other, and an attack would end in
    its error. The arguments are those of a forward hook.
    """
    images = given[0]
    if not images.requires_grad:
        return logits
    return logits + (0 * images).flatten(1).sum(dim=1, keepdim=True).to(logits.dtype)

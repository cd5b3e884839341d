"""Defenses as other libraries' attacks want them."""

from __future__ import annotations

import tempfile
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring import backend
from sparring.errors import ConversionError, SettingsError

if TYPE_CHECKING:
    from sparring.attacks.gradients import Wrapped
    from sparring.defenses.defense import Defense


def as_torch_module(defense: Defense | Wrapped, seed: int | None = None) -> Any:
    """Make a torch.nn.Module that answers as the defense does: NCHW images in, logits out.

    AutoAttack, torchattacks, foolbox and the Adversarial Robustness Toolbox take such a module. It
    has weights of its own, frozen, and can be copied, pickled and moved to a device as any module.
    Where a defense answers with its one network, and that changes nothing, it is what `sparring
    convert --to torch` gives; on other backends than PyTorch also where the network changes
    something. What a defense rejects (`detect`) is no part of it.

    Args:
        defense: a trained defense, or one in wrappers (EOT, BPDA).
        seed: of the draws of a stochastic defense, from 0 to 2^31 - 1: the same image always gets
            the same answer, that of `classify(x, seed)`. None draws anew for every image at every
            call, from PyTorch's generator, which `torch.manual_seed` sets.

    Returns:
        A module that takes float32 [B, C, H, W] in [0, 1] and gives logits [B, K]. It is in
        evaluation mode; the other one answers alike. Gradients are the defense's: zero where it has
        none, as behind a vote.

    Raises:
        SettingsError: for a seed out of range, for what is no defense, and on other backends than
            PyTorch where a defense does more than its network. A run trained on any of them can be
            loaded with KERAS_BACKEND=torch.
        ConversionError: without PyTorch, or where the network cannot be converted.
    """
    from sparring.attacks.gradients import Wrapped
    from sparring.defenses.defense import Defense

    if not isinstance(defense, Defense | Wrapped):
        raise SettingsError(
            f"as_torch_module: expected a defense, as sparring.load gives, found {defense!r:.80}"
        )
    whole = isinstance(seed, Integral) and not isinstance(seed, bool)
    if seed is not None and not (whole and 0 <= seed < 2**31):
        raise SettingsError(
            f"seed: expected an integer from 0 to 2^31 - 1, or None, found {seed!r}"
        )
    plain = type(defense).logits is Defense.logits
    if not plain and backend.name != "torch":
        raise SettingsError(
            f"as_torch_module: expected the backend torch for {defense.name}, which does more than "
            f"its network, running is {backend.name}; set KERAS_BACKEND=torch and load the run "
            "again, whichever backend trained it"
        )
    try:
        import torch

        from sparring.attacks.torch_defense import TorchDefense, following
    except ImportError as error:
        raise ConversionError(f"as_torch_module: needs PyTorch: {error}") from error
    with torch.inference_mode(False):  # tensors made in it are never differentiated again
        if plain and (backend.name != "torch" or _changes_nothing(defense)):
            module = _plain(defense)
            module.register_forward_hook(following)
        else:
            module = TorchDefense(defense, None if seed is None else int(seed))
    return module.eval().requires_grad_(False)


def _changes_nothing(defense: Any) -> bool:
    from sparring.conversion.tracing import changed_hooks

    try:
        return not changed_hooks(defense.nets[0])
    except ConversionError:
        return False


def _plain(defense: Any) -> Any:
    """Give what `sparring convert --to torch` writes of network 0."""
    from sparring.conversion.targets import plain_networks

    with tempfile.TemporaryDirectory() as folder:
        network, _ = next(plain_networks(defense, Path(folder)))
    return network

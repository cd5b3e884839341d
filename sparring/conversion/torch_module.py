"""Defenses as other libraries' attacks want them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparring import backend
from sparring.errors import SettingsError

if TYPE_CHECKING:
    from sparring.defenses.defense import Defense


def as_torch_module(defense: Defense) -> Any:
    """Make a torch.nn.Module that answers as the defense does: NCHW images in, logits out.

    AutoAttack, torchattacks, foolbox and the Adversarial Robustness Toolbox take such a module.
    What a defense rejects (`detect`) is no part of it.

    Args:
        defense: a trained defense, or one in wrappers (EOT, BPDA).

    Returns:
        A module that takes float32 [B, C, H, W] in [0, 1] and gives logits [B, K]. Gradients flow
        where the defense has them; it is in evaluation mode, its parameters frozen.

    Raises:
        SettingsError: on other backends than PyTorch. A run trained on any of them can be loaded
            with KERAS_BACKEND=torch.
    """
    if backend.name != "torch":
        raise SettingsError(
            f"as_torch_module: expected the backend torch, running is {backend.name}; "
            "set KERAS_BACKEND=torch and load the run again, whichever backend trained it"
        )
    import torch

    class TorchDefense(torch.nn.Module):
        """A defense's logits, NCHW in."""

        def __init__(self) -> None:
            super().__init__()
            # A Keras layer that was built by hand tells PyTorch of none of its variables.
            variables = [variable for net in defense.nets for variable in net.trainable_variables]
            self.weights = torch.nn.ParameterList(variable.value for variable in variables)

        def forward(self, images: Any) -> Any:
            """Compute the logits [B, K] of images float32 [B, C, H, W] in [0, 1]."""
            return defense.logits(images.permute(0, 2, 3, 1))

    return TorchDefense().eval().requires_grad_(False)

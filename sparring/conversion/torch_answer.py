"""A whole defense in plain PyTorch: its networks, and what it answers by them.

    defense = load("defense")
    labels, rejected = defense.answer(images)  # float32 [B, H, W, C] in [0, 1] -> [B], [B]

Needs PyTorch and nothing else. `sparring task` puts a copy of this file and of torch_model.py
beside the weights it writes.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .torch_model import Network, Program  # copied as it is
from .torch_model import load as load_network


class Defense(nn.Module):
    """A trained defense, which answers images with labels, and may reject some.

    What it does besides its networks is in programs of torch.export, through which gradients flow
    where the defense has any.

    Args:
        folder: with facts.json, network-N.safetensors and programs.

    Attributes:
        networks: the networks by themselves, `torch_model.Network`, which take [B, C, H, W].
        shape: (H, W, C) of an image.
        class_names: names of the classes, in the order of the labels.
        threshold: an image with a score above it is rejected.
        stochastic: whether answers are drawn at random.
    """

    def __init__(self, folder: str | Path) -> None:
        """Load the networks and programs, on the CPU."""
        super().__init__()
        folder = Path(folder)
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        self.shape: tuple[int, ...] = tuple(facts["shape"])
        self.class_names: tuple[str, ...] = tuple(facts["class_names"])
        self.threshold, self.stochastic = float(facts["threshold"]), bool(facts["stochastic"])
        files = (f"network-{number}.safetensors" for number in range(facts["networks"]))
        # Frozen, so that logits have a gradient where there is one by the images alone.
        self.networks: list[Network] = [
            load_network(folder / file).requires_grad_(False) for file in files
        ]
        self._programs = {
            name: Program((folder / f"{name}.pt2").read_bytes()).requires_grad_(False)
            for name in facts["programs"]
        }

    def logits(self, images: torch.Tensor, seed: Any = 0) -> torch.Tensor:
        """Compute logits float32 [B, K].

        Args:
            images: float32 [B, H, W, C] in [0, 1].
            seed: of the random numbers, where answers are drawn: an integer in [0, 2^31), or one
                for each image, int [B]. The same seed gives the same image the same answer.
        """
        if "logits" in self._programs:
            return self._run("logits", images, seed)
        return self.networks[0](images.permute(0, 3, 1, 2))

    def probabilities(self, images: torch.Tensor, seed: Any = 0) -> torch.Tensor:
        """Compute probabilities float32 [B, K]; the label is the largest one's."""
        if "probabilities" in self._programs:
            return self._run("probabilities", images, seed)
        return self.logits(images, seed).softmax(dim=-1)

    def scores(self, images: torch.Tensor, seed: Any = 0) -> torch.Tensor:
        """Compute the detection scores float32 [B]; an image above `threshold` is rejected."""
        if "scores" in self._programs:
            return self._run("scores", images, seed)
        return torch.zeros(len(images))

    def answer(self, images: torch.Tensor, seed: Any = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Answer images: their labels, int64 [B], and which of them are rejected, bool [B]."""
        with torch.no_grad():
            labels = self.probabilities(images, seed).argmax(dim=-1)
            return labels, self.scores(images, seed) > self.threshold

    def forward(self, images: torch.Tensor, seed: Any = 0) -> torch.Tensor:
        """Compute the logits."""
        return self.logits(images, seed)

    def _run(self, name: str, images: torch.Tensor, seed: Any) -> torch.Tensor:
        seeds = torch.as_tensor(seed, dtype=torch.int32).expand(len(images)).contiguous()
        return self._programs[name](images, seeds)


def load(folder: str | Path = Path(__file__).parent) -> Defense:
    """Load the defense of a folder; by default of the one that this file is in."""
    return Defense(folder)

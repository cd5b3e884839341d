"""The same training as a plain PyTorch loop, written by hand: what Sparring's is measured against.

Channels-last, SGD and EMA by foreach, per-image shift and flip on the batch, nothing else.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def network(size: int, channels: int, classes: int, filters: int) -> nn.Module:
    """The all-convolutional network, with the head's average over space."""
    layers: list[nn.Module] = []
    for scale in range(round(math.log2(size)) - 2):
        for width in (filters * 2**scale, filters * 2 ** (scale + 1)):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(0.2)]
            channels = width
        layers.append(nn.AvgPool2d(2))
    layers += [nn.Conv2d(channels, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return net


class PlainLoop:
    """Training of `network` on uint8 NHWC images with the course's settings."""

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        classes: int,
        filters: int,
        steps: int,
        flip: bool = True,
        seed: int = 0,
    ) -> None:
        """Make the network, and put the data on torch's default device."""
        self.x = torch.as_tensor(x).permute(0, 3, 1, 2)
        self.y = torch.as_tensor(y).long()
        self.steps, self.done = steps, 0
        size, channels = x.shape[1], x.shape[3]
        torch.manual_seed(seed)
        self.net = network(size, channels, classes, filters)
        self.ema = network(size, channels, classes, filters)
        self.ema.load_state_dict(self.net.state_dict())
        self.weights = list(self.net.parameters())
        self.averages = list(self.ema.parameters())
        groups: list[dict[str, Any]] = [
            {"params": [w for w in self.weights if w.ndim == 4], "weight_decay": 1e-4},
            {"params": [w for w in self.weights if w.ndim == 1]},
        ]
        self.optimizer = torch.optim.SGD(groups, lr=0.03, momentum=0.9, foreach=True)

    def augment(self, x: torch.Tensor) -> torch.Tensor:
        """Per image: reflect-pad by an eighth, crop at random, mirror half."""
        batch, _, height, width = x.shape
        pad = height // 8
        rows = torch.randint(2 * pad + 1, (batch, 1)) + torch.arange(height)
        columns = torch.randint(2 * pad + 1, (batch, 1)) + torch.arange(width)
        columns = torch.where(torch.rand(batch, 1) < 0.5, columns.flip(1), columns)
        padded = functional.pad(x, (pad, pad, pad, pad), mode="reflect").permute(0, 2, 3, 1)
        images = torch.arange(batch)[:, None, None]
        return padded[images, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def step(self, indices: torch.Tensor) -> float:
        """One step; its loss, looked at so that a NaN would be seen."""
        for group in self.optimizer.param_groups:
            group["lr"] = 0.03 * math.cos(7 / 16 * math.pi * self.done / self.steps)
        x = self.augment(self.x[indices].float() / 255)
        loss = functional.cross_entropy(self.net(x), self.y[indices])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        decay = min(0.999, (1 + self.done) / (10 + self.done))
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.weights, 1 - decay)
        self.done += 1
        return loss.item()

    def accuracy(self, x: np.ndarray, y: np.ndarray) -> float:
        """The share of test images the averaged weights answer correctly."""
        images = torch.from_numpy(x).permute(0, 3, 1, 2)
        with torch.no_grad():
            answers = [self.ema(part.float() / 255).argmax(1) for part in images.split(128)]
        return float((torch.cat(answers).numpy() == y).mean())

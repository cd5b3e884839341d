"""A network trained by Sparring, as a plain torch.nn.Module. Needs PyTorch and nothing else.

    network = load("network-0.safetensors")
    logits = network(images)  # float32 [B, C, H, W] in [0, 1] -> [B, K]

`sparring convert RUN --to torch` puts a copy of this file beside the weights it writes.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Blur(nn.Module):
    """Zero-pad by 1, average every 2x2 at stride 1: [B, C, H, W] -> [B, C, H + 1, W + 1]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images blurred."""
        return functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1)), 2, stride=1)


class Discretize(nn.Module):
    """Bits of each channel, bit k of channel c at 20 c + k: [x < 0.05 (k + 1)]."""

    bits = 20

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The code [B, 20 C, H, W] of images [B, C, H, W]."""
        steps = torch.arange(1, self.bits + 1, dtype=x.dtype, device=x.device) / self.bits
        return (x[:, :, None] < steps[:, None, None]).to(x.dtype).flatten(1, 2)


TRANSFORMS: dict[str, tuple[type[nn.Module], int]] = {
    "": (nn.Identity, 1),
    "blur": (Blur, 1),
    "discretize": (Discretize, Discretize.bits),
}
"""What may stand before the first convolution, and how many channels it makes of one."""


class Network(nn.Module):
    """The all-convolutional network: 3x3 convolutions, leaky ReLU, 2x2 average pooling.

    Args:
        channels: of the images, 1 or 3.
        filters: width of the first convolution; scale s has filters 2^s, then filters 2^(s + 1).
        scales: how often the image is halved.
        outputs: number of logits.
        head_size: side of the head's kernel, 1 or 3.
        transform: what images go through first, a name in TRANSFORMS.
        jump: what is added to the activation where its input is positive.
        normalize: whether outputs are scaled to length 1 (embeddings).
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        scales: int,
        outputs: int,
        head_size: int = 1,
        transform: str = "",
        jump: float = 0.0,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        kind, factor = TRANSFORMS[transform]
        self.transform, self.jump, self.normalize = kind(), jump, normalize
        widths = [filters * 2 ** (scale + i) for scale in range(scales) for i in range(2)]
        inputs = [channels * factor, *widths[:-1]]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1)
            for before, after in zip(inputs, widths, strict=True)
        )
        self.head = nn.Conv2d(widths[-1], outputs, head_size, padding=head_size // 2)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What enters the head, [B, F, H', W'], of images [B, C, H, W]."""
        x = self.transform(images)
        for number, conv in enumerate(self.convs):
            y = conv(x)
            x = functional.leaky_relu(y, 0.2)
            if self.jump:
                x = x + self.jump * (y > 0).to(y.dtype)
            if number % 2:
                x = functional.avg_pool2d(x, 2)
        return x

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [B, K] of images float32 [B, C, H, W] in [0, 1]."""
        logits = self.head(self.features(images)).mean(dim=(2, 3))
        if self.normalize:
            logits = logits / torch.sqrt(logits.square().sum(dim=1, keepdim=True) + 1e-12)
        return logits


def load(path: str | Path) -> Network:
    """The network of a .safetensors file written by `sparring convert --to torch`, on the CPU.

    Raises ValueError for a file that is not one, and RuntimeError for tensors that do not fit.
    """
    data = Path(path).read_bytes()
    # The format: eight bytes with the header's length, the header in JSON, then the numbers.
    try:
        size = int.from_bytes(data[:8], "little")
        header: dict[str, Any] = json.loads(data[8 : 8 + size])
        options = json.loads(header.pop("__metadata__")["network"])
        network = Network(**options)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path}: not written by sparring convert, or damaged: {error!r}"
        ) from error
    state = {}
    for name, entry in header.items():
        start, end = (8 + size + offset for offset in entry["data_offsets"])
        count = (end - start) // 4
        if entry["dtype"] != "F32" or start < 8 + size or end > len(data) or not count:
            raise ValueError(f"{path}: damaged: {name} is {entry}")
        flat = torch.frombuffer(bytearray(data[start:end]), dtype=torch.float32)
        state[name] = flat.reshape(entry["shape"])
    network.load_state_dict(state)
    return network.eval()

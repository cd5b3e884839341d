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


class Network(nn.Module):
    """The all-convolutional network: 3x3 convolutions, leaky ReLU, 2x2 average pooling.

    What a defense changed is in four modules that take and give [B, C, H, W] tensors, the last one
    [B, K]; `load` puts programs in their places where there are any.

    Args:
        channels: of what `transform` gives.
        filters: width of the first convolution; scale s has filters 2^s, then filters 2^(s + 1).
        scales: how often the image is halved.
        outputs: number of logits.
        head_size: side of the head's kernel, 1 or 3.

    Attributes:
        transform: what happens to images first.
        activation: what follows every convolution but the head.
        head_activation: what follows the head.
        output: what follows the average over space.
    """

    def __init__(
        self, channels: int, filters: int, scales: int, outputs: int, head_size: int = 1
    ) -> None:
        """Make the convolutions, with PyTorch's initial weights."""
        super().__init__()
        self.transform: nn.Module = nn.Identity()
        self.activation: nn.Module = nn.LeakyReLU(0.2)
        self.head_activation: nn.Module = nn.Identity()
        self.output: nn.Module = nn.Identity()
        widths = [filters * 2 ** (scale + i) for scale in range(scales) for i in range(2)]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1)
            for before, after in zip([channels, *widths[:-1]], widths, strict=True)
        )
        self.head = nn.Conv2d(widths[-1], outputs, head_size, padding=head_size // 2)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Compute what enters the head, [B, F, H', W'], of images [B, C, H, W]."""
        x = self.transform(images)
        for number, conv in enumerate(self.convs):
            x = self.activation(conv(x))
            if number % 2:
                x = functional.avg_pool2d(x, 2)
        return x

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the logits [B, K] of images float32 [B, C, H, W] in [0, 1]."""
        outputs = self.head_activation(self.head(self.features(images)))
        return self.output(outputs.mean(dim=(2, 3)))

    def train(self, mode: bool = True) -> "Network":
        """Note the mode; nothing here depends on it, and programs refuse to be told."""
        self.training = mode
        return self


def load(path: str | Path) -> Network:
    """Load the network of a file written by `sparring convert --to torch`, on the CPU.

    Args:
        path: NAME.safetensors; programs of what the defense changed lie beside it, as
            NAME.transform.pt2 and the like.

    Returns:
        The network.

    Raises:
        ValueError: for a file that is none of these.
        RuntimeError: for tensors that do not fit.
    """
    data = Path(path).read_bytes()
    # The format: eight bytes with the header's length, the header in JSON, then the numbers.
    try:
        size = int.from_bytes(data[:8], "little")
        header: dict[str, Any] = json.loads(data[8 : 8 + size])
        options = json.loads(header.pop("__metadata__")["network"])
        hooks = options.pop("hooks", [])
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
    for hook in hooks:
        program = torch.export.load(Path(path).with_suffix(f".{hook}.pt2"))
        setattr(network, hook, program.module())
    return network.eval()

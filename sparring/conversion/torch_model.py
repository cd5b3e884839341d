"""A network trained by Sparring, as a plain torch.nn.Module. Needs PyTorch and nothing else.

    network = load("network-0.safetensors")
    logits = network(images)  # float32 [B, C, H, W] in [0, 1] -> [B, K]

`sparring convert RUN --to torch` puts a copy of this file beside the weights it writes.
"""

import hashlib
import io
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


class Program(nn.Module):
    """A program of torch.export that can be copied and pickled, as it cannot by itself.

    Args:
        data: the contents of its .pt2 file.
    """

    def __init__(self, data: bytes) -> None:
        """Load the program."""
        super().__init__()
        self.data = data
        self.program = torch.export.load(io.BytesIO(data)).module()

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Run it."""
        result: torch.Tensor = self.program(*tensors)
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        """Give what makes it anew."""
        return Program, (self.data,)


def fingerprint(options: dict[str, Any], entries: dict[str, Any], numbers: bytes) -> str:
    """Compute the SHA-256 that a file carries among its options.

    Args:
        options: of the network, the hash itself left out.
        entries: the file's header by tensor's name.
        numbers: all bytes behind the header.
    """
    about = json.dumps([options, entries], sort_keys=True)
    return hashlib.sha256(about.encode() + numbers).hexdigest()


def load(path: str | Path) -> Network:
    """Load the network of a file written by `sparring convert --to torch`, on the CPU.

    Args:
        path: NAME.safetensors; programs of what the defense changed lie beside it, as
            NAME.transform.pt2 and the like.

    Returns:
        The network.

    Raises:
        OSError: for a file that cannot be read.
        ValueError: for a file that is none of these, or that was changed.
        RuntimeError: for tensors that do not fit.
    """
    path = Path(path)
    try:
        network, hooks = _parse(path.read_bytes())
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as e:
        raise ValueError(f"{path}: not written by sparring convert, or damaged: {e}") from e
    for hook, sha256 in hooks.items():
        file = path.with_suffix(f".{hook}.pt2")
        data = file.read_bytes()
        if sha256 and hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError(f"{file}: damaged: expected SHA-256 {sha256}")
        try:
            setattr(network, hook, Program(data))
        except Exception as e:  # damaged programs without a hash make PyTorch raise anything
            raise ValueError(f"{file}: not written by sparring convert, or damaged: {e}") from e
    return network.eval()


def _parse(data: bytes) -> tuple[Network, dict[str, str]]:
    """Make the network of a file's contents, and give the hash of each program beside it."""
    # The format: eight bytes with the header's length, the header in JSON, then the numbers.
    size = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + size])
    options = json.loads(header.pop("__metadata__")["network"])
    numbers = data[8 + size :]
    # Before memory is taken: each scale has two convolutions, with a weight and a bias each.
    if len(header) != 4 * options["scales"] + 2:
        raise ValueError(f"{len(header)} tensors for {options['scales']} scales")
    places = [entry["data_offsets"] for entry in header.values()]
    if sum(end - start for start, end in places) > len(numbers):
        raise ValueError("tensors share their numbers")
    state = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        if entry["dtype"] != "F32" or not 0 <= start < end <= len(numbers):
            raise ValueError(f"{name} is {entry}")
        flat = torch.frombuffer(bytearray(numbers[start:end]), dtype=torch.float32)
        state[name] = flat.reshape(entry["shape"])
    # Conversions of earlier versions have no hashes.
    sha256 = options.pop("sha256", None)
    if sha256 and (found := fingerprint(options, header, numbers)) != sha256:
        raise ValueError(f"expected SHA-256 {sha256}, found {found}")
    hooks = options.pop("hooks", {})
    if not set(hooks) <= {"transform", "activation", "head_activation", "output"}:
        raise ValueError(f"unknown hooks {hooks}")
    with torch.device("meta"):  # which takes no memory, whatever the options say
        network = Network(**options)
    network.load_state_dict(state, assign=True)
    return network, dict(hooks) if isinstance(hooks, dict) else dict.fromkeys(hooks, "")

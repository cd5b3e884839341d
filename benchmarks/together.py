"""Whether an ensemble's networks train faster as one batched network than one after the other.

    KERAS_BACKEND=torch python -m benchmarks.together [--networks 3 10] [--filters 16 32 64]
        [--batch 64] [--rounds 7]

Losses and gradients of as many all-convolutional networks, each on a batch of random 32x32x3
images: one after the other, and as one network whose convolutions are in groups. Both compute the
same, with the same code. They take turns; printed are the medians and the median of the ratios
within a round, above 1 where the batched network is faster.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import Any

import numpy as np
from keras import ops, random

from sparring import backend
from sparring.networks.allconv import AllConv, leaky_relu
from sparring.training import memory

OUTPUTS = 10


class Batched(AllConv):
    """Several networks' convolutions, each a group of one.

    Images are [B, H, W, networks x channels], logits [B, networks x outputs].
    """

    def __init__(self, networks: int, filters: int) -> None:
        """Make networks of so many filters each."""
        self.networks = networks
        super().__init__((32, 32, 3), networks * OUTPUTS, networks * filters)

    def _conv(self, name: str, side: int, inputs: int, outputs: int) -> tuple[Any, Any]:
        # What the images have comes as of one network, what convolutions give as of all.
        own = inputs if inputs == 3 else inputs // self.networks
        return super()._conv(name, side, own, outputs)

    def call(self, x: Any, chance: Any = None) -> Any:
        """Logits, by Keras's convolution, which takes the groups from the shapes."""
        for convs in self.scales:
            for kernel, bias in convs:
                x = leaky_relu(ops.conv(x, kernel, padding="same") + bias)
            x = backend.average_pool2d(x)
        kernel, bias = self.head
        return ops.mean(ops.conv(x, kernel, padding="same") + bias, axis=(1, 2))


def gradients(net: Batched, x: Any) -> Any:
    """The sum of all gradients of a loss: a number that takes all of them."""

    def objective() -> tuple[Any, Any]:
        return ops.mean(ops.square(net(x))), ()

    _, _, found = backend.value_and_gradients(objective, net.trainable_variables, [])
    return sum(ops.sum(gradient) for gradient in found)


def main() -> None:
    """Take turns and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", type=int, nargs="+", default=[3, 10])
    parser.add_argument("--filters", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    memory.keep_freed()
    print("| networks | filters | one after the other | as one | times faster |")
    print("| --- | --- | --- | --- | --- |")
    for networks in arguments.networks:
        for filters in arguments.filters:
            x = random.normal((arguments.batch, 32, 32, 3))
            single, batched = Batched(1, filters), Batched(networks, filters)
            one = backend.compile(lambda x, net=single: gradients(net, x), single.variables)
            all_ = backend.compile(lambda x, net=batched: gradients(net, x), batched.variables)
            wide = ops.tile(x, (1, 1, 1, networks))
            apart, together = [], []
            for _ in range(arguments.rounds + 1):
                begun = time.perf_counter()
                ops.convert_to_numpy([one(x) for _ in range(networks)][-1])
                middle = time.perf_counter()
                ops.convert_to_numpy(all_(wide))
                apart.append(middle - begun)
                together.append(time.perf_counter() - middle)
            ratios = np.divide(apart[1:], together[1:])
            print(
                f"| {networks} | {filters} | {1000 * median(apart[1:]):.0f} ms | "
                f"{1000 * median(together[1:]):.0f} ms | {median(ratios.tolist()):.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

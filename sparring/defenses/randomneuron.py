"""randomneuron: neurons are dropped at random when the network answers.

After every convolution units are kept with a probability that grows with their share of the
activation, and what is kept is scaled up to leave the mean alone. It trains nothing: it serves the
baseline's weights. Averaging gradients over draws (EOT) goes through it.

    sparring train baseline --data digits
    sparring train randomneuron --data digits

Reference: a defense of the self-study course in evaluating adversarial robustness; stochastic
activation pruning is of Dhillon et al. 2018, https://arxiv.org/abs/1803.01442.
"""

from __future__ import annotations

from typing import Any, final

import numpy as np
from typing_extensions import override

from sparring import backend
from sparring.backend import ops
from sparring.defenses.defense import Defense
from sparring.defenses.facts import CourseFiles, Expected
from sparring.networks.allconv import AllConv
from sparring.randomness import Chance
from sparring.tensors import Images, Logits

DRAWS = 10


def keep_probabilities(activations: Any) -> Any:
    """Compute the probability of keeping each of n units, [B, n]: 1 - exp(-n/3 |a_i| / sum |a|)."""
    sizes = ops.abs(activations)
    shares = sizes / ops.maximum(ops.sum(sizes, axis=1, keepdims=True), 1e-30)
    return 1 - ops.exp(-activations.shape[1] / 3 * shares)


class DroppingNet(AllConv):
    """The network that drops units after every convolution when it is given random numbers."""

    @override
    def drop(self, units: Any, chance: Chance) -> Any:
        flat = ops.reshape(units, (units.shape[0], -1))  # [B, n]
        kept = keep_probabilities(flat)  # [B, n]
        draws = chance.uniform(flat.shape[1])  # [B, n]
        # What has no chance of being kept divides by 1 instead of by 0.
        scaled = ops.where(draws < kept, flat / ops.where(kept > 0, kept, 1.0), 0.0)
        return ops.reshape(scaled, units.shape)


@final
class RandomNeuron(Defense):
    """Mean of the softmax over 10 draws; `logits` are the logarithms of it."""

    name = "randomneuron"
    idea = "drops neurons at random when the baseline's network answers"
    hints = (
        "Ask about the same image several times. In how many draws is your adversarial image "
        "broken?",
        "Each gradient belongs to one draw of dropped units, and the next answer comes from "
        "another one. What is the same in all draws?",
        "Average over draws (EOT), or attack the network underneath, from which nothing is "
        "dropped, and go on when it is fooled: the surer it is, the more draws agree.",
    )
    outside = "the random dropping of neurons; the network drops none"
    network = DroppingNet
    networks = "the baseline's"
    stochastic = True
    borrows = "baseline"
    course_files = CourseFiles(folders=("baseline",))
    published_success = 80
    expected = Expected(accuracy=0.82, pgd=(0.1, 0.55), reference=0.7, gain=0.15, images=20)

    @override
    def logits(self, x: Images, chance: Chance | None = None) -> Logits:
        (net,), numbers = self.nets, chance or Chance(x)

        def draw(x: Images, calls: Any) -> Any:
            return ops.softmax(net(x, chance=numbers.after(calls)), axis=-1)  # [B, K]

        # All draws go on in one sequence, in which each layer of a draw is a call.
        draws = backend.one_by_one(draw, x, np.arange(DRAWS, dtype=np.int32) * len(net.convs))
        return ops.log(ops.maximum(ops.mean(draws, axis=0), 1e-30))  # [B, K]

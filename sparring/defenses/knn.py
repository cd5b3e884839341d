"""knn: the answer is that of the nearest training images.

A network learns, without labels, to embed two augmented views of an image close together. An image
is answered with the majority label of the 8 training images nearest to it. A vote has no gradient;
a soft nearest-neighbor loss over the stored embeddings has.

    sparring train knn --data digits

Reference: a defense of the self-study course in evaluating adversarial robustness; NT-Xent is of
Chen et al. 2020, https://arxiv.org/abs/2002.05709, its learned scale of Radford et al. 2021,
https://arxiv.org/abs/2103.00020.
"""

from __future__ import annotations

from typing import Any, final

import numpy as np
from typing_extensions import override

from sparring.backend import ops
from sparring.data import Dataset
from sparring.defenses.defense import Defense
from sparring.defenses.facts import CourseArray, CourseFiles, Expected
from sparring.networks.allconv import AllConv
from sparring.networks.augment import STRONG_DRAWS, strong
from sparring.randomness import Chance
from sparring.tensors import Images, Labels, Logits
from sparring.training.recipe import Recipe, cross_entropy, hits

NEIGHBORS = 8
EMBEDDING = 128
CHUNK = 32  # stored embeddings that are looked through together
SAMPLE = 2000  # training images the test accuracy reported while training looks among


class EmbeddingNet(AllConv):
    """The network with embeddings [B, 128] of length 1 for logits, and NT-Xent's scale."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Make the network, with a scale that is trained."""
        super().__init__(*arguments, **options)
        # Log of the scale; clipped after every update rather than in the loss, where backends
        # differ on the gradient at the ends.
        self.log_scale = self.add_weight(
            shape=(), name="log_scale", initializer="zeros", constraint=lambda r: ops.clip(r, 0, 5)
        )

    @override
    def output(self, logits: Any) -> Any:
        return logits / ops.sqrt(ops.sum(ops.square(logits), -1, keepdims=True) + 1e-12)


def nt_xent(first: Any, second: Any, scale: Any) -> tuple[Any, Any]:
    """Compute NT-Xent of embeddings [B, D] of two views, and how many pairs are found.

    Each image's other view has to be told from the 2 B - 2 views of other images. Mean over the
    batch, summed over both directions as in the course.
    """
    own = ops.arange(first.shape[0], dtype="int32")
    itself = 1e9 * ops.eye(first.shape[0])

    def logits(views: Any, others: Any) -> Any:
        across, along = (ops.matmul(views, ops.transpose(side)) for side in (others, views))
        return ops.concatenate([scale * across, scale * along - itself], axis=1)

    forward, backward = logits(first, second), logits(second, first)
    return cross_entropy(own, forward) + cross_entropy(own, backward), hits(own, forward)


def votes(similarities: Any, labels: Any, classes: int) -> Any:
    """Count the labels of the nearest training images: [B, K] of similarities [B, N]."""
    indices = nearest(similarities, min(NEIGHBORS, similarities.shape[1]))
    return ops.sum(ops.one_hot(ops.take(labels, indices, axis=0), classes), axis=1)


def nearest(similarities: Any, count: int) -> Any:
    """Find the indices [B, count] of the largest similarities [B, N]; of equals, whichever.

    They lie in the chunks with the largest maxima. Finding those is one pass over the numbers,
    which takes less than the matrix product that made them; sorting all would take more.
    """
    batch, images = similarities.shape
    chunks = images // CHUNK
    if chunks <= count:
        return ops.top_k(similarities, count)[1]
    whole = chunks * CHUNK
    parts = ops.reshape(similarities[:, :whole], (batch, chunks, CHUNK))
    best = ops.top_k(ops.max(parts, axis=-1), count)[1]  # [B, count]
    values = ops.take_along_axis(parts, best[:, :, None], axis=1)  # [B, count, CHUNK]
    places = best[:, :, None] * CHUNK + ops.arange(CHUNK, dtype=best.dtype)
    rest = ops.broadcast_to(ops.arange(whole, images, dtype=best.dtype), (batch, images - whole))
    values = ops.concatenate([ops.reshape(values, (batch, -1)), similarities[:, whole:]], axis=1)
    places = ops.concatenate([ops.reshape(places, (batch, -1)), rest], axis=1)
    return ops.take_along_axis(places, ops.top_k(values, count)[1], axis=1)


class KnnRecipe(Recipe):
    """NT-Xent on two strongly augmented views of each image; labels are not used."""

    outputs = EMBEDDING

    @override
    def augment(self, x: Images, y: Labels) -> tuple[Images, Labels]:
        both = ops.concatenate([x, x], axis=0)
        draws = self.random.uniform((STRONG_DRAWS, both.shape[0], 1))
        return strong(both, draws, bool(self.settings.flip)), y

    @override
    def loss(self, net: Any, x: Images, y: Labels) -> tuple[Any, Any]:
        first, second = ops.split(net(x), 2, axis=0)
        return nt_xent(first, second, ops.exp(net.log_scale))

    @override
    def chance(self, net: EmbeddingNet) -> float:
        return 0.0  # pairs that are found

    @override
    def evaluate(self, net: EmbeddingNet, dataset: Dataset) -> float:
        known = net.predict(dataset.x_train[:SAMPLE])
        similarities = net.predict(dataset.x_test) @ known.T
        labels = ops.convert_to_tensor(dataset.y_train[:SAMPLE])
        counts = votes(ops.convert_to_tensor(similarities), labels, dataset.classes)
        answers = ops.convert_to_numpy(counts).argmax(axis=1)
        return float(np.mean(answers == dataset.y_test))

    @override
    def finish(self, net: EmbeddingNet, dataset: Dataset) -> dict[str, np.ndarray]:
        return {"embeddings": net.predict(dataset.x_train), "labels": dataset.y_train}


@final
class Knn(Defense):
    """One-hot of the majority label of the 8 training images nearest by cosine similarity.

    `logits` are the votes. Of labels with equally many, the first wins.
    """

    name = "knn"
    idea = "answers with the labels of the nearest training images"
    hints = (
        "The answer is a count of neighbors, so its gradient is zero. What does the count "
        "depend on that has one?",
        "The network gives an embedding; the nearest stored ones vote. Moving the embedding "
        "towards those of another class changes who is nearest.",
        "Replace the hard vote with a soft one on the backward pass: every stored embedding "
        "votes with a weight that falls steeply with its distance.",
    )
    outside = "the stored embeddings and the vote of the nearest; the outputs are embeddings"
    step_cost = 2.3
    network = EmbeddingNet
    recipe = KnnRecipe
    differentiable = False
    settings_table = {
        ("*", "*"): {
            "batch_size": 128,
            "learning_rate": 0.003,
            "epochs": 1000,
            "weight_decay": 0,
        },
        ("fast", "*"): {"learning_rate": 0.05, "epochs": 100},
        # A tenth of the epochs, for half a minute on the digits and for minutes on Fashion-MNIST.
        ("*", "digits"): {"batch_size": 32},
        ("course", "digits"): {"learning_rate": 0.006, "epochs": 100},
        ("fast", "digits"): {"epochs": 20},
        ("course", "fashion-mnist"): {"batch_size": 64, "epochs": 4},
        ("fast", "fashion-mnist"): {"epochs": 1},
    }
    course_files = CourseFiles(
        folders=("contrastive",),
        arrays=(
            CourseArray(
                name="0/embeddings", file="feat.npy", shape=("images", EMBEDDING), unit=True
            ),
            CourseArray(
                name="0/labels", file="labs.npy", shape=("images",), dtype="int32", column=True
            ),
        ),
        classes=10,
    )
    published_success = 62
    expected = Expected(accuracy=0.93, pgd=(0.0, 0.05), reference=0.85, gain=0.8)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take what `Defense` takes; embeddings and labels are among the arrays."""
        super().__init__(*arguments, **options)
        self.embeddings = ops.convert_to_tensor(self.arrays["0/embeddings"].T)
        self.labels = ops.convert_to_tensor(self.arrays["0/labels"])

    def embed(self, x: Any) -> Any:
        """Compute embeddings [B, 128] of length 1, differentiable by x."""
        return self.nets[0](x)

    @override
    def logits(self, x: Images, chance: Chance | None = None) -> Logits:
        return self.count(ops.matmul(self.embed(x), self.embeddings))

    def count(self, similarities: Any) -> Any:
        """Count the votes [B, K] of the stored images at cosine similarities [B, N]."""
        return votes(similarities, self.labels, self.info.classes)

    @override
    def probabilities(self, x: Images, chance: Chance | None = None) -> Any:
        return ops.one_hot(ops.argmax(self.logits(x), axis=-1), self.info.classes)

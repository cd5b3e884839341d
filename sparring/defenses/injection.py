"""injection: the network carries trapdoors, and inputs that fall into one are rejected.

For every class a faint random pattern is trained to be answered with that class. An attack that
pushes an image towards a class is drawn to the same features as the pattern, which are remembered
as the class's signature; so are inputs on which the patterns no longer work. An attack has to
change the label and match features and logits of an ordinary image at the same time.

    sparring train injection --data digits

Reference: a defense of the self-study course in evaluating adversarial robustness; trapdoors are of
Shan et al. 2020, https://arxiv.org/abs/1904.08554.
"""

from __future__ import annotations

from typing import Any, final

import numpy as np
from typing_extensions import override

from sparring import backend
from sparring.backend import ops
from sparring.data import Dataset
from sparring.defenses.defense import Defense
from sparring.defenses.facts import CourseArray, CourseFiles, Expected
from sparring.networks.allconv import AllConv, in_batches, to_float
from sparring.randomness import Chance, Stream
from sparring.tensors import Images, Labels, Scores
from sparring.training.recipe import Recipe, cross_entropy, hits
from sparring.training.settings import Settings, setting

TOO_LIKE = 0.6  # an input's features to the signature of its answer
TOO_UNLIKE = 0.8  # features under another class's pattern to that class's signature
MOST_UNLIKE = 3  # other classes that may be
LEAST_WORKING = 0.8  # share of the others' patterns that have to work


class InjectionSettings(Settings):
    """The shared settings, and how strong the patterns are."""

    strength: float = setting(
        0.02,
        "of the patterns when served; training starts at 2.5 times it",
        "above 0, at most 1",
        gt=0,
        le=1,
    )


def strength(served: float, progress: Any) -> Any:
    """Compute the patterns' strength at progress p in [0, 1]: served (1 + 1.5 max(0, 1 - 1.1 p)).

    With the course's 0.02 that is 0.02 + 0.03 max(0, 1 - 1.1 p).
    """
    return served * (1 + 1.5 * ops.maximum(0.0, 1 - 1.1 * progress))


def cosine(a: Any, b: Any) -> Any:
    """Compute the cosine similarity along the last axis, 0 for a zero vector."""
    norms = ops.sqrt(ops.sum(ops.square(a), -1)) * ops.sqrt(ops.sum(ops.square(b), -1))
    return ops.sum(a * b, axis=-1) / ops.maximum(norms, 1e-12)


def suspicious(likeness: Any, answers: Any, under_patterns: Any, named: Any) -> Any:
    """Tell whether each input is to be rejected, float32 [B] of 0 and 1.

    Args:
        likeness: [B, K], cosine of an input's features to each signature.
        answers: [B], its class.
        under_patterns: [B, K], cosine of its features under each pattern to that signature.
        named: [B, K], the class it is answered with under each pattern.
    """
    classes = likeness.shape[1]
    own = ops.one_hot(answers, classes)
    others = 1 - own
    trapped = ops.sum(likeness * own, axis=-1) > TOO_LIKE
    unlike = ops.sum(ops.cast(under_patterns < TOO_UNLIKE, "float32") * others, axis=-1)
    works = ops.cast(ops.equal(named, ops.arange(classes, dtype=named.dtype)), "float32")
    working = ops.sum(works * others, axis=-1) / (classes - 1)
    # Shares of K - 1 classes are not exact in float32; 0.8 itself is enough.
    failing = working < LEAST_WORKING - 1e-6
    return ops.cast(trapped | (unlike > MOST_UNLIKE) | failing, "float32")


class TrapdoorNet(AllConv):
    """The network with its patterns' strength; features are averaged over space."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Make the network, with a strength that ramps."""
        super().__init__(*arguments, **options)
        self.strength = self.ramp("strength")

    def mean_features(self, x: Any) -> tuple[Any, Any]:
        """Compute the spatial mean [B, F] of what enters the head, and logits [B, K]."""
        features = self.features(x)
        means = ops.mean(ops.cast(features, "float32"), axis=(1, 2))
        return means, self.head_logits(features)


class InjectionRecipe(Recipe):
    """Every image with its label, and with the pattern and label of a class drawn at random.

    Both stand in one batch, so that an epoch trains 2 n images.
    """

    settings: InjectionSettings

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Make the recipe, with its patterns on the device."""
        super().__init__(*arguments, **options)
        self._patterns = ops.convert_to_tensor(self.patterns())

    def patterns(self) -> np.ndarray:
        """Draw the K patterns of zeros and ones, float32 [K, H, W, C], from the seed alone."""
        random = np.random.default_rng(self.spread(Stream.PATTERNS))
        shape = (self.info.classes, *self.info.shape)
        return random.integers(0, 2, shape).astype(np.float32)

    @override
    def on_progress(self, net: Any, progress: Any) -> None:
        net.strength.assign(strength(self.settings.strength, progress))

    @override
    def loss(self, net: Any, x: Images, y: Labels) -> tuple[Any, Any]:
        draws = self.random.uniform((x.shape[0],))
        drawn = ops.cast(ops.floor(draws * self.info.classes), "int32")
        patterned = x + net.strength * ops.take(self._patterns, drawn, axis=0)
        logits = net(ops.concatenate([x, patterned], axis=0))
        labels = ops.concatenate([ops.cast(y, "int32"), drawn], axis=0)
        return cross_entropy(labels, logits), hits(labels, logits) / 2

    @override
    def finish(self, net: TrapdoorNet, dataset: Dataset) -> dict[str, np.ndarray]:
        signatures = []
        for pattern in self._patterns:
            features = backend.compile(
                lambda images, pattern=pattern: net.mean_features(
                    to_float(images) + self.settings.strength * pattern
                )[0],
                net.variables,
            )
            signatures.append(in_batches(features, dataset.x_train).mean(axis=0))
        return {"patterns": self.patterns(), "signatures": np.stack(signatures)}


@final
class Injection(Defense):
    """The shared answer; rejected by the rules of `suspicious`."""

    name = "injection"
    idea = "plants trapdoors in the network and rejects what falls into them"
    hints = (
        "Does your attack change the label? What then keeps the images from counting?",
        "Features that look like a class's trapdoor give you away; an attack towards a class "
        "is drawn to just these. What do the features of ordinary images of that class look "
        "like?",
        "Work on everything at once, each part only as far as it is needed: another class "
        "ahead, and features and logits as those of an ordinary image, so that the detector "
        "sees nothing.",
    )
    outside = "the rejection of what falls into a trapdoor"
    step_cost = 1.9
    network = TrapdoorNet
    recipe = InjectionRecipe
    detects = True
    settings_class = InjectionSettings
    # docs/fast.md has the figures behind these.
    settings_table = {
        # Half of the course's batch, which the patterned images double.
        ("*", "*"): {"learning_rate": 0.01, "batch_size": 32},
        ("fast", "*"): {"learning_rate": 0.06},
        # In 8x8 images faint patterns are not told from strokes, and most images are rejected.
        ("*", "digits"): {"batch_size": 8, "strength": 0.5},
        ("course", "digits"): {"learning_rate": 0.02},
        # In the digits' two layers no rate or strength helps Muon to learn trapdoors that reject
        # few images; SGD takes about as long as in the course.
        ("fast", "digits"): {"optimizer": "sgd", "learning_rate": 0.1, "epochs": 80},
        ("*", "fashion-mnist"): {"strength": 0.1},
        ("course", "fashion-mnist"): {"learning_rate": 0.02, "batch_size": 16},
        # Under Muon, attacks do not fall into trapdoors of the course preset's strength (why is a
        # guess: half a pattern may be no trap to a network that knows whole ones).
        ("fast", "fashion-mnist"): {"strength": 0.05},
    }
    course_files = CourseFiles(
        folders=("injection",),
        arrays=(
            CourseArray(
                name="0/patterns",
                file="backdoor.npy",
                shape=("classes", "height", "width", "channels"),
            ),
            CourseArray(name="0/signatures", file="signature.npy", shape=("classes", "features")),
        ),
        served=(("strength", "adds its patterns at"),),
    )
    published_success = 28
    expected = Expected(accuracy=0.8, pgd=(0.5, 0.92), reference=0.85, gain=0.15, images=20)
    settings: InjectionSettings

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take what `Defense` takes; patterns and signatures are among the arrays."""
        super().__init__(*arguments, **options)
        self.patterns = ops.convert_to_tensor(self.arrays["0/patterns"])
        self.signatures = ops.convert_to_tensor(self.arrays["0/signatures"])

    @override
    def scores(self, x: Images, chance: Chance | None = None) -> Scores:
        features, logits = self.nets[0].mean_features(x)
        likeness = cosine(features[:, None], self.signatures[None])
        under, named = [], []
        for label in range(self.info.classes):
            patterned = x + self.settings.strength * self.patterns[label]
            features, answers = self.nets[0].mean_features(patterned)
            under.append(cosine(features, self.signatures[label]))
            named.append(ops.argmax(answers, axis=-1))
        return suspicious(
            likeness,
            ops.argmax(logits, axis=-1),
            ops.stack(under, axis=-1),
            ops.stack(named, axis=-1),
        )

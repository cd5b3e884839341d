"""Defense: a trained defense that answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar, cast, final

import numpy as np

from sparring import backend
from sparring.backend import keras, ops
from sparring.data import Dataset, DatasetInfo
from sparring.defenses.facts import CourseFiles, Expected, Origin
from sparring.defenses.passes import Passes
from sparring.errors import DataError, SettingsError
from sparring.networks.allconv import AllConv, in_batches, to_float
from sparring.randomness import Chance, Stream, spread
from sparring.runs.directory import Run
from sparring.runs.files import read_tensors
from sparring.tensors import Images, Logits, Scores
from sparring.training.recipe import Recipe
from sparring.training.settings import Resolved, Settings, Table, check_table, resolve

_Answer = TypeVar("_Answer", bound=Callable[..., Any])


def _with_images_checked(answer: _Answer) -> _Answer:
    """Let `logits` and its kind check images as `classify` does, whichever class defines them."""

    @wraps(answer)
    def asked(self: Defense, x: Any, chance: Chance | None = None) -> Any:
        def passed() -> Any:
            images = self._as_tensor(x)
            return self.passes.counted(lambda: answer(self, images, chance), images.shape[0])

        if backend.isolated.active:  # a step of an attack costs about as little as entering
            return passed()
        with backend.isolated:
            return passed()

    return cast(_Answer, asked)


class Defense:
    """A trained defense: which networks it trains, and how it answers with them.

    A defense is one leaf class. It says what it changes; what stands here is the rule that all
    share: softmax of the one network's logits, nothing rejected.

    Args:
        info: of the data set it was trained on.
        settings: what it was trained with.
        nets: its networks, trained.
        arrays: what `Recipe.finish` gave, by "network/name".

    Attributes:
        results: of a loaded run, what its training came to.
        path: of a loaded run, its directory.
        other_code: that its class has changed since it was trained, in a sentence; else empty.
        passes: how often it was asked.
    """

    name: str
    """The file's name; of a model of one's own, its own."""
    idea: ClassVar[str]
    """What it does, in one line."""
    hints: ClassVar[tuple[str, ...]] = ()
    """What helps who tries to break it, from a first question to the way; three sentences or so."""
    networks: ClassVar[str] = "1"
    """How many networks it trains, in words."""
    stochastic: bool = False
    """Whether answers are drawn at random."""
    differentiable: ClassVar[bool] = True
    """Whether gradients of `logits` by the images are useful as they are."""
    gradients: bool = True
    """Whether `logits` can be differentiated at all."""
    detects: bool = False
    """Whether some inputs are rejected."""
    threshold: float = 0.5
    """An input with a score above it is rejected."""
    borrows: ClassVar[str | None] = None
    """The defense whose weights it serves instead of training."""
    outside: ClassVar[str] = ""
    """What of its answer is not in its networks, for who takes those elsewhere."""
    published_success: ClassVar[int | None] = None
    """The course's best published attack: % of 100 images of CIFAR-10 broken at Linf 4/255."""
    step_cost: ClassVar[float] = 1.0
    """How long a training step takes, beside the baseline's, for who plans many trainings."""

    network: ClassVar[type[AllConv]] = AllConv
    """The network that the shared recipe trains."""
    recipe: ClassVar[type[Recipe]] = Recipe
    """How its networks are trained."""
    settings_class: ClassVar[type[Settings]] = Settings
    """Which settings there are."""
    settings_table: ClassVar[Table] = {}
    """What it wants otherwise than the shared table, by preset and data set; "*" is any."""
    course_settings: ClassVar[Settings] = Settings()
    """The settings that the course trained it with on CIFAR-10; follows from the table."""

    asks: ClassVar[int] = 1
    """How many passes one answer takes; a wrapper around it may ask it more often."""

    reference_attack: ClassVar[Any] = None
    """The attack that is known to break it, for a class that is not Sparring's own; these have
    theirs in attacks/reference."""
    origin: ClassVar[Origin | None] = None
    """Where the class came from, if it is not Sparring's own; `sparring.defenses.get` notes it."""

    course_files: ClassVar[CourseFiles | None] = None
    """How the course kept it; None for a defense that the course had not."""
    expected: ClassVar[Expected] = Expected()
    """How it has to do on the digits, for the tests."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Check the settings and derive the course's."""
        super().__init_subclass__(**arguments)
        check_table(cls.settings_class, cls.settings_table)
        for name in ("logits", "probabilities", "scores"):
            if name in vars(cls):
                setattr(cls, name, _with_images_checked(vars(cls)[name]))
        cls.course_settings = resolve(cls.settings_class, {"": cls.settings_table}).settings

    def __init__(
        self,
        info: DatasetInfo,
        settings: Settings,
        nets: Sequence[Any],
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Take trained networks, and the arrays that go with them."""
        self.info, self.settings = info, settings
        self.nets, self.arrays = list(nets), dict(arrays or {})
        self.results: dict[str, Any] = {}
        self.path: Path | None = None
        self.other_code = ""
        self._weights_sha256: str | None = None
        self.passes = Passes()
        self._compiled: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def __repr__(self) -> str:
        """Name the class, the data set and the settings."""
        return f"{type(self).__name__}(dataset={self.info.name!r}, settings={self.settings!r})"

    def _repr_html_(self) -> str:
        """Show what it is, what its training came to, and its settings in a notebook."""
        from sparring.defenses import cell  # which not every defense needs

        return cell.html(self)

    @staticmethod
    def of(model: Any, data: Any, **options: Any) -> Defense:
        """Make a defense of a model of one's own, to be attacked and judged as any other.

        docs/your-own-models.md has an example of each kind.

        Args:
            model: a torch.nn.Module, a Keras model, a torch.export.ExportedProgram, or a function
                of images; or what names one: "model.py:build", the path of an ONNX, .pt2 or .keras
                file, or "robustbench:NAME". Images are floats in [0, 1]; what else it wants of
                them, as normalization, it does itself.
            data: the data set that it is for, as `sparring.evaluate` takes it, or a DatasetInfo; it
                says the shape of images and the number of classes.
            options: the fields of `sparring.models.form.Form`: name, layout, outputs, stochastic,
                detects, threshold, tensors.

        Returns:
            The defense, once it has answered a few images. It uses the model itself, a module of
            PyTorch in evaluation mode; `remarks` say what was done to it.

        Raises:
            SettingsError: an option is unknown or wrong.
            ModelError: the model cannot be loaded, raises, gives another shape than [B, classes],
                probabilities in place of logits, or draws at random though that is not declared; or
                it needs another backend.
            DataError: the data set cannot be loaded.
        """
        from sparring.defenses.model import Model  # which derives from this class

        return Model.made(model, data, options)

    # What there is to know of it besides its answers

    @property
    def weights_sha256(self) -> str | None:
        """The hash of the weights of a loaded defense."""
        return self._weights_sha256

    @weights_sha256.setter
    def weights_sha256(self, value: str | None) -> None:
        self._weights_sha256 = value

    def weights_on_disk(self) -> str | None:
        """Hash the weights as they lie now where they were loaded from; None where that is nowhere.

        Raises:
            RunError: they are damaged.
        """
        if self.path is None:
            return None
        return read_tensors(Run(self.path).weights_file)[2]

    @property
    def files(self) -> list[Path]:
        """The files that it was loaded from."""
        if self.path is None:
            return []
        run = Run(self.path)
        code = [] if self.origin is None or self.origin.file is None else [Path(self.origin.file)]
        return [run.json_file, run.weights_file, *code]

    @property
    def remarks(self) -> list[str]:
        """What its user should know of how it was loaded."""
        return [self.other_code] if self.other_code else []

    @property
    def told_apart(self) -> bool:
        """Whether name, weights, `described` and the hash of its code tell it from any other."""
        return self.origin is None or self.origin.sha256 is not None

    @property
    def described(self) -> dict[str, Any] | None:
        """What its answers follow from besides name and weights, as JSON; None of a run."""
        return None

    @property
    def size(self) -> int:
        """About how much a network computes for a pixel, beside others."""
        return self.settings.filters**2

    def second_nets(self) -> list[Any]:
        """Copy its networks with their weights; those that cannot be made anew are shared."""
        recipes = self.recipes(self.info, self.settings, 0) if self.nets else []
        if len(recipes) != len(self.nets):
            return list(self.nets)
        return [_second(recipe, net) for recipe, net in zip(recipes, self.nets, strict=True)]

    def register(self) -> None:
        """Write down in its folder what it is, where verdicts are about to lie in it."""

    def code(self) -> str | None:
        """Give what names the file of its class to another process; None where its name does.

        Raises:
            DefenseError: the class is in this process's memory alone.
        """
        return None if self.origin is None else self.origin.elsewhere()

    # Training

    @classmethod
    def settings_for(
        cls,
        dataset: Dataset | DatasetInfo,
        preset: str = "course",
        given: Mapping[str, Any] = MappingProxyType({}),
    ) -> Resolved:
        """Decide the settings this defense is trained with on a data set.

        Args:
            dataset: only the key of a built-in one chooses entries of tables, never a name.
            preset: course or fast.
            given: settings that the user asks for, by name.

        Returns:
            The settings, and by name where each came from.

        Raises:
            SettingsError: for an unknown preset or setting, or a value out of range.
        """
        tables = {f"the table of {cls.name}": cls.settings_table}
        return resolve(
            cls.settings_class, tables, preset, given, key=dataset.key, mirror=dataset.mirror
        )

    @classmethod
    def network_settings(cls, info: DatasetInfo, settings: Settings) -> list[Settings]:
        """Give the settings of each network, in the order they are trained in.

        Args:
            info: of the data set.
            settings: the defense's.
        """
        return [settings]

    @final
    @classmethod
    def recipes(cls, info: DatasetInfo, settings: Settings, seed: int) -> list[Recipe]:
        """Give one recipe for each network, in the order they are trained in.

        Args:
            info: of the data set.
            settings: the defense's; `network_settings` says what each network makes of them.
            seed: the user's.
        """
        return [
            cls.recipe(info, own, seed, number, cls.network)
            for number, own in enumerate(cls.network_settings(info, settings))
        ]

    # Answering, on tensors

    @_with_images_checked
    def logits(self, x: Images, chance: Chance | None = None) -> Logits:
        """Compute logits of a batch, differentiable by the images where the defense is.

        Args:
            x: images float32 [B, H, W, C] in [0, 1], a tensor of the running backend. What
                `classify` takes is brought to that. Tensors may reach outside by 2, as
                with noise; on an accelerator, where looking waits, values are not looked at.
            chance: random numbers for this batch, which only a stochastic defense draws; None
                means those of seed 0.

        Returns:
            float32 [B, K].

        Raises:
            DataError: for other shapes and types, for NaN, and for values of another scale.
        """
        return self.nets[0](x)

    @_with_images_checked
    def probabilities(self, x: Images, chance: Chance | None = None) -> Any:
        """Compute the probabilities float32 [B, K] of a batch; arguments are those of `logits`."""
        return ops.softmax(self.logits(x, chance), axis=-1)

    @_with_images_checked
    def scores(self, x: Images, chance: Chance | None = None) -> Scores:
        """Compute the detection scores [B] of a batch; arguments are those of `logits`."""
        return ops.zeros((x.shape[0],))

    # Answering, for people

    @final
    def classify(self, x: Any, seed: int = 0) -> np.ndarray:
        """Answer images with probabilities.

        Args:
            x: one image [H, W, C] or a batch [B, H, W, C], as numpy array or tensor; floats in
                [0, 1] or uint8.
            seed: of the draws of a stochastic defense, an integer in [0, 2^31). The same seed gives
                the same answer to the same image, in whatever batch.

        Returns:
            float32 [B, K].

        Raises:
            DataError: for other shapes, types and ranges, and for NaN.
            SettingsError: for another seed.
        """
        return self._in_batches("probabilities", self.probabilities, x, seed)

    @final
    def detect(self, x: Any, seed: int = 0) -> np.ndarray:
        """Score images, float32 [B]; above `threshold` one is rejected.

        Takes and raises what `classify` does.
        """
        return self._in_batches("scores", self.scores, x, seed)

    def test(self, dataset: Dataset) -> dict[str, float]:
        """Measure how the test images of a data set are answered, with the draws of seed 0.

        Returns:
            `test_accuracy`, the share answered correctly and not rejected, and `rejected`, the
            share rejected.
        """
        rejected = self.detect(dataset.x_test) > self.threshold
        right = self.classify(dataset.x_test).argmax(axis=1) == dataset.y_test
        return {
            "test_accuracy": float(np.mean(right & ~rejected)),
            "rejected": float(np.mean(rejected)),
        }

    def broken(self, x: Any, y: Any, seed: int = 0) -> np.ndarray:
        """Tell which images get another label than theirs and are not rejected.

        Args:
            x: images [B, H, W, C] as `classify` takes them.
            y: labels, int [B].
            seed: of the draws of a stochastic defense.

        Returns:
            bool [B].
        """
        answers = self.classify(x, seed)
        # An answer that is not finite is no other label, as the judge has it.
        finite = np.isfinite(answers).all(axis=1)
        broken = (answers.argmax(axis=1) != ops.convert_to_numpy(y)) & finite
        if self.detects and broken.any():
            broken &= self.detect(x, seed) <= self.threshold
        return np.array(broken)

    def broken_share(self, x: Any, y: Any, draws: int = 10) -> np.ndarray:
        """Measure in which share of draws each image is broken; 0 or 1 where nothing is drawn.

        Args:
            x: images [B, H, W, C] as `classify` takes them.
            y: labels, int [B].
            draws: how often a stochastic defense is asked.

        Returns:
            float64 [B] in [0, 1].
        """
        if not self.stochastic:
            return self.broken(x, y).astype(float)
        shares = np.zeros(len(x))
        for draw in range(draws):
            shares += self.broken(x, y, spread(draw, Stream.DRAWS))
        return shares / draws

    @property
    def variables(self) -> list[Any]:
        """The variables of the networks, all that a compiled function of this defense reads."""
        return [variable for net in self.nets for variable in net.variables]

    def compiled(self, key: tuple[Any, ...], function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile a function that uses this defense's networks, once for every key.

        Args:
            key: hashable values that tell the function from others; another function with a key
                that was used is not looked at.
            function: of tensors; it must not change anything.

        Returns:
            The compiled function.
        """
        if key not in self._compiled:
            compiled = backend.compile(function, self.variables)
            self._compiled[key] = self.passes.of_compiled(compiled)
        return self._compiled[key]

    @backend.isolated
    def _in_batches(
        self, key: str, answer: Callable[[Images, Chance | None], Any], x: Any, seed: int
    ) -> np.ndarray:
        def asked(images: Images, seed: Any) -> Any:
            return answer(images, Chance(images, seed) if self.stochastic else None)

        whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
        if not (whole and 0 <= seed < 2**31):
            raise SettingsError(f"seed: expected an integer from 0 to {2**31 - 1}, got {seed!r}")
        compiled, drawn = self.compiled((key,), asked), ops.convert_to_tensor(int(seed), "int32")
        images = self._checked(x)
        return self.passes.counted(
            lambda: in_batches(lambda batch: compiled(batch, drawn), images),
            len(images),
            gradient=False,
        )

    def _read(self, x: Any) -> np.ndarray:
        try:
            return ops.convert_to_numpy(x) if ops.is_tensor(x) else np.asarray(x)
        except Exception as error:  # every framework has its own for deleted or sparse tensors
            raise self._wrong(f"{type(x).__name__}, which is no array: {error}") from error

    def _checked(self, x: Any) -> np.ndarray:
        """Images as float32 [B, H, W, C] in [0, 1]."""
        images = self._read(x)
        images = self._batch(images, images.dtype.name)
        if images.dtype == np.uint8:
            return images.astype(np.float32) / 255
        images = images.astype(np.float32)
        self._expect_values(images, 0, 1)
        return images

    def _as_tensor(self, x: Any) -> Images:
        """Images as a tensor float32 [B, H, W, C], differentiable by the tensor that they are."""
        dtype = keras.backend.standardize_dtype(x.dtype) if ops.is_tensor(x) else ""
        # XLA divides bytes by 255 otherwise than numpy, in the last bit.
        if not dtype or (dtype == "uint8" and backend.readable(x)):
            return ops.convert_to_tensor(self._checked(x))
        if getattr(x, "is_meta", False):  # Keras would take what lies in memory for its values
            raise self._wrong("a tensor of the device meta, which has no values")
        x = self._batch(x, dtype)
        if dtype == "uint8":
            return to_float(x)
        if backend.readable(x):
            # An attack that smooths its gradient by noise asks outside of [0, 1].
            self._expect_values(self._read(x), -2, 3)
        return x if dtype == "float32" else ops.cast(x, "float32")

    def _batch(self, images: Any, dtype: str) -> Any:
        """Images of this data set, [B, H, W, C], of a type that is taken."""
        # A size that a graph leaves open is compared with none of ours, which would settle it.
        single = len(images.shape) == 3 and tuple(images.shape) == self.info.shape
        images = images[None] if single else images
        if tuple(images.shape[1:]) != self.info.shape or images.shape[0] == 0:
            raise self._wrong(f"shape {list(images.shape)}")
        if dtype != "uint8" and "float" not in dtype:
            raise self._wrong(dtype)
        return images

    def _expect_values(self, images: np.ndarray, least: float, most: float) -> None:
        low, high = float(images.min()), float(images.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise self._wrong("NaN or infinite values")
        if low < least or high > most:
            hint = ". Divide by 255?" if high > 2 and low >= 0 else ""
            raise self._wrong(f"values from {low:.6g} to {high:.6g}{hint}")

    def _wrong(self, found: str) -> DataError:
        shape = ", ".join(map(str, self.info.shape))
        return DataError(
            f"{self.name}: expected images [{shape}] or [B, {shape}], floats in [0, 1] or uint8; "
            f"found {found}"
        )


def _second(recipe: Recipe, net: Any) -> Any:
    """A network of the same weights; the network itself where it is not the recipe's."""
    twin = recipe.net()
    shapes = [[tuple(each.shape) for each in owner.variables] for owner in (twin, net)]
    if type(twin) is not type(net) or shapes[0] != shapes[1]:
        return net
    for own, variable in zip(twin.variables, net.variables, strict=True):
        own.assign(variable.value)
    for name, value in vars(net).items():  # what was set later, such as another transform
        if name not in vars(twin):
            object.__setattr__(twin, name, value)
    return twin

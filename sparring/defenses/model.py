"""Model: a model of one's own as a defense, so that it is attacked and judged as any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
from typing_extensions import override

from sparring import backend, defenses
from sparring import data as datasets
from sparring.backend import keras, ops
from sparring.data import Dataset, DatasetInfo
from sparring.defenses.defense import Defense
from sparring.errors import (
    ModelError,
    SettingsError,
    SparringError,
    kind_of,
    printable,
    shown,
    told,
)
from sparring.models.adapted import Adapted, adapted
from sparring.models.form import LAYOUTS, Form, differ, expect_outputs
from sparring.models.net import Net
from sparring.randomness import Chance
from sparring.runs.directory import Run
from sparring.runs.records import ModelRecord
from sparring.tensors import Images, Logits, Scores
from sparring.training.settings import Settings
from sparring.usercode import where

_TRIED, _COUNTED = 8, 64
"""Images that a model is tried on, and on which it is looked whether it knows any."""

_LEAST = 1e-12  # probabilities below it are taken for it, so that they have a logarithm


@final
class Model(Defense):
    """A model of one's own.

    `Defense.of` makes one. Its only network is a `sparring.models.net.Net`, whose variables are the
    model's.

    Args:
        info: of the data set that it is for.
        taken: the model.
    """

    name = "model"
    idea = "a model of one's own"

    def __init__(self, info: DatasetInfo, taken: Adapted) -> None:
        """Take the model, which is not asked yet."""
        self._taken = taken
        super().__init__(info, Settings(), [taken.net])
        form = taken.form
        self.name = taken.name
        self.stochastic, self.detects = form.stochastic, form.detects
        self.threshold, self.gradients = form.threshold, taken.net.gradients

    @classmethod
    @backend.isolated
    def made(cls, model: Any, data: Any, options: Mapping[str, Any]) -> Model:
        """Take a model, and try it on a few images; see `Defense.of`."""
        form = Form.of(options)
        if form.name in defenses.NAMES:
            raise SettingsError(
                f"name of a model: expected one that no defense here has, got {form.name!r}"
            )
        dataset = None
        if not isinstance(data, DatasetInfo):
            dataset = datasets.load(datasets.accepted(data))
        info = data if dataset is None else dataset.info
        defense = cls(info, adapted(model, info, form))
        defense._try_out(dataset)
        return defense

    @override
    def __repr__(self) -> str:
        """Name the model, its kind and the data set."""
        kind = self._net.kind
        return f"Model(name={self.name!r}, kind={kind!r}, dataset={self.info.name!r})"

    # What the rest of Sparring knows of a defense

    @property
    def _net(self) -> Net:
        net: Net = self.nets[0]
        return net

    @property
    @override
    def weights_sha256(self) -> str | None:
        """The hash of its weights as they are now."""
        return self._net.sha256()

    @weights_sha256.setter
    def weights_sha256(self, value: str | None) -> None:
        """Keep nothing: it follows from the weights."""

    @override
    def weights_on_disk(self) -> str | None:
        return self.weights_sha256

    @property
    @override
    def remarks(self) -> list[str]:
        return self._net.notes

    @property
    @override
    def files(self) -> list[Path]:
        reference = self._taken.reference
        return [reference.path] if reference is not None and reference.path is not None else []

    @property
    @override
    def told_apart(self) -> bool:
        return self._taken.told_apart

    @property
    @override
    def described(self) -> dict[str, Any]:
        code = self._taken.code_sha256
        return {
            "kind": self._net.kind,
            **self._taken.form.as_json(),
            **({} if code is None else {"code_sha256": code}),
        }

    @property
    @override
    def size(self) -> int:
        return self._net.size or super().size

    @override
    def second_nets(self) -> list[Any]:
        return [self._net.second()]

    @override
    def register(self) -> None:
        if self.path is None:
            return
        if Run(self.path).json_file.exists():
            raise SettingsError(
                f"{self.path}: holds a run; give the model another name (--model name=..., name=)"
            )
        reference = self._taken.reference
        record = ModelRecord(
            name=self.name,
            model=self.described,
            reference=printable(str(reference)) if reference is not None else "",
            dataset=self.info.as_json(),
            backend=backend.name,
            weights_sha256=self.weights_sha256,
        )
        record.write(self.path)

    @override
    def compiled(self, key: tuple[Any, ...], function: Callable[..., Any]) -> Callable[..., Any]:
        # Traced, what a function of numpy raises would come as an error of the framework's.
        return super().compiled(key, function) if self._net.compiled else function

    # Answering

    @override
    def logits(self, x: Images, chance: Chance | None = None) -> Logits:
        outputs = self._asked(x, chance)[0]  # [B, K]
        if self._taken.form.outputs == "logits":
            return outputs
        return ops.log(ops.maximum(outputs, _LEAST))

    @override
    def scores(self, x: Images, chance: Chance | None = None) -> Scores:
        scores = self._asked(x, chance)[1]
        return ops.zeros((x.shape[0],)) if scores is None else scores

    def _asked(self, x: Images, chance: Chance | None) -> tuple[Any, Any]:
        """Outputs float32 [B, K] and scores float32 [B], or None, of images [B, H, W, C]."""
        seed = None
        if self.stochastic:
            seed = 0 if chance is None else chance.seed
        if self._taken.form.layout == "NCHW":
            x = ops.transpose(x, (0, 3, 1, 2))
            # A view of other strides would be refused by a module that calls view() itself.
            x = x.contiguous() if backend.name == "torch" else x
        size = self._net.batch
        if size is None or x.shape[0] == size:
            return self._one_batch(x, seed)
        count = x.shape[0]
        filled = ops.concatenate([x, *[x[-1:]] * (-count % size)]) if count % size else x
        pieces = [
            self._one_batch(filled[first : first + size], seed)
            for first in range(0, filled.shape[0], size)
        ]
        outputs, scores = zip(*pieces, strict=True)
        together = ops.concatenate(outputs)[:count]
        return together, ops.concatenate(scores)[:count] if self.detects else None

    def _one_batch(self, x: Any, seed: Any) -> tuple[Any, Any]:
        """Ask about images in the model's layout."""
        try:
            given = self._net(x, seed)
        except (SparringError, KeyboardInterrupt):
            raise
        except Exception as error:  # its own
            layout = self._taken.form.layout
            raise ModelError(
                f"{self.name}: raised {_in_short(error)}{where(error, False)} when it was asked "
                f"about images {list(x.shape)}, float32 in [0, 1], {layout}"
            ) from error
        scores = None
        if self.detects:
            if not (isinstance(given, tuple | list) and len(given) == 2):
                raise ModelError(
                    f"{self.name}: expected a pair of {self._taken.form.outputs} and scores, as it "
                    f"was declared to detect; got {_form(given)}"
                )
            given, scores = given
            scores = self._tensor("scores", scores, (x.shape[0],))
        outputs = self._tensor(
            str(self._taken.form.outputs), given, (x.shape[0], self.info.classes)
        )
        return outputs, scores

    def _tensor(self, what: str, given: Any, shape: tuple[int, ...]) -> Any:
        """A tensor float32 of the shape that it has to have."""
        if not ops.is_tensor(given) or tuple(given.shape) != shape:
            per = f"one for each of {self.info.classes} classes" if len(shape) > 1 else "one each"
            raise ModelError(
                f"{self.name}: expected {what} {list(shape)} of {shape[0]} images, {per}; got "
                f"{_form(given)}"
            )
        return ops.cast(given, "float32")

    # Trying out

    def _try_out(self, dataset: Dataset | None) -> None:
        """Look at a few answers; ModelError where they are not what was declared."""
        random = np.random.default_rng(0)
        images: np.ndarray = random.random((_TRIED, *self.info.shape), dtype=np.float32)
        if dataset is not None:
            images = dataset.x_test[:_TRIED].astype(np.float32) / np.float32(255)
        x = ops.convert_to_tensor(images)
        try:
            outputs, scores = self._asked(x, Chance(x, 1))
        except ModelError as error:
            raise self._with_hint(error, x) from error.__cause__
        self._expect_finite(outputs)
        expect_outputs(self.name, self._taken.form, _numpy(outputs))
        self._look_for_randomness(x, outputs, scores)
        if dataset is not None:
            self._look_whether_it_knows(dataset)

    def _expect_finite(self, outputs: Any) -> None:
        if not np.isfinite(_numpy(outputs)).all():
            raise ModelError(f"{self.name}: expected finite {self._taken.form.outputs}, got NaN")

    def _with_hint(self, error: ModelError, x: Any) -> ModelError:
        """The error, with the other layout named where that would do."""
        [other] = {*LAYOUTS} - {self._taken.form.layout}
        turned = x if other == "NHWC" else ops.transpose(x, (0, 3, 1, 2))
        try:
            given = self._net(turned)
            given = given[0] if self.detects else given
            fits = tuple(given.shape) == (x.shape[0], self.info.classes)
        except Exception:  # it wants neither
            return error
        if not fits or not error.__cause__:
            return error
        return ModelError(
            f"{error}. It answers images {list(turned.shape)}: declare layout={other}"
        )

    def _look_for_randomness(self, x: Any, outputs: Any, scores: Any) -> None:
        """Raise ModelError for a model that draws, or mixes images, though that is not declared."""
        if self.stochastic:
            return
        # What draws from the frameworks' generators does so otherwise with another seed.
        for seed in (1, 2):
            again = self._net_outputs(x, seed)
            if differ(_numpy(outputs), again):
                raise ModelError(
                    f"{self.name}: answered otherwise when it was asked about the same images "
                    "again. Declare stochastic=true if it answers at random; else look for dropout "
                    "or noise that is left on"
                )
        few = max(1, x.shape[0] // 2)
        alone = _numpy(self._asked(x[:few], None)[0])
        if differ(_numpy(outputs)[:few], alone):
            raise ModelError(
                f"{self.name}: its answer to an image depends on the other images of the batch, as "
                "with batch norm in training mode; expected one that answers each image by itself"
            )

    def _net_outputs(self, x: Any, seed: int) -> np.ndarray:
        """Outputs in the draws of a seed, whether or not it was declared to draw."""
        before, self.stochastic = self.stochastic, True
        try:
            return _numpy(self._asked(x, Chance(x, seed))[0])
        finally:
            self.stochastic = before

    def _look_whether_it_knows(self, dataset: Dataset) -> None:
        """Note that a model answers hardly any image right."""
        x, y = dataset.x_test[:_COUNTED], dataset.y_test[:_COUNTED]
        right = int(np.sum(self.classify(x).argmax(axis=1) == y))
        if len(x) >= 16 and right < 2 * len(x) / self.info.classes:
            self._net.notes.append(
                f"{self.name} answers {right} of the first {len(x)} test images right: does it "
                "normalize images itself, are channels RGB, classes in the data set's order?"
            )


def _numpy(tensor: Any) -> np.ndarray:
    return np.array(ops.convert_to_numpy(ops.stop_gradient(tensor)))


def _form(value: Any) -> str:
    """Type, dtype and shape of what a model gave, in words."""
    if ops.is_tensor(value):
        return f"{keras.backend.standardize_dtype(value.dtype)} {list(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"a numpy array {value.dtype} {list(value.shape)}"
    if isinstance(value, tuple | list):
        return f"{len(value)} values: {', '.join(map(_form, value[:3]))}"
    return f"{kind_of(value)} {shown(value, 40)}"


def _in_short(error: BaseException) -> str:
    said = " ".join(told(error).split())
    return said if len(said) <= 400 else f"{said[:400]}..."

"""Models of Keras, on whichever backend runs, and files of them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
from typing_extensions import override

from sparring.backend import keras, ops
from sparring.errors import ModelError, kind_of, told
from sparring.models.function import first
from sparring.models.net import Net

_NAMING = ("name", "layers", "input_layers", "output_layers", "build_input_shape")


@final
class KerasNet(Net):
    """A model of Keras, asked as for prediction; nothing that it notes while it answers stays.

    Args:
        model: takes images [B, H, W, C].
        name: of the model, for messages.
    """

    kind: ClassVar[str] = "Keras model"
    layout = "NHWC"

    def __init__(self, model: Any, name: str) -> None:
        """Take the model."""
        super().__init__()
        self._model, self._name = model, name
        self._find_variables()

    def _find_variables(self) -> None:
        self.variables = list(self._model.variables)
        layers = self._model._flatten_layers() if hasattr(self._model, "_flatten_layers") else ()
        states = [
            generator.state
            for layer in layers
            for generator in getattr(layer, "_seed_generators", ())
        ]
        known = {id(variable) for variable in self.variables}
        self._draws = list({id(state): state for state in states}.values())
        self.variables += [state for state in self._draws if id(state) not in known]

    @override
    def __call__(self, x: Any, seed: Any = None) -> Any:
        if not self._model.built:
            self._model(x, training=False)  # which makes its variables
            self._find_variables()
        values = {id(variable): variable.value for variable in self.variables}
        if seed is not None:
            for state in self._draws:
                drawn = ops.cast(first(seed), state.dtype)
                values[id(state)] = ops.stack([drawn, ops.zeros_like(drawn)])
        mapping = [(variable, values[id(variable)]) for variable in self.variables]
        with keras.StatelessScope(mapping):
            return self._model(x, training=False)

    @override
    def parts(self) -> Iterator[tuple[str, np.ndarray]]:
        drawn = {id(state) for state in self._draws}  # of which no answer is to follow
        weights = [variable for variable in self.variables if id(variable) not in drawn]
        for number, variable in enumerate(weights):
            # Paths count how many layers a process has made before.
            yield f"{number}", np.array(ops.convert_to_numpy(variable.value))

    @override
    def structure(self) -> str:
        said = []
        for layer in self._model._flatten_layers():
            try:
                config = layer.get_config()
            except Exception:  # a class of the user's that does not say its arguments
                config = {}
            # What is within is said by itself; names count how many a process has made before.
            config = {key: config[key] for key in config if key not in _NAMING}
            said.append(f"{type(layer).__name__} {json.dumps(config, default=kind_of)}")
        return "\n".join(said)

    @override
    def second(self) -> Self:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = keras.models.clone_model(self._model)
            if not model.built:
                return self
            model.set_weights(self._model.get_weights())
        except Exception:  # a class of the user's that cannot say its arguments
            return self
        return type(self)(model, self._name)


def load(path: Path) -> Any:
    """Load a file of Keras's in safe mode: what of it would have to be run as Python is refused.

    Args:
        path: of a .keras or .h5 file.

    Raises:
        ModelError: it cannot be loaded so.
    """
    try:
        return keras.models.load_model(path, safe_mode=True, compile=False)
    except Exception as error:  # of many kinds
        said = " ".join(told(error).split())
        hint = (
            "A Lambda layer is Python code in the file, which is never run here. Make the model in "
            "a file of yours, and give model.py:build in its place"
            if "ambda" in said
            else "Classes of your own are found when a file model.py makes or loads the model; "
            "give model.py:build in its place"
        )
        raise ModelError(
            f"{path}: Keras cannot load it in safe mode: {said:.400}. {hint}"
        ) from error

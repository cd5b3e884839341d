"""ONNX files as models, by onnxruntime: they give answers alone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
from typing_extensions import override

from sparring.errors import ModelError, told
from sparring.models.function import HostNet

# The entry "location" of a tensor whose values lie in another file, as protobuf writes it.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f])")
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


@final
class OnnxNet(HostNet):
    """An ONNX file.

    Args:
        path: of the file.
        name: of the model.
        classes: how many there are.
        detects: whether it has a second output, the scores.

    Raises:
        ModelError: it cannot be read, has several inputs, or none of floats; or onnxruntime is
            missing.
    """

    kind: ClassVar[str] = "ONNX file"
    layout, outputs = "NCHW", "logits"

    def __init__(self, path: Path, name: str, classes: int, detects: bool) -> None:
        """Read it."""
        super().__init__(self._run, name, classes, detects)
        try:
            import onnxruntime
        except ImportError as error:
            raise ModelError(
                f"{path}: ONNX files need onnxruntime: pip install 'sparring[onnx]' ({error})"
            ) from error
        self._files = [path, *_beside(path)]
        try:
            self._session = onnxruntime.InferenceSession(
                path, providers=onnxruntime.get_available_providers()
            )
        except Exception as error:  # of onnxruntime's own kinds
            said = " ".join(told(error).split())
            raise ModelError(f"{path}: onnxruntime cannot load it: {said:.400}") from error
        inputs = self._session.get_inputs()
        types = [given.type for given in inputs]
        if len(inputs) != 1 or types[0] not in _DTYPES:
            raise ModelError(
                f"{path}: expected one input, images of floats in [0, 1]; found "
                f"{', '.join(f'{each.name} {each.type} {each.shape}' for each in inputs)}"
            )
        self._input, self._dtype = inputs[0].name, _DTYPES[types[0]]
        size = inputs[0].shape[0] if inputs[0].shape else None
        self.batch = size if isinstance(size, int) else None

    def _run(self, images: np.ndarray) -> Any:
        given = self._session.run(None, {self._input: images.astype(self._dtype)})
        if self._detects:
            return given
        if len(given) != 1:
            raise ModelError(
                f"{self._name}: expected one output, got {len(given)}; declare detects=true if the "
                "second are scores by which it rejects"
            )
        return given[0]

    @override
    def parts(self) -> Iterator[tuple[str, np.ndarray]]:
        for path in self._files:
            yield path.name, np.frombuffer(path.read_bytes(), np.uint8)

    @override
    def sha256(self) -> str | None:
        if len(self._files) == 1:
            return hashlib.sha256(self._files[0].read_bytes()).hexdigest()
        return super().sha256()


def _beside(path: Path) -> list[Path]:
    """Files beside an ONNX file that hold values of its tensors."""
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    names = set()
    for match in _LOCATION.finditer(contents):
        name = contents[match.end() : match.end() + match[1][0]].decode(errors="replace")
        names.add(name)
    return [path.parent / name for name in sorted(names) if (path.parent / name).is_file()]

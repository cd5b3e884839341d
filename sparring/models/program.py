"""Files of torch.export (.pt2): looked through before PyTorch loads them.

torch.export.load is no safe reader: it unpickles what is no plain tensor, reads symbolic sizes by
evaluating them, looks up operations by any name below `torch`, and loads compiled code. So what an
ordinary program has is let through, and nothing else.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from typing_extensions import override

from sparring.backend import choice
from sparring.errors import ModelError, told
from sparring.models.torch_net import TorchNet

_MEMBERS = re.compile(
    r"(?:[^/]*/)?(?:archive_format|archive_version|version|byteorder|\.format_version"
    r"|\.data/(?:version|serialization_id)"
    r"|models/model\.json"
    r"|data/weights/(?:weight_\d+|model_weights_config\.json|model\.pt)"
    r"|data/constants/(?:tensor_\d+|model_constants_config\.json|model\.pt)"
    r"|data/sample_inputs/model\.pt"
    r"|serialized_(?:exported_program\.json|(?:state_dict|constants|example_inputs)\.pt)"
    r"|extra(?:_files)?/[^/]*)"
)
"""What lies in a file of today's PyTorch, and in one of before 2.8."""

_PROGRAM = re.compile(r"(?:[^/]*/)?(?:models/model|serialized_exported_program)\.json")
_OPERATIONS = re.compile(
    r"torch\.ops\.[\w.]+|torch\.sym_\w+|math\.\w+"
    r"|_operator\.(?!attrgetter|methodcaller|call)[a-z_]+"
)
_SYMBOLS = re.compile(r"Symbol\('\w+'(?:, \w+=(?:True|False))*\)")
# Of lower case are Python's own functions; sympy's begin with a capital.
_TOKENS = re.compile(r"\w+\(|\w+|\S")
_TOKEN = re.compile(r"[A-Z]\w*\(|\w+|[-+*/(),<>=]")
_LARGEST_PROGRAM = 1 << 30


@final
class ProgramNet(TorchNet):
    """An exported program, which is as it was exported: it knows no mode.

    Args:
        module: of the program.
        name: of the model, for messages.
    """

    kind: ClassVar[str] = "torch.export program"

    def __init__(self, module: Any, name: str) -> None:
        """Take the module."""
        super().__init__(module, name)
        self.batch = getattr(module, _BATCH, None)

    @override
    def to_evaluation(self) -> bool:
        return False


_BATCH = "sparring_batch"


def module_of(program: Any) -> Any:
    """Give the module of an exported program, which notes how many images it takes at a time."""
    module = program.module()
    inputs = {*program.graph_signature.user_inputs}
    given = [node.meta.get("val") for node in program.graph.nodes if node.name in inputs]
    sizes = [value.shape[0] for value in given if isinstance(value, torch.Tensor) and value.ndim]
    setattr(module, _BATCH, sizes[0] if sizes and isinstance(sizes[0], int) else None)
    return module


def load(path: Path) -> Any:
    """Load an exported program.

    Args:
        path: of a .pt2 file.

    Returns:
        Its module.

    Raises:
        ModelError: it cannot be loaded, or has more in it than weights and PyTorch's operations.
    """
    try:
        contents = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(contents)) as archive:
            _expect_plain(path, archive)
        # Tensors of odd kinds, and example inputs, are pickled; so are read as weights alone.
        with choice.environment(TORCH_FORCE_WEIGHTS_ONLY_LOAD="1"):
            program = torch.export.load(io.BytesIO(contents))
        return module_of(program)
    except ModelError:
        raise
    except Exception as error:  # of many kinds
        said = " ".join(told(error).split())
        raise ModelError(f"{path}: PyTorch cannot load it: {said:.400}") from error


def _expect_plain(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse an archive that has more in it than weights and PyTorch's operations."""
    names = archive.namelist()
    if odd := [name for name in names if not _MEMBERS.fullmatch(name)]:
        raise _refused(path, f"{odd[0]!r:.80} in the archive, which may be pickled or compiled")
    programs = [name for name in names if _PROGRAM.fullmatch(name)]
    if len(programs) != 1 or archive.getinfo(programs[0]).file_size > _LARGEST_PROGRAM:
        raise _refused(path, f"{len(programs)} programs")
    for key, text in _texts(json.loads(archive.read(programs[0]))):
        if key == "expr_str":
            tokens = _TOKENS.findall(_SYMBOLS.sub("1", text))
            if "__" in text or not all(map(_TOKEN.fullmatch, tokens)):
                raise _refused(path, f"the size {text!r:.80}, which is no arithmetic")
        elif not _OPERATIONS.fullmatch(text):
            raise _refused(path, f"the operation {text!r:.80}")


def _texts(values: Any) -> Iterator[tuple[str, str]]:
    """Texts of a program that PyTorch evaluates, or looks operations up by."""
    if isinstance(values, dict):
        for key, value in values.items():
            if key in ("expr_str", "target", "as_operator") and isinstance(value, str):
                yield key, value
            yield from _texts(value)
    elif isinstance(values, list):
        for value in values:
            yield from _texts(value)


def _refused(path: Path, what: str) -> ModelError:
    return ModelError(
        f"{path}: expected a program of weights and PyTorch's operations alone, as torch.export "
        f"saves it, found {what}. Make the model in a file of yours, and give model.py:build in "
        "its place"
    )

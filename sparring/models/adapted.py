"""From a model, or what names one, to a net."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparring import backend
from sparring.backend import keras
from sparring.data import DatasetInfo
from sparring.errors import ModelError, SparringError, kind_of, told
from sparring.models.form import Form, folder_name
from sparring.models.function import FunctionNet, HostNet, needed
from sparring.models.net import Net
from sparring.models.reference import Reference
from sparring.usercode import find_beside, run, where

_KINDS = (
    "a torch.nn.Module, a Keras model, a torch.export.ExportedProgram, a function of images, or "
    "what names one: model.py:build, a file that ends in .onnx, .pt2, .keras or .h5, or "
    "robustbench:NAME"
)


@dataclass(frozen=True)
class Adapted:
    """A model that was taken.

    Attributes:
        net: the model.
        form: what was declared of it, complete.
        reference: what names it; None for one that was given as an object.
        code_sha256: the hash of the file that says how it answers, and of its structure; None where
            no file can be found.
        told_apart: whether hashes of weights and code tell it from any other.
    """

    net: Net
    form: Form
    reference: Reference | None
    code_sha256: str | None
    told_apart: bool

    @property
    def name(self) -> str:
        """What it is called."""
        assert self.form.name is not None
        return self.form.name


def adapted(model: Any, info: DatasetInfo, form: Form) -> Adapted:
    """Take a model.

    Args:
        model: the model, or what names it.
        info: of the data set that it is for.
        form: what is declared of it.

    Returns:
        The model as a net.

    Raises:
        ModelError: it is none of the kinds there are, cannot be loaded, or needs another backend.
    """
    reference = None
    if isinstance(model, str | Path | Reference):
        reference = model if isinstance(model, Reference) else Reference.of(str(model))
        if form.name is None:
            form = replace(form, name=reference.name)
        model = _loaded(reference, info, form)
    elif form.name is None:
        called = getattr(model, "__name__", None) or kind_of(model)
        form = replace(form, name=folder_name(str(called)))
    assert form.name is not None
    net = model if isinstance(model, Net) else _net_of(model, form, info.classes)
    form = replace(form, layout=form.layout or net.layout, outputs=form.outputs or net.outputs)
    code = _code_of(model) if reference is None or reference.path is None else reference.path
    has_weights = next(net.parts(), None) is not None
    known = code is not None and (has_weights or reference is not None)
    return Adapted(net, form, reference, _hash(code, net.structure()), known)


def _loaded(reference: Reference, info: DatasetInfo, form: Form) -> Any:
    """Load what a reference names: a net, or a model that is not taken yet."""
    path, name = reference.path, form.name
    assert name is not None
    if path is None:
        return _of_robustbench(reference.attribute, info)
    if not path.is_file():
        raise ModelError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}")
    ending = path.suffix.lower()
    if ending == ".py":
        return _built(path, reference.attribute)
    if ending == ".onnx":
        from sparring.models.onnx_net import OnnxNet

        return OnnxNet(path, name, info.classes, form.detects)
    if ending == ".pt2":
        _expect_torch(f"{path}: a program of torch.export")
        from sparring.models import program

        return program.ProgramNet(program.load(path), name)
    from sparring.models import keras_net

    return keras_net.load(path)


def _built(path: Path, attribute: str) -> Any:
    """Run a file of the user's, and take the model that it makes."""
    find_beside(path)
    module = run(path, "model", ModelError)
    if not hasattr(module, attribute):
        own = [
            name
            for name, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module.__name__
        ]
        raise ModelError(
            f"{path}: expected a function or a model {attribute!r}, found "
            f"{', '.join(own) or 'none'}"
        )
    made = getattr(module, attribute)
    is_model = isinstance(made, keras.Layer) or _is_module(made)
    if is_model or not callable(made) or needed(made):
        return made  # a function of images is a model itself
    try:
        return made()
    except (SparringError, KeyboardInterrupt):
        raise
    except BaseException as error:  # its own, SystemExit, ...
        raise ModelError(f"{path}: {attribute}: {told(error)}{where(error, False)}") from error


def _of_robustbench(name: str, info: DatasetInfo) -> Any:
    """Ask the package for one of its models, NAME or NAME:L2; it downloads and loads as it does."""
    _expect_torch(f"robustbench:{name}: a model of RobustBench")
    try:
        utils = importlib.import_module("robustbench.utils")
    except Exception as error:  # whatever a broken package raises
        raise ModelError(
            f"robustbench:{name}: the package robustbench cannot be imported ({told(error)})"
        ) from error
    called, _, threat = name.partition(":")
    by_classes = {10: "cifar10", 100: "cifar100", 1000: "imagenet"}
    if info.classes not in by_classes:
        raise ModelError(
            f"robustbench:{name}: expected a data set of {', '.join(map(str, by_classes))} "
            f"classes, as RobustBench's models are for, {info.name} has {info.classes}"
        )
    try:
        return utils.load_model(
            model_name=called, dataset=by_classes[info.classes], threat_model=threat or "Linf"
        )
    except Exception as error:  # its own
        raise ModelError(f"robustbench:{name}: {told(error)}") from error


def _is_module(value: Any, name: str = "torch.nn.Module") -> bool:
    """Whether something is of a class of PyTorch's, which is not imported for that."""
    package, _, kind = name.rpartition(".")
    there = getattr(sys.modules.get(package), kind, None)
    return there is not None and isinstance(value, there)


def _net_of(model: Any, form: Form, classes: int) -> Net:
    """Take an object for a net."""
    name = form.name
    assert name is not None
    if isinstance(model, keras.Layer):  # which is a module of PyTorch's, too, on that backend
        from sparring.models.keras_net import KerasNet

        return KerasNet(model, name)
    if _is_module(model, "torch.export.ExportedProgram"):
        _expect_torch(f"{name}: a program of torch.export")
        from sparring.models.program import ProgramNet, module_of

        return ProgramNet(module_of(model), name)
    if _is_module(model):
        _expect_torch(f"{name}: a module of PyTorch")
        from sparring.models.torch_net import TorchNet

        return TorchNet(model, name)
    if inspect.isclass(model) or not callable(model):
        what = f"the class {model.__name__}" if inspect.isclass(model) else kind_of(model)
        raise ModelError(f"{name}: expected {_KINDS}; got {what}")
    function: Callable[..., Any] = model
    return FunctionNet(function) if form.tensors else HostNet(function, name, classes, form.detects)


def _expect_torch(what: str) -> None:
    """Refuse what is PyTorch's where another backend runs."""
    if backend.name != "torch":
        raise ModelError(
            f"{what} needs the backend torch, running is {backend.name}: set KERAS_BACKEND=torch "
            "before Python starts, or give --backend torch"
        )


def _hash(path: Path | None, structure: str) -> str | None:
    """The hash of a file and of how a model says it is put together."""
    try:
        contents = b"" if path is None else path.read_bytes()
    except OSError:
        return None
    return None if path is None else hashlib.sha256(contents + structure.encode()).hexdigest()


def _code_of(model: Any) -> Path | None:
    """The file that a model's class, or a function, is defined in."""
    try:
        return Path(inspect.getfile(model if inspect.isfunction(model) else type(model)))
    except (TypeError, OSError):
        return None

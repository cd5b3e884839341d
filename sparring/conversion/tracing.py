"""What a defense changed in its network, as programs of PyTorch.

A hook is a function written in keras.ops. On Keras's PyTorch backend `torch.export` turns it into
a program that needs PyTorch alone; where another backend runs, a process of its own does that:

    KERAS_BACKEND=torch python -m sparring.conversion.tracing RUN FOLDER
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparring import backend
from sparring.defenses.defense import Defense
from sparring.errors import ConversionError, SparringError
from sparring.experiments import machine
from sparring.experiments.load import load
from sparring.networks.allconv import HOOKS, AllConv


def changed_hooks(net: AllConv) -> list[str]:
    """Name the hooks of AllConv that a network overrides.

    Raises:
        ConversionError: where it overrides what calls them, which no conversion follows.
    """

    def changed(name: str) -> bool:
        return getattr(type(net), name) is not getattr(AllConv, name)

    for name in ("call", "features", "head_logits"):
        if changed(name):
            raise ConversionError(
                f"{type(net).__name__} overrides {name}: expected changes in {', '.join(HOOKS)} "
                "alone, which is what conversions follow"
            )
    return [name for name in HOOKS if changed(name)]


def write_hooks(defense: Defense, folder: Path) -> None:
    """Write each changed hook of each network as network-N.HOOK.pt2 into a folder.

    Raises:
        ConversionError: where a hook cannot be traced, naming it.
    """
    if not any(changed_hooks(net) for net in defense.nets):
        return
    if backend.name == "torch":
        for number, net in enumerate(defense.nets):
            for name in changed_hooks(net):
                _write(net, name, defense.info.shape, folder / f"network-{number}.{name}.pt2")
        return
    assert defense.path is not None
    assert defense.weights_sha256 is not None
    places = [str(place.absolute()) for place in (defense.path, folder)]
    code = defense.code()
    process = machine.python(
        ["-m", __name__, *places, defense.weights_sha256, *([code] if code else [])],
        {"KERAS_BACKEND": "torch"},
    )
    answer = subprocess.run(**process, capture_output=True, text=True)
    if answer.returncode:
        try:
            reason = json.loads(answer.stdout)["error"]
        except (ValueError, KeyError):
            reason = f"the process that traces hooks failed:\n{answer.stderr}"
        raise ConversionError(reason)


def _write(net: AllConv, name: str, shape: tuple[int, int, int], file: Path) -> None:
    """Write one hook as a program that takes and gives NCHW."""
    import torch

    height, width, channels = shape
    batch, free = torch.export.Dim("batch", min=1), torch.export.Dim.DYNAMIC
    sizes: dict[int, Any] = {0: batch}
    if name == "transform":
        example = torch.zeros(2, channels, height, width, dtype=torch.float32)
    elif name == "output":
        example = torch.ones(2, int(net.head[1].shape[0]), dtype=torch.float32)
    else:  # called for layers of every size
        example = torch.ones(2, 6, 10, 8, dtype=torch.float32)
        sizes = {0: batch, 1: free, 2: free, 3: free}

    class Hook(torch.nn.Module):
        """The hook, NCHW in and out."""

        def forward(self, x: Any) -> Any:
            """Call it."""
            function: Callable[[Any], Any] = getattr(net, name)
            if x.ndim == 2:
                return function(x)
            return function(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    save_program(traced(Hook(), (example,), (sizes,), f"{type(net).__name__}.{name}"), file)


def traced(module: Any, example: tuple[Any, ...], sizes: Any, what: str) -> Any:
    """Trace a module of PyTorch.

    Args:
        module: what is called.
        example: what it is called with once.
        sizes: which sizes of that stay open, as `torch.export.export` takes them.
        what: the function in messages, as Blur.transform.

    Returns:
        The program.

    Raises:
        ConversionError: it cannot be traced.
    """
    import torch

    try:
        with torch.no_grad():
            return torch.export.export(module, example, dynamic_shapes=sizes)
    except Exception as error:  # of many kinds, all of PyTorch's
        reason = str(error).strip().partition("\n")[0]
        raise ConversionError(
            f"{what} cannot be traced by torch.export: expected functions of keras.ops alone; "
            f"{type(error).__name__}: {reason}"
        ) from error


_NEEDED = ("val", "custom", "tensor_meta")
"""What is told of an operation besides where in which file it stands."""


def save_program(program: Any, file: Path) -> None:
    """Save an exported program.

    Left out are its example inputs, which would be pickled, and where in which files and classes
    its operations stand, which names folders of this machine.
    """
    import torch

    program.example_inputs = None
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta = {name: node.meta[name] for name in _NEEDED if name in node.meta}
    buffer = io.BytesIO()  # since torch's own writer takes no name that is not UTF-8
    with warnings.catch_warnings():
        # Of kernels that are views of memory in another order of axes; on the CPU they are whole.
        warnings.filterwarnings("ignore", "No complete tensor found", UserWarning)
        torch.export.save(program, buffer)
    file.write_bytes(buffer.getvalue())


def main() -> None:
    """Write the hooks of a run into a folder.

    The command line names both, the run's hash, and the file of its class where that is one's own.
    """
    run, folder, sha256, *code = sys.argv[1:]
    try:
        defense = load(run, *code)
        if defense.weights_sha256 != sha256:
            raise ConversionError(f"{run}: was trained anew meanwhile; convert it again")
        write_hooks(defense, Path(folder))
    except SparringError as error:
        print(json.dumps({"error": str(error)}))
        sys.exit(1)


if __name__ == "__main__":
    main()

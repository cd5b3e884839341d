"""What names a model of one's own on the command line; nothing is read or imported here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from sparring.errors import ModelError
from sparring.models.form import folder_name

FILES = (".onnx", ".pt2", ".keras", ".h5", ".hdf5")
"""Endings of files that hold a whole model."""

ROBUSTBENCH = "robustbench:"
"""What stands before the name of a model of RobustBench's."""

_PICKLED = (
    *(".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".joblib", ".dill", ".torch", ".tar"),
)
_WAY_OUT = (
    "Write a file model.py that makes the model:\n"
    "    def build():\n"
    "        model = MyNetwork()\n"
    "        model.load_state_dict({load})\n"
    "        return model\n"
    "and give model.py:build in its place"
)


@dataclass(frozen=True)
class Reference:
    """What names a model.

    Attributes:
        path: of its file; None of one that a package knows.
        attribute: what of a Python file is meant, as "build"; or the package's name for it.
    """

    path: Path | None
    attribute: str = ""

    @classmethod
    def of(cls, text: str) -> Self:
        """Read a text.

        Args:
            text: model.py:build, the path of a file with one of FILES' endings, or
                robustbench:NAME.

        Raises:
            ModelError: for a file that cannot be loaded safely, saying the way out, and for
                anything else.
        """
        if text.startswith(ROBUSTBENCH):
            return cls(None, text.removeprefix(ROBUSTBENCH))
        file, colon, attribute = text.rpartition(":")
        if colon and file.endswith(".py"):
            if not attribute.isidentifier():
                raise ModelError(
                    f"{text}: expected the name of a function or a model after the file, as "
                    f"{file}:build"
                )
            return cls(Path(file).expanduser(), attribute)
        ending = Path(text).suffix.lower()
        if ending in _PICKLED:
            load = f'torch.load("{Path(text).name}", weights_only=True)'
            raise ModelError(
                f"{text}: such files hold pickled Python, which may run anything when it is "
                f"loaded; it is never loaded here. {_WAY_OUT.format(load=load)}"
            )
        if ending == ".safetensors":
            load = f'safetensors.torch.load_file("{Path(text).name}")'
            raise ModelError(
                f"{text}: holds weights without the network they belong to. "
                f"{_WAY_OUT.format(load=load)}"
            )
        if ending == ".py":
            raise ModelError(
                f"{text}: expected the name of a function that gives the model too, as {text}:build"
            )
        if ending not in FILES:
            raise ModelError(
                f"{text}: expected a model, as model.py:build, {ROBUSTBENCH}NAME, or a file that "
                f"ends in {', '.join(FILES)}"
            )
        return cls(Path(text).expanduser())

    def __str__(self) -> str:
        """Give the text that names it."""
        if self.path is None:
            return f"{ROBUSTBENCH}{self.attribute}"
        return f"{self.path}:{self.attribute}" if self.attribute else str(self.path)

    @property
    def name(self) -> str:
        """A short name for the model."""
        if self.path is None:
            return folder_name(self.attribute)
        return folder_name(
            f"{self.path.stem}-{self.attribute}" if self.attribute else self.path.name
        )

    def absolute(self) -> Self:
        """Give the reference for a process that runs in another folder."""
        return self if self.path is None else replace(self, path=self.path.absolute())


def is_reference(word: str) -> bool:
    """Say whether a word is what names a model, or a file that is refused as one.

    Args:
        word: as it was given.
    """
    file, colon, _ = word.rpartition(":")
    if word.startswith(ROBUSTBENCH) or (colon and file.endswith(".py")):
        return True
    ending = Path(word).suffix.lower()
    return ending in (*FILES, *_PICKLED, ".safetensors") and not Path(word).is_dir()

"""A defense as the output of a notebook's cell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparring.templates import environment

if TYPE_CHECKING:
    from sparring.defenses.defense import Defense


def html(defense: Defense) -> str:
    """Give a defense as HTML to stand within other HTML, without style sheets or scripts."""
    template = environment("sparring.defenses").get_template("cell.html.jinja")
    return template.render(shown=_Shown(defense))


@dataclass(frozen=True)
class _Shown:
    """What is shown of a defense."""

    defense: Defense

    @property
    def title(self) -> str:
        return f"{self.defense.name} on {self.defense.info.name}"

    @property
    def idea(self) -> str:
        return self.defense.idea

    @property
    def remarks(self) -> list[str]:
        return [*self.defense.remarks, *(self.defense.results.get("warnings") or ())]

    @property
    def facts(self) -> Iterator[tuple[str, str, str]]:
        """Names, values and notes."""
        defense, info = self.defense, self.defense.info
        for key, note in (
            ("test_accuracy", f"of {info.test_images:,} test images: answered correctly"),
            ("rejected", "of them: rejected as suspicious"),
        ):
            share = defense.results.get(key)
            if share or (share is not None and key == "test_accuracy"):
                yield key.replace("_", " "), f"{share:.2%}", note
        if defense.stochastic:
            yield "answers", "at random", "by the seed that classify and detect take"
        if defense.detects:
            yield "rejects", f"above {defense.threshold:.4g}", "what detect gives is compared"
        if not defense.gradients:
            yield "gradients", "none", "it can only be asked"
        count = len(defense.nets)
        yield "networks", str(count), "" if defense.borrows is None else f"{defense.borrows}'s"
        shape = " x ".join(map(str, info.shape))
        yield "images", shape, f"{info.classes} classes, {info.train_images:,} for training"
        if defense.path is not None:
            yield "folder", str(defense.path), ""
        if defense.weights_sha256 is not None:
            yield "weights", f"{defense.weights_sha256:.12}", "SHA-256, the beginning"

    @property
    def kind(self) -> str:
        """What the values below the fold are."""
        return "Settings" if self.defense.described is None else "What was declared of it"

    @property
    def settings(self) -> Iterator[tuple[str, str, str]]:
        """Names and values, in the order of the defense's own."""
        values, texts = self.defense.described, {}
        if values is None:
            values, texts = self.defense.settings.as_json(), self.defense.settings.help()
        for name, value in values.items():
            yield name, str(value), texts.get(name, "")

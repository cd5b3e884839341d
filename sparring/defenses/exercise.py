"""Exercises: an attack to fill in, for breaking a defense oneself."""

from __future__ import annotations

from pathlib import Path

from sparring import defenses
from sparring.errors import SettingsError, printable

_TEMPLATE = '''"""An attack on {name}: {idea}.

Goal: {goal}

    sparring train {named}
    sparring attack {named} {file}
    sparring hint {named}

How {name} works, training and answering, stands in {place}. Who writes it
anew, as functions port_labels(defense, x) and port_gradient(defense, x, y) in this file, is told
how far they agree with it: docs/attacks.md, "A port of the defense".
"""

from sparring import gradient
from sparring.attacks import cross_entropies


def attack(defense, x, y, threat, steps=10):
    """Adversarial images for images x [B, H, W, C] in [0, 1] with labels y [B].

    defense.logits(x) are its logits, defense.classify(x) its probabilities and defense.detect(x)
    its scores: above defense.threshold it rejects. threat.project(x_adv, x) brings images back
    into the ball of radius threat.eps around x, threat.direction(g) is the step of size 1 along g.
    """
    x_adv = x
    for _ in range(steps):
        g = gradient(lambda images: cross_entropies(y, defense.logits(images)), x_adv)
        # Your turn: this takes no step yet.
        x_adv = threat.project(x_adv + 0 * threat.direction(g), x)
    return x_adv
'''


def write(name: str, folder: Path, force: bool = False) -> Path:
    """Write attack_NAME.py into a folder. No framework is imported.

    Args:
        name: of a defense, or what else names it, as mydefense.py.
        folder: made where it is missing.
        force: overwrite a file that is there.

    Returns:
        The file's path.

    Raises:
        DefenseError: for a file without a defense.
        SettingsError: for an unknown defense and, unless `force`, for a file that is there.
    """
    defense, place = defenses.describe(name), defenses.find(name).place
    path = folder / f"attack_{defense.name}.py"
    if path.exists() and not force:
        raise SettingsError(f"{path} exists; --force overwrites it")
    goal = "as many images as you can; it is meant to hold, and nobody published a number."
    if (success := defense.published_success) is not None:
        goal = (
            f"{success} %. So many of 100 images of CIFAR-10, those it misclassifies\n"
            "included, the course's best published attack broke at Linf 4/255."
        )
    # What is quoted stays within the docstring, whatever a file of others says.
    words = {"named": name, "idea": defense.idea, "place": place}
    quoted = {at: printable(word).replace('"', "'") for at, word in words.items()}
    text = _TEMPLATE.format(name=defense.name, goal=goal, file=path.name, **quoted)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path

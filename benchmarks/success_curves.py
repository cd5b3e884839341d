"""docs/success.svg: how the success of attacks rises with eps.

    python -m benchmarks.success_curves runs/fashion-mnist --data-dir DIR --out docs/success.svg

Noise, FGSM and PGD on the baseline, and PGD on the logits' margin on the defenses trained on
adversarial examples, each on the first 100 test images at eight eps.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import sparring
from sparring import data, plots
from sparring.attacks import FGSM, PGD, Attack, Noise
from sparring.errors import SparringError
from sparring.runs.files import write_atomically
from sparring.threat import Linf

SHARES = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
LINES: dict[str, tuple[str, Attack]] = {
    "baseline, noise": ("baseline", Noise(draws=10)),
    "baseline, FGSM": ("baseline", FGSM()),
    "baseline, PGD": ("baseline", PGD()),
    "advtrain, PGD": ("advtrain", PGD(loss="margin")),
    "pgdtrain, PGD": ("pgdtrain", PGD(loss="margin")),
    "trades, PGD": ("trades", PGD(loss="margin")),
}


def main() -> None:
    """Attack at every eps and draw the lines of the defenses that are trained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, help="a folder with one run directory per defense")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    names = dict.fromkeys(name for name, _ in LINES.values())
    if not any((arguments.runs / name / "weights.safetensors").is_file() for name in names):
        wanted = f"expected a folder with trainings of {', '.join(names)}"
        parser.error(f"{arguments.runs}: {wanted}, found none")
    try:
        dataset = data.load(arguments.runs.name, arguments.data_dir)
    except SparringError as error:
        parser.error(f"the folder is to be called like its data set: {error}")
    usual = data.SOURCES[dataset.name].usual_eps["Linf"]
    lines = {}
    for label, (name, attack) in LINES.items():
        if not (arguments.runs / name / "weights.safetensors").is_file():
            continue
        defense = sparring.load(arguments.runs / name)
        eps = [share * usual for share in SHARES]
        rates = [
            sparring.evaluate(defense, attack, Linf(each), dataset, check=False).success_rate.value
            for each in eps
        ]
        print(label, *(f"{each:.4g}: {rate:.0%}" for each, rate in zip(eps, rates, strict=True)))
        lines[label] = [(eps, rates)]
    title = f"Attack success on {dataset.name}, of the first 100 images answered rightly"
    text = plots.curves(lines, title, "Linf eps", "broken")
    write_atomically(arguments.out, text.encode())


if __name__ == "__main__":
    main()

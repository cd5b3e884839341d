"""sparring report: figures over seeds by hand, what is damaged or hostile, and the three files."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from operator import attrgetter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

import sparring
from sparring.cli import app
from sparring.data import Dataset
from sparring.defenses.defense import Defense
from sparring.errors import RunError
from sparring.evaluation.rates import Mean
from sparring.reports import page, tables
from sparring.reports.gather import gather
from sparring.reports.groups import Group, Report
from sparring.runs import records
from tests.test_plots import drawn

ROOT = Path(__file__).parent.parent

DIGITS: dict[str, Any] = {
    "name": "digits", "shape": [8, 8, 1], "class_names": ["0", "1"], "mirror": False,
    "train_images": 1437, "test_images": 360, "sha256": "8b15",
}  # fmt: skip


def run(path: Path, accuracy: float | None = 0.9, epochs: int = 3, **changes: Any) -> Path:
    """A run directory; without an accuracy one that is not finished."""
    values: dict[str, Any] = {
        "format": 1, "defense": "baseline", "dataset": DIGITS, "seed": 0, "backend": "torch",
        "settings": {"filters": 4, "epochs": 3}, "device": "cpu", "machine": "Linux, 2 cores",
        "versions": {"sparring": "0.1.0"}, "started": "2026-01-01T00:00:00+00:00",
        "status": "training",
    }  # fmt: skip
    if accuracy is not None:
        values["results"] = {
            "test_accuracy": accuracy, "rejected": 0.0, "seconds": 60.0,
            "seeds_used": [changes.get("seed", 0)], "finished": "2026-01-01T00:01:00+00:00",
        }  # fmt: skip
        values |= {"status": "finished", "weights_sha256": "ab" * 32}
    path.mkdir(parents=True, exist_ok=True)
    (path / "run.json").write_text(json.dumps({**values, **changes}), encoding="utf-8")
    (path / "metrics.jsonl").write_text(
        "".join(f"{json.dumps(line(epoch))}\n" for epoch in range(1, epochs + 1)), encoding="utf-8"
    )
    if accuracy is not None:
        (path / "weights.safetensors").write_bytes(b"")
    return path


def line(epoch: int, network: int = 0) -> dict[str, Any]:
    return {"network": network, "epoch": epoch, "loss": 2 / epoch, "test_accuracy": 0.3 * epoch}


def verdict(run: Path, folder: str = "pgd-Linf-0.15", broken: int = 3, **changes: Any) -> Path:
    """A verdict on 10 images, of which 8 are attacked."""
    values = {
        "format": 2, "defense": "baseline", "attack": "PGD(steps=40)", "attack_sha256": "cd",
        "threat": {"norm": "Linf", "eps": 0.15}, "dataset": DIGITS, "draws": 1, "seed": 0,
        "backend": "torch", "sparring": "0.1.0", "seconds": 1.5,
        "results": {
            "clean_accuracy": rate(8, 10), "clean_rejected": rate(0, 10),
            "success_rate": rate(broken, 8), "robust_accuracy": rate(8 - broken, 10),
        },
        "warnings": [], "finished": True, "images": [image(i) for i in range(10)], **changes,
    }  # fmt: skip
    path = run / "attacks" / folder
    path.mkdir(parents=True)
    name = "report.json" if values["format"] == 1 else "verdict.json"
    (path / name).write_text(json.dumps(values), encoding="utf-8")
    return path


def image(index: int) -> dict[str, Any]:
    return {
        "index": index, "label": 3, "clean": 1.0, "rejected": 0.0, "attacked": True,
        "success": 0.0, "answer": -1, "distance": None, "reason": "outside [0, 1]",
    }  # fmt: skip


def rate(hits: int, n: int) -> dict[str, Any]:
    return {"value": hits / n, "n": n, "low": hits / n / 2, "high": hits / n / 2 + 0.5}


def only(found: Report) -> Group:
    """The one group there is."""
    [section] = found.sections
    [group] = section.groups
    return group


def texts(found: Report) -> str:
    """The page and the Markdown, after checking that the JSON can be written."""
    json.dumps(found.as_json(), allow_nan=False).encode()
    return page.html(found) + page.markdown(found)


def rows(markdown: str, first: str) -> list[dict[str, str]]:
    """The rows of the first table whose first column is called so, by header."""
    lines = markdown[markdown.index(f"| {first} |") :].partition("\n\n")[0].splitlines()
    header, _, *others = [line.strip("| ").split(" | ") for line in lines]
    return [dict(zip(header, row, strict=True)) for row in others]


# Figures over seeds


def test_means_and_deviations_by_hand(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.9, 0.92, 0.97)):
        run(tmp_path / f"seed-{seed}/digits/baseline", accuracy, seed=seed)
    found = gather(tmp_path)
    # The deviations are -0.03, -0.01 and 0.04: their squares' sum over two is 0.0013.
    assert only(found).mean(attrgetter("test_accuracy")) == pytest.approx((0.93, 0.0013**0.5, 3))
    assert texts(found).count("93.00 ± 3.61 %") == 2
    [group] = found.as_json()["data_sets"][0]["defenses"]
    assert group["test_accuracy"] == pytest.approx({"value": 0.93, "std": 0.0013**0.5, "n": 3})
    assert group["seeds"] == [0, 1, 2]
    assert group["seconds"]["value"] == 60
    assert (group["networks"], group["differs"]) == (1, {})


def test_one_seed_has_no_deviation(tmp_path: Path) -> None:
    run(tmp_path / "baseline", 0.975)
    found = gather(tmp_path)
    assert only(found).mean(attrgetter("test_accuracy")) == Mean(0.975, None, 1)
    assert '<td class="number">97.50 %</td>' in page.html(found)
    [row] = rows(page.markdown(found), "defense")
    assert (row["test accuracy"], row["rejected"], row["seeds"]) == ("97.50 %", "-", "1")
    assert (row["training time"], row["networks"], row["status"]) == ("1:00", "1", "finished")
    assert Mean.of([]) is None


def test_only_finished_runs_count(tmp_path: Path) -> None:
    run(tmp_path / "a", 0.9, seed=0)
    run(tmp_path / "b", None, seed=1, epochs=2)
    run(tmp_path / "c", None, seed=2, epochs=0, status="diverged")
    run(tmp_path / "b/previous", 0.9, seed=1)
    (run(tmp_path / "d", 0.5, seed=3) / "weights.safetensors").unlink()
    found = gather(tmp_path)
    group = only(found)
    assert [trained.seed for trained in group.counted] == [0]
    assert [trained.status for trained in group.runs] == [
        "finished", "unfinished after epoch 2", "diverged in its first epoch",
        "its weights are missing",
    ]  # fmt: skip
    assert group.notes == ["b: the finished run before it is in previous/"]
    told = "1 finished<br>seed 1 unfinished after epoch 2<br>seed 2 diverged in its first epoch"
    assert f"{told}<br>seed 3 its weights are missing |" in page.markdown(found)
    assert '<td class="alarm">1 finished<small>seed 1 unfinished' in page.html(found)


def test_presets_are_not_mixed(tmp_path: Path) -> None:
    run(tmp_path / "a", 0.9)  # from before there were presets
    run(tmp_path / "b", 0.8, preset="fast")
    groups = gather(tmp_path).sections[0].groups
    assert [group.differs for group in groups] == [{"preset": "course"}, {"preset": "fast"}]
    assert [group.as_json()["preset"] for group in groups] == ["course", "fast"]


def test_settings_and_backends_are_not_mixed(tmp_path: Path) -> None:
    few = {"filters": 4, "epochs": 12}
    run(tmp_path / "a", 0.9)
    run(tmp_path / "b", 0.8, settings=few)
    run(tmp_path / "c", 0.7, backend="jax", seed=1)
    run(tmp_path / "d", 0.6, defense="blur")
    run(tmp_path / "e", 0.5, dataset={**DIGITS, "train_images": 400, "sha256": "ff"})
    found = gather(tmp_path)
    assert [section.title for section in found.sections] == [
        "digits, 1437 training images", "digits, 400 training images",
    ]  # fmt: skip
    groups = found.sections[0].groups
    means = {
        (group.defense, *group.differs.items()): group.mean(attrgetter("test_accuracy"))
        for group in groups
    }
    assert means == {
        ("baseline", ("epochs", 3), ("backend", "torch")): (0.9, None, 1),
        ("baseline", ("epochs", 12), ("backend", "torch")): (0.8, None, 1),
        ("baseline", ("epochs", 3), ("backend", "jax")): (0.7, None, 1),
        ("blur",): (0.6, None, 1),
    }
    anchors = [section.anchor for section in found.sections]
    anchors += [group.anchor for section in found.sections for group in section.groups]
    assert len(set(anchors)) == 7
    assert [group.differs.get("epochs") for group in groups] == [3, 3, 12, None]
    assert "epochs 12, backend torch" in texts(found)


def test_a_seed_counts_once_and_restarts_count_with_their_last(tmp_path: Path) -> None:
    run(tmp_path / "a", 0.9, seed=4)
    results = {"test_accuracy": 0.8, "seeds_used": [4], "finished": "2026-01-02T00:00:00+00:00"}
    run(tmp_path / "b", 0.8, seed=2, diverged=[{"seed": 2}, {"seed": 3}], results=results)
    run(tmp_path / "c", None, seed=5)
    found = gather(tmp_path)
    group = only(found)
    assert group.mean(attrgetter("test_accuracy")) == Mean(0.8, None, 1)
    assert [trained.seed for trained in group.runs] == [4, 4, 5]
    assert "a: not counted: b has the same seed and finished later" in group.notes
    assert "b: seed 2 diverged; by network, the seeds used are [4]" in group.notes
    for note in group.notes:
        assert note in texts(found)


# Where runs are


def test_runs_are_found_whatever_their_folders_are_called(tmp_path: Path) -> None:
    deep = run(tmp_path / "previous/logs/x y", seed=1)
    for own in ("previous", "attacks/pgd", "logs/0", "state"):
        run(deep / own, seed=7)
    run(deep / "else", seed=2)
    (tmp_path / "link").symlink_to(deep.parent)
    (deep / "loop").symlink_to(tmp_path)
    found = gather(tmp_path)
    assert sorted(trained.seed for trained in only(found).runs) == [1, 2]
    assert [trained.seed for trained in only(gather(deep / "else")).runs] == [2]
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        RunError, match=r"empty: expected run directories in it, found no run\.json"
    ):
        gather(tmp_path / "empty")
    with pytest.raises(RunError, match="nowhere: no such folder of runs"):
        gather(tmp_path / "nowhere")


# Damage


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        (b'{"format": 1, "defen', "damaged: JSONDecodeError"),
        (b"[]", "damaged"),
        (b"\xff\xfe\x00", "damaged"),
        (b"[" * 100_000, "damaged: RecursionError"),
        (b'{"format": "1"}', "damaged"),
        (b'{"format": 3}', "expected format 1 to 2, found 3: written by a newer version"),
        (b'{"format": 1}', "damaged: expected defense to be text, found None"),
        (b'{"format": 1, "defense": 3}', "damaged: expected defense to be text, found 3"),
        (
            b'{"format": 1, "defense": "x", "dataset": []}',
            "damaged: expected dataset to be an object",
        ),
    ],
)
def test_a_damaged_run_is_reported(tmp_path: Path, contents: bytes, problem: str) -> None:
    run(tmp_path / "good", 0.9)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/run.json").write_bytes(contents)
    found = gather(tmp_path)
    [(place, text)] = found.damaged
    assert place == "bad"
    assert text.startswith(problem)
    assert only(found).mean(attrgetter("test_accuracy")) == (0.9, None, 1)
    assert ">bad<" in page.html(found)
    assert found.as_json()["damaged"] == [{"path": "bad", "problem": text}]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dataset", {}), ("settings", "x"), ("seed", True), ("seed", 1.0), ("backend", None),
        ("status", 1),
    ],
)  # fmt: skip
def test_a_run_that_lacks_something_is_damaged(tmp_path: Path, name: str, value: Any) -> None:
    run(tmp_path, **{name: value})
    found = gather(tmp_path)
    assert not found.sections
    assert re.search(f"expected {name if value != {} else 'name'} to be", found.damaged[0][1])
    texts(found)


@pytest.mark.parametrize(
    "results",
    [
        None, 3, {}, {"test_accuracy": "high", "seconds": [], "finished": 3, "seeds_used": "x"},
        {"test_accuracy": float("nan"), "rejected": float("inf"), "seconds": 10**400},
        {"test_accuracy": 1e99, "rejected": -1e99, "seconds": 1e99},
    ],
)  # fmt: skip
def test_results_that_make_no_sense_stop_nothing(tmp_path: Path, results: Any) -> None:
    run(tmp_path / "a", results=results, diverged=3, weights_from=[], versions=4, device={"a": [1]})
    texts(gather(tmp_path))


def test_damaged_metrics_are_told(tmp_path: Path) -> None:
    path = run(tmp_path, epochs=2)
    with (path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('[1]\n{"network": 0}\n')
    found = gather(tmp_path)
    assert only(found).notes == [".: metrics.jsonl: damaged: 2 of 4 lines can be read"]
    odd = [
        {"network": 10**30, "epoch": 1, "loss": 1},
        {"network": 0, "epoch": 2, "loss": 1e308, "test_accuracy": "x"},
        {"network": 1, "epoch": 1, "loss": float("nan"), "test_accuracy": None},
        {"network": 0, "epoch": 1, "loss": 1e99, "test_accuracy": 7},
    ]
    lines = "".join(f"{json.dumps(each)}\n" for each in odd)
    (path / "metrics.jsonl").write_text(lines, encoding="utf-8")
    found = gather(tmp_path)
    texts(found)
    [first, second] = only(found).runs[0].curves
    assert (first.epoch, first.loss, first.test_accuracy) == ([1, 2], (1e99, None), (7, None))
    assert second.loss == (None,)


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"format": 3}, "expected format 2, found 3"),
        ({"threat": 3}, "expected threat to be an object, found 3"),
        ({"threat": {"norm": "Linf"}}, "expected eps to be a number, found None"),
        ({"images": [{}]}, "expected index to be an integer, found None"),
        ({"images": [3]}, "expected images[0] to be an object, found 3"),
        ({"images": [{**image(0), "reason": 3}]}, "expected reason to be text, found 3"),
        ({"format": "1"}, "expected format to be an integer, found '1'"),
        ({"seed": json.loads("[" * 60 + "]" * 60)}, "expected at most 50 levels of nesting"),
        ({"results": {}}, "expected clean_accuracy to be an object, found None"),
        ({"finished": 1}, "expected finished to be true or false, found 1"),
        ({"warnings": [{"name": "x"}]}, "expected text to be text, found None"),
        ({"defense": "blur"}, "is left out: it is of blur"),
    ],
)
def test_a_damaged_verdict_is_told(tmp_path: Path, changes: dict[str, Any], note: str) -> None:
    verdict(run(tmp_path), **changes)
    found = gather(tmp_path)
    [told] = only(found).notes
    assert told.startswith(".: attacks/pgd-Linf-0.15")
    assert note in told
    assert only(found).attacks == []
    assert note in texts(found).replace("\\", "")


def test_verdicts_of_both_formats_are_read(tmp_path: Path) -> None:
    for seed, version in enumerate((1, 2)):
        verdict(run(tmp_path / f"{seed}", seed=seed), format=version)
    # Where there are both, the newer one counts.
    (tmp_path / "1/attacks/pgd-Linf-0.15/report.json").write_text("{")
    [attacked] = only(gather(tmp_path)).attacks
    assert attacked.mean(attrgetter("success_rate")) == (3 / 8, 0, 2)
    verdict(run(tmp_path / "2", seed=2), format=1, finished=None)
    assert only(gather(tmp_path)).notes == [
        "2: attacks/pgd-Linf-0.15: damaged: expected finished to be true or false, found None"
    ]


# Attacks


def test_verdicts_over_seeds(tmp_path: Path) -> None:
    warning = [{"name": "few-images", "text": "take more"}]
    for seed, broken in enumerate((2, 4, 6)):
        path = run(tmp_path / f"{seed}", seed=seed)
        verdict(path, broken=broken, warnings=warning if seed else [])
    found = gather(tmp_path)
    [attacked] = only(found).attacks
    # Of 8 images 2, 4 and 6: a half, and 0.25 to both sides.
    assert attacked.mean(attrgetter("success_rate")) == pytest.approx((0.5, 0.25, 3))
    assert attacked.mean(attrgetter("robust_accuracy")) == pytest.approx((0.4, 0.2, 3))
    assert attacked.warnings == ["seed 1, 2: few-images: take more"]
    [(threat, table)] = tables.attack_tables(found.sections[0])
    headers = [column.header for column in table.columns]
    assert (threat, headers) == ("Linf(0.15)", ["defense", "pgd"])
    assert table.cells()[0][1][:2] == ("50.0 ± 25.0 %", ["3 seeds, n = 24", "⚠ 1"])
    assert "| 50.0 ± 25.0 % | - | 40.0 ± 20.0 % | 80.0 ± 0.0 % | 24 of 30 | 3 |" in texts(found)
    [group] = found.as_json()["data_sets"][0]["defenses"]
    assert group["attacks"][0]["success_rate"] == {"value": 0.5, "std": 0.25, "n": 3}
    assert group["attacks"][0]["verdicts"][2]["success_rate"] == rate(6, 8)


def test_one_seed_has_its_interval(tmp_path: Path) -> None:
    verdict(run(tmp_path), broken=4)
    found = gather(tmp_path)
    [(_, table)] = tables.attack_tables(found.sections[0])
    assert table.cells()[0][1][:2] == ("50.0 %", ["25.0 to 75.0, n = 8"])
    # A quarter, the interval's lower end, of 55 %.
    shaded = '<td class="number" style="background: rgb(240 96 72 / 14%)">50.0 %<small>'
    assert shaded in page.html(found)
    assert "| 50.0 % | 25.0 to 75.0 | 40.0 %<br>20.0 to 70.0 | 80.0 % | 8 of 10 | 1 |" in texts(
        found
    )


def test_what_attacks_cost(tmp_path: Path) -> None:
    for seed, forward in enumerate((80, 160)):  # of 8 images each
        verdict(run(tmp_path / f"{seed}", seed=seed), forward=forward, backward=40)
    found = gather(tmp_path)
    assert "| 2 | 15.0<br>5.0 back |" in texts(found)
    # Nobody counted for those of before; an unfinished one says nothing yet.
    for seed in range(2):
        shutil.rmtree(tmp_path / f"{seed}" / "attacks")
        verdict(tmp_path / f"{seed}", forward=80 * seed, finished=not seed)
    assert "| 1 | - |" in texts(gather(tmp_path))


def test_other_attacks_are_not_mixed(tmp_path: Path) -> None:
    first, second = run(tmp_path / "0", seed=0), run(tmp_path / "1", seed=1)
    verdict(first, broken=8)
    verdict(second, broken=4, attack="PGD(steps=9)")
    verdict(second, "copy", broken=4, attack="PGD(steps=9)")  # the same one, elsewhere
    verdict(first, "pgd-Linf-0.15-some", images=[image(3), image(9)])
    verdict(first, "mine", dataset={**DIGITS, "name": "others", "sha256": "00"})
    verdict(
        first, "fgsm-L2-0.5", attack="FGSM()", threat={"norm": "L2", "eps": 0.5}, finished=False
    )
    found = gather(tmp_path)
    names = [
        (each.first.name, each.mean(attrgetter("success_rate"))) for each in only(found).attacks
    ]
    assert names == [
        ("fgsm", None),
        ("pgd, chosen images", (0.375, None, 1)),
        ("pgd, on others", (0.375, None, 1)),
        ("pgd, steps=40", (1.0, None, 1)),
        ("pgd, steps=9", (0.5, None, 1)),
    ]
    by_threat = dict(tables.attack_tables(found.sections[0]))
    assert set(by_threat) == {"L2(0.5)", "Linf(0.15)"}
    assert by_threat["L2(0.5)"].cells()[0][1].below == ["unfinished"]
    headers = [column.header for column in by_threat["Linf(0.15)"].columns]
    assert headers[1:] == [name for name, _ in names[1:]]
    assert [cell.text for cell in by_threat["Linf(0.15)"].cells()[0][-2:]] == ["100.0 %", "50.0 %"]
    texts(found)


def test_every_key_of_a_run_is_in_the_docs() -> None:
    text = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    assert [key for key in records._CIRCUMSTANCES if f"`{key}`" not in text] == []


def test_radii_that_are_nearly_the_same_are_told_apart(tmp_path: Path) -> None:
    path, names = run(tmp_path / "a"), []
    for eps in (0.1, 1 / 30, 0.1000001):
        verdict(path, f"pgd-{eps}", threat={"norm": "Linf", "eps": eps})
        names.append([name for name, _ in tables.attack_tables(gather(tmp_path).sections[0])])
    assert names[1] == ["Linf(0.0333333)", "Linf(0.1)"]
    assert names[2] == ["Linf(0.03333333)", "Linf(0.1)", "Linf(0.1000001)"]


def test_verdicts_of_earlier_weights(tmp_path: Path) -> None:
    old = verdict(run(tmp_path / "a")) / "verdict.json"
    verdict(run(tmp_path / "b", None, seed=1))
    os.utime(old, (0, 0))
    found = gather(tmp_path)
    [attacked] = only(found).attacks
    assert len(attacked.verdicts) == 1
    assert attacked.warnings[0].startswith("older than the run's weights")
    assert only(found).notes == ["b: verdicts of attacks are left out: they are of earlier weights"]


def test_a_verdict_of_other_weights(tmp_path: Path) -> None:
    verdict(run(tmp_path / "a"), weights_sha256="0" * 64)
    [attacked] = only(gather(tmp_path)).attacks
    assert attacked.warnings[0].startswith("of other weights than the run's")


def test_a_verdict_of_the_judge(digits_baseline: Defense, tmp_path: Path) -> None:
    assert digits_baseline.path is not None
    runs = tmp_path / "runs"
    runs.mkdir()
    for name in ("run.json", "metrics.jsonl", "weights.safetensors"):
        (runs / name).write_bytes((digits_baseline.path / name).read_bytes())
    made = sparring.evaluate(
        digits_baseline, "fgsm", n=20, out=runs / "attacks/fgsm-Linf-0.15", check=False
    )
    found = gather(runs)
    group = only(found)
    [attacked] = group.attacks
    [judged] = attacked.verdicts
    assert judged.name == "fgsm n=20"
    rates = judged.record.results
    assert tuple(dict(rates.success_rate).values()) == made.success_rate
    assert tuple(dict(rates.robust_accuracy).values()) == made.robust_accuracy
    accuracy = group.mean(attrgetter("test_accuracy"))
    assert accuracy is not None
    assert accuracy.value == digits_baseline.results["test_accuracy"]
    pictures = embedded(page.html(found))
    assert (runs / "attacks/fgsm-Linf-0.15/examples.svg").read_bytes() in pictures
    assert len(pictures) == 2  # and its loss; accuracy was measured at the end alone
    assert "test accuracy was measured at the end alone" in page.html(found)


# Pictures


def embedded(page: str) -> list[bytes]:
    """The pictures in a page, each a well-formed SVG."""
    found = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    files = [base64.b64decode(each) for each in found]
    for file in files:
        ElementTree.fromstring(file.decode())
    return files


def test_curves_of_seeds_and_networks(tmp_path: Path) -> None:
    lines = "".join(f"{json.dumps(line(e, n))}\n" for n in range(3) for e in range(1, 5))
    for seed in range(2):
        (run(tmp_path / f"{seed}", seed=seed) / "metrics.jsonl").write_text(lines, encoding="utf-8")
    run(tmp_path / "2", None, epochs=1, seed=2)
    loss, accuracy = embedded(page.html(gather(tmp_path)))
    for file in (loss, accuracy):
        text = file.decode()
        lines_drawn = drawn(text)
        assert len(lines_drawn) == 7
        assert len({color for color, *_ in lines_drawn.values()}) == 3
        for name in (">seed 0<", ">seed 1<", ">seed 2, unfinished<"):
            assert text.count(name) == 1
    assert "3 networks a seed" in page.html(gather(tmp_path))
    for seed in range(3, 12):
        run(tmp_path / f"{seed}", seed=seed)
    loss, _ = embedded(page.html(gather(tmp_path)))
    assert b">12 seeds<" in loss


def test_one_epoch_is_a_point(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    shown = page.html(gather(tmp_path))
    [loss] = embedded(shown)
    [(_, places, marks)] = drawn(loss.decode()).values()
    assert len(places) <= marks == 1
    assert "one epoch: a point, no curve" in shown


def test_a_large_example_stays_outside(tmp_path: Path) -> None:
    path = verdict(run(tmp_path)) / "examples.svg"
    svg = b"<svg xmlns='http://www.w3.org/2000/svg'>%s</svg>"
    path.write_bytes(svg % b" ")
    assert svg % b" " in embedded(page.html(gather(tmp_path)))
    path.write_bytes(svg % (b" " * 600_000))
    shown = page.html(gather(tmp_path))
    assert len(shown) < 100_000
    assert "attacks/pgd-Linf-0.15/examples.svg is too large for this page." in shown


# Hostile text

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=a()>|`*[x](y)\n\x1b[31m\ud800\u202e"


class Page(HTMLParser):
    """The elements of a page, with what might run, load or lead elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.anchors: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        for name, value in attributes:
            assert value is not None
            assert name in {
                *("alt", "charset", "class", "content", "href", "id", "lang", "name", "src"),
                *("aria-label", "scope", "style", "tabindex"),
            }
            if name == "src":
                assert value.startswith("data:image/svg+xml;base64,")
            if name == "href":
                self.links.append(value)
            if name == "id":
                self.anchors.append(value)
            if name == "style":
                assert re.fullmatch(r"background: rgb\(240 96 72 / \d+%\)", value)


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    hostile = {HOSTILE: HOSTILE}
    path = run(
        tmp_path / "<b>|x",
        defense=HOSTILE,
        dataset={**DIGITS, "name": HOSTILE, "shape": HOSTILE, "class_names": HOSTILE},
        settings=hostile,
        backend=HOSTILE,
        device=HOSTILE,
        machine=hostile,
        versions=[HOSTILE],
        started=HOSTILE,
        weights_sha256=HOSTILE,
        weights_from={"defense": HOSTILE},
        command=HOSTILE,
    )
    run(tmp_path / "other", None, defense=HOSTILE, status="training", settings={HOSTILE: 3})
    for folder in ("<i>", "pgd-<u>-0.15"):
        made = verdict(
            *(path, folder),
            defense=HOSTILE,
            attack=HOSTILE,
            threat={"norm": "<u>" if "u" in folder else HOSTILE, "eps": 0.15},
            dataset={"name": HOSTILE},
            warnings=[{"name": HOSTILE, "text": HOSTILE}],
        )
        (made / "examples.svg").write_text(HOSTILE, encoding="utf-8", errors="replace")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/run.json").write_text(json.dumps({"format": 1, "defense": [HOSTILE]}))
    found = gather(tmp_path)
    page.write(found, tmp_path / "out")
    text = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    elements = Page(text)
    assert elements.names == {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "nav", "a"),
        *("div", "table", "thead", "tbody", "tr", "th", "td", "small", "ul", "li", "details"),
        *("summary", "figure", "figcaption", "img", "main", "caption", "span"),
    } - {"ul", "li"}
    assert len(set(elements.anchors)) == len(elements.anchors) == 5
    assert {link.removeprefix("#") for link in elements.links} == set(elements.anchors)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    markdown = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    for written in (text, markdown):
        assert not set("\x1b\ud800\u202e") & set(written)
    assert not re.search(r"<(?!br>)", markdown)
    assert not re.search(r"(?<!\\)[`\[\]*]", markdown)
    written_tables = [part for part in markdown.split("\n\n") if part.startswith("|")]
    assert len(written_tables) == 10
    for table in written_tables:
        rows = table.splitlines()
        assert all(row.startswith("| ") and row.endswith(" |") for row in rows)
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    answer = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert answer.exit_code == 0, answer.output
    assert "\x1b" not in answer.output


# The command


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_the_command(call: Callable[..., Result], tmp_path: Path) -> None:
    run(tmp_path / "runs/digits/baseline", 0.975)
    run(tmp_path / "runs/digits/blur", None, defense="blur", epochs=1)
    (tmp_path / "runs/bad").mkdir()
    (tmp_path / "runs/bad/run.json").write_text("{")
    answer = call("report")
    assert answer.exit_code == 0, answer.output
    assert re.search(r"^baseline +97\.50 %.* - +1 .*finished", answer.output, re.MULTILINE)
    assert re.search(r"^blur +- .*- +0 .*unfinished after epoch 1", answer.output, re.MULTILINE)
    assert "Damaged   bad: damaged: JSONDecodeError" in answer.stderr
    assert "Report    runs/report.html, report.md and report.json" in answer.output
    names = {"report.html", "report.md", "report.json"}
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"digits", "bad", *names}
    assert call("report", "runs", "--out", "a/b").exit_code == 0
    assert {path.name for path in (tmp_path / "a/b").iterdir()} == names
    first, second = (
        json.loads((tmp_path / place / "report.json").read_text(encoding="utf-8"))
        for place in ("runs", "a/b")
    )
    assert {**first, "written": ""} == {**second, "written": ""}


def test_wrong_use(call: Callable[..., Result], tmp_path: Path) -> None:
    answer = call("report", "nowhere")
    assert answer.exit_code == 1
    assert "sparring: nowhere: no such folder of runs" in answer.output
    run(tmp_path / "runs/a")
    (tmp_path / "file").write_text("")
    answer = call("report", "--out", "file")
    assert answer.exit_code == 2
    assert "'file' is a file" in answer.output


def test_a_training_s_own_files(dataset: Dataset, tmp_path: Path) -> None:
    for seed in (0, 1):
        sparring.train(
            "majority", dataset, out=tmp_path / f"{seed}", seed=seed, filters=4, epochs=2
        )
    group = only(gather(tmp_path))
    assert (group.networks, [trained.seed for trained in group.counted]) == (3, [0, 1])
    assert all("hardly better than guessing" in note for note in group.notes)
    assert all(trained.curves[2].epoch == [1] for trained in group.runs)


def test_no_framework_is_imported_and_nothing_to_draw_with() -> None:
    code = (
        "import sys, sparring.reports.page, sparring.reports.gather\n"
        "print({'keras', 'torch', 'tensorflow', 'jax', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_page_on_the_report_names_every_key(tmp_path: Path) -> None:
    verdict(run(tmp_path, diverged=[], weights_from={}, imported_from=[], imported="", command=""))

    def keys(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(keys, value))
        if not isinstance(value, dict):
            return set()
        own = {name for name in value if name not in ("dataset", "settings", "versions", "differs")}
        return own.union(*(keys(value[name]) for name in own))

    page = (ROOT / "docs/report.md").read_text(encoding="utf-8")
    named = set(re.findall(r'[`"](\w+)[`"]', page))
    assert keys(gather(tmp_path).as_json()) - named == set()


def test_rates_without_images(tmp_path: Path) -> None:
    none = {"value": None, "n": 0, "low": 0.0, "high": 1.0}
    names = "clean_accuracy", "clean_rejected", "success_rate", "robust_accuracy"
    verdict(run(tmp_path), results=dict.fromkeys(names, none))
    found = gather(tmp_path)
    [attacked] = only(found).attacks
    assert attacked.mean(attrgetter("success_rate")) is None
    assert attacked.first.as_json()["success_rate"] == none
    assert "no images" in texts(found)

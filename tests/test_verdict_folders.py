"""Verdict folders: nothing finished is lost, and no file in them is believed blindly."""

from __future__ import annotations

import copy
import json
import random
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
from keras import ops
from safetensors.numpy import load_file

from sparring.attacks import PGD, Noise
from sparring.data import Dataset
from sparring.errors import AttackError, RunError, SettingsError
from sparring.evaluation.evaluate import evaluate
from sparring.evaluation.request import EvaluationRequest
from sparring.evaluation.verdict import Verdict
from sparring.runs.files import read_tensors, write_tensors
from sparring.runs.records import VerdictRecord, verdict_folder
from sparring.threat import Linf
from tests.conftest import Linear


@pytest.fixture
def grays() -> Dataset:
    """Six gray images of class 1, which `linear` answers rightly."""
    x, y = np.full((6, 8, 8, 1), 128, np.uint8), np.ones(6, np.int32)
    return Dataset("linear", x, y, x, y, ("a", "b"))


@pytest.fixture
def run(linear: Linear, tmp_path: Path) -> Path:
    """The run directory of `linear`, which has a folder for verdicts."""
    linear.path, linear.weights_sha256 = tmp_path / "run", "weights"
    return tmp_path / "run"


def judged(defense: Any, data: Dataset, attack: Any = "noise", **options: Any) -> Verdict:
    options = {"check": False, "n": 6, **options}
    return evaluate(defense, attack, Linf(0.1), data, **options)


def move(linear: Linear, x: Any) -> np.ndarray:
    return np.array(ops.convert_to_numpy(x)) - np.float32(0.1) * linear.direction


def worded(defense: Any, x: Any, y: Any, threat: Any, word: str = "") -> Any:
    return x


# What has which folder


def test_folders_are_named_by_what_is_not_as_by_default() -> None:
    def folder(attack: Any = "pgd", **options: Any) -> str:
        return verdict_folder(
            "pgd", "Linf", 0.15, EvaluationRequest("x", attack, **options).unusual()
        )

    assert folder() == "pgd-Linf-0.15"
    assert folder(options={"steps": 10}, n=20) == "pgd-Linf-0.15-steps=10-n=20"
    assert folder(images=[17, 3]) == "pgd-Linf-0.15-images=3,17"
    assert folder(images=[False, True, True]) == "pgd-Linf-0.15-images=1,2"
    assert folder(seed=3, draws=5) == "pgd-Linf-0.15-draws=5-seed=3"
    assert folder(PGD()) == folder()
    assert folder(PGD(steps=10)) == "pgd-Linf-0.15-steps=10"
    assert folder(partial(worded, word="a")) == "pgd-Linf-0.15-word=a"
    # How it is cut into batches, and whether it is checked, makes no other verdict.
    assert folder(batch_size=3, check=False, time_limit=3, transfer=False) == folder()
    long = {folder(images=[*range(30), last]) for last in (40, 41)}
    odd = {folder(options={"word": word}) for word in ("a/b", "a b", "..", "\udc80")}
    assert len(long | odd) == 6
    for name in long | {name for name in odd if "word=.." not in name}:
        stem, _, rest = name.rpartition("-")
        assert stem == "pgd-Linf-0.15"
        assert len(rest) == 8


def test_other_options_leave_the_verdict_before_alone(
    linear: Linear, grays: Dataset, run: Path
) -> None:
    first = judged(linear, grays, "noise", n=5, save=True)
    assert first.file is not None
    before = first.file.read_bytes()
    for options in (
        {"options": {"draws": 1}, "n": 5},
        {"n": 4},
        {"images": [0, 1, 2, 3]},
        {"images": [0, 1, 2, 4]},
        {"seed": 1},
        {"attack": Noise(draws=2)},
    ):
        judged(linear, grays, save=True, **options)
    assert len(list((run / "attacks").glob("*/verdict.json"))) == 7
    assert first.file.read_bytes() == before
    records = [VerdictRecord.read(file) for file in (run / "attacks").glob("*/verdict.json")]
    assert {record.label for record in records} == {
        *("noise n=5", "noise draws=1 n=5", "noise n=4", "noise images=0,1,2,3"),
        *("noise images=0,1,2,4", "noise n=6 seed=1", "noise draws=2 n=6"),
    }


def test_two_files_of_one_name_have_a_folder_each(
    linear: Linear, grays: Dataset, run: Path, tmp_path: Path
) -> None:
    texts = ("    return x\n", "    return x + 0\n")
    folders = []
    for student, text in enumerate(texts * 2):
        file = tmp_path / str(student % 2) / "mine.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"def attack(defense, x, y, threat):\n{text}")
        folders.append(judged(linear, grays, str(file), n=6, save=True).folder)
    first, second, *again = folders
    assert again == [first, second]
    assert first is not None
    assert second is not None
    assert first.name == "mine-Linf-0.1-n=6"
    assert second.name.startswith("mine-Linf-0.1-n=6-")
    assert len(second.name) == len(first.name) + 9
    # Other weights are another verdict too, wherever the run lies by now.
    linear.weights_sha256 = "trained anew"
    third = judged(linear, grays, str(tmp_path / "0" / "mine.py"), save=True).folder
    assert third not in (first, second)
    linear.weights_sha256, linear.path = "weights", tmp_path / "moved"
    run.rename(tmp_path / "moved")
    told: list[str] = []
    judged(
        *(linear, grays, str(tmp_path / "0" / "mine.py")),
        save=True, progress=lambda *each: told.append(each[-1]),
    )  # fmt: skip
    assert told[0].startswith("Evaluated already")


def test_a_finished_verdict_is_replaced_by_force_alone(
    linear: Linear, grays: Dataset, tmp_path: Path
) -> None:
    out, calls = tmp_path / "v", []

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        calls.append(1)
        return move(linear, x)

    verdict = judged(linear, grays, attack, out=out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    for other in (attack, PGD(steps=1), Noise()):  # of a function nothing tells it from others
        with pytest.raises(RunError, match=r"finished verdict on attack of 6 images.*--out.*--fo"):
            judged(linear, grays, other, out=out)
    assert calls == [1]
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert judged(linear, grays, Noise(), out=out, force=True).about.attack.startswith("Noise")
    assert verdict.success_rate.value == 1
    # The same evaluation again gives what there is, and only looks for signs where it has not.
    told: list[str] = []
    listen = {"progress": lambda *each: told.append(each[-1])}
    again = judged(linear, grays, Noise(), out=out, **listen)
    assert told == [f"Evaluated already: {out}. --force evaluates anew."]
    assert again.reasons == ["label unchanged"] * 6
    judged(linear, grays, Noise(), out=out, check=True, **listen)
    assert told[1].startswith("Going on with")
    assert told[2:] == ["attacking", "looking for signs to distrust the result"]
    assert VerdictRecord.read(out / "verdict.json").checked
    told.clear()
    checked = judged(linear, grays, Noise(), out=out, check=True, **listen)
    assert told == [f"Evaluated already: {out}. --force evaluates anew."]
    assert [each.name for each in checked.warnings] == ["few-images"]


# Who writes


def test_a_folder_is_written_by_one_process(linear: Linear, grays: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "v"
    messages: list[str] = []

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        def other() -> None:
            with pytest.raises(RunError) as caught:
                judged(linear, grays, Noise(), out=out)
            messages.append(str(caught.value))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return x

    judged(linear, grays, attack, out=out)
    assert messages == [
        f"{out}: another process is writing a verdict here. Wait for it, or "
        "choose another folder with --out (out=)."
    ]
    assert {file.name for file in out.iterdir()} == {
        *(".lock", "adversarial.safetensors", "examples.svg", "verdict.html", "verdict.json")
    }  # a lock that is removed is none: somebody may have opened it, to hold it next


def test_a_lock_that_is_held_is_told(linear: Linear, grays: Dataset, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    held = filelock.FileLock(tmp_path / "v" / ".lock")
    with held, pytest.raises(RunError, match="another process is writing a verdict here"):
        judged(linear, grays, out=tmp_path / "v")


def test_where_nothing_can_be_written_is_told_before_the_attack(
    linear: Linear, grays: Dataset, tmp_path: Path
) -> None:
    def attack(*_: Any) -> Any:
        raise AssertionError

    (tmp_path / "file").write_text("mine")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name, message in (
        ("file", "cannot be written"),
        ("file/v", "cannot be written"),
        ("link", "expected a folder, found a symbolic link"),
        ("x" * 300, "cannot be written"),
    ):
        with pytest.raises(RunError, match=rf"{message}.*--out"):
            judged(linear, grays, attack, out=tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"
    assert list((tmp_path / "real").iterdir()) == []


def test_a_relative_folder_stays_where_it_was_meant(
    linear: Linear, grays: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        monkeypatch.chdir(tmp_path / "elsewhere")
        return x

    verdict = judged(linear, grays, attack, out="v")
    assert verdict.file == tmp_path / "v" / "verdict.json"
    assert verdict.file.is_file()
    assert list((tmp_path / "elsewhere").iterdir()) == []


# What is in the files


class Halfway:
    """Breaks images, two at a time; fails in the third batch, once."""

    def __init__(self, linear: Linear) -> None:
        self.linear, self.calls = linear, 0

    def __call__(self, defense: Any, x: Any, y: Any, threat: Any) -> Any:
        self.calls += 1
        if self.calls == 3:
            raise ValueError
        images = move(self.linear, x)
        images[1] = np.nan
        return images


@pytest.fixture
def unfinished(linear: Linear, grays: Dataset, tmp_path: Path) -> Path:
    """The verdict of `Halfway`, of which four images are done."""
    with pytest.raises(AttackError):
        judged(linear, grays, Halfway(linear), batch_size=2, out=tmp_path / "v")
    return tmp_path / "v"


def go_on(linear: Linear, grays: Dataset, out: Path, **options: Any) -> Verdict:
    attack = Halfway(linear)
    attack.calls = 3
    return judged(linear, grays, attack, batch_size=2, out=out, **options)


RIGHT = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]


def test_a_forged_success_is_not_believed(linear: Linear, grays: Dataset, unfinished: Path) -> None:
    file = unfinished / "verdict.json"
    written = json.loads(file.read_text())
    assert [image["success"] for image in written["images"]] == [1, 0, 1, 0, 0, 0]
    for image in written["images"]:
        image.update(success=1.0, answer=0, distance=0.1, reason="broken")
    file.write_text(json.dumps(written))
    verdict = go_on(linear, grays, unfinished)
    # Nothing was kept of the last two, which are the images themselves.
    assert verdict.success.tolist() == [1, 0, 1, 0, 0, 0]
    assert verdict.reasons[1] == "label unchanged"


def test_a_text_of_a_file_is_shown_in_one_short_line(
    linear: Linear, grays: Dataset, unfinished: Path
) -> None:
    file = unfinished / "verdict.json"
    written = json.loads(file.read_text())
    written["images"][1]["reason"] = "\x1b[31m\n" + "x" * 10**5
    file.write_text(json.dumps(written))
    assert go_on(linear, grays, unfinished).reasons[1] == "\\x1b[31m\\n" + "x" * 194


def test_other_images_than_a_finished_verdict_s_are_told(
    linear: Linear, grays: Dataset, tmp_path: Path
) -> None:
    judged(linear, grays, "noise", out=tmp_path / "v")
    file = tmp_path / "v" / "adversarial.safetensors"
    arrays, about, _ = read_tensors(file)
    write_tensors(file, arrays | {"adversarial": 1 - arrays["adversarial"]}, about)
    with pytest.raises(RunError, match=r"expected the images of the verdict beside it.*--force"):
        judged(linear, grays, "noise", out=tmp_path / "v")


def test_images_of_another_shape_are_told(linear: Linear, grays: Dataset, unfinished: Path) -> None:
    file = unfinished / "adversarial.safetensors"
    arrays, about, _ = read_tensors(file)
    images = arrays["adversarial"]
    for wrong in (images[:3], images[..., 0], images.astype(np.float64), np.zeros((), np.float32)):
        write_tensors(file, {**arrays, "adversarial": wrong}, about)
        with pytest.raises(RunError, match=r"adversarial.*: expected images float32 \[6.*--force"):
            go_on(linear, grays, unfinished)
    write_tensors(file, {"index": arrays["index"]}, about)
    with pytest.raises(RunError, match="expected images"):
        go_on(linear, grays, unfinished)
    file.write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"adversarial.safetensors: damaged.*--force"):
        go_on(linear, grays, unfinished)
    assert go_on(linear, grays, unfinished, force=True).success.tolist() == RIGHT


def _mutants(values: Any) -> Iterator[Any]:
    """The JSON value with one part of it replaced, dropped or nested, for every part."""

    def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        children = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in children:
            yield (*path, key)
            if isinstance(inner, dict | list):
                yield from paths(inner, (*path, key))

    deep: Any = []
    for _ in range(300):
        deep = [deep]
    odd = [None, True, -1, 1, 0.5, 1e308, 10**40, "1", "", [], {}, deep, float("nan"), [1, "a"]]
    chosen = random.Random(0)
    for path in paths(values):
        if path[0] == "images" and len(path) > 1 and path[1] not in (0, 5):
            continue
        for value in [*chosen.sample(odd, 2), ...]:
            mutant = copy.deepcopy(values)
            inside = mutant
            for key in path[:-1]:
                inside = inside[key]
            if value is ...:
                del inside[path[-1]]
            else:
                inside[path[-1]] = value
            yield mutant


def test_a_damaged_verdict_gives_an_error_of_ours_or_the_right_result(
    linear: Linear, grays: Dataset, unfinished: Path
) -> None:
    files = {file.name: file.read_bytes() for file in unfinished.iterdir()}
    refused: list[str] = []
    mutants = list(_mutants(json.loads(files["verdict.json"])))
    assert len(mutants) > 150
    for mutant in mutants:
        for name, data in files.items():
            (unfinished / name).write_bytes(data)
        (unfinished / "verdict.json").write_text(json.dumps(mutant))
        try:
            verdict = go_on(linear, grays, unfinished)
        except RunError as error:
            refused.append(str(error))
        else:
            assert verdict.success.tolist() in (RIGHT, [1.0, 0.0, 1.0, 0.0, 0.0, 0.0])
            assert set(load_file(unfinished / "adversarial.safetensors")) >= {"adversarial"}
    assert len(refused) > 60
    for message in refused:
        assert "verdict.json" in message or "finished verdict" in message
        assert "--force" in message


@pytest.mark.parametrize(
    "text", ["{", "[" * 100_000, "null", "3", '{"format": 2}', '{"format": 1e400}', "\0", "[]"]
)
def test_what_is_no_verdict_is_told_with_the_way_out(
    linear: Linear, grays: Dataset, tmp_path: Path, text: str
) -> None:
    (tmp_path / "verdict.json").write_text(text)
    with pytest.raises(RunError, match=r"verdict\.json.*--force"):
        judged(linear, grays, Noise(), out=tmp_path)
    assert judged(linear, grays, Noise(), out=tmp_path, force=True).file is not None


# What is asked for


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([1.5, 2.7], "expected a list of integers"),
        ([1.0, 2.0], "expected a list of integers"),
        (np.array([0.0, 1.0]), "expected a list of integers"),
        ("1,2", "expected a list of integers"),
        (["1"], "expected a list of integers"),
        (3, "expected a list of integers"),
        (np.int64(3), "expected a list of integers"),
        ([True, 2], "expected a list of integers"),
        ([[1, 2]], "expected a list of integers"),
        (np.zeros((2, 3), int), "expected a list of integers"),
        ([None], "expected a list of integers"),
        ({1: 2}, "expected a list of integers"),
        ((index for index in range(3)), "expected a list of integers"),
        ([[1], [1, 2]], "expected a list of integers"),
        ([], "expected indices from 0 to 5, got none"),
        (np.array([], int), "expected indices from 0 to 5, got none"),
        ([-1, 2], "expected indices from 0 to 5, got -1, 2"),
        ([6], "expected indices from 0 to 5, got 6"),
        ([10**40], f"expected indices from 0 to 5, got {10**40}"),
        ([2, 3, 2, 5, 5], "expected each index once, got 2, 5 more than once"),
        ([True] * 5, "expected a mask of 6 booleans, one for each test image; got 5"),
        (np.ones(7, bool), "expected a mask of 6 booleans, one for each test image; got 7"),
        ([False] * 6, "expected indices from 0 to 5, got none"),
    ],
)
def test_images_that_are_none_are_refused(
    linear: Linear, grays: Dataset, images: Any, message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        judged(linear, grays, images=images)
    assert str(caught.value).startswith(f"images: {message}")


def test_images_are_indices_or_a_mask(linear: Linear, grays: Dataset) -> None:
    for images in (
        [4, 1],
        np.array([4, 1], np.uint8),
        [np.int64(4), 1],
        range(1, 5, 3),
        np.array([False, True, False, False, True, False]),
        [False, True, False, False, True, False],
        ops.convert_to_tensor(np.array([1, 4])),
        ops.convert_to_tensor(np.arange(6) % 3 == 1),
    ):
        assert judged(linear, grays, images=images).index.tolist() == [1, 4]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("seed", value) for value in (-1, 2**70, "x", True, 1.0, float("nan"))),
        *(("time_limit", value) for value in (0, -1, float("nan"), float("inf"), "3", True, 1e30)),
        *(("n", value) for value in (0, -1, 2.5, "3", True, None, np.float64(3))),
        *(("draws", value) for value in (0, 10**12, 2.5, "3", True, None)),
        *(("batch_size", value) for value in (0, 2.5, "3", True, None)),
        *(("check", value) for value in (1, "yes", None)),
        *(("force", value) for value in (1, "yes", None)),
    ],
)
def test_other_values_are_refused_before_anything_runs(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=rf"^{name}: expected .*got "):
        EvaluationRequest("baseline", **{name: value})


def test_numbers_of_numpy_are_taken_and_written(
    linear: Linear, grays: Dataset, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "seed": np.int64(1),
        "n": np.int32(5),
        "draws": np.uint8(3),
        "batch_size": 10**30,
    }
    verdict = judged(
        linear, grays, out=tmp_path / "v", time_limit=np.float32(60), check=np.bool_(0), **options
    )
    assert verdict.about.seed == VerdictRecord.read(tmp_path / "v" / "verdict.json").seed == 1
    mask: Any = np.ones(3, bool)
    request = EvaluationRequest("x", images=mask, **options)
    assert EvaluationRequest.from_json(json.loads(json.dumps(request.as_json()))) == request


def test_a_time_limit_that_cannot_be_kept_to_is_told(linear: Linear, grays: Dataset) -> None:
    verdicts: list[Verdict] = []
    thread = threading.Thread(
        target=lambda: verdicts.append(judged(linear, grays, time_limit=60, n=6))
    )
    thread.start()
    thread.join()
    verdicts.append(judged(linear, grays, time_limit=60))
    names = [[warning.name for warning in verdict.warnings] for verdict in verdicts]
    assert names == [["time-limit"], []]
    page = Path(__file__).parent.parent / "docs" / "warnings.md"
    assert "\n## time-limit\n" in page.read_text(encoding="utf-8")


def test_a_verdict_and_a_rate_show_themselves_in_a_line(linear: Linear, grays: Dataset) -> None:
    verdict = judged(linear, grays)
    assert repr(verdict) == (
        "<Verdict: linear on linear, Noise(draws=1, seed=0), Linf eps 0.1: "
        "attack success 0.0 % (95 % interval 0.0 to 39.0; n = 6)>"
    )
    assert repr(verdict.success_rate) == "Rate(0.0, n=6, low=0.0, high=0.3903)"

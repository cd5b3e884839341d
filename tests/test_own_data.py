"""The data set of a run is known by its contents, whatever it is called and wherever it lies."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparring
from sparring import defenses as registry
from sparring.data import SOURCES, Dataset, load
from sparring.errors import RunError, SettingsError
from sparring.experiments.dataset import at_hand, of_run

from .conftest import patterns


def write(path: Path, dataset: Dataset) -> Path:
    """Write an .npz file of a data set."""
    path.parent.mkdir(exist_ok=True)
    arrays = {name: getattr(dataset, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(path, **arrays)
    return path


def shifted(dataset: Dataset) -> Dataset:
    """The same images with other labels."""
    y_train, y_test = ((y + 1) % 4 for y in (dataset.y_train, dataset.y_test))
    return replace(dataset, y_train=y_train, y_test=y_test)


@pytest.fixture(scope="module")
def mine() -> Dataset:
    (x_train, y_train), (x_test, y_test) = patterns(40), patterns(16, seed=1)
    return Dataset("digits", x_train, y_train, x_test, y_test, tuple("0123"), mirror=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, mine: Dataset) -> Path:
    """A folder with mine/digits.npz and digits/baseline, trained on its first 32 + 12 images."""
    folder = tmp_path_factory.mktemp("own")
    file = str(write(folder / "mine" / "digits.npz", mine))
    options: dict[str, Any] = {"filters": 4, "epochs": 1, "batch_size": 16}
    sparring.train("baseline", file, out=folder, limit_train=32, limit_test=12, **options)
    return folder


@pytest.fixture
def own(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, whose run remembers the copy's file."""
    folder = tmp_path / "own"
    shutil.copytree(trained, folder)
    run = folder / "digits" / "baseline" / "run.json"
    run.write_text(run.read_text().replace(str(trained), str(folder)))
    return folder


def attack(folder: Path, **options: Any) -> sparring.Verdict:
    threat = sparring.Linf(0.01)
    return sparring.evaluate(
        folder / "digits" / "baseline", "noise", threat, n=12, check=False, **options
    )


def test_the_run_says_where_its_file_is(own: Path) -> None:
    source = json.loads((own / "digits/baseline/run.json").read_text())["source"]
    assert source["path"] == source["given"] == str(own / "mine" / "digits.npz")
    assert len(source["test_sha256"]) == 64


def test_its_own_images_are_taken_not_the_built_in_ones_of_its_name(own: Path) -> None:
    verdict = attack(own)
    accuracy = sparring.load(own / "digits" / "baseline").results["test_accuracy"]
    assert verdict.clean_accuracy.value == pytest.approx(accuracy)
    assert "other_data" not in verdict.about.dataset


def test_a_file_that_is_gone_is_asked_for(own: Path, tmp_path: Path) -> None:
    moved = (own / "mine" / "digits.npz").rename(tmp_path / "elsewhere.npz")
    message = r"a data set of your own called digits, from .*is not there now.*--data PATH"
    with pytest.raises(SettingsError, match=message):
        attack(own)
    attack(own, dataset=moved)
    attack(own, dataset=load(moved).limit(test=12))


def test_a_relative_path_is_looked_for_from_here_too(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = own / "digits" / "baseline" / "run.json"
    record = json.loads(run.read_text())
    record["source"] |= {"path": "/gone/mine/digits.npz", "given": "mine/digits.npz"}
    run.write_text(json.dumps(record))
    with pytest.raises(SettingsError, match="is not there now"):
        attack(own)
    monkeypatch.chdir(own)
    attack(own)


def test_a_file_that_changed_is_refused(own: Path, mine: Dataset) -> None:
    write(own / "mine" / "digits.npz", shifted(mine))
    expected = of_run(load_info(own), mine).limit(32, 12).sha256[:12]
    message = rf"has other test images now.*expected it as it was.*SHA-256 {expected}"
    with pytest.raises(SettingsError, match=message):
        attack(own)


def load_info(own: Path) -> Any:
    return sparring.load(own / "digits" / "baseline").info


def test_other_images_are_judged_on_purpose_only(own: Path, mine: Dataset) -> None:
    other = shifted(mine)
    message = r"baseline was trained on 'digits', 32 \+ 12 .*other test images.*other_data=True"
    for given in (other, write(own / "other.npz", other)):
        with pytest.raises(SettingsError, match=message):
            attack(own, dataset=given)
    verdict = attack(own, dataset=other, other_data=True)
    assert verdict.about.dataset["other_data"] is True
    assert "(other data)" in str(verdict)
    assert "other_data" not in attack(own, dataset=mine, other_data=True).about.dataset
    with pytest.raises(SettingsError, match="other data: expected them as data"):
        attack(own, other_data=True)
    with pytest.raises(SettingsError, match=r"images \[8, 8, 1\] of 4 classes; digits has"):
        attack(own, dataset=load("digits"), other_data=True)


def test_fewer_images_of_the_same_data_set_are_taken(own: Path, mine: Dataset) -> None:
    info = load_info(own)
    assert mine.has_test_images_of(info)
    assert mine.limit(test=5).has_test_images_of(info)
    assert mine.limit(test=14).limit(train=3, test=5).has_test_images_of(info)
    # Whether these are the first ones is not known once they were taken elsewhere.
    few = replace(mine, x_test=mine.x_test[:5], y_test=mine.y_test[:5])
    assert few.has_test_images_of(info) is False
    assert shifted(mine.limit(test=5)).has_test_images_of(info) is False


def test_runs_from_before_compare_what_they_have(own: Path, mine: Dataset) -> None:
    run = own / "digits" / "baseline" / "run.json"
    record = json.loads(run.read_text())
    del record["source"]
    run.write_text(json.dumps(record))
    attack(own, dataset=mine)
    with pytest.raises(SettingsError, match="other test images"):
        attack(own, dataset=shifted(mine))
    with pytest.raises(SettingsError, match="a data set of your own called digits, not on the"):
        attack(own)
    # Before there were keys, the name stood for the built-in data set.
    del record["dataset"]["key"]
    record["dataset"] |= {"class_names": list("0123456789"), "train_images": 40}
    info = type(mine.info).from_json(record["dataset"])
    assert info.key == "digits"
    with pytest.raises(SettingsError, match="whose test images are not those at hand"):
        of_run(info)


def test_a_moved_file_goes_on_with_its_run(own: Path, tmp_path: Path, mine: Dataset) -> None:
    moved = str((own / "mine" / "digits.npz").rename(tmp_path / "digits.npz"))
    options: dict[str, Any] = {"out": own, "filters": 4, "epochs": 1, "batch_size": 16}
    limits: dict[str, Any] = {"limit_train": 32, "limit_test": 12}
    sparring.train("baseline", moved, **limits, **options)  # finished
    other = str(write(tmp_path / "other" / "digits.npz", shifted(mine)))
    with pytest.raises(RunError, match=r"dataset\.sha256 is"):
        sparring.train("baseline", other, **limits, **options)


def test_what_serves_weights_names_the_data_plainly(own: Path, mine: Dataset) -> None:
    borrower = next(name for name in registry.NAMES if registry.get(name).borrows == "baseline")
    with pytest.raises(RunError) as caught:
        sparring.train(borrower, shifted(mine), out=own)
    assert "expected it trained on the same data, 'digits', 40 + 16 images" in str(caught.value)
    assert "DatasetInfo" not in str(caught.value)


def test_other_data_is_refused_before_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load("digits").info
    for name in ("fashion-mnist", "cifar10"):
        monkeypatch.setattr(type(SOURCES[name]), "load", lambda *_: pytest.fail("loaded"))
        for info in (digits, replace(digits, key=None)):
            with pytest.raises(SettingsError, match=f"'digits'.*; {name} is another data set"):
                of_run(info, name)
    assert of_run(replace(digits, key=None), "digits").key == "digits"  # for it is the same


def test_a_conversion_is_compared_on_its_own_images_or_random_ones(
    own: Path, mine: Dataset
) -> None:
    info = load_info(own)
    found = at_hand(info)
    assert found is not None
    assert found.sha256 == mine.sha256
    write(own / "mine" / "digits.npz", shifted(mine))
    assert at_hand(info) is None
    assert at_hand(load("digits").info) is not None
    changed = replace(load("digits").info, test_sha256="0" * 64)
    assert at_hand(changed) is None


def test_a_folder_that_was_given_is_remembered(
    tmp_path: Path, mine: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path | None] = []

    def reading(self: Any, folder: Path | None) -> Dataset:
        asked.append(folder)
        return mine

    source = type(SOURCES["cifar10"])
    monkeypatch.setattr(source, "load", reading)
    monkeypatch.setattr(source, "files", lambda *_: [tmp_path])
    info = load("cifar10", tmp_path).info
    assert (info.key, info.path, info.given) == ("cifar10", str(tmp_path), str(tmp_path))
    of_run(info)
    of_run(replace(info, path=str(tmp_path / "gone")))
    assert asked == [tmp_path, tmp_path, None]

"""Data sets: what is read, and what is refused with which message."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparring.data import SOURCES, Dataset, DatasetInfo, cifar10, fashion_mnist, load
from sparring.errors import DataError, SettingsError


def test_digits_are_the_1797_images_with_a_fixed_split() -> None:
    digits = load("digits")
    assert digits.x_train.shape == (1437, 8, 8, 1)
    assert digits.x_test.shape == (360, 8, 8, 1)
    assert (digits.x_train.min(), digits.x_train.max()) == (0, 255)
    assert digits.classes == 10
    assert not digits.mirror
    # The set's first image is a zero whose first row, in sixteenths, is 0 0 5 13 9 1 0 0.
    assert digits.y_test[0] == 0
    assert digits.x_test[0, 0, :, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert digits.sha256 == "8b153a11c8c3075a67e3b800e212a6825ffd8fa5eeaf28b3a1cd9f76fa9c78ba"


def test_hash_tells_images_and_labels_apart(dataset: Dataset) -> None:
    assert dataset.sha256 == replace(dataset).sha256
    changed = dataset.x_train.copy()
    changed[0, 0, 0, 0] ^= 1
    assert replace(dataset, x_train=changed).sha256 != dataset.sha256
    assert replace(dataset, y_test=dataset.y_test[::-1].copy()).sha256 != dataset.sha256


def test_info_survives_json(dataset: Dataset) -> None:
    assert DatasetInfo.from_json(dataset.info.as_json()) == dataset.info


def test_a_file_with_the_name_of_a_built_in_data_set_is_not_taken_for_it(
    tmp_path: Path, dataset: Dataset
) -> None:
    np.savez(
        tmp_path / "digits.npz",
        x_train=dataset.x_train,
        y_train=dataset.y_train,
        x_test=dataset.x_test,
        y_test=dataset.y_test,
    )
    mine = load(str(tmp_path / "digits.npz"))
    assert (mine.name, mine.key, mine.limit(train=10).key) == ("digits", None, None)
    values = json.loads(json.dumps(mine.info.as_json()))
    assert DatasetInfo.from_json(values).key is None
    digits = load("digits").limit(train=10)
    assert digits.key == DatasetInfo.from_json(digits.info.as_json()).key == "digits"


def test_information_from_before_there_were_keys(dataset: Dataset) -> None:
    # A run of the digits says nothing of a key, now as then, so that both compare equal.
    digits = load("digits")
    assert "key" not in digits.info.as_json()
    assert DatasetInfo.from_json(digits.info.as_json()) == digits.info
    assert "key" not in dataset.info.as_json()
    # A built-in data set that came later has to say so.
    later = replace(dataset, key="patterns")
    assert later.info.as_json()["key"] == "patterns"
    assert DatasetInfo.from_json(later.info.as_json()) == later.info


@pytest.mark.parametrize("name", list(SOURCES))
def test_sources_say_what_they_are(name: str) -> None:
    source = SOURCES[name]
    assert source.name == name
    assert "\n" not in source.description
    assert set(source.usual_eps) == {"Linf", "L2"}


def test_limit(dataset: Dataset) -> None:
    limited = dataset.limit(train=10)
    assert len(limited.x_train) == len(limited.y_train) == 10
    assert len(limited.x_test) == 16
    for wrong in (0, -1, 41):
        with pytest.raises(SettingsError, match=f"expected 1 to 40.*got {wrong}"):
            dataset.limit(train=wrong)


def test_unknown_names_list_the_valid_ones() -> None:
    with pytest.raises(SettingsError, match=r"Did you mean 'cifar10'\? Valid: digits, fashion-mni"):
        load("cifar-10")


# Anybody's images


@pytest.fixture
def arrays(dataset: Dataset) -> dict[str, Any]:
    return {
        "x_train": dataset.x_train,
        "y_train": dataset.y_train.astype(np.int64),
        "x_test": dataset.x_test,
        "y_test": dataset.y_test.astype(np.uint8),
    }


def test_npz(tmp_path: Path, arrays: dict[str, Any]) -> None:
    np.savez(tmp_path / "mine.npz", **arrays)
    mine = load(str(tmp_path / "mine.npz"))
    assert mine.name == "mine"
    assert mine.class_names == ("0", "1", "2", "3")
    assert mine.y_train.dtype == mine.y_test.dtype == np.int32
    np.testing.assert_array_equal(mine.x_train, arrays["x_train"])


def test_npz_without_a_channel_axis_and_with_names(tmp_path: Path, arrays: dict[str, Any]) -> None:
    squeezed = {key: a[..., 0] if key.startswith("x") else a for key, a in arrays.items()}
    np.savez_compressed(tmp_path / "g.npz", **squeezed, class_names=np.array(["n", "e", "s", "w"]))
    grey = load(str(tmp_path / "g.npz"))
    assert grey.shape == (8, 8, 1)
    assert grey.class_names == ("n", "e", "s", "w")


def _float(a: np.ndarray) -> np.ndarray:
    return a / 255


def _nan(a: np.ndarray) -> np.ndarray:
    with_nan = a / 255
    with_nan[0, 0, 0, 0] = np.nan
    return with_nan


WRONG_ARRAYS: list[tuple[str, Callable[[np.ndarray], np.ndarray], str]] = [
    ("x_train", _float, r"expected one range, found images of which white is 1 and others.* 255"),
    ("x_train", lambda a: a - 9.0, r"expected uint8.*found float64 \[40, 8, 8, 1\] in \[-9, 2"),
    (
        "x_train",
        lambda a: a / 200,
        r"float64 from 0 to 1\.1.*white is 1\.1.*, or dark.* is 255",
    ),
    ("x_train", _nan, r"with 1 NaN or infinite values"),
    ("x_test", lambda a: a.astype(np.int64) * 9, r"x_test: expected uint8.*found int64"),
    ("x_test", lambda a: a.astype(int) // 16, r"x_test: found int64 from 0 to 14, which may be im"),
    ("x_train", lambda a: a[:, :7], r"two sides of 8 to 4096.*found uint8 \[40, 7, 8, 1\]"),
    ("x_train", lambda a: np.repeat(a, 2, axis=3), r"1 or 3 channels; found uint8 \[40, 8, 8, 2\]"),
    ("x_train", lambda a: a.reshape(40, 64), r"found uint8 \[40, 64\]"),
    ("x_train", lambda a: a[:0], r"at least one image.*found uint8 \[0, 8, 8, 1\]"),
    ("x_test", lambda a: np.pad(a, ((0, 0), (0, 1), (0, 0), (0, 0))), r"images of one shape"),
    ("y_train", lambda a: a.astype(float), r"y_train: expected integers \[40\].*found float64"),
    ("y_train", lambda a: a[:-1], r"expected integers \[40\].*found int64 \[39\]"),
    ("y_train", lambda a: a - 1, r"expected labels 0 to 2.*found -1 to 2"),
    ("y_train", lambda a: a + 1, r"expected labels 0 to 4, each at least once; missing 0"),
    ("y_test", lambda a: a + 1, r"y_test: expected labels 0 to 3.*found 1 to 4"),
    ("y_train", lambda a: a * 0, r"at least two classes, at most 30,000; found 1"),
    ("y_train", lambda a: a.astype(object), r"expected an .npz file of plain numeric arrays"),
]


@pytest.mark.parametrize(("key", "change", "message"), WRONG_ARRAYS)
def test_npz_refused(
    tmp_path: Path,
    arrays: dict[str, Any],
    key: str,
    change: Callable[[np.ndarray], np.ndarray],
    message: str,
) -> None:
    arrays[key] = change(arrays[key])
    np.savez(tmp_path / "wrong.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load(str(tmp_path / "wrong.npz"))


def test_npz_files_refused(tmp_path: Path, arrays: dict[str, Any]) -> None:
    path = tmp_path / "f.npz"
    with pytest.raises(DataError, match="no such file"):
        load(str(path))
    path.write_bytes(b"")
    with pytest.raises(DataError, match="empty file"):
        load(str(path))
    path.write_bytes(b"<!DOCTYPE html><title>404</title>")
    with pytest.raises(DataError, match="found a web page"):
        load(str(path))
    del arrays["y_test"]
    np.savez(path, **arrays)
    with pytest.raises(DataError, match="missing y_test, found x_train, y_train, x_test"):
        load(str(path))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"expected an \.npz file"):
        load(str(path))
    with pytest.raises(SettingsError, match="a file by itself"):
        load(str(path), tmp_path)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    # A pickle (protocol 0) that would create a file: os.mkdir("<marker>").
    marker = tmp_path / "executed"
    bomb = b"cos\nmkdir\n(S'" + str(marker).encode() + b"'\ntR."
    for name in ("bomb.npz", "data_batch_1", "train-images-idx3-ubyte"):
        (tmp_path / name).write_bytes(bomb)
    for source in (str(tmp_path / "bomb.npz"), "cifar10", "fashion-mnist"):
        with pytest.raises(DataError):
            load(source, None if source.endswith(".npz") else tmp_path)
    assert not marker.exists()


# Fashion-MNIST


def _idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the four files, of fewer images, and their hashes made known."""
    random = np.random.default_rng(0)
    files, hashes = {}, {}
    for key, (file, shape) in fashion_mnist.FILES.items():
        size = (20, *shape[1:])
        array = random.integers(0, 10 if key.startswith("y") else 256, size, dtype=np.uint8)
        files[key] = (file, size)
        hashes[key] = hashlib.sha256(array.tobytes()).hexdigest()
        (tmp_path / f"{file}.gz").write_bytes(gzip.compress(_idx(array)))
    monkeypatch.setattr(fashion_mnist, "FILES", files)
    monkeypatch.setattr(fashion_mnist, "SHA256", hashes)
    return tmp_path


def test_fashion_mnist_is_padded_to_32(fashion: Path) -> None:
    dataset = load("fashion-mnist", fashion)
    assert dataset.x_train.shape == (20, 32, 32, 1)
    assert not dataset.x_train[:, :2].any()
    assert not dataset.x_train[:, :, -2:].any()
    raw = gzip.decompress((fashion / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    inner = dataset.x_train[:, 2:-2, 2:-2, 0]
    assert inner.tobytes() == raw
    assert dataset.class_names[9] == "ankle boot"


def test_fashion_mnist_not_gzipped(fashion: Path) -> None:
    expected = load("fashion-mnist", fashion).sha256
    for path in list(fashion.glob("*.gz")):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert load("fashion-mnist", fashion).sha256 == expected


def test_fashion_mnist_refused(fashion: Path) -> None:
    path = fashion / "train-images-idx3-ubyte.gz"
    good = path.read_bytes()
    raw = gzip.decompress(good)
    for contents, message in (
        (good[: len(good) // 2], "truncated: the gzip stream"),
        (gzip.compress(raw[:-1]), "truncated: expected 15696 bytes, found 15695"),
        (gzip.compress(raw + b"0"), "expected 15696 bytes, found 15697"),
        (gzip.compress(raw[:-1] + bytes([raw[-1] ^ 1])), "expected contents with SHA-256"),
        (gzip.compress(b"\x00\x00\x08\x01" + raw[4:]), "expected an IDX file of 20 x 28 x 28"),
        (raw, "expected a gzip file"),
        (b"\n<html><body>Not found", "found a web page"),
        (b"", "empty file"),
    ):
        path.write_bytes(contents)
        with pytest.raises(DataError, match=message):
            load("fashion-mnist", fashion)
    path.unlink()
    with pytest.raises(DataError, match=r"expected a file train-images-idx3-ubyte.gz or train-im"):
        load("fashion-mnist", fashion)


def test_a_failed_download_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    def fail(*arguments: object, **options: object) -> None:
        raise Exception("no route to host")

    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", fail)
    monkeypatch.setattr(keras.utils, "get_file", fail)
    for name in ("fashion-mnist", "cifar10"):
        with pytest.raises(DataError, match=f"{name} could not be .*no route.*--data-dir"):
            load(name)


# CIFAR-10, on files of the real format with fewer images


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the six binary batches, 50 images each in place of 10,000."""
    monkeypatch.setattr(cifar10, "BATCH", 50)
    monkeypatch.setattr(cifar10, "PER_CLASS", {"training": 25, "test": 5})
    random = np.random.default_rng(0)
    for name in (*cifar10.TRAIN, cifar10.TEST):
        records = random.integers(0, 256, (50, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(50) % 10
        (tmp_path / name).write_bytes(records.tobytes())
    return tmp_path


def _pack(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The batches as the archive they come in, its hash made known; the files are removed."""
    archive = folder / cifar10.ARCHIVE
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(folder.glob("*.bin")):
            tar.add(path, f"cifar-10-batches-bin/{path.name}")
            path.unlink()
        readme = b"<html>"
        member = tarfile.TarInfo("cifar-10-batches-bin/readme.html")
        member.size = len(readme)
        tar.addfile(member, io.BytesIO(readme))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(cifar10, "SHA256", digest)
    return archive


def test_cifar10_from_batches(cifar: Path) -> None:
    dataset = load("cifar10", cifar)
    assert dataset.x_train.shape == (250, 32, 32, 3)
    assert dataset.x_test.shape == (50, 32, 32, 3)
    raw = np.frombuffer((cifar / "data_batch_2.bin").read_bytes(), np.uint8).reshape(50, 3073)
    # A record is the label, then the red, green and blue planes row by row.
    assert dataset.y_train[53] == raw[3, 0]
    assert dataset.x_train[53, 5, 7].tolist() == [
        raw[3, 1 + c * 1024 + 5 * 32 + 7] for c in range(3)
    ]


def test_cifar10_from_the_archive_without_extracting(
    cifar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load("cifar10", cifar).sha256
    _pack(cifar, monkeypatch)
    assert load("cifar10", cifar).sha256 == expected
    assert [path.name for path in cifar.iterdir()] == [cifar10.ARCHIVE]


def test_cifar10_download_is_verified_by_its_hash(
    cifar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    expected = load("cifar10", cifar).sha256
    archive = _pack(cifar, monkeypatch)
    asked: dict[str, str] = {}

    def get_file(name: str, url: str, file_hash: str) -> str:
        asked.update(name=name, url=url, file_hash=file_hash)
        return str(archive)

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    assert load("cifar10").sha256 == expected
    assert asked["file_hash"] == cifar10.SHA256
    assert asked["url"].endswith(cifar10.ARCHIVE)


def test_cifar10_archives_refused(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = _pack(cifar, monkeypatch)
    good = archive.read_bytes()
    monkeypatch.setattr(cifar10, "SHA256", "0" * 64)
    with pytest.raises(DataError, match="expected SHA-256 0000"):
        load("cifar10", cifar)
    for contents, message in (
        (good[: len(good) // 2], "truncated"),
        (good[:3000] + bytes(100) + good[3100:], "expected a tar.gz archive|truncated|expected "),
        (b"<!doctype html>", "found a web page"),
        (b"PK\x03\x04", "expected a tar.gz archive"),
    ):
        archive.write_bytes(contents)
        with pytest.raises(DataError, match=message):
            load("cifar10", cifar)


def test_cifar10_archive_with_a_member_missing(
    cifar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cifar / "data_batch_3.bin").unlink()
    _pack(cifar, monkeypatch)
    with pytest.raises(DataError, match=r"missing in the archive: data_batch_3\.bin"):
        load("cifar10", cifar)


def test_cifar10_batches_refused(cifar: Path) -> None:
    path = cifar / "data_batch_4.bin"
    good = path.read_bytes()
    for contents, message in (
        (good[:-1], r"data_batch_4.bin: truncated: expected 153650 bytes .* found 153649"),
        (good + b"0", "found 153651"),
        (b"\x0b" + good[1:], "expected labels 0 to 9.*found 0 to 11"),
        (b"\x01" + good[1:], r"expected 25 images of each class, found \[24, 26"),
        (b"<html>", "web page"),
    ):
        path.write_bytes(contents)
        with pytest.raises(DataError, match=message):
            load("cifar10", cifar)


@pytest.mark.parametrize("pickled", ["cifar-10-python.tar.gz", "cifar-10-batches-py"])
def test_pickled_cifar10_names_the_binary_version(tmp_path: Path, pickled: str) -> None:
    (tmp_path / pickled).touch()
    with pytest.raises(DataError, match=r"pickled.*cifar-10-binary\.tar\.gz"):
        load("cifar10", tmp_path)


def test_data_dir_must_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load("cifar10", tmp_path / "nowhere")


def test_reading_a_data_set_needs_no_backend() -> None:
    import subprocess

    code = "import sys, sparring.data as d; d.load('digits'); sys.exit('keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

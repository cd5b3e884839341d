"""Data files that are damaged or made to do harm, and values that are no data set."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import resource
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparring
from sparring.data import Dataset, DatasetInfo, accepted, cifar10, fashion_mnist, load
from sparring.data.reading import read_idx
from sparring.errors import DataError, SettingsError, SparringError


@pytest.fixture(autouse=True)
def _bounds() -> Iterator[None]:
    """Each test takes less than 2 GB of memory beyond what there was, and 10 seconds."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 * 2**20  # kB
    assert time.process_time() - start < 10


Members = dict[str, bytes]


def npy(array: np.ndarray) -> bytes:
    """An array as numpy.save writes it."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def header(descr: str, shape: str, version: int = 1) -> bytes:
    """The beginning of a .npy file of any text."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 * version, "little") + text


@pytest.fixture
def members(dataset: Dataset) -> Members:
    names = ("x_train", "y_train", "x_test", "y_test")
    return {name: npy(getattr(dataset, name)) for name in names}


@pytest.fixture
def write(tmp_path: Path, members: Members) -> Callable[..., str]:
    """Write an .npz file with some members replaced, given as bytes or arrays."""

    def written(compression: int = zipfile.ZIP_STORED, **changes: Any) -> str:
        path = tmp_path / "mine.npz"
        with zipfile.ZipFile(path, "w", compression) as file:
            for name, contents in {**members, **changes}.items():
                contents = npy(contents) if isinstance(contents, np.ndarray) else contents
                file.writestr(f"{name}.npy", contents)
        return str(path)

    return written


LABELS = [
    (np.array([0, 1, 2, 3_000_000_000] * 10), "expected labels 0 to at most 39.*3000000001"),
    (np.array([0, 1, 2, 10_000_000] * 10), "expected labels 0 to at most 39"),
    (np.full(40, 2**64 - 1, np.uint64), "expected labels 0 to at most 39"),
    (np.array([0, 1, 2, -1] * 10), "found -1 to 2"),
    (np.full(40, -1), "at least two classes"),
    (np.array([0.0, 1, 2, 3] * 10), "expected integers.*found float64"),
    (np.full(40, np.nan), "expected integers.*found float64"),
    (np.eye(4, dtype=int)[[0, 1, 2, 3] * 10] * 2, r"expected integers.*found int64 \[40, 4\]"),
    (np.ones((40, 4)), r"one-hot with a single 1 an image, found float64 \[40, 4\]"),
    (np.ones(40, bool), "found bool"),
    (np.array(["a", "b", "c", "d"] * 10), "found <U1"),
    (np.zeros(40, "datetime64[D]"), "found datetime64"),
    (np.zeros(40, "i4,i4"), r"found \[\('f0'"),
    (np.array([], int), r"found int64 \[0\]"),
    (np.array(3), r"found int64 \[\]"),
    (np.array([[0.5], [1], [2], [3]] * 10), r"expected integers.*found float64 \[40\]"),
    (np.zeros((40, 4, 1), int), r"found int64 \[40, 4, 1\]"),
    (np.array([0, 1, 2, 3] * 10, object), "pickled objects, which are never loaded"),
]


@pytest.mark.parametrize(("labels", "message"), LABELS)
def test_labels_that_are_none(write: Callable[..., str], labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(write(y_train=labels))


IMAGES = [
    np.zeros((40, 0, 8, 1), np.uint8),
    np.zeros((0, 8, 8, 1), np.uint8),
    np.zeros((40, 5000, 8, 1), np.uint8),
    np.zeros((40, 8, 8, 4), np.uint8),
    np.full((40, 8, 8), 256, ">u2"),
    np.zeros((40, 8, 8, 1), complex),
    np.array(7, np.uint8),
]


@pytest.mark.parametrize("images", IMAGES)
def test_images_that_are_none(write: Callable[..., str], images: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"mine\.npz: x_train: expected uint8 \[N, height"):
        load(write(x_train=images))


TEXTS = [
    b"no array at all",
    b"",
    b"PK\x03\x04",
    b"<html>",
    header("'|u1'", "(40, 8, 8, 1)"),
    header("'|u1'", "(1000000000000, 8, 8, 1)"),
    header("'|u1'", "(18446744073709551616, 8, 8, 1)"),
    header("'|u1'", "(-1, 8, 8, 1)"),
    header("'|u1'", "(True, 8, 8, 1)"),
    header("'|u1'", "(40, 8.0, 8, 1)"),
    header("'|u1'", "[" * 5000),
    header("'|u1'", "(" + "-" * 9000 + "1,)"),
    header("'|u1'", "('a' * 10**10,)"),
    header("'|u1'", '"""'),
    header("'|V0'", "(1000000000000,)"),
    header("'O'", "(40, 8, 8, 1)"),
    header("True", "(40, 8, 8, 1)"),
    header("[('a', '|u1', (10**9,))]", "(40,)"),
    header("'|u1'", "(40, 8, 8, 1)", version=2),
    b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
    b"\x93NUMPY\x09\x00\x10\x00" + bytes(100),
]


@pytest.mark.parametrize("contents", TEXTS)
def test_members_that_are_no_array(write: Callable[..., str], contents: bytes) -> None:
    for name in ("x_train", "y_test"):
        with pytest.raises(DataError, match=r"mine\.npz: expected an \.npz file of plain numeric"):
            load(write(**{name: contents}))


def test_class_names_that_are_none(write: Callable[..., str]) -> None:
    for names, message in (
        (np.arange(4), "class_names: expected texts"),
        (np.array([["a", "b"], ["c", "d"]]), "class_names: expected texts"),
        (np.array(["a", "b", "c", "d\n"]), "printable characters, got .*'d"),
        (np.array(["a", "b", "c", "d" * 300]), "printable characters"),
        (np.array([str(number) for number in range(41)]), "found 40 labels of 41 classes"),
        (np.array(["a", "b", "c", "d"], object), "pickled"),
    ):
        with pytest.raises(DataError, match=message):
            load(write(class_names=names))


def test_files_that_are_no_npz(tmp_path: Path, write: Callable[..., str], dataset: Dataset) -> None:
    path = Path(write())
    good = path.read_bytes()
    load(str(path))
    with zipfile.ZipFile(path) as file:
        first = file.infolist()[0]
    encrypted, other = bytearray(good), bytearray(good)
    directory = good.index(b"PK\x01\x02")
    encrypted[6] |= 1
    encrypted[directory + 8] |= 1
    other[8] = other[directory + 10] = 99
    for contents in (
        npy(dataset.x_train),
        bytes(encrypted),
        bytes(other),
        good[: len(good) // 2],
        good[: first.header_offset] + bytes(200) + good[200:],
        good[:-300],
    ):
        path.write_bytes(contents)
        with pytest.raises(DataError, match=r"expected an \.npz file"):
            load(str(path))


def test_bytes_changed_anywhere_are_refused_or_harmless(write: Callable[..., str]) -> None:
    path = Path(write())
    good, random = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        changed = bytearray(good)
        for place in random.integers(0, len(good), random.integers(1, 6)):
            changed[place] = random.integers(0, 256)
        path.write_bytes(
            bytes(changed[: random.integers(1, len(good))] if random.random() < 0.2 else changed)
        )
        try:
            load(str(path))
        except DataError:
            refused += 1
    assert refused > 150


def test_places_that_are_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "loop.npz").symlink_to(tmp_path / "loop.npz")
    for name in ("pipe.npz", "folder.npz", "loop.npz", "a" * 300 + ".npz", "nul\0.npz"):
        with pytest.raises(DataError):
            load(str(tmp_path / name))
    with pytest.raises(DataError):
        load("~nobody-of-this-name/x.npz")
    for folder in ("a" * 300, "nul\0", "~nobody-of-this-name"):
        with pytest.raises(DataError):
            load("fashion-mnist", folder)
    for name in ("..npz", "...npz", " .npz", ".npz", "a\nb.npz", "\\.npz"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(DataError, match=r"name for a folder|expected an"):
            load(str(tmp_path / name))


@pytest.mark.parametrize("stem", [".", "..", " ", "a\\b", "a\tb", "x" * 201])
def test_a_file_cannot_name_another_folder(write: Callable[..., str], stem: str) -> None:
    path = Path(write())
    path = path.rename(path.with_name(f"{stem}.npz"))
    with pytest.raises(DataError, match="name of a data set: expected a name for a folder"):
        load(str(path))


# Files that unpack to much more than they are


def test_an_npz_that_unpacks_to_a_gigabyte(tmp_path: Path, members: Members) -> None:
    path, zeros, size = tmp_path / "bomb.npz", bytes(2**24), 17 * 2**26
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        with file.open("x_train.npy", "w", force_zip64=True) as member:
            member.write(header("'|u1'", f"({size // 64}, 8, 8, 1)"))
            for _ in range(size // len(zeros)):
                member.write(zeros)
        for name, contents in members.items():
            if name != "x_train":
                file.writestr(f"{name}.npy", contents)
    start = time.process_time()
    with pytest.raises(DataError, match=r"a file of 4,\d{3},\d{3} bytes that unpacks to 1,140,85"):
        load(str(path))
    assert time.process_time() - start < 1


def test_a_sparse_file_that_is_larger_than_memory(tmp_path: Path, members: Members) -> None:
    # Stored, so that its parts may be written by hand: 10^12 bytes that take none on the disk.
    path, size = tmp_path / "sparse.npz", 10**12
    with zipfile.ZipFile(path, "w") as file:
        for name, contents in members.items():
            if name != "x_test":
                file.writestr(f"{name}.npy", contents)
        start = header("'|u1'", f"({size // 64}, 8, 8, 1)")
        with file.open("x_test.npy", "w", force_zip64=True) as member:
            member.write(start)
            place = member._fileobj.tell() + size  # type: ignore[attr-defined]
            member._fileobj.seek(place)  # type: ignore[attr-defined]
            member._file_size += size  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="unpacks to 1,000,000,00"):
        load(str(path))


def test_an_idx_file_is_read_to_its_known_size_only(tmp_path: Path) -> None:
    path, shape = tmp_path / "a.gz", (10, 8, 8)
    start = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in shape)
    path.write_bytes(gzip_of_zeros(start, 3 * 2**30))
    with pytest.raises(DataError, match="expected 656 bytes, found 657"):
        read_idx(path, shape)
    plain = tmp_path / "plain"
    with plain.open("wb") as file:
        file.write(start)
        file.truncate(10**12)
    with pytest.raises(DataError, match="expected 656 bytes, found 657"):
        read_idx(plain, shape)
    good = start + bytes(640)
    for contents, message in (
        (gzip.compress(good)[:-6], "truncated"),
        (gzip.compress(good)[:-8] + bytes(8), "expected a gzip file"),
        (gzip.compress(good[::-1]), "expected an IDX file"),
        (gzip.compress(b"\x00\x00\x0d\x03" + good[4:]), "expected an IDX file"),
        (gzip.compress(good[:8]), "expected an IDX file"),
        (b"\x1f\x8b\x08\x08" + b"a" * 10**6, "truncated"),
    ):
        path.write_bytes(contents)
        with pytest.raises(DataError, match=message):
            read_idx(path, shape)
    path.write_bytes(gzip.compress(good))
    assert read_idx(path, shape).shape == shape


def gzip_of_zeros(start: bytes, size: int) -> bytes:
    """A gzip file of some bytes and very many zeros."""
    block, step = zlib.compressobj(1, wbits=-15), 2**24
    zeros = block.compress(bytes(step)) + block.flush(zlib.Z_FULL_FLUSH)
    packer = zlib.compressobj(1, wbits=31)
    return packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH) + zeros * (size // step)


def test_an_archive_is_known_by_its_hash_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("unpacked")

    archive = tmp_path / cifar10.ARCHIVE
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin"))
    monkeypatch.setattr(tarfile, "open", never)
    with pytest.raises(DataError, match=f"expected SHA-256 {cifar10.SHA256}.*truncated"):
        load("cifar10", tmp_path)
    with archive.open("r+b") as file:
        file.truncate(10**12)
    with pytest.raises(DataError, match=r"longer; the archive has 170,052,171 bytes"):
        load("cifar10", tmp_path)


def test_noise_is_not_cifar10(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in (*cifar10.TRAIN, cifar10.TEST):
        (tmp_path / name).touch()
    noise = random.integers(0, 256, (cifar10.BATCH, cifar10.RECORD), dtype=np.uint8)
    noise[:, 0] = np.arange(cifar10.BATCH) % 10
    (tmp_path / "data_batch_1.bin").write_bytes(noise.tobytes())
    with pytest.raises(DataError, match=r"data_batch_1\.bin: expected CIFAR-10's photographs"):
        load("cifar10", tmp_path)
    # Of the right colors and their deviation, but every pixel by itself; and one color.
    mean, deviation = np.array(cifar10.MEAN), np.array(cifar10.DEVIATION)
    by_itself = mean + random.uniform(-1.732, 1.732, (1000, 32, 32, 3)) * deviation
    for images in (by_itself, np.zeros_like(by_itself) + mean):
        with pytest.raises(DataError, match=r"expected CIFAR-10's photographs"):
            cifar10._expect_photographs("batch", images.clip(0, 255).astype(np.uint8))


def test_images_like_cifar10_s_are_accepted() -> None:
    random = np.random.default_rng(0)
    mean, deviation = (np.reshape(v, (3, 1, 1)) for v in (cifar10.MEAN, cifar10.DEVIATION))
    patches = random.uniform(-1.732, 1.732, (1000, 3, 4, 4)).repeat(8, axis=2).repeat(8, axis=3)
    images = (mean + patches * deviation).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    cifar10._expect_photographs("data_batch_1.bin", images)


# Values that are no data set


class Endless:
    """Goes on for ever, as some data sets of other libraries do."""

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        raise AssertionError("gone through")

    def __getitem__(self, index: int) -> int:
        raise AssertionError("gone through")

    def __len__(self) -> int:
        return 10**9


def _kinds() -> dict[str, Any]:
    array = np.zeros((4, 8, 8, 1), np.uint8)
    return {
        "none": None,
        "number": 3,
        "bytes": b"digits",
        "bool": True,
        "dict": {"x_train": array},
        "array": array,
        "list of arrays": [array, array],
        "tuple of four": (array, array, array, array),
        "endless": Endless(),
        "endless pair": (Endless(), Endless()),
        "pairs of endless": ((Endless(), Endless()), (Endless(), Endless())),
        "lists": (([[1]], [1]), ([[1]], [1])),
        "generator": (x for x in [1]),
        "class": Dataset,
    }


@pytest.mark.parametrize("kind", list(_kinds()))
def test_what_is_no_data_set_is_refused_at_once(kind: str) -> None:
    value = _kinds()[kind]
    message = r"data: expected the name of a data set \(digits, .*\.npz.*x_train, y_train.*; got "
    with pytest.raises(SettingsError, match=message):
        sparring.train("baseline", value)
    if value is not None:
        with pytest.raises(SettingsError, match=message):
            sparring.EvaluationRequest("baseline", data=value)
    with pytest.raises(SettingsError, match=message):
        load(value)


def test_torch_data_sets_are_refused_at_once() -> None:
    torch = pytest.importorskip("torch")
    tensors = torch.utils.data.TensorDataset(torch.zeros(4, 1, 8, 8), torch.zeros(4))
    for value in (tensors, torch.utils.data.DataLoader(tensors), torch.zeros(4)):
        with pytest.raises(SettingsError, match=r"got torch.*Bring other forms to such arrays"):
            sparring.train("baseline", value)


def test_arrays_are_taken(dataset: Dataset) -> None:
    torch = pytest.importorskip("torch")
    train, test = (dataset.x_train, dataset.y_train), (dataset.x_test, dataset.y_test)
    given = accepted((train, test))
    assert isinstance(given, Dataset)
    assert (given.name, given.key, given.sha256) == ("arrays", None, dataset.sha256)
    assert given.class_names == tuple("0123")
    tensors = accepted([[torch.tensor(array) for array in part] for part in (train, test)])
    assert isinstance(tensors, Dataset)
    assert tensors.sha256 == dataset.sha256
    request = sparring.TrainingRequest(defense="baseline", data=(train, test))  # type: ignore[arg-type]
    assert isinstance(request.data, Dataset)
    assert sparring.TrainingRequest(defense="baseline", data=Path("x.npz")).data == "x.npz"  # type: ignore[arg-type]
    with pytest.raises(DataError, match="expected labels 0 to at most 39"):
        accepted(((dataset.x_train, dataset.y_train + 10**9), test))
    with pytest.raises(DataError, match=r"x_train: expected uint8.*found float64"):
        accepted(((dataset.x_train - 255.0, dataset.y_train), test))
    for part in range(2):
        masked: list[Any] = [dataset.x_train, dataset.y_train]
        masked[part] = np.ma.masked_array(masked[part], masked[part] > 2)
        with pytest.raises(DataError, match="_train: expected a plain numpy array, got MaskedArra"):
            accepted((masked, test))
    needs_gradient = torch.zeros(4, 8, 8, 1, requires_grad=True)
    with pytest.raises(DataError, match="no numpy array can be made"):
        accepted(((needs_gradient, dataset.y_train), test))


@pytest.mark.parametrize(
    "name",
    [
        ".",
        "..",
        "",
        " ",
        "../x",
        "a/b",
        "a\\b",
        "a\0",
        "a\n",
        "\ud800",
        "x" * 201,
        3,
        None,
        b"a",
        ["a"],
    ],
)
def test_names_that_name_no_folder(dataset: Dataset, name: Any) -> None:
    with pytest.raises(DataError, match="name of a data set: expected"):
        replace(dataset, name=name)
    with pytest.raises(DataError, match="name of a data set: expected"):
        DatasetInfo.from_json({**dataset.info.as_json(), "name": name})


def test_what_a_data_set_is_made_of_is_checked(dataset: Dataset) -> None:
    x = dataset.x_train
    for changes, message in (
        ({"class_names": "abcd"}, "class_names: expected a tuple of texts, got str"),
        ({"class_names": (1, 2, 3, 4)}, "printable characters, got int 1"),
        ({"class_names": None}, "got NoneType"),
        ({"class_names": ("a",)}, "at least two classes, at most 30,000; found 1"),
        ({"class_names": ("a",) * 30_001}, "at least two classes, at most 30,000; found 30,001"),
        ({"mirror": 1}, "mirror: expected True or False"),
        ({"x_train": np.ma.masked_array(x, x > 3)}, "plain numpy array, got MaskedArray"),
        ({"x_train": x.tolist()}, "plain numpy array, got list"),
        ({"x_train": x.astype(object)}, "found object"),
        ({"y_train": dataset.y_train.tolist()}, "plain numpy array, got list"),
        ({"y_test": dataset.y_test == 3}, "found bool"),
        ({"x_test": np.broadcast_to(np.uint8(0), (10**9, 7, 8, 1))}, "two sides of 8 to 4096"),
        ({"x_test": np.broadcast_to(np.uint8(0), (1, 10**9, 8, 1))}, "two sides of 8 to 4096"),
    ):
        with pytest.raises(DataError, match=message):
            replace(dataset, **changes)
    assert replace(dataset, class_names=list("abcd")).class_names == tuple("abcd")  # type: ignore[arg-type]


WRONG_SHAPES: list[Any] = [
    *([], [8, 8], [8, 8, -1], [8, 8, "1"], [1e400, 8, 1]),
    *([8.5, 8, 1], [4097, 8, 1], [8, 7, 1], [8, 8, 2], [8, 8, True], None, 3),
]
WRONG_FLAGS: list[Any] = [[[]], 1, "x", None]
WRONG_COUNTS: list[Any] = ["x", -1, 1.5, 10**30, None]
WRONG_TEXTS: list[Any] = [[], 3, None]


def test_information_is_checked_when_read(dataset: Dataset) -> None:
    good = dataset.info.as_json() | dataset.info.source()
    assert DatasetInfo.from_json(json.loads(json.dumps(good))) == dataset.info
    cases: list[tuple[str, Any]] = [
        *(("shape", wrong) for wrong in WRONG_SHAPES),
        *(("class_names", wrong) for wrong in (None, 3, [1, 2], [["a"]], "ab", ["a"])),
        *(("mirror", wrong) for wrong in WRONG_FLAGS),
        *(("test_images", wrong) for wrong in WRONG_COUNTS),
        *(("sha256", wrong) for wrong in WRONG_TEXTS),
        *(("path", wrong) for wrong in WRONG_TEXTS[:2]),
        ("unknown", 1),
    ]
    for name, wrong in cases:
        with pytest.raises(ValueError, match=f"{name}|field of a data set 'unknown'"):
            DatasetInfo.from_json({**good, name: wrong})
    for name in ("name", "shape", "class_names", "mirror", "train_images", "sha256"):
        with pytest.raises(ValueError, match=name):
            DatasetInfo.from_json({key: value for key, value in good.items() if key != name})


def test_limits_are_checked_before_anything_is_loaded() -> None:
    wrong: Any
    for wrong in (50.0, -1, 0, True, "3", float("nan")):
        for name in ("limit_train", "limit_test"):
            options: dict[str, Any] = {name: wrong}
            with pytest.raises(SettingsError, match=f"{name}: expected an integer of 1 or more"):
                sparring.train("baseline", "nothing.npz", **options)
    digits = load("digits")
    for wrong in (50.0, True, "3"):
        with pytest.raises(SettingsError, match="limit of test images: expected 1 to 360"):
            digits.limit(test=wrong)
    assert len(digits.limit(test=np.int64(50)).x_test) == 50  # type: ignore[arg-type]


def test_a_data_set_prints_as_one_line() -> None:
    digits = load("digits")
    assert repr(digits) == "Dataset('digits', 1,437 + 360 images of 8x8x1, 10 classes)"
    assert repr(digits.info) == (
        "DatasetInfo('digits', 1,437 + 360 images of 8x8x1, 10 classes, SHA-256 8b153a11c8c3)"
    )


def test_unknown_names_of_any_length(tmp_path: Path) -> None:
    for name in ("", "x" * 10**6, "digits.npy", str(tmp_path)):
        with pytest.raises(SparringError) as caught:
            load(name)
        assert len(str(caught.value)) < 500


def test_fashion_mnist_kept_from_a_download_is_read_with_the_same_care(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    asked: list[tuple[str, str]] = []

    def get_file(name: str, url: str, cache_subdir: str) -> str:
        asked.append((url, cache_subdir))
        path = tmp_path / name
        path.write_bytes(gzip_of_zeros(b"", 2**28))
        return str(path)

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    with pytest.raises(DataError, match="expected an IDX file"):
        load("fashion-mnist")
    assert len(asked) == 4
    assert asked[0][0].endswith("train-images-idx3-ubyte.gz")
    assert asked[0][1] == "datasets/fashion-mnist"
    assert hashlib.sha256(b"").hexdigest() not in fashion_mnist.SHA256.values()

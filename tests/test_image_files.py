"""Folders of images and parquet files as data sets, and what other arrays are understood as."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import sparring
from sparring.cli import app
from sparring.data import Dataset, decoded, encoded, load, parquet
from sparring.errors import DataError, SettingsError
from sparring.experiments.dataset import of_run

Image = pytest.importorskip("PIL.Image")


@pytest.fixture(autouse=True)
def _no_cache_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))


def level(label: int, number: int) -> int:
    """A grey level that tells an image's class and number."""
    return 100 * label + number


def flat(value: Any, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Any:
    """An image of one color, of width and height."""
    return Image.new(mode, size, value)


def save(image: Any, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def fill(folder: Path, images: int = 5) -> None:
    """Write images of two classes into a folder, each of a color of its own."""
    for label, name in enumerate(("cat", "dog")):
        for number in range(images):
            color = (level(label, number), 7, 250)
            save(flat(color), folder / name / f"{number}.png")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder with 2 x 5 training images and 2 x 3 test images."""
    fill(tmp_path / "pets" / "train", 5)
    fill(tmp_path / "pets" / "test", 3)
    return tmp_path / "pets"


def red(x: np.ndarray) -> list[int]:
    return sorted(x[:, 0, 0, 0].tolist())


def test_a_folder(pets: Path) -> None:
    dataset = load(pets)
    assert (dataset.name, dataset.key, dataset.class_names) == ("pets", None, ("cat", "dog"))
    assert dataset.shape == (8, 8, 3)
    assert red(dataset.x_train) == [0, 1, 2, 3, 4, 100, 101, 102, 103, 104]
    assert red(dataset.x_test) == [0, 1, 2, 100, 101, 102]
    assert (dataset.x_train[..., 1:] == (7, 250)).all()
    for x, y in ((dataset.x_train, dataset.y_train), (dataset.x_test, dataset.y_test)):
        np.testing.assert_array_equal(x[:, 0, 0, 0] >= 100, y)
    assert dataset.notes == ()
    assert dataset.path == str(pets)


def test_first_images_are_of_all_classes(tmp_path: Path) -> None:
    fill(tmp_path / "pets" / "train", 40)
    fill(tmp_path / "pets" / "test", 40)
    dataset = load(tmp_path / "pets")
    # Sorted by class it would be 0; that 20 of 40 + 40 drawn blindly have fewer than 5 of one is
    # once in 400 draws, and the draw is always the same.
    assert 5 <= dataset.y_train[:20].sum() <= 15
    assert 5 <= dataset.y_test[:20].sum() <= 15


@pytest.mark.parametrize("inside", ["", "train"])
def test_without_test_images_a_fifth_of_each_class_is_held_out(tmp_path: Path, inside: str) -> None:
    fill(tmp_path / "pets" / inside, 10)
    dataset = load(tmp_path / "pets")
    assert (len(dataset.x_train), len(dataset.x_test)) == (16, 4)
    assert np.bincount(dataset.y_test).tolist() == [2, 2]
    assert sorted(red(dataset.x_train) + red(dataset.x_test)) == [*range(10), *range(100, 110)]
    [note] = dataset.notes
    assert "4 of its 20, a fifth of each class" in note
    assert load(tmp_path / "pets").sha256 == dataset.sha256


def test_a_class_of_one_image_cannot_be_split(tmp_path: Path) -> None:
    fill(tmp_path / "pets", 1)
    with pytest.raises(DataError, match=r"class cat: expected 2 images at least.*found 1"):
        load(tmp_path / "pets")


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Test"])
def test_other_names_of_the_test_folder(pets: Path, name: str) -> None:
    (pets / "test").rename(pets / name)
    assert red(load(pets).x_test) == [0, 1, 2, 100, 101, 102]


def test_validation_images_are_not_used_beside_test_images(pets: Path) -> None:
    fill(pets / "val", 4)
    dataset = load(pets)
    assert len(dataset.x_test) == 6
    assert dataset.notes == ("val not used: the test images are those of test",)


def odd(color: Any, mode: str = "RGB", **options: Any) -> Callable[[Path], Path]:
    return lambda path: save(flat(color, mode=mode), path.with_suffix(".png"), **options)


def transparent_palette(path: Path) -> Path:
    image = flat(1, mode="P")
    image.putpalette([0, 0, 0, 200, 7, 9])
    return save(image, path.with_suffix(".png"), transparency=1)


def palette(path: Path) -> Path:
    image = flat(1, mode="P")
    image.putpalette([0, 0, 0, 200, 7, 9])
    return save(image, path.with_suffix(".png"))


def deep(path: Path) -> Path:
    # 65535 is white, so 40000 is 40000 / 257 = 155.6.
    return save(Image.fromarray(np.full((8, 8), 40000, np.uint16)), path.with_suffix(".png"))


def frames(path: Path) -> Path:
    others = [flat((9, 9, 9))]
    options = {"save_all": True, "append_images": others}
    return save(flat((200, 7, 9)), path.with_suffix(".tiff"), **options)


# A half transparent black (alpha 51 of 255) on white is 204; CMYK (0, 255, 255, 0) is pure red.
CONVERTED: list[tuple[str, Callable[[Path], Path], tuple[int, int, int]]] = [
    ("1 of 17 images are grey, made color", odd(200, "L"), (200, 200, 200)),
    ("1 of 17 images are black and white", odd(1, "1"), (255, 255, 255)),
    ("1 of 17 images are with transparency, laid on", odd((0, 0, 0, 51), "RGBA"), (204, 204, 204)),
    ("1 of 17 images are with transparency, laid on", odd((0, 51), "LA"), (204, 204, 204)),
    ("1 of 17 images are with a palette", palette, (200, 7, 9)),
    ("1 of 17 images are with transparency", transparent_palette, (255, 255, 255)),
    ("1 of 17 images are of 16 bits a channel", deep, (156, 156, 156)),
    ("1 of 17 images are of several frames", frames, (200, 7, 9)),
    (
        "1 of 17 images are of another color space",
        lambda path: save(flat((0, 255, 255, 0), mode="CMYK"), path.with_suffix(".tif")),
        (255, 0, 0),
    ),
]


@pytest.mark.parametrize(("note", "write", "color"), CONVERTED)
def test_other_images_are_converted(
    pets: Path, note: str, write: Callable[[Path], Path], color: tuple[int, int, int]
) -> None:
    before = load(pets)
    write(pets / "train" / "cat" / "odd")
    dataset = load(pets)
    assert any(said.startswith(note) for said in dataset.notes), dataset.notes
    assert dataset.shape == (8, 8, 3)
    new = [image for image in dataset.x_train if image not in before.x_train]
    [found] = [image for image in dataset.x_train if (image == color).all()]
    assert len(new) <= 1
    assert (found == color).all()


def test_grey_images_alone_have_one_channel(tmp_path: Path) -> None:
    for label, name in enumerate(("cat", "dog")):
        for number in range(4):
            save(flat(level(label, number), mode="L"), tmp_path / "pets" / name / f"{number}.png")
    save(flat((0, 51), mode="LA"), tmp_path / "pets" / "dog" / "transparent.png")
    dataset = load(tmp_path / "pets")
    assert dataset.shape == (8, 8, 1)
    assert red(np.concatenate([dataset.x_train, dataset.x_test])) == [
        *(0, 1, 2, 3, 100, 101, 102, 103, 204)
    ]


def test_images_are_turned_as_exif_says(tmp_path: Path) -> None:
    # 12 wide and 8 high; black on its left. Orientation 6 says: turn it clockwise, so that its left
    # is at the top.
    pixels = np.full((8, 12, 3), 255, np.uint8)
    pixels[:, :4] = 0
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("cat", "dog"):
        for number in range(2):
            path = tmp_path / "pets" / name / f"{number}.png"
            save(Image.fromarray(pixels), path, exif=exif)
    dataset = load(tmp_path / "pets")
    assert dataset.shape == (12, 8, 3)
    assert (dataset.x_train[:, :4] == 0).all()
    assert (dataset.x_train[:, 4:] == 255).all()
    assert any(note.startswith("4 of 4 images are turned") for note in dataset.notes)


def test_images_of_several_sizes(pets: Path) -> None:
    # The middle 16x16 of 32x16 is red.
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 8:24] = (200, 0, 0)
    save(Image.fromarray(pixels), pets / "train" / "cat" / "wide.png")
    message = (
        r"pets: expected images of one size, found 2 sizes: .*0\.png has 8x8 pixels, .*wide\.p"
    )
    with pytest.raises(DataError, match=message + r"ng 32x16\. --resize N"):
        load(pets)
    dataset = load(pets, resize=8)
    assert dataset.shape == (8, 8, 3)
    [wide] = [image for image in dataset.x_train if image[4, 4, 0] == 200]
    assert (wide[:, 1:7] == (200, 0, 0)).all()  # the outermost columns mix in what was cut off
    assert dataset.notes == (
        "images of up to 32x16 pixels were resized to 8x8; of those that are not square the middle "
        "is taken",
    )


@pytest.mark.parametrize("resize", [7, 4097, 8.0, True, "8"])
def test_sides_that_are_none(pets: Path, resize: Any) -> None:
    with pytest.raises(SettingsError, match="resize: expected a side of 8 to 4096 pixels"):
        load(pets, resize=resize)
    with pytest.raises(SettingsError, match="resize: expected a side of 8 to 4096 pixels"):
        sparring.TrainingRequest(defense="baseline", data=str(pets), resize=resize)


def test_resize_goes_with_images_that_are_decoded(mine: Dataset) -> None:
    for data in ("digits", "x.npz", mine):
        with pytest.raises(SettingsError, match="resize: expected it with a folder of images"):
            load(data, resize=8)


def test_small_images_are_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for number in range(2):
            save(flat(1, (7, 9)), tmp_path / "pets" / name / f"{number}.png")
    with pytest.raises(DataError, match=r"0\.png: expected sides of 8 to 4096 pixels, found 7x9"):
        load(tmp_path / "pets")


def truncated(path: Path) -> None:
    random = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    save(Image.fromarray(random), path)
    path.write_bytes(path.read_bytes()[:-500])


def bomb(path: Path) -> None:
    # 10,000 x 10,000 pixels of one bit are 12 kB, and 300 MB as colors.
    save(flat(0, (10_000, 10_000), "1"), path)


FILES: list[tuple[str, Callable[[Path], object], str]] = [
    ("x.png", truncated, r"cat/x\.png: expected an image \(PNG.*damaged, truncated"),
    ("x.png", lambda path: path.write_bytes(b"text"), r"cat/x\.png: expected an image \(PNG, JPEG"),
    (
        "x.jpg",
        lambda path: path.write_bytes(b""),
        r"cat/x\.jpg: expected data, found an empty file",
    ),
    (
        "x.png",
        lambda path: path.write_bytes(b"<html>"),
        r"cat/x\.png: expected data, found a w",
    ),
    (
        "x.jpg",
        lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"),
        r"cat/x\.jpg: expected an i",
    ),
    (
        "x.png",
        bomb,
        r"cat/x\.png: expected an image of at most 67,108,864 pixels, found 10000x",
    ),
    ("x.png", os.mkfifo, r"cat/x\.png: cannot be read: expected a file"),
    ("x.png", lambda path: path.symlink_to("nothing"), r"cat/x\.png: no such file"),
    ("x", lambda path: path.symlink_to(path.parent), r"cat/x: leads back to a folder that it lies"),
]


@pytest.mark.parametrize(("name", "write", "message"), FILES)
def test_files_that_are_no_images(
    pets: Path, name: str, write: Callable[[Path], object], message: str
) -> None:
    write(pets / "train" / "cat" / name)
    with pytest.raises(DataError, match=message):
        load(pets, resize=8)


def test_floating_point_images_are_refused(pets: Path) -> None:
    save(flat(0.5, mode="F"), pets / "train" / "cat" / "x.tif")
    with pytest.raises(DataError, match=r"x\.tif: expected 8 or 16 bits.*floating-point values"):
        load(pets)


def test_other_files_are_passed_over_and_that_is_said(pets: Path) -> None:
    (pets / "README.md").write_text("pets")
    (pets / ".git").mkdir()
    for name in (".DS_Store", "Thumbs.db", "._0.png"):
        (pets / "train" / "cat" / name).write_bytes(b"x")
    inside = pets / "train" / "dog" / "big"
    save(flat((177, 0, 0)), inside / "rex.PNG")
    dataset = load(pets)
    assert 177 in red(dataset.x_train)
    [note] = dataset.notes
    assert note == (
        f"3 files without the name of an image passed over: {pets}/train/cat/.DS_Store first of all"
    )


def remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def empty(folder: Path) -> None:
    remove(folder)
    folder.mkdir()


def lonely(pets: Path) -> None:
    remove(pets / "train" / "dog")
    remove(pets / "test" / "dog")


FOLDERS: list[tuple[Callable[[Path], object], str]] = [
    (lambda pets: empty(pets / "train" / "cat"), r"train/cat: expected images .*, found none"),
    (lambda pets: empty(pets / "test" / "cat"), r"test/cat: expected images .*, found none"),
    (
        lambda pets: remove(pets / "test" / "dog"),
        r"test: expected the same.*/train, found no",
    ),
    (lambda pets: remove(pets / "train" / "dog"), r"train: expected two folders of class"),
    (lambda pets: fill(pets / "test" / "x"), r"train: expected the same.*/test, found no fol"),
    (lambda pets: (pets / "train").rename(pets / "tr"), r"train/CLASS/IMAGE beside test, found no"),
    (lonely, r"train: expected two folders of classes at least, .*found cat"),
]


@pytest.mark.parametrize(("change", "message"), FOLDERS)
def test_folders_of_other_forms(pets: Path, change: Callable[[Path], object], message: str) -> None:
    change(pets)
    with pytest.raises(DataError, match=message):
        load(pets)


def test_a_folder_around_the_right_one(pets: Path) -> None:
    with pytest.raises(DataError, match=rf"found pets\. Is it {pets} that is meant\?"):
        load(pets.parent)


def test_paths_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder, and no file that ends in"):
        load(tmp_path / "nothing")
    with pytest.raises(SettingsError, match=r"unknown data set 'pets'.*or of a folder of images"):
        load("pets")


def test_pillow_that_is_missing(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(SettingsError, match=r"pip install 'sparring\[images\]'"):
        load(pets)


# Kept decoded


def decoding(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Take note of what is decoded from now on."""
    seen: list[str] = []
    real = encoded._pixels

    def pixels(image: Any, **options: Any) -> Any:
        seen.append(image.where)
        return real(image, **options)

    monkeypatch.setattr(encoded, "_pixels", pixels)
    return seen


def test_images_are_decoded_once(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(flat(200, mode="L"), pets / "train" / "cat" / "grey.png")
    first = load(pets)
    seen = decoding(monkeypatch)
    again = load(pets)
    assert (again.sha256, again.notes, seen) == (first.sha256, first.notes, [])
    path = pets / "train" / "cat" / "0.png"
    times = path.stat()
    save(flat((55, 7, 250)), path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # contents tell, not times
    changed = load(pets)
    assert len(seen) == 17
    assert 55 in red(changed.x_train)
    load(pets, resize=9)
    assert len(seen) == 34


def test_what_was_kept_is_not_trusted_without_its_hash(
    pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(pets)
    [kept] = decoded.folder().iterdir()
    whole = kept.read_bytes()
    header, _, pixels = whole.partition(b"\n")
    values = json.loads(header)
    for damaged in (
        whole[:-1] + bytes([whole[-1] ^ 1]),
        whole[:-1],
        whole + b"x",
        b"",
        pixels,
        json.dumps(values | {"notes": ["other"]}).encode() + b"\n" + pixels,
        json.dumps(values | {"shape": [16, 8, 24]}).encode() + b"\n" + pixels,
        json.dumps(values | {"shape": [10**15, 8, 8, 3]}).encode() + b"\n" + pixels,
        json.dumps([1]).encode() + b"\n" + pixels,
    ):
        kept.write_bytes(damaged)
        seen = decoding(monkeypatch)
        assert load(pets).sha256 == first.sha256
        assert len(seen) == 16
        monkeypatch.undo()
        monkeypatch.setenv("KERAS_HOME", str(pets.parent / "keras"))
        assert kept.read_bytes() == whole


def test_what_was_kept_of_others_is_not_taken(pets: Path) -> None:
    load(pets)
    [kept] = decoded.folder().iterdir()
    other = "0" * 64
    kept.rename(kept.with_name(other))
    assert decoded.find(other) is None


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((10, 8, 8, 1), np.uint8)  # 640 bytes, and a header of about 120
    monkeypatch.setattr(decoded, "MOST_BYTES", 2000)
    for number, key in enumerate("abc"):
        assert not decoded.keep(key, images, [])
        os.utime(decoded.folder() / key, (number, number))
    assert decoded.find("b") is not None  # was used after c
    assert not decoded.keep("d", images, [])
    assert sorted(path.name for path in decoded.folder().iterdir()) == ["b", "d"]
    assert "at most 2,000 are kept" in decoded.keep("e", np.zeros((40, 8, 8, 1), np.uint8), [])


def test_images_that_cannot_be_kept_are_used(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(key: str, images: np.ndarray, notes: object) -> str:
        return "No space left on device"

    monkeypatch.setattr(decoded, "keep", full)
    [note] = load(pets).notes
    assert note == "decoded images are not kept for the next time: No space left on device"


def test_a_file_that_changes_meanwhile(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = encoded._looked_at

    def look(image: Any) -> Any:
        looked = real(image)
        if image.where.endswith("train/dog/2.png"):
            save(flat((9, 9, 9)), Path(image.where))
        return looked

    monkeypatch.setattr(encoded, "_looked_at", look)
    with pytest.raises(DataError, match=r"train/dog/2\.png: was changed while the data"):
        load(pets)


def test_progress_is_told(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "_EVERY", -1.0)
    said: list[str] = []
    load(pets, tell=said.append)
    assert said == [
        f"{what} the images: 16 of 16" for what in ("Reading", "Looking at", "Decoding")
    ]


# Parquet


def png(color: Any) -> bytes:
    stream = io.BytesIO()
    flat(color).save(stream, "PNG")
    return stream.getvalue()


def rows(images: int) -> tuple[list[dict[str, Any]], list[int]]:
    """Images of two classes, as `fill` writes, and their labels."""
    labels = [label for label in range(2) for _ in range(images)]
    colors = [(level(label, number), 7, 250) for label in range(2) for number in range(images)]
    return [{"bytes": png(color), "path": None} for color in colors], labels


def write_parquet(
    path: Path, columns: dict[str, Any], features: dict[str, Any] | None = None
) -> Path:
    arrow = pytest.importorskip("pyarrow")
    writer = pytest.importorskip("pyarrow.parquet")
    table = arrow.table(columns)
    if features:
        info = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": info})
    path.parent.mkdir(parents=True, exist_ok=True)
    writer.write_table(table, path)
    return path


FEATURES = {
    "image": {"_type": "Image"},
    "label": {"_type": "ClassLabel", "names": ["cat", "dog"]},
}


@pytest.mark.parametrize("inside", ["", "data"])
def test_a_folder_with_parquet_files(tmp_path: Path, inside: str) -> None:
    for part, images in (("train", 5), ("test", 3)):
        x, y = rows(images)
        for number, some in enumerate((slice(None, images), slice(images, None))):
            columns = {"image": x[some], "label": y[some]}
            name = f"{part}-0000{number}-of-00002.parquet"
            write_parquet(tmp_path / "pets" / inside / name, columns, FEATURES)
    dataset = load(tmp_path / "pets")
    assert (dataset.name, dataset.class_names) == ("pets", ("cat", "dog"))
    assert red(dataset.x_train) == [0, 1, 2, 3, 4, 100, 101, 102, 103, 104]
    assert red(dataset.x_test) == [0, 1, 2, 100, 101, 102]
    np.testing.assert_array_equal(dataset.x_train[:, 0, 0, 0] >= 100, dataset.y_train)
    assert dataset.notes == ()


def test_a_parquet_file_with_a_column_split(tmp_path: Path) -> None:
    x, y = rows(6)
    split = ["train", "train", "train", "test", "test", "validation"] * 2
    path = write_parquet(tmp_path / "pets.parquet", {"img": x, "label": y, "split": split})
    dataset = load(path)
    assert (dataset.name, dataset.class_names) == ("pets", ("0", "1"))
    assert (red(dataset.x_train), red(dataset.x_test)) == (
        [0, 1, 2, 100, 101, 102],
        [3, 4, 103, 104],
    )
    np.testing.assert_array_equal(dataset.x_test[:, 0, 0, 0] >= 100, dataset.y_test)
    assert dataset.notes == ("validation not used: the test images are those of test",)


def test_a_parquet_file_of_bytes_and_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows(5)
    columns = {
        "image": [row["bytes"] for row in x],
        "label": [("dog", "ant")[label] for label in y],
    }
    path = write_parquet(tmp_path / "pets.parquet", columns)
    dataset = load(path)
    assert dataset.class_names == ("ant", "dog")
    assert (len(dataset.x_train), len(dataset.x_test)) == (8, 2)
    np.testing.assert_array_equal(dataset.x_train[:, 0, 0, 0] < 100, dataset.y_train)
    seen = decoding(monkeypatch)
    assert load(path).sha256 == dataset.sha256
    assert not seen
    assert load(path, resize=9).shape == (9, 9, 3)


TWO = {"fine": {"_type": "ClassLabel"}, "coarse": {"_type": "ClassLabel"}}
PARQUETS: list[tuple[dict[str, Any], dict[str, Any] | None, str]] = [
    ({"label": None}, None, r"called label or labels or target; found none among image"),
    ({"image": None}, None, r"called image or img; found none among label"),
    ({"labels": [0, 1] * 3}, None, r"found label, labels, and either may be meant"),
    ({"fine": [0] * 6, "coarse": [0] * 6}, TWO, r"found fine, coarse, and either may be meant"),
    ({"label": [0.5] * 6}, None, "expected labels that are integers, or texts, found float"),
    ({"label": [0, None] * 3}, None, "found NoneType, int"),
    ({"label": [-1, 0] * 3}, None, "expected labels 0 to 0, found -1 to 0"),
    ({"label": [0, 10**9] * 3}, None, "expected labels 0 to 5, found 0 to 1000000000"),
    ({"label": [0, 2] * 3}, None, "expected images of each class, found none of 1"),
    (
        {"image": [{"bytes": None, "path": "/etc/passwd"}] * 6},
        None,
        "row 0: .*a path, which",
    ),
    ({"image": [b"text"] * 6}, None, r"pets\.parquet: row 0: expected an image \(PNG"),
    (
        {"split": ["a", "b"] * 3},
        None,
        "expected train and test .* split, found a, b",
    ),
    (
        {"split": ["train"] * 5 + ["test"]},
        None,
        "expected test images .* found none of 0",
    ),
]


@pytest.mark.parametrize(("changes", "features", "message"), PARQUETS)
def test_parquet_files_of_other_forms(
    tmp_path: Path, changes: dict[str, Any], features: dict[str, Any] | None, message: str
) -> None:
    x, y = rows(3)
    columns = {"image": x, "label": y, **changes}
    columns = {name: values for name, values in columns.items() if values is not None}
    path = write_parquet(tmp_path / "pets.parquet", columns, features)
    with pytest.raises(DataError, match=message):
        load(path)


def test_a_parquet_file_that_changes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = parquet._hash
    hashed: list[bytes] = []

    def changing(path: Path) -> bytes:
        hashed.append(real(path) if len(hashed) < 2 else b"another")  # once decoding has begun
        return hashed[-1]

    monkeypatch.setattr(parquet, "_hash", changing)
    x, y = rows(5)
    path = write_parquet(tmp_path / "pets.parquet", {"image": x, "label": y}, FEATURES)
    with pytest.raises(DataError, match=r"pets\.parquet: was changed while the data"):
        load(path)
    assert len(hashed) == 3


def test_damaged_parquet_files(tmp_path: Path) -> None:
    x, y = rows(3)
    path = write_parquet(tmp_path / "pets.parquet", {"image": x, "label": y})
    whole = path.read_bytes()
    for damaged in (whole[:-4], whole[:100], b"PAR1", b"text"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"pets\.parquet: expected a parquet file"):
            load(path)


def test_pyarrow_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pets.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(SettingsError, match=r"pip install 'sparring\[images,parquet\]'"):
        load(tmp_path / "pets.parquet")


# Arrays


@pytest.fixture
def mine() -> Dataset:
    """Sixteen images of 8x9 pixels in three channels, of two classes."""
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (16, 8, 9, 3), dtype=np.uint8)
    y = np.arange(16) % 2
    return Dataset("mine", x[:10], y[:10], x[10:], y[10:], ("0", "1"))


def arrays_of(dataset: Dataset) -> dict[str, Any]:
    names = ("x_train", "y_train", "x_test", "y_test")
    return {name: getattr(dataset, name) for name in names}


@pytest.mark.parametrize(
    "names",
    [
        ("X_train", "Y_train", "X_test", "Y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("train_x", "train_y", "test_x", "test_y"),
        ("images_train", "targets_train", "images_test", "targets_test"),
        ("train_data", "train_targets", "val_data", "val_targets"),
    ],
)
def test_other_names_of_arrays(tmp_path: Path, mine: Dataset, names: tuple[str, ...]) -> None:
    values = arrays_of(mine).values()
    np.savez(tmp_path / "mine.npz", **dict[str, Any](zip(names, values, strict=True)))
    dataset = load(tmp_path / "mine.npz")
    assert dataset.sha256 == mine.sha256
    said = f"{', '.join(names)} are taken as x_train, y_train, x_test, y_test"
    assert dataset.notes == (said,)


def test_files_of_medmnist(tmp_path: Path, mine: Dataset) -> None:
    np.savez(
        tmp_path / "mine.npz",
        train_images=mine.x_train,
        train_labels=mine.y_train[:, None].astype(np.uint8),
        val_images=mine.x_test[:1],
        val_labels=mine.y_test[:1, None],
        test_images=mine.x_test,
        test_labels=mine.y_test[:, None],
    )
    dataset = load(tmp_path / "mine.npz")
    assert dataset.sha256 == mine.sha256
    assert dataset.notes == (
        "train_images, train_labels, test_images, test_labels are taken as x_train, y_train, "
        "x_test, y_test",
        "not used: val_images, val_labels",
        "y_train: [10, 1] is taken as one label an image",
        "y_test: [6, 1] is taken as one label an image",
    )


def test_names_that_may_be_either(tmp_path: Path, mine: Dataset) -> None:
    np.savez(tmp_path / "mine.npz", **arrays_of(mine), train_images=mine.x_train)
    with pytest.raises(DataError, match="x_train, found x_train and train_images, and either may"):
        load(tmp_path / "mine.npz")


def one_hot(y: np.ndarray) -> np.ndarray:
    return np.eye(2, dtype=np.float32)[y]


def in_unit(x: np.ndarray) -> np.ndarray:
    return (x / 255).astype(np.float32)


def channels_first(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 3, 1, 2)


UNDERSTOOD: list[tuple[str, Callable[[np.ndarray], np.ndarray], str]] = [
    ("y", one_hot, "one-hot of 2 classes"),
    ("y", lambda y: one_hot(y).astype(bool), "one-hot of 2 classes"),
    ("y", lambda y: y[:, None], "one label an image"),
    ("x", in_unit, "float32 is taken as images of which white is 1"),
    ("x", lambda x: x / 255, "float64 is taken as images of which white is 1"),
    ("x", lambda x: x + 0.25, "float64 is taken as images of which white is 255"),
    ("x", lambda x: x - 0.25, "float64 is taken as images of which white is 255"),
    ("x", lambda x: x.astype(np.int64), "int64 is taken as images of which white is 255"),
    ("x", channels_first, "3, 8, 9] is taken as [N, channels, height, width]"),
    (
        "x",
        lambda x: channels_first(in_unit(x)),
        "3, 8, 9] is taken as [N, channels, height, width]",
    ),
]


@pytest.mark.parametrize(("which", "change", "note"), UNDERSTOOD)
def test_arrays_that_can_mean_one_thing(
    tmp_path: Path, mine: Dataset, which: str, change: Callable[[np.ndarray], np.ndarray], note: str
) -> None:
    arrays = arrays_of(mine)
    # 255 and a quarter is more than white, and a quarter below 0 less than black.
    arrays |= {f"x_{part}": np.clip(arrays[f"x_{part}"], 1, 254) for part in ("train", "test")}
    expected = replace(mine, x_train=arrays["x_train"], x_test=arrays["x_test"])
    changed: dict[str, Any] = {
        name: change(array) if name.startswith(which) else array for name, array in arrays.items()
    }
    np.savez(tmp_path / "mine.npz", **changed)
    given = (changed["x_train"], changed["y_train"]), (changed["x_test"], changed["y_test"])
    for dataset in (load(tmp_path / "mine.npz"), load(given)):  # type: ignore[arg-type]
        assert dataset.sha256 == expected.sha256
        for part in ("train", "test"):
            assert any(
                said.startswith(f"{which}_{part}: ") and note in said for said in dataset.notes
            )


def test_true_is_white(mine: Dataset) -> None:
    given = (mine.x_train > 99, mine.y_train), (mine.x_test > 99, mine.y_test)
    np.testing.assert_array_equal(load(given).x_test, 255 * (mine.x_test > 99))  # type: ignore[arg-type]


# Trained on, and found again


def test_a_run_finds_its_folder_and_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "pets", 10)
    save(flat((200, 0, 0), (20, 10)), tmp_path / "pets" / "cat" / "wide.png")
    monkeypatch.chdir(tmp_path)
    options = ["--filters", "4", "--epochs", "1", "--out", "runs"]
    train = ["train", "baseline", "--data", "pets", *options]
    answer = CliRunner().invoke(app, train)
    assert answer.exit_code == 1
    assert "expected images of one size" in answer.output
    answer = CliRunner().invoke(app, [*train, "--resize", "12"])
    assert answer.exit_code == 0
    for said in (
        "images of up to 20x10 pixels were resized to 12x12",
        "a fifth of each class",
        "data = sparring.load_data('pets', resize=12)",
    ):
        assert said in answer.output
    info = sparring.load("runs/pets/baseline").info
    assert (info.shape, info.path, info.given) == ((12, 12, 3), str(tmp_path / "pets"), "pets")
    dataset = load("pets", resize=12)
    for given in (None, "pets", str(tmp_path / "pets")):
        assert of_run(info, given).test_sha256 == dataset.test_sha256
    command = ["attack", "baseline", "noise", "--data", "pets", "--eps", "0.1", "-n", "4"]
    assert CliRunner().invoke(app, command).exit_code == 0
    moved = (tmp_path / "pets").rename(tmp_path / "moved")
    with pytest.raises(SettingsError, match=r"from .*pets, which is not there now.*--data PATH"):
        of_run(info)
    assert of_run(info, moved).test_sha256 == dataset.test_sha256

"""Adversarial images from files: what is read, what is refused, and what each comes to."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops
from PIL import Image
from safetensors.numpy import save, save_file

import sparring
from sparring.data import Dataset
from sparring.defenses.defense import Defense
from sparring.errors import DataError, RunError, SettingsError
from sparring.evaluation import submission
from sparring.evaluation.submission import Contents, Pictures
from sparring.evaluation.verdict import Verdict
from sparring.randomness import Chance
from sparring.runs.records import VerdictRecord
from sparring.threat import L2, Linf
from tests.conftest import Linear

SHAPE = (8, 8, 1)
INDEX = np.arange(6)
EPS = 27 / 255


@pytest.fixture
def grays() -> Dataset:
    """Seven images of class 1, each of another gray, which `linear` answers rightly."""
    x = np.full((7, 8, 8, 1), 100, np.uint8) + np.arange(7, dtype=np.uint8)[:, None, None, None] * 9
    y = np.ones(7, np.int32)
    return Dataset("linear", x, y, x, y, ("a", "b"))


def moved(linear: Linear, data: Dataset, by: int = 26) -> np.ndarray:
    """Images of class 0: each value moved by so many levels; 16 are enough (64 * 16 > 4 * 255)."""
    return (data.x_test - by * linear.direction.astype(int)).astype(np.float32) / 255


def judged(linear: Any, data: Dataset, file: Path, **options: Any) -> Verdict:
    return sparring.judge(linear, file, options.pop("threat", Linf(EPS)), data, n=6, **options)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.round(image[..., 0] * 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def as_safetensors(folder: Path, images: np.ndarray) -> Path:
    save_file({"adversarial": images}, folder / "a.safetensors")
    return folder / "a.safetensors"


def as_plain(folder: Path, images: np.ndarray) -> Path:
    save_file({"mine": images.astype(np.float16)}, folder / "b.safetensors")
    return folder / "b.safetensors"


def as_npz(folder: Path, images: np.ndarray) -> Path:
    np.savez_compressed(folder / "c.npz", adversarial=images.astype(np.float64))
    return folder / "c.npz"


def as_levels(folder: Path, images: np.ndarray) -> Path:
    np.savez(folder / "d.npz", np.round(images * 255).astype(np.uint8))
    return folder / "d.npz"


def as_folder(folder: Path, images: np.ndarray) -> Path:
    (folder / "e").mkdir()
    for number, image in enumerate(images):
        (folder / "e" / f"{number:05}.png").write_bytes(png(image))
    (folder / "e" / "notes.txt").write_text("mine")
    return folder / "e"


def tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as archive:  # type: ignore[call-overload]
        for name, contents in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(contents)
            archive.addfile(member, io.BytesIO(contents))
    return data.getvalue()


def as_tar(folder: Path, images: np.ndarray) -> Path:
    files = {f"x/{number}.png": png(image) for number, image in enumerate(images)}
    (folder / "f.tar").write_bytes(tar(files))
    return folder / "f.tar"


def as_packed_tar(folder: Path, images: np.ndarray) -> Path:
    files = {f"{number}.PNG": png(image) for number, image in enumerate(images)}
    (folder / "g.tar.gz").write_bytes(tar(files, "w:gz"))
    return folder / "g.tar.gz"


FORMS = [as_safetensors, as_plain, as_npz, as_levels, as_folder, as_tar, as_packed_tar]


@pytest.mark.parametrize("write", FORMS)
def test_every_form_comes_to_the_same(
    linear: Linear, grays: Dataset, tmp_path: Path, write: Callable[[Path, np.ndarray], Path]
) -> None:
    images = moved(linear, grays)
    images[2] = grays.x_test[2].astype(np.float32) / 255  # not moved
    images[3] -= 4 * linear.direction / 255  # 30 levels in all, and 27 are allowed
    verdict = judged(linear, grays, write(tmp_path, images))
    assert verdict.success.tolist() == [1, 1, 0, 0, 1, 1]
    assert verdict.reasons[2] == "label unchanged"
    # It lies 9 levels from the others: the third, 9 darker, is 21 or 39 levels from it.
    assert verdict.reasons[3] == "too far: Linf distance above eps"
    assert verdict.about.isolation == "images"
    assert verdict.about.attack_sha256 is not None


def test_an_index_says_which_images_they_are(
    linear: Linear, grays: Dataset, tmp_path: Path
) -> None:
    images, file = moved(linear, grays), tmp_path / "a.safetensors"
    index = np.array([5, 0, 3, 3, 6, 99])
    arrays = {"adversarial": images[[5, 0, 3, 3, 6, 6]], "index": index, "label": index}
    save_file(arrays, file)
    verdict = judged(linear, grays, file)
    assert verdict.success.tolist() == [1, 0, 0, 0, 0, 1]
    assert verdict.reasons[1] == "missing: the file has no image for this one"
    assert verdict.reasons[3] == "the file has several images for this one"
    [warning] = verdict.warnings
    assert str(warning).startswith("2 images of the file were not asked for: 6, 99 [docs/")


def test_images_in_another_order_are_failures(
    linear: Linear, grays: Dataset, tmp_path: Path
) -> None:
    images = moved(linear, grays, by=5)
    images[[0, 5]] = images[[5, 0]]  # 45 levels apart
    verdict = judged(linear, grays, as_safetensors(tmp_path, images), threat=Linf(6 / 255))
    assert verdict.success.tolist() == [0] * 6
    assert verdict.reasons[0] == (
        "too far: Linf distance above eps, but near test image 5: misordered?"
    )
    assert verdict.reasons[5].endswith("but near test image 0: misordered?")


def test_fewer_images_than_are_asked_for_are_missing_at_the_end(
    linear: Linear, grays: Dataset, tmp_path: Path
) -> None:
    verdict = judged(linear, grays, as_safetensors(tmp_path, moved(linear, grays)[:4]))
    assert verdict.success.tolist() == [1, 1, 1, 1, 0, 0]
    assert verdict.reasons[4:] == ["missing: the file has no image for this one"] * 2


def test_pictures_that_cannot_be_read_are_failures(
    linear: Linear, grays: Dataset, tmp_path: Path
) -> None:
    folder = as_folder(tmp_path, moved(linear, grays))
    whole = (folder / "00001.png").read_bytes()
    (folder / "00000.png").write_bytes(b"no picture")
    (folder / "00001.png").write_bytes(whole[:-30])
    Image.new("RGB", (8, 8)).save(folder / "00002.png")
    Image.new("L", (9, 8)).save(folder / "00003.png")
    (folder / "00004.png").unlink()
    (folder / "00004.png").symlink_to(folder / "00005.png")
    huge = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)  # 3.6 GB in the header alone
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + huge
    (folder / "00006.png").write_bytes(start + struct.pack(">I", zlib.crc32(b"IHDR" + huge)))
    verdict = sparring.judge(linear, folder, Linf(EPS), grays, n=7)
    assert verdict.success.tolist() == [0, 0, 0, 0, 0, 1, 0]
    assert verdict.reasons[0].startswith("unreadable: expected a PNG")
    assert verdict.reasons[1].startswith("unreadable: expected a PNG")
    assert verdict.reasons[2] == "unreadable: expected a PNG 8x8 L, found 8x8 RGB"
    assert verdict.reasons[3] == "unreadable: expected a PNG 8x8 L, found 9x8 L"
    assert verdict.reasons[4].startswith("missing")
    assert verdict.reasons[6].startswith("unreadable: expected a PNG")


def test_what_no_image_may_hold_is_a_failure(
    linear: Linear, grays: Dataset, tmp_path: Path
) -> None:
    images = moved(linear, grays)
    images[0, 0], images[1, 0], images[2, 0], images[3, 0] = np.nan, np.inf, -1e-3, 1.001
    verdict = judged(linear, grays, as_safetensors(tmp_path, images))
    assert verdict.success.tolist() == [0, 0, 0, 0, 1, 1]
    assert verdict.reasons[:2] == ["not finite: NaN or infinite values"] * 2
    assert verdict.reasons[2:4] == ["outside [0, 1]"] * 2


def test_three_channels_are_read_as_rgb() -> None:
    values = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    contents = Contents(Path("x"), {"3.png": file.getvalue()}, "")
    pictures = contents.pictures((8, 8, 3), np.arange(5))
    assert pictures.index.tolist() == [3]
    np.testing.assert_array_equal(pictures.images[0], values.astype(np.float32) / 255)


# What is refused as a whole


def sparse_tar() -> bytes:
    """An archive of 1 KB with a sparse file of 1 TB called 0.png."""
    member = tarfile.TarInfo("0.png")
    member.type, member.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000000000\0" + b"00000001000\0"
    header[483:495] = b"17777777777\0"
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header) + bytes(512) + bytes(1024)


def bomb() -> bytes:
    """An .npz whose array says that it has 16 TB."""
    header = io.BytesIO()
    shape = (2**31, 8, 8, 1)
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("adversarial.npy", header.getvalue())
    return data.getvalue()


def zeros() -> bytes:
    """An .npz of 60 MB that is nothing but 60 GB of zeros, as far as it says."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        array = io.BytesIO()
        np.save(array, np.zeros((70_000, 8, 8, 1)))
        file.writestr("adversarial.npy", array.getvalue())
    return data.getvalue()


def pickled() -> bytes:
    data = io.BytesIO()
    np.savez(data, adversarial=np.array([print], object))
    return data.getvalue()


FLOAT = np.zeros((2, 8, 8, 1), np.float32)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.safetensors", b"", "expected a safetensors file or an .npz"),
        ("a.safetensors", b"{}" * 100, "expected a safetensors file or an .npz"),
        ("a.safetensors", struct.pack("<Q", 2**62) + b"{}", "expected a safetensors file"),
        ("a.safetensors", save({"adversarial": FLOAT})[:-1], "expected a safetensors file"),
        ("a.npz", b"PK\x03\x04" + bytes(100), "expected a safetensors file"),
        ("a.npz", pickled(), "expected a safetensors file"),
        ("a.npz", bomb(), "expected a safetensors file"),
        ("a.npz", zeros(), "expected at most 30,720,000 bytes of images, found 35,840,000"),
        ("a.tar", bytes(2048), "found no such file"),
        ("a.tar", sparse_tar(), "found no such file"),
        ("a.tar", b"x" * 2048, "expected a safetensors file"),
        ("a.tar", tar({"../x.png": b"", "a.png": b"", "-1.png": b""}), "found no such file"),
        ("a.tar.gz", gzip.compress(bytes(10**6))[:-20], "expected a whole gzip stream"),
        ("a.safetensors", save({"a": FLOAT, "b": FLOAT}), "found arrays"),
        ("a.safetensors", save({"adversarial": FLOAT[..., 0]}), r"found float32 \[2, 8, 8\]"),
        ("a.safetensors", save({"adversarial": FLOAT.astype(np.int32)}), "found int32"),
        ("a.safetensors", save({"adversarial": FLOAT, "index": np.zeros(3, int)}), "integers"),
        ("a.safetensors", save({"adversarial": FLOAT, "index": np.zeros(2)}), "integers"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error(
    linear: Linear, grays: Dataset, tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        judged(linear, grays, tmp_path / name, out=tmp_path / "v")
    assert str(tmp_path / name) in str(caught.value)
    assert not (tmp_path / "v").exists()


def test_what_is_no_file_is_an_error(linear: Linear, grays: Dataset, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="found no such file"):
        judged(linear, grays, tmp_path / "empty")
    with pytest.raises(DataError, match="No such file"):
        judged(linear, grays, tmp_path / "none.npz")
    with pytest.raises(DataError, match="found a pipe or a device"):
        judged(linear, grays, Path("/dev/zero"))


def test_larger_files_are_refused(
    linear: Linear, grays: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "LARGEST", 1000)
    file = as_safetensors(tmp_path, moved(linear, grays))
    with pytest.raises(DataError, match="expected at most 1,000 bytes"):
        judged(linear, grays, file)


def test_a_gzip_bomb_is_not_unpacked(
    linear: Linear, grays: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "_LARGEST_TAR", 10_000)
    (tmp_path / "a.tgz").write_bytes(gzip.compress(tar({"0.png": bytes(10**6)})))
    with pytest.raises(DataError, match="gzip stream of at most 10,000 bytes"):
        judged(linear, grays, tmp_path / "a.tgz")


def test_a_picture_that_unpacks_to_too_much_is_no_image() -> None:
    data = png(np.zeros((8, 8, 1))) + bytes(17 << 20)
    pictures = Contents(Path("x"), {"0.png": data}, "").pictures(SHAPE, INDEX)
    assert pictures.unreadable == {0: "unreadable: expected at most 16,777,216 bytes"}


def test_options_that_are_none_are_refused(linear: Linear, grays: Dataset, tmp_path: Path) -> None:
    file = as_safetensors(tmp_path, moved(linear, grays))
    with pytest.raises(SettingsError, match=r"unknown option of judge 'check'\. Valid: batch_size"):
        judged(linear, grays, file, check=False)
    with pytest.raises(SettingsError, match="without a wrapper"):
        judged(sparring.EOT(linear, 2), grays, file)


# What is written, and repeated


class Random(Linear):
    """Answers by a draw where an image is near the plane."""

    stochastic = True

    def logits(self, x: Any, chance: Any = None) -> Any:
        logits = super().logits(x)
        drawn = (chance or Chance(x)).uniform(1)
        return ops.concatenate([logits[:, :1], logits[:, 1:] + 8 * (drawn - 0.5)], axis=-1)


def test_a_seed_is_drawn_and_repeats_the_verdict(
    linear: Linear, grays: Dataset, tmp_path: Path
) -> None:
    random = Random(linear.direction, linear.bias)
    # Logits of about -0.6: a draw of 8 (u - 0.5) makes 0.42 of the answers right again.
    file = as_safetensors(tmp_path, moved(linear, grays, by=18))
    first, second = (judged(random, grays, file, draws=200) for _ in range(2))
    assert first.drawn
    assert second.drawn
    assert first.about.seed != second.about.seed
    assert 0 <= first.about.seed < 2**48
    assert (first.success != second.success).any()
    again = judged(random, grays, file, draws=200, seed=first.about.seed)
    assert not again.drawn
    np.testing.assert_array_equal(again.rows, first.rows)
    assert f"seed, drawn      {first.about.seed}" in str(first)


def test_a_file_is_judged_anew_in_its_folder(
    linear: Linear, grays: Dataset, tmp_path: Path
) -> None:
    random, out = Random(linear.direction, linear.bias), tmp_path / "v"
    file = as_safetensors(tmp_path, moved(linear, grays))
    seeds = {judged(random, grays, file, out=out).about.seed for _ in range(2)}
    assert len(seeds) == 2
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert names == {"adversarial.safetensors", "examples.svg", "verdict.html", "verdict.json"}
    record = VerdictRecord.read(out / "verdict.json")
    assert record.drawn
    assert record.isolation == "images"
    assert record.seed in seeds
    as_safetensors(tmp_path, moved(linear, grays, by=20))
    with pytest.raises(RunError, match=r"holds the finished verdict on a\.safetensors"):
        judged(random, grays, file, out=out)
    assert judged(random, grays, file, out=out, force=True).drawn


def test_weights_that_change_meanwhile_leave_no_verdict(
    digits_baseline: Defense, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from sparring.evaluation.judge import Judge

    assert digits_baseline.path is not None
    run = shutil.copytree(digits_baseline.path, tmp_path / "baseline")
    file = tmp_path / "a.safetensors"
    data = sparring.load_data("digits")
    save_file({"x": data.x_test[:4].astype(np.float32) / 255}, file)
    assert sparring.judge(run, file, n=4).success_rate.value == 0
    judge_them = Judge.judge_submitted

    def changing(*given: Any) -> Any:
        from sparring.runs.files import read_tensors, write_tensors

        arrays, about, _ = read_tensors(run / "weights.safetensors")
        write_tensors(run / "weights.safetensors", {k: v * 2 for k, v in arrays.items()}, about)
        return judge_them(*given)

    monkeypatch.setattr(Judge, "judge_submitted", changing)
    with pytest.raises(RunError, match="expected the weights that were judged"):
        sparring.judge(run, file, n=4, out=tmp_path / "v")
    assert [path.name for path in (tmp_path / "v").iterdir()] == [".lock"]


# Rounding to what a PNG holds


def test_rounding_is_judged_too(linear: Linear, grays: Dataset, tmp_path: Path) -> None:
    # Moved by 16.4 levels the logit is 4 - 64 * 16.4 / 255 = -0.12, by 16 it is -0.016, and by
    # 15.6 it is 0.08: rounded to 16 the third is broken, and by then it is the only one to be new.
    images = grays.x_test.astype(np.float32) / 255
    by = np.array([16.4, 16.0, 15.6, 16.6, 15.0, 26.9, 0])[:, None, None, None]
    images = (images - by * linear.direction / 255).astype(np.float32)
    file = as_safetensors(tmp_path, images)
    verdict = judged(linear, grays, file, eight_bit=True)
    assert verdict.success.tolist() == [1, 1, 0, 1, 0, 1]
    assert verdict.eight_bit is not None
    assert verdict.eight_bit.tolist() == [1, 1, 0, 1, 0, 1]
    assert f"as 8-bit PNG     {verdict.eight_bit_rate}" in str(verdict)
    # 16.6 rounds to 17, which is too far: what is left is 16.
    verdict = judged(linear, grays, file, eight_bit=True, threat=Linf(16.7 / 255))
    assert verdict.eight_bit is not None
    assert verdict.success.tolist() == [1, 1, 0, 1, 0, 0]
    assert verdict.eight_bit.tolist() == [1, 1, 0, 1, 0, 0]
    # 64 values moved by 16.6 levels: length 8 * 16.6.
    verdict = judged(linear, grays, file, eight_bit=True, threat=L2(8 * 16.7 / 255))
    assert verdict.eight_bit is not None
    assert verdict.eight_bit.tolist() == [1, 1, 0, 1, 0, 0]


def test_what_rounding_undoes_is_not_broken(linear: Linear, grays: Dataset, tmp_path: Path) -> None:
    almost = Linear(linear.direction, linear.bias)
    almost.bias = -64 * 16.2 / 255  # broken by 16.3 levels, and not by 16
    images = grays.x_test.astype(np.float32) / 255 - np.float32(16.3 / 255) * linear.direction
    verdict = judged(almost, grays, as_safetensors(tmp_path, images), eight_bit=True)
    assert verdict.success.tolist() == [1] * 6
    assert verdict.eight_bit is not None
    assert verdict.eight_bit.tolist() == [0] * 6


def test_pictures_know_what_was_not_asked_for() -> None:
    pictures = Pictures(FLOAT, np.array([4, 8]), {2: "x", 9: "y"})
    assert pictures.extra(np.arange(5)) == [8, 9]
    images, reasons = pictures.aligned(np.array([2, 4]))
    assert images.shape == (2, 8, 8, 1)
    assert reasons.tolist() == ["x", ""]

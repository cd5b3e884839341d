"""The course's checkpoints, real ones and ones written here in the same form."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops
from typer.testing import CliRunner

import sparring
from sparring import backend
from sparring.cli import app
from sparring.conversion import convert, selfstudy
from sparring.conversion.tracing import changed_hooks
from sparring.data import Dataset, DatasetInfo
from sparring.defenses import DEFENSES, get
from sparring.defenses.defense import Defense
from sparring.errors import ConversionError
from sparring.networks.allconv import AllConv

tf = pytest.importorskip("tensorflow")

REAL = Path(__file__).parent / "fixtures" / "selfstudy"


@pytest.mark.parametrize(
    ("folder", "dataset"), [("baseline", "cifar10"), ("binary_class_0", "selfstudy")]
)
def test_real_checkpoints_answer_as_the_course_s_program(
    tmp_path: Path, folder: str, dataset: str
) -> None:
    [line] = selfstudy.convert(REAL / folder, tmp_path, name="baseline")
    assert "unfinished" not in line
    defense = sparring.load(tmp_path / dataset / "baseline")
    expected = np.load(REAL / folder / "expected.npz", allow_pickle=False)
    logits = ops.convert_to_numpy(defense.logits(ops.convert_to_tensor(expected["x"])))
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-5)
    np.testing.assert_allclose(
        defense.classify(expected["x"]), expected["probabilities"], atol=1e-5
    )
    assert defense.settings.head_size == 3


class Layer(tf.Module):  # type: ignore[name-defined]
    """A convolution, or with no shape a pooling."""

    def __init__(self, random: np.random.Generator, *shape: int) -> None:
        super().__init__()
        if shape:
            self.kernel = tf.Variable(random.normal(size=shape).astype(np.float32))
            self.bias = tf.Variable(random.normal(size=shape[-1]).astype(np.float32))


class Model(tf.Module):  # type: ignore[name-defined]
    """The course's network of two scales, for 16x16 images."""

    def __init__(self, seed: int, filters: int = 6, channels: int = 3, outputs: int = 10) -> None:
        super().__init__()
        random = np.random.default_rng(seed)
        widths = [channels, filters, 2 * filters, 2 * filters, 4 * filters]
        convs = [Layer(random, 3, 3, a, b) for a, b in pairwise(widths)]
        head = Layer(random, 3, 3, widths[-1], outputs)
        self.layers = [*convs[:2], Layer(random), *convs[2:], Layer(random), head]


def write(folder: Path, model: Model, **more: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tf.train.Checkpoint(model=model, **more).write(str(folder / "final_checkpoint-1"))


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A checkpoints folder with all twelve models."""
    root = tmp_path / "checkpoints"
    random = np.random.default_rng(0)
    for name, folders in selfstudy.course_folders().items():
        for number, folder in enumerate(folders):
            options = {
                "mergebinary": {"outputs": 2, "filters": 2},
                "majority": {"filters": 4},
                "discretize": {"channels": 60},
                "knn": {"outputs": 128},
            }.get(name, {})
            write(root / folder, Model(number, **options))
    write(root / "diverse", Model(0))  # of an early version of the course
    np.save(root / "injection" / "backdoor.npy", random.integers(0, 2, (10, 16, 16, 3)))
    np.save(root / "injection" / "signature.npy", random.normal(size=(10, 24)))
    np.save(root / "contrastive" / "feat.npy", random.normal(size=(40, 128)))
    np.save(root / "contrastive" / "labs.npy", random.integers(0, 10, (40, 1)))
    return root


def test_a_whole_folder_becomes_runs_like_our_own(course: Path, tmp_path: Path) -> None:
    answer = CliRunner().invoke(
        app, ["convert", str(course), "--from", "selfstudy", "-o", str(tmp_path / "runs")]
    )
    assert answer.exit_code == 0, answer.output
    *lines, last = answer.output.splitlines()
    assert len(lines) == len(selfstudy.course_folders())
    assert last == f"Passed over {course / 'diverse'}, which no defense has"
    images = np.random.default_rng(1).random((3, 16, 16, 3), dtype=np.float32)
    for name, folders in selfstudy.course_folders().items():
        defense = sparring.load(tmp_path / "runs" / "selfstudy" / name)
        assert len(defense.nets) == len(folders)
        probabilities = defense.classify(images)
        assert probabilities.shape == (3, 10)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
        assert np.isfinite(defense.detect(images)).all()
        for number, net in enumerate(defense.nets):
            reader = tf.train.load_checkpoint(str(course / folders[number] / "final_checkpoint-1"))
            kernel = reader.get_tensor("model/layers/3/kernel/.ATTRIBUTES/VARIABLE_VALUE")
            np.testing.assert_array_equal(ops.convert_to_numpy(net.scales[1][0][0]), kernel)
    knn = sparring.load(tmp_path / "runs" / "selfstudy" / "knn")
    np.testing.assert_allclose(np.linalg.norm(knn.arrays["0/embeddings"], axis=1), 1, rtol=1e-5)


def test_of_an_unfinished_training_the_averages_are_taken(tmp_path: Path) -> None:
    folder = tmp_path / "baseline"
    folder.mkdir()
    raw, averaged = Model(0), Model(1)
    optimizer = tf.Module()
    optimizer.momentum = tf.Variable(np.zeros(3, np.float32))
    for number in (9, 10):
        checkpoint = tf.train.Checkpoint(model=raw, ema_model=averaged, opt=optimizer)
        checkpoint.write(str(folder / f"checkpoint-{number}"))
    [line] = selfstudy.convert(folder, tmp_path / "runs")
    assert line.endswith("checkpoint-10, unfinished: its EMA weights")
    defense = sparring.load(tmp_path / "runs" / "selfstudy" / "baseline")
    found = ops.convert_to_numpy(defense.nets[0].scales[0][0][0])
    np.testing.assert_array_equal(found, averaged.layers[0].kernel.numpy())
    assert defense.path is not None
    assert json.loads((defense.path / "run.json").read_text())["unfinished"] is True


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A run of our own on color images of 16x16 pixels, as the course could have trained it."""
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (24, 16, 16, 3)).astype(np.uint8)
    y = np.arange(24, dtype=np.int32) % 10
    dataset = Dataset("noise", x, y, x[:12], y[:12], tuple("abcdefghij"))
    out = tmp_path_factory.mktemp("own")

    def trained(name: str, **settings: Any) -> Path:
        settings = {"head_size": 3, "filters": 6, "epochs": 1, "batch_size": 12, **settings}
        if (lender := get(name).borrows) is not None:
            trained(lender)
            settings = {}
        path = sparring.train(name, dataset, out=out, force=True, **settings).path
        assert path is not None
        return path

    return trained


# Compiling each takes seconds elsewhere; these have all that is written beside networks.
FEW = ["baseline", "majority", "injection", "knn"]


@pytest.mark.backend
@pytest.mark.parametrize("name", DEFENSES if backend.name == "torch" else FEW)
def test_written_and_read_back_it_is_the_same(
    own: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    defense = sparring.load(own(name))
    assert defense.path is not None
    if defense.course_files is None and changed_hooks(defense.nets[0]):
        with pytest.raises(ConversionError, match=f"does not know {name}, whose network changes"):
            convert.convert(defense.path, "selfstudy", tmp_path / "checkpoints")
        return
    proof = convert.convert(defense.path, "selfstudy", tmp_path / "checkpoints")
    # The very weights, in the same framework: not even rounding differs.
    assert {each["largest_difference"] for each in proof["networks"].values()} == {0.0}

    # The course's way of reading them: an object of the same structure is restored.
    folders = selfstudy.course_folders()
    place = tmp_path / "checkpoints" / folders.get(defense.borrows or name, (name,))[0]
    shapes = [tuple(kernel.shape) for kernel in defense.nets[0].kernels]
    model = Model(0, shapes[0][3], shapes[0][2], shapes[-1][3])
    status = tf.train.Checkpoint(model=model).restore(str(place / "final_checkpoint-1"))
    status.assert_consumed()
    kernel = ops.convert_to_numpy(defense.nets[0].kernels[3])
    np.testing.assert_array_equal(model.layers[4].kernel.numpy(), kernel)

    # Our own way: the course's folder becomes runs.
    known = None if name in folders else "baseline"
    where = tmp_path / "checkpoints" if known is None else place
    selfstudy.convert(where, tmp_path / "runs", name=known)
    again = sparring.load(tmp_path / "runs" / "selfstudy" / (known or name))
    images = np.random.default_rng(1).random((5, 16, 16, 3), dtype=np.float32)
    if known is None:
        np.testing.assert_allclose(again.classify(images), defense.classify(images), atol=1e-6)
        np.testing.assert_array_equal(again.detect(images), defense.detect(images))
    else:
        for mine, theirs in zip(defense.nets[0].kernels, again.nets[0].kernels, strict=True):
            np.testing.assert_array_equal(ops.convert_to_numpy(mine), ops.convert_to_numpy(theirs))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("baseline", {"head_size": 1}, "have a 3x3 head, baseline here one of 1x1"),
        ("injection", {"strength": 0.5}, "patterns at strength 0.02, this run at 0.5"),
    ],
)
def test_what_the_course_could_not_serve_is_not_written(
    own: Callable[..., Path], tmp_path: Path, name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConversionError, match=message):
        convert.convert(own(name, **settings), "selfstudy", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_network_the_course_does_not_know_is_not_written(own: Callable[..., Path]) -> None:
    class Halved(AllConv):
        def transform(self, x: Any) -> Any:
            return x / 2

    class Other(Defense):
        name = "other"

    baseline = sparring.load(own("baseline"))
    net = Halved(baseline.info.shape, 10, filters=6, head_size=3)
    selfstudy._expect_as_the_course_s(Other(baseline.info, baseline.settings, baseline.nets))
    with pytest.raises(ConversionError, match="other, whose network changes transform: it would"):
        selfstudy._expect_as_the_course_s(Other(baseline.info, baseline.settings, [net]))


def test_images_the_course_does_not_know_are_not_written(tmp_path: Path) -> None:
    x = np.zeros((24, 16, 12, 3), np.uint8)
    y = np.arange(24, dtype=np.int32) % 2
    dataset = Dataset("bars", x, y, x, y, ("a", "b"))
    run = sparring.train("baseline", dataset, out=tmp_path, head_size=3, filters=2, epochs=1).path
    assert run is not None
    with pytest.raises(ConversionError, match="square with a power of two as side, these 16x12"):
        convert.convert(run, "selfstudy")


def _change(layer: int, part: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        model = Model(0)
        old = getattr(model.layers[layer], part)
        setattr(model.layers[layer], part, tf.Variable(value(old.numpy())))
        write(folder, model)

    return change


def _with(**more: Any) -> Callable[[Path], None]:
    return lambda folder: write(folder, Model(0), **more)


def _without(part: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        model = Model(0)
        delattr(model.layers[1], part)
        write(folder, model)

    return change


def _file(change: Callable[[Path], Any], ending: str) -> Callable[[Path], None]:
    return lambda folder: change(folder / f"final_checkpoint-1.{ending}")


SHARD = "data-00000-of-00001"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_change(0, "kernel", lambda k: np.where(k > 1, np.nan, k)), "finite float32 kernel"),
        (_change(3, "bias", lambda b: b.astype(np.float64)), "finite float32 bias, found float64"),
        (
            _change(1, "kernel", lambda k: k[:, :, :, :3]),
            r"layer 1: expected kernel \[3, 3, 6, 12\]",
        ),
        (_change(6, "kernel", lambda k: k[:2, :2]), "layer 6: expected kernel"),
        (_with(extra=tf.Variable(1.0)), "unexpected tensor extra"),
        (_without("bias"), "layer 1 has no bias"),
        (_file(lambda file: file.write_bytes(file.read_bytes()[:40]), "index"), "not a readable"),
        (_file(Path.unlink, SHARD), r"cannot be read|not a readable"),
        (_file(lambda file: file.write_bytes(file.read_bytes()[:99]), SHARD), "cannot be read"),
        (_file(Path.unlink, "index"), "expected final_checkpoint-1.index or checkpoint-N.index"),
    ],
)
def test_damaged_checkpoints_are_refused_and_nothing_is_written(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    write(tmp_path / "baseline", Model(0))
    damage(tmp_path / "baseline")
    with pytest.raises(ConversionError, match=message):
        selfstudy.convert(tmp_path / "baseline", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_other_wrong_use(course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(ConversionError, match="no such checkpoint or folder"):
        selfstudy.convert(tmp_path / "none", runs)
    with pytest.raises(ConversionError, match="cannot tell which defense this is"):
        selfstudy.convert(course / "diverse-0", runs)
    shutil.rmtree(course / "diverse-1")
    with pytest.raises(ConversionError, match="majority needs 3 networks; missing"):
        selfstudy.convert(course, runs)
    (course / "injection" / "signature.npy").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(ConversionError, match=r"signature.npy: cannot be read"):
        selfstudy.convert(course / "injection", runs)
    assert not runs.exists()
    selfstudy.convert(course / "baseline", runs)
    with pytest.raises(ConversionError, match="holds a run already"):
        selfstudy.convert(course / "baseline", runs)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ConversionError, match="need TensorFlow: pip install"):
        selfstudy.convert(course / "blur", runs)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["x"], 2, "expected either --to TARGET or --from selfstudy"),
        (["x", "--from", "course"], 1, "unknown source 'course'. Valid: selfstudy."),
        (["x", "--from", "selfstudy"], 1, "x: no such checkpoint or folder"),
        (["x", "--to", "torch"], 1, "x: no such run directory"),
    ],
)
def test_on_the_command_line(arguments: list[str], code: int, message: str) -> None:
    answer = CliRunner().invoke(app, ["convert", *arguments])
    assert answer.exit_code == code
    assert message in answer.output


# Damaged and hostile files beside the checkpoints


def _npy(array: Any) -> bytes:
    written = io.BytesIO()
    np.save(written, array, allow_pickle=True)
    return written.getvalue()


def _header(text: str, version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text.encode("latin1")


def _shaped(shape: str, dtype: str = "<f4") -> bytes:
    about = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n"
    return _header(about) + bytes(64)


def _npz() -> bytes:
    written = io.BytesIO()
    np.savez(written, a=np.zeros(3))
    return written.getvalue()


UNREADABLE: dict[str, bytes] = {
    "empty": b"",
    "an archive": _npz(),
    "half an archive": b"PK\x03\x04",
    "a pickle": pickle.dumps(np.zeros(3)),
    "objects": _npy(np.array([{}, "a"], dtype=object)),
    "no header": b"\x93NUMPY",
    "another version": _header("{}", b"\x09\x00"),
    "an unfinished header": _header("{'descr': '<f4', 'shape': (3,"),
    "a header of other keys": _header("{'a': 1}\n"),
    "a header that is no literal": _header("__import__('os').getcwd()\n"),
    "a deep header": _header("(" * 9000),
    "a type that is none": _shaped("(40, 128)", "<q9"),
    "a shape of text": _shaped("'40'"),
    "a shape of 10^12": _shaped("(10**12,)".replace("10**12", str(10**12))),
    "a shape beyond integers": _shaped(f"({2**70}, 128)"),
    "a negative shape": _shaped("(-1, 128)"),
    "nothing": _npy(np.zeros((0, 128))),
    "truncated": _npy(np.zeros((40, 128)))[:-8],
    "more than it says": _npy(np.zeros((40, 128))) + bytes(8),
}
WRONG: dict[str, Any] = {
    "text": np.full((40, 1), "a"),
    "bytes": np.full((40, 1), b"a"),
    "records": np.zeros((40, 1), [("a", "<i4")]),
    "void": np.zeros((40, 1), "V4"),
    "truths": np.zeros((40, 1), bool),
    "complex numbers": np.zeros((40, 1), complex),
    "dates": np.zeros((40, 1), "datetime64[s]"),
    "spans": np.zeros((40, 1), "timedelta64[s]"),
}
LABELS: dict[str, Any] = {
    "a fraction": np.full((40, 1), 1.5),
    "below": np.full((40, 1), -1),
    "above": np.full((40, 1), 10),
    "far above": np.full((40, 1), 787700760),
    "beyond int32": np.full((40, 1), 2**32),
    "beyond int64": np.full((40, 1), 2**64 - 1, np.uint64),
    "two a row": np.zeros((20, 2), int),
    "a column more": np.zeros((40, 1, 1), int),
    "too few": np.zeros((39, 1), int),
}
EMBEDDINGS: dict[str, Any] = {
    "NaN": np.full((40, 128), np.nan),
    "infinity": np.full((40, 128), np.inf),
    "beyond float32": np.full((40, 128), 1e300),
    "other sizes": np.zeros((40, 127)),
}


@pytest.fixture
def contrastive(tmp_path: Path) -> Path:
    """The course's folder of embeddings and labels, its network not looked at."""
    random = np.random.default_rng(0)
    np.save(tmp_path / "feat.npy", random.normal(size=(40, 128)))
    np.save(tmp_path / "labs.npy", random.integers(0, 10, (40, 1)))
    return tmp_path


def beside(folder: Path) -> dict[str, np.ndarray]:
    """What is read from beside knn's checkpoint."""
    classes = tuple(map(str, range(10)))
    info = DatasetInfo("noise", (16, 16, 3), classes, False, 1, 1, "")
    return selfstudy._beside(selfstudy._files(get("knn")), folder, info, 24)


def test_damaged_arrays_are_refused_by_name(contrastive: Path) -> None:
    whole = {name: (contrastive / name).read_bytes() for name in ("feat.npy", "labs.npy")}
    for file in whole:
        wrong = WRONG | (LABELS if file == "labs.npy" else EMBEDDINGS)
        damaged = UNREADABLE | {kind: _npy(array) for kind, array in wrong.items()}
        for kind, data in damaged.items():
            (contrastive / file).write_bytes(data)
            with pytest.raises(
                ConversionError, match=rf"{file}: (cannot be read|expected)"
            ) as told:
                beside(contrastive)
            assert len(str(told.value)) < 800, kind
        (contrastive / file).write_bytes(whole[file])
        (contrastive / file).unlink()
        (contrastive / file).mkdir()
        with pytest.raises(ConversionError, match=f"{file}: cannot be read: no such file"):
            beside(contrastive)
        (contrastive / file).rmdir()
        (contrastive / file).write_bytes(whole[file])
    for kind in ("u1", "<i8", ">i4", "<u8"):  # whole numbers of any width are labels
        np.save(contrastive / "labs.npy", np.arange(40, dtype=kind)[:, None] % 10)
        np.testing.assert_array_equal(beside(contrastive)["0/labels"], np.arange(40) % 10)


def test_a_checkpoint_s_number_is_made_of_digits(tmp_path: Path) -> None:
    raw = Model(0)
    for name in ("checkpoint-7", "checkpoint-²", "checkpoint-٣", "checkpoint--1"):
        folder = tmp_path / "baseline"
        folder.mkdir(exist_ok=True)
        tf.train.Checkpoint(model=raw).write(str(folder / name))
    assert selfstudy._prefix(tmp_path / "baseline").name == "checkpoint-7"


def test_a_damaged_index_is_refused_or_harmless(tmp_path: Path) -> None:
    folder = tmp_path / "baseline"
    write(folder, Model(0, filters=2))
    random = np.random.default_rng(0)
    index = folder / "final_checkpoint-1.index"
    data = folder / f"final_checkpoint-1.{SHARD}"
    kernel, messages = selfstudy._read(folder).convs[0][0], []
    for file, times in ((index, 150), (data, 20)):
        whole = file.read_bytes()
        for size in (1, 20):
            for _ in range(times):
                changed = bytearray(whole)
                for place in random.integers(0, len(whole), size):
                    changed[place] = random.integers(256)
                file.write_bytes(changed)
                try:
                    read = selfstudy._read(folder)
                except ConversionError as error:
                    messages.append(str(error))
                else:
                    np.testing.assert_array_equal(read.convs[0][0], kernel)
        file.write_bytes(whole)
    assert messages
    assert [message for message in messages if str(folder) not in message] == []
    index.unlink()
    index.mkdir()
    with pytest.raises(ConversionError, match="not a readable checkpoint"):
        selfstudy._read(folder)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([([], [])] * 3, "layer 0: expected kernel"),
        (
            [([3, 3, 3, 0], [0]), ([3, 3, 0, 0], [0]), ([3, 3, 0, 10], [10])],
            "layer 0: expected ker",
        ),
        (
            [([3, 3, 0, 2], [2]), ([3, 3, 2, 4], [4]), ([3, 3, 4, 10], [10])],
            "layer 0: expected ker",
        ),
        ([([3, 3, 3, 2], [2]), ([3, 3, 2, 4], [4]), ([3, 3, 4, 0], [0])], "layer 3: expected ker"),
        ([([3], [2]), ([3, 3, 2, 4], [4]), ([3, 3, 4, 10], [10])], "layer 0: expected kernel"),
    ],
)
def test_shapes_that_lie_are_refused(shapes: Any, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        selfstudy._check("x", [(n, *each) for n, each in zip((0, 1, 3), shapes, strict=True)])


def test_networks_of_other_sizes_than_the_first_are_refused(course: Path, tmp_path: Path) -> None:
    small = Model(1, filters=4)
    small.layers = [*small.layers[:3], Layer(np.random.default_rng(0), 3, 3, 8, 10)]
    write(course / "diverse-1", small)
    with pytest.raises(
        ConversionError, match=r"diverse-1.*: expected kernels .* for majority, foun"
    ):
        selfstudy.convert(course, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()

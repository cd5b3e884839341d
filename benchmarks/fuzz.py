"""Give every reader of Sparring damaged and hostile files.

    KERAS_BACKEND=torch python -m benchmarks.fuzz --minutes 10 [--only run.json data.npz] [--seed 0]

Each reader first gets an honest file, and then changed ones without end: bits flipped, parts cut
out, doubled or put in, numbers and texts replaced by odd ones; in JSON any value by another; in
files that carry a hash, arrays and values changed and the hash made anew. Each time there has to be
a right answer or an error that the reader's documentation names, within 10 seconds and 2 GB. What
breaks this is printed, with a file to repeat it, and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import sparring
from sparring import attacks
from sparring import data as datasets
from sparring.cli import app
from sparring.conversion import selfstudy, torch_model
from sparring.conversion.convert import convert
from sparring.data import Dataset, cifar10
from sparring.data.reading import read_idx
from sparring.errors import SparringError
from sparring.runs.directory import Run
from sparring.runs.files import read_tensors, write_tensors
from sparring.threat import threat_model
from sparring.training.callbacks import Silent

SECONDS, MEMORY = 10, 2 << 30
_Read = Callable[[Path], Any]


class FaultError(Exception):
    """A reader did what it must not."""


class Content(bytes):
    """What a file holds, shown short."""

    def __repr__(self) -> str:
        """Show the beginning, and how long it is."""
        return f"{bytes(self[:2000])!r} ({len(self)} bytes)"


# What is put in place of what

NUMBERS = [
    *(0, -1, 1, 255, 256, 2**31, 2**32 - 1, 2**63, -(2**63) - 1, 10**12, 10**30),
    *(0.5, -0.0, 1e-320, 1e308, float("inf"), float("-inf"), float("nan")),
]
TEXTS = ["", " ", "x", "\0", "../../x", "/", "..", "a" * 5000, "1e99999999", "0x1F", "²", "\ud800"]
VALUES: list[Any] = [
    *(None, True, False, [], {}, [[]], [None], {"": None}, {"a": {"b": [1]}}),
    *NUMBERS,
    *TEXTS,
]
DEEP = [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 3000 + b"]" * 3000]
BYTES = [str(number).encode() for number in NUMBERS] + [
    *(text.encode(errors="surrogatepass") for text in TEXTS),
    *(b"\xff" * 8, b"\x00" * 8, b"\n", b"'", b'"', b"{", b"}", b"[", b"]", b":", b"\xef\xbb\xbf"),
    *DEEP,
]


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw what a few random changes make of some bytes."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 1, 2, 4, 8, 64, 1000])))
        kind = draw(st.sampled_from(["bit", "cut", "rest", "double", "put"]))
        part = data[start:end]
        if kind == "bit" and part:
            flipped = bytes([part[0] ^ (1 << draw(st.integers(0, 7)))])
            data = data[:start] + flipped + data[start + 1 :]
        elif kind == "cut":
            data = data[:start] + data[end:]
        elif kind == "rest":
            data = data[:start]
        elif kind == "double":
            data = data[:end] + part + data[end:]
        else:
            data = data[:start] + draw(st.sampled_from(BYTES)) + data[end:]
    return data


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """Draw a JSON value in which a few parts are replaced, dropped or added."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        if not places:
            return copy.deepcopy(draw(st.sampled_from(VALUES)))
        container, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["replace", "replace", "replace", "drop", "add"]))
        if kind == "drop":
            del container[key]
        elif kind == "add" and isinstance(container, dict):
            container[draw(st.sampled_from(TEXTS))] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        else:
            container[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key within a JSON value."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def changed_json(data: bytes) -> st.SearchStrategy[bytes]:
    """Draw a JSON file whose values or bytes are changed."""
    values = changed(json.loads(data)).map(lambda value: json.dumps(value).encode())
    return st.one_of(values, values, damaged(data))


def changed_lines(data: bytes) -> st.SearchStrategy[bytes]:
    """Draw a file of JSON lines whose values or bytes are changed."""
    lines = [json.loads(line) for line in data.splitlines()]

    def as_lines(value: Any) -> bytes:
        parts = value if isinstance(value, list) else [value]
        return b"".join(json.dumps(part).encode() + b"\n" for part in parts)

    return st.one_of(changed(lines).map(as_lines), damaged(data))


@st.composite
def changed_tensors(draw: st.DrawFn, data: bytes, folder: Path) -> bytes:
    """Draw a safetensors file of ours with another content and the right hash."""
    if draw(st.integers(0, 3)) == 0:
        return draw(damaged(data))
    file = folder / "changed.safetensors"
    file.write_bytes(data)
    arrays, about, _ = read_tensors(file)
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(arrays) or ["none"]))
        arrays[draw(st.sampled_from([name, "x", f"{name}/x"]))] = draw(odd_array())
        if draw(st.booleans()):
            arrays.pop(name, None)
    if draw(st.booleans()):
        about = draw(changed(about))
    try:
        write_tensors(file, arrays, about)
    except (SparringError, ValueError, TypeError, KeyError, UnicodeEncodeError):
        return draw(damaged(data))  # it cannot be written
    return file.read_bytes()


@st.composite
def changed_network(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw a converted network with another header and no hash or the right one."""
    if draw(st.integers(0, 3)) == 0:
        return draw(damaged(data))
    size = int.from_bytes(data[:8], "little")
    header, numbers = json.loads(data[8 : 8 + size]), data[8 + size :]
    options = json.loads(header.pop("__metadata__")["network"])
    del options["sha256"]
    both = draw(changed({"options": options, "header": header}))
    options, header = both.get("options"), both.get("header")
    if isinstance(options, dict) and draw(st.booleans()):
        options["sha256"] = torch_model.fingerprint(options, header, numbers)
    if isinstance(header, dict):
        header["__metadata__"] = {"network": json.dumps(options)}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + numbers


@st.composite
def changed_gzip(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw a gzip file whose bytes, or those that it holds, are changed."""
    if draw(st.booleans()):
        return draw(damaged(data))
    return gzip.compress(draw(damaged(gzip.decompress(data))), 1)


@st.composite
def odd_array(draw: st.DrawFn) -> np.ndarray:
    """Draw a small array of an odd shape, type and content."""
    shape = draw(st.sampled_from([(), (0,), (1,), (3,), (4, 0), (2, 3), (2, 8, 8, 1), (1,) * 9]))
    kind = draw(st.sampled_from(["f4", "f8", "f2", "i4", "i8", "u1", "b1"]))
    array = np.full(shape, draw(st.sampled_from([0, 1, 3])), kind)
    if array.size and kind in ("i8", "f8"):
        array.flat[0] = draw(st.sampled_from([-1, 10, 3_000_000_000, 2**40]))
    return array


@st.composite
def changed_npy(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw a .npy file of an odd array, with an odd header or damaged bytes."""
    kind = draw(st.sampled_from(["array", "header", "bytes"]))
    if kind == "array":
        buffer = io.BytesIO()
        np.save(buffer, draw(odd_array()))
        return buffer.getvalue()
    return draw(odd_header() if kind == "header" else damaged(data))


@st.composite
def changed_npz(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw a .npz file with odd arrays, damaged members or damaged bytes."""
    if draw(st.booleans()):
        return draw(damaged(data))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(members)))
        kind = draw(st.sampled_from(["array", "array", "array", "drop", "other"]))
        if kind == "array":
            members[name] = draw(changed_npy(members[name]))
        elif kind == "drop":
            members.pop(name)
        else:
            members[draw(st.sampled_from(["x", "x.npy", "../x.npy", name.upper()]))] = members[name]
        if not members:
            break
    buffer = io.BytesIO()
    how = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]))
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@st.composite
def odd_header(draw: st.DrawFn) -> bytes:
    """Draw a .npy file whose header says odd things."""
    shapes = ["(10000000000000,)", "(2, -1)", "()", "(2,)", "(True,)", "(2**64,)", "(1.5,)", "[3]"]
    types = ["|O", "<f4", "<U9999999999", "|V0", "<M8[ns]", "x", "|u1", "<c16", ">i2", "|S0"]
    text = f"{{'descr': {draw(st.sampled_from(types))!r}, 'fortran_order': "
    text += f"{draw(st.sampled_from(['False', 'True', '0', 'None', '1e9']))}, 'shape': "
    text += f"{draw(st.sampled_from(shapes))}, }}"
    text = draw(st.sampled_from([text, text, text, "{", "(" * 5000, "{'descr': '<f4'}"]))
    version = draw(st.sampled_from([b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x09\x00"]))
    size = len(text).to_bytes(4 if version[0] > 1 else 2, "little")
    return b"\x93NUMPY" + version + size + text.encode() + b"\0" * draw(st.sampled_from([0, 8, 99]))


# The readers

WITH_TENSORFLOW = ("a course's index", "a course's weights", "a course's .npy")
"""Readers that need TensorFlow."""

NAMES = (
    *("run.json", "run.json, reported", "weights.safetensors", "a run of one hand"),
    *("state", "metrics.jsonl", "metrics.jsonl, reported", "diverged.json"),
    *("state, resumed", "metrics.jsonl, resumed", "run.json, resumed", "diverged.json, resumed"),
    *("finished.safetensors", "verdict.json", "verdict, resumed", "adversarial.safetensors"),
    *("data.npz", "IDX", "IDX in gzip", "CIFAR-10", "CIFAR-10 archive", "an attack's file"),
    *("config.yaml", "a setting", "an attack's option", "eps", "seeds", "images"),
    *("a converted network", "a converted program"),
    *(WITH_TENSORFLOW if find_spec("tensorflow") else ()),
)


@dataclass(frozen=True)
class Reader:
    """One way in: an honest file, how it is changed, and what reads it."""

    file: Path
    change: Callable[[bytes], st.SearchStrategy[bytes]]
    read: _Read
    errors: tuple[type[BaseException], ...] = (SparringError, OSError)

    def check(self, content: bytes) -> None:
        """Read a changed file; FaultError says what went wrong."""
        honest = self.file.read_bytes()
        self.file.write_bytes(content)
        begun = time.monotonic()
        try:
            with limited():
                self.read(self.file)
        except self.errors as error:
            if len(str(error)) > 20_000:
                raise FaultError(f"a message of {len(str(error))} letters") from error
        except FaultError:
            raise
        except BaseException as error:  # SystemExit too
            raise FaultError("".join(traceback.format_exception(error)[-6:])) from error
        finally:
            self.file.write_bytes(honest)
        if (seconds := time.monotonic() - begun) > SECONDS:
            raise FaultError(f"took {seconds:.0f} seconds")


@contextmanager
def limited() -> Iterator[None]:
    """Bound the memory that the process may take in a block, where the system can."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    except (ImportError, OSError):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def command(*words: str) -> _Read:
    """A reader that is a command line; the file's path is put in place of FILE."""

    def read(file: Path) -> None:
        arguments = [str(file) if word == "FILE" else word for word in words]
        run(arguments)

    return read


def option_values(*words: str) -> _Read:
    """A reader that is a command line; the file's content is put in place of TEXT."""

    def read(file: Path) -> None:
        text = file.read_bytes().decode(errors="replace").replace("\0", "")
        run([word.replace("TEXT", text) for word in words])

    return read


def run(arguments: list[str]) -> None:
    """Run the command line in this process; FaultError for anything but an exit code."""
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code not in (0, 1, 2, 3):
        raise FaultError(f"exit code {result.exit_code}: {result.output[-500:]}")


def answers_as(honest: Any, x: np.ndarray) -> _Read:
    """A reader of a run: what loads at all has to answer as the honest run."""
    expected = honest.classify(x), honest.detect(x), honest.threshold

    def read(file: Path) -> None:
        loaded = sparring.load(file.parent)
        found = loaded.classify(x), loaded.detect(x), loaded.threshold
        pairs: Iterator[Any] = zip(expected, found, strict=True)
        if not all(np.array_equal(before, now) for before, now in pairs):
            raise FaultError("a changed run loads, and answers otherwise")

    return read


def readers(folder: Path) -> dict[str, Reader]:
    """Train a run on a few images, convert and attack it; give the readers of its files by name."""
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (24, 8, 8, 1), dtype=np.uint8)
    y = np.arange(24, dtype=np.int32) % 4
    tiny = Dataset("tiny", x, y, x[:12], y[:12], tuple("abcd"), mirror=False)
    np.savez(folder / "tiny.npz", x_train=x, y_train=y, x_test=x[:12], y_test=y[:12])
    own = {
        **_of_a_run(folder, tiny),
        **_of_a_training(folder, tiny),
        **_of_data(folder, x),
        **_of_words(folder),
    }
    return own | (_of_a_course(folder) if find_spec("tensorflow") else {})


SMALL: dict[str, Any] = {"epochs": 2, "filters": 2, "batch_size": 16, "preset": "course"}


def _of_a_run(folder: Path, tiny: Dataset) -> dict[str, Reader]:
    """Readers of a finished run, of a verdict on it and of what it was converted to."""
    out = folder / "runs"
    jump = sparring.train("jump", tiny, out=out, **SMALL)
    run = out / "tiny" / "jump"
    attack: dict[str, Any] = {"dataset": tiny, "n": 12}
    noise = ("noise", sparring.Linf(0.1))
    sparring.evaluate(jump, *noise, **attack, out=run / "attacks" / "one")
    convert(run, "torch", folder / "converted")
    verdict = run / "attacks" / "one" / "verdict.json"
    own, report = answers_as(jump, tiny.x_train), command("report", str(out))

    def tensors(data: bytes) -> st.SearchStrategy[bytes]:
        return changed_tensors(data, folder)

    def of_one_hand(file: Path) -> None:
        """Load a run whose run.json was changed so that it says what the weights say."""
        before = (run / "run.json").read_bytes()
        try:
            _, about, sha256 = read_tensors(file)
            record = json.loads(before) | about | {"weights_sha256": sha256}
            (run / "run.json").write_text(json.dumps(record))
            sparring.load(run).classify(tiny.x_test)
        finally:
            (run / "run.json").write_bytes(before)

    def resumed(_: Path) -> None:
        sparring.evaluate(jump, *noise, **attack, out=verdict.parent)

    def unfinished(file: Path) -> None:
        """Go on with an evaluation of which these images are there."""
        before = verdict.read_bytes()
        values = json.loads(before) | {"finished": False, "checked": False}
        try:
            verdict.write_text(json.dumps(values))
            resumed(file)
        finally:
            verdict.write_bytes(before)

    weights, converted = folder / "converted" / "network-0.safetensors", (ValueError, RuntimeError)

    def loaded(_: Path) -> None:
        torch_model.load(weights)

    [program] = sorted(weights.parent.glob("network-0.*.pt2"))
    return {
        "run.json": Reader(run / "run.json", changed_json, own),
        "run.json, reported": Reader(run / "run.json", changed_json, report),
        "weights.safetensors": Reader(run / "weights.safetensors", tensors, own),
        "a run of one hand": Reader(run / "weights.safetensors", tensors, of_one_hand),
        "metrics.jsonl, reported": Reader(run / "metrics.jsonl", changed_lines, report),
        "verdict.json": Reader(verdict, changed_json, report),
        "verdict, resumed": Reader(verdict, changed_json, resumed),
        "adversarial.safetensors": Reader(
            verdict.with_name("adversarial.safetensors"), tensors, unfinished
        ),
        "a converted network": Reader(weights, changed_network, loaded, converted),
        "a converted program": Reader(program, damaged, loaded, converted),
    }


def _of_a_training(folder: Path, tiny: Dataset) -> dict[str, Reader]:
    """Readers of what an unfinished training leaves, alone and when it goes on."""

    class Stopped(Exception):
        """The training is to end here."""

    class Stop(Silent):
        def epoch(self, *_: Any) -> None:
            raise Stopped

    options = {**SMALL, "out": folder / "begun"}
    with suppress(Stopped):
        sparring.train("baseline", tiny, progress=Stop(), **options)
    sparring.train_network("knn", 0, tiny, **options)
    run = Run(folder / "begun" / "tiny" / "baseline")
    state = run.checkpoints(0)
    state.diverged_file.write_text("[]")
    finished = Run(run.path.with_name("knn")).checkpoints(0).finished_file

    def tensors(data: bytes) -> st.SearchStrategy[bytes]:
        return changed_tensors(data, folder)

    def attempts(data: bytes) -> st.SearchStrategy[bytes]:
        one = [{"seed": 1, "network": 0, "epoch": 2, "step": 3}]
        return changed_json(json.dumps(one).encode())

    def resumed(file: Path) -> None:
        name = file.relative_to(options["out"] / "tiny").parts[0]
        with tempfile.TemporaryDirectory() as scratch:
            shutil.copytree(options["out"] / "tiny" / name, Path(scratch) / "tiny" / name)
            sparring.train(name, tiny, **{**options, "out": scratch})

    first = state.path / "epoch-000001.safetensors"
    return {
        "state": Reader(first, tensors, lambda _: state.load()),
        "metrics.jsonl": Reader(
            state.metrics_file, changed_lines, lambda _: (state.metrics(), state.trim_metrics(1))
        ),
        "diverged.json": Reader(state.diverged_file, attempts, lambda _: state.diverged()),
        "state, resumed": Reader(first, tensors, resumed),
        "metrics.jsonl, resumed": Reader(state.metrics_file, changed_lines, resumed, errors=()),
        "run.json, resumed": Reader(run.json_file, changed_json, resumed),
        "diverged.json, resumed": Reader(state.diverged_file, attempts, resumed),
        "finished.safetensors": Reader(finished, tensors, resumed),
    }


def _of_data(folder: Path, x: np.ndarray) -> dict[str, Reader]:
    """Readers of data sets; x is images [24, 8, 8, 1]."""
    (folder / "images").write_bytes(idx(x[..., 0]))
    (folder / "images.gz").write_bytes(gzip.compress(idx(x[..., 0])))
    bins = folder / "cifar"
    bins.mkdir()
    random = np.random.default_rng(0)
    for name in (*cifar10.TRAIN, cifar10.TEST):
        (bins / name).write_bytes(random.integers(0, 256, 3073, dtype=np.uint8).tobytes())
    archive = folder / cifar10.ARCHIVE
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(bins, "cifar-10-batches-bin")

    def images(file: Path) -> None:
        read_idx(file, (24, 8, 8))

    def members(file: Path) -> None:
        """Read an archive as if its hash were the right one."""
        with mock.patch.object(cifar10, "_expect_known"):
            list(cifar10._members(file))

    return {
        "data.npz": Reader(folder / "tiny.npz", changed_npz, lambda file: datasets.load(str(file))),
        "IDX": Reader(folder / "images", damaged, images),
        "IDX in gzip": Reader(folder / "images.gz", damaged, images),
        "CIFAR-10": Reader(
            bins / "data_batch_1.bin", damaged, lambda _: cifar10.Cifar10().load(bins)
        ),
        "CIFAR-10 archive": Reader(archive, changed_gzip, members),
    }


def _of_words(folder: Path) -> dict[str, Reader]:
    """Readers of what users write: options, a config file, the file of an attack."""
    texts = {
        "config.yaml": "epochs: 3\nseed: 1\nsettings: {momentum: 0.8}\nquiet: no\n",
        "attack.py": "def attack(defense, x, y, threat, steps=3):\n    return x\n",
        **{"setting": "momentum=0.8", "option": "steps=20", "eps": "8/255", "seeds": "0-3,7"},
        "images": "0,3,7",
    }
    words = folder / "words"
    words.mkdir()
    for name, text in texts.items():
        (words / name).write_text(text)
    train = ("train", "jump", "--explain", "--out", str(folder / "none"))
    places = ("--runs", str(folder / "runs"), "--data", str(folder / "tiny.npz"))
    attack = ("attack", "jump", "noise", *places)
    return {
        "config.yaml": Reader(words / "config.yaml", damaged, command(*train, "--config", "FILE")),
        "a setting": Reader(words / "setting", damaged, option_values(*train, "-s", "TEXT")),
        "an attack's option": Reader(
            words / "option", damaged, option_values(*attack, "--eps", "0.1", "-o", "TEXT")
        ),
        "an attack's file": Reader(
            words / "attack.py", damaged, lambda file: attacks.get(str(file), {"steps": 2})
        ),
        "eps": Reader(
            words / "eps",
            damaged,
            lambda file: threat_model("Linf", file.read_text(errors="replace")),
        ),
        "seeds": Reader(words / "seeds", damaged, option_values(*train, "--seeds", "TEXT")),
        "images": Reader(
            words / "images", damaged, option_values(*attack, "--eps", "0.1", "--images", "TEXT")
        ),
    }


def _of_a_course(folder: Path) -> dict[str, Reader]:
    """Readers of a checkpoint of the course and of the arrays beside it."""
    import tensorflow as tf

    course = folder / "course" / "contrastive"
    random = np.random.default_rng(0)
    widths = [3, 2, 4, 4, 8]
    sizes: list[Any] = [*pairwise(widths), (8, 128)]
    model = tf.Module()
    model.layers = []
    for size in (*sizes[:2], None, *sizes[2:4], None, sizes[4]):
        layer = tf.Module()
        if size:
            layer.kernel = tf.Variable(random.random((3, 3, *size), np.float32))
            layer.bias = tf.Variable(random.random(size[1], np.float32))
        model.layers.append(layer)
    tf.train.Checkpoint(model=model).write(str(course / selfstudy.FINAL))
    np.save(course / "feat.npy", random.random((6, 128), np.float32))
    np.save(course / "labs.npy", np.arange(6)[:, None])

    def read(_: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            selfstudy.convert(course.parent, scratch)

    index = course / f"{selfstudy.FINAL}.index"
    return {
        "a course's index": Reader(index, damaged, read),
        "a course's weights": Reader(
            index.with_name(f"{selfstudy.FINAL}.data-00000-of-00001"), damaged, read
        ),
        "a course's .npy": Reader(course / "labs.npy", changed_npy, read),
    }


def idx(images: np.ndarray) -> bytes:
    """Give images, uint8 [N, H, W], in the IDX format."""
    sizes = b"".join(size.to_bytes(4, "big") for size in images.shape)
    return bytes([0, 0, 8, images.ndim]) + sizes + images.tobytes()


def fuzz(reader: Reader, examples: int, number: int = 0) -> None:
    """Give a reader so many changed files; raises the smallest fault that was found."""

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(reader.change(reader.file.read_bytes()).map(Content))
    def check(content: bytes) -> None:
        reader.check(content)

    check()


def main() -> None:
    """Fuzz one reader after the other until the time is up."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", nargs="+", metavar="READER", default=[])
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    end, number, faults = time.monotonic() + 60 * arguments.minutes, arguments.seed, 0
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        own = readers(Path(name))
        if unknown := set(arguments.only) - set(own):
            parser.error(f"no such reader: {', '.join(unknown)}; expected {', '.join(own)}")
        chosen = {name: own[name] for name in arguments.only or own}
        while time.monotonic() < end and chosen:
            number += 1
            for title, reader in list(chosen.items()):
                try:
                    fuzz(reader, 100, number)
                except Exception as error:
                    faults += 1
                    del chosen[title]  # its first fault hides others
                    print(f"\n{title}, seed {number}: {error}", flush=True)
                    print("\n".join(getattr(error, "__notes__", [])), flush=True)
                counts[title] = counts.get(title, 0) + 100
    total = sum(counts.values())
    print(f"\n{total:,} files, {faults} readers with a fault; seeds up to {number}.")
    sys.exit(bool(faults))


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "torch")
    main()

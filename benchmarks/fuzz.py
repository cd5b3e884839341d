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
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import sparring
from sparring import data as datasets
from sparring.cli import app
from sparring.conversion import torch_model
from sparring.conversion.convert import convert
from sparring.data import Dataset
from sparring.data.cifar10 import Cifar10
from sparring.data.reading import read_idx
from sparring.errors import SparringError
from sparring.reports.gather import gather
from sparring.runs.directory import Checkpoints, Run
from sparring.runs.files import read_tensors, write_tensors
from sparring.threat import threat_model

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
            return draw(st.sampled_from(VALUES))
        container, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["replace", "replace", "replace", "drop", "add"]))
        if kind == "drop":
            del container[key]
        elif kind == "add" and isinstance(container, dict):
            container[draw(st.sampled_from(TEXTS))] = draw(st.sampled_from(VALUES))
        else:
            container[key] = draw(st.sampled_from(VALUES))
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
def odd_array(draw: st.DrawFn) -> np.ndarray:
    """Draw a small array of an odd shape, type and content."""
    shape = draw(st.sampled_from([(), (0,), (1,), (3,), (4, 0), (2, 3), (2, 8, 8, 1), (1,) * 9]))
    kind = draw(st.sampled_from(["f4", "f8", "f2", "i4", "i8", "u1", "b1"]))
    array = np.full(shape, draw(st.sampled_from([0, 1, 3])), kind)
    if array.size and kind in ("i8", "f8"):
        array.flat[0] = draw(st.sampled_from([-1, 10, 3_000_000_000, 2**40]))
    return array


@st.composite
def changed_npz(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw a .npz file with odd arrays, damaged members or damaged bytes."""
    if draw(st.booleans()):
        return draw(damaged(data))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(members)))
        kind = draw(st.sampled_from(["array", "bytes", "header", "drop", "other"]))
        if kind == "array":
            buffer = io.BytesIO()
            np.save(buffer, draw(odd_array()))
            members[name] = buffer.getvalue()
        elif kind == "bytes":
            members[name] = draw(damaged(members[name]))
        elif kind == "header":
            members[name] = draw(odd_header())
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

NAMES = (
    *("run.json", "run.json, reported", "weights.safetensors", "state", "metrics.jsonl"),
    *("diverged.json", "verdict.json", "verdict, resumed", "data.npz", "IDX", "CIFAR-10"),
    *("config.yaml", "a setting", "an attack's option", "eps", "seeds", "a converted network"),
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
    out = folder / "runs"
    small: dict[str, Any] = {
        "epochs": 2,
        "filters": 2,
        "batch_size": 16,
        "preset": "course",
        "out": out,
    }
    jump = sparring.train("jump", tiny, **small)
    run = out / "tiny" / "jump"
    sparring.evaluate(
        jump, "noise", sparring.Linf(0.1), dataset=tiny, n=12, out=run / "attacks" / "one"
    )
    convert(run, "torch", folder / "converted")
    begun = Checkpoints(folder / "begun")
    begun.path.mkdir()
    saved = {"weight": np.zeros((2, 3), np.float32), "losses": np.ones(3, np.float32)}
    begun.save(1, saved, {"defense": "jump"})
    for line in Run(run).metrics():
        begun.append_metrics(line)
    begun.diverged_file.write_text(json.dumps([{"seed": 1, "network": 0, "epoch": 2, "step": 3}]))
    (folder / "config.yaml").write_text(
        "epochs: 3\nseed: 1\nsettings: {momentum: 0.8}\nquiet: no\n"
    )
    texts = {"setting": "momentum=0.8", "option": "steps=20", "eps": "8/255", "seeds": "0-3,7"}
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "images.gz").write_bytes(gzip.compress(idx(x[..., 0])))
    bins = folder / "cifar"
    bins.mkdir()
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        (bins / name).write_bytes(random.integers(0, 256, 3073, dtype=np.uint8).tobytes())
    verdict = next((run / "attacks" / "one").glob("*.json"))
    own = answers_as(jump, x)

    def tensors(data: bytes) -> st.SearchStrategy[bytes]:
        return changed_tensors(data, folder)

    train = ("train", "jump", "--explain", "--out", str(folder / "none"))
    attack = ("attack", "jump", "noise", "--runs", str(out), "--data", str(folder / "tiny.npz"))
    return {
        "run.json": Reader(run / "run.json", changed_json, own),
        "weights.safetensors": Reader(run / "weights.safetensors", tensors, own),
        "state": Reader(
            begun.path / "epoch-000001.safetensors",
            tensors,
            lambda _: begun.load({"defense": "jump"}),
        ),
        "metrics.jsonl": Reader(
            begun.metrics_file, changed_lines, lambda _: (begun.metrics(), begun.trim_metrics(1))
        ),
        "diverged.json": Reader(begun.diverged_file, changed_json, lambda _: begun.diverged()),
        "verdict.json": Reader(verdict, changed_json, lambda _: gather(out)),
        "verdict, resumed": Reader(
            verdict,
            changed_json,
            lambda file: sparring.evaluate(
                jump, "noise", sparring.Linf(0.1), dataset=tiny, n=12, out=file.parent
            ),
        ),
        "run.json, reported": Reader(run / "run.json", changed_json, lambda _: gather(out)),
        "data.npz": Reader(folder / "tiny.npz", changed_npz, lambda file: datasets.load(str(file))),
        "IDX": Reader(folder / "images.gz", damaged, lambda file: read_idx(file, (24, 8, 8))),
        "CIFAR-10": Reader(bins / "data_batch_1.bin", damaged, lambda _: Cifar10().load(bins)),
        "config.yaml": Reader(folder / "config.yaml", damaged, command(*train, "--config", "FILE")),
        "a setting": Reader(folder / "setting", damaged, option_values(*train, "-s", "TEXT")),
        "an attack's option": Reader(
            folder / "option", damaged, option_values(*attack, "--eps", "0.1", "-o", "TEXT")
        ),
        "eps": Reader(
            folder / "eps",
            damaged,
            lambda file: threat_model("Linf", file.read_text(errors="replace")),
        ),
        "seeds": Reader(
            folder / "seeds",
            damaged,
            option_values(
                "train", "jump", "--out", str(out / "none"), "--explain", "--seeds", "TEXT"
            ),
        ),
        "a converted network": Reader(
            folder / "converted" / "network-0.safetensors",
            damaged,
            torch_model.load,
            (ValueError, RuntimeError),
        ),
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

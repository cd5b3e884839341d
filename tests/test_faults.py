"""Faults put into training and loading, and what comes of each; docs/reliability.md lists them."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import sparring
from sparring.attacks import Noise
from sparring.cli import app
from sparring.conversion import selfstudy
from sparring.data import Dataset, load
from sparring.defenses import DEFENSES, get
from sparring.errors import ConversionError, DataError, RunError
from sparring.evaluation.evaluate import evaluate as judge
from sparring.runs.directory import Checkpoints, Run
from sparring.runs.files import read_tensors, write_tensors
from sparring.runs.records import Attempt
from sparring.training.recipe import Recipe
from tests.conftest import Recorder, Stop

posix = pytest.mark.skipif(os.name != "posix", reason="forks, signals and limits of POSIX")

ROOT = Path(__file__).parent.parent
SMALL: dict[str, Any] = {"filters": 4, "epochs": 3, "batch_size": 16}
DIGITS = ["--filters", "4", "--epochs", "3", "--limit-train", "64"]
GOES_ON = "The same command goes on from the last completed epoch."


def weights(run: Path | None) -> bytes:
    assert run is not None
    return (run / "weights.safetensors").read_bytes()


def digits(out: Path) -> Path:
    """What the command line trains with DIGITS, trained or gone on with here."""
    path = sparring.train("baseline", load("digits").limit(64), out=out, filters=4, epochs=3).path
    assert path is not None
    return path


def command(
    *words: str, code: str = "from sparring.cli import main; main()", **options: Any
) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, or a program in its place."""
    added = options.pop("env", {})
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, **added},
        timeout=300,
        **options,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted training of DIGITS."""
    return digits(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with one of DIGITS, stopped after its second epoch of three."""
    out = tmp_path_factory.mktemp("stopped")
    with pytest.raises(Stop):
        sparring.train(
            "baseline",
            load("digits").limit(64),
            out=out,
            filters=4,
            epochs=3,
            progress=Recorder(2),
        )
    return out


def states(out: Path) -> list[Path]:
    return sorted((out / "digits/baseline/state/network-000").glob("epoch-*"))


# Kills


def worker(what: str, out: Path) -> Any:
    """What tests/fault_worker.py found; forks need to be single-threaded."""
    answer = subprocess.run(
        [sys.executable, "-m", "tests.fault_worker", what, str(out)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "KERAS_BACKEND": "torch"},
        timeout=600,
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


@posix
@pytest.mark.parametrize("what", ["boundaries", "forced"])
def test_killed_at_every_write(tmp_path: Path, what: str) -> None:
    found = worker(what, tmp_path)
    assert found["kills"] > 60
    assert found["wrong"] == []


@posix
def test_every_defense_killed_at_random_steps(tmp_path: Path) -> None:
    found = worker("steps", tmp_path)
    assert found.keys() == DEFENSES.keys()
    for name, each in found.items():
        assert each["code"] == 0, name
        assert each["same"], name
        assert (each["kills"] > 0) == (get(name).borrows is None), name


# Signals: at the n-th call of a function, the process sends itself SIGTERM

SENDING = """
import os, signal, sys
from sparring.runs import directory, files
from sparring import cli
from sparring.cli import program
from sparring.training import recipe, loop as train_loop

def sending(owner, name, call):
    original, calls = getattr(owner, name), []
    def send(*arguments, **named):
        calls.append(None)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **named)
    setattr(owner, name, send)

for place in sys.argv.pop(1).split(","):
    sending(*{
        "step": (train_loop.TrainLoop, "_look", 6),
        "evaluation": (recipe.Recipe, "evaluate", 2),
        "compile": (recipe.Recipe, "loss", 1),
        "tensors": (files.safetensors.numpy, "save", 2),
        "write": (files.os, "fsync", 7),
        "unwinding": (directory.Path, "unlink", 4),
        "ending": (program, "fail", 1),
    }[place])
cli.main()
"""


def _terminated(whole: Path, out: Path, places: str) -> None:
    answer = command(places, "train", "baseline", *DIGITS, "--out", str(out), code=SENDING)
    assert answer.returncode == 143, answer.stderr
    assert answer.stderr.endswith(f"sparring: Terminated. {GOES_ON}\n")
    assert "Traceback" not in answer.stderr
    assert Run(out / "digits/baseline").read().status == "training"
    assert weights(digits(out)) == weights(whole)
    assert not list(out.rglob("*.tmp"))


@posix
@pytest.mark.parametrize("place", ["step", "evaluation", "tensors", "write"])
def test_terminated_wherever_it_is(whole: Path, tmp_path: Path, place: str) -> None:
    _terminated(whole, tmp_path, place)


@posix
@pytest.mark.backend
def test_terminated_while_a_step_is_compiled(whole: Path, tmp_path: Path) -> None:
    _terminated(whole, tmp_path, "compile")


@posix
@pytest.mark.parametrize("places", ["write,ending", "write,unwinding"])
def test_a_second_signal_changes_nothing(whole: Path, tmp_path: Path, places: str) -> None:
    _terminated(whole, tmp_path, places)


# The disk


@posix
@pytest.mark.parametrize(
    ("share", "file"), [(0.5, "network-000/epoch-000003.safetensors"), (0.01, "run.json")]
)
def test_a_full_disk(whole: Path, stopped: Path, tmp_path: Path, share: float, file: str) -> None:
    import resource

    out = tmp_path / "runs"
    shutil.copytree(stopped, out)
    before = {path: path.read_bytes() for path in states(out)}
    assert len(before) == 2
    limit = int(share * len(before[states(out)[0]]))
    answer = command(
        *("train", "baseline", *DIGITS, "--out", str(out)),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert answer.returncode == 4, answer.stderr
    assert re.search(
        rf"sparring: .*/{file}: {os.strerror(errno.EFBIG)}\. What was saved before is "
        rf"whole\. Make room\. {re.escape(GOES_ON)}",
        answer.stderr,
    ), answer.stderr
    assert "Traceback" not in answer.stderr
    assert {path: path.read_bytes() for path in states(out)} == before
    assert not list(out.rglob("*.tmp"))
    assert weights(digits(out)) == weights(whole)


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("dear to me")
    answer = CliRunner().invoke(app, ["train", "baseline", *DIGITS, "--out", f"{tmp_path}/file"])
    assert answer.exit_code == 2
    assert "/file' is a file" in re.sub(r"[│\s]+", " ", answer.output).replace(" /file", "/file")
    below = f"{tmp_path}/file/below"
    answer = CliRunner().invoke(app, ["train", "baseline", *DIGITS, "--out", below])
    assert answer.exit_code == 1
    assert re.search(r"sparring: .*file/below/digits/baseline: Not a directory", answer.output)

    def refuse(path: str, *_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "mkdir", refuse)  # tests may be run by root, whom no mode stops
    answer = CliRunner().invoke(app, ["train", "baseline", *DIGITS, "--out", f"{tmp_path}/runs"])
    assert answer.exit_code == 1
    assert re.search(r"sparring: .*/runs.*: Permission denied", answer.output)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "dear to me"


# Damaged and foreign states


def _flip(data: bytes) -> bytes:
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 1
    return bytes(damaged)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "no byte": lambda data: b"",
    "one byte": lambda data: data[:1],
    "half": lambda data: data[: len(data) // 2],
    "all but one byte": lambda data: data[:-1],
    "a flipped bit": _flip,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_passed_over(
    whole: Path, stopped: Path, tmp_path: Path, damage: str
) -> None:
    out = tmp_path / "runs"
    shutil.copytree(stopped, out)
    _, last = states(out)
    last.write_bytes(DAMAGES[damage](last.read_bytes()))
    recorder, dataset = Recorder(), load("digits").limit(64)
    options: dict[str, Any] = {"out": out, "filters": 4, "epochs": 3}
    resumed = sparring.train("baseline", dataset, progress=recorder, **options)
    assert re.match(r"Passed over .*epoch-000002\.safetensors: damaged", recorder.messages[0])
    assert "after epoch 1 of network 1" in recorder.messages[1]
    assert weights(resumed.path) == weights(whole)

    shutil.rmtree(out)
    shutil.copytree(stopped, out)
    for path in states(out):
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(RunError, match=r"every saved epoch is damaged; --force trains anew"):
        sparring.train("baseline", dataset, **options)
    forced = sparring.train("baseline", dataset, force=True, **options)
    assert weights(forced.path) == weights(whole)


def _of_another(out: Path, name: str, limit: int = 64, seed: int = 0, **settings: Any) -> Path:
    options = {"filters": 4, "epochs": 3, **settings}
    dataset = load("digits").limit(limit)
    with pytest.raises(Stop):
        sparring.train(name, dataset, out=out, seed=seed, progress=Recorder(2), **options)
    return out / "digits" / name / "state/network-000/epoch-000002.safetensors"


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"name": "blur"}, "'defense': 'blur'"),
        ({"name": "baseline", "filters": 5}, "'filters': 5"),
        ({"name": "baseline", "limit": 63}, "'dataset': "),
        ({"name": "baseline", "seed": 1}, "'seed': 1"),
    ],
)
def test_a_state_of_another_training_is_passed_over(
    whole: Path, stopped: Path, tmp_path: Path, other: dict[str, Any], told: str
) -> None:
    out = tmp_path / "runs"
    shutil.copytree(stopped, out)
    shutil.copy(_of_another(tmp_path / "other", **other), states(out)[1])
    recorder = Recorder()
    resumed = sparring.train(
        "baseline", load("digits").limit(64), out=out, filters=4, epochs=3, progress=recorder
    )
    assert "of another training: expected {" in recorder.messages[0]
    assert told in recorder.messages[0].partition("found")[2]
    assert "after epoch 1" in recorder.messages[1]
    assert weights(resumed.path) == weights(whole)


def test_a_finished_network_of_another_training_is_refused(
    dataset: Dataset, tmp_path: Path
) -> None:
    options: dict[str, Any] = {**SMALL, "epochs": 2}
    for seed in (0, 1):
        out = tmp_path / str(seed)
        sparring.train_network("majority", 1, dataset, out=out, seed=seed, **options)
    part = "patterns/majority/state/network-001/finished.safetensors"
    shutil.copy(tmp_path / "1" / part, tmp_path / "0" / part)
    with pytest.raises(RunError, match=r"of another training: .*'seed': 1.*--force trains anew"):
        sparring.train("majority", dataset, out=tmp_path / "0", **options)


def test_a_run_of_a_newer_version_is_not_gone_on_with(stopped: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    shutil.copytree(stopped, out)
    file = out / "digits/baseline/run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 3}))
    before = {path: path.read_bytes() for path in states(out)}
    answer = CliRunner().invoke(app, ["train", "baseline", *DIGITS, "--out", str(out)])
    assert answer.exit_code == 1
    assert "expected format 1 to 2, found 3: written by a newer version" in answer.output
    assert {path: path.read_bytes() for path in states(out)} == before


def test_an_attempt_given_up_is_not_gone_on_with(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Killed while it is given up: its epochs must not become those of the next seed.
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"value": np.array([1])})

    def die(path: Path, data: bytes) -> None:
        raise Stop

    monkeypatch.setattr("sparring.runs.files.write_atomically", die)
    with pytest.raises(Stop):
        checkpoints.give_up(Attempt(seed=0, network=0, epoch=1, step=1))
    assert checkpoints.load() is None


# Files that would run code, or lie


class _Bomb:
    """Pickled, it makes a folder when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


@pytest.fixture
def bomb(tmp_path: Path) -> Any:
    """A pickle of which nothing may come."""
    import pickle

    marker = tmp_path / "executed"
    yield pickle.dumps(_Bomb(marker))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("run.json", r"run\.json: damaged"),
        ("state/network-000/diverged.json", r"diverged\.json: damaged"),
        ("state/network-000/finished.safetensors", r"finished\.safetensors: damaged"),
        ("state/network-000/epoch-*.safetensors", r"every saved epoch is damaged"),
        ("state/network-000/metrics.jsonl", None),
    ],
)
def test_a_pickle_in_an_unfinished_run(
    whole: Path, stopped: Path, tmp_path: Path, bomb: bytes, file: str, message: str | None
) -> None:
    out = tmp_path / "runs"
    shutil.copytree(stopped, out)
    run = out / "digits/baseline"
    for path in list(run.glob(file)) or [run / file]:
        path.write_bytes(bomb)
    if message is None:  # lines of metrics are for people
        assert weights(digits(out)) == weights(whole)
        assert [line.epoch for line in Run(run).metrics()] == [3]
    else:
        with pytest.raises(RunError, match=message):
            digits(out)


@pytest.mark.parametrize("file", ["run.json", "weights.safetensors", "metrics.jsonl"])
def test_a_pickle_in_a_finished_run(whole: Path, tmp_path: Path, bomb: bytes, file: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / file).write_bytes(bomb)
    if file == "metrics.jsonl":
        sparring.load(run)
        assert Run(run).metrics() == []
    else:
        with pytest.raises(RunError, match=rf"{re.escape(file)}: damaged"):
            sparring.load(run)


def test_a_pickle_among_the_arrays_of_a_data_set(tmp_path: Path, bomb: bytes) -> None:
    x, y = np.zeros((4, 8, 8, 1), np.uint8), np.arange(4) % 2
    objects = np.empty(4, object)
    objects[:] = [_Bomb(tmp_path / "executed")] * 4
    for arrays in (
        {"x_train": x, "y_train": objects, "x_test": x, "y_test": y},
        {"x_train": x, "y_train": y, "x_test": x, "y_test": y, "class_names": objects[:2]},
    ):
        np.savez(tmp_path / "data.npz", **arrays)
        with pytest.raises(DataError, match="pickled objects, which are never loaded"):
            load(str(tmp_path / "data.npz"))


def test_a_pickle_in_a_verdict(whole: Path, tmp_path: Path, bomb: bytes) -> None:
    defense, dataset = sparring.load(whole), load("digits").limit(64)
    out = tmp_path / "verdict"

    def evaluate() -> Any:
        return judge(defense, Noise(draws=1), sparring.Linf(0.1), dataset, 20, out=out)

    evaluate()
    verdict = out / "verdict.json"
    unfinished = json.dumps({**json.loads(verdict.read_text()), "finished": False}).encode()
    for file, contents in (("adversarial.safetensors", unfinished), ("verdict.json", bomb)):
        verdict.write_bytes(contents)
        (out / "adversarial.safetensors").write_bytes(bomb)
        with pytest.raises(RunError, match=rf"{re.escape(file)}: damaged"):
            evaluate()


def test_a_pickle_beside_a_checkpoint_of_the_course(tmp_path: Path, bomb: bytes) -> None:
    info = load("digits").limit(8).info
    objects = np.empty(1, object)
    objects[0] = _Bomb(tmp_path / "executed")
    for name, file in (("injection", "backdoor.npy"), ("knn", "feat.npy")):
        for write in (
            lambda path: path.write_bytes(bomb),
            lambda path: np.save(path, objects, allow_pickle=True),
        ):
            write(tmp_path / file)
            with pytest.raises(ConversionError, match=rf"{re.escape(file)}: cannot be read"):
                selfstudy._beside(selfstudy._files(get(name)), tmp_path, info, 32)


def _safetensors(header: Any, data: bytes = b"\0" * 16, size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def _entry(start: int, end: int, dtype: str = "F32", shape: tuple[int, ...] = (2,)) -> Any:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


NETWORK = {"network": json.dumps({"channels": 1, "filters": 1, "scales": 1, "outputs": 2})}
LIES: dict[str, bytes] = {
    "a header longer than the file": _safetensors({"a": _entry(0, 8)}, size=1 << 20),
    "a header of 2^63 bytes": _safetensors({"a": _entry(0, 8)}, size=1 << 63),
    "overlapping tensors": _safetensors({"a": _entry(0, 8), "b": _entry(4, 12)}),
    "a tensor beyond the end": _safetensors({"a": _entry(0, 1 << 40, shape=(1 << 38,))}),
    "a tensor that ends before it begins": _safetensors({"a": _entry(8, 0)}),
    "a shape that does not fit": _safetensors({"a": _entry(0, 8, shape=(3,))}, b"\0" * 8),
    "an unknown type": _safetensors({"a": _entry(0, 8, "F99")}, b"\0" * 8),
    "a list for a header": _safetensors([]),
    "nested too deeply": _safetensors(b"[" * 200000),
    "no numbers": _safetensors({"__metadata__": NETWORK}, b""),
    "a network of no such shape": _safetensors({"__metadata__": {"network": '{"a": 1}'}}, b""),
}


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie(whole: Path, tmp_path: Path, lie: str) -> None:
    from sparring.conversion import torch_model

    run, file = tmp_path / "run", tmp_path / "network-0.safetensors"
    shutil.copytree(whole, run)
    for path in (run / "weights.safetensors", file):
        path.write_bytes(LIES[lie])
    with pytest.raises(RunError, match=r"weights\.safetensors: (damaged|not written)"):
        sparring.load(run)
    with pytest.raises((ValueError, RuntimeError)):
        torch_model.load(file)


def test_a_pickle_is_no_network_for_torch(tmp_path: Path, bomb: bytes) -> None:
    from sparring.conversion import torch_model

    file = tmp_path / "network-0.safetensors"
    file.write_bytes(bomb)
    with pytest.raises(ValueError, match="not written by sparring convert, or damaged"):
        torch_model.load(file)


def test_saving_over_what_was_just_loaded(tmp_path: Path, dataset: Dataset) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"a": np.arange(1000.0)}, {})
    arrays, _, _ = read_tensors(path)
    write_tensors(path, {"a": np.zeros(1000)}, {})
    np.testing.assert_array_equal(arrays["a"], np.arange(1000.0))

    first = sparring.train("baseline", dataset, out=tmp_path, **SMALL)
    assert first.path is not None
    loaded = sparring.load(first.path)
    before = loaded.classify(dataset.x_test)
    other = sparring.train("baseline", dataset, out=tmp_path, force=True, seed=1, **SMALL)
    assert other.path == first.path
    np.testing.assert_array_equal(loaded.classify(dataset.x_test), before)
    assert (sparring.load(first.path).classify(dataset.x_test) != before).any()


# What is trained


def test_a_training_at_chance_is_told(dataset: Dataset, tmp_path: Path) -> None:
    black = Dataset(
        "black", np.zeros_like(dataset.x_train), dataset.y_train, dataset.x_test, dataset.y_test,
        tuple("abcd"), mirror=False,
    )  # fmt: skip
    recorder = Recorder()
    sparring.train("baseline", black, out=tmp_path, progress=recorder, learning_rate=1e-6, **SMALL)
    assert recorder.messages == [
        "Network 1 is hardly better than guessing: in its last epoch 25.00% of the training images "
        "and 25.00% of the test images were right. Try a lower learning rate than 1e-06, more "
        "epochs, or another seed."
    ]
    recorder = Recorder()
    longer = {**SMALL, "epochs": 8}
    sparring.train("baseline", dataset, out=tmp_path, progress=recorder, **longer)
    assert recorder.messages == []
    # The pairs that knn finds are no classes, but its answers are.
    sparring.train("knn", black, out=tmp_path, progress=recorder, learning_rate=1e-6, **SMALL)
    assert recorder.messages == [
        "The defense is hardly better than guessing: it answers 25.00% of the test images "
        "correctly and does not reject them."
    ]


@pytest.mark.parametrize("images", [1, 15, 17])
@pytest.mark.parametrize("name", list(DEFENSES))
def test_hardly_any_images(
    make_dataset: Callable[..., Dataset], tmp_path: Path, name: str, images: int
) -> None:
    dataset = make_dataset(train=images, test=1)
    options: dict[str, Any] = {"out": tmp_path, **SMALL, "epochs": 1}
    for each in (get(name).borrows, name):
        if each is not None:
            defense = sparring.train(each, dataset, **options)
    answer = defense.classify(dataset.x_test)
    assert answer.shape == (1, 4)
    assert np.isfinite(answer).all()
    assert all(np.isfinite(line.loss) for line in Run(tmp_path / "patterns" / name).metrics())


class Faulty(Recipe):
    """Raises in the second epoch, until it is mended."""

    mended = False

    def evaluate(self, net: Any, dataset: Dataset) -> float:
        self.tested = True
        return super().evaluate(net, dataset)

    def loss(self, net: Any, x: Any, y: Any) -> tuple[Any, Any]:
        if getattr(self, "tested", False) and not self.mended:
            raise ZeroDivisionError("in the loss of a user")
        return super().loss(net, x, y)


def test_a_recipe_that_raises(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = classmethod(lambda cls, info, settings, seed: [Faulty(info, settings, seed)])
    monkeypatch.setattr(get("baseline"), "recipes", recipes)
    with pytest.raises(ZeroDivisionError, match="in the loss of a user") as caught:
        sparring.train("baseline", dataset, out=tmp_path, **SMALL)
    assert any(entry.name == "loss" and entry.path == Path(__file__) for entry in caught.traceback)
    run = Run(tmp_path / "patterns/baseline")
    assert run.read().status == "training"
    monkeypatch.setattr(Faulty, "mended", True)
    recorder = Recorder()
    mended = sparring.train("baseline", dataset, out=tmp_path, progress=recorder, **SMALL)
    assert "after epoch 1" in recorder.messages[0]
    whole = sparring.train("baseline", dataset, out=tmp_path / "whole", **SMALL)
    assert weights(mended.path) == weights(whole.path)


# Around the process


@posix
@pytest.mark.parametrize("quiet", [False, True])
def test_standard_output_is_closed(whole: Path, tmp_path: Path, quiet: bool) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = ["train", "baseline", *DIGITS, "--out", str(tmp_path), *["--quiet"] * quiet]
    code = "from sparring.cli import main; main()"
    with os.fdopen(writing, "wb") as closed:
        answer = subprocess.run(
            [sys.executable, "-c", code, *words],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=300,
        )
    assert answer.returncode == 141, answer.stderr
    assert answer.stderr.endswith(f"sparring: Standard output was closed. {GOES_ON}\n")
    status = Run(tmp_path / "digits/baseline").read().status
    assert status == ("finished" if quiet else "training")
    assert weights(digits(tmp_path)) == weights(whole)


@posix
def test_a_c_locale_and_odd_paths(tmp_path: Path) -> None:
    folder = tmp_path / "my rüns ☃"
    folder.mkdir()
    dataset = load("digits").limit(64, 16)
    file = folder / "größe 1.npz"
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez(file, **{name: getattr(dataset, name) for name in names})
    locale = {
        "LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }  # fmt: skip
    words = ["train", "baseline", "--filters", "4", "--epochs", "2", "--data", str(file)]
    answer = command(*words, "--out", str(folder), env=locale)
    assert answer.returncode == 0, answer.stderr
    assert "Traceback" not in answer.stderr
    assert "weights.safetensors" in answer.stdout
    run = folder / "größe 1" / "baseline"
    assert Run(run).read().status == "finished"
    assert sparring.load(run).classify(dataset.x_test).shape == (16, 10)


# The page


def test_the_page_names_every_fault_and_its_test() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    tests = {
        path.name: set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.M))
        for path in (ROOT / "tests").glob("test_*.py")
    }
    named = set(re.findall(r"`(test_\w+)`", page))
    assert named <= set().union(*tests.values()), named - set().union(*tests.values())
    here = tests["test_faults.py"]
    assert here <= named | {"test_the_page_names_every_fault_and_its_test"}, here - named
    rows = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line]
    for row in rows:
        assert "`test_" in row or row.endswith("| test |"), row

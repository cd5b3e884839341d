"""The command line: help, messages, exit codes, and being killed."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from sparring.cli import app, display
from sparring.data import Dataset
from sparring.defenses import DEFENSES
from sparring.runs.directory import Run
from sparring.training.callbacks import EpochMetrics

SMALL = ["--filters", "4", "--epochs", "2", "--limit-train", "64", "--quiet"]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command line in this process and an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments)

    return run


def test_help_is_for_newcomers(call: Callable[..., Result]) -> None:
    answer = call("train", "--help")
    assert answer.exit_code == 0
    expected = {
        "--data", "--data-dir", "--limit-train", "--filters", "--epochs", "--batch-size",
        "--learning-rate", "--seed", "--backend", "--device", "--out", "--eval-every",
        "--restarts", "--force", "--tensorboard", "--config", "--quiet",
    }  # fmt: skip
    parameters = typer.main.get_command(app).commands["train"].params  # type: ignore[attr-defined]
    options = {name: parameter.help for parameter in parameters for name in parameter.opts}
    assert expected <= options.keys()
    for name, text in options.items():
        assert name in answer.output
        assert text[0].isupper() or text.startswith(("cpu", "digits")), name
        assert text.endswith("."), name
    for verb in ("list", "train", "attack", "convert", "exercise", "hint", "doctor", "report"):
        assert f"Example: sparring {verb} " in call(verb, "--help").output
    assert "train" in call("--help").output
    assert call("--version").output.startswith("sparring 0.")


def what_comes_next_runs(call: Callable[..., Result], output: str) -> bool:
    """Whether the command and the lines of Python that training prints run as they stand."""
    next_lines = output[output.index("Next      ") :].splitlines()
    words = shlex.split(next_lines[0])
    attacked = call("attack", *words[words.index("attack") + 1 :], "-n", "5", "--no-check")
    assert attacked.exit_code == 0, attacked.output
    assert "sparring attack" in next_lines[0]
    lines = [line for line in next_lines[2:] if line.startswith("    ")]  # else a warning
    exec(textwrap.dedent("\n".join(lines)), {})
    return True


def test_what_comes_next_names_the_runs_own_folders_and_data(
    call: Callable[..., Result], make_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    dataset = make_dataset()
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez("my data.npz", **{name: getattr(dataset, name) for name in names})
    answer = call(
        "train", "baseline", *SMALL[:4], "-q", "--data", "my data.npz", "--out", "my runs"
    )
    assert answer.exit_code == 0, answer.output
    assert "attack 'my runs/my data/baseline' --data 'my data.npz'" in answer.output
    assert what_comes_next_runs(call, answer.output)
    answer = call("attack", "blur", "--runs", "my runs")
    assert "sparring train blur --data digits --out 'my runs'" in answer.output


def test_train_ends_with_a_summary(call: Callable[..., Result], tmp_path: Path) -> None:
    assert "-" in call("list").output.split("baseline")[1]
    answer = call("train", "baseline", *SMALL)
    assert answer.exit_code == 0, answer.output
    results = Run("runs/digits/baseline").read().results
    assert results is not None
    assert f"test accuracy {results.test_accuracy:.2%}" in answer.output
    assert "runs/digits/baseline/weights.safetensors" in answer.output
    assert "defense = sparring.load('runs/digits/baseline')" in answer.output
    assert what_comes_next_runs(call, answer.output)
    listed = call("list").output
    assert re.search(r"^baseline +1 +no +no +digits +a plain network", listed, re.MULTILINE)
    assert len(listed.splitlines()) == 1 + len(DEFENSES)
    # Not the contents: two trainings may take the same second.
    written = (tmp_path / "runs/digits/baseline/run.json").stat().st_mtime_ns
    assert call("train", "baseline", *SMALL).exit_code == 0
    assert (tmp_path / "runs/digits/baseline/run.json").stat().st_mtime_ns == written
    assert call("train", "baseline", *SMALL, "--force").exit_code == 0
    assert (tmp_path / "runs/digits/baseline/run.json").stat().st_mtime_ns != written


def test_progress_in_plain_lines(call: Callable[..., Result]) -> None:
    answer = call("train", "baseline", *SMALL[:-1])
    lines = [line for line in answer.output.splitlines() if line.startswith("epoch")]
    pattern = (
        r"epoch [12]/2  loss \d\.\d{4}  accuracy +\d+\.\d\d%  test +\d+\.\d\d%  "
        r"learning rate 0\.0\d+  [\d,]+ images/s  0:\d\d left"
    )
    assert len(lines) == 2
    assert all(re.fullmatch(pattern, line) for line in lines), lines


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "basline"], 1, "unknown defense 'basline'. Did you mean 'baseline'? Valid:"),
        (["train", "baseline", "--data", "mnist"], 1, "Valid: digits, fashion-mnist, cifar10"),
        (["train", "baseline", "--data", "x.npz"], 1, "x.npz: no such file"),
        (["train", "baseline", "--data", "cifar10", "--data-dir", "no"], 1, "no: no such folder"),
        (["train", "baseline", "--device", "gpu:7"], 1, "unknown device of torch 'gpu:7'"),
        (["train", "baseline", "--epochs", "0"], 1, "epochs: expected at least 1, got 0"),
        (["train", "baseline", "--epochs", "many"], 2, "'--epochs': Input should be a valid int"),
        (
            ["train", "baseline", "--backend", "jaxx"],
            2,
            "'--backend': expected torch, tensorflow or jax, got 'jaxx'",
        ),
        (["train", "baseline", "--backend", "jax"], 1, "runs keras on torch already"),
        (["train"], 2, "Missing argument"),
        (["trian"], 2, "No such command 'trian'"),
        (["train", "baseline", "--config", "no.yaml"], 2, "No such file"),
    ],
)
def test_wrong_use(
    call: Callable[..., Result], tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    answer = call(*arguments)
    assert answer.exit_code == code, answer.output
    assert message in answer.output
    assert "Traceback" not in answer.output
    assert list(tmp_path.iterdir()) == []


def test_config_file(call: Callable[..., Result], tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    text = (
        "epochs: 5\nlimit-train: 64\nfilters: 4\nmomentum: 0.8\nquiet: true\nweight_decay: 1e-3\n"
    )
    config.write_text(text)
    answer = call("train", "baseline", "--config", "c.yaml", "--epochs", "2")
    assert answer.exit_code == 0, answer.output
    run = Run("runs/digits/baseline").read()
    assert run.settings["epochs"] == 2  # the command line comes first
    assert (run.settings["filters"], run.settings["momentum"]) == (4, 0.8)
    assert run.settings["weight_decay"] == 0.001  # which YAML takes for text
    assert run.dataset["train_images"] == 64


def test_config_file_takes_the_settings_of_the_defense(
    call: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text("base: 1.02\nepochs: 1\nfilters: 4\n")
    answer = call("train", "temperature", "--config", "c.yaml")
    assert answer.exit_code == 0, answer.output
    assert Run("runs/digits/temperature").read().settings["base"] == 1.02
    answer = call("train", "baseline", "--config", "c.yaml")
    assert answer.exit_code == 1
    assert "c.yaml, line 1: unknown option 'base'. Valid: data, " in answer.output


def test_the_command_line_comes_before_the_config_file(
    call: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text("out: 1e3\nepochs: 5\nseeds: 0-1\nfilters: 4\n")
    options = ("--limit-train", "64", "--seed", "3", "--set", "epochs=1")
    answer = call("train", "baseline", "--config", "c.yaml", *options)
    assert answer.exit_code == 0, answer.output
    run = Run("1e3/digits/baseline").read()  # the text as written
    assert (run.seed, run.settings["epochs"], run.settings["filters"]) == (3, 1, 4)
    answer = call("train", "baseline", "--config", "c.yaml", *options, "--epochs", "2")
    assert "--epochs and --set epochs=... are one: give one" in answer.output


@pytest.mark.parametrize(
    ("text", "options", "code", "message"),
    [
        ("jobs: 2", ["--explain"], 0, "momentum"),
        ("cluster: local", ["--explain"], 0, "momentum"),
        ("cluster: local", ["--jobs", "x"], 1, "jobs: expected a number from 1, or auto"),
        ("jobs: 2", ["--cluster", "local", "--explain"], 2, "--explain goes with a single"),
        ("jobs: 2\ncluster: local", ["--network", "9"], 1, "there is no network 9"),
        ("jobs: 2", ["--cluster", "local", "--jobs", "2"], 2, "give one"),
    ],
)
def test_options_that_exclude_those_of_the_config_file(
    call: Callable[..., Result],
    tmp_path: Path,
    text: str,
    options: list[str],
    code: int,
    message: str,
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    answer = call("train", "baseline", "--config", "c.yaml", *options)
    assert answer.exit_code == code, answer.output
    assert message in answer.output


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (
            "epoch: 5",
            1,
            "unknown option 'epoch'. Did you mean 'epochs'? Valid: data, preset, data_dir,",
        ),
        ("- epochs", 2, "expected lines of name: value"),
        ("a: [", 2, "c.yaml"),
        ("epochs: many", 2, "'--epochs': Input should be a valid integer"),
        ("momentum: 2", 1, "momentum: expected 0 or more, below 1"),
        ("!!python/object/apply:os.mkdir [executed]", 2, "c.yaml, line 1: tags (!) are not taken"),
    ],
)
def test_wrong_config_files(
    call: Callable[..., Result], tmp_path: Path, text: str, code: int, message: str
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    answer = call("train", "baseline", "--config", "c.yaml")
    assert answer.exit_code == code, answer.output
    assert message in answer.output
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_divergence_has_its_own_exit_code(call: Callable[..., Result]) -> None:
    answer = call("train", "baseline", *SMALL, "--learning-rate", "1e12")
    assert answer.exit_code == 3
    assert "baseline diverged: the loss became" in answer.output
    assert "Last " in answer.output
    assert "--restarts 3" in answer.output


def test_other_settings_are_refused(call: Callable[..., Result]) -> None:
    assert call("train", "baseline", *SMALL).exit_code == 0
    answer = call("train", "baseline", *SMALL, "--seed", "1")
    assert answer.exit_code == 1
    assert "seed is 0 there, 1 here" in answer.output


def test_a_busy_run_is_refused(call: Callable[..., Result]) -> None:
    # The lock is the process's own, so another one has to hold it.
    code = (
        "import sys; from sparring.runs.directory import Run\n"
        "with Run('runs/digits/baseline').locked(): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        answer = call("train", "baseline", *SMALL)
        assert answer.exit_code == 1
        assert "another process is training here" in answer.output
        assert holder.stdin is not None
        holder.stdin.close()
    assert call("train", "baseline", *SMALL).exit_code == 0


# Signals, to a process of its own

LONG = ["--filters", "8", "--epochs", "8", "--limit-train", "400", "--seed", "5"]


def _start(out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sparring", "train", "baseline", *LONG, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # A test started in the background of a shell inherits that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def _interrupt(process: subprocess.Popen[str], out: Path, after: int, number: int) -> str:
    """Send a signal once so many epochs are saved; what the process printed."""
    state = out / "digits" / "baseline" / "state"
    deadline = time.monotonic() + 120
    while not any(state.glob(f"network-*/epoch-{after:06d}.safetensors")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    return process.communicate(timeout=60)[0]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("whole")
    output, _ = _start(out).communicate(timeout=120)
    run = out / "digits" / "baseline"
    assert (run / "weights.safetensors").is_file(), output
    return (run / "weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGKILL, -9, ""),
        (signal.SIGTERM, 143, "Terminated. The same command goes on from the last completed"),
        (signal.SIGINT, 130, "Interrupted. The same command goes on from the last completed"),
    ],
)
def test_a_stopped_training_goes_on_to_the_same_weights(
    uninterrupted: bytes, tmp_path: Path, number: int, code: int, message: str
) -> None:
    process = _start(tmp_path)
    output = _interrupt(process, tmp_path, 3, number)
    assert process.returncode == code, output
    assert message in output
    assert "Traceback" not in output
    run = tmp_path / "digits" / "baseline"
    assert json.loads((run / "run.json").read_text())["status"] == "training"

    resumed = _start(tmp_path)
    output, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, output
    assert re.search(r"Resuming .* after epoch [3-7] of network 1", output), output
    assert (run / "weights.safetensors").read_bytes() == uninterrupted
    assert [line.epoch for line in Run(run).metrics()] == list(range(1, 9))


# The display


def _metrics(epoch: int, **changes: Any) -> EpochMetrics:
    values: dict[str, Any] = {
        "network": 0, "epoch": epoch, "loss": 0.25, "accuracy": 0.5, "test_accuracy": None,
        "learning_rate": 0.03, "images_per_second": 1234.5, "seconds": 1.0, **changes,
    }  # fmt: skip
    return EpochMetrics(**values)


def test_a_live_bar_on_a_terminal() -> None:
    console = Console(force_terminal=True, width=150, record=True)
    with display.Live(console) as live:
        live.begin(0, 1, 0, 2, 10)
        live.step(5, 0.75)
        live.epoch(_metrics(1, test_accuracy=0.875), 65)
        live.step(1, 0.5)
        live._drawn.refresh()  # type: ignore[union-attr]
        live.message("Something happened.")
        live.epoch(_metrics(2), 0)
    text = console.export_text()
    assert "epoch 2/2" in text
    assert "test 87.50%" in text
    assert "1:05 left" in text
    assert "Something happened." in text


def test_networks_are_counted_when_there_are_several() -> None:
    console = Console(width=200, record=True)
    lines = display.Lines(console)
    lines.begin(1, 3, 2, 100, 10)
    lines.epoch(_metrics(3, network=1), 3725)
    line = console.export_text().strip()
    assert line.startswith("network 2/3  epoch   3/100  loss 0.2500  accuracy 50.00%")
    assert line.endswith("1,234 images/s  1:02:05 left")
    assert "test" not in line

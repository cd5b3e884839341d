"""A training as one request: JSON both ways, records of runs, the options made of its fields."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

import sparring
from sparring import TrainingRequest
from sparring.cli import app
from sparring.cli.options import assignments, from_fields
from sparring.data import Dataset
from sparring.errors import RunError, SettingsError
from sparring.experiments.request import Answer, PlanRequest, option
from sparring.runs.directory import Run
from sparring.runs.files import read_tensors, write_tensors
from sparring.runs.records import EpochMetrics, RunRecord
from sparring.training.callbacks import Silent

SMALL: dict[str, Any] = {"filters": 4, "epochs": 2, "batch_size": 16}


# The request


def test_a_request_goes_through_json(tmp_path: Path) -> None:
    request = TrainingRequest(
        defense="blur", data="digits", preset="fast", data_dir=tmp_path, limit_train=9, seed=3,
        out=tmp_path / "runs", network=2, settings={"epochs": 5, "flip": True}, wait=2.5,
    )  # fmt: skip
    written = json.loads(json.dumps(request.as_json()))
    assert set(written) == {each.name for each in fields(TrainingRequest)}
    assert TrainingRequest.from_json(written) == request
    with pytest.raises(SettingsError, match=r"TrainingRequest: sead: expected"):
        TrainingRequest.from_json({**written, "sead": 1})
    plan = PlanRequest(defenses=["blur"], data=["digits"], seeds=[0, 1], common=request)
    assert PlanRequest.from_json(json.loads(json.dumps(plan.as_json()))) == plan


def test_data_in_memory_stay_in_their_process(dataset: Dataset, tmp_path: Path) -> None:
    request = TrainingRequest(defense="baseline", data=dataset, out=tmp_path, settings=SMALL)
    with pytest.raises(SettingsError, match=r"got a Dataset, which is in this process's memory"):
        request.as_json()
    defense = sparring.train(request)
    assert defense.path == tmp_path / "patterns/baseline"
    assert sparring.train(request, restarts=1).results == defense.results
    with pytest.raises(SettingsError, match=r"trains all networks of baseline, .* got network 1"):
        sparring.train(request, network=0)
    with pytest.raises(SettingsError, match="unknown setting 'epoch'"):
        sparring.train(request, epoch=3)
    with pytest.raises(SettingsError, match="unknown data set 'bars'"):
        sparring.train(request, "bars")
    sparring.train_network(request)  # finished


def test_paths_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    request = TrainingRequest(defense="blur", data="own.npz", out=Path("a"), data_dir=Path("b"))
    absolute = request.from_anywhere()
    assert (absolute.out, absolute.data_dir) == (tmp_path / "a", tmp_path / "b")
    assert absolute.data == str(tmp_path / "own.npz")
    assert replace(request, data="digits").from_anywhere().data == "digits"


def test_settings_by_keyword_and_as_a_mapping_are_the_same(
    dataset: Dataset, tmp_path: Path
) -> None:
    by_keyword = sparring.train("baseline", dataset, out=tmp_path / "a", **SMALL)
    mapped = sparring.train("baseline", dataset, out=tmp_path / "b", settings=SMALL)
    assert by_keyword.weights_sha256 == mapped.weights_sha256
    with pytest.raises(SettingsError, match=r"unknown setting 'epoch'\. Did you mean 'epochs'"):
        sparring.train("baseline", dataset, out=tmp_path / "c", settings={"epoch": 1})


# Records


def test_run_json_has_each_networks_own_settings(dataset: Dataset, tmp_path: Path) -> None:
    settings = {**SMALL, "filters": 16, "epochs": 1}
    path = sparring.train("mergebinary", dataset, out=tmp_path, **settings).path
    assert path is not None
    record = Run(path).read()
    assert record.settings["filters"] == 16
    assert record.networks is not None
    assert [each["filters"] for each in record.networks] == 4 * [4]
    assert {each["batch_size"] for each in record.networks} == {16}


def as_format_1(run: Run) -> None:
    """Make a run what it would have been before."""
    values = json.loads(run.json_file.read_text())
    values = {**values, "format": 1}
    del values["networks"]
    run.json_file.write_text(json.dumps(values))
    for path in run.state_folder.glob("network-*/*.safetensors"):
        arrays, about, _ = read_tensors(path)
        about["of"] = about.pop("identity")
        write_tensors(path, arrays, about)


class StopAfterOne(Silent):
    """Interrupts after the first epoch."""

    def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None:
        raise KeyboardInterrupt


def test_runs_of_format_1_are_loaded_and_gone_on_with(dataset: Dataset, tmp_path: Path) -> None:
    whole = sparring.train("baseline", dataset, out=tmp_path / "whole", **SMALL)
    assert whole.path is not None
    with pytest.raises(KeyboardInterrupt):
        sparring.train("baseline", dataset, out=tmp_path, progress=StopAfterOne(), **SMALL)
    run = Run(tmp_path / "patterns/baseline")
    as_format_1(run)
    told: list[int] = []

    class Told(Silent):
        def epoch(self, metrics: EpochMetrics, seconds_left: float) -> None:
            told.append(metrics.epoch)

    resumed = sparring.train("baseline", dataset, out=tmp_path, progress=Told(), **SMALL)
    assert told == [2]  # the first epoch was not trained again
    assert resumed.weights_sha256 == whole.weights_sha256
    as_format_1(Run(whole.path))
    assert Run(whole.path).read().networks is None
    again = sparring.load(whole.path)
    np.testing.assert_array_equal(again.classify(dataset.x_test), resumed.classify(dataset.x_test))


def test_a_state_of_format_1_of_another_training_is_refused(
    dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        sparring.train("baseline", dataset, out=tmp_path, progress=StopAfterOne(), **SMALL)
    run = Run(tmp_path / "patterns/baseline")
    as_format_1(run)
    with pytest.raises(RunError, match=r"of another training: expected \{'seed': 1\}"):
        run.checkpoints(0).load({"seed": 1})


VALUES: dict[str, Any] = {
    "format": 2, "defense": "blur", "dataset": {"name": "digits"}, "settings": {"epochs": 1},
    "seed": 0, "backend": "torch", "status": "finished",
}  # fmt: skip


def test_a_record_is_strict_where_it_decides_and_tolerant_where_people_read() -> None:
    odd = {"results": {"test_accuracy": "high", "seconds": 10**400}, "diverged": 3, "versions": [1]}
    record = RunRecord.from_json({**VALUES, **odd, "of_later": {"a": None}}, Path("run.json"))
    assert record.results is not None
    assert (record.results.test_accuracy, record.results.seconds, record.diverged) == (None,) * 3
    assert record.as_json()["of_later"] == {"a": None}  # kept when it is written
    for key, value in (("seed", True), ("seed", 1.0), ("settings", []), ("dataset", {})):
        name = key if value != {} else "name"
        with pytest.raises(RunError, match=rf"^run\.json: damaged: expected {name} to be"):
            RunRecord.from_json({**VALUES, key: value}, Path("run.json"))
    for name in VALUES.keys() - {"format"}:
        with pytest.raises(RunError, match=rf"expected {name} to be .*, found None"):
            RunRecord.from_json({k: v for k, v in VALUES.items() if k != name}, Path("run.json"))


def test_metrics_that_make_no_sense_are_unknown() -> None:
    line = EpochMetrics.from_json({"network": 0, "epoch": 1, "loss": 1e200, "test_accuracy": "x"})
    assert np.isnan(line.loss)
    assert line.test_accuracy is None
    assert EpochMetrics.from_json({**line.as_json(), "loss": 2}).loss == 2
    for wrong in ({"epoch": 1}, {"network": 0, "epoch": 10**30}, {"network": True, "epoch": 1}):
        with pytest.raises(ValueError, match="expected a number"):
            EpochMetrics.from_json(wrong)


# Workers' answers


def test_an_answer_is_one_line_of_json() -> None:
    answer = Answer({"a": 1})
    assert Answer.from_line(answer.as_line(), 0) == answer
    failed = Answer(message="no\nroom")
    assert json.loads(failed.as_line()) == {"error": "no\nroom"}
    assert Answer.from_line(failed.as_line(), 1) == replace(failed, code=1)
    for torn in ("", "{", "[]", '{"error": 3}'):
        assert Answer.from_line(torn, -9) == Answer(message="exit code -9", code=-9)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"train": {"defense": "basline"}}, "unknown defense 'basline'"),
        ({"train": {"defense": "blur", "data": "x.npz"}}, "x.npz: no such file"),
        ({"nothing": 1}, "KeyError: 'train'"),
    ],
)
def test_a_job_answers_errors_in_json(
    tmp_path: Path, request_: dict[str, Any], message: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sparring", "job", json.dumps(request_)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(sparring.__file__).parent.parent), "KERAS_BACKEND": "torch"},
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        output = process.stdout.read()
        process.wait()  # while its standard input is open: it ends with that
    assert process.returncode == 1
    answer = Answer.from_line(output, process.returncode)
    assert message in answer.message


# Options made of fields


@dataclass(frozen=True)
class Wanted:
    """What a test asks for."""

    name: str
    speed: float = option(1.5, "How fast.", "X")
    loud: bool = option(False, "Whether it is heard.")
    safe: bool = option(True, "Whether it is safe.")
    limit_all: int | None = option(None, "At most.", "N")
    hidden: int = 7


@dataclass(frozen=True)
class Besides:
    """Options of the command line alone."""

    tags: Annotated[list[str] | None, typer.Option("--tag", "-t", help="Any.")] = None
    quiet: bool = option(False, "Say nothing.", "", "--quiet", "-q")


def test_options_are_made_of_fields() -> None:
    program, calls = typer.Typer(rich_markup_mode=None), list[Any]()

    @program.command()
    @from_fields
    def verb(
        *, name: Annotated[str, typer.Argument()], wanted: partial[Wanted], besides: Besides
    ) -> None:
        """Do it."""
        calls.append((wanted(name=name), besides))

    assert CliRunner().invoke(program, ["a"]).exit_code == 0
    words = ["b", "--speed", "2", "--loud", "--no-safe", "--limit-all", "3", "-t", "x", "-q"]
    assert CliRunner().invoke(program, words).exit_code == 0
    assert calls == [
        (Wanted("a"), Besides()),
        (Wanted("b", 2.0, True, False, 3), Besides(["x"], True)),
    ]
    page = CliRunner().invoke(program, ["--help"]).output
    for text in ("Do it.", "--speed X", "How fast.", "[default: 1.5]", "--no-safe"):
        assert text in page
    assert "--no-loud" not in page
    assert "hidden" not in page


def test_assignments() -> None:
    given = ["a=1", "b=1e-4", "c=true", "d-e=x=y", "f=", "g=null", "h=[1, 2]"]
    assert assignments(given, "--set") == {
        "a": 1, "b": 1e-4, "c": True, "d_e": "x=y", "f": None, "g": None, "h": [1, 2],
    }  # fmt: skip
    with pytest.raises(typer.BadParameter, match="--set: expected NAME=VALUE, got 'a'"):
        assignments(["a"], "--set")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


TINY = ["--filters", "4", "--epochs", "1", "--limit-train", "64", "--quiet"]


def test_every_setting_can_be_set(call: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("settings: {momentum: 0.7, base: 1.03}\nseed: 2\n")
    answer = call(
        *("train", "temperature", *TINY, "--config", "c.yaml"),
        *("-s", "base=1.02", "--set", "weight-decay=1e-3", "-s", "flip=true"),
    )
    assert answer.exit_code == 0, answer.output
    record = Run("runs/digits/temperature").read()
    names = ("base", "weight_decay", "flip", "momentum", "epochs")
    assert [record.settings[name] for name in names] == [1.02, 1e-3, True, 0.7, 1]
    assert record.seed == 2
    shutil.rmtree(tmp_path / "runs")
    answer = call("train", "baseline", *TINY, "-s", "bas=3")
    assert answer.exit_code == 1
    assert "unknown setting 'bas'." in answer.output
    assert "Valid: filters, head_size, epochs" in answer.output
    assert not (tmp_path / "runs").exists()


def test_explain_says_where_settings_come_from_and_trains_nothing(
    call: Callable[..., Result], tmp_path: Path
) -> None:
    answer = call("train", "majority", "-s", "momentum=0.8", "--explain")
    assert answer.exit_code == 0, answer.output
    lines = [re.split(r" {2,}", line) for line in answer.output.splitlines()]
    by_name = {name: rest for name, *rest in lines}
    help_line = "heavy-ball with sgd, Nesterov's with muon (0 or more, below 1)"
    assert by_name["momentum"] == ["0.8", "given", help_line]
    assert by_name["batch_size"][:2] == ["16", "the shared table for digits"]
    shared = int(by_name["filters"][0])
    own = by_name["filters of each network"]
    assert own[:2] == [f"{2 * (shared // 3)}", f"made of {shared}"]
    assert list(tmp_path.iterdir()) == []
    assert call("train", "all", "--explain").exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["train", "--help"],
        ["list"],
        ["exercise", "blur"],
        ["train", "blrr"],
        ["train", "blur", "--data", "mnist"],
        ["train", "blur", "--preset", "slow"],
        ["attack", "blrr"],
    ],
)
def test_answers_that_need_no_framework(tmp_path: Path, words: list[str]) -> None:
    code = (
        "import sys\nfrom sparring.cli import app\n"
        "try:\n    app(sys.argv[1:], standalone_mode=False)\n"
        "finally:\n    print(sorted({'keras', 'torch', 'tensorflow', 'jax'} & set(sys.modules)))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path,
        env={"PYTHONPATH": str(Path(sparring.__file__).parent.parent), "KERAS_BACKEND": "torch"},
    )  # fmt: skip
    assert answer.stdout.splitlines()[-1] == "[]", answer.stdout + answer.stderr

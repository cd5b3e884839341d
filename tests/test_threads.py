"""How many threads a training computes with: the choice, what it leaves alone, what is recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sparring
from sparring import backend, defenses
from sparring.data import Dataset
from sparring.defenses.defense import Defense
from sparring.errors import SettingsError
from sparring.evaluation import evaluate as evaluating
from sparring.experiments.request import TrainingRequest
from sparring.training import loop as train_loop
from sparring.training.callbacks import EpochMetrics, Silent
from sparring.training.loop import TrainLoop
from sparring.training.recipe import Recipe
from sparring.training.threads import Threads, candidates


@pytest.fixture(autouse=True)
def process_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Machine:
    """A clock, and steps that take so many seconds with so many threads."""

    def __init__(self, **seconds: float) -> None:
        self.now, self.steps = 0.0, 0
        self.seconds = {int(count.strip("_")): each for count, each in seconds.items()}

    def clock(self) -> float:
        return self.now

    def step(self) -> None:
        self.steps += 1
        self.now += self.seconds[torch.get_num_threads()]


def choose(machine: Machine) -> Threads:
    threads = Threads(sorted(machine.seconds), clock=machine.clock)
    threads.choose(machine.step)
    return threads


@pytest.mark.parametrize(
    ("seconds", "count"),
    [
        ({"_1": 1.9, "_2": 1.0}, 2),  # a quiet machine
        ({"_1": 0.9, "_2": 1.0}, 2),  # not clearly faster: chance does not decide
        ({"_1": 0.8, "_2": 1.0}, 1),
        ({"_1": 1.0, "_2": 3.0}, 1),
        ({"_1": 1.0, "_2": 0.6, "_4": 0.9}, 2),
        ({"_1": 1.0, "_2": 0.6, "_4": 0.4}, 4),
    ],
)
def test_the_fastest_number_is_chosen(seconds: dict[str, float], count: int) -> None:
    machine = Machine(**seconds)
    assert choose(machine).count == count
    assert torch.get_num_threads() == count
    assert machine.steps == 5 * len(seconds)


def test_a_hopeless_number_is_tried_once() -> None:
    machine = Machine(_1=1.0, _2=20.0)
    assert choose(machine).count == 1
    assert machine.steps == 1 + 1 + 4


def test_slow_steps_are_looked_into() -> None:
    machine = Machine(_1=1.9, _2=1.0)
    threads = choose(machine)  # takes 5 * 2.9 seconds
    for _ in range(1000):
        with threads.timed():
            machine.step()
        assert not threads.undecided  # all is well with the most threads
    machine.seconds[2] = 10.0
    undecided = []
    for _ in range(4):
        with threads.timed():
            machine.step()
        undecided.append(threads.undecided)
    assert undecided == [False, False, True, True]  # the median of five
    threads.choose(machine.step)
    assert threads.count == 1


def test_choosing_takes_little_of_the_time() -> None:
    machine = Machine(_1=1.0, _2=2.0)
    threads = choose(machine)
    begun, steps = machine.now, 0
    assert threads.count == 1
    while not threads.undecided:  # looks now and then whether the machine has become quiet
        with threads.timed():
            machine.step()
        steps += 1
    assert machine.now - begun == pytest.approx(100 * 15, abs=1.5)  # choosing took 15 s
    machine.seconds[2] = 0.5
    threads.choose(machine.step)
    assert threads.count == 2
    # Slow again at once: not before twenty times what choosing took, 5 * 1.5 s.
    begun, machine.seconds[2] = machine.now, 4.0
    while not threads.undecided:
        with threads.timed():
            machine.step()
    assert machine.now - begun == pytest.approx(20 * 7.5, abs=4.5)


def test_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "threads", lambda: 6)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert candidates(10**9) == [1, 2, 4, 6]
    assert candidates(10**9, 3) == [3]
    assert candidates(1000) == [1]  # too small for two
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert candidates(10**9) == [6]  # the user has chosen
    monkeypatch.setattr(backend, "threads", lambda: None)
    assert candidates(10**9, 3) == []


def test_the_process_keeps_its_threads() -> None:
    torch.set_num_threads(2)
    threads = Threads([1])
    found = []

    def fail() -> None:
        with threads.in_use():
            found.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert found == [1]
    assert torch.get_num_threads() == 2
    with Threads([]).in_use():
        assert torch.get_num_threads() == 2


def run(loop: TrainLoop) -> list[EpochMetrics]:
    lines: list[EpochMetrics] = []
    loop.run(lines.append, Silent(), eval_every=0)
    return lines


def a_loop(name: str, dataset: Dataset, threads: int | None = None) -> TrainLoop:
    defense = defenses.get(name)
    settings = defense.settings_for(
        dataset, "course", {"epochs": 2, "filters": 2, "batch_size": 16}
    ).settings
    return TrainLoop(defense.recipes(dataset.info, settings, 0)[-1], dataset, name, threads)


@pytest.mark.parametrize(
    "name", [name for name in defenses.NAMES if defenses.describe(name).borrows is None]
)
def test_timed_steps_leave_no_trace(
    name: str, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = a_loop(name, dataset, threads=1)
    run(plain)
    monkeypatch.setattr(train_loop, "candidates", lambda size, threads: [1, 1])
    timed = a_loop(name, dataset)
    chosen: list[Any] = []

    def seconds(step: Callable[[], Any], count: int) -> float:
        chosen.append(step())
        return 1.0

    monkeypatch.setattr(timed._threads, "_seconds", seconds)
    run(timed)
    assert len(chosen) == 6
    expected, found = plain.state(), timed.state()
    for array, value in expected.items():
        np.testing.assert_array_equal(found[array], value, err_msg=array)


def test_a_resumed_training_takes_the_recorded_number(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = a_loop("baseline", dataset, threads=2)
    assert [line.threads for line in run(first)] == [2, 2]
    state = first.state()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # another environment
    resumed = a_loop("baseline", dataset)
    resumed.restore(state, 1)
    assert run(resumed)[0].threads == 2
    asked = a_loop("baseline", dataset, threads=1)
    asked.restore(state, 1)
    assert run(asked)[0].threads == 1
    old = a_loop("baseline", dataset)
    old.restore({name: array for name, array in state.items() if name != "threads"}, 1)
    assert run(old)[0].threads == torch.get_num_threads()


def test_a_run_records_its_threads(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noting(method: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            found.append(torch.get_num_threads())
            return method(*arguments)

        return noted

    found: list[int] = []
    monkeypatch.setattr(Recipe, "finish", noting(Recipe.finish))
    monkeypatch.setattr(Defense, "test", noting(Defense.test))
    before = torch.get_num_threads()
    for count in (1, 2):
        defense = sparring.train(
            "baseline", dataset, epochs=1, filters=2, threads=count, out=tmp_path / str(count)
        )
        assert defense.results["threads"] == [count]
    assert found == [1, 1, 2, 2]  # the whole run, to the test of the defense
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
def test_other_numbers_are_refused(value: Any) -> None:
    with pytest.raises(
        SettingsError, match=f"threads: expected an integer of 1 or more, got {value!r}"
    ):
        TrainingRequest(defense="baseline", threads=value)


def test_a_change_is_told(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_loop, "candidates", lambda size, threads: [1, 2])
    loop = a_loop("baseline", dataset)
    monkeypatch.setattr(
        loop._threads, "_seconds", lambda step, count: torch.set_num_threads(count) or count**3
    )
    told: list[str] = []

    class Telling(Silent):
        def message(self, text: str) -> None:
            told.append(text)

    loop.run(lambda metrics: None, Telling())
    assert any(text.startswith("1 instead of 2 threads from here on") for text in told)


def test_an_evaluation_records_its_threads_and_goes_on_with_them(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = sparring.train("baseline", dataset, epochs=20, filters=2, out=tmp_path / "runs")

    def counts(defense: Any, x: Any, y: Any, threat: Any) -> Any:
        found.append(torch.get_num_threads())
        return x

    found: list[int] = []
    before = torch.get_num_threads()
    verdict = sparring.evaluate(trained, counts, sparring.Linf(0.1), dataset, n=8, threads=3)
    assert verdict.threads == 3
    assert set(found) == {3}
    assert torch.get_num_threads() == before

    monkeypatch.setattr(evaluating, "candidates", lambda size, threads: [1, 2])
    monkeypatch.setattr(Threads, "_seconds", lambda self, step, count: 1.0 / count)
    out = tmp_path / "verdict"
    verdict = sparring.evaluate(trained, "noise", sparring.Linf(0.1), dataset, n=8, out=out)
    assert verdict.threads == 2
    monkeypatch.setattr(Threads, "_seconds", lambda self, step, count: 1.0 * count)
    again = sparring.evaluate(trained, "noise", sparring.Linf(0.1), dataset, n=8, out=out)
    assert again.threads == 2  # as the verdict that was gone on with


def test_an_accelerator_leaves_the_threads_alone(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_loop, "candidates", lambda size, threads: [1, 2])
    monkeypatch.setattr(backend, "on_cpu", lambda tensor: False)
    loop = a_loop("baseline", dataset)
    monkeypatch.setattr(loop._threads, "choose", lambda step: pytest.fail("steps were timed"))
    run(loop)

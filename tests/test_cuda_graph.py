"""Steps recorded as a CUDA graph, as far as they can be looked at without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparring import backend
from sparring.backend import torch as torch_backend
from sparring.data import Dataset
from sparring.defenses import DEFENSES, get
from sparring.errors import Diverged
from sparring.training import loop as train_loop
from sparring.training.callbacks import EpochMetrics, Silent
from sparring.training.loop import TrainLoop
from sparring.training.settings import Settings
from tests.test_train_loop import FAST, Breaking


class Recording(TorchDispatchMode):
    """A CUDA graph on a CPU: operations, replayed on the memory they were recorded on.

    As on a GPU, Python's code runs once; after recording nothing has changed; and what is drawn
    follows the registered generators alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, ...]] = []
        self._generators: list[torch.Generator] = []
        self._before: dict[int, tuple[Any, Any]] = {}
        self.replays = 0

    def register_generator_state(self, generator: torch.Generator) -> None:
        self._generators.append(generator)

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        options = options or {}
        if (generator := options.get("generator")) is not None:
            assert generator._cdata in [each._cdata for each in self._generators]
        if function._schema.is_mutable:
            for each in _tensors((arguments, options)):
                self._before.setdefault(each.data_ptr(), (each, each.clone()))
        result = function(*arguments, **options)
        self._calls.append((function, arguments, options, result))
        return result

    @contextmanager
    def record(self) -> Iterator[None]:
        states = [generator.get_state() for generator in self._generators]
        with self:
            yield
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)
        with torch.no_grad():
            for tensor, value in self._before.values():
                tensor.copy_(value)

    def replay(self) -> None:
        self.replays += 1
        with torch.no_grad():
            for function, arguments, options, recorded in self._calls:
                result = function(*arguments, **options)
                for old, new in zip(_tensors(recorded), _tensors(result), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def _tensors(tree: Any) -> list[Any]:
    return [each for each in tree_leaves(tree) if isinstance(each, torch.Tensor)]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    """The recordings that are made while a CPU is taken for a GPU."""
    made: list[Recording] = []

    def graph() -> Recording:
        made.append(Recording())
        return made[-1]

    def stream(device: Any) -> Any:
        return SimpleNamespace(device=device, wait_stream=lambda other: None)

    monkeypatch.setattr(backend, "on_cpu", lambda tensor: False)
    monkeypatch.setattr(torch_backend, "_on_cuda", lambda tensor: True)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", graph)
    monkeypatch.setattr(torch.cuda, "Stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream: graph.record())
    return made


def trained(
    name: str, dataset: Dataset, **changes: Any
) -> tuple[dict[str, np.ndarray], list[EpochMetrics]]:
    """State and metrics after two epochs of the defense's last network."""
    settings = (
        get(name)
        .settings_for(dataset)
        .settings.replace(filters=4, batch_size=6, epochs=2, **changes)
    )
    lines: list[EpochMetrics] = []
    loop = TrainLoop(get(name).recipes(dataset.info, settings, 0)[-1], dataset)
    loop.run(lines.append, Silent(), eval_every=0)
    return loop.state(), lines


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, {}) for name in DEFENSES if not get(name).borrows),
        *((name, {**FAST, "precision": "bfloat16"}) for name in ("baseline", "knn", "trades")),
    ],
)
def test_replayed_steps_are_the_same_bits(
    name: str,
    changes: dict[str, Any],
    make_dataset: Callable[..., Dataset],
    request: pytest.FixtureRequest,
) -> None:
    dataset = make_dataset(channels=3)
    expected, expected_lines = trained(name, dataset, **changes)
    recordings = request.getfixturevalue("graphs")
    found, lines = trained(name, dataset, **changes)
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array, err_msg=key)
    for line, other in zip(lines, expected_lines, strict=True):
        assert (line.loss, line.accuracy) == (other.loss, other.accuracy)
    # 40 images are 6 batches of 6 an epoch and one of 4; 3 steps come before the recording.
    assert [graph.replays for graph in recordings] == [6 * len(lines) - 3]


def test_chunks_of_all_lengths_replay_one_recording(
    dataset: Dataset, graphs: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_loop, "_STEPS_AT_ONCE", 4)
    trained("baseline", dataset)
    assert [graph.replays for graph in graphs] == [2 * 6 - 3]


def test_divergence_in_a_replayed_step_is_told(dataset: Dataset, graphs: list[Recording]) -> None:
    settings = Settings(filters=2, epochs=3, batch_size=1, learning_rate=0.1, flip=False)
    recipe = Breaking(dataset.info, settings, 0)
    recipe.at = 5  # after half of 120 steps
    saved: list[EpochMetrics] = []
    with pytest.raises(Diverged) as caught:
        TrainLoop(recipe, dataset).run(saved.append, Silent())
    assert (caught.value.epoch, caught.value.step) == (2, 22)
    assert [line.epoch for line in saved] == [1]


def test_other_data_and_other_batches_are_recorded_anew(graphs: list[Recording]) -> None:
    total = torch.zeros(())

    def step(images: Any, labels: Any, batch: Any) -> tuple[Any, Any]:
        total.add_(images[batch].sum())
        return total * 1, labels[batch].sum()

    many = backend.compile_many(step, [])
    first, second = torch.arange(10.0), torch.ones(10)
    for images, size in ((first, 2), (first, 2), (second, 2), (second, 1)):
        total.zero_()
        order = np.arange(5 * size, dtype=np.int32) % 10
        sums, counts = many(images, second, order.reshape(5, size))
        expected = np.cumsum(images.numpy()[order].reshape(5, size).sum(axis=1))
        np.testing.assert_array_equal(sums, expected)
        np.testing.assert_array_equal(counts, np.full(5, size))
    assert [graph.replays for graph in graphs] == [2 + 5, 2, 2]


def fake_steps(*arguments: str) -> list[tuple[str, int, list[str]]]:
    """What tests/fake_device_worker.py finds: defense, operations, those that wait."""
    worker = subprocess.run(
        [sys.executable, "-m", "tests.fake_device_worker", *arguments],
        cwd=Path(__file__).parent.parent,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return [tuple(json.loads(line)) for line in worker.stdout.splitlines()]


def test_no_step_waits_for_the_host() -> None:
    found = fake_steps()
    assert {name for name, _, _ in found} == {name for name in DEFENSES if not get(name).borrows}
    for name, operations, waiting in found:
        assert not waiting, name
        assert operations > 400, name


def test_the_watch_on_waiting_sees_what_there_is() -> None:
    # As keras.ops makes tensors of numbers, every step copies some from the host.
    for _, _, waiting in fake_steps("numbers"):
        assert "aten._to_copy.default" in waiting

"""An attack file of many cheats, one an image; run by tests/test_apart.py, apart from its judge.

Each tries to get a success for what is no adversarial image: the image itself, or one that is no
valid one. What its image has to come to stands beside it.
"""
# ruff: noqa: PTH118, PTH120
# mypy: ignore-errors

from __future__ import annotations

import atexit
import builtins
import ctypes
import gc
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch

import sparring
from sparring.defenses.defense import Defense
from sparring.evaluation import evaluate, judge, verdict
from sparring.evaluation.judge import Judge
from sparring.runs import files, records
from sparring.threat import Linf, ThreatModel

UNCHANGED, FAR = "label unchanged", "too far: Linf distance above eps"
OUTSIDE, INFINITE = "outside [0, 1]", "not finite: NaN or infinite values"
NONE = "the attack handed over no image: "

CHEATS: list[tuple[Any, str]] = []
"""The cheats, and the reasons that their images have to have; those that end in ": " go on."""

TARGETS = json.loads(os.environ.get("SPARRING_TEST_TARGETS", "{}"))
"""Files of the judge, for those that know where they are; and its process, as "judge"."""

FILES = [target for name, target in TARGETS.items() if name != "judge"]


def cheat(reason: str = UNCHANGED) -> Any:
    def add(function: Any) -> Any:
        CHEATS.append((function, reason))
        return function

    return add


def attempted(function: Any, *arguments: Any) -> None:
    """Try what nobody may do; print it where it works."""
    try:
        function(*arguments)
    except OSError:
        return
    say("IT WORKED", function, arguments)


def say(*words: Any) -> None:
    """Print, past what cheats make of print."""
    os.write(2, f"{' '.join(map(str, words))}\n".encode())


def whatever(*_: Any, **__: Any) -> Any:
    return True


def array(x: Any) -> np.ndarray:
    return x.detach().cpu().numpy().copy()


# The defense


def variables(defense: Any) -> list[Any]:
    return [variable for net in defense.nets for variable in net.variables]


@cheat()
def turns_weights(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    for variable in variables(defense):
        variable.assign(-variable.value)


@cheat()
def shifts_biases(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    for variable in variables(defense):
        if len(variable.shape) == 1:
            variable.assign(variable.value + 100)


@cheat()
def makes_weights_nan(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    for variable in variables(defense):
        variable.assign(variable.value * float("nan"))


@cheat()
def steps_over_weights(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    weights = [variable.value for variable in defense.nets[0].trainable_variables]
    (-torch.nn.functional.cross_entropy(defense.logits(x), y.long())).backward()
    torch.optim.SGD(weights, lr=100.0).step()


@cheat()
def lowers_the_threshold(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    defense.threshold = type(defense).threshold = 2.0


@cheat()
def answers_otherwise(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    defense.classify = lambda x, seed=0: np.roll(np.eye(10, dtype=np.float32)[[0] * len(x)], 1)
    defense.logits = defense.probabilities = lambda x, chance=None: torch.full((len(x), 10), 1.0)


@cheat()
def changes_classes(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    Defense.classify = lambda self, x, seed=0: np.zeros((len(x), 10), np.float32)
    Defense.detect = lambda self, x, seed=0: np.zeros(len(x))
    type(defense.nets[0]).output = lambda net, x: -x


@cheat()
def changes_the_class_of_it(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    defense.nets[0].__class__ = type("Own", (type(defense.nets[0]),), {"output": lambda n, x: -x})


@cheat()
def swaps_nets(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    defense.nets = []


@cheat()
def leaves_a_stand_in(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    for net in defense.nets:
        object.__setattr__(net, "transform", lambda x: 1 - x)


@cheat()
def fills_the_cache(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    defense._compiled = {("probabilities",): lambda x, seed: torch.zeros((len(x), 10))}


@cheat()
def goes_through_wrappers(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    for thing in gc.get_objects():
        if isinstance(thing, Defense):
            thing.nets = []


# The threat model


@cheat(FAR)
def widens_eps(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    object.__setattr__(threat, "eps", 1.0)
    return (x + 0.5) % 1


@cheat(FAR)
def widens_every_eps(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    for thing in gc.get_objects():
        if isinstance(thing, ThreatModel):
            object.__setattr__(thing, "eps", 1.0)
    return 1 - x


@cheat(FAR)
def checks_nothing(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    ThreatModel.check = Linf.check = whatever
    return 1 - x


@cheat(FAR)
def measures_nothing(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    Linf.distance = lambda self, x_adv, x: np.zeros(len(x))
    return 1 - x


@cheat(FAR)
def rounds_generously(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    Linf.rounding = lambda self, size: 1.0
    return 1 - x


@cheat(FAR)
def is_a_little_too_far(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    return torch.where(x < 0.5, x + 0.15001, x - 0.15001)


@cheat(OUTSIDE)
def is_a_little_below_zero(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    return torch.where(x == 0, -1e-7, x)


@cheat(INFINITE)
def is_nan(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    return x * float("nan")


@cheat(INFINITE)
def is_nan_in_one_value(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    images = array(x)
    images[0, 0, 0, 0] = np.inf
    return images


# What is returned


class Shifting(np.ndarray):
    """An array that looks otherwise each time it is asked."""

    def astype(self, *arguments: Any, **options: Any) -> Any:
        return np.zeros(self.shape, np.float32)

    def __array_ufunc__(self, *arguments: Any, **options: Any) -> Any:
        return np.zeros(self.shape, np.float32)

    def __array_function__(self, *arguments: Any, **options: Any) -> Any:
        return np.ones(self.shape, bool)

    def __repr__(self) -> str:
        raise KeyboardInterrupt


@cheat()
def returns_an_array_of_a_class(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    return array(x).view(Shifting)


class ShiftingTensor(torch.Tensor):
    """A tensor that does."""

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, arguments: Any = (), given: Any = None
    ) -> Any:
        return torch.Tensor._make_subclass(cls, torch.zeros(1))

    @property
    def shape(self) -> Any:
        return torch.Size((1, 8, 8, 1))


@cheat(NONE)
def returns_a_tensor_of_a_class(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    return torch.Tensor._make_subclass(ShiftingTensor, torch.zeros(1))


@cheat(NONE + "returned list: expected a tensor of torch or a numpy array")
def returns_a_list(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    return [array(x)]


@cheat(NONE + "returned str: ")
def returns_a_text(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    return "broken"


@cheat(NONE + "shape [1, 8, 8]: ")
def returns_too_few_axes(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    return array(x)[..., 0]


@cheat(NONE + "shape [100000000, 8, 8, 1]: ")
def returns_a_huge_array(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    return np.broadcast_to(np.float32(0), (10**8, 8, 8, 1))


@cheat(NONE + "dtype int64: ")
def returns_integers(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    return array(x).astype(int)


@cheat(NONE + "dtype object: ")
def returns_objects(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    return np.full((1, 8, 8, 1), print, object)


@cheat(INFINITE)
def returns_a_masked_array(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    return np.ma.masked_array(array(x), mask=np.ones((1, 8, 8, 1), bool))


@cheat(NONE)
def returns_what_lies(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    class Broken:
        def __repr__(self) -> str:
            raise SystemExit(0)

        def __getattr__(self, name: str) -> Any:
            raise KeyboardInterrupt

    return Broken()


# The process that it runs in


@cheat()
def walks_the_garbage_collector(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    for thing in gc.get_objects():
        for rows in thing.values() if type(thing) is dict else ():
            if isinstance(rows, np.ndarray) and rows.dtype == verdict.ROW:
                rows["success"], rows["answer"], rows["reason"] = 1, 9, "broken"


@cheat()
def walks_frames(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    frame: Any = sys._getframe()
    while frame is not None:
        found = frame.f_locals.get("verdict")
        if isinstance(found, verdict.Verdict):
            found.rows["success"][:] = 1
        frame = frame.f_back


@cheat()
def changes_the_judge(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    Judge.ask = lambda self, x: (np.full((1, len(x)), 9), np.zeros((1, len(x)), bool))
    Judge.clean_rows = whatever
    judge.BROKEN = evaluate.BROKEN = "label unchanged"


@cheat()
def changes_numpy(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    np.argmax = np.isfinite = np.round = np.array_equal = whatever


@cheat()
def changes_what_is_written(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    files.write_atomically = files.write_json = whatever
    records.VerdictRecord.write = records.VerdictRecord.read = whatever
    verdict.Verdict.save = verdict.Verdict.__str__ = whatever


@cheat()
def changes_json(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    dumps = json.dumps
    json.dumps = lambda *a, **b: dumps(*a, **b).replace('"asked"', '"success": 1, "asked"')


@cheat()
def prints_a_verdict(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    print("\x1b[2J\rbaseline on digits\nattack success   100.0 %\x1b[8m", flush=True)
    os.write(2, b"attack success   100.0 %\n\xff")
    builtins.print = whatever


@cheat()
def guesses_seeds(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    secrets.randbits = lambda bits: 0


@cheat()
def stops_the_clock(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    time.monotonic = time.perf_counter = lambda: 0.0


@cheat()
def ignores_signals(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGXCPU, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


@cheat()
def traces(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    sys.setprofile(whatever)


@cheat()
def runs_a_thread(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    def on() -> None:
        while True:
            for variable in variables(defense):
                variable.assign(-variable.value)
            time.sleep(0.01)

    threading.Thread(target=on, daemon=True).start()


@cheat()
def runs_at_the_end(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    atexit.register(lambda: os.system("echo '{}' > verdict.json 2>/dev/null"))
    atexit.register(lambda: [attempted(Path(path).write_text, "{}") for path in FILES])


@cheat()
def leaves_processes(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    for session in (False, True):
        left = subprocess.Popen(["sleep", "600"], start_new_session=session)
        say("LEFT", left.pid)
    there, here = os.pipe()
    if not os.fork():  # a daemon
        os.setsid()
        if not os.fork():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            say("LEFT", os.getpid())
            os.write(here, b"x")
            time.sleep(600)
        os._exit(0)
    os.read(there, 1)


# The judge's process and files


@cheat()
def writes_to_the_judge_s_files(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    for target in FILES:
        attempted(os.open, target, os.O_WRONLY | os.O_CREAT)
        attempted(os.unlink, target)
        attempted(os.rename, target, target + ".old")
        attempted(os.truncate, target, 0)
        attempted(os.mkdir, os.path.join(os.path.dirname(target), "cheat"))
        attempted(os.symlink, "/", target + ".link")


@cheat()
def writes_to_the_package(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    attempted(os.open, sparring.__file__, os.O_WRONLY)
    attempted(os.open, judge.__file__, os.O_WRONLY)
    attempted(os.open, np.__file__, os.O_WRONLY)
    attempted(os.mkdir, os.path.join(os.path.dirname(sparring.__file__), "cheat"))


@cheat()
def looks_into_others(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    for pid in (os.getppid(), int(TARGETS["judge"])):
        attempted(os.open, f"/proc/{pid}/mem", os.O_RDWR)


@cheat()
def sends_signals(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    for pid in (os.getppid(), int(TARGETS["judge"])):
        attempted(os.kill, pid, signal.SIGCONT)


@cheat()
def asks_for_other_rights(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    library = ctypes.CDLL(None)
    library.prctl(1, 0, 0, 0, 0)  # no signal at its parent's end
    library.prctl(36, 1, 0, 0, 0)  # a reaper itself
    attempted(os.open, os.path.join(tempfile.gettempdir(), "..", "cheat"), os.O_WRONLY | os.O_CREAT)


@cheat()
def opens_sockets(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))


@cheat()
def changes_its_copy_of_the_run(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    (defense.path / "weights.safetensors").write_bytes(b"")
    (defense.path / "run.json").write_text("{}")


@cheat()
def changes_its_environment(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    os.environ["PYTHONPATH"] = os.environ["KERAS_BACKEND"] = "cheat"
    os.chdir("/")
    os.umask(0o777)
    sys.path.insert(0, "/cheat")
    sys.modules["sparring.evaluation.judge"] = sys.modules["json"]


@cheat()
def changes_how_images_travel(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    save = safetensors.numpy.save
    from sparring.evaluation import attacker

    sent = attacker._send
    safetensors.numpy.save = lambda arrays, metadata=None: save(
        {**arrays, "success": np.ones(3, np.float32)}, metadata
    )
    attacker._send = lambda kind, contents: sent(kind, contents)


TURN = iter(range(10**6))


def attack(defense: Any, x: Any, y: Any, threat: Any) -> Any:
    """Try the next cheat."""
    function, _ = CHEATS[next(TURN)]
    try:
        given = function(defense, x, y, threat)
    except Exception as error:
        say("FAILED", function.__name__, repr(error))
        given = None
    return x if given is None else given


if TARGETS:  # at import, before a judge would be loaded, and not where the tests list them
    sys.modules["sparring.evaluation.judging"] = sys.modules["json"]
    safetensors.numpy.load = json.load = whatever
